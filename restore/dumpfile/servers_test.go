package dumpfile_test

import (
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
)

// newest is the newest dialect that each server loads.
var newest = map[string]rdb.Dialect{
	"redis-7.0":  {Family: rdb.Redis, Version: 10},
	"redis-8.0":  {Family: rdb.Redis, Version: 12},
	"valkey-8.1": {Family: rdb.Redis, Version: 11},
	"valkey-9.1": {Family: rdb.Valkey, Version: 80},
}

// Every fixture is written as dump.rdb for every real server, in the newest dialect that it loads. The server starts from it and says then
// what one says that loads the fixture as it is or, where there is none, what the fixture's own server said; but for what was reported as lost.
// Each fixture is for a Redis and a Valkey, with CAMPAIGN=1 for all of them.
func TestServersStartFromEveryFixture(t *testing.T) {
	shelf, native := newShelf(t), testserver.References{}
	type kept struct {
		name    string
		b       *catalog.Backup
		want    map[string]string
		expired int64
	}
	var all []kept
	for _, name := range fixtures(t) {
		b := shelf.keep(t, name)
		want, byDB := testserver.Lines(t, lines(name))
		expired := int64(0)
		for _, n := range byDB {
			expired += n
		}
		if loaded, _ := native.Contents(t, name); loaded != nil {
			want = loaded
		}
		all = append(all, kept{name, b, want, expired})
	}
	for v, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			server := testserver.StartIn(t, version, dir, "--databases", "1000")
			client := server.Client(t)
			store := openDir(t, dir, nil)
			loader := newLoader(t, dumpfile.Config{Store: store, Name: "dump.rdb", Dialect: newest[version], Databases: 1000})
			lost := 0
			for i, f := range all {
				if (i+v)%2 != 0 && os.Getenv("CAMPAIGN") == "" {
					continue
				}
				b := f.b
				plan, err := shelf.restorer.Plan(t.Context(), b.ID, loader, replace)
				if err != nil {
					t.Fatalf("%s: %v", f.name, err)
				}
				if err := plan.Verdict.Err(nil); err != nil {
					// What is lost has to be accepted, else nothing is written.
					lost++
					write(t, store, "dump.rdb", "former")
					if _, err := shelf.restorer.Restore(t.Context(), b.ID, loader, replace); !errors.Is(err, restore.ErrNotAccepted) {
						t.Errorf("%s, without consent to what is lost: %v", f.name, err)
					}
					if read(t, store, "dump.rdb") != "former" {
						t.Errorf("%s was written without consent", f.name)
					}
				}
				opts := &restore.Options{Conflict: restore.Replace}
				for _, p := range plan.Verdict.Points {
					if p.Level == restore.Warn {
						opts.Accept = append(opts.Accept, p.Name)
					}
				}
				rep, err := shelf.restorer.Restore(t.Context(), b.ID, loader, opts)
				if err != nil {
					t.Fatalf("%s: %v", f.name, err)
				}
				want := maps.Clone(f.want)
				for _, l := range rep.Losses {
					if n := testserver.Lose(want, l.Name); l.Skipped > 0 && n != l.Skipped || strings.HasSuffix(l.Name, "expiry") && n != l.Count {
						t.Errorf("%s: %d keys lose something by the report, %d all, as %s, and %d do", f.name, l.Count, l.Skipped, l.Name, n)
					}
				}
				server.Restart(t)
				if diff := testserver.Diff(want, testserver.Snapshot(t, client)); diff != "" {
					t.Errorf("%s: %s", f.name, diff)
				}
				if rep.Keys != int64(len(want)) || rep.Expired != f.expired || !rep.Proof.Counted || rep.Dialect != newest[version].String() {
					t.Errorf("%s: %d keys are wanted and %d have expired; the report says %+v", f.name, len(want), f.expired, rep)
				}
				if n := len(testserver.Functions(t, client)); int64(n) != b.Functions {
					t.Errorf("%s: %d libraries, the backup has %d", f.name, n, b.Functions)
				}
			}
			if lost == 0 {
				t.Error("nothing was lost of any fixture")
			}
		})
	}
}
