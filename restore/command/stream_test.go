package command

import (
	"fmt"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// Values that only RESTORE makes and that have no room in memory go by one command that is sent while they are read, also over
// connections that break in the middle of it.
func TestLargeValuesOfModules(t *testing.T) {
	src := testserver.Start(t, "redis-8.0", "--rdbcompression", "no")
	c := src.Client(t)
	const dims, elements = 300, 1500
	for key := range 2 {
		p := c.Pipeline()
		for i := range elements {
			vector := []any{"VADD", fmt.Sprint("vectors:", key), "VALUES", dims}
			for d := range dims {
				vector = append(vector, (i*7919+d*104729)%1000003)
			}
			p.Do(t.Context(), append(vector, fmt.Sprint("element:", i), "NOQUANT")...)
		}
		if _, err := p.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		c.Set(t.Context(), fmt.Sprint("key:", i), strings.Repeat("x", 500), 0)
	}
	img := take(t, src)
	src.Close()
	s := testserver.Start(t, "redis-8.0")
	c = s.Client(t)
	for _, conflict := range []restore.Conflict{restore.IntoEmpty, restore.MergeFail, restore.MergeSkip} {
		for _, at := range []int64{0, 100_000, 900_000, 1_500_000, 2_500_000} {
			if err := c.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			cut := &cutter{writes: at, times: 2, spare: 1} // that which looks at the target
			opts := cut.options(s.Options())
			rep, err := loader(t, opts, func(c *Config) { c.MaxValue, c.Connections = 10_000, 1 }).Load(t.Context(), img, &restore.Options{Conflict: conflict})
			if err != nil {
				t.Fatalf("cut after %d bytes: %v", at, err)
			}
			if rep.Keys != 1002 || rep.Converted != 0 || rep.Skipped != 0 || at > 0 && cut.cut.Load() == 0 && conflict == restore.IntoEmpty {
				t.Errorf("cut after %d bytes: the report says %d keys, %d by commands, %d skipped; %d connections were cut", at, rep.Keys, rep.Converted, rep.Skipped, cut.cut.Load())
			}
			for key := range 2 {
				n, err := c.Do(t.Context(), "VCARD", fmt.Sprint("vectors:", key)).Int()
				if err != nil || n != elements {
					t.Errorf("cut after %d bytes: there are %d elements, %v", at, n, err)
				}
			}
			if n, err := c.DBSize(t.Context()).Result(); err != nil || n != 1002 {
				t.Errorf("cut after %d bytes: there are %d keys, %v", at, n, err)
			}
		}
	}
	// They are there: each policy sees that.
	rep, err := loader(t, s.Options(), func(c *Config) { c.MaxValue = 10_000 }).Load(t.Context(), img, &restore.Options{Conflict: restore.MergeSkip})
	if err != nil || rep.Keys != 0 || rep.Skipped != 1002 {
		t.Errorf("all are there: %v, %+v", err, rep)
	}
	// What the target takes by no command is told, with its size.
	if err := c.ConfigSet(t.Context(), "proto-max-bulk-len", "1048576").Err(); err != nil {
		t.Fatal(err)
	}
	_, err = loader(t, s.Options(), func(c *Config) { c.MaxValue = 10_000 }).Load(t.Context(), img, replace)
	partial, ok := err.(*restore.PartialError)
	if !ok || len(partial.Failed) != 2 || !strings.Contains(partial.Failed[0], "proto-max-bulk-len") || partial.Keys != 1000 {
		t.Errorf("too large for any command: %v", err)
	}
}
