package catalog

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/sealed"
)

// signer is the key of the tests; trusted is what a host trusts.
var (
	signer  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	trusted = []ed25519.PublicKey{ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey), signer.Public().(ed25519.PublicKey)}
)

// encryptedBackup returns a manifest with something in every field but an error.
func encryptedBackup() *Backup {
	b := readyBackup()
	b.Error = ""
	b.DeleteAfter = b.CreatedAt.Add(24 * time.Hour)
	b.Source.File, b.Source.Time = "dump.rdb", b.CreatedAt.Add(-time.Minute)
	b.Recipients = []string{"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"}
	for i := range b.Parts {
		p := &b.Parts[i]
		p.Name += ".age"
		p.Key += ".age"
		p.Encryption, p.RawSHA256 = "age", ""
	}
	return b
}

func signedBackup(t testing.TB) *Backup {
	t.Helper()
	b := encryptedBackup()
	if err := Sign(b, signer); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSignGolden keeps a signed manifest of the first format: fields that were added since must not make its signature invalid.
// The file is what Encode gave for signedBackup when signatures were made.
func TestSignGolden(t *testing.T) {
	golden, err := os.ReadFile("testdata/signed-format-1.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(golden)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckSignature(got, trusted); err != nil {
		t.Errorf("a field was added that isn't left out where it is empty, or one was changed: %v", err)
	}
	if want := signedBackup(t); !reflect.DeepEqual(got, want) {
		t.Errorf("Decode gives\n%+v, want\n%+v", got, want)
	}
	// A copy in another store is the same to the byte, whatever format is the current one by then.
	if again := encode(t, got); !bytes.Equal(again, golden) {
		t.Errorf("encoded again, the manifest is\n%s, was\n%s", again, golden)
	}
}

// TestSignRead: what a store gives back is signed as what was written, also where JSON gives back something else.
func TestSignRead(t *testing.T) {
	b := encryptedBackup()
	b.Description, b.Source.Address = "\xff\xfe", "\xc3\x28"
	b.CreatedAt = time.Now().In(time.FixedZone("somewhere", -5*3600))
	b.DBs[0].Types, b.DBs[1].Types = map[string]int64{}, nil
	b.Modules = []Module{}
	if err := Sign(b, signer); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := CheckSignature(b, trusted); err != nil {
			t.Fatal(err)
		}
		var err error
		if b, err = Decode(encode(t, b)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSignEveryField: whatever of the manifest is changed, the signature doesn't hold.
func TestSignEveryField(t *testing.T) {
	changes := 0
	// change makes one change after the other to v, and calls try after each.
	var change func(path string, v reflect.Value, try func(path string))
	change = func(path string, v reflect.Value, try func(path string)) {
		before := reflect.New(v.Type()).Elem()
		before.Set(v)
		again := func(path string) {
			try(path)
			v.Set(before)
		}
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "x")
			again(path)
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
			again(path)
		case reflect.Bool:
			v.SetBool(!v.Bool())
			again(path)
		case reflect.Pointer:
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
				again(path + " made")
				v.SetZero()
				return
			}
			before := reflect.ValueOf(v.Interface())
			v.SetZero()
			again(path + " removed")
			v.Set(before)
			change(path, v.Elem(), try)
		case reflect.Struct:
			if at, ok := v.Interface().(time.Time); ok {
				v.Set(reflect.ValueOf(at.Add(time.Nanosecond)))
				again(path)
				return
			}
			for i := range v.NumField() {
				if name := v.Type().Field(i).Name; name != "Signature" {
					change(path+"."+name, v.Field(i), try)
				}
			}
		case reflect.Slice:
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			again(path + "+")
			if v.Len() > 0 {
				v.Set(v.Slice(0, v.Len()-1))
				again(path + "-")
			}
			if v.Len() > 1 {
				first, second := reflect.New(v.Type().Elem()).Elem(), reflect.New(v.Type().Elem()).Elem()
				first.Set(v.Index(0))
				second.Set(v.Index(1))
				v.Index(0).Set(second)
				v.Index(1).Set(first)
				try(path + " swapped")
				v.Index(0).Set(first)
				v.Index(1).Set(second)
			}
			for i := range v.Len() {
				change(path+"[]", v.Index(i), try)
			}
		case reflect.Map:
			changed := reflect.MakeMap(v.Type())
			for _, k := range v.MapKeys() {
				changed.SetMapIndex(k, v.MapIndex(k))
			}
			changed.SetMapIndex(reflect.ValueOf("other"), reflect.Zero(v.Type().Elem()))
			v.Set(changed)
			again(path + "+")
			for _, k := range before.MapKeys() {
				one := func() reflect.Value {
					m := reflect.MakeMap(v.Type())
					for _, k := range before.MapKeys() {
						m.SetMapIndex(k, before.MapIndex(k))
					}
					return m
				}
				less := one()
				less.SetMapIndex(k, reflect.Value{})
				v.Set(less)
				again(path + "-")
				renamed := one()
				renamed.SetMapIndex(k, reflect.Value{})
				renamed.SetMapIndex(reflect.ValueOf(k.String()+"x"), before.MapIndex(k))
				v.Set(renamed)
				again(path + " renamed")
				value := reflect.New(v.Type().Elem()).Elem()
				value.Set(before.MapIndex(k))
				change(path+"[]", value, func(path string) {
					other := one()
					other.SetMapIndex(k, value)
					v.Set(other)
					try(path)
				})
				v.Set(before)
			}
		default:
			t.Fatalf("%s is a %s, which this test doesn't know how to change", path, v.Kind())
		}
	}
	b := encryptedBackup()
	b.Policy, b.DueTime, b.DeletedAt, b.Pinned = "nightly", b.CreatedAt, b.CreatedAt, true
	b.Labels = map[string]string{"team": "payments", "empty": ""}
	b.Commands, b.Source.Cost, b.Source.Scan, b.Source.Fuzzy = 3, &Cost{Bytes: 1, Fork: 2}, &Scan{Listed: 7}, true
	b.Parts[0].Shard = &Shard{ID: "a", Slots: []SlotRange{{First: 0, Last: 16383}}, Time: b.CreatedAt}
	if err := Sign(b, signer); err != nil {
		t.Fatal(err)
	}
	change("Backup", reflect.ValueOf(b).Elem(), func(path string) {
		changes++
		if err := CheckSignature(b, trusted); !errors.Is(err, ErrNotTrusted) {
			t.Errorf("%s was changed: %v", path, err)
		}
	})
	if err := CheckSignature(b, trusted); err != nil {
		t.Errorf("nothing is changed any more: %v", err)
	}
	if changes < 100 {
		t.Errorf("only %d changes were tried", changes)
	}
}

