package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// A target is a server that values are made at.
type target struct {
	s    *testserver.Server
	c    *redis.Client
	caps capabilities
	conn net.Conn
	in   *resp.Reader

	b       *rebuilder
	sent    int64
	longest int // what was emitted at once
}

// aim starts a server and asks what it has.
func aim(t testing.TB, version string, args ...string) *target {
	t.Helper()
	s := testserver.Start(t, version, append([]string{"--databases", "1000", "--enable-debug-command", "yes"}, args...)...)
	return aimAt(t, s)
}

func aimAt(t testing.TB, s *testserver.Server) *target {
	t.Helper()
	g := &target{s: s, c: s.Client(t)}
	// Nothing is to vanish while it is looked at.
	if err := g.c.Do(t.Context(), "DEBUG", "SET-ACTIVE-EXPIRE", "0").Err(); err != nil {
		t.Fatal(err)
	}
	knows := func(command string) bool {
		reply, err := g.c.Do(t.Context(), "COMMAND", "INFO", command).Slice()
		return err == nil && len(reply) == 1 && reply[0] != nil
	}
	g.caps = capabilities{hset: true, stream: true, createConsumer: true, xsetidFull: true, entriesRead: true, hpexpireat: knows("HPEXPIREAT")}
	limit, err := g.c.ConfigGet(t.Context(), "proto-max-bulk-len").Result()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(limit["proto-max-bulk-len"], &g.caps.maxArg); err != nil {
		t.Fatal(err)
	}
	if g.conn, err = net.Dial("tcp", s.Addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.conn.Close() })
	g.in = resp.NewReader(g.conn, &resp.Limits{Message: 1 << 30, Elements: 1 << 24})
	g.b = &rebuilder{caps: g.caps, emit: func(p []byte) error {
		g.sent += int64(len(p))
		g.longest = max(g.longest, len(p))
		_, err := g.conn.Write(p)
		return err
	}}
	return g
}

// do makes something and expects a reply for each command, none an error.
func (g *target) do(make func() (int, error)) error {
	stop := errors.New("all are there")
	counted := readAhead(g.in)
	n, err := make()
	if err != nil {
		g.conn.Close()
		<-counted
		return err
	}
	// A last command of our own ends the replies.
	if _, err := io.WriteString(g.conn, "*2\r\n$4\r\nECHO\r\n$3\r\nend\r\n"); err != nil {
		return err
	}
	r := <-counted
	switch {
	case r.err != nil && !errors.Is(r.err, stop):
		return r.err
	case r.n != n:
		return fmt.Errorf("%d replies to %d commands", r.n, n)
	}
	return nil
}

type counted struct {
	n   int
	err error
}

// readAhead counts replies up to that of ECHO, so that the server doesn't wait for us.
func readAhead(in *resp.Reader) <-chan counted {
	out := make(chan counted, 1)
	go func() {
		var c counted
		for {
			reply, err := in.ReadReply()
			var refused resp.Error
			if errors.As(err, &refused) {
				if c.err == nil {
					c.err = fmt.Errorf("reply %d: %w", c.n, err)
				}
			} else if err != nil {
				c.err = err
				out <- c
				return
			}
			if reply.Kind == resp.Bulk && reply.Text == "end" {
				out <- c
				return
			}
			c.n++
		}
	}()
	return out
}

func (g *target) send(args ...string) error {
	return g.do(func() (int, error) {
		var b []byte
		b = appendHead(b, '*', int64(len(args)))
		for _, a := range args {
			b = appendArg(b, []byte(a))
		}
		_, err := g.conn.Write(b)
		return 1, err
	})
}

