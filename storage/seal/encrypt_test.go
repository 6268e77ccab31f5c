package seal_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"

	"github.com/amberkv/amber/storage/seal"
)

// passphrase returns what a passphrase encrypts and opens, in a moment instead of a second.
func passphrase(t testing.TB, text string) (*age.ScryptRecipient, *age.ScryptIdentity) {
	t.Helper()
	to, with := must(age.NewScryptRecipient(text)), must(age.NewScryptIdentity(text))
	to.SetWorkFactor(10)
	return to, with
}

// TestRecipients: each recipient opens the part alone, and beside others that don't; nobody else does.
func TestRecipients(t *testing.T) {
	second := must(age.GenerateX25519Identity())
	hybrid, hybrid2 := must(age.GenerateHybridIdentity()), must(age.GenerateHybridIdentity())
	to, with := passphrase(t, "correct horse")
	_, wrong := passphrase(t, "battery staple")
	raw := data(100_000)
	for _, test := range []struct {
		name   string
		to     []age.Recipient
		opens  []age.Identity
		others []age.Identity
	}{
		{"one", []age.Recipient{key.Recipient()}, []age.Identity{key}, []age.Identity{stranger, hybrid, with}},
		{"two", []age.Recipient{key.Recipient(), second.Recipient()}, []age.Identity{key, second}, []age.Identity{stranger, hybrid, with}},
		{"hybrid", []age.Recipient{hybrid.Recipient(), hybrid2.Recipient()}, []age.Identity{hybrid, hybrid2}, []age.Identity{key, stranger, with}},
		{"passphrase", []age.Recipient{to}, []age.Identity{with}, []age.Identity{key, wrong, hybrid}},
	} {
		for _, compression := range []string{seal.None, seal.Zstd} {
			opts := &seal.Options{Compression: compression, Recipients: test.to}
			if err := opts.Validate(); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			stored, sum := sealed(t, raw, opts)
			sum.RawSHA256 = ""
			if sum.Encryption != seal.Age {
				t.Errorf("%s: the encryption is %q", test.name, sum.Encryption)
			}
			for i, id := range test.opens {
				for _, ids := range [][]age.Identity{{id}, append(slices.Clone(test.others), id)} {
					got, err := unseal(bytes.NewReader(stored), sum, ids...)
					if err != nil || !bytes.Equal(got, raw) {
						t.Errorf("%s, identity %d of %d: %d bytes, %v", test.name, i, len(ids), len(got), err)
					}
					if !seal.MayOpen(seal.Names(test.to), ids) {
						t.Errorf("%s: MayOpen says that %d identities don't open it", test.name, len(ids))
					}
				}
			}
			for _, ids := range [][]age.Identity{nil, test.others} {
				got, err := unseal(bytes.NewReader(stored), sum, ids...)
				if len(got) > 0 || !errors.Is(err, seal.ErrNoIdentity) || errors.Is(err, seal.ErrMismatch) {
					t.Errorf("%s, %d others: %d bytes, %v", test.name, len(ids), len(got), err)
				}
				if _, err := seal.NewReaderAt(bytes.NewReader(stored), sum, ids); !errors.Is(err, seal.ErrNoIdentity) {
					t.Errorf("%s, %d others: NewReaderAt returned %v", test.name, len(ids), err)
				}
			}
			if err := seal.Check(bytes.NewReader(stored), sum); err != nil {
				t.Errorf("%s: Check needs no identity, and returned %v", test.name, err)
			}
			// By hand: what the tools of age and zstd do.
			if opened := must(io.ReadAll(must(age.Decrypt(bytes.NewReader(stored), test.opens...)))); compression == seal.None && !bytes.Equal(opened, raw) {
				t.Errorf("%s: age makes %d bytes of it", test.name, len(opened))
			}
		}
		if test.name != "passphrase" && seal.MayOpen(seal.Names(test.to), test.others) {
			t.Errorf("%s: MayOpen says that others open it", test.name)
		}
	}
}

// TestForeignPart: a part that was encrypted for the same recipients, or by the same key, is still not the part that is asked for; nor is one
// that was put together of pieces of it.
func TestForeignPart(t *testing.T) {
	raw := data(300_000)
	for _, way := range ways()[2:] {
		stored, sum := sealed(t, raw, &way.opts)
		twin, twinSum := sealed(t, raw, &way.opts)
		if bytes.Equal(stored, twin) || sum.SHA256 == twinSum.SHA256 {
			t.Errorf("%s: two backups of the same look the same", way.name)
		}
		sum.RawSHA256 = ""
		// age's pieces have 64 KiB and 16 bytes; the header and the nonce go before.
		const piece = 64<<10 + 16
		head := len(stored) - len(must(io.ReadAll(must(age.Decrypt(bytes.NewReader(stored), key))))) - (len(stored)/piece+1)*16
		swapped := bytes.Clone(stored)
		copy(swapped[head:], stored[head+piece:head+2*piece])
		copy(swapped[head+piece:], stored[head:head+piece])
		for name, changed := range map[string][]byte{
			"another backup's":          twin,
			"pieces swapped":            swapped,
			"another's header":          slices.Concat(twin[:head], stored[head:]),
			"another's pieces":          slices.Concat(stored[:head], twin[head:]),
			"cut at a piece":            stored[:head+piece],
			"cut in the header":         stored[:head/2],
			"a piece twice":             slices.Concat(stored[:head+piece], stored[head:]),
			"what follows it elsewhere": slices.Concat(stored, twin[head:]),
			"plain":                     raw,
			"nothing":                   nil,
		} {
			for _, hash := range []string{sum.SHA256, twinSum.SHA256} {
				want := sum
				want.SHA256 = hash // a manifest that goes with the change doesn't help, but for a whole part
				if name == "another backup's" && hash == twinSum.SHA256 {
					continue
				}
				if _, err := unseal(bytes.NewReader(changed), want, key); !errors.Is(err, seal.ErrMismatch) || errors.Is(err, seal.ErrNoIdentity) {
					t.Errorf("%s, %s: %v", way.name, name, err)
				}
			}
		}
		// Without the hash, which a manifest always has, age's own proof is left: for all but a whole part by the same key.
		for i := 0; i < len(stored); i += 997 {
			changed := bytes.Clone(stored)
			changed[i] ^= 1
			if _, err := io.ReadAll(must2(age.Decrypt(bytes.NewReader(changed), key))); err == nil {
				t.Errorf("%s: age took a part with byte %d changed", way.name, i)
			}
		}
	}
}

