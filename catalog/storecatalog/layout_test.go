package storecatalog_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

var allStates = []catalog.State{
	catalog.StateRunning, catalog.StateReady, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting,
}

// backup returns a backup that began n milliseconds after some time.
func backup(n int, state catalog.State) *catalog.Backup {
	began := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Millisecond)
	b := &catalog.Backup{
		Format: catalog.Format, ID: catalog.NewID(began), DataStore: "orders", Kind: catalog.KindManual, State: state, CreatedAt: began, Keys: int64(n),
	}
	sum := strings.Repeat("0123456789abcdef", 4)
	b.Parts = []catalog.Part{{Name: "part-0", Key: b.Prefix() + "part-0", SHA256: sum, RawSHA256: sum}}
	return b
}

func as(b *catalog.Backup, state catalog.State) *catalog.Backup {
	c := *b
	c.State = state
	return &c
}

func mustPut(t *testing.T, c *storecatalog.Catalog, b *catalog.Backup, prev catalog.Revision) catalog.Revision {
	t.Helper()
	rev, err := c.Put(t.Context(), b, prev)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func keys(t *testing.T, s storage.Store) []string {
	t.Helper()
	var keys []string
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(info.Key, "_index/") { // which tests of its own are about
			keys = append(keys, info.Key)
		}
	}
	return keys
}

// listed returns the states of what a fresh catalog lists, and its errors.
func listed(t *testing.T, s storage.Store) (states []catalog.State, errs []error) {
	t.Helper()
	for b, err := range newCatalog(t, s, nil).List(t.Context(), catalog.Query{States: allStates}) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		states = append(states, b.State)
	}
	return states, errs
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]storecatalog.Config{
		"no store":      {},
		"negative skew": {Store: memstore.New(nil), ClockSkew: -1},
	} {
		if c, err := storecatalog.New(cfg); err == nil || c != nil {
			t.Errorf("New with %s returned %v, %v", name, c, err)
		}
	}
}

// TestLayout holds the names of objects: other processes and later versions rely on them.
func TestLayout(t *testing.T) {
	s := memstore.New(nil)
	c := newCatalog(t, s, nil)
	b := backup(1, catalog.StateRunning)
	p := b.Prefix()
	rev := catalog.Revision("")
	for n, want := range [][]string{
		{"run.json"},
		{"manifest.json", "run.json"},
		{"manifest-000003.json", "manifest.json", "run.json"},
		{"manifest-000003.json", "manifest-000004.json", "manifest.json", "run.json"},
	} {
		rev = mustPut(t, c, as(b, []catalog.State{catalog.StateRunning, catalog.StateReady, catalog.StateReady, catalog.StateDeleting}[n]), rev)
		for i := range want {
			want[i] = p + want[i]
		}
		if got := keys(t, s); !slices.Equal(got, want) {
			t.Errorf("after Put number %d there are %q, want %q", n+1, got, want)
		}
	}
	if err := c.Delete(t.Context(), b.ID, rev); err != nil {
		t.Fatal(err)
	}
	if got := keys(t, s); len(got) != 0 {
		t.Errorf("after Delete there are %q", got)
	}
	b = backup(2, catalog.StateReady)
	mustPut(t, c, b, "")
	if got := keys(t, s); !slices.Equal(got, []string{b.Prefix() + "manifest.json", b.Prefix() + "run.json"}) {
		t.Errorf("after Put of a ready backup there are %q", got)
	}
	data, err := storage.ReadFile(t.Context(), s, b.Prefix()+"run.json", catalog.MaxManifestLen)
	if err != nil {
		t.Fatal(err)
	}
	if claim, err := catalog.Decode(data); err != nil || claim.State != catalog.StateRunning {
		t.Errorf("run.json of a backup that was put as ready says %+v, %v", claim, err)
	}
}

// TestNothingButTheStore: a catalog that has never seen the backups finds them all.
func TestNothingButTheStore(t *testing.T) {
	s := memstore.New(nil)
	var ids []catalog.ID
	for n := range 20 {
		b := backup(n, catalog.StateReady)
		b.DataStore = fmt.Sprintf("store-%d", n%3)
		b.Parts[0].Key = b.Prefix() + "part-0"
		mustPut(t, newCatalog(t, s, nil), b, "")
		ids = append(ids, b.ID)
	}
	for n, id := range ids {
		b, rev, err := newCatalog(t, s, nil).Get(t.Context(), id)
		if err != nil || b.Keys != int64(n) {
			t.Fatalf("Get of number %d: %v, %v", n, b, err)
		}
		if err := newCatalog(t, s, nil).Delete(t.Context(), id, rev); err != nil {
			t.Fatal(err)
		}
	}
	if got := keys(t, s); len(got) != 0 {
		t.Errorf("there are %q left", got)
	}
}

