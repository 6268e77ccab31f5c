package aof

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/amberkv/amber/internal/crc64"
)

// resp is a command as servers write it.
func resp(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

// all reads a file to its end and tells all that was seen of it, in lines, also of arguments that aren't held.
func all(r *Reader) ([]string, error) {
	var lines []string
	for e, err := range r.Entries() {
		if err != nil {
			return lines, err
		}
		if e.Kind == KindAnnotation {
			lines = append(lines, fmt.Sprintf("%d # %s %d", e.Offset, e.Text, e.Time.Unix()))
			continue
		}
		line := fmt.Sprintf("%d %d %v", e.Offset, e.DB, e.Multi)
		for _, a := range e.Args {
			line += fmt.Sprintf(" %q", a)
		}
		for e.Rest > 0 {
			size, in, err := r.Arg()
			if err != nil {
				return lines, err
			}
			data, err := io.ReadAll(in)
			if err != nil {
				return lines, err
			}
			if int64(len(data)) != size {
				return lines, fmt.Errorf("an argument of %d bytes gave %d", size, len(data))
			}
			line += fmt.Sprintf(" %q", data)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

const small = "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n#TS:1700000000\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nbc\r\n" +
	"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*3\r\n$5\r\nrpush\r\n$1\r\nl\r\n$0\r\n\r\n*1\r\n$4\r\nEXEC\r\n" + "*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n"

var smallLines = []string{
	`0 3 false "SELECT" "3"`, `23 # TS:1700000000 1700000000`, `39 3 false "SET" "k" "a\r\nbc"`, `70 3 true "MULTI"`, `85 3 true "INCR" "n"`,
	`106 3 true "rpush" "l" ""`, `134 3 true "EXEC"`, `148 3 false "DEL" "k"`,
}

// sizes are ways to get the same bytes: all at once, byte by byte, and in any pieces.
func sizes(data []byte) map[string]io.Reader {
	return map[string]io.Reader{"whole": bytes.NewReader(data), "bytes": iotest.OneByteReader(bytes.NewReader(data)), "halves": iotest.HalfReader(bytes.NewReader(data)),
		"dataErr": iotest.DataErrReader(bytes.NewReader(data))}
}

func TestReader(t *testing.T) {
	for name, in := range sizes([]byte(small)) {
		for _, held := range []int{0, 150, 48} {
			for _, size := range []int{8, 1 << 16} {
				if name != "whole" && held != 0 && size != 8 {
					continue
				}
				if s, ok := in.(io.Seeker); ok {
					s.Seek(0, io.SeekStart)
				} else {
					in = sizes([]byte(small))[name]
				}
				r := newReader(in, &Options{MaxHeld: held}, size)
				lines, err := all(r)
				if held == 48 {
					// SELECT's own argument has no room.
					if !errors.Is(err, ErrCorrupt) {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				if err != nil || strings.Join(lines, "\n") != strings.Join(smallLines, "\n") {
					t.Errorf("%s, held %d, buffer %d: %v\n%s", name, held, size, err, strings.Join(lines, "\n"))
				}
				if s := r.Stats(); s.Commands != 4 || s.Transactions != 1 || s.Time.Unix() != 1700000000 || r.Whole() != int64(len(small)) || r.Offset() != int64(len(small)) {
					t.Errorf("%s: %+v, whole %d, offset %d", name, s, r.Whole(), r.Offset())
				}
				if _, err := r.Next(); err != io.EOF {
					t.Errorf("after the end: %v", err)
				}
			}
		}
	}
}

// A file that is cut anywhere is whole up to the last command before, and that part of it reads as such.
func TestTruncated(t *testing.T) {
	ends := []int{0, 23, 39, 70, 148, len(small)} // not within the transaction
	for cut := range len(small) {
		whole := 0
		for _, e := range ends {
			if e <= cut {
				whole = e
			}
		}
		for name, in := range sizes([]byte(small[:cut])) {
			r := NewReader(in, nil)
			_, err := all(r)
			if r.Whole() != int64(whole) {
				t.Fatalf("cut at %d, %s: whole up to %d, want %d", cut, name, r.Whole(), whole)
			}
			if whole == cut {
				if err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				continue
			}
			var te *TruncatedError
			if !errors.As(err, &te) || !errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrCorrupt) || te.Whole != int64(whole) || te.Size != int64(cut) {
				t.Fatalf("cut at %d, %s: %v", cut, name, err)
			}
		}
		r := NewReader(strings.NewReader(small[:whole]), nil)
		if _, err := all(r); err != nil {
			t.Fatalf("cut at %d: what is whole isn't: %v", cut, err)
		}
	}
}

func TestCorrupt(t *testing.T) {
	for in, want := range map[string]string{
		"+OK\r\n":                               "at byte 0: a command begins with '*'",
		"*0\r\n":                                "at byte 0: a command of 0 arguments",
		"*-1\r\n":                               "at byte 0: a length is no number",
		"*\r\n":                                 "at byte 0: a length is no number",
		"*1\n":                                  "at byte 0: a length is no number",
		"*1\r1\n":                               "at byte 0: a length is no number",
		"*1\r\r\n":                              "at byte 0: a length is no number",
		"*9999999999\r\n":                       "at byte 0: a command of 9999999999",
		"*1\r\n+PING\r\n":                       `at byte 4: '$' is needed`,
		"*1\r\n$4\r\nPINGxx":                    "at byte 12: an argument doesn't end",
		"*1\r\n$9999999999999999999\r\n":        "at byte 4: a length is no number",
		"*1\r\n$1x\r\n":                         "at byte 4: a length is no number",
		resp("EXEC"):                            "at byte 0: EXEC without MULTI",
		resp("MULTI") + resp("multi"):           "at byte 15: MULTI within",
		resp("SELECT"):                          "at byte 0: SELECT without",
		resp("SELECT", "-1"):                    "at byte 0: SELECT of",
		resp("SELECT", strings.Repeat("1", 99)): "at byte 0: SELECT of",
		"#TS:x\r\n":                             "at byte 0: an annotation tells the time",
		"#" + strings.Repeat("x", 2000):         "at byte 0: an annotation of more",
		"REDIS0011\xfa":                         "the RDB file that it begins with",
		resp("SET", "k", "v") + "\x00":          "at byte 27: a command begins",
	} {
		for name, src := range sizes([]byte(in)) {
			r := NewReader(src, nil)
			_, err := all(r)
			var ce *CorruptError
			if !errors.As(err, &ce) || !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), want) {
				t.Errorf("%.40q, %s: %v, want %s", in, name, err, want)
			}
			if _, again := r.Next(); again != err {
				t.Errorf("%.40q: the error isn't kept: %v", in, again)
			}
		}
	}
}

// What isn't held of a command is held against its length as well, whether it is read or passed.
func TestCorruptLarge(t *testing.T) {
	in := "*2\r\n$4\r\nPING\r\n$1000\r\n" + strings.Repeat("x", 1000) + "xx" + resp("PING")
	for _, read := range []bool{false, true} {
		r := NewReader(strings.NewReader(in), &Options{MaxHeld: 200})
		_, err := r.Next()
		if err == nil && read {
			var data io.Reader
			if _, data, err = r.Arg(); err == nil {
				_, err = io.Copy(io.Discard, data)
			}
		} else if err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "at byte 1021") || r.Whole() != 0 {
			t.Errorf("read: %v: %v, whole %d", read, err, r.Whole())
		}
	}
}

// An error of the source is passed on, whatever was being read.
func TestSourceFails(t *testing.T) {
	boom := errors.New("boom")
	for cut := range len(small) {
		r := NewReader(io.MultiReader(strings.NewReader(small[:cut]), iotest.ErrReader(boom)), nil)
		if _, err := all(r); !errors.Is(err, boom) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTruncated) {
			t.Fatalf("after %d bytes: %v", cut, err)
		}
	}
}

// preamble is an RDB file of one key.
func preamble() []byte {
	b := []byte("REDIS0011\xfa\x0caof-preamble\xc0\x01\xfe\x00\x00\x03key\x05value\xff")
	sum := crc64.Checksum(b)
	for i := range 8 {
		b = append(b, byte(sum>>(8*i)))
	}
	return b
}

// A file of Redis 6.2 and older: an RDB file, and commands where that ends.
func TestPreamble(t *testing.T) {
	pre := preamble()
	data := append(bytes.Clone(pre), small...)
	for name, in := range sizes(data) {
		for _, read := range []int{0, 1, 100} {
			if read > 0 {
				in = sizes(data)[name]
			}
			r := newReader(in, nil, 8)
			p, err := r.Preamble()
			if err != nil || p == nil {
				t.Fatalf("%s: %v %v", name, p, err)
			}
			for range read {
				if _, err := p.Next(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			lines, err := all(r)
			if err != nil || len(lines) != len(smallLines) || r.Whole() != int64(len(data)) {
				t.Fatalf("%s: %v, whole %d\n%s", name, err, r.Whole(), strings.Join(lines, "\n"))
			}
			if want := fmt.Sprint(len(pre), " 3 false"); !strings.HasPrefix(lines[0], want) {
				t.Errorf("%s: %s, want %s", name, lines[0], want)
			}
			if s := p.Stats(); s.Keys != 1 || s.Checksum != "crc64" {
				t.Errorf("preamble: %+v", s)
			}
		}
	}
	for cut := 6; cut < len(pre); cut++ {
		if _, err := all(NewReader(bytes.NewReader(pre[:cut]), nil)); !errors.Is(err, ErrCorrupt) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("preamble cut at %d: %v", cut, err)
		}
	}
	r := NewReader(strings.NewReader(small), nil)
	if p, err := r.Preamble(); p != nil || err != nil {
		t.Errorf("a file without one: %v %v", p, err)
	}
}

// Large arguments are read in pieces, read in part, or passed; memory doesn't grow with them.
func TestLarge(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	file := resp("MSET", "a", big, "b", big, "c", "d") + resp("MULTI") + resp("SET", "x", big) + resp("EXEC") + resp("DEL", "a")
	for how := range 4 {
		r := newReader(strings.NewReader(file), &Options{MaxHeld: 4 << 10}, 1<<10)
		commands := 0
		for e, err := range r.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			commands++
			if string(e.Args[0]) == "MSET" && (len(e.Args) != 2 || e.Rest != 5) || r.Whole() != 0 && commands == 1 {
				t.Fatalf("%d args, rest %d, whole %d", len(e.Args), e.Rest, r.Whole())
			}
			for i := 0; how > 0 && i < how && e.Rest > 0; i++ {
				size, in, err := r.Arg()
				if err != nil {
					t.Fatal(err)
				}
				var got strings.Builder
				n, err := io.Copy(&got, io.LimitReader(in, size/int64(how)))
				if err != nil || n != size/int64(how) || !strings.HasPrefix(big+"bd", got.String()) && got.String() != "b" {
					t.Fatalf("%d of %d: %v", n, size, err)
				}
			}
			if e.Rest == 0 {
				if _, _, err := r.Arg(); err == nil {
					t.Fatal("there was an argument more")
				}
			}
		}
		if commands != 5 || r.Whole() != int64(len(file)) || len(r.buf) > 16<<10 {
			t.Errorf("how %d: %d commands, whole %d of %d, buffer %d", how, commands, r.Whole(), len(file), len(r.buf))
		}
	}
	// Many small ones are no less bounded.
	many := "*1000000\r\n" + strings.Repeat("$0\r\n\r\n", 1_000_000)
	r := NewReader(strings.NewReader(resp("x")+strings.Replace(many, "$0\r\n\r\n", "$1\r\nx\r\n", 1)), &Options{MaxHeld: 1 << 16})
	for e, err := range r.Entries() {
		if err != nil || len(e.Args) > 1<<16/perArg {
			t.Fatalf("%d args held, %v", len(e.Args), err)
		}
	}
}

// What a reader holds is bounded by what it was given, whatever lengths say.
func TestMadeUpLengths(t *testing.T) {
	for _, in := range []string{"*2147483647\r\n$1\r\nx\r\n", "*2\r\n$3\r\nSET\r\n$999999999999999999\r\nx", "*1\r\n$16777000\r\nx"} {
		r := newReader(strings.NewReader(in), nil, 1<<10)
		if _, err := all(r); !errors.Is(err, ErrTruncated) || len(r.buf) > 4<<10 {
			t.Errorf("%q: %v, buffer %d", in, err, len(r.buf))
		}
	}
}

func TestErrorsTell(t *testing.T) {
	err := error(&TruncatedError{Whole: 10, Size: 12, Within: "a command"})
	if err.Error() != "aof: the file ends at byte 12 in the middle of a command, and is whole up to byte 10" {
		t.Error(err)
	}
	if (&Reader{}).Stats() != (Stats{Time: time.Time{}}) {
		t.Error("a new reader has seen something")
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(small), uint64(1))
	f.Add(append(preamble(), small...), uint64(2))
	f.Add([]byte(resp("MULTI")+resp("SET", "a", strings.Repeat("x", 500))+resp("EXEC")), uint64(3))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		want := NewReader(bytes.NewReader(data), nil)
		lines, err := all(want)
		// In other pieces, and held less, it is the same.
		rng := rand.New(rand.NewPCG(seed, 0))
		r := newReader(&pieces{data, rng}, &Options{MaxHeld: 100 + rng.IntN(200)}, 8+rng.IntN(100))
		other, otherErr := all(r)
		if errors.Is(otherErr, ErrCorrupt) && strings.Contains(otherErr.Error(), "SELECT without") || otherErr != nil && strings.Contains(otherErr.Error(), "than what is held") {
			return // those two have to be held
		}
		if fmt.Sprint(err) != fmt.Sprint(otherErr) && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTruncated) != errors.Is(otherErr, ErrTruncated) || want.Whole() != r.Whole() {
			t.Fatalf("%v, whole %d\n%v, whole %d", err, want.Whole(), otherErr, r.Whole())
		}
		if strings.Join(lines, "\n") != strings.Join(other, "\n") {
			t.Fatalf("%q\n%q", lines, other)
		}
		if err == nil != (want.Whole() == int64(len(data))) {
			t.Fatalf("%v, whole %d of %d", err, want.Whole(), len(data))
		}
		cut := NewReader(bytes.NewReader(data[:want.Whole()]), nil)
		if _, err := all(cut); err != nil && want.Whole() > 0 {
			t.Fatalf("what is whole up to %d: %v", want.Whole(), err)
		}
	})
}

// pieces gives data in pieces of any size.
type pieces struct {
	data []byte
	rng  *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.rng.IntN(40))], p.data)
	p.data = p.data[n:]
	return n, nil
}

func BenchmarkReader(b *testing.B) {
	for _, size := range []int{16, 100, 1000, 100_000} {
		var file bytes.Buffer
		for i := 0; file.Len() < 64<<20; i++ {
			file.WriteString(resp("SET", fmt.Sprintf("key:%010d", i), strings.Repeat("v", size)))
		}
		for _, how := range []struct {
			name string
			held int
		}{{"held", 0}, {"passed", 64 << 10}} {
			b.Run(fmt.Sprintf("%d/%s", size, how.name), func(b *testing.B) {
				b.SetBytes(int64(file.Len()))
				b.ReportAllocs()
				for range b.N {
					r := NewReader(bytes.NewReader(file.Bytes()), &Options{MaxHeld: how.held})
					for {
						if _, err := r.Next(); err == io.EOF {
							break
						} else if err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
