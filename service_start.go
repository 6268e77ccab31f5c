package amber

import (
	"context"
	"fmt"
	"sync"

	"github.com/amberkv/amber/catalog"
)

// StageQueued is the stage of a backup that was started and waits for others to end, because Config.Background are at work.
const StageQueued = "queued"

// defaultBackground is how many started backups are made at a time where the configuration says nothing.
const defaultBackground = 4

// A Started is a backup that Start has begun. It is safe for use by several goroutines.
type Started struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed at the end

	mu       sync.Mutex
	progress Progress
	id       catalog.ID
	begun    bool // it is at work, and doesn't wait for its turn

	b   *catalog.Backup // valid when done is closed
	err error           // likewise
}

// Start begins a backup and returns at once: what BGSAVE is to SAVE. The error says what is wrong with the request as it stands, or wraps ErrClosed; all
// else is told by the handle.
//
// Config.Background are made at a time, and others wait for their turn. ctx gives its values to the backup and doesn't end it, so that a
// handler of a request can start one: Cancel does, and Close, which waits for those that are at work. Events and BackupRequest.Progress tell of it as of any
// other.
func (s *Service) Start(ctx context.Context, q BackupRequest) (*Started, error) {
	st := &Started{done: make(chan struct{}), progress: Progress{Operation: "backup", Stage: StageQueued}}
	told := q.Progress
	q.Progress = func(p Progress) {
		st.mu.Lock()
		st.progress = p
		st.mu.Unlock()
		if told != nil {
			told(p)
		}
	}
	do, err := s.prepare(&q)
	if err != nil {
		return nil, err
	}
	ctx, st.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := s.background.add(st); err != nil {
		st.cancel(nil)
		return nil, err
	}
	go func() {
		defer s.background.remove(st)
		defer st.cancel(nil)
		defer close(st.done)
		st.b, st.err = s.background.inTurn(ctx, st, func() (*catalog.Backup, error) { return do(ctx, st.registered) })
	}()
	return st, nil
}

// registered notes the backup's ID.
func (st *Started) registered(id catalog.ID) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.id = id
}

// ID returns the backup's ID, under which the catalog knows it while it is made; empty before its turn has come.
func (st *Started) ID() catalog.ID {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.id
}

// Progress tells how far it is. After the end it stays what it was last.
func (st *Started) Progress() Progress {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.progress
}

// Done is closed at the end.
func (st *Started) Done() <-chan struct{} { return st.done }

// Wait waits for the end and returns what Backup would: the backup exactly if it is ready. It may be called any number of times. When ctx ends
// before, it returns ctx's error, and the backup goes on.
func (st *Started) Wait(ctx context.Context) (*catalog.Backup, error) {
	select {
	case <-st.done: // even if ctx has ended, too
		return st.b, st.err
	default:
	}
	select {
	case <-st.done:
		return st.b, st.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Cancel ends the backup, within a second, and doesn't wait for that. Wait then returns an error that wraps context.Canceled, unless the backup got ready before.
func (st *Started) Cancel() { st.cancel(context.Canceled) }

// background is what Start has begun.
type background struct {
	mu     sync.Mutex
	closed bool
	all    map[*Started]struct{}
	turns  chan struct{}  // one for each that may be at work
	active sync.WaitGroup // of all
}

func newBackground(limit int) *background {
	return &background{all: map[*Started]struct{}{}, turns: make(chan struct{}, limit)}
}

func (b *background) add(st *Started) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("amber: %w", ErrClosed)
	}
	b.all[st] = struct{}{}
	b.active.Add(1)
	return nil
}

func (b *background) remove(st *Started) {
	b.mu.Lock()
	delete(b.all, st)
	b.mu.Unlock()
	b.active.Done()
}

// inTurn does something when a turn is free.
func (b *background) inTurn(ctx context.Context, st *Started, do func() (*catalog.Backup, error)) (*catalog.Backup, error) {
	select {
	case b.turns <- struct{}{}:
		defer func() { <-b.turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("backup was not begun: %w", context.Cause(ctx))
	}
	if !b.begin(st) {
		return nil, fmt.Errorf("backup was not begun: %w", ErrClosed)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("backup was not begun: %w", context.Cause(ctx))
	}
	return do()
}

// begin notes that something is at work, unless nothing may begin any more.
func (b *background) begin(st *Started) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	st.begun = !b.closed
	return st.begun
}

// close lets nothing begin any more. What is at work goes on.
func (b *background) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for st := range b.all {
		if !st.begun {
			st.cancel(ErrClosed)
		}
	}
}

// wait waits, after close, for what is at work. When ctx ends it cancels that, waits for it and returns ctx's error.
func (b *background) wait(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		b.active.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	n := len(b.all)
	for st := range b.all {
		st.cancel(ErrClosed)
	}
	b.mu.Unlock()
	<-ended
	if n == 0 {
		return nil
	}
	return fmt.Errorf("backups that were started and hadn't ended were cancelled, %d of them: %w", n, context.Cause(ctx))
}
