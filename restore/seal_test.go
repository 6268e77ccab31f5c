package restore_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
)

func newKey(t testing.TB) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newPassphrase returns what a passphrase encrypts and opens, in a moment instead of a second.
func newPassphrase(t testing.TB, text string) (*age.ScryptRecipient, *age.ScryptIdentity) {
	t.Helper()
	to, err := age.NewScryptRecipient(text)
	if err != nil {
		t.Fatal(err)
	}
	with, err := age.NewScryptIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(10)
	return to, with
}

// refusal is what a restore that is refused has to look like, however the backup is read: its target was not touched, and the error is one of
// these, and none of those.
type refusal struct {
	identities []age.Identity
	trust      []ed25519.PublicKey
	is, isNot  error
	text       string // in the error
}

// refused restores and verifies a backup, and fails the test unless it is refused.
func refused(t *testing.T, what string, store storage.Store, id catalog.ID, want refusal) {
	t.Helper()
	r, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store), Identities: want.identities, Trust: want.trust})
	if err != nil {
		t.Fatal(err)
	}
	check := func(how string, err error) {
		t.Helper()
		if !errors.Is(err, want.is) || want.isNot != nil && errors.Is(err, want.isNot) || err != nil && !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s, %s: %v", what, how, err)
		}
	}
	for how, opts := range map[string]*restore.Options{"as it is": nil, "converted": {Select: restore.Selection{Match: "key:*"}}} {
		to := &target{}
		_, err := r.Restore(t.Context(), id, to, opts)
		check(how, err)
		if to.loads > 0 {
			t.Errorf("%s, %s: the target was touched", what, how)
		}
	}
	_, err = r.Verify(t.Context(), id, nil)
	check("verified", err)
}

// TestEncrypted: an identity of any recipient restores the backup, as it is and converted.
func TestEncrypted(t *testing.T) {
	one, two := newKey(t), newKey(t)
	to, with := newPassphrase(t, "correct horse")
	raw := snapshotOf(500)
	for name, test := range map[string]struct {
		to   []age.Recipient
		with []age.Identity
	}{
		"the first of two":  {[]age.Recipient{one.Recipient(), two.Recipient()}, []age.Identity{one}},
		"the second of two": {[]age.Recipient{one.Recipient(), two.Recipient()}, []age.Identity{newKey(t), two}},
		"a passphrase":      {[]age.Recipient{to}, []age.Identity{one, with}},
	} {
		for _, parsed := range []bool{true, false} {
			store := memstore.New(nil)
			b := keepSealed(t, store, raw, &seal.Options{Recipients: test.to}, func(b *catalog.Backup) { b.Verification.Structure = parsed })
			r, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store), Identities: test.with})
			if err != nil {
				t.Fatal(err)
			}
			loader := &target{}
			if rep, err := r.Restore(t.Context(), b.ID, loader, nil); err != nil || !bytes.Equal(loader.loaded, raw) || rep.Keys != 500 {
				t.Errorf("%s: %d bytes were loaded, %v", name, len(loader.loaded), err)
			}
			loader = &target{}
			rep, err := r.Restore(t.Context(), b.ID, loader, &restore.Options{Select: restore.Selection{Match: "key:1*"}})
			if err != nil || rep.Keys != 111 {
				t.Errorf("%s, some keys: %+v, %v", name, rep, err)
			}
			if v, err := r.Verify(t.Context(), b.ID, nil); err != nil || v.Sealed || v.Keys != 500 || v.RawBytes != int64(len(raw)) {
				t.Errorf("%s: %+v, %v", name, v, err)
			}
		}
	}
}

