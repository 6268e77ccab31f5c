package restore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"io"
	"iter"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/amberkv/amber/rdb"
)

// Bounds of what a sampler keeps.
const (
	sampleSmall  = 8 << 10  // bytes of a payload that counts as small
	sampleLarge  = 1 << 20  // bytes of the largest payload that is kept
	sampleBudget = 8 << 20  // bytes of small payloads in all, and as many of others
	sampleChunk  = 64 << 10 // bytes that go to the parser at once
	sampleChunks = 4
)

// A sampler keeps some of the keys that a snapshot has while it passes to a loader, spread over all of them: which ones depends on a
// hash of database and name, so that neither their order nor the number of streams does matter. It keeps at most 16 MiB; of values whose
// payload is larger than 8 KiB fewer than of others if there are many, and none of those larger than 1 MiB.
//
// Libraries of functions are remembered, too, by a hash of their code.
type sampler struct {
	seed  maphash.Seed
	most  int           // keys of a class
	below atomic.Uint64 // hashes of keys that may be kept, by their size

	mu        sync.Mutex
	classes   [2]sampleClass // of small payloads and of others
	functions functionSet
	touched   int64 // commands that were seen
	commands  bool  // there may be some, so that one stream at a time is looked at: the order matters
	looking   bool  // at one
	err       error // why a stream couldn't be parsed
}

// A sampleClass is the keys whose payloads are of about one size.
type sampleClass struct {
	below uint64 // hashes that are kept
	keys  map[string]*sampledKey
	bytes int
}

// A sampledKey is a key that was kept.
type sampledKey struct {
	entry   rdb.Entry
	dialect rdb.Dialect
	payload []byte
	hash    uint64
}

// newSampler returns a sampler that keeps about as many keys as are wanted, of a total that is expected; 0 if it isn't known.
func newSampler(total int64, want int) *sampler {
	below := uint64(math.MaxUint64)
	if total > int64(want) {
		below = uint64(float64(want) / float64(total) * math.MaxUint64)
	}
	s := &sampler{seed: maphash.MakeSeed(), most: 2 * want}
	s.below.Store(below)
	for i := range s.classes {
		s.classes[i] = sampleClass{below: below, keys: map[string]*sampledKey{}}
	}
	return s
}

// reader returns a reader of r that lets the sampler see what is read. It gives what r gives, errors included. Several may be in use
// at the same time, also one after the other of the same stream. The caller closes it, whether it was read to its end or not; that doesn't close r.
func (s *sampler) reader(r io.Reader) io.ReadCloser {
	if s.commands {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.looking {
			return io.NopCloser(r) // it is read once more, meanwhile
		}
		s.looking = true
	}
	t := &sampleTee{r: r, full: make(chan []byte, sampleChunks), free: make(chan []byte, sampleChunks), closed: make(chan struct{})}
	for range sampleChunks - 1 {
		t.free <- nil // memory is taken when it is needed
	}
	t.parser.Go(func() {
		defer s.looked()
		s.parse(&sampleSource{t: t})
		for {
			select {
			case chunk, ok := <-t.full:
				if !ok {
					return
				}
				t.free <- chunk
			case <-t.closed:
				return
			}
		}
	})
	return t
}

// looked notes that a stream was looked at.
func (s *sampler) looked() {
	s.mu.Lock()
	s.looking = false
	s.mu.Unlock()
}

// A sampleTee passes a stream on and copies it for the parser. What the parser doesn't take in time the reader waits for, which isn't long: it
// waits for nobody.
type sampleTee struct {
	r      io.Reader
	chunk  []byte
	full   chan []byte
	free   chan []byte
	ended  bool        // nothing more goes to the parser
	whole  atomic.Bool // it was told that there is no more
	once   sync.Once
	closed chan struct{}
	parser sync.WaitGroup
}

func (t *sampleTee) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.ended {
		return n, err
	}
	for q := p[:max(n, 0)]; len(q) > 0; {
		if t.chunk == nil {
			t.chunk = make([]byte, 0, sampleChunk)
		}
		took := min(len(q), sampleChunk-len(t.chunk))
		t.chunk, q = append(t.chunk, q[:took]...), q[took:]
		if len(t.chunk) == sampleChunk {
			t.full <- t.chunk
			select {
			case t.chunk = <-t.free:
				t.chunk = t.chunk[:0]
			case <-t.closed:
				t.ended = true
				return n, err
			}
		}
	}
	if err != nil {
		t.end()
	}
	return n, err
}

// end tells the parser that there is no more.
func (t *sampleTee) end() {
	t.ended = true
	if len(t.chunk) > 0 {
		t.full <- t.chunk
	}
	t.whole.Store(true)
	close(t.full)
}

// Close waits for the parser, which goes on only if it has got everything. It may be called while Read waits.
func (t *sampleTee) Close() error {
	t.once.Do(func() {
		if !t.whole.Load() {
			close(t.closed)
		}
	})
	t.parser.Wait()
	return nil
}

// sampleSource is what the parser reads.
type sampleSource struct {
	t     *sampleTee
	chunk []byte
	at    int
}

var errSampleClosed = errors.New("the stream was not read to its end")

