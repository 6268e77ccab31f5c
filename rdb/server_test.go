package rdb_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// save has a server of its own save a data set of every type, and returns the file, with what the server says is in it.
func save(t *testing.T, version string, args ...string) (file string, keys, functions map[string]string) {
	t.Helper()
	s := testserver.Start(t, version, args...)
	c := s.Client(t)
	testserver.Generate(t, c, 400, 7)
	testserver.LoadFunction(t, c, "library")
	if err := c.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.Dir, "dump.rdb"), testserver.Snapshot(t, c), testserver.Functions(t, c)
}

// restore puts every value of a file into a server by RESTORE, key by key.
func restore(t *testing.T, file string, c *redis.Client) *rdb.Reader {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn := c.Conn()
	defer conn.Close()
	r := rdb.NewReader(f, nil)
	db := 0
	var payload []byte
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != rdb.KindKey && e.Kind != rdb.KindFunction {
			continue
		}
		if payload, err = r.AppendRaw(payload[:0], -1); err != nil {
			t.Fatal(err)
		}
		if e.Kind == rdb.KindFunction {
			if err := conn.FunctionRestore(t.Context(), string(payload)).Err(); err != nil {
				t.Fatalf("FUNCTION RESTORE: %v", err)
			}
			continue
		}
		if e.DB != db {
			if err := conn.Select(t.Context(), e.DB).Err(); err != nil {
				t.Fatal(err)
			}
			db = e.DB
		}
		args := []any{"RESTORE", e.Key, 0, payload}
		if e.HasExpiry {
			args[2] = e.ExpireAt
			args = append(args, "ABSTTL")
		}
		if err := conn.Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("RESTORE of %q, type %v, encoding %d: %v", e.Key, e.Type, e.Encoding, err)
		}
	}
	return r
}

// TestRestore cuts every value out of a server's file, puts it into another server of the same version by RESTORE, and
// compares all contents, and the counts of the reader.
func TestRestore(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			file, keys, functions := save(t, version)
			c := testserver.Start(t, version).Client(t)
			r := restore(t, file, c)
			if diff := testserver.Diff(keys, testserver.Snapshot(t, c)); diff != "" {
				t.Error(diff)
			}
			if diff := testserver.Diff(functions, testserver.Functions(t, c)); diff != "" {
				t.Error(diff)
			}
			s := r.Stats()
			if s.Keys != int64(len(keys)) || s.Functions != 1 || s.Checksum != rdb.ChecksumCRC64 {
				t.Errorf("Stats = %+v, want %d keys, 1 function, crc64", s, len(keys))
			}
			for _, d := range s.DBs {
				db := redis.NewClient(withDB(c.Options(), d.DB))
				n, err := db.DBSize(t.Context()).Result()
				if err = errors.Join(err, db.Close()); err != nil || n != d.Keys {
					t.Errorf("database %d has %d keys, the reader counted %d (%v)", d.DB, n, d.Keys, err)
				}
			}
		})
	}
}

func withDB(o *redis.Options, db int) *redis.Options {
	o2 := *o
	o2.DB = db
	return &o2
}

// TestRestoreIntoNewer puts values of the oldest server into all others: what the footers state must suit them.
func TestRestoreIntoNewer(t *testing.T) {
	file, keys, _ := save(t, "redis-7.0")
	for _, version := range testserver.All()[1:] {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := testserver.Start(t, version).Client(t)
			restore(t, file, c)
			if diff := testserver.Diff(keys, testserver.Snapshot(t, c)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestVersionOfServers reads what each server writes, with and without checksum and compression.
func TestVersionOfServers(t *testing.T) {
	want := map[string]string{"redis-7.0": "redis:10", "redis-8.0": "redis:12", "valkey-8.1": "redis:11", "valkey-9.1": "valkey:80"}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			file, keys, _ := save(t, version, "--rdbchecksum", "no", "--rdbcompression", "no", "--list-compress-depth", "1")
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r := rdb.NewReader(f, nil)
			for _, err := range r.Entries() {
				if err != nil {
					t.Fatal(err)
				}
			}
			s := r.Stats()
			if got := fmt.Sprint(r.Dialect()); got != want[version] || s.Checksum != rdb.ChecksumAbsent || s.Keys != int64(len(keys)) {
				t.Errorf("dialect %s, %+v, want %s, absent, %d keys", got, s, want[version], len(keys))
			}
		})
	}
}
