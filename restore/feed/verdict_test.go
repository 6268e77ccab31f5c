package feed

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

func altered(img *image, change func(b *catalog.Backup)) *image {
	b, i := *img.backup, *img
	change(&b)
	i.backup = &b
	return &i
}

// Before the conversion a target isn't held to what the backup is in: the verdict says what it takes.
func TestVerdictSaysWhatTheTargetTakes(t *testing.T) {
	for _, c := range []struct {
		version string
		parts   []string
		want    string
		modules []string
	}{
		{"redis-7.0", []string{"redis:10"}, "redis:10", []string{}},
		{"redis-7.0", []string{"redis:9"}, "redis:9", []string{}}, // it need not be converted
		{"redis-7.0", []string{"redis:12"}, "redis:10", []string{}},
		{"redis-7.0", []string{"valkey:80"}, "redis:10", []string{}},
		{"redis-7.0", []string{"dragonfly:9"}, "redis:10", []string{}},
		{"redis-7.0", []string{"redis:9", "redis:9", "redis:9"}, "redis:9", []string{}},
		{"redis-7.0", []string{"redis:9", "redis:10"}, "redis:10", []string{}},
		{"redis-8.0", []string{"valkey:80"}, "redis:12", []string{"vectorset"}},
		{"valkey-8.1", []string{"redis:12"}, "redis:11", []string{}},
		{"valkey-8.1", []string{"redis:11"}, "redis:11", []string{}},
		{"valkey-9.1", []string{"redis:12"}, "valkey:80", []string{}},
		{"valkey-9.1", []string{"redis:11"}, "redis:11", []string{}},
	} {
		s := testserver.Start(t, c.version)
		b := &catalog.Backup{DBs: []catalog.DB{{Index: 3, Keys: 1}}, Modules: []catalog.Module{{Name: "ReJSON-RL", Keys: 1}, {Name: "strangers", Keys: 1}}}
		for _, d := range c.parts {
			b.Parts = append(b.Parts, catalog.Part{Name: d, Dialect: d, RawSize: 1})
		}
		v, err := loader(t, s, nil).Check(t.Context(), restore.Requirements{Backup: b})
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Err(nil); err != nil {
			t.Errorf("%s: %v", c.version, err)
		}
		if want, _ := rdb.ParseDialect(c.want); v.Dialect != want || !v.OneStream || !reflect.DeepEqual(v.Modules, c.modules) {
			t.Errorf("%s takes %v, one stream %v, modules %q for %q; want %s, modules %q", c.version, v.Dialect, v.OneStream, v.Modules, c.parts, c.want, c.modules)
		}
		converted := c.want != c.parts[0]
		if p := verdictPoint(v, "rdb-version"); strings.Contains(p.Detail, "is converted") != converted {
			t.Errorf("%s: the verdict on %q is %+v", c.version, c.parts, p)
		}
		for _, name := range []string{"latency", "time"} {
			if p := verdictPoint(v, name); p.Level != restore.Pass {
				t.Errorf("there is no point %s: %+v", name, v)
			}
		}
		if n := strings.Count(strings.Join(details(v, "modules"), "\n"), "can only be left out"); n != 2 {
			t.Errorf("%s: of two modules that it lacks this is told: %q", c.version, details(v, "modules"))
		}
		// What is to be loaded as it is has to suit.
		v, err = loader(t, s, nil).Check(t.Context(), restore.Requirements{Backup: b, Final: true})
		if err != nil {
			t.Fatal(err)
		}
		if p := verdictPoint(v, "modules"); p.Level != restore.Fail {
			t.Errorf("%s: a stream with modules that it lacks gets %+v", c.version, p)
		}
		if p := verdictPoint(v, "parts"); (p.Level == restore.Fail) != (len(b.Parts) > 1) {
			t.Errorf("%s: a stream of %d parts gets %+v", c.version, len(b.Parts), p)
		}
		s.Close()
	}
}

func details(v restore.Verdict, name string) (all []string) {
	for _, p := range v.Points {
		if p.Name == name {
			all = append(all, p.Detail)
		}
	}
	return all
}

