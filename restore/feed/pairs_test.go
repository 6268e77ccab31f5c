package feed

import (
	"errors"
	"reflect"
	"strconv"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// Every backup goes into every server that knows its dialect, with equal contents, and into no other.
func TestEveryPair(t *testing.T) {
	takes := map[string][]string{ // by writer
		"redis-7.0":  {"redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9.1"},
		"redis-8.0":  {"redis-8.0"},
		"valkey-8.1": {"redis-8.0", "valkey-8.1", "valkey-9.1"},
		"valkey-9.1": {"valkey-9.1"},
	}
	for _, from := range testserver.All() {
		img := sample(t, from, 300)
		for _, to := range testserver.All() {
			t.Run(from+"_to_"+to, func(t *testing.T) {
				t.Parallel()
				target := testserver.Start(t, to)
				c := target.Client(t)
				before := state(t, c)
				l := loader(t, target, nil)
				report, err := l.Load(t.Context(), img, nil)
				allowed := false
				for _, name := range takes[from] {
					allowed = allowed || name == to
				}
				sameState(t, before, state(t, c))
				if !allowed {
					var partial *restore.PartialError
					if !errors.Is(err, restore.ErrRefused) || errors.As(err, &partial) {
						t.Errorf("the error is %v: it should be ErrRefused, and no PartialError", err)
					}
					if keys := testserver.Snapshot(t, c); len(keys) > 0 {
						t.Errorf("the target has %d keys", len(keys))
					}
					if got := info(t, c)["second_repl_offset"]; got != "-1" {
						t.Error("the target was told to replicate")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if report.Keys != img.backup.Keys || report.Bytes != int64(len(img.data)) || report.Backup != img.backup.ID ||
					report.Method != "feed" || report.Target != target.Addr || report.Load <= 0 || report.Functions != 1 || !report.Proof.Counted ||
					report.Dialect != img.backup.Parts[0].Dialect || !reflect.DeepEqual(report.DBs, img.backup.DBs) {
					t.Errorf("the report is %+v", report)
				}
				holds(t, target, img)
				if err := c.Set(t.Context(), "after", "1", 0).Err(); err != nil {
					t.Errorf("the target takes no writes: %v", err)
				}
			})
		}
	}
}

func TestAccepts(t *testing.T) {
	for _, c := range []struct {
		engine, version, dialect string
		want                     restore.Level
	}{
		{"redis", "7.0.15", "redis:10", restore.Pass},
		{"redis", "7.0.15", "redis:11", restore.Fail},
		{"redis", "8.0.2", "redis:12", restore.Pass},
		{"redis", "8.0.2", "redis:13", restore.Fail},
		{"redis", "8.10.1", "redis:15", restore.Pass},
		{"redis", "8.9.0", "redis:14", restore.Pass},
		{"redis", "9.0.0", "redis:12", restore.Warn},
		{"redis", "8.0.2", "valkey:80", restore.Fail},
		{"redis", "6.2.16", "redis:9", restore.Pass},
		{"redis", "2.4.18", "redis:2", restore.Pass},
		{"redis", "2.4.18", "redis:6", restore.Fail},
		{"redis", "unstable", "redis:6", restore.Warn},
		{"valkey", "8.1.1", "redis:11", restore.Pass},
		{"valkey", "8.1.1", "redis:12", restore.Fail},
		{"valkey", "8.1.1", "valkey:80", restore.Fail},
		{"valkey", "9.1.2", "valkey:80", restore.Pass},
		{"valkey", "9.1.2", "redis:11", restore.Pass},
		{"valkey", "9.1.2", "redis:12", restore.Fail},
		{"valkey", "9.2.0", "valkey:80", restore.Warn},
		{"redis", "8.0.2", "dragonfly:9", restore.Fail},
	} {
		d, err := rdb.ParseDialect(c.dialect)
		if err != nil {
			t.Fatal(err)
		}
		if got, why := accepts(c.engine, c.version, d); got != c.want || why == "" {
			t.Errorf("%s into %s %s: %s (%s), want %s", c.dialect, c.engine, c.version, got, why, c.want)
		}
	}
}
