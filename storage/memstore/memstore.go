// Package memstore keeps objects in memory, for tests and examples.
//
// It keeps every word of the contract of [storage.Store] except that nothing outlives the process, and no other process
// can see it. Operations are linearizable: each takes effect at one instant between its call and its return.
package memstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// A Store is a storage.Store in memory. Make one with New.
type Store struct {
	now clock.Func

	mu      sync.RWMutex
	objects map[string]object
}

// An object's data is never changed once it is in the map, so that readers need no lock and see one version to its end.
type object struct {
	data    []byte
	modTime time.Time
}

// Options are the choices of New.
type Options struct {
	Now func() time.Time // the clock that objects get their times from; nil means the machine's
}

// New returns an empty store. A nil opts means the defaults.
func New(opts *Options) *Store {
	if opts == nil {
		opts = &Options{}
	}
	return &Store{now: clock.Or(opts.Now), objects: make(map[string]object)}
}

// Create starts an object, as storage.Store says. Its bytes are in memory from the first Write on.
func (s *Store) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if err := check(ctx, "create", key); err != nil {
		return nil, err
	}
	w := &writer{ctx: ctx, s: s, key: key, exclusive: opts != nil && opts.IfNotExist}
	if w.exclusive {
		s.mu.RLock()
		_, exists := s.objects[key]
		s.mu.RUnlock()
		if exists {
			return nil, fmt.Errorf("memstore: create %s: %w", key, storage.ErrExists)
		}
	}
	return w, nil
}

// Open reads a range of an object, as storage.Store says. The reader keeps the version it was opened on.
func (s *Store) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := check(ctx, "open", key); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("memstore: open %s: the offset %d is negative", key, off)
	}
	o, err := s.get("open", key)
	if err != nil {
		return nil, err
	}
	data := o.data[min(off, int64(len(o.data))):]
	if n >= 0 {
		data = data[:min(n, int64(len(data)))]
	}
	return &reader{ctx: ctx, key: key, data: data, version: o.info(key)}, nil
}

// Stat tells size and time of an object, as storage.Store says.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	if err := check(ctx, "stat", key); err != nil {
		return storage.Info{}, err
	}
	o, err := s.get("stat", key)
	if err != nil {
		return storage.Info{}, err
	}
	return o.info(key), nil
}

// List gives the objects under a prefix, as storage.Store says. It lists the store as it was when the iteration began.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		var infos []storage.Info
		s.mu.RLock()
		for key, o := range s.objects {
			if strings.HasPrefix(key, prefix) {
				infos = append(infos, o.info(key))
			}
		}
		s.mu.RUnlock()
		slices.SortFunc(infos, func(a, b storage.Info) int { return strings.Compare(a.Key, b.Key) })
		for i := 0; ; i++ {
			if err := ctx.Err(); err != nil {
				yield(storage.Info{}, fmt.Errorf("memstore: list %q: %w", prefix, err))
				return
			}
			if i == len(infos) || !yield(infos[i], nil) {
				return
			}
		}
	}
}

// Delete removes an object, as storage.Store says. Readers that are open on it read on.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := check(ctx, "delete", key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.objects[key]; !exists {
		return fmt.Errorf("memstore: delete %s: %w", key, storage.ErrNotFound)
	}
	delete(s.objects, key)
	return nil
}

func (s *Store) get(op, key string) (object, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, exists := s.objects[key]
	if !exists {
		return object{}, fmt.Errorf("memstore: %s %s: %w", op, key, storage.ErrNotFound)
	}
	return o, nil
}

func (o object) info(key string) storage.Info {
	return storage.Info{Key: key, Size: int64(len(o.data)), ModTime: o.modTime}
}

// check returns the error that an operation on key ends with before it begins.
func check(ctx context.Context, op, key string) error {
	if err := storage.ValidKey(key); err != nil {
		return fmt.Errorf("memstore: %s: %w", op, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memstore: %s %s: %w", op, key, err)
	}
	return nil
}

// A writer collects an object's bytes; done is what its methods return once it has ended.
type writer struct {
	ctx       context.Context
	s         *Store
	key       string
	exclusive bool
	data      []byte
	done      error
}

var errCommitted = errors.New("the writer was committed before")

func (w *writer) Write(p []byte) (int, error) {
	if w.done != nil {
		return 0, fmt.Errorf("memstore: write %s: %w", w.key, w.done)
	}
	if err := w.ctx.Err(); err != nil {
		return 0, fmt.Errorf("memstore: write %s: %w", w.key, err)
	}
	w.data = append(w.data, p...)
	return len(p), nil
}

func (w *writer) Commit(ctx context.Context) (storage.Info, error) {
	fail := func(err error) (storage.Info, error) {
		return storage.Info{}, fmt.Errorf("memstore: commit %s: %w", w.key, err)
	}
	if w.done != nil {
		return fail(w.done)
	}
	data := w.data
	w.data, w.done = nil, storage.ErrAborted // unless it succeeds
	if err := w.ctx.Err(); err != nil {
		return fail(err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.objects[w.key]; exists && w.exclusive {
		return fail(storage.ErrExists)
	}
	o := object{data: data, modTime: s.now()}
	s.objects[w.key] = o
	w.done = errCommitted
	return o.info(w.key), nil
}

func (w *writer) Abort() error {
	if w.done == nil {
		w.data, w.done = nil, storage.ErrAborted
	}
	return nil
}

// A reader gives out the bytes of one version of an object.
type reader struct {
	ctx     context.Context
	key     string
	data    []byte
	version storage.Info
}

// Version tells which version is read, as storage.Versioned says.
func (r *reader) Version() storage.Info { return r.version }

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("memstore: read %s: %w", r.key, err)
	}
	if len(r.data) == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

func (r *reader) Close() error {
	r.data = nil
	return nil
}
