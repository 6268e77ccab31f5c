package testserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Servers that load a fixture tell the same of it as its lines do: the two ways to know what a restore has to give agree.
func TestLinesAreWhatServersSay(t *testing.T) {
	for _, f := range []struct {
		version string
		files   []string
	}{
		{"redis-7.0", []string{"redis-7.0.15/*"}},
		{"redis-8.0", []string{"redis-8.0.2/*", "redis-7.4/*"}},
		{"valkey-8.1", []string{"valkey-8.1.1/*"}},
		{"valkey-9.1", []string{"valkey-9.1.2/*"}},
	} {
		t.Run(f.version, func(t *testing.T) {
			t.Parallel()
			s := Start(t, f.version, "--databases", "1000")
			c := s.Client(t)
			keys := 0
			for _, pattern := range f.files {
				names, err := filepath.Glob("../../rdb/testdata/" + pattern + ".jsonl")
				if err != nil || len(names) == 0 {
					t.Fatalf("%s: %d files, %v", pattern, len(names), err)
				}
				for _, name := range names {
					data, err := os.ReadFile(strings.TrimSuffix(name, ".jsonl") + ".rdb")
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(s.Dir, "dump.rdb"), data, 0o600); err != nil {
						t.Fatal(err)
					}
					if err := c.Do(t.Context(), "DEBUG", "RELOAD", "NOSAVE").Err(); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					want, _ := Lines(t, name)
					if diff := Diff(want, Snapshot(t, c)); diff != "" {
						t.Errorf("%s: %s", name, diff)
					}
					keys += len(want)
				}
			}
			if keys < 50 {
				t.Errorf("only %d keys were compared", keys)
			}
		})
	}
}
