package rdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/amberkv/amber/internal/lz4frame"
	"github.com/klauspost/compress/zstd"
)

// A record is a piece of a stream as it stands there: a key with what goes before it, or a journal command.
type record struct {
	db    int
	bytes []byte
}

// recordsOf cuts a stream that has nothing nested into its keys.
func recordsOf(t testing.TB, data []byte) []record {
	t.Helper()
	r := NewReader(bytes.NewReader(data), nil)
	var out []record
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != KindKey {
			continue
		}
		b := build("")
		if e.HasExpiry {
			b.bytes(opExpireMillis).u64(uint64(e.ExpireAt))
		}
		if e.Flags != 0 {
			b.bytes(opDragonflyMask).u32(e.Flags)
			if e.Flags&2 != 0 {
				b.u32(e.Memcache)
			}
		}
		p, err := r.AppendRaw(nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		p = p[len(e.Meta) : len(p)-footerLen]
		b.bytes(e.Meta...).bytes(p[0]).str(string(e.Key)).bytes(p[1:]...)
		out = append(out, record{e.DB, b.b})
	}
	return out
}

func (b *builder) u32(ns ...uint32) *builder {
	for _, n := range ns {
		b.b = binary.LittleEndian.AppendUint32(b.b, n)
	}
	return b
}

// block appends a compressed block of content.
func (b *builder) block(code byte, content []byte) *builder {
	var packed []byte
	if code == opLZ4 {
		packed = new(lz4frame.Encoder).Append(nil, content)
	} else {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true))
		if err != nil {
			panic(err)
		}
		packed = e.EncodeAll(content, nil)
	}
	return b.bytes(code).str(string(packed))
}

func (b *builder) chunk(id uint32, payload string) *builder {
	return b.bytes(opChunk).u32(id, uint32(len(payload))).bytes([]byte(payload)...)
}

// interleaved makes a stream of records as Dragonfly does: some in chunks, which lie between others, some in blocks.
func interleaved(records []record, rnd *rand.Rand) []byte {
	type open struct {
		id    uint32
		db    int
		rest  []byte
		size  int // of its pieces
		fresh bool
	}
	var values []open
	var pieces []string // that a block may not part
	db := -1
	selected := func(want int) *builder {
		b := build("")
		if db != want {
			db = want
			b.bytes(opSelectDB).len(uint64(want))
		}
		return b
	}
	id := uint32(0)
	for len(records) > 0 || len(values) > 0 {
		if len(records) > 0 && (len(values) == 0 || rnd.IntN(3) > 0) {
			rec := records[0]
			records = records[1:]
			if rnd.IntN(2) == 0 || len(rec.bytes) < 4 {
				pieces = append(pieces, string(selected(rec.db).bytes(rec.bytes...).b))
				continue
			}
			id++
			values = append(values, open{id, rec.db, rec.bytes, 1 + rnd.IntN(len(rec.bytes)), true})
		}
		i := len(values) - 1
		if !values[i].fresh {
			i = rnd.IntN(len(values))
		}
		v := &values[i]
		if v.fresh {
			// The database of a value is the one that was selected when it began.
			pieces = append(pieces, string(selected(v.db).b))
			v.fresh = false
		}
		if v.size < len(v.rest) {
			pieces = append(pieces, string(build("").chunk(v.id, string(v.rest[:v.size])).b))
			v.rest = v.rest[v.size:]
			if rnd.IntN(4) == 0 {
				pieces = append(pieces, string(selected(rnd.IntN(16)).b))
			}
			continue
		}
		pieces = append(pieces, string(build("").chunk(values[i].id, string(values[i].rest)).b))
		values = append(values[:i], values[i+1:]...)
	}
	out := build("REDIS0009").bytes(opAux).str("df-ver", "df-v1.40.0")
	code := []byte{opZstd, opLZ4}[rnd.IntN(2)]
	for len(pieces) > 0 {
		n := 1 + rnd.IntN(min(len(pieces), 5))
		content := strings.Join(pieces[:n], "")
		pieces = pieces[n:]
		if content == "" || rnd.IntN(2) == 0 {
			out.bytes([]byte(content)...)
		} else {
			out.block(code, []byte(content))
		}
	}
	return out.bytes(opEOF).u64(0).b
}

