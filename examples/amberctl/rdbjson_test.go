package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
)

// TestJSONLines prints what a real server saved, as one file and as a set, and compares it with what the server answers.
func TestJSONLines(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "valkey-9.1")
	client := s.Client(t)
	testserver.Generate(t, client, 300, 5)
	testserver.LoadFunction(t, client, "demo")
	if err := client.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	dump, set := filepath.Join(s.Dir, "dump.rdb"), filepath.Join(t.TempDir(), "set")

	type line struct {
		DB     int
		Key    string
		Type   string
		Expire *int64 `json:"expire_ms"`
		Value  any
	}
	read := func(text string) map[string]line {
		out := make(map[string]line)
		lines := bufio.NewScanner(strings.NewReader(text))
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			l := decode[line](t, lines.Text())
			out[fmt.Sprintf("%d/%s", l.DB, mustUnescape(t, l.Key))] = l
		}
		return out
	}
	out, stderr := c.run(t, exitDone, "rdb", "json", dump)
	got := read(out)
	want := testserver.Snapshot(t, client)
	if len(got) != len(want) || !strings.Contains(stderr, "1 library of functions") {
		t.Errorf("%d lines, want %d; %s", len(got), len(want), stderr)
	}
	for id := range want {
		if _, ok := got[id]; !ok {
			t.Errorf("%s is missing", id)
		}
	}
	clients := make(map[int]*redis.Client)
	for id, l := range got {
		name := string(mustUnescape(t, l.Key))
		db := clients[l.DB]
		if db == nil {
			db = clientOf(t, s, l.DB)
			clients[l.DB] = db
		}
		if typ := db.Type(t.Context(), name).Val(); typ != l.Type {
			t.Errorf("%s is a %s, want %s", id, l.Type, typ)
		}
		if l.Type == "string" && string(mustUnescape(t, l.Value.(string))) != db.Get(t.Context(), name).Val() {
			t.Errorf("%s has another value", id)
		}
		if l.Type == "list" && len(l.Value.([]any)) != int(db.LLen(t.Context(), name).Val()) {
			t.Errorf("%s has another length", id)
		}
	}

	// The same from standard input, and from a set of files.
	data, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	var piped, errs bytes.Buffer
	if status := run(t.Context(), []string{"rdb", "json", "-", "--quiet"}, bytes.NewReader(data), &piped, &errs, noEnv); status != exitDone || piped.String() != out || errs.Len() > 0 {
		t.Errorf("standard input: %d, %s", status, errs.String())
	}
	c.run(t, exitDone, "rdb", "convert", "--to", "dfs", "--on-loss", "drop", dump, set)
	fromSet, _ := c.run(t, exitDone, "rdb", "json", set+"-summary.dfs")
	if others := read(fromSet); len(others) != len(got) {
		t.Errorf("%d lines of the set, want %d", len(others), len(got))
	}

	// Whole lines come before an error, which says where it is.
	cut := filepath.Join(t.TempDir(), "cut.rdb")
	if err := os.WriteFile(cut, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	half, stderr := c.run(t, exitFailed, "rdb", "json", cut)
	if !strings.HasPrefix(out, half) || !strings.Contains(half, "\n") || !strings.Contains(stderr, cut) || !strings.Contains(stderr, "byte") {
		t.Errorf("half a file: %d bytes of lines, %s", len(half), stderr)
	}
	c.run(t, exitFailed, "rdb", "json", filepath.Join(t.TempDir(), "missing"))
	var full bytes.Buffer
	if status := run(t.Context(), []string{"rdb", "json", dump}, nil, fullDisk{}, &full, noEnv); status != exitFailed || !strings.Contains(full.String(), "disk is full") {
		t.Errorf("a full disk: %d, %s", status, full.String())
	}
}

// clientOf returns a client of one database.
func clientOf(t *testing.T, s *testserver.Server, db int) *redis.Client {
	t.Helper()
	opts := s.Options()
	opts.DB = db
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	return client
}

func mustUnescape(t *testing.T, s string) []byte {
	t.Helper()
	b, ok := unescape(s)
	if !ok {
		t.Fatalf("%q is not escaped as it should be", s)
	}
	return b
}