// TestNoIdentity: who can't open a backup is told who can, before anything is read or asked; that is not held against the backup.
func TestNoIdentity(t *testing.T) {
	key := newKey(t)
	to, _ := newPassphrase(t, "correct horse")
	_, wrong := newPassphrase(t, "battery staple")
	for name, test := range map[string]struct {
		to    age.Recipient
		with  []age.Identity
		first bool // it is known without reading
	}{
		"none":                  {key.Recipient(), nil, true},
		"another":               {key.Recipient(), []age.Identity{newKey(t), wrong}, true},
		"none, a passphrase":    {to, nil, true},
		"a key, a passphrase":   {to, []age.Identity{key}, true},
		"a passphrase, another": {to, []age.Identity{key, wrong}, false},
	} {
		for _, parsed := range []bool{true, false} {
			store := memstore.New(nil)
			b := keepSealed(t, store, snapshotOf(100), &seal.Options{Recipients: []age.Recipient{test.to}}, func(b *catalog.Backup) { b.Verification.Structure = parsed })
			r, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store), Identities: test.with})
			if err != nil {
				t.Fatal(err)
			}
			for how, opts := range map[string]*restore.Options{"as it is": nil, "converted": {Select: restore.Selection{Match: "key:*"}}} {
				loader := &target{}
				_, err := r.Restore(t.Context(), b.ID, loader, opts)
				if !errors.Is(err, seal.ErrNoIdentity) || errors.Is(err, restore.ErrNotVerified) || !strings.Contains(err.Error(), b.Recipients[0]) {
					t.Errorf("%s, %s: %v", name, how, err)
				}
				if loader.loads > 0 || test.first && loader.checked > 0 {
					t.Errorf("%s, %s: the target was asked %d times, and touched %d", name, how, loader.checked, loader.loads)
				}
			}
			v, err := r.Verify(t.Context(), b.ID, nil)
			switch {
			case test.with == nil && (err != nil || !v.Sealed || v.StoredBytes != b.StoredBytes):
				t.Errorf("%s: Verify returned %+v, %v", name, v, err)
			case test.with != nil && (!errors.Is(err, seal.ErrNoIdentity) || errors.Is(err, restore.ErrNotVerified)):
				t.Errorf("%s: Verify returned %v", name, err)
			}
		}
	}
}

