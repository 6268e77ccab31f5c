package command_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/command"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/redis/go-redis/v9"
)

// A kept is a backup in a store of its own.
type kept struct {
	backup   *catalog.Backup
	restorer *restore.Restorer
}

// keep makes a backup of parts: RDB streams and append-only files.
func keep(t testing.TB, parts ...[]byte) *kept {
	t.Helper()
	store := memstore.New(nil)
	cat, err := storecatalog.New(storecatalog.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	b := &catalog.Backup{Format: catalog.Format, ID: catalog.NewID(now), DataStore: "orders", Kind: catalog.KindManual, State: catalog.StateReady, CreatedAt: now, ReadyAt: now}
	var all catalog.Contents
	for i, data := range parts {
		found, err := catalog.Inspect(bytes.NewReader(data), nil)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		p := catalog.Part{Name: fmt.Sprintf("part-%04d", i), Dialect: found.Dialect, Compression: "none", Size: int64(len(data)), RawSize: int64(len(data)),
			SHA256: hex.EncodeToString(sum[:]), RawSHA256: hex.EncodeToString(sum[:]), Keys: found.Keys, Commands: found.Commands}
		p.Key = b.Prefix() + p.Name
		if err := storage.WriteFile(t.Context(), store, p.Key, data, nil); err != nil {
			t.Fatal(err)
		}
		b.Parts = append(b.Parts, p)
		b.RawBytes, b.StoredBytes = b.RawBytes+p.RawSize, b.StoredBytes+p.Size
		all.Add(found)
	}
	all.Record(b)
	b.Source.Engine, b.Source.Version = all.Engine, all.Version
	if _, err := cat.Put(t.Context(), b, ""); err != nil {
		t.Fatal(err)
	}
	r, err := restore.New(restore.Config{Store: store, Catalog: cat, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return &kept{backup: b, restorer: r}
}

// loaderFor makes a loader of a server; change may be nil.
func loaderFor(t testing.TB, opts *redis.Options, change func(*command.Config)) *command.Loader {
	t.Helper()
	cfg := command.Config{Options: opts, Stall: 20 * time.Second}
	if change != nil {
		change(&cfg)
	}
	l, err := command.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// appended returns the files of a server's append-only directory in the order of its manifest. While a disk is busy, a server waits for seconds before it writes.
func appended(t testing.TB, s *testserver.Server) (files [][]byte) {
	t.Helper()
	c := s.Client(t)
	testserver.Eventually(t, 60*time.Second, "all commands are in the file", func() error {
		info, err := c.Info(t.Context(), "persistence").Result()
		if err == nil && !strings.Contains(info, "aof_buffer_length:0\r\n") {
			err = errors.New("some are in the server's buffer")
		}
		return err
	})
	dir := filepath.Join(s.Dir, "appendonlydir")
	manifest, err := os.ReadFile(filepath.Join(dir, "appendonly.aof.manifest"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(manifest)) {
		if f := strings.Fields(line); strings.Contains(line, "type b") || strings.Contains(line, "type i") {
			data, err := os.ReadFile(filepath.Join(dir, f[1]))
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > 0 {
				files = append(files, data)
			}
		}
	}
	return files
}

// rewrite lets a server write its base anew, of what it holds, and waits for that.
func rewrite(t testing.TB, c *redis.Client) {
	t.Helper()
	if err := c.BgRewriteAOF(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	testserver.Eventually(t, 30*time.Second, "the base is written", func() error {
		info, err := c.Info(t.Context(), "persistence").Result()
		if err == nil && (!strings.Contains(info, "aof_rewrite_in_progress:0") || !strings.Contains(info, "aof_rewrite_scheduled:0")) {
			err = errors.New("it is not")
		}
		return err
	})
}

// A workload makes random commands.
type workload struct {
	r      *rand.Rand
	fields bool // the server's fields expire
	dbs    int
	slots  bool // keys of one command share a slot
}

func (w *workload) key(kind string) string {
	if w.slots {
		return fmt.Sprintf("{%s%d}", kind, w.r.IntN(12))
	}
	return fmt.Sprintf("%s:%d", kind, w.r.IntN(12))
}

// with returns another key in the slot of one.
func (w *workload) with(kind, key string) string {
	if w.slots {
		return fmt.Sprintf("%s:%d", key, w.r.IntN(4))
	}
	return w.key(kind)
}

// mortal returns a key that may get an expiry; half of them are of those that are not written often.
func (w *workload) mortal() string {
	return w.key([]string{"s", "l", "h", "z", "e", "e", "e", "e"}[w.r.IntN(8)])
}

// when returns the condition on which something gets its expiry, or none.
func (w *workload) when() string { return []string{"", "NX", "XX", "GT", "LT"}[w.r.IntN(5)] }

func (w *workload) word() string { return fmt.Sprintf("w%d", w.r.IntN(40)) }

// next returns a command, of which servers refuse a few.
func (w *workload) next() []any {
	r := w.r
	at := func(ahead time.Duration) int64 { return time.Now().Add(ahead).UnixMilli() }
	switch r.IntN(50) {
	case 0:
		return []any{"SET", w.key("s"), w.word()}
	case 1:
		return []any{"SET", w.key("s"), w.word(), "PX", 1 + r.IntN(400)}
	case 2:
		return []any{"INCRBY", w.key("n"), r.IntN(100)}
	case 3:
		return []any{"APPEND", w.key("s"), w.word()}
	case 4:
		return []any{"RPUSH", w.key("l"), w.word(), w.word()}
	case 5:
		return []any{"LPOP", w.key("l")}
	case 6:
		k := w.key("l")
		return []any{"RPOPLPUSH", k, w.with("l", k)}
	case 7:
		k := w.key("l")
		return []any{"LMOVE", k, w.with("l", k), "LEFT", "RIGHT"}
	case 8, 9:
		return []any{"SADD", w.key("t"), w.word(), w.word()}
	case 10:
		return []any{"SPOP", w.key("t"), 1 + r.IntN(3)}
	case 11:
		k := w.key("t")
		return []any{"SMOVE", k, w.with("t", k), w.word()}
	case 12:
		k := w.key("t")
		return []any{"SUNIONSTORE", k, w.with("t", k), w.with("t", k)}
	case 13, 14:
		return []any{"ZADD", w.key("z"), r.IntN(50), w.word()}
	case 15:
		return []any{"ZINCRBY", w.key("z"), r.Float64(), w.word()}
	case 16:
		return []any{"ZPOPMIN", w.key("z")}
	case 17:
		k := w.key("z")
		return []any{"ZUNIONSTORE", k, 2, w.with("z", k), w.with("z", k)}
	case 18, 19:
		return []any{"HSET", w.key("h"), w.word(), w.word(), w.word(), w.word()}
	case 20:
		return []any{"HINCRBYFLOAT", w.key("f"), w.word(), r.Float64()}
	case 21:
		return []any{"HDEL", w.key("h"), w.word()}
	case 22, 23:
		return []any{"XADD", w.key("x"), "MAXLEN", "~", 50, "*", "f", w.word()}
	case 24:
		return []any{"XGROUP", "CREATE", w.key("x"), "g", "0", "MKSTREAM"}
	case 25:
		return []any{"XREADGROUP", "GROUP", "g", "c", "COUNT", 2, "STREAMS", w.key("x"), ">"}
	case 26:
		return []any{"PEXPIRE", w.mortal(), 1 + r.IntN(300)}
	case 27:
		c := []any{"PEXPIREAT", w.mortal(), at(time.Duration(1+r.IntN(72)) * time.Hour)}
		if when := w.when(); when != "" {
			c = append(c, when)
		}
		return c
	case 28:
		return []any{"PERSIST", w.mortal()}
	case 29:
		k := w.key("s")
		return []any{"RENAME", k, w.with("s", k)}
	case 30:
		k := w.key("h")
		return []any{"COPY", k, w.with("h", k), "REPLACE"}
	case 31:
		if w.dbs > 1 {
			return []any{"MOVE", w.key("s"), r.IntN(w.dbs)}
		}
	case 32:
		k := w.key("s")
		return []any{"DEL", k, w.with("s", k)}
	case 33:
		k := w.key("s")
		return []any{"MSET", k, w.word(), w.with("s", k), w.word()}
	case 34:
		k := w.key("s")
		return []any{"BITOP", "OR", k, k, w.with("s", k)}
	case 35:
		return []any{"PFADD", w.key("p"), w.word(), w.word()}
	case 36:
		k := w.key("p")
		return []any{"PFMERGE", k, w.with("p", k)}
	case 37:
		return []any{"GEOADD", w.key("g"), r.Float64() * 90, r.Float64() * 80, w.word()}
	case 38:
		k := w.key("l")
		return []any{"SORT", k, "ALPHA", "STORE", w.with("l", k)}
	case 39:
		k := w.key("n")
		return []any{"EVAL", "redis.call('INCR', KEYS[1]); redis.call('SET', KEYS[2], ARGV[1]); return redis.call('TIME')", 2, k, w.with("n", k), r.IntN(50)}
	case 40:
		return []any{"SETRANGE", w.key("s"), r.IntN(30), w.word()}
	case 41:
		return []any{"SETBIT", w.key("s"), r.IntN(200), r.IntN(2)}
	case 42:
		return []any{"GETEX", w.key("s"), "PX", 100_000_000 + r.IntN(100_000)}
	case 43:
		return []any{"GETDEL", w.key("s")}
	case 44:
		return []any{"LTRIM", w.key("l"), 0, 20}
	case 45:
		if w.fields {
			c := []any{"HPEXPIRE", w.key("he"), []int{1 + r.IntN(300), 1_000_000 + r.IntN(200_000_000)}[r.IntN(2)]}
			if when := w.when(); when != "" {
				c = append(c, when)
			}
			return append(c, "FIELDS", 3, w.word(), w.word(), w.word())
		}
	case 46:
		return []any{"SET", w.key([]string{"s", "e"}[r.IntN(2)]), w.word(), "KEEPTTL"}
	case 47:
		return []any{"INCRBYFLOAT", w.key("f2"), r.Float64()}
	case 48:
		if w.dbs > 1 && r.IntN(40) == 0 {
			return []any{"FLUSHDB"}
		}
		if w.dbs > 2 && r.IntN(20) == 0 {
			return []any{"SWAPDB", 0, 1 + r.IntN(w.dbs-1)}
		}
	case 49:
		if w.fields {
			if r.IntN(4) > 0 {
				return []any{"HINCRBY", w.key("he"), w.word(), 1}
			}
			return []any{"HPERSIST", w.key("he"), "FIELDS", 2, w.word(), w.word()}
		}
	}
	return []any{"SET", w.key("s"), strings.Repeat("long ", r.IntN(3000)), "PX", 100_000_000 + r.IntN(1_000_000)}
}

// run executes commands in transactions of several, and outside of any.
func (w *workload) run(t testing.TB, c *redis.Client, n int) {
	t.Helper()
	conn := c.Conn()
	defer conn.Close()
	for n > 0 {
		if w.dbs > 1 {
			if err := conn.Select(t.Context(), w.r.IntN(w.dbs)).Err(); err != nil {
				t.Fatal(err)
			}
		}
		some := 1 + w.r.IntN(40)
		fill := func(p redis.Pipeliner) error {
			for range some {
				p.Do(t.Context(), w.next()...)
			}
			return nil
		}
		if w.r.IntN(2) == 0 {
			conn.TxPipelined(t.Context(), fill) // some are refused
		} else {
			conn.Pipelined(t.Context(), fill)
		}
		n -= some
	}
}

// holds compares what two servers hold, but for when consumers of streams were last seen, which is when the commands were executed.
func holds(t testing.TB, what string, got, want *redis.Client) {
	t.Helper()
	if diff := testserver.Diff(unseen(testserver.Snapshot(t, want)), unseen(testserver.Snapshot(t, got))); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

var seenTime = regexp.MustCompile(`seen-time="\d+"`)

func unseen(snap map[string]string) map[string]string {
	for key, text := range snap {
		snap[key] = seenTime.ReplaceAllString(text, "")
	}
	return snap
}

// started starts a server from another's append-only directory: what it holds is what the directory means.
func started(t testing.TB, version string, s *testserver.Server) *redis.Client {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(s.Dir)); err != nil {
		t.Fatal(err)
	}
	return testserver.StartIn(t, version, dir, "--appendonly", "yes").Client(t)
}

func fieldsExpire(version string) bool { return version == "redis-8.0" || version == "valkey-9.1" }

// commandsPart makes an append-only file of commands.
func commandsPart(commands ...[]any) []byte {
	var b bytes.Buffer
	for _, c := range commands {
		fmt.Fprintf(&b, "*%d\r\n", len(c))
		for _, a := range c {
			s := fmt.Sprint(a)
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(s), s)
		}
	}
	return b.Bytes()
}

func words(s string) (out []any) {
	for _, w := range strings.Fields(s) {
		out = append(out, w)
	}
	return out
}

// flow makes a stream as a Dragonfly sends it: what begins with "+" is a string "+key value [expiry in ms]", the rest are commands of its journal; "db>" before
// them says in which database.
func flow(t testing.TB, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("REDIS0009")
	b.Write([]byte("\xfa\x06df-ver\x0adf-v1.40.0"))
	str := func(s string) { // of less than 16 KiB
		if len(s) < 64 {
			b.WriteByte(byte(len(s)))
		} else {
			b.Write([]byte{0x40 | byte(len(s)>>8), byte(len(s))})
		}
		b.WriteString(s)
	}
	for _, line := range lines {
		db := byte(0)
		if len(line) > 2 && line[1] == '>' {
			db, line = line[0]-'0', line[2:]
		}
		if key, ok := strings.CutPrefix(line, "+"); ok {
			f := strings.Fields(key)
			b.Write([]byte{0xfe, db})
			if len(f) > 2 {
				var at int64
				fmt.Sscan(f[2], &at)
				b.WriteByte(0xfc)
				for i := range 8 {
					b.WriteByte(byte(at >> (8 * i)))
				}
			}
			b.WriteByte(0)
			str(f[0])
			str(f[1])
			continue
		}
		var j bytes.Buffer
		outer := b
		b = j
		f := strings.Fields(line)
		total := 0
		for _, w := range f {
			total += len(w)
		}
		b.Write([]byte{6, db, 0x0a, 5, 1, byte(len(f)), 0x40 | byte(total>>8), byte(total)})
		for _, w := range f {
			str(w)
		}
		j, b = b, outer
		b.Write([]byte{0xd2, 1})
		str(j.String())
	}
	b.WriteByte(0xc8)
	b.Write(make([]byte, 8))
	b.Write([]byte{0xd3, 1, 0, 0, 0, 0, 0, 0, 0})
	b.WriteByte(0xff)
	b.Write(make([]byte, 8))
	return b.Bytes()
}

var accept = func(names ...string) *restore.Options {
	return &restore.Options{Accept: names, Compare: restore.CompareAll}
}
