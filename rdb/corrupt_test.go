package rdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime/metrics"
	"strings"
	"testing"
)

// allocated returns how many bytes were allocated so far in this process.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// read reads data to the end, taking the raw value of every second entry, and checks what holds for any bytes: the
// error is of this package, it is sticky, its offset lies in the data, and memory is bounded.
func readAny(t testing.TB, data []byte) error {
	t.Helper()
	before := allocated()
	r := newReader(bytes.NewReader(data), nil, 256)
	var raw []byte
	var err error
	for i := 0; err == nil; i++ {
		if _, err = r.Next(); err == nil && i%2 == 0 {
			raw, _ = r.AppendRaw(raw[:0], 1<<16)
		}
	}
	if _, again := r.Next(); again != err {
		t.Fatalf("the error changed from %v to %v", err, again)
	}
	s := r.Stats()
	// What a stream can make the reader allocate: LZF expands 88 times, slices double, databases and modules are counted. The
	// runtime adds up its figures late, so that some of what tests before this one took is in them.
	if used, limit := allocated()-before, 300*uint64(len(data))+1<<21; used > limit {
		t.Fatalf("%d bytes made the reader allocate %d, the limit is %d: %v", len(data), used, limit, err)
	}
	if r.Offset() > int64(len(data)) || s.Bytes != r.Offset() {
		t.Fatalf("offset %d of %d bytes, stats say %d", r.Offset(), len(data), s.Bytes)
	}
	var corrupt *CorruptError
	var unsupported *UnsupportedError
	var tooLarge *TooLargeError
	var version *VersionError
	offset := int64(0)
	switch {
	case err == io.EOF:
		if s.Checksum == ChecksumPending {
			t.Fatal("a good end without a state of the checksum")
		}
	case errors.As(err, &corrupt):
		offset = corrupt.Offset
	case errors.As(err, &unsupported):
		offset = unsupported.Offset
	case errors.As(err, &tooLarge):
		offset = tooLarge.Offset
	case errors.As(err, &version):
	default:
		t.Fatalf("an error of no known type: %v", err)
	}
	if offset < 0 || offset > int64(len(data)) {
		t.Fatalf("offset %d in an error about %d bytes: %v", offset, len(data), err)
	}
	return err
}

// levels are the ways to read a stream to its end.
var levels = map[string]func(*Reader) error{
	"raw":      readAll,
	"elements": drain,
	"check": func(r *Reader) error {
		if err := Check(r, nil); err != nil {
			return err
		}
		return io.EOF
	},
}

// TestTruncation cuts fixtures at every byte, long ones at some, and at more of them with CAMPAIGN=1.
func TestTruncation(t *testing.T) {
	for level, read := range levels {
		for _, f := range fixtures(t, 8<<10) {
			for n := range f.data {
				if len(f.data) > 1500 && level != "raw" && n%7 > 0 || len(f.data) > 3000 && !share(n, 3) {
					continue // at every byte of small ones
				}
				r := newReader(bytes.NewReader(f.data[:n]), nil, 64<<(n%7))
				err := read(r)
				var corrupt *CorruptError
				if !errors.As(err, &corrupt) || !errors.Is(err, ErrCorrupt) || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%s of %s cut at %d: %v", level, f.name, n, err)
				}
				if corrupt.Offset != int64(n) {
					t.Fatalf("%s of %s cut at %d: the error says %d", level, f.name, n, corrupt.Offset)
				}
			}
		}
	}
}

// TestChangedBytes changes every byte of small fixtures, and makes the checksum right again: memory is bounded, what is
// left of the elements is the same however the stream is fragmented, and what Check accepts can be read. Each byte becomes two
// of five others, with CAMPAIGN=1 all five.
func TestChangedBytes(t *testing.T) {
	for _, f := range append(fixtures(t, 1500), rareFixtures()...) {
		t.Run(f.name, func(t *testing.T) {
			data := bytes.Clone(f.data)
			for at := magicLen; at < len(data)-8; at++ {
				for i, to := range []byte{data[at] ^ 1, data[at] + 1, data[at] ^ 0x80, 0, 0xff} {
					if !campaign && i != at%5 && i != (at+2)%5 {
						continue
					}
					was := data[at]
					data[at] = to
					changed := sealed(data)
					data[at] = was
					err := readElements(t, changed, drain)
					if i == at%5 {
						sameElements(t, changed, newReader(bytes.NewReader(changed), nil, smallestBuffer+at%50))
					}
					if checked := readElements(t, changed, levels["check"]); checked == io.EOF && err != io.EOF {
						t.Fatalf("byte %d set to %d: Check accepts it, but reading its elements gives %v", at, to, err)
					}
				}
			}
		})
	}
}