// TestForeignObjects: what isn't a manifest by its name is nobody's business, and stays.
func TestForeignObjects(t *testing.T) {
	s := memstore.New(nil)
	b := backup(1, catalog.StateReady)
	c := newCatalog(t, s, nil)
	rev := mustPut(t, c, b, "")
	p := b.Prefix()
	var foreign []string
	for _, key := range []string{
		"manifest.json", "run.json", "orders/manifest.json", "orders/readme.txt", "orders/latest/manifest.json", p + "part-0",
		p + "manifest-3.json", p + "manifest-0000003.json", p + "manifest-000002.json", p + "manifest-000000.json", p + "manifest-.json", p + "manifest--00003.json",
		p + "manifest-+00003.json", p + "manifest-000003.json.tmp", p + "manifest-0x0003.json", p + "Manifest.json", p + "sub/manifest.json", p + "manifest-99999999999999999999.json",
		"_x/" + string(b.ID) + "/manifest.json", "deep/orders/" + string(b.ID) + "/manifest.json", "orders/" + string(b.ID) + "x/manifest.json",
	} {
		if err := storage.WriteFile(t.Context(), s, key, []byte("foreign"), nil); err != nil {
			t.Fatal(err)
		}
		foreign = append(foreign, key)
	}
	if states, errs := listed(t, s); !slices.Equal(states, []catalog.State{catalog.StateReady}) || errs != nil {
		t.Errorf("List gives %v, %v", states, errs)
	}
	if _, got, err := c.Get(t.Context(), b.ID); err != nil || got != rev {
		t.Errorf("Get gives the revision %q, %v", got, err)
	}
	if err := c.Delete(t.Context(), b.ID, rev); err != nil {
		t.Fatal(err)
	}
	slices.Sort(foreign)
	if got := keys(t, s); !slices.Equal(got, foreign) {
		t.Errorf("after Delete there are %q, want %q", got, foreign)
	}
}

// TestCorrupt: what can't be trusted names its key, and can be deleted.
func TestCorrupt(t *testing.T) {
	other := backup(99, catalog.StateReady)
	otherData, err := catalog.Encode(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":                   {},
		"no manifest":             []byte("hello"),
		"of another backup":       otherData,
		"larger than any":         make([]byte, catalog.MaxManifestLen+1),
		"cut":                     otherData[:len(otherData)-1],
		"of a newer Amber's kind": []byte("{\n  \"format\": 2\n}\n"),
	} {
		s := memstore.New(nil)
		c := newCatalog(t, s, nil)
		b := backup(1, catalog.StateReady)
		mustPut(t, c, b, "")
		if err := storage.WriteFile(t.Context(), s, b.Prefix()+"manifest.json", data, nil); err != nil {
			t.Fatal(err)
		}
		got, rev, err := newCatalog(t, s, nil).Get(t.Context(), b.ID)
		if got != nil || rev == "" || !errors.Is(err, catalog.ErrCorrupt) || !strings.Contains(err.Error(), b.Prefix()+"manifest.json") {
			t.Errorf("%s: Get returns %v, %q, %v", name, got, rev, err)
		}
		if states, errs := listed(t, s); len(states) != 0 || len(errs) != 1 || !strings.Contains(errs[0].Error(), b.Prefix()+"manifest.json") {
			t.Errorf("%s: List gives %v, %v", name, states, errs)
		}
		if err := c.Delete(t.Context(), b.ID, "2-0000000000000000"); !errors.Is(err, catalog.ErrConflict) {
			t.Errorf("%s: Delete with another revision: %v", name, err)
		}
		if err := c.Delete(t.Context(), b.ID, rev); err != nil {
			t.Errorf("%s: Delete: %v", name, err)
		}
		if got := keys(t, s); len(got) != 0 {
			t.Errorf("%s: after Delete there are %q", name, got)
		}
	}
}

