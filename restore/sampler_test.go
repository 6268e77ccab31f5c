package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// manyStrings is a snapshot of strings whose sizes a function gives.
func manyStrings(t testing.TB, keys int, size func(i int) int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := rdb.NewWriter(&out, rdb.Dialect{Family: rdb.Redis, Version: 10}, nil)
	if err != nil {
		t.Fatal(err)
	}
	value := bytes.Repeat([]byte("v"), 4<<20)
	for i := range keys {
		err := errors.Join(
			w.WriteEntry(&rdb.Entry{Kind: rdb.KindKey, Type: rdb.TypeString, Key: fmt.Appendf(nil, "key:%d", i), Idle: -1, Freq: -1}, rdb.Shape{}),
			w.WriteElement(&rdb.Element{Kind: rdb.ElementBytes, Value: value[:size(i)]}))
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestSampleIsSpreadOverAllKeys(t *testing.T) {
	data := manyStrings(t, 100_000, func(i int) int { return i % 50 })
	s := newSampler(100_000, 1000)
	r := s.reader(bytes.NewReader(data))
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("what passes is changed: %v", err)
	}
	r.Close()
	keys, err := s.sample()
	if err != nil || len(keys) < 800 || len(keys) > 1200 {
		t.Fatalf("%d keys: %v", len(keys), err)
	}
	var tenths [10]int
	for _, k := range keys {
		var i int
		fmt.Sscanf(string(k.entry.Key), "key:%d", &i)
		tenths[i/10_000]++
		for el, err := range k.elements() {
			if err != nil || len(el.Value) != i%50 {
				t.Fatalf("%s: %v %v", k.entry.Key, el, err)
			}
		}
	}
	for i, n := range tenths {
		if n < 50 {
			t.Errorf("%d keys of tenth %d", n, i)
		}
	}
}

// TestSampleIsBounded has more to keep than there is room for, for the number of keys was wrong or values are large.
func TestSampleIsBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		keys  int
		total int64
		size  func(i int) int
	}{
		"a total that is wrong": {50_000, 10, func(int) int { return 10 }},
		"no total":              {50_000, 0, func(int) int { return 10 }},
		"large values":          {200, 0, func(int) int { return 900 << 10 }},
		"among small ones":      {5_000, 5_000, func(i int) int { return 1 + i%50/49*(500<<10) }},
		"too large ones":        {30, 0, func(i int) int { return 1 + i%2*(4<<20-1) }},
	} {
		s := newSampler(tt.total, 1000)
		r := s.reader(bytes.NewReader(manyStrings(t, tt.keys, tt.size)))
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		r.Close()
		keys, err := s.sample()
		size := 0
		for _, k := range keys {
			size += len(k.payload)
		}
		if err != nil || len(keys) < 2 || len(keys) > 4000 || size > 16<<20 {
			t.Errorf("%s: %d keys, %d bytes, %v", name, len(keys), size, err)
		}
		t.Logf("%s: %d keys, %d bytes", name, len(keys), size)
	}
}

func TestSampleOfAStreamReadTwice(t *testing.T) {
	data := manyStrings(t, 300, func(i int) int { return i * 100 })
	s := newSampler(300, 1000)
	for range 3 {
		r := s.reader(bytes.NewReader(data))
		io.Copy(io.Discard, r)
		r.Close()
	}
	if keys, err := s.sample(); len(keys) != 300 || err != nil {
		t.Errorf("%d keys: %v", len(keys), err)
	}
}