// TestSignEveryByte: a manifest that was changed in one byte, and sealed again, is refused, or says the same.
func TestSignEveryByte(t *testing.T) {
	want := signedBackup(t)
	data := encode(t, want)
	body := data[:len(data)-sealed.Len]
	for i := range body {
		changed := bytes.Clone(body)
		changed[i] ^= []byte{0x01, 0x20}[i%2] // another character, or the other case
		got, err := Decode(seal(string(changed)))
		if err != nil {
			continue
		}
		if err := CheckSignature(got, trusted); err == nil && !reflect.DeepEqual(got, want) {
			t.Fatalf("byte %d, %q, was changed to %q, and the signature holds", i, body[i], changed[i])
		}
	}
}

func TestSignRefused(t *testing.T) {
	good := signedBackup(t)
	for name, test := range map[string]struct {
		change  func(b *Backup)
		trusted []ed25519.PublicKey
		want    string
	}{
		"not signed":             {func(b *Backup) { b.Signature = nil }, trusted, "not signed"},
		"by somebody else":       {func(b *Backup) {}, trusted[:1], "not among the 1 trusted"},
		"nobody is trusted":      {func(b *Backup) {}, nil, "not among the 0 trusted"},
		"a key that is too long": {func(b *Backup) {}, []ed25519.PublicKey{append(bytes.Clone(trusted[1]), 0)}, "not among"},
		"no keys at all":         {func(b *Backup) { b.Signature = &Signature{} }, []ed25519.PublicKey{nil, {}}, "not among"},
		"another's key":          {func(b *Backup) { b.Signature.Key = trusted[0] }, trusted, "was changed"},
		"another signature":      {func(b *Backup) { b.Signature.Value = bytes.Clone(b.Signature.Value); b.Signature.Value[5] ^= 1 }, trusted, "was changed"},
		"no value":               {func(b *Backup) { b.Signature.Value = nil }, trusted, "was changed"},
		"another state":          {func(b *Backup) { b.State = StateDeleting }, trusted, "was changed"},
	} {
		b := *good
		s := *good.Signature
		b.Signature = &s
		test.change(&b)
		if err := CheckSignature(&b, test.trusted); !errors.Is(err, ErrNotTrusted) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the key is locked")
	for name, s := range map[string]crypto.Signer{
		"ECDSA": other, "failing": &oddSigner{err: broken}, "lying": &oddSigner{sig: make([]byte, 64)}, "short": &oddSigner{sig: make([]byte, 3)},
	} {
		b := encryptedBackup()
		if err := Sign(b, s); err == nil || b.Signature != nil || name == "failing" && !errors.Is(err, broken) {
			t.Errorf("%s: Sign returned %v", name, err)
		}
	}
	// Signing again takes the place of the signature that was there.
	b := signedBackup(t)
	if err := Sign(b, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))); err != nil || CheckSignature(b, trusted[:1]) != nil {
		t.Errorf("signing again: %v, %v", err, CheckSignature(b, trusted[:1]))
	}
}

