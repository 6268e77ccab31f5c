package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/sealed"
)

const someSum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// readyBackup returns a manifest with something in every field.
func readyBackup() *Backup {
	began := time.Date(2026, 11, 23, 22, 17, 0, 123e6, time.UTC)
	b := &Backup{
		Format: Format, ID: "20261123T221700.123Z-k7f3", DataStore: "orders", Name: "before-upgrade",
		Description: "Before 8.0 <& \"quoted\"> ümläut\u2028\n", Kind: KindManual, State: StateReady, Error: "none",
		CreatedAt: began, ReadyAt: began.Add(90 * time.Second), Token: 17,
		Timings: Timings{Wait: time.Second, Transfer: time.Minute, ReadBack: 2 * time.Second, Total: 70 * time.Second},
		Source: Source{
			Engine: "valkey", Version: "9.1.0", Dialect: "valkey:80", Topology: "replicated", Address: "10.0.0.7:6379", Role: "replica",
			Method: "replica", ReplicationID: strings.Repeat("0a", 20), ReplicationOffset: 1 << 40, UsedMemory: 1 << 33,
		},
		Keys: 12, Expires: 3, Functions: 1, RawBytes: 1000, StoredBytes: 300,
		DBs:     []DB{{Index: 0, Keys: 10, Expires: 3, Types: map[string]int64{"string": 4, "hash": 6}}, {Index: 15, Keys: 2, Types: map[string]int64{"list": 2}}},
		Modules: []Module{{Name: "ReJSON-RL", Version: 3, Keys: 1, Aux: 2}},
		Verification: Verification{
			Structure: true, Checksum: "crc64", ReadBack: true, At: began.Add(80 * time.Second),
		},
	}
	for _, name := range []string{"part-0000.rdb.zst", "part-0001.rdb.zst"} {
		b.Parts = append(b.Parts, Part{
			Name: name, Key: b.Prefix() + name, Dialect: "valkey:80", Compression: "zstd", Size: 150, SHA256: someSum, RawSize: 500, RawSHA256: someSum, Keys: 6,
		})
	}
	return b
}

func encode(t testing.TB, b *Backup) []byte {
	t.Helper()
	data, err := Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// seal makes a manifest of any text.
func seal(body string) []byte {
	sum := sha256.Sum256([]byte(body))
	return []byte(body + ",\n  \"sha256\": \"" + hex.EncodeToString(sum[:]) + "\"\n}\n")
}

func TestManifestRoundTrip(t *testing.T) {
	for _, b := range []*Backup{
		readyBackup(),
		{Format: Format, ID: "20261123T221700.123Z-k7f3", DataStore: "o", Kind: KindManual, State: StateRunning},
	} {
		before := *b
		data := encode(t, b)
		if !reflect.DeepEqual(*b, before) {
			t.Error("Encode has changed the backup")
		}
		got, err := Decode(data)
		if err != nil {
			t.Fatalf("Decode: %v\n%s", err, data)
		}
		if !reflect.DeepEqual(got, b) {
			t.Errorf("Decode gives\n%+v, want\n%+v", got, b)
		}
		if again := encode(t, got); !bytes.Equal(again, data) {
			t.Errorf("encoded again, the manifest is\n%s, was\n%s", again, data)
		}
		// Any JSON reader can read it, and check it as the format says.
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		body, _, _ := bytes.Cut(data, []byte(",\n  \"sha256\": \""+fields["sha256"].(string)))
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != fields["sha256"] {
			t.Error("the last field is not the SHA-256 of what comes before it")
		}
	}
	b := readyBackup()
	b.Format = 0
	if got, err := Decode(encode(t, b)); err != nil || got.Format != Format {
		t.Errorf("a backup of format 0 is encoded with format %v, %v", got, err)
	}
}

// TestManifestGolden keeps the text of the first format: a later version has to read what this one has written.
// The file is what Encode gave for readyBackup when format 1 was made.
func TestManifestGolden(t *testing.T) {
	golden, err := os.ReadFile("testdata/manifest-format-1.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(golden)
	if err != nil {
		t.Fatal(err)
	}
	if want := readyBackup(); !reflect.DeepEqual(got, want) {
		t.Errorf("Decode gives\n%+v, want\n%+v", got, want)
	}
	if data := encode(t, readyBackup()); Format == 1 && !bytes.Equal(data, golden) {
		t.Errorf("Encode gives\n%s, want\n%s", data, golden)
	}
}

// TestManifestChanged: no bit can be changed, no byte cut, and nothing added.
func TestManifestChanged(t *testing.T) {
	data := encode(t, readyBackup())
	corrupt := func(data []byte, what string, at int) {
		t.Helper()
		if b, err := Decode(data); b != nil || !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%s at %d: Decode gives %v and the error %v, want ErrCorrupt", what, at, b, err)
		}
	}
	for i := range data {
		for bit := range 8 {
			data[i] ^= 1 << bit
			corrupt(data, "a bit changed", i)
			data[i] ^= 1 << bit
		}
		corrupt(data[:i], "cut", i)
		corrupt(data[i+1:], "beginning cut", i)
		corrupt(append(bytes.Clone(data[:i]), data[i+1:]...), "a byte missing", i)
		corrupt(append(append(bytes.Clone(data[:i]), ' '), data[i:]...), "a byte too many", i)
	}
	for _, more := range []string{"\n", " ", "\x00", "{}", "}", string(data)} {
		corrupt(append(bytes.Clone(data), more...), "something appended", len(data))
	}
	corrupt([]byte(strings.ReplaceAll(string(data), "\n", "\r\n")), "line ends of another system", 0)
	corrupt(nil, "nothing", 0)
	if _, err := Decode(data); err != nil {
		t.Fatalf("the manifest itself: %v", err)
	}
}

func TestManifestNewer(t *testing.T) {
	for body, want := range map[string]string{
		`{"format": 2, "id": {"not": "even a string"}`: "format 2",
		`{"format": 1000000, "anything": [1]`:          "format 1000000",
	} {
		_, err := Decode(seal(body))
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "written by a newer Amber") || !strings.Contains(err.Error(), want) {
			t.Errorf("Decode of %s: the error is %v", body, err)
		}
	}
}

