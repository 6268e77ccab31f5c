package restore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
	"github.com/amberkv/amber/storage/storetest"
)

// snapshotOf returns an RDB of n string keys.
func snapshotOf(n int) []byte {
	var b bytes.Buffer
	b.WriteString("REDIS0010\xfe\x00")
	for i := range n {
		key := fmt.Sprintf("key:%d", i)
		b.Write([]byte{0, byte(len(key))})
		b.WriteString(key)
		b.WriteString("\x05value")
	}
	b.WriteByte(0xff)
	return binary.LittleEndian.AppendUint64(b.Bytes(), crc64.Checksum(b.Bytes()))
}

// keep puts a snapshot into a store and returns its manifest, which change may alter before it is written.
func keep(t *testing.T, store storage.Store, raw []byte, change func(*catalog.Backup)) *catalog.Backup {
	t.Helper()
	return keepSealed(t, store, raw, &seal.Options{}, change)
}

// keepSealed is keep for a part that is sealed in a certain way.
func keepSealed(t *testing.T, store storage.Store, raw []byte, opts *seal.Options, change func(*catalog.Backup)) *catalog.Backup {
	t.Helper()
	var stored bytes.Buffer
	w, err := seal.NewWriter(&stored, opts)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := catalog.Inspect(bytes.NewReader(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	b := &catalog.Backup{Format: catalog.Format, ID: catalog.NewID(now), DataStore: "orders", Kind: catalog.KindManual,
		State: catalog.StateReady, CreatedAt: now, ReadyAt: now}
	sum, hash := w.Sum(), sha256.Sum256(raw)
	b.Parts = []catalog.Part{{Name: "part-0000.rdb.zst", Key: b.Prefix() + "part-0000.rdb.zst", Dialect: found.Dialect, Compression: sum.Compression,
		Size: sum.Size, SHA256: sum.SHA256, RawSize: sum.RawSize, RawSHA256: hex.EncodeToString(hash[:]), Keys: found.Keys}}
	if b.Recipients = seal.Names(opts.Recipients); b.Recipients != nil {
		b.Parts[0].Encryption, b.Parts[0].RawSHA256 = sum.Encryption, ""
	}
	b.RawBytes, b.StoredBytes = sum.RawSize, sum.Size
	found.Record(b)
	if err := storage.WriteFile(t.Context(), store, b.Parts[0].Key, stored.Bytes(), nil); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(b)
	}
	if _, err := newCatalog(t, store).Put(t.Context(), b, ""); err != nil {
		t.Fatal(err)
	}
	return b
}

// keepParts puts a snapshot of several parts into a store and returns its manifest.
func keepParts(t *testing.T, store storage.Store, raw ...[]byte) *catalog.Backup {
	t.Helper()
	return keepSealedParts(t, store, &seal.Options{}, raw...)
}

// keepSealedParts is keepParts for parts that are sealed in a certain way.
func keepSealedParts(t *testing.T, store storage.Store, opts *seal.Options, raw ...[]byte) *catalog.Backup {
	t.Helper()
	var all catalog.Contents
	whole := &catalog.Backup{}
	for i, data := range raw {
		other := memstore.New(nil)
		b := keepSealed(t, other, data, opts, nil)
		object, err := storage.ReadFile(t.Context(), other, b.Parts[0].Key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			*whole = *b
			whole.Parts, whole.RawBytes, whole.StoredBytes = nil, 0, 0
		}
		p := b.Parts[0]
		p.Name = fmt.Sprintf("part-%04d.rdb.zst", i)
		p.Key = whole.Prefix() + p.Name
		whole.Parts = append(whole.Parts, p)
		whole.RawBytes += p.RawSize
		whole.StoredBytes += p.Size
		if err := storage.WriteFile(t.Context(), store, p.Key, object, nil); err != nil {
			t.Fatal(err)
		}
		found, err := catalog.Inspect(bytes.NewReader(data), nil)
		if err != nil {
			t.Fatal(err)
		}
		all.Add(found)
	}
	all.Record(whole)
	if _, err := newCatalog(t, store).Put(t.Context(), whole, ""); err != nil {
		t.Fatal(err)
	}
	return whole
}

func newCatalog(t *testing.T, store storage.Store) *storecatalog.Catalog {
	t.Helper()
	c, err := storecatalog.New(storecatalog.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newRestorer(t *testing.T, store storage.Store) *restore.Restorer {
	t.Helper()
	r, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// target is a loader that reads what it is given, and tells what was asked of it.
type target struct {
	verdict restore.Verdict
	checked int
	loaded  []byte
	loads   int
}

func (l *target) Check(context.Context, restore.Requirements) (restore.Verdict, error) {
	l.checked++
	return l.verdict, nil
}

func (l *target) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	l.loads++
	for _, p := range src.Backup().Parts {
		r, err := src.Open(ctx, p)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		if l.loaded, err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	return &restore.Report{Backup: src.Backup().ID, Method: "test", Keys: src.Backup().Keys}, nil
}

func TestRestore(t *testing.T) {
	store, raw := memstore.New(nil), snapshotOf(500)
	b := keep(t, store, raw, nil)
	r, to := newRestorer(t, store), &target{}
	rep, err := r.Restore(t.Context(), b.ID, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(to.loaded, raw) || rep.Keys != 500 || rep.Verify <= 0 {
		t.Errorf("%d bytes of %d were loaded, report %+v", len(to.loaded), len(raw), rep)
	}
	v, err := r.Verify(t.Context(), b.ID, nil)
	if err != nil || v.Keys != 500 || v.RawBytes != int64(len(raw)) || v.StoredBytes != b.StoredBytes {
		t.Errorf("verification %+v, error %v", v, err)
	}
}

// A backup with one changed bit, cut, or with a part that is missing or another's is refused, and no loader's Load is called.
func TestRefusedBeforeLoading(t *testing.T) {
	raw := snapshotOf(40)
	check := func(what string, store storage.Store, id catalog.ID, want error) {
		t.Helper()
		r, to := newRestorer(t, store), &target{}
		if _, err := r.Restore(t.Context(), id, to, nil); !errors.Is(err, want) {
			t.Errorf("%s: Restore returned %v", what, err)
		}
		if _, err := r.Verify(t.Context(), id, nil); !errors.Is(err, want) {
			t.Errorf("%s: Verify returned %v", what, err)
		}
		if to.loads > 0 {
			t.Errorf("%s: the target was touched", what)
		}
	}
	for _, parsed := range []bool{false, true} { // as the manifest says
		testRefused(t, raw, func(b *catalog.Backup) { b.Verification.Structure = parsed }, check)
	}

	// The manifest and the part don't fit each other.
	for what, change := range map[string]func(*catalog.Backup){
		"fewer keys":   func(b *catalog.Backup) { b.Keys-- },
		"expiries":     func(b *catalog.Backup) { b.Expires++ },
		"functions":    func(b *catalog.Backup) { b.Functions++ },
		"other db":     func(b *catalog.Backup) { b.DBs[0].Index = 3 },
		"other types":  func(b *catalog.Backup) { b.DBs[0].Types = map[string]int64{"hash": 40} },
		"modules":      func(b *catalog.Backup) { b.Modules = []catalog.Module{{Name: "vectorset", Keys: 1}} },
		"dialect":      func(b *catalog.Backup) { b.Parts[0].Dialect = "redis:11" },
		"size of part": func(b *catalog.Backup) { b.Parts[0].RawSize++ },
		"raw hash":     func(b *catalog.Backup) { b.Parts[0].RawSHA256 = b.Parts[0].SHA256 },
	} {
		store := memstore.New(nil)
		check(what, store, keep(t, store, raw, change).ID, restore.ErrNotVerified)
	}
	for _, state := range []catalog.State{catalog.StateRunning, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting} {
		store := memstore.New(nil)
		check(string(state), store, keep(t, store, raw, func(b *catalog.Backup) { b.State = state }).ID, restore.ErrNotVerified)
	}
	check("no such backup", memstore.New(nil), catalog.NewID(time.Now()), catalog.ErrNotFound)
}

func testRefused(t *testing.T, raw []byte, change func(*catalog.Backup), check func(string, storage.Store, catalog.ID, error)) {
	store := memstore.New(nil)
	b := keep(t, store, raw, change)
	good, err := storage.ReadFile(t.Context(), store, b.Parts[0].Key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string, data []byte) {
		t.Helper()
		if err := storage.WriteFile(t.Context(), store, key, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	for bit := range len(good) * 8 {
		changed := bytes.Clone(good)
		changed[bit/8] ^= 1 << (bit % 8)
		put(b.Parts[0].Key, changed)
		check(fmt.Sprintf("bit %d of the part", bit), store, b.ID, restore.ErrNotVerified)
	}
	for n := range len(good) {
		put(b.Parts[0].Key, good[:n])
		check(fmt.Sprintf("the part cut at %d", n), store, b.ID, restore.ErrNotVerified)
	}
	other := keep(t, store, snapshotOf(41), nil)
	foreign, _ := storage.ReadFile(t.Context(), store, other.Parts[0].Key, 1<<20)
	put(b.Parts[0].Key, foreign)
	check("another backup's part", store, b.ID, restore.ErrNotVerified)
	if err := store.Delete(t.Context(), b.Parts[0].Key); err != nil {
		t.Fatal(err)
	}
	check("no part", store, b.ID, restore.ErrNotVerified)
	check("no part", store, b.ID, storage.ErrNotFound)

	put(b.Parts[0].Key, good)
	manifest, err := storage.ReadFile(t.Context(), store, b.Prefix()+"manifest.json", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(manifest) * 8 {
		changed := bytes.Clone(manifest)
		changed[bit/8] ^= 1 << (bit % 8)
		put(b.Prefix()+"manifest.json", changed)
		if _, err := newRestorer(t, store).Verify(t.Context(), b.ID, nil); !errors.Is(err, catalog.ErrCorrupt) {
			t.Errorf("bit %d of the manifest: %v", bit, err)
		}
	}
	put(b.Prefix()+"manifest.json", manifest)
	if _, err := newRestorer(t, store).Verify(t.Context(), b.ID, nil); err != nil {
		t.Errorf("with everything put right: %v", err)
	}
}

// A manifest without parts, whatever catalog gives it, is no backup: to restore it would be to empty the target.
func TestNoParts(t *testing.T) {
	store := memstore.New(nil)
	b := keep(t, store, snapshotOf(10), nil)
	r, err := restore.New(restore.Config{Store: store, Catalog: partless{newCatalog(t, store)}})
	if err != nil {
		t.Fatal(err)
	}
	to := &target{}
	if _, err := r.Restore(t.Context(), b.ID, to, nil); !errors.Is(err, restore.ErrNotVerified) || !strings.Contains(err.Error(), "no parts") || to.loads > 0 {
		t.Errorf("Restore: %v, Load was called %d times", err, to.loads)
	}
	if _, err := r.Verify(t.Context(), b.ID, nil); !errors.Is(err, restore.ErrNotVerified) {
		t.Errorf("Verify: %v", err)
	}
}

// partless is a catalog whose manifests have lost what is in them.
type partless struct{ catalog.Catalog }

func (p partless) Get(ctx context.Context, id catalog.ID) (*catalog.Backup, catalog.Revision, error) {
	b, rev, err := p.Catalog.Get(ctx, id)
	if err == nil {
		c := *b
		c.Parts, c.Keys, c.DBs = nil, 0, nil
		b = &c
	}
	return b, rev, err
}

// A store that can't be read says nothing about the backup.
func TestStoreFails(t *testing.T) {
	sound := memstore.New(nil)
	b := keep(t, sound, snapshotOf(1000), nil)
	for _, op := range []storetest.Op{storetest.OpOpen, storetest.OpRead} {
		store := storetest.NewFaulty(sound, storetest.Fault{Op: op, Key: "/part-"})
		to := &target{}
		_, err := newRestorer(t, store).Restore(t.Context(), b.ID, to, nil)
		if !errors.Is(err, storetest.ErrInjected) || errors.Is(err, restore.ErrNotVerified) || to.loads > 0 {
			t.Errorf("%s fails: %v, Load was called %d times", op, err, to.loads)
		}
	}
	store := storetest.NewFaulty(sound, storetest.Fault{Op: storetest.OpRead, Key: "/part-", Mode: storetest.Hang})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := newRestorer(t, store).Verify(ctx, b.ID, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
		t.Errorf("a read that hangs: %v after %v", err, time.Since(start))
	}
}

func TestVerdict(t *testing.T) {
	store := memstore.New(nil)
	b := keep(t, store, snapshotOf(5), nil)
	for name, test := range map[string]struct {
		points []restore.Point
		accept []string
		want   error
	}{
		"passes":          {[]restore.Point{{Name: "empty", Level: restore.Pass}}, nil, nil},
		"warns":           {[]restore.Point{{Name: "memory", Level: restore.Warn}}, nil, restore.ErrNotAccepted},
		"accepted":        {[]restore.Point{{Name: "memory", Level: restore.Warn}}, []string{"memory"}, nil},
		"all accepted":    {[]restore.Point{{Name: "memory", Level: restore.Warn}, {Name: "tls", Level: restore.Warn}}, []string{"all"}, nil},
		"another":         {[]restore.Point{{Name: "memory", Level: restore.Warn}}, []string{"tls"}, restore.ErrNotAccepted},
		"no way to force": {[]restore.Point{{Name: "cluster", Level: restore.Fail}}, []string{"cluster", "all"}, restore.ErrRefused},
		"has data":        {[]restore.Point{{Name: "empty", Level: restore.Fail, Detail: "it holds 3 keys"}}, nil, restore.ErrNotEmpty},
		"cluster":         {[]restore.Point{{Name: "cluster", Level: restore.Fail}}, nil, restore.ErrRefused},
		"both fail":       {[]restore.Point{{Name: "empty", Level: restore.Fail}, {Name: "cluster", Level: restore.Fail}}, nil, restore.ErrRefused},
	} {
		to := &target{verdict: restore.Verdict{Points: test.points}}
		_, err := newRestorer(t, store).Restore(t.Context(), b.ID, to, &restore.Options{Accept: test.accept})
		if !errors.Is(err, test.want) || (to.loads == 1) != (test.want == nil) {
			t.Errorf("%s: %v, Load was called %d times", name, err, to.loads)
		}
	}
}

func TestPartialError(t *testing.T) {
	cause := errors.New("the link broke")
	err := error(&restore.PartialError{Target: "db:6379", State: restore.TargetPartial, Keys: 7, Detail: "run REPLICAOF NO ONE", Err: cause})
	want := "restore into db:6379 failed: the link broke; the target's data: partial (7 keys); run REPLICAOF NO ONE"
	if err.Error() != want || !errors.Is(err, cause) {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}