// oddSigner has the right key, and doesn't sign with it.
type oddSigner struct {
	sig []byte
	err error
}

func (s *oddSigner) Public() crypto.PublicKey { return signer.Public() }
func (s *oddSigner) Sign(_ io.Reader, text []byte, _ crypto.SignerOpts) ([]byte, error) {
	if len(text) != 79 {
		return nil, errors.New("it is not what the documentation says")
	}
	return s.sig, s.err
}

// TestManifestSealing: what a manifest says of encryption and signature.
func TestManifestSealing(t *testing.T) {
	if got, err := Decode(encode(t, encryptedBackup())); err != nil || !reflect.DeepEqual(got, encryptedBackup()) {
		t.Errorf("Decode gives %+v, %v", got, err)
	}
	running := encryptedBackup()
	running.State, running.Parts = StateRunning, nil
	encode(t, running) // whom it is for is known before there are parts
	for name, change := range map[string]func(b *Backup){
		"raw hash of what is encrypted": func(b *Backup) { b.Parts[0].RawSHA256 = someSum },
		"no stored hash":                func(b *Backup) { b.Parts[0].SHA256 = "" },
		"encrypted for nobody":          func(b *Backup) { b.Recipients = nil },
		"a part that isn't encrypted":   func(b *Backup) { b.Parts[1].Encryption, b.Parts[1].RawSHA256 = "", someSum },
		"adopted and encrypted":         func(b *Backup) { adopt(b, "dump.rdb") },
		"recipient without a name":      func(b *Backup) { b.Recipients[1] = "" },
		"recipient with a long name":    func(b *Backup) { b.Recipients[1] = strings.Repeat("x", 5000) },
		"too many recipients":           func(b *Backup) { b.Recipients = strings.Split(strings.Repeat("x,", 1001)+"x", ",") },
		"short signature":               func(b *Backup) { b.Signature = &Signature{Key: trusted[0], Value: make([]byte, 63)} },
		"short key":                     func(b *Backup) { b.Signature = &Signature{Key: trusted[0][1:], Value: make([]byte, 64)} },
		"empty signature":               func(b *Backup) { b.Signature = &Signature{} },
		"signed, of no format":          func(b *Backup) { b.Signature, b.Format = &Signature{Key: trusted[0], Value: make([]byte, 64)}, 0 },
		"signed, of a later format": func(b *Backup) {
			b.Signature, b.Format = &Signature{Key: trusted[0], Value: make([]byte, 64)}, Format+1
		},
	} {
		b := encryptedBackup()
		change(b)
		if data, err := Encode(b); err == nil {
			t.Errorf("%s: Encode gives %d bytes", name, len(data))
		}
	}
}
