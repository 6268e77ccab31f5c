package rdb

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/crc64"
)

// campaign tells whether CAMPAIGN=1 asks for all that tests otherwise take a share of, spread over the whole range.
var campaign = os.Getenv("CAMPAIGN") != ""

// TestMain has garbage collected less often: these tests make much of it and keep little, so that half of their time went there.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// share picks every n-th of what i counts, all of it with CAMPAIGN=1.
func share(i, n int) bool { return campaign || i%n == 0 }

// A fixture is a file of testdata.
type fixture struct {
	name string // such as "redis-7.0.15/streams"
	data []byte // without the padding that Dragonfly puts behind the end
}

// fixtures returns the .rdb and .dfs files of testdata of at most maxSize bytes.
func fixtures(t testing.TB, maxSize int) []fixture {
	t.Helper()
	names, err := filepath.Glob("testdata/*/*.[rd][df][bs]")
	if err != nil || len(names) < 60 {
		t.Fatalf("testdata: %d files, %v", len(names), err)
	}
	var out []fixture
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.ToSlash(name[len("testdata/") : len(name)-len(".rdb")]) // or .dfs
		if strings.HasPrefix(name, "dragonfly") {
			r := NewReader(bytes.NewReader(data), nil)
			if err := readAll(r); err != io.EOF {
				t.Fatalf("%s: %v", name, err)
			}
			data = data[:r.Offset()]
		}
		if len(data) <= maxSize {
			out = append(out, fixture{name, data})
		}
	}
	return out
}

// readAll reads to the end and returns what ended it.
func readAll(r *Reader) error {
	for {
		if _, err := r.Next(); err != nil {
			return err
		}
	}
}

// hasChecksum tells whether a change of the data can be noticed.
func (f fixture) hasChecksum() bool {
	return f.data[8] >= '5' || f.data[7] != '0' // version 5 and later
}

// sealed returns data with its last eight bytes replaced by the right checksum of the rest.
func sealed(data []byte) []byte {
	body := data[:len(data)-crc64.Size]
	return binary.LittleEndian.AppendUint64(body[:len(body):len(body)], crc64.Checksum(body))
}

// A wantKey is a line of a .jsonl file, as far as the raw level sees it.
type wantKey struct {
	DB     int    `json:"db"`
	Key    string `json:"key"`
	Type   string `json:"type"`
	Expire *int64 `json:"expire_ms"`
	Freq   *int   `json:"freq"`
	Idle   *int64 `json:"idle"`
}

// wantKeys reads the .jsonl file of a fixture, by database and key.
func wantKeys(t *testing.T, name string) map[string]wantKey {
	t.Helper()
	if shard, ok := strings.CutSuffix(name, "-0000"); ok {
		name = filepath.Dir(shard) + "/mini" // the one data set, in one shard
	}
	f, err := os.Open("testdata/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := make(map[string]wantKey)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var k wantKey
		if err := json.Unmarshal(lines.Bytes(), &k); err != nil {
			t.Fatal(err)
		}
		k.Key = unescape(t, k.Key)
		want[fmt.Sprintf("%d/%s", k.DB, k.Key)] = k
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return want
}

// unescape undoes what the .jsonl files do to bytes.
func unescape(t *testing.T, s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			out.WriteByte(s[i])
		case strings.HasPrefix(s[i:], `\\`):
			out.WriteByte('\\')
			i++
		default:
			b, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
			if err != nil {
				t.Fatalf("bad escape in %q", s)
			}
			out.WriteByte(byte(b))
			i += 3
		}
	}
	return out.String()
}

// commandType is the name that the TYPE command has for an entry's type.
func commandType(e *Entry) string {
	switch e.Type {
	case TypeModule:
		return e.Module.Name()
	case TypeBloom:
		return "MBbloom--"
	case TypeCuckoo:
		return "MBbloomCF"
	case TypeCMS:
		return "CMSk-TYPE"
	case TypeTopK:
		return "TopK-TYPE"
	}
	return e.Type.String()
}

// A builder makes streams.
type builder struct{ b []byte }

func build(magic string) *builder { return &builder{[]byte(magic)} }

func (b *builder) bytes(p ...byte) *builder { b.b = append(b.b, p...); return b }

// len appends a length in its shortest form.
func (b *builder) len(ns ...uint64) *builder {
	for _, n := range ns {
		switch {
		case n < 1<<6:
			b.bytes(byte(n))
		case n < 1<<14:
			b.bytes(0x40|byte(n>>8), byte(n))
		case n < 1<<32:
			b.b = binary.BigEndian.AppendUint32(append(b.b, 0x80), uint32(n))
		default:
			b.b = binary.BigEndian.AppendUint64(append(b.b, 0x81), n)
		}
	}
	return b
}

// str appends plain strings.
func (b *builder) str(ss ...string) *builder {
	for _, s := range ss {
		b.len(uint64(len(s)))
		b.b = append(b.b, s...)
	}
	return b
}

// u64 appends numbers of eight bytes.
func (b *builder) u64(ns ...uint64) *builder {
	for _, n := range ns {
		b.b = binary.LittleEndian.AppendUint64(b.b, n)
	}
	return b
}

// end appends the EOF opcode and the checksum, and returns all.
func (b *builder) end() []byte {
	b.bytes(opEOF)
	return b.u64(crc64.Checksum(b.b)).b
}
