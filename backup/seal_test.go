package backup_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
	"github.com/amberkv/amber/storage/storetest"
)

func newKey(t *testing.T) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var signer = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))

// sealHouse is a house whose runner encrypts for keys and signs. Its restorer has no identity; opener has all of them.
func sealHouse(t *testing.T, store storage.Store, keys ...*age.X25519Identity) (h *house, opener *restore.Restorer) {
	t.Helper()
	h = newHouse(t, store, nil)
	cfg := backup.Config{Store: store, Catalog: h.catalog, Leaser: h.catalog, Signer: signer}
	var ids []age.Identity
	for _, key := range keys {
		cfg.Seal.Recipients = append(cfg.Seal.Recipients, key.Recipient())
		ids = append(ids, key)
	}
	var err error
	if h.runner, err = backup.NewRunner(cfg); err != nil {
		t.Fatal(err)
	}
	opener, err = restore.New(restore.Config{Store: store, Catalog: h.catalog, Identities: ids, Trust: []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)}})
	if err != nil {
		t.Fatal(err)
	}
	return h, opener
}

// TestRunEncrypts: a run needs no identity, the manifest tells whom the parts are for, and not what two of them have in common.
func TestRunEncrypts(t *testing.T) {
	one, two := newKey(t), newKey(t)
	h, opener := sealHouse(t, memstore.New(nil), one, two)
	data := snapshotOf(3000, 300)
	first, err := h.runner.Run(t.Context(), request(&source{data: data}))
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.runner.Run(t.Context(), request(&source{data: data}))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []*catalog.Backup{first, second} {
		p := b.Parts[0]
		if p.Encryption != "age" || p.Compression != "zstd" || p.RawSHA256 != "" || !strings.HasSuffix(p.Key, ".rdb.zst.age") || p.RawSize != int64(len(data)) {
			t.Errorf("the part is %+v", p)
		}
		if want := []string{one.Recipient().String(), two.Recipient().String()}; !slices.Equal(b.Recipients, want) {
			t.Errorf("the recipients are %q, want %q", b.Recipients, want)
		}
		v, err := h.restorer.Verify(t.Context(), b.ID, nil)
		if err != nil || !v.Sealed || v.StoredBytes != b.StoredBytes || v.RawBytes != 0 {
			t.Errorf("without identity: %+v, %v", v, err)
		}
		v, err = opener.Verify(t.Context(), b.ID, nil)
		if err != nil || v.Sealed || v.Keys != 3000 || v.RawBytes != int64(len(data)) {
			t.Errorf("with identities: %+v, %v", v, err)
		}
	}
	if first.Parts[0].SHA256 == second.Parts[0].SHA256 {
		t.Error("that two backups hold the same shows in the manifests")
	}

	// For one backup it may be otherwise.
	q := request(&source{data: data})
	q.Seal = &seal.Options{Compression: seal.None}
	plain, err := h.runner.Run(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if p := plain.Parts[0]; plain.Recipients != nil || p.Encryption != "" || p.RawSHA256 == "" || p.SHA256 != p.RawSHA256 || !strings.HasSuffix(p.Key, "part-0000.rdb") {
		t.Errorf("the backup that is not sealed: %q, %+v", plain.Recipients, p)
	}
	h.check(t)
}

// TestRunSigns: what is ready is signed, and what was deleted isn't any more.
func TestRunSigns(t *testing.T) {
	faulty := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpDelete, Call: 1, Mode: storetest.Before})
	h, _ := sealHouse(t, faulty)
	trusted := []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)}
	b, err := h.runner.Run(t.Context(), request(&source{data: snapshotOf(10, 10)}))
	if err != nil {
		t.Fatal(err)
	}
	stored, _, err := h.catalog.Get(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*catalog.Backup{"returned": b, "stored": stored} {
		if err := catalog.CheckSignature(m, trusted); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := h.runner.Delete(t.Context(), b.ID); err == nil {
		t.Fatal("deleting didn't fail")
	}
	left, _, err := h.catalog.Get(t.Context(), b.ID)
	if err != nil || left.State != catalog.StateDeleting || left.Signature != nil {
		t.Errorf("deleted half it is %+v, %v", left, err)
	}
	if err := h.runner.Delete(t.Context(), b.ID); err != nil {
		t.Error(err)
	}
}

// failingSigner can't sign.
type failingSigner struct{ err error }

func (f failingSigner) Public() crypto.PublicKey { return signer.Public() }
func (f failingSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, f.err
}

// TestSignerFails: without its signature a backup isn't published, and nothing of it stays.
func TestSignerFails(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	broken := errors.New("the key is locked")
	var err error
	h.runner, err = backup.NewRunner(backup.Config{Store: h.store, Catalog: h.catalog, Leaser: h.catalog, Signer: failingSigner{broken}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.runner.Run(t.Context(), request(&source{data: snapshotOf(10, 10)})); !errors.Is(err, broken) {
		t.Errorf("Run returned %v", err)
	}
	if ready, parts := h.check(t), h.parts(t); len(ready) > 0 || len(parts) > 0 {
		t.Errorf("%d are listed, parts %v", len(ready), parts)
	}
}

// TestFailedRunTellsNothing: why a run of an encrypted backup failed is recorded without the key that the error names.
func TestFailedRunTellsNothing(t *testing.T) {
	data := snapshotOf(1, 1)
	data = append(data[:len(data)-9], 0, 14) // a string
	data = append(data, "CANARY-name-14"...)
	data = append(data, 0xC9) // of no encoding
	data = append(data, make([]byte, 100)...)
	data = binary.LittleEndian.AppendUint64(data, 0)
	for _, encrypted := range []bool{true, false} {
		var keys []*age.X25519Identity
		if encrypted {
			keys = append(keys, newKey(t))
		}
		h, _ := sealHouse(t, memstore.New(nil), keys...)
		_, err := h.runner.Run(t.Context(), request(&source{data: data}))
		if !errors.Is(err, backup.ErrNotSound) || !strings.Contains(err.Error(), "CANARY") {
			t.Fatalf("encrypted %t: Run returned %v", encrypted, err)
		}
		var stored []byte
		for info, err := range h.store.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			text, err := storage.ReadFile(t.Context(), h.store, info.Key, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, text...)
		}
		if bytes.Contains(stored, []byte("CANARY")) == encrypted || !bytes.Contains(stored, []byte(backup.ErrNotSound.Error())) {
			t.Errorf("encrypted %t: the store holds %s", encrypted, stored)
		}
	}
}

// TestSealRefused: what can't be sealed as it is asked for isn't begun.
func TestSealRefused(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	wrong, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = backup.NewRunner(backup.Config{Store: h.store, Catalog: h.catalog, Leaser: h.catalog, Signer: wrong})
	if err == nil || !strings.Contains(err.Error(), "Ed25519") {
		t.Errorf("a signer of another kind: %v", err)
	}
	_, err = backup.NewRunner(backup.Config{Store: h.store, Catalog: h.catalog, Leaser: h.catalog, Seal: seal.Options{Recipients: []age.Recipient{nil}}})
	if err == nil || !strings.Contains(err.Error(), "Config.Seal") {
		t.Errorf("a recipient that is nil: %v", err)
	}
	q := request(&source{data: snapshotOf(1, 1)})
	q.Seal = &seal.Options{Level: "12"}
	if _, err := h.runner.Run(t.Context(), q); err == nil || !strings.Contains(err.Error(), "Request.Seal") {
		t.Errorf("a level that doesn't exist: %v", err)
	}

	// What is adopted stays as it is, so it can't be what was asked for.
	written(t, h.store, dumpKey, snapshotOf(5, 5))
	sealing, _ := sealHouse(t, h.store, newKey(t))
	q = backup.Request{DataStore: "orders", Snapshotter: found{store: h.store, key: dumpKey}}
	if _, err := sealing.runner.Run(t.Context(), q); err == nil || !strings.Contains(err.Error(), "can't be encrypted") {
		t.Errorf("adopting where there are recipients: %v", err)
	}
	q.Seal = &seal.Options{}
	b, err := sealing.runner.Run(t.Context(), q)
	if err != nil || b.Recipients != nil || !b.Parts[0].Adopted {
		t.Errorf("adopting without: %+v, %v", b, err)
	}
	untouched(t, h.store, dumpKey, snapshotOf(5, 5))
}