// TestTwoDataStores: an ID that two data stores have, which can only come of copying, is told and not guessed.
func TestTwoDataStores(t *testing.T) {
	s := memstore.New(nil)
	b := backup(1, catalog.StateReady)
	copied := *b
	copied.DataStore, copied.Parts = "invoices", slices.Clone(b.Parts)
	copied.Parts[0].Key = copied.Prefix() + "part-0"
	mustPut(t, newCatalog(t, s, nil), b, "")
	mustPut(t, newCatalog(t, s, nil), &copied, "")
	_, rev, err := newCatalog(t, s, nil).Get(t.Context(), b.ID)
	if !errors.Is(err, catalog.ErrCorrupt) || !strings.Contains(err.Error(), "invoices, orders") {
		t.Errorf("Get: %v", err)
	}
	if err := newCatalog(t, s, nil).Delete(t.Context(), b.ID, rev); !errors.Is(err, catalog.ErrCorrupt) {
		t.Errorf("Delete: %v", err)
	}
	if states, errs := listed(t, s); len(states) != 2 || errs != nil {
		t.Errorf("List gives %v, %v", states, errs)
	}
}

func TestLeaseLayout(t *testing.T) {
	s := memstore.New(nil)
	now := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)
	c, err := storecatalog.New(storecatalog.Config{Store: s, Owner: "host-7 process 42", Now: func() time.Time { return now }, ClockSkew: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		lease, err := c.Acquire(t.Context(), "backup-orders", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_, err = newCatalog(t, s, func() time.Time { return now }).Acquire(t.Context(), "backup-orders", time.Minute)
		var held *catalog.HeldError
		if !errors.As(err, &held) || held.Owner != "host-7 process 42" || !held.Until.Equal(now.Add(time.Minute+5*time.Second)) {
			t.Errorf("Acquire of a lease that is held: %v", err)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// Only the newest stays, for its token; also after its release.
	if got := keys(t, s); !slices.Equal(got, []string{"_leases/backup-orders/0000000000000004.json"}) {
		t.Errorf("after four leases there are %q", got)
	}
	// The skew counts to the nanosecond.
	if _, err := c.Acquire(t.Context(), "backup-orders", time.Minute); err != nil {
		t.Fatal(err)
	}
	end := now.Add(time.Minute + 3*time.Second)
	now = end.Add(-1)
	if _, err := c.Acquire(t.Context(), "backup-orders", time.Minute); !errors.Is(err, catalog.ErrHeld) {
		t.Errorf("Acquire a nanosecond before the end: %v", err)
	}
	now = end
	lease, err := c.Acquire(t.Context(), "backup-orders", time.Minute)
	if err != nil || lease.Token() != 6 {
		t.Errorf("Acquire at the end: %v, %v", lease, err)
	}
	// Without Config.Owner it is this process.
	if _, err := newCatalog(t, s, nil).Acquire(t.Context(), "x", time.Minute); err != nil {
		t.Fatal(err)
	}
	_, err = c.Acquire(t.Context(), "x", time.Minute)
	if err != nil && !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("Acquire: %v", err)
	}
	// A data store's name may be as long as any; so may its lease's.
	if _, err := c.Acquire(t.Context(), "backup-"+strings.Repeat("x", catalog.MaxNameLen), time.Minute); err != nil {
		t.Errorf("Acquire of a long name: %v", err)
	}
}

// TestUnreadableLease: it is neither taken for free nor does it block the name for ever.
func TestUnreadableLease(t *testing.T) {
	for name, data := range map[string]string{"empty": "", "no JSON": "x", "without an end": "{}", "of another type": "[1]"} {
		now := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)
		clock := func() time.Time { return now }
		s := memstore.New(&memstore.Options{Now: clock})
		if err := storage.WriteFile(t.Context(), s, "_leases/x/0000000000000041.json", []byte(data), nil); err != nil {
			t.Fatal(err)
		}
		c := newCatalog(t, s, clock)
		_, err := c.Acquire(t.Context(), "x", time.Minute)
		if !errors.Is(err, catalog.ErrHeld) || !strings.Contains(err.Error(), "_leases/x/0000000000000041.json") {
			t.Errorf("%s: Acquire: %v", name, err)
		}
		now = now.Add(time.Minute + 5*time.Second)
		lease, err := c.Acquire(t.Context(), "x", time.Minute)
		if err != nil || lease.Token() != 42 {
			t.Errorf("%s: Acquire later: %v, %v", name, lease, err)
		}
	}
}