func (s *sampleSource) Read(p []byte) (int, error) {
	for s.at == len(s.chunk) {
		if s.chunk != nil {
			s.t.free <- s.chunk
			s.chunk, s.at = nil, 0
		}
		select {
		case chunk, ok := <-s.t.full:
			if !ok {
				return 0, io.EOF
			}
			s.chunk, s.at = chunk, 0
		case <-s.t.closed:
			return 0, errSampleClosed
		}
	}
	n := copy(p, s.chunk[s.at:])
	s.at += n
	return n, nil
}

// parse reads a stream and keeps what is chosen.
func (s *sampler) parse(src *sampleSource) {
	err := s.parseAll(rdb.NewReader(src, &rdb.ReaderOptions{Commands: true}))
	if src.chunk != nil {
		src.t.free <- src.chunk
	}
	if err != nil && !errors.Is(err, errSampleClosed) {
		s.mu.Lock()
		s.err = cmp.Or(s.err, err)
		s.mu.Unlock()
	}
}

func (s *sampler) parseAll(r *rdb.Reader) error {
	var name, payload []byte
	var t touch
	for e, err := range r.Entries() {
		if err != nil {
			return err
		}
		if e.Kind == rdb.KindFunction {
			s.mu.Lock()
			err := s.functions.add(r.Elements())
			s.mu.Unlock()
			if err != nil {
				return err
			}
		}
		if e.Kind == rdb.KindJournal {
			if err := s.touch(r, e, &t); err != nil {
				return err
			}
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		name = append(binary.AppendUvarint(name[:0], uint64(e.DB)), e.Key...)
		hash := maphash.Bytes(s.seed, name)
		if hash >= s.below.Load() {
			continue
		}
		payload, err = r.AppendRaw(payload[:0], sampleLarge)
		switch {
		case errors.Is(err, rdb.ErrTooLarge) || errors.Is(err, rdb.ErrUnsupported):
		case err != nil:
			return err
		default:
			s.keep(string(name), e, r.Dialect(), payload, hash)
		}
	}
	return nil
}

// keep keeps a key, and if these are too many then, lets half of its class go.
func (s *sampler) keep(name string, e *rdb.Entry, d rdb.Dialect, payload []byte, hash uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.classes[0]
	if len(payload) > sampleSmall {
		c = &s.classes[1]
	}
	if old := c.keys[name]; old != nil { // the stream is read again
		c.bytes -= len(old.payload)
		delete(c.keys, name)
	}
	if hash >= c.below {
		return
	}
	for i := range s.classes { // a later key of the same name counts
		if o := &s.classes[i]; o != c && o.keys[name] != nil {
			o.bytes -= len(o.keys[name].payload) + len(name)
			delete(o.keys, name)
		}
	}
	k := &sampledKey{entry: *e, dialect: d, payload: bytes.Clone(payload), hash: hash}
	k.entry.Key, k.entry.Meta, k.entry.Value = bytes.Clone(e.Key), bytes.Clone(e.Meta), nil
	c.keys[name] = k
	c.bytes += len(k.payload) + len(name)
	for len(c.keys) > s.most || c.bytes > sampleBudget {
		c.below /= 2
		for name, k := range c.keys {
			if k.hash >= c.below {
				c.bytes -= len(k.payload) + len(name)
				delete(c.keys, name)
			}
		}
	}
	s.below.Store(max(s.classes[0].below, s.classes[1].below))
}

// sample returns the keys that were kept, in the order of databases, and why not all of the stream was seen, if that is so.
func (s *sampler) sample() ([]*sampledKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*sampledKey
	for _, c := range s.classes {
		for _, k := range c.keys {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b *sampledKey) int {
		return cmp.Or(cmp.Compare(a.entry.DB, b.entry.DB), bytes.Compare(a.entry.Key, b.entry.Key))
	})
	return out, s.err
}

// elements returns the value of a key that was kept.
func (k *sampledKey) elements() iter.Seq2[*rdb.Element, error] {
	return func(yield func(*rdb.Element, error) bool) {
		r := rdb.NewPayloadReader(bytes.NewReader(k.payload), k.dialect, &k.entry, nil)
		if _, err := r.Next(); err != nil {
			yield(nil, err)
			return
		}
		for el, err := range r.Elements() {
			if !yield(el, err) {
				return
			}
		}
	}
}

// compareSample compares the keys that a sampler kept, and the functions that it saw. The progress is that of compareAll.
func compareSample(ctx context.Context, c *comparer, s *sampler, progress func(keys int64)) (*comparison, error) {
	keys, broken := s.sample()
	res, err := c.compare(ctx, progress, func(ask func(e *rdb.Entry, elements iter.Seq2[*rdb.Element, error]) error) error {
		for _, k := range keys {
			if err := ask(&k.entry, k.elements()); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && s.touched == 0 { // commands may have changed them
		err = c.functions(ctx, &s.functions, res)
	}
	if err != nil {
		return nil, err
	}
	if s.touched > 0 {
		res.notes = append(res.notes, touchedNote)
	}
	if broken != nil {
		res.notes = append(res.notes, "not all of the backup was there to choose from: "+broken.Error())
	}
	return res, nil
}
