package rdb

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/amberkv/amber/internal/crc64"
)

// TestRawForms compares AppendRaw and WriteRaw on all fixtures, and looks at the footer.
func TestRawForms(t *testing.T) {
	for _, f := range fixtures(t, 1<<30) {
		a := newReader(bytes.NewReader(f.data), nil, 100)
		w := NewReader(bytes.NewReader(f.data), nil)
		for e, err := range a.Entries() {
			if err != nil {
				t.Fatal(f.name, err)
			}
			if _, err := w.Next(); err != nil {
				t.Fatal(f.name, err)
			}
			var written bytes.Buffer
			n, werr := w.WriteRaw(&written)
			raw, aerr := a.AppendRaw(nil, -1)
			if e.Kind != KindKey && e.Kind != KindFunction {
				if !errors.Is(werr, ErrUnsupported) || !errors.Is(aerr, ErrUnsupported) {
					t.Fatalf("%s: %v has a raw value: %v, %v", f.name, e.Kind, aerr, werr)
				}
				continue
			}
			if werr != nil || aerr != nil || n != int64(len(raw)) || !bytes.Equal(raw, written.Bytes()) {
				t.Fatalf("%s: %q: AppendRaw %x, %v, WriteRaw %x, %d, %v", f.name, e.Key, raw, aerr, written.Bytes(), n, werr)
			}
			if raw[0] != e.Encoding || !bytes.Equal(raw, sealed(raw)) || raw[len(raw)-9] != 0 || raw[len(raw)-10] < minFooter {
				t.Fatalf("%s: %q: payload %x", f.name, e.Key, raw)
			}
			if _, err := a.AppendRaw(nil, -1); err != ErrNoValue {
				t.Fatalf("%s: a second time: %v, want ErrNoValue", f.name, err)
			}
		}
	}
}

// TestRawIsDump compares raw values with what a server answered to DUMP. Its footer states another version, so that
// only what is before the footer can be equal.
func TestRawIsDump(t *testing.T) {
	f, err := os.Open("testdata/dragonfly-1.40/mini-dump.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := make(map[string][]byte)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l struct {
			DB   int    `json:"db"`
			Key  string `json:"key"`
			Dump []byte `json:"dump_b64"`
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		want[fmt.Sprintf("%d/%s", l.DB, unescape(t, l.Key))] = l.Dump
	}
	rdb, err := os.Open("testdata/dragonfly-1.40/mini.rdb")
	if err != nil {
		t.Fatal(err)
	}
	defer rdb.Close()
	r := NewReader(rdb, nil)
	equal := 0
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != KindKey {
			continue
		}
		raw, err := r.AppendRaw(nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		dump := want[fmt.Sprintf("%d/%s", e.DB, e.Key)]
		if dump == nil {
			continue // it was past its expiry when the server was asked
		}
		if got, want := raw[:len(raw)-footerLen], dump[:len(dump)-footerLen]; !bytes.Equal(got, want) {
			t.Errorf("%q:\n%x\nDUMP gave\n%x", e.Key, got, want)
		}
		equal++
	}
	if equal < 35 {
		t.Errorf("only %d keys were compared", equal)
	}
}

func TestRawLimit(t *testing.T) {
	big := strings.Repeat("v", 3*bufferSize)
	data := build("REDIS0011").bytes(0).str("k", big).bytes(0).str("l", "w").end()
	size := 1 + 5 + len(big) + footerLen
	for _, limit := range []int{0, 1, size - footerLen, size - 1, size, size + 1, -1} {
		r := NewReader(bytes.NewReader(data), nil)
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, 3, 100)
		raw, err := r.AppendRaw(dst, limit)
		var tooLarge *TooLargeError
		switch {
		case limit >= 0 && limit < size:
			if !errors.As(err, &tooLarge) || !errors.Is(err, ErrTooLarge) || tooLarge.Size != uint64(size) || tooLarge.Limit != int64(limit) ||
				tooLarge.Key != "k" || len(raw) != len(dst) {
				t.Errorf("limit %d: %d bytes, %v", limit, len(raw), err)
			}
		case err != nil || len(raw) != 3+size:
			t.Errorf("limit %d: %d bytes, %v", limit, len(raw), err)
		}
		e, err := r.Next()
		if err != nil || string(e.Key) != "l" {
			t.Fatalf("limit %d: then %v, %v", limit, e, err)
		}
		if err := readAll(r); err != io.EOF {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

func TestRawErrors(t *testing.T) {
	data := build("REDIS0011").bytes(0).str("k", strings.Repeat("v", 1000)).end()
	r := NewReader(bytes.NewReader(data), nil)
	if _, err := r.AppendRaw(nil, -1); err != ErrNoValue {
		t.Errorf("before Next: %v, want ErrNoValue", err)
	}
	if err := readAll(r); err != io.EOF {
		t.Fatal(err)
	}
	if _, err := r.WriteRaw(io.Discard); err != ErrNoValue {
		t.Errorf("after the end: %v, want ErrNoValue", err)
	}

	// A stream that is cut in the value: the error is that of Next, and stays.
	r = NewReader(bytes.NewReader(data[:500]), nil)
	r.Next()
	raw, err := r.AppendRaw(nil, -1)
	if len(raw) != 0 || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, ErrCorrupt) {
		t.Errorf("cut: %d bytes, %v", len(raw), err)
	}
	if _, again := r.Next(); again != err {
		t.Errorf("then %v, want %v", again, err)
	}
	if _, again := r.WriteRaw(io.Discard); again != err {
		t.Errorf("then %v, want %v", again, err)
	}

	// A writer that fails at any point ends the reader.
	full := errors.New("disk full")
	for room := range 1 + 3 + 1000 + footerLen - 1 {
		r = newReader(bytes.NewReader(data), nil, 100)
		r.Next()
		n, err := r.WriteRaw(&limitedWriter{room, full})
		if n != int64(room) || !errors.Is(err, full) || errors.Is(err, ErrCorrupt) {
			t.Fatalf("room for %d: %d, %v", room, n, err)
		}
		if _, again := r.Next(); again != err {
			t.Fatalf("room for %d: then %v, want %v", room, again, err)
		}
	}
}

type limitedWriter struct {
	room int
	err  error
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.room)
	w.room -= n
	if n < len(p) {
		return n, w.err
	}
	return n, nil
}

