package dfs_test

import (
	"testing"
	"time"

	"github.com/amberkv/amber/rdb/dfs"
)

func TestFillName(t *testing.T) {
	at := time.Date(2026, 8, 22, 11, 5, 3, 999, time.FixedZone("", 3600))
	for name, want := range map[string]string{
		dfs.DefaultName:             "dump-2026-08-22T11:05:03",
		"{timestamp}-{timestamp}":   "2026-08-22T11:05:03-2026-08-22T11:05:03",
		"{Y}{m}{d}":                 "20260822",
		"dump":                      "dump",
		"x-{hour}-{timestamp}.rdb":  "x-{hour}-2026-08-22T11:05:03.rdb",
		"{ timestamp }{timestamp}}": "{ timestamp }2026-08-22T11:05:03}",
	} {
		if got := dfs.FillName(name, at); got != want {
			t.Errorf("%s becomes %s, want %s", name, got, want)
		}
	}
}

// The rules are those of Dragonfly 1.40: glob(3) and the last change in a directory, a regular expression and the last write in a bucket.
func TestAtStart(t *testing.T) {
	const (
		older = "dump-2026-08-22T11:05:03-summary.dfs"
		newer = "dump-2026-08-23T11:05:03-summary.dfs"
	)
	for _, test := range []struct {
		dbfilename   string
		files        []string // the one that was changed last is the last one
		local, cloud string
	}{
		{dfs.DefaultName, nil, "", ""},
		{dfs.DefaultName, []string{newer, older}, older, older}, // the time in the name doesn't count
		{dfs.DefaultName, []string{older, newer, "dump-2026-08-23T11:05:03-0000.dfs", "dump.rdb", "x"}, newer, newer},
		{dfs.DefaultName, []string{older, "dump-2026-08-24T11:05:03.rdb"}, "dump-2026-08-24T11:05:03.rdb", "dump-2026-08-24T11:05:03.rdb"},
		{dfs.DefaultName, []string{older, "dump-old-summary.dfs"}, "dump-old-summary.dfs", older},
		{dfs.DefaultName, []string{older, "dump-2026-8-24T11:05:03-summary.dfs"}, "dump-2026-8-24T11:05:03-summary.dfs", older},
		{dfs.DefaultName, []string{older, newer + ".tmp", ".dump-x-summary.dfs"}, older, older},
		{"dump", []string{"dump-summary.dfs", "dump2-summary.dfs"}, "dump2-summary.dfs", "dump-summary.dfs"},
		{"dump", []string{"dump-summary.dfs", "dump.rdb"}, "dump.rdb", "dump.rdb"},
		{"dump", []string{"dump", "dump-summary.dfs"}, "dump", "dump-summary.dfs"},
		{"dump", []string{"dump-0000.dfs", "mydump.rdb"}, "", ""},
		{"dump.rdb", []string{"dump.rdb", "dump.rdb.rdb", "dump-1.rdb"}, "dump.rdb", "dump.rdb"},
		{"dump.rdb", []string{"dump_rdb", "dumpxrdb"}, "", ""},
		{"dump-summary.dfs", []string{"dump-summary.dfs", "dump-summary.dfs.rdb"}, "dump-summary.dfs", "dump-summary.dfs"},
		{"{Y}-{m}-{d}", []string{"2026-08-22-summary.dfs", "x-y-z.rdb"}, "x-y-z.rdb", "2026-08-22-summary.dfs"},
		{"d[ab]p", []string{"dap-summary.dfs", "d[ab]p-summary.dfs"}, "dap-summary.dfs", "d[ab]p-summary.dfs"},
		{"d[!a]p", []string{"dbp-summary.dfs", "dap-summary.dfs"}, "dbp-summary.dfs", ""},
		{"d(u|a)mp", []string{"dump-summary.dfs"}, "", ""},
		{"d[ump", []string{"dump-summary.dfs"}, "", ""},
		{".dump", []string{".dump-summary.dfs"}, ".dump-summary.dfs", ".dump-summary.dfs"},
	} {
		var files []dfs.File
		for i, name := range test.files {
			files = append(files, dfs.File{Name: name, ModTime: time.Unix(int64(1000+i), 0)})
		}
		for cloud, want := range map[bool]string{false: test.local, true: test.cloud} {
			got := ""
			if i := dfs.AtStart(test.dbfilename, files, cloud); i >= 0 {
				got = test.files[i]
			}
			if got != want {
				t.Errorf("%s of %q (in a bucket: %v): %q, want %q", test.dbfilename, test.files, cloud, got, want)
			}
		}
	}
}
