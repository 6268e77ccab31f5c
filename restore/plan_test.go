package restore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/memstore"
)

// fixture returns a snapshot that a real server wrote.
func fixture(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../rdb/testdata/" + name + ".rdb")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// names returns the keys of a stream, as "db/type/name", and the latest expiry among them.
func names(t *testing.T, data []byte) (all []string, last int64) {
	t.Helper()
	for e, err := range rdb.NewReader(bytes.NewReader(data), nil).Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == rdb.KindKey {
			all = append(all, fmt.Sprintf("%d/%s/%s", e.DB, e.Type, e.Key))
			if e.HasExpiry {
				last = max(last, e.ExpireAt)
			}
		}
	}
	slices.Sort(all)
	return all, last
}

func dialect(t *testing.T, s string) rdb.Dialect {
	t.Helper()
	d, err := rdb.ParseDialect(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What the target can't hold is told before anything is written, by name, and has to be accepted.
func TestLossHasToBeAccepted(t *testing.T) {
	store := memstore.New(nil)
	raw := fixture(t, "redis-7.4/hash_field_ttl")
	b := keep(t, store, raw, nil)
	r, to := newRestorer(t, store), &target{verdict: restore.Verdict{Dialect: dialect(t, "redis:10")}}
	_, err := r.Restore(t.Context(), b.ID, to, nil)
	if !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), "field-expiry") || to.loads != 0 {
		t.Fatalf("%v, Load was called %d times", err, to.loads)
	}
	rep, err := r.Restore(t.Context(), b.ID, to, &restore.Options{Accept: []string{"field-expiry"}})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := names(t, raw)
	got, _ := names(t, to.loaded)
	if !slices.Equal(got, want) {
		t.Errorf("the target got %v instead of %v", got, want)
	}
	if !bytes.HasPrefix(to.loaded, []byte("REDIS0010")) || rep.Dialect != "redis:10" || rep.Converted == 0 || len(rep.Losses) != 1 ||
		rep.Losses[0].Name != "field-expiry" || rep.Losses[0].Count == 0 || rep.Losses[0].Skipped != 0 || len(rep.Losses[0].Keys) == 0 {
		t.Errorf("the report is %+v", rep)
	}
	// A plan tells the same, and writes nothing.
	plan, err := r.Plan(t.Context(), b.ID, to, nil)
	if err != nil || to.loads != 1 {
		t.Fatalf("%v, Load was called %d times", err, to.loads)
	}
	if !slices.ContainsFunc(plan.Verdict.Points, func(p restore.Point) bool { return p.Name == "field-expiry" && p.Level == restore.Warn }) ||
		plan.Memory <= 0 || plan.MemoryByType["hash"] <= 0 || plan.Report.Keys != b.Keys || plan.Report.Bytes != int64(len(to.loaded)) {
		t.Errorf("the plan is %+v", plan)
	}
}

// What is selected, renamed and left out is what the loader gets, with a manifest of exactly that.
func TestSelection(t *testing.T) {
	store := memstore.New(nil)
	raw := fixture(t, "redis-7.0.15/expires") // keys in several databases, all with their expiry ahead or none
	b := keep(t, store, raw, nil)
	all, last := names(t, raw)
	if last == 0 || len(b.DBs) < 2 {
		t.Fatalf("the fixture has keys in %d databases, the last expiry is %d", len(b.DBs), last)
	}
	for name, test := range map[string]struct {
		opts restore.Options
		want func(db int, typ, key string) (string, bool)
	}{
		"database": {restore.Options{Select: restore.Selection{DBs: []int{b.DBs[1].Index}}, Expiry: restore.ExpiryDrop},
			func(db int, typ, key string) (string, bool) {
				return fmt.Sprintf("%d/%s/%s", db, typ, key), db == b.DBs[1].Index
			}},
		"mapped": {restore.Options{Select: restore.Selection{DBs: []int{b.DBs[1].Index}, MapDB: map[int]int{b.DBs[1].Index: 7}}, Expiry: restore.ExpiryDrop},
			func(db int, typ, key string) (string, bool) {
				return fmt.Sprintf("7/%s/%s", typ, key), db == b.DBs[1].Index
			}},
		"type": {restore.Options{Select: restore.Selection{Types: []string{"string"}}, Expiry: restore.ExpiryDrop},
			func(db int, typ, key string) (string, bool) {
				return fmt.Sprintf("%d/%s/%s", db, typ, key), typ == "string"
			}},
		"prefix": {restore.Options{Select: restore.Selection{AddPrefix: "new:"}, Expiry: restore.ExpiryDrop},
			func(db int, typ, key string) (string, bool) { return fmt.Sprintf("%d/%s/new:%s", db, typ, key), true }},
	} {
		t.Run(name, func(t *testing.T) {
			var want []string
			for _, k := range all {
				var db int
				parts := strings.SplitN(k, "/", 3)
				fmt.Sscan(parts[0], &db)
				if text, ok := test.want(db, parts[1], parts[2]); ok {
					want = append(want, text)
				}
			}
			slices.Sort(want)
			to := &target{}
			rep, err := newRestorer(t, store).Restore(t.Context(), b.ID, to, &test.opts)
			if err != nil {
				t.Fatal(err)
			}
			got, expiry := names(t, to.loaded)
			if !slices.Equal(got, want) || expiry != 0 {
				t.Errorf("the target got %v instead of %v, the last expiry is %d", got, want, expiry)
			}
			if rep.Keys != int64(len(want)) || rep.Filtered != b.Keys-rep.Keys {
				t.Errorf("the report says %d keys and %d left out, of %d", rep.Keys, rep.Filtered, b.Keys)
			}
		})
	}
}

