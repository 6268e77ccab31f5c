package rdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// TestFixtures compares every entry of every fixture with what the live server answered.
func TestFixtures(t *testing.T) {
	encodings := make(map[string]bool)
	for _, f := range fixtures(t, 1<<30) {
		t.Run(f.name, func(t *testing.T) {
			server, _, _ := strings.Cut(f.name, "/")
			r := NewReader(bytes.NewReader(f.data), nil)
			want := make(map[string]wantKey)
			known := f.name != "redis-8.0.2/aof_base" && f.name != "redis-6.2/replica_capture"
			if known {
				want = wantKeys(t, f.name)
			}
			keys, expires := 0, 0
			for e, err := range r.Entries() {
				if err != nil {
					t.Fatal(err)
				}
				encodings[fmt.Sprintf("%s %s %d", r.Dialect().Family, e.Kind, e.Encoding)] = true
				if e.Kind != KindKey {
					continue
				}
				keys++
				if e.HasExpiry {
					expires++
				}
				if !known {
					continue
				}
				id := fmt.Sprintf("%d/%s", e.DB, e.Key)
				w, ok := want[id]
				if !ok {
					t.Errorf("entry %q is not wanted, or came twice", id)
					continue
				}
				delete(want, id)
				if got := commandType(e); got != w.Type {
					t.Errorf("%q has type %s, want %s", id, got, w.Type)
				}
				switch {
				case w.Expire == nil && e.HasExpiry:
					t.Errorf("%q expires at %d, want never", id, e.ExpireAt)
				case w.Expire != nil && (!e.HasExpiry || e.ExpireAt != *w.Expire):
					t.Errorf("%q expires at %v %d, want %d", id, e.HasExpiry, e.ExpireAt, *w.Expire)
				}
				// The server may have counted the question itself, so only that there is a value can be compared.
				if e.Freq >= 0 != (w.Freq != nil) && server != "redis-4.0" {
					t.Errorf("%q has frequency %d, want %v", id, e.Freq, w.Freq)
				}
				if e.Idle >= 0 != (w.Idle != nil) && server != "redis-4.0" {
					t.Errorf("%q was idle for %d s, want %v", id, e.Idle, w.Idle)
				}
			}
			for id := range want {
				t.Errorf("entry %q is missing", id)
			}
			s := r.Stats()
			if s.Keys != int64(keys) || s.Expires != int64(expires) || s.Bytes != int64(len(f.data)) || r.Offset() != s.Bytes {
				t.Errorf("Stats = %+v, want %d keys, %d with expiry, %d bytes", s, keys, expires, len(f.data))
			}
			wantSum := ChecksumCRC64
			if !f.hasChecksum() || strings.Contains(f.name, "nochecksum") || strings.HasPrefix(f.name, "dragonfly") {
				wantSum = ChecksumAbsent
			}
			if s.Checksum != wantSum {
				t.Errorf("checksum %q, want %q", s.Checksum, wantSum)
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("Next after the end: %v, want io.EOF", err)
			}
		})
	}
	// The fixtures are a choice: this is what must be in it.
	for family, codes := range map[Family][]int{
		Redis:     {0, 2, 3, 4, 5, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26},
		Valkey:    {0, 2, 4, 5, 16, 17, 18, 21, 22},
		Dragonfly: {0, 2, 4, 5, 11, 16, 17, 18, 21, 30, 31, 32, 34, 35, 36, 37},
	} {
		for _, code := range codes {
			if want := fmt.Sprintf("%s key %d", family, code); !encodings[want] {
				t.Errorf("no fixture has %s", want)
			}
		}
	}
	for _, want := range []string{"redis aux 250", "redis resizedb 251", "redis slot-info 244", "redis function 245", "valkey function 245"} {
		if !encodings[want] {
			t.Errorf("no fixture has %s", want)
		}
	}
}