// rebuild makes every key of a stream, but for those that have expired. It returns what was lost, by "db/key", and the keys that
// can't be made.
func (g *target) rebuild(src io.Reader) (lost map[string][]loss, not map[string]error, err error) {
	lost, not = make(map[string][]loss), make(map[string]error)
	db := 0
	if err := g.send("SELECT", "0"); err != nil {
		return nil, nil, err
	}
	r := rdb.NewReader(src, nil)
	for e, err := range r.Entries() {
		if err != nil {
			return nil, nil, err
		}
		if e.Kind == rdb.KindFunction {
			if err := g.do(func() (int, error) { return g.b.function(e, r.Elements()) }); err != nil {
				return nil, nil, err
			}
		}
		if e.Kind != rdb.KindKey || e.HasExpiry && e.ExpireAt <= time.Now().UnixMilli() {
			continue
		}
		if e.DB != db {
			db = e.DB
			if err := g.send("SELECT", fmt.Sprint(db)); err != nil {
				return nil, nil, err
			}
		}
		id := fmt.Sprintf("%d/%s", e.DB, e.Key)
		key := string(e.Key)
		if err := g.b.caps.rebuildable(e); err != nil {
			not[id] = err
			if n, err := g.b.value(e.Key, e, r.Elements()); n != 0 || !errors.Is(err, errNotRebuildable) {
				return nil, nil, fmt.Errorf("%s: %d commands, %v", id, n, err)
			}
			continue
		}
		if err := g.do(func() (int, error) { return g.b.value(e.Key, e, r.Elements()) }); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", id, err)
		}
		if len(g.b.lost) > 0 {
			lost[id] = slices.Clone(g.b.lost)
		}
		if e.HasExpiry {
			if err := g.send("PEXPIREAT", key, fmt.Sprint(e.ExpireAt)); err != nil {
				return nil, nil, err
			}
		}
	}
	return lost, not, nil
}

// own are the dialects that the servers load.
var own = map[string]rdb.Dialect{
	"redis-7.0": {Family: rdb.Redis, Version: 10}, "redis-8.0": {Family: rdb.Redis, Version: 12},
	"valkey-8.1": {Family: rdb.Redis, Version: 11}, "valkey-9.1": {Family: rdb.Valkey, Version: 80},
}

// load has the server load a stream, converted to its own dialect, by itself.
func (g *target) load(ctx context.Context, data []byte, version string) error {
	var out bytes.Buffer
	w, err := rdb.NewWriter(&out, own[version], nil)
	if err != nil {
		return err
	}
	_, err = rdb.Convert(w, rdb.NewReader(bytes.NewReader(data), nil), &rdb.ConvertOptions{Policy: rdb.DropDetail})
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(g.s.Dir, "dump.rdb"), out.Bytes(), 0o600); err != nil {
		return err
	}
	return g.c.Do(ctx, "DEBUG", "RELOAD", "NOSAVE").Err()
}

// acknowledgeDeleted acknowledges the pending entries of a stream of which the entry is deleted.
func acknowledgeDeleted(t testing.TB, c *redis.Client, id string) {
	t.Helper()
	ctx := t.Context()
	db, key, _ := strings.Cut(id, "/")
	opts := *c.Options()
	fmt.Sscan(db, &opts.DB)
	own := redis.NewClient(&opts)
	defer own.Close()
	groups, err := own.XInfoGroups(ctx, key).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		pending, err := own.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: g.Name, Start: "-", End: "+", Count: 1 << 20}).Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pending {
			if found, err := own.XRange(ctx, key, p.ID, p.ID).Result(); err != nil {
				t.Fatal(err)
			} else if len(found) == 0 {
				if err := own.XAck(ctx, key, g.Name, p.ID).Err(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// comparable takes out of a snapshot what no command sets, and what servers themselves don't keep: when consumers were seen; how the first
// entry of an empty stream that came from an old encoding is called; the sign of a zero score in a small sorted set.
func comparable(snap map[string]string) map[string]string {
	seen := regexp.MustCompile(`seen-time="[0-9]*"`)
	same := strings.NewReplacer(`recorded-first-entry-id="18446744073709551615-18446744073709551615"`, `recorded-first-entry-id="0-0"`, "\n-0 \"", "\n0 \"")
	out := make(map[string]string, len(snap))
	for k, v := range snap {
		out[k] = same.Replace(seen.ReplaceAllString(v, "seen-time="))
	}
	return out
}

// testdata are the streams that servers wrote.
func testdata(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("../../rdb/testdata/*/*.rdb")
	if err != nil || len(names) < 60 {
		t.Fatalf("testdata: %d files, %v", len(names), err)
	}
	return names
}

// inputs are the contents of testdata, and of a server of each version with values of all kinds.
func inputs(t *testing.T) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	read := func(name, file string) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = data
	}
	for _, name := range testdata(t) {
		read(name, name)
	}
	for _, version := range testserver.All() {
		s := testserver.Start(t, version)
		c := s.Client(t)
		testserver.Generate(t, c, 400, 11)
		testserver.LoadFunction(t, c, "library")
		if err := c.Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		read("generated by "+version, filepath.Join(s.Dir, "dump.rdb"))
	}
	return all
}

// TestServersHoldWhatWasRebuilt makes every value of what servers of all versions wrote by commands at each server, and compares all
// that commands tell with a server of the same version that loaded the same values itself.
func TestServersHoldWhatWasRebuilt(t *testing.T) {
	all := inputs(t)
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ref, got := aim(t, version), aim(t, version)
			keys := 0
			losses := make(map[rdb.Loss]int64)
			for name, data := range all {
				keys += compareRebuilt(t, ref, got, version, name, data, losses)
			}
			t.Logf("%d keys, lost %v, %d bytes sent", keys, losses, got.sent)
			if keys < 2000 {
				t.Errorf("only %d keys were compared", keys)
			}
			if losses[rdb.LossStreamCounts] > 0 || losses[rdb.LossStreamNacks] > 0 || (losses[rdb.LossFieldExpiry] > 0) == got.caps.hpexpireat {
				t.Errorf("lost %v", losses)
			}
			if got.longest > 3<<20 {
				t.Errorf("%d bytes were emitted at once", got.longest)
			}
		})
	}
}

