package command

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// A value that goes in pieces meets a key of its name as one that goes by RESTORE does: it stays, goes, or ends the restore, whole in
// every case.
func TestMergeOfPieces(t *testing.T) {
	for _, version := range testserver.All() {
		src, s := testserver.Start(t, version), testserver.Start(t, version)
		var fields []any
		for i := range 500 {
			fields = append(fields, fmt.Sprint("field:", i), strings.Repeat("v", 50))
		}
		for _, name := range []string{"both", "new"} {
			if err := src.Client(t).HSet(t.Context(), name, fields...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		img := take(t, src)
		c := s.Client(t)
		for _, conflict := range []restore.Conflict{restore.MergeFail, restore.MergeSkip, restore.MergeOverwrite} {
			if err := c.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			if err := c.Set(t.Context(), "both", "the target's", 0).Err(); err != nil {
				t.Fatal(err)
			}
			rep, err := loader(t, s.Options(), func(c *Config) { c.MaxValue = 1000 }).Load(t.Context(), img, &restore.Options{Conflict: conflict})
			typ, fresh := c.Type(t.Context(), "both").Val(), c.HLen(t.Context(), "new").Val()
			if left := reserved(testserver.Snapshot(t, c)); len(left) > 0 {
				t.Errorf("%s, %s: the target has %v", version, conflict, left)
			}
			switch conflict {
			case restore.MergeFail:
				if !errors.Is(err, restore.ErrRefused) || typ != "string" || fresh != 0 {
					t.Errorf("%s, %s: %v; the key is a %s, the other has %d fields", version, conflict, err, typ, fresh)
				}
			case restore.MergeSkip:
				if err != nil || rep.Skipped != 1 || rep.Keys != 1 || typ != "string" || fresh != 500 {
					t.Errorf("%s, %s: %v, %+v; the key is a %s, the other has %d fields", version, conflict, err, rep, typ, fresh)
				}
			case restore.MergeOverwrite:
				if n := c.HLen(t.Context(), "both").Val(); err != nil || rep.Keys != 2 || n != 500 || fresh != 500 {
					t.Errorf("%s, %s: %v, %+v; the key is a %s of %d fields, the other has %d", version, conflict, err, rep, typ, n, fresh)
				}
			}
		}
	}
}