func TestStats(t *testing.T) {
	data, err := os.ReadFile("testdata/redis-8.6.3/vectorset.rdb")
	if err != nil {
		t.Fatal(err)
	}
	r := NewReader(bytes.NewReader(data), nil)
	if err := readAll(r); err != io.EOF {
		t.Fatal(err)
	}
	s := r.Stats()
	if len(s.DBs) != 1 || s.DBs[0].DB != 0 || s.DBs[0].Keys != 5 || s.DBs[0].Types[TypeModule] != 4 || s.DBs[0].Types[TypeString] != 1 {
		t.Errorf("DBs = %+v, want 4 module values and a string in database 0", s.DBs)
	}
	if len(s.Modules) != 1 || s.Modules[0].ID.Name() != "vectorset" || s.Modules[0].ID.Version() != 0 || s.Modules[0].Keys != 4 {
		t.Errorf("Modules = %+v, want 4 values of vectorset", s.Modules)
	}
}

// describe puts everything about an entry into a line.
func describe(e *Entry) string {
	return fmt.Sprintf("%v %v %d db%d @%d %q=%q exp(%v,%d) idle%d freq%d mod%x meta%x flags%d,%d %d %d %d",
		e.Kind, e.Type, e.Encoding, e.DB, e.Offset, e.Key, e.Value, e.HasExpiry, e.ExpireAt, e.Idle, e.Freq, uint64(e.Module),
		e.Meta, e.Flags, e.Memcache, e.Slot, e.Keys, e.Expires)
}

// transcript reads everything and describes it. Of every second entry, it takes the raw value; in the end
// come error and stats.
func transcript(r *Reader) string {
	var out strings.Builder
	for i := 0; ; i++ {
		e, err := r.Next()
		if err != nil {
			s := r.Stats()
			if err != io.EOF {
				s.Bytes = 0 // how much of what is wrong was consumed is nobody's business
			}
			fmt.Fprintf(&out, "%v\n%v %+v\n", err, r.Dialect(), s)
			return out.String()
		}
		before := describe(e)
		out.WriteString(before + "\n")
		if i%2 == 0 {
			raw, err := r.AppendRaw(nil, 1<<20)
			fmt.Fprintf(&out, "raw %x %v\n", raw, err)
			if after := describe(e); after != before {
				fmt.Fprintf(&out, "the entry was overwritten: %s\n", after)
			}
		}
	}
}

// TestFragmentation reads fixtures in all kinds of pieces and through small buffers: nothing may change.
func TestFragmentation(t *testing.T) {
	for _, f := range fixtures(t, 20<<10) {
		want := transcript(NewReader(bytes.NewReader(f.data), nil))
		if strings.Contains(want, "overwritten") || strings.Contains(want, "corrupt") {
			t.Fatalf("%s: %s", f.name, want)
		}
		for name, source := range map[string]func(io.Reader) io.Reader{
			"whole":               func(r io.Reader) io.Reader { return r },
			"one byte":            iotest.OneByteReader,
			"halves":              iotest.HalfReader,
			"data with error":     iotest.DataErrReader,
			"one byte with error": func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
		} {
			for _, size := range []int{smallestBuffer, 17, 31, 64, 1000, bufferSize} {
				if got := transcript(newReader(source(bytes.NewReader(f.data)), nil, size)); got != want {
					t.Fatalf("%s, %s, buffer of %d: got\n%s\nwant\n%s", f.name, name, size, got, want)
				}
			}
		}
	}
}

// TestFragmentedElements reads fixtures as elements through buffers of every size, each fixture through a quarter of them: through all with
// CAMPAIGN=1.
func TestFragmentedElements(t *testing.T) {
	for i, f := range append(fixtures(t, 5<<10), rareFixtures()...) {
		want := wholeElements(f.data)
		for size := smallestBuffer; size < 300; size++ {
			if !share(size+i, 4) {
				continue
			}
			var src io.Reader = bytes.NewReader(f.data)
			if size%3 == 0 {
				src = iotest.OneByteReader(src)
			}
			want.same(t, newReader(src, nil, size))
		}
	}
	for _, f := range fixtures(t, 1<<30) {
		want := wholeElements(f.data)
		for _, size := range []int{smallestBuffer, 1000, 5000, 70000} {
			if err := want.same(t, newReader(bytes.NewReader(f.data), nil, size)); err != io.EOF {
				t.Errorf("%s: %v", f.name, err)
			}
		}
	}
}

