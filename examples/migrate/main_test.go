package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
)

func noEnv(string) string { return "" }

// A live server is copied into another engine, an older version, and a cluster; what the target can't hold is told before it is lost.
func TestMigrate(t *testing.T) {
	from := testserver.Start(t, "valkey-9.1")
	testserver.Generate(t, from.Client(t), 2000, 5)
	want := testserver.Snapshot(t, from.Client(t))
	to := testserver.Start(t, "redis-8.0")
	var out, progress bytes.Buffer
	args := []string{"--from", from.URL(), "--to", to.URL()}
	if err := migrate(t.Context(), append(args, "--check"), &out, &progress, noEnv); err != nil {
		t.Fatal(err)
	}
	if n := to.Client(t).DBSize(t.Context()).Val(); n != 0 || !strings.Contains(out.String(), "reachable") {
		t.Errorf("--check left %d keys and said\n%s", n, out.String())
	}
	if err := migrate(t.Context(), args, &out, &progress, noEnv); err != nil {
		t.Fatal(err)
	}
	if diff := testserver.Diff(want, testserver.Snapshot(t, to.Client(t))); diff != "" {
		t.Errorf("the copy differs: %s", diff)
	}
	if told := fmt.Sprintf("%d keys", len(want)); !strings.Contains(out.String(), told) || !strings.Contains(out.String(), "compared") {
		t.Errorf("the report doesn't tell of %s: %s", told, out.String())
	}

	older := testserver.Start(t, "redis-7.0")
	args[3] = older.URL()
	if err := migrate(t.Context(), args, &out, &progress, noEnv); err == nil || !strings.Contains(err.Error(), "expiry of hash fields") {
		t.Errorf("into a server whose hash fields can't expire: %v", err)
	}
	out.Reset()
	if err := migrate(t.Context(), append(args, "--accept", "field-expiry", "--replace"), &out, &progress, noEnv); err != nil {
		t.Fatal(err)
	}
	if n, err := older.Client(t).InfoMap(t.Context(), "keyspace").Result(); err != nil || !strings.Contains(out.String(), "lost: field-expiry") {
		t.Errorf("%v, %v: %s", n, err, out.String())
	}
}

// A cluster has one database: so does what is copied into it here.
func TestMigrateIntoCluster(t *testing.T) {
	from := testserver.Start(t, "redis-7.0")
	c := from.Client(t)
	for i := range 500 {
		if err := c.HSet(t.Context(), fmt.Sprintf("{%d}user:%d", i%7, i), "n", i).Err(); err != nil {
			t.Fatal(err)
		}
	}
	cluster := testserver.StartCluster(t, "redis-8.0", 3, 0)
	var out, progress bytes.Buffer
	if err := migrate(t.Context(), []string{"--from", from.URL(), "--to", "redis://" + cluster.Addrs()[1]}, &out, &progress, noEnv); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if diff := testserver.Diff(testserver.Snapshot(t, c), cluster.Contents(t)); diff != "" {
		t.Error(diff)
	}
}

// What is wrong with the command line is told without any part of a URL, and a copy that is interrupted says so.
func TestErrors(t *testing.T) {
	s := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, s.Client(t), 200, 1)
	for _, test := range []struct {
		args string
		want string
	}{
		{"--to " + s.URL(), "--from"},
		{"--from " + s.URL(), "--to"},
		{"--from redis://u:CANARY%zz@h --to " + s.URL(), "--from"},
		{"--from " + s.URL() + "/3 --to " + s.URL(), "database"},
		{"--from " + s.URL() + " --to " + s.URL() + " --merge some", "--merge"},
		{"--from " + s.URL() + " --to " + s.URL() + " --merge skip --replace", "exclude"},
		{"--from " + s.URL() + " --to " + s.URL() + " more", "more"},
		{"--from " + s.URL() + " --to " + s.URL(), "not empty"},
	} {
		var out bytes.Buffer
		err := migrate(t.Context(), strings.Fields(test.args), &out, &out, noEnv)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: %v", test.args, err)
		}
	}
	secured := testserver.Start(t, "redis-8.0", "--requirepass", "CANARY-right")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	env := func(name string) string { return map[string]string{"TO_PASSWORD": "CANARY-right"}[name] }
	args := []string{"--from", s.URL(), "--to", "redis://" + secured.Addr}
	if err := migrate(ctx, args, &out, &out, env); err == nil || strings.Contains(err.Error()+out.String(), "CANARY") {
		t.Errorf("cancelled: %v", err)
	}
	if err := migrate(t.Context(), args, &out, &out, env); err != nil {
		t.Errorf("with the password from the environment: %v", err)
	}
	opts, err := redis.ParseURL(secured.URL())
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(opts)
	defer c.Close()
	if n := c.DBSize(t.Context()).Val(); n == 0 {
		t.Error("nothing was copied")
	}
}
