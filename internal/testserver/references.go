package testserver

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// References are servers that tell what is in RDB files, by loading them. The zero value is ready; a server is started when it is needed
// and ends with the test that needed it first.
type References struct {
	servers map[string]*Server
}

// Contents lets a server load a file that knows its dialect, and returns its Snapshot and its Functions. Both are nil if none of the
// servers does, as for files of Dragonfly and of servers that are newer.
func (r *References) Contents(t testing.TB, name string) (contents, functions map[string]string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	version := ""
	switch magic := string(data[:min(9, len(data))]); {
	case bytes.Contains(data[:min(400, len(data))], []byte("df-ver")):
	case magic == "VALKEY080":
		version = "valkey-9.1"
	case magic == "REDIS0012":
		version = "redis-8.0"
	case magic == "REDIS0011":
		version = "valkey-8.1"
	case magic <= "REDIS0010":
		version = "redis-7.0"
	}
	if version == "" {
		return nil, nil
	}
	s := r.servers[version]
	if s == nil {
		if r.servers == nil {
			r.servers = make(map[string]*Server)
		}
		s = Start(t, version, "--databases", "1000")
		r.servers[version] = s
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "dump.rdb"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	c := s.Client(t)
	if err := c.Do(t.Context(), "DEBUG", "RELOAD", "NOSAVE").Err(); err != nil {
		t.Fatalf("%s doesn't load %s: %v", version, name, err)
	}
	return Snapshot(t, c), Functions(t, c)
}
