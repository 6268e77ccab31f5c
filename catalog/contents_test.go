package catalog

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/amberkv/amber/rdb"
)

// What follows the end of a snapshot is refused, but for what Dragonfly pads its files with.
func TestInspectBehindTheEnd(t *testing.T) {
	for name, wanted := range map[string]error{"redis-7.0.15/zsets.rdb": ErrBadSnapshot, "dragonfly-1.40/mini.rdb": nil} {
		data, err := os.ReadFile("../rdb/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := Inspect(bytes.NewReader(data), nil); err != nil || found.Keys == 0 {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
		if _, err := Inspect(bytes.NewReader(append(data, make([]byte, 100)...)), nil); !errors.Is(err, wanted) {
			t.Errorf("%s and 100 bytes: %v, want %v", name, err, wanted)
		}
	}
}

// A stream tells who wrote it; a manifest takes that when the source didn't tell, and nothing when the parts differ.
func TestInspectTellsTheServer(t *testing.T) {
	var all Contents
	for _, f := range []struct{ name, engine, version string }{
		{"redis-8.6.3/vectorset.rdb", "redis", "8.6.3"}, {"valkey-8.1.1/sets.rdb", "valkey", "8.1.1"}, {"valkey-9.1.2/sets.rdb", "valkey", "9.1.2"},
		{"dragonfly-1.40/mini.rdb", "dragonfly", "1.40.0"}, {"redis-2.8/sets.rdb", "", ""},
	} {
		data, err := os.ReadFile("../rdb/testdata/" + f.name)
		if err != nil {
			t.Fatal(err)
		}
		found, err := Inspect(bytes.NewReader(data), nil)
		if err != nil || found.Engine != f.engine || found.Version != f.version {
			t.Errorf("%s: %s %s, %v", f.name, found.Engine, found.Version, err)
		}
		all.Add(found)
		if want := map[bool]string{true: "8.6.3"}[f.version == "8.6.3"]; all.Version != want {
			t.Errorf("all up to %s are of version %q, want %q", f.name, all.Version, want)
		}
		var unknown, known Backup
		known.Source.Engine, known.Source.Version = "keydb", "6.3.4"
		found.Record(&unknown)
		found.Record(&known)
		if unknown.Source.Engine != f.engine || unknown.Source.Version != f.version || known.Source.Engine != "keydb" || known.Source.Version != "6.3.4" {
			t.Errorf("%s is recorded as of %+v and %+v", f.name, unknown.Source, known.Source)
		}
	}
	if got := (&writer{}).told("redis-ver", "8.0\x00;rm"); got.version != "" || got.engine != "redis" {
		t.Errorf("%+v", got)
	}
}

func (w *writer) told(key, value string) writer {
	w.tell(&rdb.Entry{Kind: rdb.KindAux, Key: []byte(key), Value: []byte(value)})
	return *w
}

// An append-only file is a part of commands: it is parsed to its end, and a base's server stays known beside it.
func TestInspectAOF(t *testing.T) {
	file := "#TS:1700000000\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*2\r\n$3\r\nDEL\r\n$1\r\nc\r\n*1\r\n$4\r\nEXEC\r\n"
	found, err := Inspect(strings.NewReader(file), nil)
	if err != nil || found.Dialect != DialectAOF || found.Checksum != "absent" || found.Commands != 2 || found.Keys != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if large, err := Inspect(strings.NewReader(file+"*2\r\n$4\r\nPING\r\n$100000\r\n"+strings.Repeat("x", 100000)+"\r\n"), nil); err != nil || large.Commands != 3 {
		t.Errorf("%+v, %v", large, err)
	}
	for cut := range len(file) {
		if cut == 0 || cut == 16 || cut == 39 { // nothing, and ends of entries outside of the transaction
			continue
		}
		if _, err := Inspect(strings.NewReader(file[:cut]), nil); !errors.Is(err, ErrBadSnapshot) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	boom := errors.New("boom")
	for cut := range len(file) {
		if _, err := Inspect(io.MultiReader(strings.NewReader(file[:cut]), iotest.ErrReader(boom)), nil); !errors.Is(err, boom) || errors.Is(err, ErrBadSnapshot) {
			t.Errorf("the source fails at %d: %v", cut, err)
		}
	}
	base, err := os.ReadFile("../rdb/testdata/redis-8.0.2/sets.rdb")
	if err != nil {
		t.Fatal(err)
	}
	all, err := Inspect(bytes.NewReader(base), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := all.Keys
	all.Add(found)
	var b Backup
	all.Record(&b)
	if b.Source.Engine != "redis" || b.Source.Version != "8.0.2" || b.Source.Dialect != "redis:12" || b.Commands != 2 || b.Keys != keys || b.Verification.Checksum != "absent" {
		t.Errorf("%+v", b)
	}
}