func must2(r io.Reader, err error) io.Reader {
	if err != nil {
		return iotest.ErrReader(err)
	}
	return r
}

// TestIdentityFails: an identity that can't be asked says nothing about the part.
func TestIdentityFails(t *testing.T) {
	broken := errors.New("no key in the slot")
	for _, way := range ways()[2:] {
		stored, sum := sealed(t, data(1000), &way.opts)
		for _, ids := range [][]age.Identity{{failingIdentity{broken}}, {stranger, failingIdentity{broken}}} {
			if _, err := unseal(bytes.NewReader(stored), sum, ids...); !errors.Is(err, broken) || errors.Is(err, seal.ErrMismatch) || errors.Is(err, seal.ErrNoIdentity) {
				t.Errorf("%s: Reader returned %v", way.name, err)
			}
			if _, err := seal.NewReaderAt(bytes.NewReader(stored), sum, ids); !errors.Is(err, broken) || errors.Is(err, seal.ErrMismatch) {
				t.Errorf("%s: NewReaderAt returned %v", way.name, err)
			}
			if !seal.MayOpen([]string{"age1other"}, ids) {
				t.Errorf("%s: MayOpen knows what an unknown identity opens", way.name)
			}
		}
	}
}

type failingIdentity struct{ err error }

func (f failingIdentity) Unwrap([]*age.Stanza) ([]byte, error) { return nil, f.err }

// unnamed is a recipient that doesn't tell its name.
type unnamed struct{ age.Recipient }

func TestOptions(t *testing.T) {
	to, _ := passphrase(t, "correct horse")
	hybrid := must(age.GenerateHybridIdentity())
	for name, test := range map[string]struct {
		opts seal.Options
		want string // in the error; empty: none
	}{
		"zero":                 {seal.Options{}, ""},
		"fastest":              {seal.Options{Level: seal.Fastest}, ""},
		"best":                 {seal.Options{Compression: seal.Zstd, Level: seal.Best}, ""},
		"unknown compression":  {seal.Options{Compression: "lzma"}, "lzma"},
		"unknown level":        {seal.Options{Level: "19"}, `"19"`},
		"level of nothing":     {seal.Options{Compression: seal.None, Level: seal.Best}, "no level"},
		"nil recipient":        {seal.Options{Recipients: []age.Recipient{key.Recipient(), nil}}, "recipient 2 of 2"},
		"passphrase and key":   {seal.Options{Recipients: []age.Recipient{key.Recipient(), to}}, "only recipient"},
		"two passphrases":      {seal.Options{Recipients: []age.Recipient{to, to}}, "only recipient"},
		"classic among hybrid": {seal.Options{Recipients: []age.Recipient{hybrid.Recipient(), key.Recipient()}}, "post-quantum"},
	} {
		err := test.opts.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if w, werr := seal.NewWriter(io.Discard, &test.opts); (werr == nil) != (err == nil) {
			t.Errorf("%s: NewWriter returned %v, %v", name, w, werr)
		}
	}
	names := seal.Names([]age.Recipient{key.Recipient(), hybrid.Recipient(), to, unnamed{key.Recipient()}})
	if len(names) != 4 || !strings.HasPrefix(names[0], "age1") || !strings.HasPrefix(names[1], "age1pq1") || names[2] != seal.Passphrase || names[3] != "seal_test.unnamed" {
		t.Errorf("names: %q", names)
	}
	for _, name := range names {
		if len(name) > 4000 {
			t.Errorf("a name of %d bytes has no room in a manifest", len(name))
		}
	}
}

// TestLevels: every level is read back, and they aren't all the same.
func TestLevels(t *testing.T) {
	raw := text(300_000)
	sizes := map[string]int{}
	for _, level := range []string{seal.Fastest, seal.Fast, seal.Better, seal.Best} {
		stored, sum := sealed(t, raw, &seal.Options{Level: level})
		got, err := unseal(bytes.NewReader(stored), sum)
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes, %v", level, len(got), err)
		}
		sizes[level] = len(stored)
	}
	if sizes[seal.Better] >= sizes[seal.Fast] || sizes[seal.Best] >= sizes[seal.Better] || sizes[seal.Fast] == sizes[seal.Fastest] {
		t.Errorf("sizes: %v", sizes)
	}
}