// Of the databases, only those matter that are written to.
func TestDatabasesThatAreSelected(t *testing.T) {
	s := testserver.Start(t, "valkey-8.1", "--databases", "4")
	b := &catalog.Backup{Parts: []catalog.Part{{Dialect: "redis:11", RawSize: 1}}, DBs: []catalog.DB{{Index: 0, Keys: 1}, {Index: 7, Keys: 1}}}
	for name, c := range map[string]struct {
		selection restore.Selection
		final     bool
		want      restore.Level
	}{
		"all":      {want: restore.Fail},
		"selected": {selection: restore.Selection{DBs: []int{0}}, want: restore.Pass},
		"mapped":   {selection: restore.Selection{MapDB: map[int]int{7: 3}}, want: restore.Pass},
		"too high": {selection: restore.Selection{DBs: []int{0}, MapDB: map[int]int{0: 4}}, want: restore.Fail},
		"picked":   {selection: restore.Selection{Match: "a*"}, want: restore.Pass},
		"found":    {selection: restore.Selection{Match: "a*"}, final: true, want: restore.Fail},
		"final":    {selection: restore.Selection{MapDB: map[int]int{7: 3}}, final: true, want: restore.Fail},
	} {
		v, err := loader(t, s, nil).Check(t.Context(), restore.Requirements{Backup: b, Final: c.final, Options: &restore.Options{Select: c.selection}})
		if err != nil {
			t.Fatal(err)
		}
		if p := verdictPoint(v, "databases"); p.Level != c.want {
			t.Errorf("%s: %+v, want %s", name, p, c.want)
		}
	}
}

// A restore by replication can't leave a target's keys alone.
func TestMergeIsRefused(t *testing.T) {
	img := sample(t, "redis-7.0", 20)
	s := testserver.Start(t, "redis-7.0")
	for _, c := range []restore.Conflict{restore.MergeSkip, restore.MergeOverwrite, restore.MergeFail} {
		refuses(t, loader(t, s, nil), s, img, "conflict", &restore.Options{Conflict: c})
	}
}

// The memory is that of the estimate, if there is one.
func TestMemoryByEstimate(t *testing.T) {
	s := testserver.Start(t, "valkey-8.1", "--maxmemory", "100000000")
	b := &catalog.Backup{Parts: []catalog.Part{{Dialect: "redis:11", RawSize: 1}}, Source: catalog.Source{UsedMemory: 50_000_000}}
	for memory, want := range map[int64]restore.Level{0: restore.Pass, 99_000_000: restore.Pass, 101_000_000: restore.Warn} {
		v, err := loader(t, s, nil).Check(t.Context(), restore.Requirements{Backup: b, Memory: memory})
		if err != nil {
			t.Fatal(err)
		}
		p := verdictPoint(v, "memory")
		if p.Level != want || strings.Contains(p.Detail, "%") != (memory > 0) {
			t.Errorf("with %d bytes estimated: %+v", memory, p)
		}
		if memory > 0 && !errors.Is(v.Err(nil), restore.ErrNotAccepted) != (want == restore.Pass) {
			t.Errorf("with %d bytes estimated the verdict's error is %v", memory, v.Err(nil))
		}
	}
}

func TestView(t *testing.T) {
	s := testserver.Start(t, "redis-7.0")
	if got := loader(t, s, nil).View(); got.Addr != s.Addr {
		t.Errorf("the view is of %s", got.Addr)
	}
}

// Commands that are to be executed on top of keys are for another loader, which the verdict names. Without them a target is fed only if that was accepted;
// append-only files never.
func TestVerdictOfCommands(t *testing.T) {
	s := testserver.Start(t, "redis-7.0")
	for _, c := range []struct {
		parts    []string
		commands int64
		accept   []string
		refused  bool
	}{
		{[]string{"dragonfly:9"}, 0, nil, false},
		{[]string{"dragonfly:9"}, 5, nil, true},
		{[]string{"dragonfly:9"}, 5, []string{"journal"}, false},
		{[]string{"dragonfly:9"}, 5, []string{"all"}, false},
		{[]string{"redis:10", "aof"}, 5, []string{"all"}, true},
	} {
		b := &catalog.Backup{Commands: c.commands}
		for _, d := range c.parts {
			b.Parts = append(b.Parts, catalog.Part{Name: d, Dialect: d, RawSize: 1})
		}
		v, err := loader(t, s, nil).Check(t.Context(), restore.Requirements{Backup: b, Options: &restore.Options{Accept: c.accept}})
		if err != nil {
			t.Fatal(err)
		}
		if p := verdictPoint(v, "commands"); v.Failed() != c.refused || c.refused && !strings.Contains(p.Detail, "--method command") {
			t.Errorf("%+v: %+v", c, v.Points)
		}
	}
}