// TestBitFlips changes every bit of small fixtures (a third of them without CAMPAIGN=1), and some of larger ones.
func TestBitFlips(t *testing.T) {
	for _, f := range fixtures(t, 1<<20) {
		if !f.hasChecksum() || strings.Contains(f.name, "nochecksum") || strings.HasPrefix(f.name, "dragonfly") {
			continue // nothing in these tells
		}
		step := 1
		if len(f.data) > 1200 {
			step = 8*len(f.data)/1000 | 1
		}
		if !campaign {
			step *= 3 // as odd as it was
		}
		data := bytes.Clone(f.data)
		for bit := 0; bit < 8*len(data); bit += step {
			data[bit/8] ^= 1 << (bit % 8)
			if err := readAny(t, data); err == io.EOF {
				t.Fatalf("%s with bit %d changed was accepted", f.name, bit)
			}
			data[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// TestForcedLengths puts extreme lengths wherever one could stand, and makes the checksum right again. The most extreme one comes everywhere,
// and of the others two at each place: with CAMPAIGN=1 all of them.
func TestForcedLengths(t *testing.T) {
	for _, f := range append(fixtures(t, 3000), rareFixtures()...) {
		step := len(f.data)/600 + 1
		for at := magicLen; at < len(f.data)-8; at += step {
			size := max(1, int(lengthSizes[f.data[at]]))
			if at+size > len(f.data)-8 {
				continue
			}
			for i, n := range []uint64{1<<64 - 1, 0, 1, 1<<14 - 1, 1 << 31, 1<<32 - 1, 1<<62 + 1, 1 << 63} {
				if k := at / step; i > 0 && !campaign && i-1 != k%7 && i-1 != (k+3)%7 {
					continue
				}
				b := sealed(build(string(f.data[:at])).len(n).bytes(f.data[at+size:]...).b)
				if err := readAny(t, b); err == nil {
					t.Fatalf("%s with length %d at %d: no error and no end", f.name, n, at)
				}
				readElements(t, b, drain)
				readElements(t, b, levels["check"])
				// The same as a string that claims to be compressed.
				b = sealed(build(string(f.data[:at])).bytes(stringLZF, 1).len(n).bytes(f.data[at+size:]...).b)
				readAny(t, b)
				readElements(t, b, drain)
			}
		}
	}
}

// TestCorrupt has streams that are wrong in one way each, with the reason that the error has to give.
func TestCorrupt(t *testing.T) {
	for _, c := range []struct {
		why  string
		data []byte
	}{
		{"the checksum of what was read", append(build("REDIS0011").bytes(0).str("k", "v").bytes(opEOF).b, 1, 2, 3, 4, 5, 6, 7, 8)},
		{"begins no length", build("REDIS0011").bytes(2).str("k").bytes(0x82).end()},
		{"begins a string, but a length", build("REDIS0011").bytes(2).str("k").bytes(0xC0, 1).end()},
		{"begins no string", build("REDIS0011").bytes(0).str("k").bytes(0xC4).end()},
		{"begins no string", build("REDIS0011").bytes(0, 0xFF).end()},
		{"can't expand", build("REDIS0011").bytes(0).str("k").bytes(stringLZF, 2).len(177).bytes(0, 0).end()},
		{"can't expand", build("REDIS0011").bytes(0).str("k").bytes(stringLZF, 0, 0).end()},
		{"can't expand", build("REDIS0011").bytes(0, stringLZF, 2).len(1<<64-1).bytes(0, 0).end()},
		{"doesn't expand to its length", build("REDIS0011").bytes(0, stringLZF, 2, 2, 0, 'a').str("v").end()},
		{"selects database", build("REDIS0011").bytes(opSelectDB).len(1 << 31).end()},
		{"idle for", build("REDIS0011").bytes(opIdle).len(1<<63).bytes(0).str("k", "v").end()},
		{"a list node is of kind 3", build("REDIS0011").bytes(18).str("k").len(1, 3).str("x").end()},
		{"item of unknown kind 6", build("REDIS0011").bytes(7).str("k").len(1<<60, 6).end()},
		{"instead of 2", build("REDIS0011").bytes(opModuleAux).len(1<<60, 3, 1).end()},
		{"elements is impossible", build("REDIS0011").bytes(4).str("k").len(1 << 63).end()},
		{"elements is impossible", build("REDIS0009").bytes(35).str("k").len(1<<40, 1<<40, 0).end()},
		{"follow the end of a stream of version 4", build("REDIS0004").bytes(0).str("k", "v").end()},
		{"which the stream hasn't defined", build("REDIS0015").bytes(32).str("k").len(7).str("v").end()},
		{"has no fields", build("REDIS0015").bytes(opHashTemplate).len(7, 1, 0).end()},
		{"no listpack", build("REDIS0015").bytes(opHashTemplate).len(7, 0).str("xxx").end()},
		{"a piece of 0 bytes", build("REDIS0009").bytes(37).str("k").len(1, 1, 1, 1, 1, 1, 1, 4, 0).end()},
		{"a piece of 5 bytes", build("REDIS0009").bytes(37).str("k").len(1, 1, 1, 1, 1, 1, 1, 4, 5).end()},
	} {
		var corrupt *CorruptError
		err := readAny(t, c.data)
		if !errors.As(err, &corrupt) || !strings.Contains(corrupt.Why, c.why) {
			t.Errorf("%q: %v, want %q", c.data, err, c.why)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v, but nothing was cut", c.data, err)
		}
	}
	for _, c := range []struct {
		what string
		data []byte
	}{
		{"unknown type or opcode 8", build("REDIS0012").bytes(8).str("k").end()},
		{"unknown type or opcode 38", build("REDIS0015").bytes(38).str("k").end()},
		{"unknown type or opcode 34 in a stream of dialect redis:15", build("REDIS0015").bytes(34).str("k").end()},
		{"unknown type or opcode 24 in a stream of dialect valkey:80", build("VALKEY080").bytes(24).str("k").end()},
		{"unknown type or opcode 242", build("VALKEY080").bytes(opHashTemplate).end()},
		{"unknown type or opcode 220", build("VALKEY080").bytes(opDragonflyMask).end()},
		{"unknown type or opcode 241", build("REDIS0012").bytes(241).end()},
		{"release candidates of Redis 4.0", build("REDIS0008").bytes(6).str("k").end()},
		{"release candidates of Redis 7.0", build("REDIS0010").bytes(opFunctionPreGA).end()},
		{"opcode 205 of a Dragonfly newer", build("REDIS0009").bytes(205).end()},
		{"an array with flag 2", build("REDIS0014").bytes(28).str("k").len(0, 2).end()},
		{"an array element of kind 4", build("REDIS0014").bytes(28).str("k").len(1, 0, 0, 4).end()},
		{"hash template of format 2", build("REDIS0015").bytes(opHashTemplate).len(1, 2).end()},
	} {
		var unsupported *UnsupportedError
		err := readAny(t, c.data)
		if !errors.As(err, &unsupported) || !errors.Is(err, ErrUnsupported) || !strings.Contains(unsupported.What, c.what) {
			t.Errorf("%q: %v, want %q", c.data, err, c.what)
		}
	}
}

// TestErrorsNameTheKey looks at what an error tells.
func TestErrorsNameTheKey(t *testing.T) {
	data := build("REDIS0011").bytes(opSelectDB, 3, 0).str("good", "v").bytes(2).str("bad", "").b
	data[len(data)-1] = 0x90
	err := readAny(t, data)
	if want := `rdb: corrupt at byte 24 (db 3, key "bad"): byte 0x90 begins no length`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestManyDatabases makes a stream whose only use is to fill memory with counters.
func TestManyDatabases(t *testing.T) {
	b := build("REDIS0011")
	for i := range uint64(maxDBs) + 1 {
		b.bytes(opSelectDB).len(i).bytes(0).str("", "")
	}
	data := b.end()
	if err := readAny(t, data); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	b = build("REDIS0011")
	for i := range uint64(maxModules) + 1 {
		b.bytes(7).str("").len(i<<10, moduleEOF)
	}
	if err := readAny(t, b.end()); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

// TestUnsealed makes sure that the tests above test something: with the checksum set to zero nothing is checked.
func TestUnsealed(t *testing.T) {
	data := build("REDIS0011").bytes(0).str("k", "v").end()
	binary.LittleEndian.PutUint64(data[len(data)-8:], 0)
	data[13] ^= 1
	r := NewReader(bytes.NewReader(data), nil)
	if err := readAll(r); err != io.EOF || r.Stats().Checksum != ChecksumAbsent {
		t.Errorf("%v, checksum %q; want io.EOF, absent", err, r.Stats().Checksum)
	}
}
