package feed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/redis/go-redis/v9"
)

// A fakeDragonfly stands in for a Dragonfly, which can't be had here. As a replica it sends what a real one was recorded sending, byte for
// byte and in that order (internal/replication/testdata), and ends where a real one's process would. What it says to clients is
// what Dragonfly 1.40 says, as observed and as its source has it; it knows no more commands than a restore needs.
type fakeDragonfly struct {
	t      *testing.T
	listen net.Listener
	script [][]byte // the lines of the recording
	group  sync.WaitGroup

	// How it behaves; set before it is used.
	version   string
	noConfig  bool          // the user may not use CONFIG
	cut       int64         // it breaks the link once, after so many bytes of the snapshot; negative: never
	deaf      bool          // it breaks the link once, when it has loaded, before it says so
	hangs     bool          // it never ends loading
	lose      int           // keys that it loses without a word
	retry     time.Duration // until it connects again
	databases int

	mu         sync.Mutex
	role       string
	primary    string // host:port
	masterauth string
	masteruser string
	keys       target.Counts
	replid     string // of the primary, once it told
	done       bool   // the full synchronisation is done
	loading    bool
	link       net.Conn
	up         bool          // the link
	follow     chan struct{} // is closed when it is to stop replicating
	ended      chan struct{} // is closed when it has
	syncs      int           // how often its data was replaced
	attempts   int           // how often it connected again
	abort      string        // why its process would have ended
	closed     bool
}

var errAbort = errors.New("the process ends")

func startFakeDragonfly(t *testing.T, change func(f *fakeDragonfly)) *fakeDragonfly {
	t.Helper()
	recorded, err := os.ReadFile(filepath.Join("..", "..", "internal", "replication", "testdata", "dragonfly-1.40", "disk", "c2s.bin"))
	if err != nil {
		t.Fatal(err)
	}
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeDragonfly{
		t: t, listen: listen, script: bytes.SplitAfter(recorded, []byte("\r\n")), version: "df-v1.40.0", cut: -1, databases: 16,
		retry: 20 * time.Millisecond, role: "master", keys: target.Counts{},
	}
	if change != nil {
		change(f)
	}
	f.group.Go(f.serve)
	t.Cleanup(func() {
		f.mu.Lock()
		f.closed = true
		f.stop()
		f.mu.Unlock()
		listen.Close()
		f.group.Wait()
		if f.abort != "" {
			t.Errorf("a Dragonfly's process would have ended: %s", f.abort)
		}
	})
	return f
}

func (f *fakeDragonfly) options() *redis.Options {
	return &redis.Options{Addr: f.listen.Addr().String()}
}

func (f *fakeDragonfly) serve() {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := f.listen.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer conn.Close()
			in := resp.NewReader(conn, nil)
			for {
				args, err := in.ReadCommand()
				if err != nil {
					return
				}
				if _, err := conn.Write(f.answer(args)); err != nil {
					return
				}
			}
		})
	}
}

func bulk(text string) []byte { return fmt.Appendf(nil, "$%d\r\n%s\r\n", len(text), text) }

