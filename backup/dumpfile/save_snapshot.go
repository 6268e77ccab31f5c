package dumpfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// ErrKeysMissing: the saved file has fewer keys than the server had.
var ErrKeysMissing = errors.New("keys are missing in what was saved")

// saved is what a server saved for us: a file that is open already, or files of our own name.
type saved struct {
	w      *SaveSnapshotter
	source catalog.Source
	parts  []backup.Part
	census census
	began  time.Time // by the machine's clock

	held  *held     // of Redis and Valkey
	files *snapshot // of a Dragonfly
	name  string    // theirs, up to what differs

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	opened   bool
	bytes    int64
	unread   int           // parts
	duration time.Duration // of all, once there is none
	closing  sync.Once
	closeErr error
}

func newSaved(ctx context.Context, w *saving, b *bgsave) *saved {
	s := &saved{w: w.SaveSnapshotter, began: b.clock}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return s
}

// Source tells what the files took, too, once they were read.
func (s *saved) Source() catalog.Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	src := s.source
	if src.Cost != nil {
		cost := *src.Cost
		cost.Bytes, cost.Duration = s.bytes, s.duration
		src.Cost = &cost
	}
	return src
}

func (s *saved) Parts() []backup.Part { return append([]backup.Part(nil), s.parts...) }

// Count compares the keys in the files with those that the server had.
func (s *saved) Count(keys int64) error {
	if keys < s.census.least {
		return fmt.Errorf("dumpfile: %s: %w: it has %d, and the server had %d at least, without those that expire: is it another server's, or was the server flushed?", s.source.File, ErrKeysMissing, keys, s.census.least)
	}
	if keys > s.census.most {
		s.w.log.Warn("what was saved has more keys than the server said to have", "file", s.source.File, "keys", keys, "most", s.census.most)
	}
	return nil
}

// Open starts reading a file.
func (s *saved) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	if s.ctx.Err() != nil {
		return nil, errClosed
	}
	var r io.ReadCloser
	var err error
	if s.files != nil {
		r, err = s.files.Open(ctx, p)
	} else {
		r, err = s.openHeld(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	return &measured{ReadCloser: r, s: s}, nil
}

func (s *saved) openHeld(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	if p.Name != s.parts[0].Name {
		return nil, fmt.Errorf("dumpfile: there is no part %q", p.Name)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dumpfile: opening %s: %w", s.source.File, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened {
		return nil, errors.New("dumpfile: the part was opened already")
	}
	s.opened = true
	h := s.held
	stop := context.AfterFunc(ctx, func() { h.cancel(ctx.Err()) })
	return &reader{ctx: h.ctx, closed: s.ctx, store: s.w.cfg.Store, want: h.info, in: h.in, begin: h.begin, checksummed: h.head.hasChecksum(),
		release: func() { stop(); h.cancel(errClosed) }}, nil
}

// A measured reader tells its snapshot how much was read.
type measured struct {
	io.ReadCloser
	s    *saved
	done bool
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if n > 0 || err == io.EOF && !m.done {
		m.s.mu.Lock()
		m.s.bytes += int64(n)
		if err == io.EOF && !m.done {
			m.done = true
			if m.s.unread--; m.s.unread <= 0 {
				m.s.duration = clock.Since(m.s.began)
			}
		}
		m.s.mu.Unlock()
	}
	return n, err
}

// Close ends all reads, and removes the files that were made for us.
func (s *saved) Close() error {
	s.closing.Do(func() {
		s.cancel(errClosed)
		if s.held != nil {
			s.mu.Lock()
			opened := s.opened
			s.mu.Unlock()
			if !opened {
				s.held.drop()
			}
		}
		if s.files == nil {
			return
		}
		s.files.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), removeWithin)
		defer cancel()
		s.closeErr = s.w.remove(ctx, s.name)
	})
	return s.closeErr
}