// TestNeverWaitsForMore gives a reader only what it needs: were it to ask for more, a live connection would hang.
func TestNeverWaitsForMore(t *testing.T) {
	for _, f := range fixtures(t, 20<<10) {
		if f.data[8] < '5' && f.data[7] == '0' {
			continue // its end is the end of the source
		}
		src := io.MultiReader(iotest.OneByteReader(bytes.NewReader(f.data)), iotest.ErrReader(errors.New("read past the end")))
		r := NewReader(src, nil)
		if err := readAll(r); err != io.EOF {
			t.Errorf("%s: %v", f.name, err)
		}
	}
}

func TestWhatFollowsIsLeft(t *testing.T) {
	data := build("REDIS0011").bytes(0).str("k", "v").end()
	r := NewReader(io.MultiReader(bytes.NewReader(data), strings.NewReader("*1\r\n$4\r\nPING\r\n")), nil)
	if err := readAll(r); err != io.EOF {
		t.Fatal(err)
	}
	if r.Offset() != int64(len(data)) {
		t.Errorf("Offset = %d, want %d", r.Offset(), len(data))
	}
	r = NewReader(strings.NewReader(string(data)+"tail"), nil)
	if err := readAll(r); err != io.EOF || string(r.Buffered()) != "tail" {
		t.Errorf("Buffered = %q, want tail (%v)", r.Buffered(), err)
	}
}

func TestSourceErrors(t *testing.T) {
	broken := errors.New("connection reset")
	data := build("REDIS0011").bytes(0).str("k", "value").end()
	for n := range data {
		r := NewReader(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken)), nil)
		err := readAll(r)
		if !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v, want the source's error and not ErrCorrupt", n, err)
		}
		if _, again := r.Next(); again != err {
			t.Fatalf("the error is not sticky: %v", again)
		}
	}
	// A source that itself says that its data ended too early broke; they are not corrupt.
	if err := readAll(NewReader(iotest.ErrReader(io.ErrUnexpectedEOF), nil)); errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if err := readAll(NewReader(readerFunc(func([]byte) (int, error) { return 0, nil }), nil)); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a source that gives nothing: %v", err)
	}
	for _, n := range []int{-1, 1 << 30} {
		if err := readAll(NewReader(readerFunc(func([]byte) (int, error) { return n, nil }), nil)); !errors.Is(err, errBadReader) {
			t.Errorf("a source that returns %d: %v", n, err)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestMagic(t *testing.T) {
	for _, c := range []struct {
		in   string
		want error
	}{
		{"REDIS0016", ErrUnsupported}, {"REDIS0000", ErrUnsupported}, {"REDIS0080", ErrUnsupported}, {"REDIS9999", ErrUnsupported},
		{"VALKEY079", ErrUnsupported}, {"VALKEY081", ErrUnsupported}, {"VALKEY000", ErrUnsupported},
		{"REDIS 012", ErrCorrupt}, {"REDIS00x9", ErrCorrupt}, {"REDIS-001", ErrCorrupt}, {"redis0009", ErrCorrupt},
		{"VALKEY 80", ErrCorrupt}, {"PK\x03\x04zip..", ErrCorrupt}, {"hello", ErrCorrupt}, {"VCS\x01\x01\x00\x01\x04\x22", ErrUnsupported},
		{"", io.ErrUnexpectedEOF}, {"RED", io.ErrUnexpectedEOF}, {"REDIS00", io.ErrUnexpectedEOF}, {"VALKEY", io.ErrUnexpectedEOF},
	} {
		err := readAll(NewReader(strings.NewReader(c.in), nil))
		if !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.in, err, c.want)
		}
	}
	var version *VersionError
	err := readAll(NewReader(strings.NewReader("VALKEY081..."), nil))
	if !errors.As(err, &version) || version.Dialect != (Dialect{Valkey, 81}) {
		t.Errorf("%v, want a VersionError of valkey:81", err)
	}
}