// TestGet prints single keys of every type, from every database.
func TestGet(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "redis-8.0")
	client := s.Client(t)
	for _, cmd := range [][]any{
		{"SET", "s", "hello \x1b[31m Wien \xff"}, {"SET", "text", "one\n\ttwo\r"}, {"SET", "bytes\x00\\", "\x00\x01"}, {"RPUSH", "l", "one", "two"}, {"SADD", "set", "m"}, {"ZADD", "z", "1.5", "member"},
		{"HSET", "h", "f", "v", "g", "w"}, {"HPEXPIREAT", "h", "4102444800000", "FIELDS", "1", "g"}, {"PEXPIREAT", "h", "4102444800000"},
		{"XADD", "x", "1-1", "f", "v"}, {"XGROUP", "CREATE", "x", "group", "0"}, {"XREADGROUP", "GROUP", "group", "carol", "STREAMS", "x", ">"},
		{"VADD", "v", "VALUES", "2", "1", "0.5", "e"},
	} {
		if err := client.Do(t.Context(), cmd...).Err(); err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
	}
	if err := clientOf(t, s, 3).Set(t.Context(), "s", "in three", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	dump := filepath.Join(s.Dir, "dump.rdb")
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"s"}, []string{"string", `hello \x1b[31m Wien \xff`, "Database  3", "in three", "never"}},
		{[]string{"s", "--db", "3"}, []string{"in three"}},
		{[]string{"text"}, []string{"one\n\ttwo\\x0d\n"}},
		{[]string{"l"}, []string{"list", "\none\ntwo\n"}},
		{[]string{"set"}, []string{"\nm\n"}},
		{[]string{"z"}, []string{"1.5  member"}},
		{[]string{"h"}, []string{"f: v\n", "g (expires 2100-01-01 00:00:00.000 UTC): w\n", "Expires   2100-01-01"}},
		{[]string{"x"}, []string{"1-1  f=v\n", "1 entry, last id 1-1", "group group", "consumer carol", "delivered"}},
		{[]string{"v"}, []string{"vectorset (a module's, version 0)", `"quant-type":"int8"`}},
		{[]string{"l", "--json"}, []string{`{"db":0,"key":"l","type":"list","expire_ms":null,"value":["one","two"]}` + "\n"}},
		{[]string{"s", "--raw", "--db", "0"}, []string{"hello \x1b[31m Wien \xff"}},
		{[]string{`bytes\x00\\`, "--escaped", "--raw"}, []string{"\x00\x01"}},
	} {
		out, stderr := c.run(t, exitDone, append([]string{"rdb", "get", dump}, test.args...)...)
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("get %v doesn't print %q:\n%s%s", test.args, want, out, stderr)
			}
		}
		if exact := len(test.args) > 1 && (test.args[1] == "--json" || test.args[len(test.args)-1] == "--raw" || test.args[1] == "--raw"); exact && out != test.want[0] {
			t.Errorf("get %v prints %q, want nothing but %q", test.args, out, test.want[0])
		}
		if strings.Contains(out, "\x1b") && test.args[1:] == nil {
			t.Errorf("get %v hands on control characters", test.args)
		}
	}
	out, _ := c.run(t, exitDone, "rdb", "get", dump, "h", "--dump")
	if want := client.Dump(t.Context(), "h").Val(); len(out) != len(want) || out[0] != want[0] {
		t.Errorf("get --dump gives %q, the server %q", out, want)
	}
	if err := client.RestoreReplace(t.Context(), "again", 0, out).Err(); err != nil {
		t.Errorf("the server doesn't take what get --dump gives: %v", err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"nothing"}, `there is no key "nothing"`},
		{[]string{"l", "--db", "3"}, `no key "l" in database 3`},
		{[]string{"h", "--raw"}, "--dump"},
		{[]string{"s", "--raw"}, "--db"},
	} {
		if _, stderr := c.run(t, exitFailed, append([]string{"rdb", "get", dump}, test.args...)...); !strings.Contains(stderr, test.want) {
			t.Errorf("get %v: %s", test.args, stderr)
		}
	}
}

// TestReadInterrupted stops commands while standard input has nothing more to give.
func TestReadInterrupted(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"json", "-"}, {"get", "-", "key"}, {"verify", "-"}, {"verify", "--deep", "-"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		in, feed := io.Pipe()
		go func() { _, _ = feed.Write([]byte("REDIS0009")) }()
		var out, stderr bytes.Buffer
		if status := run(ctx, append([]string{"rdb"}, args...), in, &out, &stderr, noEnv); status != exitFailed || !strings.Contains(stderr.String(), "interrupted") || out.Len() > 0 {
			t.Errorf("%v: %d, %s%s", args, status, out.String(), stderr.String())
		}
		cancel()
		feed.Close()
	}
}
