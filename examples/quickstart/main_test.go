package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
)

// prepared is an environment in which the servers of `make servers` are found, and none that the machine has besides.
func prepared(t *testing.T, url string) func(string) string {
	dir := os.Getenv("AMBER_SERVERS")
	if dir == "" { // each test needs one of them anyway, to say where they are
		dir = filepath.Join(filepath.Dir(testserver.Program(t, "valkey-9.1", "server")), "..", "..")
	}
	return func(name string) string { return map[string]string{"REDIS_URL": url, "AMBER_SERVERS": dir}[name] }
}

func TestPrivateServer(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	if err := demo(t.Context(), &out, prepared(t, "")); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"valkey-server 9.1", "Wiped the server: 0 keys", "Compared all 12000 keys", "identical", "service.Backup(ctx"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it doesn't say %q:\n%s", want, out.String())
		}
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v in the temporary directory (%v)", left, err)
	}
}

// The user's server is read; keys are written only if it has none, and removed again.
func TestUsersServer(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-8.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := testserver.Start(t, version, "--requirepass", "secret")
			var out bytes.Buffer
			if err := demo(t.Context(), &out, prepared(t, s.URL())); err != nil {
				t.Fatalf("an empty server: %v\n%s", err, out.String())
			}
			if snap := testserver.Snapshot(t, s.Client(t)); len(snap) != 0 {
				t.Errorf("%d keys are left on a server that was empty", len(snap))
			}
			testserver.Generate(t, s.Client(t), 300, 1)
			before := testserver.Snapshot(t, s.Client(t))
			out.Reset()
			if err := demo(t.Context(), &out, prepared(t, s.URL())); err != nil {
				t.Fatalf("a server with data: %v\n%s", err, out.String())
			}
			for _, want := range []string{"never wiped", "nothing is written", "Compared all 300 keys", "identical"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it doesn't say %q:\n%s", want, out.String())
				}
			}
			if diff := testserver.Diff(before, testserver.Snapshot(t, s.Client(t))); diff != "" {
				t.Errorf("the user's data were changed:\n%s", diff)
			}
			if stats, err := s.Client(t).Info(t.Context(), "commandstats").Result(); err != nil || strings.Contains(stats, "cmdstat_flush") || strings.Contains(stats, "cmdstat_replicaof") {
				t.Errorf("the user's server got commands that it must not get: %v\n%s", err, stats)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	empty := t.TempDir()
	for name, test := range map[string]struct {
		env  map[string]string
		want string
	}{
		"no server anywhere": {map[string]string{"AMBER_SERVERS": empty}, "apt-get install"},
		"bad URL":            {map[string]string{"REDIS_URL": "redis://:CANARY#@host:1"}, "REDIS_URL"},
		"nobody there":       {map[string]string{"REDIS_URL": "redis://:CANARY@127.0.0.1:1"}, "127.0.0.1:1"},
	} {
		var out bytes.Buffer
		err := demo(t.Context(), &out, func(name string) string { return test.env[name] })
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error()+out.String(), "CANARY") {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := demo(ctx, &bytes.Buffer{}, prepared(t, "")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// The proof is worth something only if it sees every kind of difference.
func TestDifferences(t *testing.T) {
	s := testserver.Start(t, "redis-8.0")
	c := s.Client(t)
	if _, err := fill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	before, err := read(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := read(t.Context(), redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 3}))
	if err != nil {
		t.Fatal(err)
	}
	if d := differences(before, again); len(before) != 12000 || len(d) > 0 || digest(before) != digest(again) {
		t.Fatalf("two reads of the same %d keys differ: %v", len(before), d)
	}
	key := func(kind string) string { return prefix + kind + ":00004" }
	for _, change := range [][]any{
		{"APPEND", key("string"), "x"},
		{"LSET", key("list"), 1, "x"},
		{"SADD", key("set"), "x"},
		{"ZADD", key("zset"), 1.5, "third"},
		{"HSET", key("hash"), "empty", "x"},
		{"XADD", key("stream"), "*", "event", "x"},
		{"PERSIST", prefix + "string:00008"},
		{"DEL", prefix + "list:00009"},
		{"SET", "new", ""},
	} {
		if err := c.Do(t.Context(), change...).Err(); err != nil {
			t.Fatal(err)
		}
		after, err := read(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if d := differences(before, after); len(d) != 1 || digest(before) == digest(after) {
			t.Errorf("%v: the differences are %v", change, d)
		}
		before = after
	}
}