// TestNested cuts values into chunks of all sizes with anything between them, in and out of blocks, and reads them skipping, raw
// and as elements: in memory, through a spool, in pieces, whatever the size of the buffers. Keys come in the order in which they began.
func TestNested(t *testing.T) {
	var data []byte
	for _, f := range fixtures(t, 1<<20) {
		if f.name == "dragonfly-1.40/mini" {
			data = f.data
		}
	}
	records := recordsOf(t, data)
	plain := build("REDIS0009").bytes(opAux).str("df-ver", "df-v1.40.0")
	for _, rec := range records {
		plain.bytes(opSelectDB).len(uint64(rec.db)).bytes(rec.bytes...)
	}
	plain.bytes(opEOF).u64(0)
	c := content{counts: true, idmp: true}
	want, err := c.of(plain.b)
	if err != nil {
		t.Fatal(err)
	}
	order := keysOf(t, NewReader(bytes.NewReader(plain.b), nil))
	raws := rawsOf(t, NewReader(bytes.NewReader(plain.b), nil))
	seeds := uint64(20)
	if campaign {
		seeds = 60
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 1))
		stream := interleaved(records, rnd)
		got, err := c.of(stream)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := diffContents(want, got); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		for _, size := range []int{smallestBuffer, 100, bufferSize} {
			for held, opts := range map[string]*ReaderOptions{"memory": nil, "spool": {MaxHeld: 1 + rnd.IntN(200), Spool: spoolFile(t)}} {
				src := io.Reader(bytes.NewReader(stream))
				if rnd.IntN(2) == 0 {
					src = iotest.OneByteReader(src)
				}
				r := newReader(src, opts, size)
				if got := keysOf(t, r); got != order {
					t.Fatalf("seed %d, buffers of %d, %s: keys\n%s, want\n%s", seed, size, held, got, order)
				}
				if r.Offset() != int64(len(stream)) || r.Dialect() != (Dialect{Dragonfly, 9}) {
					t.Fatalf("seed %d: ended at %d of %d, %v", seed, r.Offset(), len(stream), r.Dialect())
				}
				if got := rawsOf(t, newReader(bytes.NewReader(stream), opts, size)); got != raws {
					t.Fatalf("seed %d, buffers of %d, %s: raw values differ", seed, size, held)
				}
			}
		}
		for range 20 {
			n := rnd.IntN(len(stream))
			if err := readAny(t, stream[:n]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("seed %d, cut at %d: %v", seed, n, err)
			}
		}
	}
}

// TestChunkIDsAreUsedAgain has two values in chunks of one id, both passed on the way to the end of another: what lies between them stays
// between them.
func TestChunkIDsAreUsedAgain(t *testing.T) {
	set := func(name string) string { return string(build("").bytes(2).str(name).len(2).str("a", "b").b) }
	a, b := set("first"), set("second")
	data := build("REDIS0009").bytes(opAux).str("df-ver", "df-v1.40.0").
		chunk(1, a[:9]).chunk(2, b[:10]).chunk(2, b[10:]).bytes(0).str("third", "v").chunk(2, set("fourth")).chunk(1, a[9:]).
		bytes(opEOF).u64(0).b
	var got []string
	for e, err := range NewReader(bytes.NewReader(data), nil).Entries() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(e.Key))
	}
	if s := strings.Join(got, " "); s != "df-ver first second third fourth" {
		t.Error(s)
	}
}

// spoolFile opens spools that are files.
func spoolFile(t testing.TB) func() (Spool, error) {
	return func() (Spool, error) {
		f, err := os.CreateTemp(t.TempDir(), "spool")
		return f, err
	}
}

