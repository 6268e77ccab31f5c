package dfs_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
)

// TestCheck checks a set that Dragonfly wrote, and sets that are wrong in one file and only as a whole.
func TestCheck(t *testing.T) {
	set, err := dfs.Open(os.DirFS(fixture), "mini-summary.dfs")
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Check(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
	id := strings.Repeat("ab", 16)
	good := stream("key", "snapshot-id", id, "shard-id", "1")
	wrong := stream("key", "snapshot-id", id, "shard-id", "1")
	wrong.Data[len(wrong.Data)-23] = 2 // a set, and so many members don't follow
	for want, shards := range map[string][2]*fstest.MapFile{
		"":                  {stream("other", "snapshot-id", id, "shard-id", "0"), good},
		"x-0001.dfs: rdb: ": {stream("other", "snapshot-id", id, "shard-id", "0"), wrong},
		"twice":             {stream("key", "snapshot-id", id, "shard-id", "0"), good},
	} {
		m := fstest.MapFS{"x-summary.dfs": stream("", "snapshot-id", id, "shard-count", "2"), "x-0000.dfs": shards[0], "x-0001.dfs": shards[1]}
		set, err := dfs.Open(m, "x-summary.dfs")
		if err != nil {
			t.Fatal(err)
		}
		err = set.Check(t.Context(), nil, nil)
		var corrupt *rdb.CorruptError
		if (want == "") != (err == nil) || err != nil && (!errors.As(err, &corrupt) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