// TestEncryptedRefused: a bit changed anywhere, a cut, another backup's part or one of the same backup in another's place is refused, and the
// target not touched. A changed header is no matter of identities.
func TestEncryptedRefused(t *testing.T) {
	key := newKey(t)
	opts := &seal.Options{Recipients: []age.Recipient{key.Recipient()}, Compression: seal.Zstd}
	raw := snapshotOf(15_000) // compressed it has two of age's pieces
	bad := refusal{identities: []age.Identity{key}, is: restore.ErrNotVerified, isNot: seal.ErrNoIdentity}
	for _, parsed := range []bool{true, false} {
		store := memstore.New(nil)
		b := keepSealed(t, store, noise(raw), opts, func(b *catalog.Backup) { b.Verification.Structure = parsed })
		p := b.Parts[0]
		good, err := storage.ReadFile(t.Context(), store, p.Key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if len(good) < 70_000 {
			t.Fatalf("the part has only %d bytes", len(good))
		}
		put := func(key string, data []byte) {
			t.Helper()
			if err := storage.WriteFile(t.Context(), store, key, data, nil); err != nil {
				t.Fatal(err)
			}
		}
		// Every byte of the header and of the end, and some of each piece.
		var places []int
		for i := range 230 {
			places = append(places, i, len(good)-1-i/4)
		}
		for i := range 20 {
			places = append(places, 230+i*len(good)/20)
		}
		for i, at := range places {
			if !parsed && i%5 != 0 {
				continue
			}
			changed := bytes.Clone(good)
			changed[at%len(good)] ^= 1 << (i % 8)
			put(p.Key, changed)
			refused(t, fmt.Sprintf("byte %d of %d changed", at, len(good)), store, b.ID, bad)
		}
		for _, n := range []int{0, 1, 22, 100, 200, 300, 65_000, 66_000, len(good) - 17, len(good) - 1} {
			put(p.Key, good[:n])
			refused(t, fmt.Sprintf("cut to %d", n), store, b.ID, bad)
		}
		twin := keepSealed(t, store, noise(raw), opts, nil)
		foreign, err := storage.ReadFile(t.Context(), store, twin.Parts[0].Key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		put(p.Key, foreign)
		refused(t, "another backup's part, of the same data and recipients", store, b.ID, bad)
	}

	store := memstore.New(nil)
	b := keepSealedParts(t, store, opts, snapshotOf(100), otherKeys(snapshotOf(100)))
	r, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store), Identities: bad.identities})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := r.Verify(t.Context(), b.ID, nil); err != nil || v.Keys != 200 {
		t.Fatalf("two parts: %+v, %v", v, err)
	}
	objects := map[string][]byte{}
	for i, p := range b.Parts {
		if objects[b.Parts[1-i].Key], err = storage.ReadFile(t.Context(), store, p.Key, 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	for key, object := range objects {
		if err := storage.WriteFile(t.Context(), store, key, object, nil); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, "parts swapped", store, b.ID, bad)
}

// summed puts the right checksum at the end of a snapshot.
func summed(raw []byte) []byte {
	body := raw[:len(raw)-8]
	return binary.LittleEndian.AppendUint64(body, crc64.Checksum(body))
}

// noise makes the values of a snapshot ones that don't compress.
func noise(raw []byte) []byte {
	out, n := bytes.Clone(raw), uint32(1)
	for at := 0; ; {
		i := bytes.Index(out[at:], []byte("\x05value"))
		if i < 0 {
			return summed(out)
		}
		at += i + 1
		for j := range 5 {
			n = n*1664525 + 1013904223
			out[at+j] = byte(n >> 24)
		}
	}
}

// otherKeys gives the keys of a snapshot other names.
func otherKeys(raw []byte) []byte {
	return summed(bytes.ReplaceAll(raw, []byte("key:"), []byte("kez:")))
}

// TestForgedRecipients: a manifest that names the wrong recipients doesn't get a restore to its target.
func TestForgedRecipients(t *testing.T) {
	key, other := newKey(t), newKey(t)
	store := memstore.New(nil)
	b := keepSealed(t, store, snapshotOf(100), &seal.Options{Recipients: []age.Recipient{other.Recipient()}}, func(b *catalog.Backup) {
		b.Verification.Structure, b.Recipients = true, []string{key.Recipient().String()}
	})
	refused(t, "parts for others", store, b.ID, refusal{identities: []age.Identity{key}, is: seal.ErrNoIdentity, isNot: restore.ErrNotVerified, text: key.Recipient().String()})

	// Stored bytes that are as the manifest says, and yet aren't encrypted.
	b = keep(t, store, snapshotOf(100), func(b *catalog.Backup) {
		b.Verification.Structure, b.Recipients = true, []string{key.Recipient().String()}
		b.Parts[0].Encryption, b.Parts[0].RawSHA256 = "age", ""
	})
	refused(t, "not encrypted", store, b.ID, refusal{identities: []age.Identity{key}, is: restore.ErrNotVerified, isNot: seal.ErrNoIdentity})
}

// TestTrust: with trusted keys only what one of them has signed is restored or verified, and nothing else comes near a target.
func TestTrust(t *testing.T) {
	signer := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	trust := []ed25519.PublicKey{other.Public().(ed25519.PublicKey), signer.Public().(ed25519.PublicKey)}
	sign := func(key ed25519.PrivateKey, after func(b *catalog.Backup)) func(b *catalog.Backup) {
		return func(b *catalog.Backup) {
			b.Verification.Structure = true
			if err := catalog.Sign(b, key); err != nil {
				t.Fatal(err)
			}
			if after != nil {
				after(b)
			}
		}
	}
	raw := snapshotOf(100)
	store := memstore.New(nil)
	good := keep(t, store, raw, sign(signer, nil))
	r, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store), Trust: trust})
	if err != nil {
		t.Fatal(err)
	}
	loader := &target{}
	if _, err := r.Restore(t.Context(), good.ID, loader, nil); err != nil || !bytes.Equal(loader.loaded, raw) {
		t.Errorf("a signed backup: %v", err)
	}
	for name, test := range map[string]struct {
		change func(b *catalog.Backup)
		trust  []ed25519.PublicKey
		text   string
	}{
		"not signed":      {func(b *catalog.Backup) { b.Verification.Structure = true }, trust, "not signed"},
		"by somebody":     {sign(signer, nil), trust[:1], "not among"},
		"another part":    {sign(signer, func(b *catalog.Backup) { b.Parts[0].Keys-- }), trust, "was changed"},
		"another's hash":  {sign(signer, func(b *catalog.Backup) { b.Parts[0].SHA256 = strings.Repeat("0", 64) }), trust, "was changed"},
		"another of mine": {func(b *catalog.Backup) { b.Verification.Structure, b.Signature = true, good.Signature }, trust, "was changed"},
	} {
		store := memstore.New(nil)
		b := keep(t, store, raw, test.change)
		refused(t, name, store, b.ID, refusal{trust: test.trust, is: restore.ErrNotVerified, text: test.text})
		refused(t, name, store, b.ID, refusal{trust: test.trust, is: catalog.ErrNotTrusted})
		r, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store), Trust: test.trust})
		if err != nil {
			t.Fatal(err)
		}
		loader := &target{}
		if _, err := r.Plan(t.Context(), b.ID, loader, nil); err == nil || loader.checked > 0 {
			t.Errorf("%s: the target was asked %d times, %v", name, loader.checked, err)
		}
	}
	if _, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store), Trust: []ed25519.PublicKey{slices.Clone(trust[0])[1:]}}); err == nil {
		t.Error("a key of 31 bytes was taken")
	}
	if _, err := restore.New(restore.Config{Store: store, Catalog: newCatalog(t, store), Identities: []age.Identity{newKey(t), nil}}); err == nil || !strings.Contains(err.Error(), "identity 2") {
		t.Errorf("an identity that is nil: %v", err)
	}
}