func keysOf(t testing.TB, r *Reader) string {
	t.Helper()
	var b strings.Builder
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == KindKey {
			fmt.Fprintf(&b, "%d %q %d %d %d\n", e.DB, e.Key, e.ExpireAt, e.Flags, e.Memcache)
		}
	}
	return b.String()
}

func rawsOf(t testing.TB, r *Reader) string {
	t.Helper()
	var b strings.Builder
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != KindKey {
			continue
		}
		p, err := r.AppendRaw(nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%q %x\n", e.Key, p)
	}
	return b.String()
}

// TestSpoolIsClosed checks who closes a spool, and what is said without one.
func TestSpoolIsClosed(t *testing.T) {
	value := build("").bytes(2).str("set").len(3).str("a", "b", "c").b
	stream := build("REDIS0009").chunk(1, string(value[:6])).bytes(0).str("key", strings.Repeat("v", 100)).
		chunk(1, string(value[6:])).bytes(opEOF).u64(0).b
	closed := 0
	opts := &ReaderOptions{MaxHeld: 10, Spool: func() (Spool, error) { return &memSpool{closed: &closed}, nil }}
	if got := keysOf(t, NewReader(bytes.NewReader(stream), opts)); strings.Count(got, "\n") != 2 || closed != 1 {
		t.Errorf("keys %q, closed %d times", got, closed)
	}
	if err := readAll(NewReader(bytes.NewReader(stream[:len(stream)-20]), opts)); !errors.Is(err, io.ErrUnexpectedEOF) || closed != 2 {
		t.Errorf("cut: %v, closed %d times in all", err, closed)
	}
	if err := readAll(NewReader(bytes.NewReader(stream), &ReaderOptions{MaxHeld: 10})); !errors.Is(err, ErrTooLarge) {
		t.Errorf("without a spool: %v", err)
	}
	bad := errors.New("no room")
	if err := readAll(NewReader(bytes.NewReader(stream), &ReaderOptions{MaxHeld: 10, Spool: func() (Spool, error) { return nil, bad }})); !errors.Is(err, bad) {
		t.Errorf("a spool that can't be opened: %v", err)
	}
}

type memSpool struct {
	b      []byte
	closed *int
}

func (s *memSpool) WriteAt(p []byte, at int64) (int, error) {
	if need := int(at) + len(p); need > len(s.b) {
		s.b = append(s.b, make([]byte, need-len(s.b))...)
	}
	return copy(s.b[at:], p), nil
}

func (s *memSpool) ReadAt(p []byte, at int64) (int, error) {
	if at >= int64(len(s.b)) {
		return 0, io.EOF
	}
	return copy(p, s.b[at:]), nil
}

func (s *memSpool) Close() error { *s.closed++; return nil }

// journalStream is a stream as Dragonfly sends it to a replica, byte for byte as described in dfs-format 2.8 and 6.6.
func journalStream() []byte {
	set := "\x06\x00\x0a\x05\x01\x03\x09\x03SET\x03key\x03val"
	ping := "\x0d"
	lsn := "\x0f\x07"
	del := "\x06\x03\x09\x40\x64\x01\x02\x05\x03DEL\x02kk"
	return build("REDIS0009").bytes(opSelectDB, 2, 0).str("key", "old").
		bytes(opJournal, 1).str(set).
		bytes(opJournal, 1).str(ping).
		block(opLZ4, build("").bytes(opJournal, 3).str(set+lsn+del).bytes(0).str("in a block", "v").b).
		bytes(opSyncEnd).u64(0).
		bytes(opJournal, 1).str(set).
		bytes(opJournalOffset).u64(621257).
		bytes(opEOF).u64(0).b
}