func TestParseDialect(t *testing.T) {
	for _, s := range []string{"redis:1", "redis:12", "redis:15", "valkey:80", "dragonfly:9"} {
		if d, err := ParseDialect(s); err != nil || d.String() != s {
			t.Errorf("ParseDialect(%q) = %v, %v", s, d, err)
		}
	}
	for _, s := range []string{"", "redis", "redis:", "redis:0", "redis:16", "redis:012", "redis:-1", "valkey:79", "valkey:81", "dragonfly:10", "other:9", "unknown"} {
		if d, err := ParseDialect(s); !errors.Is(err, ErrUnsupported) {
			t.Errorf("ParseDialect(%q) = %v, %v, want ErrUnsupported", s, d, err)
		}
	}
}

// TestKeyNames reads key names of every form; each stays as it is while its value passes through the buffers.
func TestKeyNames(t *testing.T) {
	long := strings.Repeat("k", 3*bufferSize)
	inBuffer := strings.Repeat("x", bufferSize-3)
	big := strings.Repeat("v", 5*bufferSize)
	b := build("REDIS0011")
	want := []string{"", "a", "-129", "70000", "-5", strings.Repeat("ab", 150), long, inBuffer, "last"}
	b.bytes(0).str("", big)
	b.bytes(0).str("a", big)
	b.bytes(0, stringInt16, 0x7f, 0xff).str(big)
	b.bytes(0, stringInt32, 0x70, 0x11, 0x01, 0x00).str(big)
	b.bytes(0, stringInt8, 0xfb).str(big)
	b.bytes(0, stringLZF, 13, 0x41, 0x2c, 2, 'a', 'b', 'a', 0xe0, 0xff, 1, 0xe0, 0x16, 1, 1, 'a', 'b').str(big)
	b.bytes(0).str(long, big)
	b.bytes(0).str(inBuffer, big)
	b.bytes(0).str("last", big)
	data := b.end()
	r := NewReader(bytes.NewReader(data), nil)
	var raw []byte
	for i, name := range want {
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = r.AppendRaw(raw[:0], -1); err != nil || len(raw) < len(big) {
			t.Fatalf("%d: raw value of %d bytes, %v", i, len(raw), err)
		}
		if string(e.Key) != name {
			t.Fatalf("%d: key %.20q… of %d bytes, want %.20q…", i, e.Key, len(e.Key), name)
		}
	}
	if err := readAll(r); err != io.EOF {
		t.Fatal(err)
	}

	var tooLarge *TooLargeError
	r = NewReader(bytes.NewReader(data), &ReaderOptions{MaxKey: 299})
	if err := readAll(r); !errors.As(err, &tooLarge) || tooLarge.Size != 300 || tooLarge.Limit != 299 {
		t.Errorf("a limit of 299 bytes: %v", err)
	}
}

func TestEntriesStop(t *testing.T) {
	data := build("REDIS0011").bytes(0).str("a", "1").bytes(0).str("b", "2").end()
	r := NewReader(bytes.NewReader(data), nil)
	for e, err := range r.Entries() {
		if err != nil || string(e.Key) != "a" {
			t.Fatal(e, err)
		}
		break
	}
	n := 0
	for e, err := range r.Entries() {
		if err != nil || string(e.Key) != "b" {
			t.Fatal(e, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d entries after the first, want 1", n)
	}
	errs := 0
	for _, err := range NewReader(strings.NewReader("REDIS0011"), nil).Entries() {
		if err == nil {
			t.Fatal("an entry of a cut stream")
		}
		errs++
	}
	if errs != 1 {
		t.Errorf("%d errors, want 1", errs)
	}
}
