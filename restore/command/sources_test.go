package command

import (
	"errors"
	"maps"
	"os"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

func fixture(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../../rdb/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Each shard of a cluster has the same libraries of functions. They are loaded once, counted once, and no conflict of the backup with itself.
func TestLibrariesOfSeveralParts(t *testing.T) {
	img := imageOf(t, fixture(t, "redis-7.0.15/functions.rdb"), fixture(t, "redis-7.0.15/functions_only.rdb"))
	var references testserver.References
	_, want := references.Contents(t, "../../rdb/testdata/redis-7.0.15/functions.rdb")
	for _, conflict := range []restore.Conflict{restore.IntoEmpty, restore.Replace, restore.MergeSkip, restore.MergeOverwrite, restore.MergeFail} {
		s := testserver.Start(t, "redis-7.0")
		c := s.Client(t)
		rep, err := loader(t, s.Options(), nil).Load(t.Context(), img, &restore.Options{Conflict: conflict})
		if err != nil {
			t.Errorf("%q: %v", conflict, err)
			continue
		}
		if got := testserver.Functions(t, c); !maps.Equal(got, want) || rep.Functions != int64(len(want)) || img.backup.Functions <= rep.Functions {
			t.Errorf("%q: %d libraries, %d by the report, want %d", conflict, len(got), rep.Functions, len(want))
		}
	}
}

// No server but a Dragonfly gets values in Dragonfly's dialect, which has no functions, however well its encodings fit.
func TestDialectForFunctions(t *testing.T) {
	s := testserver.Start(t, "redis-7.0")
	for _, names := range [][]string{{"valkey-8.1.1/sets.rdb", "valkey-8.1.1/functions.rdb"}, {"dragonfly-1.40/mini.rdb"}} {
		var streams [][]byte
		for _, name := range names {
			streams = append(streams, fixture(t, name))
		}
		v, err := loader(t, s.Options(), nil).Check(t.Context(), restore.Requirements{Backup: imageOf(t, streams...).backup})
		if err != nil {
			t.Fatal(err)
		}
		if v.Dialect.Family != rdb.Redis || v.Dialect.Version < 10 {
			t.Errorf("%q go in %v", names, v.Dialect)
		}
	}
}

// Vector sets of a newer release than the target's, or of one that is not known, are no type that the target takes.
func TestVectorSetsOfANewerRelease(t *testing.T) {
	s := testserver.Start(t, "redis-8.0")
	l := loader(t, s.Options(), nil)
	for name, takes := range map[string]bool{"redis-8.6.3/vectorset.rdb": false, "redis-8.0.2/vectorset.rdb": true, "": false} {
		b := imageOf(t, fixture(t, "redis-8.0.2/vectorset.rdb")).backup
		if name == "" {
			b.Source = catalog.Source{}
		} else {
			b = imageOf(t, fixture(t, name)).backup
		}
		v, err := l.Check(t.Context(), restore.Requirements{Backup: b})
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Modules) == 1 != takes {
			t.Errorf("%q of %+v: the target takes %v", name, b.Source, v.Modules)
		}
	}
}

// Values of modules go by RESTORE alone. A user who may not use it does without them, when that was accepted.
func TestModulesWithoutRestore(t *testing.T) {
	s := testserver.Start(t, "redis-8.0")
	s.AddUser(t, "plain", "CANARY-plain", "~*", "+@all", "-restore")
	opts := s.Options()
	opts.Username, opts.Password = "plain", "CANARY-plain"
	b := imageOf(t, fixture(t, "redis-8.0.2/vectorset.rdb")).backup
	for final, want := range map[bool]error{false: nil, true: restore.ErrRefused} {
		v, err := loader(t, opts, nil).Check(t.Context(), restore.Requirements{Backup: b, Final: final})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Err(nil); !errors.Is(got, want) || len(v.Modules) > 0 || v.Modules == nil {
			t.Errorf("final %v: %v, modules %v", final, got, v.Modules)
		}
	}
}

// Where neither RESTORE nor commands make fields that expire, the conversion lets go of their expiry: so that it is known before, and so that
// what has expired doesn't come back to stay.
func TestFieldExpiryWithoutCommands(t *testing.T) {
	for version, want := range map[string]bool{"redis-7.0": false, "valkey-9.1": true} {
		s := testserver.Start(t, version)
		s.AddUser(t, "plain", "CANARY-plain", "~*", "+@all", "-restore")
		opts := s.Options()
		opts.Username, opts.Password = "plain", "CANARY-plain"
		v, err := loader(t, opts, nil).Check(t.Context(), restore.Requirements{Backup: imageOf(t, fixture(t, "valkey-9.1.2/hash_field_ttl.rdb")).backup})
		if err != nil {
			t.Fatal(err)
		}
		if keeps := v.Dialect.Family == rdb.Valkey; keeps != want || !want && v.Dialect.Version > 11 {
			t.Errorf("%s gets %v", version, v.Dialect)
		}
	}
}