// answer answers a client.
func (f *fakeDragonfly) answer(args []string) []byte {
	ok := resp.AppendStatus(nil, "OK")
	switch strings.ToUpper(args[0]) {
	case "PING":
		return resp.AppendStatus(nil, "PONG")
	case "INFO":
		return bulk(f.info())
	case "SELECT":
		if n, err := strconv.Atoi(args[1]); err != nil || n >= f.databases {
			return resp.AppendError(nil, "ERR DB index is out of range")
		}
		return ok
	case "CLIENT":
		return resp.AppendError(nil, "ERR syntax error")
	case "CONFIG":
		if f.noConfig {
			return resp.AppendError(nil, "NOPERM default has no ACL permissions")
		}
		return f.config(args)
	case "REPLICAOF":
		if strings.EqualFold(args[1], "NO") {
			f.mu.Lock()
			f.stop()
			ended := f.ended
			f.mu.Unlock()
			if ended != nil {
				<-ended
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.role, f.loading = "master", false
			return ok
		}
		if port, err := strconv.Atoi(args[2]); err != nil || port < 1 || port > 65535 {
			return resp.AppendError(nil, "ERR port is out of range")
		}
		return f.replicate(net.JoinHostPort(args[1], args[2]))
	}
	return resp.AppendError(nil, "ERR unknown command `"+args[0]+"`")
}

func (f *fakeDragonfly) config(args []string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	settings := map[string]*string{"masterauth": &f.masterauth, "masteruser": &f.masteruser}
	if strings.EqualFold(args[1], "SET") {
		to := settings[args[2]]
		if to == nil {
			return resp.AppendError(nil, "ERR Unknown option or number of arguments for CONFIG SET - '"+args[2]+"'")
		}
		*to = args[3]
		return resp.AppendStatus(nil, "OK")
	}
	value := ""
	switch {
	case args[2] == "databases":
		value = strconv.Itoa(f.databases)
	case args[2] == "announce_port":
		value = "0"
	case settings[args[2]] != nil:
		value = *settings[args[2]]
	default:
		return []byte("*0\r\n")
	}
	return append([]byte("*2\r\n"), append(bulk(args[2]), bulk(value)...)...)
}

// info has the fields that a restore looks at. The link of a replica is up from the beginning, be there data or not.
func (f *fakeDragonfly) info() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := &strings.Builder{}
	flag := map[bool]int{true: 1}
	fmt.Fprintf(b, "# Server\r\nredis_version:7.4.0\r\ndragonfly_version:%s\r\nredis_mode:standalone\r\ntcp_port:16392\r\n", f.version)
	fmt.Fprintf(b, "# Memory\r\nused_memory:1000000\r\nmaxmemory:4294967296\r\nmaxmemory_policy:noeviction\r\n# Persistence\r\nloading:%d\r\n", flag[f.loading])
	fmt.Fprintf(b, "# Replication\r\nrole:%s\r\n", f.role)
	if f.role == "master" {
		fmt.Fprintf(b, "connected_slaves:0\r\nmaster_replid:f11a3268cc9b8e1221d11d3721b627af39d4328b\r\n")
	} else {
		host, port, _ := net.SplitHostPort(f.primary)
		status := map[bool]string{true: "up", false: "down"}[f.up]
		fmt.Fprintf(b, "master_host:%s\r\nmaster_port:%s\r\nmaster_link_status:%s\r\nmaster_sync_in_progress:%d\r\nmaster_replid:%s\r\n", host, port, status, flag[f.loading], f.replid)
		if f.done {
			fmt.Fprintf(b, "slave_repl_offset:1\r\n")
		}
	}
	fmt.Fprintf(b, "# Modules\r\nmodule:name=ReJSON,ver=20000,api=1,filters=0\r\nmodule:name=search,ver=20000,api=1,filters=0\r\n# Cluster\r\ncluster_enabled:0\r\n# Keyspace\r\n")
	for db := range f.databases {
		if n := f.keys[db]; n > 0 || db == 0 {
			fmt.Fprintf(b, "db%d:keys=%d,expires=0,hits=0,misses=0,hit_ratio=0.00,avg_ttl=-1\r\n", db, n)
		}
	}
	return b.String()
}

// stop ends the replication. f.mu is held.
func (f *fakeDragonfly) stop() {
	if f.follow != nil {
		close(f.follow)
		f.follow = nil
	}
	if f.link != nil {
		f.link.Close()
		f.link = nil
	}
}

// replicate connects and greets before it answers.
func (f *fakeDragonfly) replicate(primary string) []byte {
	conn, in, err := f.greet(primary)
	if err != nil {
		return resp.AppendError(nil, "ERR could not connect to master: "+err.Error())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		conn.Close()
		return nil
	}
	f.stop()
	follow, ended := make(chan struct{}), make(chan struct{})
	f.ended = ended
	f.follow, f.link, f.up, f.role, f.primary, f.replid, f.done = follow, conn, true, "slave", primary, "", false
	f.group.Go(func() {
		defer close(ended)
		f.run(primary, follow, conn, in)
	})
	return resp.AppendStatus(nil, "OK")
}

func (f *fakeDragonfly) greet(primary string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.DialTimeout("tcp", primary, time.Second)
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(conn)
	lines, want := f.script[:4], []string{"+PONG\r\n", "+OK\r\n", "+OK\r\n", "+OK\r\n"}
	f.mu.Lock()
	if f.masterauth != "" {
		auth := "AUTH " + f.masterauth + "\r\n"
		if f.masteruser != "" {
			auth = "AUTH " + f.masteruser + " " + f.masterauth + "\r\n"
		}
		lines, want = append([][]byte{[]byte(auth)}, lines...), append([]string{"+OK\r\n"}, want...)
	}
	f.mu.Unlock()
	for i, line := range lines {
		conn.Write(line)
		got, err := in.ReadString('\n')
		if err == nil && (got != want[i] || in.Buffered() > 0) {
			err = fmt.Errorf("bad message %q", got)
		}
		if err != nil {
			conn.Close()
			return nil, nil, err
		}
	}
	return conn, in, nil
}