// Keys that have expired are left out and counted; shifting brings them back for as long as they had left when they were saved.
func TestExpiry(t *testing.T) {
	store := memstore.New(nil)
	raw := fixture(t, "redis-8.6.3/expired_inside")
	all, last := names(t, raw)
	if last > time.Now().UnixMilli() {
		t.Fatal("the fixture is from the future")
	}
	before := time.UnixMilli(0)
	b := keep(t, store, raw, func(b *catalog.Backup) { b.CreatedAt = before })
	if b.Expires == 0 {
		t.Fatal("nothing expires")
	}
	to := &target{}
	rep, err := newRestorer(t, store).Restore(t.Context(), b.ID, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := names(t, to.loaded); int64(len(got)) != b.Keys-b.Expires || rep.Expired != b.Expires || rep.Keys != int64(len(got)) {
		t.Errorf("%d of %d keys were left, the report says %+v", len(got), len(all), rep)
	}
	// The backup says that it is from 1970, so that it is older by far than its keys.
	if _, err = newRestorer(t, store).Restore(t.Context(), b.ID, to, &restore.Options{Expiry: restore.ExpiryShift}); err != nil {
		t.Fatal(err)
	}
	got, shifted := names(t, to.loaded)
	if diff := shifted - last - time.Since(before).Milliseconds(); !slices.Equal(got, all) || math.Abs(float64(diff)) > 60_000 {
		t.Errorf("%d of %d keys are there, the last expires at %d instead of %d plus the age of the backup", len(got), len(all), shifted, last)
	}
}

// A backup of several parts becomes one stream where the target takes one, and a key that two parts have is found before anything is written.
func TestPartsBecomeOneStream(t *testing.T) {
	parts := [][]byte{fixture(t, "redis-7.0.15/lists_plain"), fixture(t, "redis-7.0.15/zsets"), fixture(t, "redis-7.0.15/functions")}
	one := &target{verdict: restore.Verdict{OneStream: true}}
	store := memstore.New(nil)
	b := keepParts(t, store, parts...)
	rep, err := newRestorer(t, store).Restore(t.Context(), b.ID, one, nil)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, p := range parts {
		all, _ := names(t, p)
		want = append(want, all...)
	}
	slices.Sort(want)
	if got, _ := names(t, one.loaded); !slices.Equal(got, want) || rep.Keys != b.Keys || rep.Functions != b.Functions {
		t.Errorf("the stream has %d keys instead of %d; the report is %+v", len(got), len(want), rep)
	}
	store = memstore.New(nil)
	b = keepParts(t, store, parts[0], parts[1], parts[0])
	one.loads = 0
	if _, err := newRestorer(t, store).Restore(t.Context(), b.ID, one, nil); !errors.Is(err, restore.ErrNotVerified) || one.loads > 0 {
		t.Errorf("with a key in two parts: %v, Load was called %d times", err, one.loads)
	}
}

// Closing a stream that is being converted ends it, at any point, and a part that isn't what its manifest says is an error of the stream.
func TestConvertedStreamIsProved(t *testing.T) {
	store := memstore.New(nil)
	raw := fixture(t, "redis-7.4/hash_field_ttl")
	b := keep(t, store, raw, nil)
	opts := &restore.Options{Select: restore.Selection{AddPrefix: "x"}}
	to := &target{}
	plan, err := newRestorer(t, store).Plan(t.Context(), b.ID, &target{}, opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newRestorer(t, store).Restore(t.Context(), b.ID, to, opts); err != nil {
		t.Fatal(err)
	}
	if got, _ := names(t, to.loaded); int64(len(got)) != plan.Report.Keys || plan.Report.Bytes != int64(len(to.loaded)) {
		t.Errorf("%d keys of %d bytes came, the plan says %d of %d", len(got), len(to.loaded), plan.Report.Keys, plan.Report.Bytes)
	}
	for _, n := range []int{0, 1, 9, len(to.loaded) / 2} {
		closing := &closer{after: n}
		if _, err := newRestorer(t, store).Restore(t.Context(), b.ID, closing, opts); err != nil {
			t.Errorf("closed after %d bytes: %v", n, err)
		}
	}
}

// closer reads a little and closes.
type closer struct {
	target
	after int
}

func (c *closer) Load(ctx context.Context, src restore.Source, _ *restore.Options) (*restore.Report, error) {
	r, err := src.Open(ctx, src.Backup().Parts[0])
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r, make([]byte, c.after)); err != nil {
		return nil, err
	}
	return &restore.Report{}, r.Close()
}

// A target that can't take search indexes with the stream doesn't get them, and that has to be accepted.
func TestIndexesAreLeftOut(t *testing.T) {
	store := memstore.New(nil)
	raw := []byte("REDIS0009\xfa\x0csearch-index\x050 idx\xdc\x01\x00\x00\x00\x00\x01k\x01v\xff\x00\x00\x00\x00\x00\x00\x00\x00")
	b := keep(t, store, raw, nil)
	r, to := newRestorer(t, store), &target{verdict: restore.Verdict{Dialect: dialect(t, "dragonfly:9"), NoIndexes: true}}
	if _, err := r.Restore(t.Context(), b.ID, to, nil); !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), "search-index") || to.loads != 0 {
		t.Fatalf("%v, Load was called %d times", err, to.loads)
	}
	if _, err := r.Restore(t.Context(), b.ID, to, &restore.Options{Accept: []string{"search-index"}}); err != nil {
		t.Fatal(err)
	}
	if got, _ := names(t, to.loaded); !slices.Equal(got, []string{"0/string/k"}) || bytes.Contains(to.loaded, []byte("search-index")) {
		t.Errorf("the target got %v: %q", got, to.loaded)
	}
}