// compareRebuilt compares what ref loads with what got is made to hold.
func compareRebuilt(t *testing.T, ref, got *target, version, name string, data []byte, losses map[rdb.Loss]int64) (keys int) {
	t.Helper()
	if err := ref.load(t.Context(), data, version); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := errors.Join(got.c.FlushAll(t.Context()).Err(), got.c.FunctionFlush(t.Context()).Err()); err != nil {
		t.Fatal(err)
	}
	lost, not, err := got.rebuild(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for id, list := range lost {
		for _, l := range list {
			losses[l.kind] += l.count
			if l.kind == lossStreamPending {
				acknowledgeDeleted(t, ref.c, id)
			}
		}
	}
	want, there := comparable(testserver.Snapshot(t, ref.c)), comparable(testserver.Snapshot(t, got.c))
	for id := range not {
		delete(want, id)
	}
	if diff := testserver.Diff(want, there); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
	if diff := testserver.Diff(testserver.Functions(t, ref.c), testserver.Functions(t, got.c)); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
	return len(there)
}

// elements gives elements one after the other.
func elements(all ...rdb.Element) iter.Seq2[*rdb.Element, error] {
	return func(yield func(*rdb.Element, error) bool) {
		for i := range all {
			if !yield(&all[i], nil) {
				return
			}
		}
	}
}

// commandsOf makes a value and returns the commands, each as its arguments joined by blanks.
func commandsOf(t *testing.T, b *rebuilder, typ rdb.Type, all ...rdb.Element) []string {
	t.Helper()
	var out []byte
	b.emit = func(p []byte) error {
		out = append(out, p...)
		return nil
	}
	n, err := b.value([]byte("k"), entryOf(typ), elements(all...))
	if err != nil {
		t.Fatal(err)
	}
	return split(t, out, n)
}

func split(t *testing.T, out []byte, n int) (commands []string) {
	t.Helper()
	r := resp.NewReader(bytes.NewReader(out), nil)
	for {
		args, err := r.ReadCommand()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		commands = append(commands, strings.Join(args, " "))
	}
	if len(commands) != n {
		t.Errorf("%d commands, value said %d", len(commands), n)
	}
	return commands
}

func wantCommands(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("commands are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func wantLost(t *testing.T, b *rebuilder, want ...loss) {
	t.Helper()
	if !slices.Equal(b.lost, want) {
		t.Errorf("lost %v, want %v", b.lost, want)
	}
}

// at is a clock.
func at(ms int64) func() time.Time { return func() time.Time { return time.UnixMilli(ms) } }

// entryOf is a key named k.
func entryOf(typ rdb.Type) *rdb.Entry {
	return &rdb.Entry{Kind: rdb.KindKey, Type: typ, Key: []byte("k")}
}

// make makes a value at a server, as key k.
func (g *target) make(typ rdb.Type, all iter.Seq2[*rdb.Element, error]) error {
	return g.do(func() (int, error) { return g.b.value([]byte("k"), entryOf(typ), all) })
}