func TestJournal(t *testing.T) {
	data := append(journalStream(), "0123456789012345678901234567890123456789 and raw journal"...)
	for _, size := range []int{smallestBuffer, bufferSize} {
		r := newReader(iotest.OneByteReader(bytes.NewReader(data)), nil, size)
		var got []string
		for e, err := range r.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			s := fmt.Sprintf("%v %d %s", e.Kind, e.DB, e.Key)
			switch e.Kind {
			case KindJournalOffset:
				s = fmt.Sprint(s, e.LSN)
			case KindJournal:
				s = fmt.Sprint(s, e.Txid, " ", r.Len())
				for el, err := range r.Elements() {
					if err != nil {
						t.Fatal(err)
					}
					s = fmt.Sprintf("%s %v %s", s, el.Kind, el.Value)
				}
			}
			got = append(got, s)
		}
		set := "journal 0 5 3 arg SET arg key arg val"
		want := []string{"key 2 key", set, set, "journal 3 100 2 arg DEL arg kk", "key 2 in a block", "sync-end 2 ", set, "journal-offset 2 621257"}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if s := r.Stats(); s.Journal != 4 || s.Keys != 2 {
			t.Errorf("stats %+v", s)
		}
	}
	if err := readAll(NewReader(bytes.NewReader(data), nil)); err != io.EOF {
		t.Error(err)
	}
	for n := range journalStream() {
		if err := readAny(t, data[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	_, _, err := convert(journalStream(), Dialect{Redis, 12}, nil)
	var loss *LossError
	if !errors.As(err, &loss) || loss.Loss != LossJournal {
		t.Errorf("converting: %v", err)
	}
	_, report, err := convert(journalStream(), Dialect{Redis, 12}, &ConvertOptions{Policies: map[Loss]Policy{LossJournal: DropDetail}})
	if err != nil || report.Keys != 2 || len(report.Losses) != 1 || report.Losses[0].Count != 4 {
		t.Errorf("converting without the journal: %+v, %v", report, err)
	}
}

// TestJournalInPieces reads an argument that is larger than a piece.
func TestJournalInPieces(t *testing.T) {
	long := strings.Repeat("x", 3*pieceSize+5)
	entry := build("").len(journalSelect, 0, journalCommand, 1, 1, 3, uint64(6+len(long))).str("SET", "key", long).b
	r := NewReader(bytes.NewReader(build("REDIS0009").bytes(opJournal, 1).str(string(entry)).bytes(opEOF).u64(0).b), nil)
	if e, err := r.Next(); err != nil || e.Kind != KindJournal {
		t.Fatal(e, err)
	}
	var args []string
	more := false
	for e, err := range r.Elements() {
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			args = append(args, "")
		}
		args[len(args)-1] += string(e.Value)
		more = e.More
	}
	if strings.Join(args, " ") != "SET key "+long {
		t.Errorf("%d arguments: %.100q", len(args), args)
	}
}

// TestIndexData passes what vector indexes are made of, in both layouts.
func TestIndexData(t *testing.T) {
	for version, entry := range map[string]string{"df-v1.40.0": "\x05", "df-v1.38.2": ""} {
		graph := build("").bytes(opVectorIndex).str("idx:vec").bytes([]byte(entry)...).len(2).
			u32(1).u64(9).u32(1).u32(2, 7, 8).u32(0).
			u32(2).u64(10).u32(0).u32(1, 1).b
		docs := build("").bytes(opDocIndex).len(0).str("idx").len(2).str("a").len(0).str("b").len(1).b
		data := build("REDIS0009").bytes(opAux).str("df-ver", version).bytes(docs...).bytes(graph...).bytes(0).str("k", "v").bytes(opEOF).u64(0).b
		var got []string
		r := NewReader(iotest.OneByteReader(bytes.NewReader(data)), nil)
		for e, err := range r.Entries() {
			if err != nil {
				t.Fatal(version, err)
			}
			got = append(got, fmt.Sprintf("%v %s", e.Kind, e.Key))
		}
		if s := strings.Join(got, ", "); s != "aux df-ver, index-data idx, index-data idx:vec, key k" {
			t.Errorf("%s: %s", version, s)
		}
		for n := range data {
			if err := readAny(t, data[:n]); err == io.EOF {
				t.Errorf("%s cut at %d was accepted", version, n)
			}
		}
	}
}

// TestNestedCorrupt has nested streams that are wrong in one way each, with the reason that the error has to give.
func TestNestedCorrupt(t *testing.T) {
	key := string(build("").bytes(0).str("k", "v").b)
	start := func() *builder { return build("REDIS0009") }
	zeros := make([]byte, maxBlock+1)
	var lz lz4frame.Encoder
	sized := lz.Append(nil, []byte(key))
	sized[4] &^= 0x08
	for _, c := range []struct {
		want string
		data *builder
	}{
		{"a record ends behind the end of the block", start().block(opLZ4, []byte(key[:3])).bytes([]byte(key[3:])...)},
		{"a record ends behind the end of the block", start().block(opZstd, []byte{opExpireMillis, 1})},
		{"a compressed block within another", start().block(opLZ4, build("").block(opLZ4, []byte(key)).b)},
		{"the end of the stream within a block", start().block(opZstd, []byte{opEOF, 0, 0, 0, 0, 0, 0, 0, 0})},
		{"larger than the limit", start().block(opLZ4, zeros)},
		{"larger than the limit", start().block(opZstd, zeros)},
		{"larger than the limit", start().bytes(opZstd).len(maxBlock + 1)},
		{"no zstd frame", start().bytes(opZstd).str("nonsense that is no frame")},
		{"corrupt LZ4 frame", start().bytes(opLZ4).str("nonsense that is no frame")},
		{"without a content size", start().bytes(opLZ4).str(string(sized))},
		{"empty", start().block(opZstd, nil)},
		{"a compressed block follows what belongs to a key", start().bytes(opExpireMillis).u64(1).block(opLZ4, []byte(key))},
		{"neither can be 0", start().chunk(0, key)},
		{"neither can be 0", start().chunk(1, "")},
		{"a piece of a value within another", start().chunk(1, string(build("").chunk(2, key).b))},
		{"a piece of a value within another", start().chunk(1, string(build("").block(opLZ4, build("").chunk(2, key).b).b))},
		{"a piece of a value follows what belongs to a key", start().bytes(opExpireMillis).u64(1).chunk(1, key)},
		{"before the pieces of a value do", start().chunk(1, key[:3]).bytes(opEOF).u64(0)},
		{"before the pieces of a value do", start().chunk(1, key[:3]).chunk(2, key).bytes(opEOF).u64(0)},
		{"before the pieces of a value do", start().chunk(1, string(build("").bytes(opExpireMillis).u64(1).b)).bytes([]byte(key)...).bytes(opEOF).u64(0)},
		{"unknown type or opcode 100", start().chunk(1, key[:3]).bytes(100)},
		{"journal entries in", start().bytes(opJournal, 9).str("\x0d")},
		{"no journal entry in", start().bytes(opJournal, 0).str("\x0d")},
		{"journal entry 20", start().bytes(opJournal, 1).str("\x14")},
		{"before their record does", start().bytes(opJournal, 1).str("\x0d\x0d")},
		{"an argument of 4 bytes", start().bytes(opJournal, 1).str("\x0a\x05\x01\x01\x03\x04GETX")},
		{"0 arguments", start().bytes(opJournal, 1).str("\x0a\x05\x01\x00\x00")},
	} {
		data := c.data.b
		err := readAll(NewReader(bytes.NewReader(data), nil))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want %q", data, err, c.want)
		}
		if err := readAny(t, data); err == nil || err == io.EOF {
			t.Errorf("%.40q in small pieces: %v", data, err)
		}
	}
	// A block around which there is a chunk is what servers read, if they don't write it.
	if got := keysOf(t, NewReader(bytes.NewReader(start().chunk(1, string(build("").block(opLZ4, []byte(key)).b)).bytes(opEOF).u64(0).b), nil)); !strings.Contains(got, `"k"`) {
		t.Errorf("a block in a chunk: %s", got)
	}
}