// TestManifestSealedNonsense: what has the right hash but isn't what Encode writes.
func TestManifestSealedNonsense(t *testing.T) {
	good := strings.TrimSuffix(string(encode(t, readyBackup())), "\n}\n")
	good = good[:strings.LastIndex(good, ",\n")]
	if _, err := Decode(seal(good)); err != nil {
		t.Fatalf("the example itself: %v", err)
	}
	for name, body := range map[string]string{
		"no JSON":            "hello",
		"empty":              "",
		"array":              "[",
		"two documents":      good + "}{",
		"unknown field":      good + `, "later": 1`,
		"a hash of its own":  good + `, "sha256": "x"`,
		"format as string":   strings.Replace(good, `"format": 1`, `"format": "1"`, 1),
		"format 0":           strings.Replace(good, `"format": 1`, `"format": 0`, 1),
		"negative format":    strings.Replace(good, `"format": 1`, `"format": -1`, 1),
		"no format":          strings.Replace(good, `"format": 1,`, ``, 1),
		"number too large":   strings.Replace(good, `"keys": 12`, `"keys": 99999999999999999999`, 1),
		"number not whole":   strings.Replace(good, `"keys": 12`, `"keys": 1.5`, 1),
		"time that is none":  strings.Replace(good, `"createdAt": "2026-`, `"createdAt": "20-`, 1),
		"hash in upper case": strings.Replace(good, someSum, strings.ToUpper(someSum), 1),
		"backslash in a key": strings.Replace(good, `part-0001.rdb.zst",`+"\n", `part\\0001.rdb.zst",`+"\n", 2),
	} {
		if body == good {
			t.Errorf("%s: the example doesn't fit the manifest any more", name)
		}
		if _, err := Decode(seal(body)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: the error is %v, want ErrCorrupt", name, err)
		}
	}
}

// adopt makes a backup's first part one of somebody else's objects.
func adopt(b *Backup, key string) *Backup {
	p := &b.Parts[0]
	p.Adopted, p.Key, p.Compression, p.Size, p.SHA256 = true, key, "none", p.RawSize, p.RawSHA256
	return b
}