// run replicates until it is told to stop, and begins anew whatever goes wrong.
func (f *fakeDragonfly) run(primary string, follow chan struct{}, conn net.Conn, in *bufio.Reader) {
	ask := string(f.script[4])
	for {
		err := f.sync(conn, in, ask)
		conn.Close()
		f.mu.Lock()
		f.up = false
		if errors.Is(err, errAbort) {
			f.abort = err.Error()
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		for conn = nil; conn == nil; {
			select {
			case <-follow:
				return
			case <-time.After(f.retry):
			}
			f.mu.Lock()
			f.attempts++
			if f.replid != "" {
				ask = "PSYNC " + f.replid + " -1\r\n"
			}
			f.mu.Unlock()
			conn, in, _ = f.greet(primary)
		}
		f.mu.Lock()
		select {
		case <-follow:
			conn.Close()
		default:
			f.link, f.up = conn, true
		}
		f.mu.Unlock()
	}
}

var (
	fullResync = regexp.MustCompile(`^\+FULLRESYNC ([0-9a-f]{40}) ([0-9]+)\r\n$`)
	payload    = regexp.MustCompile(`^\$([0-9]+)\r\n$`)
)

// sync does a full synchronisation and then waits for commands, of which there are none.
func (f *fakeDragonfly) sync(conn net.Conn, in *bufio.Reader, ask string) error {
	conn.Write([]byte(ask))
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	m := fullResync.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("bad reply %q", line)
	}
	f.mu.Lock()
	f.replid = m[1]
	f.mu.Unlock()
	if line, err = in.ReadString('\n'); err != nil {
		return err
	}
	size := payload.FindStringSubmatch(line)
	if size == nil {
		return fmt.Errorf("bad reply %q", line)
	}
	n, _ := strconv.ParseInt(size[1], 10, 64)
	f.mu.Lock()
	f.loading, f.done, f.keys = true, false, target.Counts{}
	f.syncs++
	cut := f.cut
	f.cut = -1
	f.mu.Unlock()
	if err := f.load(conn, in, n, cut); err != nil {
		f.mu.Lock()
		f.loading = false
		f.mu.Unlock()
		return err
	}
	if f.hangs {
		_, err = in.ReadByte()
		return err
	}
	f.mu.Lock()
	f.loading, f.done = false, true
	deaf := f.deaf
	f.deaf = false
	f.mu.Unlock()
	if deaf {
		return errors.New("broken")
	}
	// It looks whether anything came with the last of the snapshot, then waits a little, and speaks.
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := in.ReadByte(); err == nil {
		return fmt.Errorf("%w: %q came behind the snapshot", errAbort, b)
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	conn.SetReadDeadline(time.Time{})
	conn.Write(f.script[5]) // ACK 0
	time.Sleep(40 * time.Millisecond)
	fmt.Fprintf(conn, "REPLCONF ACK %s\r\n", m[2]) // recorded with the offset of the primary there
	_, err = in.ReadByte()
	if err == nil {
		err = fmt.Errorf("%w: a command came", errAbort)
	}
	return err
}

// load reads the snapshot. It takes in what it has read when the snapshot breaks off.
func (f *fakeDragonfly) load(conn net.Conn, in io.Reader, size, cut int64) error {
	src := &io.LimitedReader{R: in, N: size}
	var from io.Reader = src
	if cut >= 0 {
		from = io.MultiReader(io.LimitReader(src, cut), failing{errors.New("broken")})
	}
	keys := rdb.NewReader(from, nil)
	for {
		e, err := keys.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		switch {
		case e.Kind == rdb.KindFunction:
			return errors.New("Unrecognized rdb object type: 245")
		case e.Kind == rdb.KindJournal, e.Kind == rdb.KindAux && strings.HasPrefix(string(e.Key), "search-"):
			return fmt.Errorf("%w: a null pointer", errAbort)
		case e.Kind != rdb.KindKey, e.HasExpiry && e.ExpireAt <= time.Now().UnixMilli():
			continue
		}
		db := e.DB
		if e.Type == rdb.TypeHash {
			if gone, err := deserted(keys, time.Now().UnixMilli()); err != nil {
				return err
			} else if gone {
				continue
			}
		}
		f.mu.Lock()
		if f.lose == 0 {
			f.keys[db]++
		} else {
			f.lose--
		}
		f.mu.Unlock()
	}
	if src.N != 0 {
		return fmt.Errorf("%w: the snapshot is %d bytes shorter than was told", errAbort, src.N)
	}
	return nil
}
