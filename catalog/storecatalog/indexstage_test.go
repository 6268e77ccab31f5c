package storecatalog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
)

// A stage is a store whose calls are made one at a time, in an order that chance or a script gives, so that any number of actors meet in all ways.
type stage struct {
	storage.Store
	random *rand.Rand
	script []int // whose turn it is, by the numbers of the actors; who has ended is left out. Empty: chance decides

	mu      sync.Mutex
	waiting []*turn
	ended   map[int]bool
	news    sync.Cond // somebody waits, or has ended
}

// A turn is a call that an actor waits for.
type turn struct {
	actor int
	start chan struct{}
}

// run has actors at work until all have ended. An actor that is killed makes no more calls: each is an error without effect.
func (s *stage) run(actors ...func(s storage.Store)) {
	s.ended = map[int]bool{}
	s.news.L = &s.mu
	var all sync.WaitGroup
	for n, act := range actors {
		left := -1
		if s.random != nil && s.random.IntN(3) == 0 {
			left = s.random.IntN(40)
		}
		all.Go(func() {
			act(&actor{stage: s, number: n, left: left})
			s.mu.Lock()
			s.ended[n] = true
			s.mu.Unlock()
			s.news.Signal()
		})
	}
	for {
		if s.random != nil {
			time.Sleep(20 * time.Microsecond) // others come to their next call
		}
		s.mu.Lock()
		one := s.next()
		for one == nil && len(s.ended) < len(actors) {
			s.news.Wait()
			one = s.next()
		}
		s.mu.Unlock()
		if one == nil {
			all.Wait()
			return
		}
		one.start <- struct{}{}
		<-one.start // it is done
	}
}

// next takes the call whose turn it is from those that wait, or nil.
func (s *stage) next() *turn {
	for len(s.script) > 0 && s.ended[s.script[0]] {
		s.script = s.script[1:]
	}
	i := -1
	if len(s.script) > 0 {
		i = slices.IndexFunc(s.waiting, func(t *turn) bool { return t.actor == s.script[0] })
	} else if len(s.waiting) > 0 {
		i = 0
		if s.random != nil {
			i = s.random.IntN(len(s.waiting))
		}
	}
	if i < 0 {
		return nil
	}
	if len(s.script) > 0 {
		s.script = s.script[1:]
	}
	one := s.waiting[i]
	s.waiting = slices.Delete(s.waiting, i, i+1)
	return one
}

var errKilled = errors.New("the process was killed")

// An actor is the store as one actor has it.
type actor struct {
	*stage
	number int
	mu     sync.Mutex
	left   int  // calls until it is killed; negative: it isn't
	dead   bool // it was killed, so it says nothing any more
}

// turn makes a call when it is its turn.
func (a *actor) turn(call func() error) error {
	one := &turn{a.number, make(chan struct{})}
	a.stage.mu.Lock()
	a.waiting = append(a.waiting, one)
	a.stage.mu.Unlock()
	a.news.Signal()
	<-one.start
	defer func() { one.start <- struct{}{} }()
	a.mu.Lock()
	killed := a.left == 0
	if a.left > 0 {
		a.left--
	}
	a.dead = a.dead || killed
	a.mu.Unlock()
	if killed {
		return errKilled
	}
	return call()
}

func (a *actor) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := a.Store.Create(ctx, key, opts)
	return &actorWriter{w, a}, err
}

type actorWriter struct {
	storage.Writer
	a *actor
}

func (w *actorWriter) Commit(ctx context.Context) (info storage.Info, err error) {
	err = w.a.turn(func() error { info, err = w.Writer.Commit(ctx); return err })
	return info, err
}

func (a *actor) Open(ctx context.Context, key string, off, n int64) (r io.ReadCloser, err error) {
	err = a.turn(func() error { r, err = a.Store.Open(ctx, key, off, n); return err })
	return r, err
}

func (a *actor) Stat(ctx context.Context, key string) (info storage.Info, err error) {
	err = a.turn(func() error { info, err = a.Store.Stat(ctx, key); return err })
	return info, err
}

func (a *actor) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		var infos []storage.Info
		err := a.turn(func() error {
			for info, err := range a.Store.List(ctx, prefix) {
				if err != nil {
					return err
				}
				infos = append(infos, info)
			}
			return nil
		})
		if err != nil {
			yield(storage.Info{}, err)
			return
		}
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (a *actor) Delete(ctx context.Context, key string) error {
	return a.turn(func() error { return a.Store.Delete(ctx, key) })
}

// A witness knows what Put has returned nil for.
type witness struct {
	mu   sync.Mutex
	said map[catalog.ID]*catalog.Backup // nil: deleted
	busy map[catalog.ID]bool            // somebody is about to change it, or nobody knows what came of that
}

// put puts a backup by the catalog of a store, or deletes it if it has no state.
func (w *witness) put(ctx context.Context, s storage.Store, c *storecatalog.Catalog, b *catalog.Backup, rev catalog.Revision) (catalog.Revision, error) {
	w.mu.Lock()
	w.busy[b.ID] = true
	w.mu.Unlock()
	var err error
	put := *b
	said := &put
	if b.State == "" {
		said, err = nil, c.Delete(ctx, b.ID, rev)
	} else {
		rev, err = c.Put(ctx, b, rev)
	}
	if a, ok := s.(*actor); ok {
		a.mu.Lock()
		if a.dead {
			err = errKilled
		}
		a.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.said[b.ID], w.busy[b.ID] = said, false
	}
	return rev, err
}

// wrong says what is not on pages that has to be: what was put before they were asked for, and not changed since. Each is looked for by what it alone has,
// so that what an index says of it matters.
func (w *witness) wrong(ctx context.Context, c *storecatalog.Catalog) error {
	w.mu.Lock()
	known := map[catalog.ID]*catalog.Backup{}
	for id, b := range w.said {
		if !w.busy[id] {
			known[id] = b
		}
	}
	w.mu.Unlock()
	for id, b := range known {
		q := catalog.Query{States: allStates, Text: string(id)}
		if b != nil {
			q = catalog.Query{States: []catalog.State{b.State}, Labels: b.Labels, Kinds: []catalog.Kind{b.Kind}, Text: string(id[10:])}
		}
		page, _, err := c.Page(ctx, q, catalog.Cursor{}, 2)
		if err != nil {
			return nil // it was killed
		}
		w.mu.Lock()
		still := !w.busy[id] && w.said[id] == b
		w.mu.Unlock()
		if still && (b == nil && len(page) > 0 || b != nil && (len(page) != 1 || !reflect.DeepEqual(page[0], b))) {
			return fmt.Errorf("backup %s was put as %+v, and the page of %+v has %v", id, b, q, states(page))
		}
	}
	return nil
}