// TestManifestAdopted: what is adopted may have any key of the store that nothing of Amber's own has.
func TestManifestAdopted(t *testing.T) {
	for _, key := range []string{"dump.rdb", "orders/dump.rdb", "a/b/c/dump-2026-08-22T11:55:03-0000.dfs", "leases/x", "orders/latest/run.json"} {
		b := adopt(readyBackup(), key)
		got, err := Decode(encode(t, b))
		if err != nil || !reflect.DeepEqual(got, b) || Reserved(key) {
			t.Errorf("%s: Decode gives %+v, %v", key, got, err)
		}
	}
	own := readyBackup().Prefix()
	for _, key := range []string{own + "part-0000.rdb.zst", own + "dump.rdb", own + "run.json", own + "manifest.json", "invoices/20261123T221700.123Z-k7f3/part-0000.rdb",
		"a/invoices/20261123T221700.123Z-k7f3/part-0000.rdb", "20261123T221700.123Z-k7f3", "_leases/backup-orders/00000001.json", "a/_leases/b/1.json", "_index/log/x", "_schedule/x", "a/_usage/x", "../dump.rdb", "/etc/passwd", "a/../../x", ".ssh/x", ""} {
		b := adopt(readyBackup(), key)
		if data, err := Encode(b); err == nil {
			t.Errorf("%q: Encode gives %d bytes", key, len(data))
		}
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(seal(strings.TrimSuffix(string(text), "}"))); got != nil || !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: Decode gives %v and the error %v, want ErrCorrupt", key, got, err)
		}
	}
}

// TestManifestRefused: what a manifest may not say is refused when it is written and when it is read.
func TestManifestRefused(t *testing.T) {
	for name, change := range map[string]func(b *Backup){
		"no ID":                    func(b *Backup) { b.ID = "" },
		"ID of another form":       func(b *Backup) { b.ID = "latest" },
		"ID that leads elsewhere":  func(b *Backup) { b.ID = "20261123T221700.123Z-../" },
		"no data store":            func(b *Backup) { b.DataStore = "" },
		"data store with a slash":  func(b *Backup) { b.DataStore = "a/b" },
		"data store with a dot":    func(b *Backup) { b.DataStore = ".." },
		"name with a slash":        func(b *Backup) { b.Name = "a/b" },
		"no kind":                  func(b *Backup) { b.Kind = "" },
		"no state":                 func(b *Backup) { b.State = "" },
		"unknown state":            func(b *Backup) { b.State = "perfect" },
		"ready without parts":      func(b *Backup) { b.Parts = nil },
		"negative keys":            func(b *Backup) { b.Keys = -1 },
		"negative expires":         func(b *Backup) { b.Expires = -1 },
		"negative functions":       func(b *Backup) { b.Functions = -1 },
		"negative raw bytes":       func(b *Backup) { b.RawBytes = -1 },
		"negative bytes":           func(b *Backup) { b.StoredBytes = -1 },
		"negative token":           func(b *Backup) { b.Token = -1 },
		"negative memory":          func(b *Backup) { b.Source.UsedMemory = -1 },
		"negative database":        func(b *Backup) { b.DBs[0].Index = -1 },
		"negative database keys":   func(b *Backup) { b.DBs[0].Keys = -1 },
		"negative type":            func(b *Backup) { b.DBs[0].Types["hash"] = -1 },
		"negative module keys":     func(b *Backup) { b.Modules[0].Keys = -1 },
		"part without a name":      func(b *Backup) { b.Parts[0].Name = "" },
		"part with a path":         func(b *Backup) { b.Parts[0].Name = "../x" },
		"two parts of a name":      func(b *Backup) { b.Parts[0].Name = b.Parts[1].Name },
		"two parts of a key":       func(b *Backup) { b.Parts[0].Key = b.Parts[1].Key },
		"key of another backup":    func(b *Backup) { b.Parts[0].Key = "orders/20261123T221700.123Z-k7f4/part-0000.rdb.zst" },
		"key of a longer ID":       func(b *Backup) { b.Parts[0].Key = "orders/20261123T221700.123Z-k7f3x/part-0000.rdb.zst" },
		"key of another store":     func(b *Backup) { b.Parts[0].Key = "invoices/20261123T221700.123Z-k7f3/part-0000.rdb.zst" },
		"key that leads elsewhere": func(b *Backup) { b.Parts[0].Key = b.Prefix() + "../../x" },
		"key that is the prefix":   func(b *Backup) { b.Parts[0].Key = b.Prefix() },
		"absolute key":             func(b *Backup) { b.Parts[0].Key = "/" + b.Parts[0].Key },
		"no key":                   func(b *Backup) { b.Parts[0].Key = "" },
		"key of the manifest":      func(b *Backup) { b.Parts[0].Key = b.Prefix() + "manifest.json" },
		"key of a later manifest":  func(b *Backup) { b.Parts[0].Key = b.Prefix() + "manifest-000003.json" },
		"key of the run":           func(b *Backup) { b.Parts[0].Key = b.Prefix() + "run.json" },
		"negative size":            func(b *Backup) { b.Parts[0].Size = -1 },
		"negative raw size":        func(b *Backup) { b.Parts[0].RawSize = -1 },
		"negative part keys":       func(b *Backup) { b.Parts[0].Keys = -1 },
		"no hash":                  func(b *Backup) { b.Parts[0].SHA256 = "" },
		"no raw hash":              func(b *Backup) { b.Parts[0].RawSHA256 = "" },
		"short hash":               func(b *Backup) { b.Parts[0].SHA256 = someSum[:62] },
		"long hash":                func(b *Backup) { b.Parts[0].SHA256 = someSum + "00" },
		"hash that is none":        func(b *Backup) { b.Parts[0].SHA256 = strings.Repeat("g", 64) },
		"adopted and compressed":   func(b *Backup) { adopt(b, "dump.rdb").Parts[0].Compression = "zstd" },
		"adopted, another size":    func(b *Backup) { adopt(b, "dump.rdb").Parts[0].Size++ },
		"adopted, another hash":    func(b *Backup) { adopt(b, "dump.rdb").Parts[0].SHA256 = strings.Repeat("0", 64) },
		"raw hash in upper case":   func(b *Backup) { b.Parts[0].RawSHA256 = strings.ToUpper(someSum) },
	} {
		b := readyBackup()
		change(b)
		if data, err := Encode(b); err == nil || data != nil || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Encode gives %d bytes and the error %v", name, len(data), err)
		}
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(seal(strings.TrimSuffix(string(text), "}"))); got != nil || !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Decode gives %v and the error %v, want ErrCorrupt", name, got, err)
		}
	}
	b := readyBackup()
	b.State, b.Parts[0].SHA256, b.Parts[0].RawSHA256 = StateFailed, "", ""
	if _, err := Decode(encode(t, b)); err != nil {
		t.Errorf("a part of a failed backup has no hash: %v", err)
	}
}

