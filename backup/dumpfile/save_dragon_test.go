package dumpfile_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/storage"
)

// A dragon answers as a Dragonfly does where a save is concerned, and "saves" files that a real one wrote: a set of two shards, or an RDB file. There
// is no live Dragonfly on the machines that run these tests.
type dragon struct {
	t     *testing.T
	addr  string
	dir   string        // that it saves into
	cloud storage.Store // what it saves into when it is told a place

	mu       sync.Mutex
	commands []string
	keys     int64 // that it says to have
	expires  int64
	executed int64
	saving   bool
	lastFile string
	lastErr  string
	status   string
	role     string
	runID    string
	password string
	old      bool // BGSAVE takes no name, INFO tells nothing of saves

	hold    chan struct{}            // if not nil a save ends when it is closed
	begun   chan struct{}            // gets one when a save has begun
	fail    string                   // the error that saves end with
	answers func(args string) string // if it returns something that is the answer, verbatim; "cut" closes the connection
	change  func(files map[string][]byte)
	group   sync.WaitGroup
}

// fixtureSize is how many keys the recorded files have.
func fixtureSize(t *testing.T) int64 {
	return parse(t, read(t, testdata+"dragonfly-1.40/mini.rdb")).Keys
}

func startDragon(t *testing.T) *dragon {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &dragon{t: t, addr: l.Addr().String(), dir: t.TempDir(), cloud: memory(), keys: fixtureSize(t), status: "ok", role: "master", runID: "1",
		begun: make(chan struct{}, 100), password: canary}
	var conns sync.Map
	d.group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Store(conn, nil)
			d.group.Go(func() {
				defer conn.Close()
				in := resp.NewReader(conn, nil)
				for {
					args, err := in.ReadCommand()
					if err != nil {
						return
					}
					text := d.answer(args)
					if text == "cut" {
						return
					}
					io.WriteString(conn, text)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		d.mu.Lock()
		if d.hold != nil {
			select {
			case <-d.hold:
			default:
				close(d.hold)
			}
		}
		d.mu.Unlock()
		d.group.Wait()
	})
	return d
}

func bulk(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }

func (d *dragon) answer(args []string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	line := strings.Join(args, " ")
	if args[0] != "AUTH" {
		d.commands = append(d.commands, line)
	}
	d.executed++
	if d.answers != nil {
		if text := d.answers(line); text != "" {
			return text
		}
	}
	switch strings.ToUpper(args[0]) {
	case "AUTH":
		if args[len(args)-1] != d.password {
			return "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
		}
	case "INFO":
		return bulk(d.info())
	case "CONFIG":
		return "*2\r\n" + bulk(args[2]) + bulk(map[string]string{"dir": d.dir, "dbfilename": "dump-{timestamp}"}[args[2]])
	case "DBSIZE":
		return fmt.Sprintf(":%d\r\n", d.keys)
	case "SAVE", "BGSAVE":
		if d.old && args[0] == "BGSAVE" && len(args) > 1 {
			return "-ERR syntax error\r\n"
		}
		return d.save(args)
	default:
		return "-ERR unknown command `" + args[0] + "`\r\n"
	}
	return "+OK\r\n"
}

// info is what a Dragonfly tells, as far as it matters.
func (d *dragon) info() string {
	saving := 0
	if d.saving {
		saving = 1
	}
	text := "# Server\r\nredis_version:7.4.0\r\ndragonfly_version:df-v1.40.0\r\nredis_mode:standalone\r\nrun_id:" + d.runID + "\r\nuptime_in_seconds:100\r\n" +
		"# Memory\r\nused_memory:123456\r\n# Stats\r\ntotal_commands_processed:" + strconv.FormatInt(d.executed, 10) + "\r\n# Replication\r\nrole:" + d.role + "\r\nconnected_slaves:0\r\n"
	if d.role == "slave" {
		text += "master_link_status:up\r\n"
	}
	if !d.old {
		text += fmt.Sprintf("# Persistence\r\nloading:0\r\nsaving:%d\r\nrdb_bgsave_in_progress:%d\r\nlast_saved_file:%s\r\nrdb_last_bgsave_status:%s\r\nlast_error:%s\r\n",
			saving, saving, d.lastFile, d.status, d.lastErr)
	}
	return text + fmt.Sprintf("# Keyspace\r\ndb0:keys=%d,expires=%d,avg_ttl=-1\r\n# Cluster\r\ncluster_enabled:0\r\n", d.keys, d.expires)
}

// save begins a save; SAVE also waits for its end.
func (d *dragon) save(args []string) string {
	if d.saving {
		return "-ERR Operation now in progress: SAVING - can not save database\r\n"
	}
	rest := args[1:]
	format := "DF"
	if len(rest) > 0 {
		format, rest = strings.ToUpper(rest[0]), rest[1:]
	}
	if format != "DF" && format != "RDB" || len(rest) > 2 {
		return "-ERR syntax error\r\n"
	}
	bucket, name := "", "dump-2026-08-22T11:55:03"
	if len(rest) > 0 && strings.Contains(rest[0], "://") {
		bucket, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		name = rest[0]
	}
	if format == "DF" && path.Ext(name) != "" || strings.Contains(name, "/") {
		return "-ERR DF snapshot format requires no filename extension. Got \"" + path.Ext(name) + "\"\r\n"
	}
	d.saving = true
	hold, fail := d.hold, d.fail
	finish := func() {
		if hold != nil {
			<-hold
		}
		d.write(format, bucket, name, fail)
	}
	d.begun <- struct{}{}
	if args[0] == "BGSAVE" {
		d.group.Go(finish)
		return "+OK\r\n"
	}
	d.mu.Unlock()
	finish()
	d.mu.Lock()
	if fail != "" {
		return "-ERR " + fail + "\r\n"
	}
	return "+OK\r\n"
}

// write writes the files as a Dragonfly does: under other names until all are there, the summary last; in a bucket directly, and what failed stays.
func (d *dragon) write(format, bucket, name, fail string) {
	var names []string
	files := map[string][]byte{}
	if format == "RDB" {
		names = []string{name + ".rdb"}
		files[names[0]] = read(d.t, testdata+"dragonfly-1.40/mini.rdb")
	} else {
		for _, end := range []string{"-0000.dfs", "-0001.dfs", "-summary.dfs"} {
			names = append(names, name+end)
			files[name+end] = read(d.t, setDir+"mini"+end)
		}
	}
	if d.change != nil {
		d.change(files)
	}
	file := name
	if format == "DF" {
		file += "-summary.dfs"
	}
	switch {
	case bucket != "":
		_, prefix, _ := strings.Cut(bucket, "://")
		_, prefix, _ = strings.Cut(prefix, "/")
		for _, n := range names {
			if data, ok := files[n]; ok && (fail == "" || !strings.HasSuffix(n, "-summary.dfs")) {
				put(d.t, d.cloud, path.Join(prefix, n), data)
			}
		}
		file = bucket + "/" + file
	default:
		for n, data := range files {
			d.check(os.WriteFile(filepath.Join(d.dir, n+".tmp"), data, 0o600))
		}
		for _, n := range names {
			if _, ok := files[n]; !ok {
				continue
			}
			if fail != "" {
				d.check(os.Remove(filepath.Join(d.dir, n+".tmp")))
			} else {
				d.check(os.Rename(filepath.Join(d.dir, n+".tmp"), filepath.Join(d.dir, n)))
				delete(files, n)
			}
		}
		for n := range files { // what change has added
			os.Rename(filepath.Join(d.dir, n+".tmp"), filepath.Join(d.dir, n))
		}
		file = filepath.Join(d.dir, file)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saving = false
	if d.lastErr = fail; fail != "" {
		d.status = "err"
		return
	}
	d.status, d.lastFile = "ok", file
}

func (d *dragon) check(err error) {
	if err != nil {
		d.t.Error(err)
	}
}

// set changes what it does from now on.
func (d *dragon) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// asked returns the commands that begin with a word.
func (d *dragon) asked(word string) (out []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.commands {
		if strings.HasPrefix(c, word) {
			out = append(out, c)
		}
	}
	return out
}

// files returns the names in the directory.
func (d *dragon) files() (names []string) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// waitBegun waits until it is at a save.
func (d *dragon) waitBegun() {
	d.t.Helper()
	select {
	case <-d.begun:
	case <-time.After(20 * time.Second):
		d.t.Fatal("no save was begun")
	}
}

// ofAnother makes a file of another snapshot.
func ofAnother(data []byte) []byte {
	i := bytes.Index(data, []byte("snapshot-id")) + len("snapshot-id") + 1
	data = bytes.Clone(data)
	copy(data[i:i+32], strings.Repeat("f", 32))
	return data
}