// zeros is a source of n zero bytes after head, and of tail behind them.
func zeros(head []byte, n int64, tail []byte) io.Reader {
	endless := readerFunc(func(p []byte) (int, error) {
		clear(p)
		return len(p), nil
	})
	return io.MultiReader(bytes.NewReader(head), io.LimitReader(endless, n), bytes.NewReader(tail))
}

// TestHugeValue skips and writes a value of 1 GiB with hardly any memory.
func TestHugeValue(t *testing.T) {
	const size = 1 << 30
	head := build("REDIS0011").bytes(0).str("k").len(size).b
	sum := crc64.Combine(crc64.Checksum(head), 0, size)
	tail := build("").bytes(opEOF).u64(crc64.Update(sum, []byte{opEOF})).b
	var written int64
	for _, read := range []func(r *Reader) error{
		func(*Reader) error { return nil },
		func(r *Reader) (err error) { written, err = r.WriteRaw(io.Discard); return err },
		func(r *Reader) error {
			_, err := r.AppendRaw(nil, 1<<16)
			if !errors.Is(err, ErrTooLarge) {
				return errors.New("no ErrTooLarge")
			}
			return nil
		},
	} {
		before := allocated()
		r := NewReader(zeros(head, size, tail), nil)
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if err := read(r); err != nil {
			t.Fatal(err)
		}
		if err := readAll(r); err != io.EOF || r.Stats().Checksum != ChecksumCRC64 {
			t.Fatal(err, r.Stats())
		}
		if used := allocated() - before; used > 2<<20 {
			t.Errorf("a value of 1 GiB made the reader allocate %d bytes", used)
		}
	}
	if want := int64(1 + 5 + size + footerLen); written != want {
		t.Errorf("wrote %d bytes, want %d", written, want)
	}
}

// TestHugeClaim has lengths of terabytes with little behind them.
func TestHugeClaim(t *testing.T) {
	for _, data := range [][]byte{
		build("REDIS0011").bytes(0).len(1 << 40).b,                                // key name
		build("REDIS0011").bytes(0).len(400 << 20).b,                              // key name below the limit
		build("REDIS0011").bytes(0, stringLZF).len(1<<20, 80<<20).b,               // compressed key name
		build("REDIS0011").bytes(0).str("k").len(1 << 40).b,                       // value
		build("REDIS0011").bytes(0).str("k").bytes(stringLZF).len(1<<40, 1<<41).b, // compressed value
		build("REDIS0011").bytes(opAux).str("name").len(1 << 29).b,                // aux fact
		build("REDIS0015").bytes(opHashTemplate).len(1, 0, 1<<29).b,               // template
	} {
		data = append(data, make([]byte, 3<<10)...)
		if err := readAny(t, data); err == io.EOF || err == nil {
			t.Errorf("%.30q was accepted", data)
		}
		r := NewReader(iotest.HalfReader(bytes.NewReader(data)), nil)
		before := allocated()
		for err := error(nil); err == nil; {
			if _, err = r.Next(); err == nil {
				_, err = r.AppendRaw(nil, -1)
			}
		}
		if used := allocated() - before; used > 1<<20 {
			t.Errorf("%.30q made the reader allocate %d bytes", data, used)
		}
	}
	// And where only elements look.
	for _, data := range [][]byte{
		build("REDIS0012").bytes(18).str("k").len(1, 1).bytes(stringLZF).len(8, 1<<30).b,                           // list node
		build("REDIS0012").bytes(16).str("k").bytes(stringLZF).len(8, 1<<30).b,                                     // packed hash
		build("REDIS0012").bytes(16).str("k").len(1 << 40).b,                                                       // the same, plain
		build("REDIS0012").bytes(4).str("k").len(1).str("f").bytes(stringLZF).len(8, 1<<30).b,                      // hash value
		build("REDIS0012").bytes(4).str("k").len(1, 400<<20).b,                                                     // hash field
		build("REDIS0012").bytes(22).str("k").len(1, 0).bytes(stringLZF).len(1<<20, 80<<20).b,                      // compressed hash field
		build("REDIS0012").bytes(21).str("k").len(1).str(strings.Repeat("i", 16)).len(60 << 20).b,                  // stream node
		build("REDIS0012").bytes(21).str("k").len(1).str(strings.Repeat("i", 16)).bytes(stringLZF).len(8, 1<<30).b, // the same, compressed
		build("REDIS0009").bytes(9).str("k").bytes(stringLZF).len(1<<18, 20<<20).b,                                 // zipmap
	} {
		data = append(data, make([]byte, 3<<10)...)
		for level, read := range levels {
			before := allocated()
			if err := read(NewReader(iotest.HalfReader(bytes.NewReader(data)), nil)); err == io.EOF {
				t.Errorf("%s: %.30q was accepted", level, data)
			}
			if used := allocated() - before; used > 2<<20 {
				t.Errorf("%s: %.30q allocated %d bytes", level, data, used)
			}
		}
	}
}