// TestSamplerPassesOnWhatever reads streams that end early, break off, or are none, and leaves them.
func TestSamplerPassesOnWhatever(t *testing.T) {
	data := manyStrings(t, 20_000, func(i int) int { return i % 300 })
	garbage := make([]byte, 3<<20)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	broken := errors.New("broken")
	before := runtime.NumGoroutine()
	for name, src := range map[string]func() io.Reader{
		"whole":            func() io.Reader { return bytes.NewReader(data) },
		"with its error":   func() io.Reader { return iotest.DataErrReader(bytes.NewReader(data)) },
		"byte by byte":     func() io.Reader { return iotest.OneByteReader(bytes.NewReader(data[:70_000])) },
		"cut off":          func() io.Reader { return bytes.NewReader(data[:len(data)/2]) },
		"broken":           func() io.Reader { return io.MultiReader(bytes.NewReader(data[:1<<20]), iotest.ErrReader(broken)) },
		"garbage":          func() io.Reader { return bytes.NewReader(garbage) },
		"more behind it":   func() io.Reader { return io.MultiReader(bytes.NewReader(data), bytes.NewReader(garbage)) },
		"nothing":          func() io.Reader { return strings.NewReader("") },
		"nothing but wait": func() io.Reader { return iotest.TimeoutReader(bytes.NewReader(data)) },
	} {
		s := newSampler(20_000, 100)
		r := s.reader(src())
		got, err := io.ReadAll(r)
		want, wantErr := io.ReadAll(src())
		if !bytes.Equal(got, want) || !errors.Is(err, wantErr) {
			t.Errorf("%s: %d bytes and %v, want %d and %v", name, len(got), err, len(want), wantErr)
		}
		r.Close()
		r.Close()
		for _, n := range []int{0, 1, 100, 70_000, len(want)} { // left in the middle
			r := s.reader(src())
			io.CopyN(io.Discard, r, int64(n))
			r.Close()
		}
	}
	testserver.Eventually(t, 20*time.Second, "no goroutines are left", func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d more than %d", n-before, before)
		}
		return nil
	})
}

// TestSamplerIsClosedWhileItIsRead ends a reader under another goroutine, as a loader that is cancelled does.
func TestSamplerIsClosedWhileItIsRead(t *testing.T) {
	data := manyStrings(t, 20_000, func(i int) int { return i % 300 })
	for i := range 200 {
		r := newSampler(20_000, 100).reader(bytes.NewReader(data))
		done := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, r)
			done <- err
		}()
		time.Sleep(time.Duration(i) * 10 * time.Microsecond)
		r.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// TestCompareSample has every server hold what it saved, and tells what was changed since.
func TestCompareSample(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			s := testserver.Start(t, version)
			testserver.Generate(t, s.Client(t), 5000, 3)
			snapshot := saved(t, s)
			sample := newSampler(5000, 1000)
			r := sample.reader(bytes.NewReader(snapshot))
			io.Copy(io.Discard, r)
			r.Close()
			c := newComparer(s.Options())
			defer c.close()
			res, err := compareSample(t.Context(), c, sample, nil)
			if err != nil || res.different != 0 || res.compared < 700 || res.compared > 1300 {
				t.Fatal(res, err)
			}
			keys, _ := sample.sample()
			k := keys[0]
			if err := s.Client(t).Do(t.Context(), "DEL", k.entry.Key).Err(); err != nil {
				t.Fatal(err)
			}
			if res, err = compareSample(t.Context(), c, sample, nil); err != nil || res.different != 1 {
				t.Fatal(res, err)
			}
			if diff, _, err := c.key(t.Context(), &k.entry, k.elements()); err != nil || diff != res.differences[0] {
				t.Errorf("%q, %q: %v", diff, res.differences[0], err)
			}
			if diff, _, err := c.key(t.Context(), &keys[1].entry, keys[1].elements()); err != nil || diff != "" {
				t.Errorf("%q: %v", diff, err)
			}
		})
	}
}

func BenchmarkSampler(b *testing.B) {
	data := manyStrings(b, 1_000_000, func(i int) int { return 20 + i%100 })
	for name, wrap := range map[string]func(r io.Reader) io.ReadCloser{
		"without": io.NopCloser,
		"with":    func(r io.Reader) io.ReadCloser { return newSampler(1_000_000, 1000).reader(r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r := wrap(bytes.NewReader(data))
				if err := rdbRead(r); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}

// rdbRead is a loader's part: it parses what it reads.
func rdbRead(r io.Reader) error {
	for _, err := range rdb.NewReader(r, nil).Entries() {
		if err != nil {
			return err
		}
	}
	return nil
}