func TestManifestSize(t *testing.T) {
	b := readyBackup()
	b.Description = strings.Repeat("x", MaxManifestLen)
	if _, err := Encode(b); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("Encode of a manifest that is too large: the error is %v", err)
	}
	b.Description = b.Description[:MaxManifestLen-10_000]
	data := encode(t, b)
	if _, err := Decode(data); err != nil {
		t.Errorf("Decode of a large manifest: %v", err)
	}
	body := string(data[:len(data)-sealed.Len])
	if _, err := Decode(seal(body + strings.Repeat(" ", 20_000))); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("Decode of a manifest that is too large: the error is %v", err)
	}
}

func TestPrefix(t *testing.T) {
	if got := readyBackup().Prefix(); got != "orders/20261123T221700.123Z-k7f3/" {
		t.Errorf("Prefix is %q", got)
	}
}

// FuzzManifest gives any bytes to Decode, as they are and with the right hash. What it takes must be a manifest that
// Encode writes, with the same contents.
func FuzzManifest(f *testing.F) {
	data, err := Encode(readyBackup())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-sealed.Len])
	f.Add([]byte(`{"format":1,"id":"20261123T221700.123Z-k7f3","dataStore":"o","kind":"manual","state":"running"`))
	f.Add([]byte(`{"FORMAT":1,"format":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, seal(string(data))} {
			b, err := Decode(data)
			if err != nil {
				if b != nil || !errors.Is(err, ErrCorrupt) {
					t.Fatalf("Decode gives %v and the error %v", b, err)
				}
				continue
			}
			encoded, err := Encode(b)
			if err != nil {
				t.Fatalf("what Decode took, Encode refuses: %v", err)
			}
			again, err := Decode(encoded)
			if err != nil {
				t.Fatalf("what Encode wrote, Decode refuses: %v", err)
			}
			if twice := encode(t, again); !bytes.Equal(encoded, twice) {
				t.Fatalf("a manifest doesn't stay the same:\n%s\n%s", encoded, twice)
			}
		}
	})
}
