package catalog_test

import (
	"slices"
	"testing"

	"github.com/amberkv/amber/catalog"
)

func TestSetFiles(t *testing.T) {
	const set = "dragonfly:9"
	part := func(name, dialect string, keys, commands int64) catalog.Part {
		return catalog.Part{Name: name, Dialect: dialect, Keys: keys, Commands: commands}
	}
	for name, c := range map[string]struct {
		method string
		parts  []catalog.Part
		want   []string
	}{
		"flows":              {"flows", []catalog.Part{part("part-0000.dfs", set, 1, 2), part("part-0001.dfs.zst.age", set, 0, 0), part("part-0002.dfs.zst", set, 0, 0)}, []string{"part-0000.dfs", "part-0001.dfs.zst.age", "part-0002.dfs.zst"}},
		"fetch":              {"fetch", []catalog.Part{part("part-0000.dfs", set, 0, 0), part("part-0001.dfs", set, 1, 0)}, []string{"part-0001.dfs", "part-0000.dfs"}},
		"one part":           {"dumpfile", []catalog.Part{part("part-0000.dfs", set, 0, 0)}, nil},
		"no part":            {"dumpfile", nil, nil},
		"other files":        {"dumpfile", []catalog.Part{part("part-0000.rdb", set, 1, 0), part("part-0001.dfs", set, 0, 0)}, nil},
		"other servers":      {"dumpfile", []catalog.Part{part("part-0000.dfs", "redis:9", 1, 0), part("part-0001.dfs", set, 0, 0)}, nil},
		"keys in summary":    {"dumpfile", []catalog.Part{part("part-0000.dfs", set, 1, 0), part("part-0001.dfs", set, 1, 0)}, nil},
		"summary, commanded": {"flows", []catalog.Part{part("part-0000.dfs", set, 1, 0), part("part-0001.dfs", set, 0, 1)}, nil},
	} {
		b := &catalog.Backup{Source: catalog.Source{Method: c.method}, Parts: c.parts}
		before := slices.Clone(c.parts)
		var got []string
		for _, p := range b.SetFiles() {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, c.want) || !slices.Equal(b.Parts, before) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
