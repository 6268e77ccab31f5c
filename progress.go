package amber

import (
	"context"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/restore"
)

// Progress tells how far a backup, a verification or a restore is.
type Progress struct {
	Operation string        // "backup", "import", "verify", "restore", "export" or "copy"
	Stage     string        // such as "transfer"; see backup.Stage and restore.Stage
	Bytes     int64         // of this stage, done
	Total     int64         // of this stage; 0 if not known
	Keys      int64         // so far, where known
	Rate      float64       // bytes a second, over the stage
	Elapsed   time.Duration // since the operation began
	Left      time.Duration // of this stage, by its rate; 0 if its size isn't known
}

// watch follows one operation: it turns the progress of a run into that of the operation, and tells the host of it by its events.
type watch struct {
	s     *Service        // whose events they are; nil: there are none
	ctx   context.Context // the operation's
	to    func(Progress)  // that the caller gave; may be nil
	now   clock.Func
	start time.Time

	stage string
	since time.Time // the stage began

	mu    sync.Mutex // of what follows; it is not held while the host is told, which may call back
	event Event
	begun bool
}

// watch follows an operation of which e says what is known already.
func (s *Service) watch(ctx context.Context, e Event, to func(Progress)) *watch {
	return &watch{s: s, ctx: ctx, to: to, now: s.now, start: s.now(), event: e}
}

// silent follows something that is no operation of which the host hears by its events.
func silent(operation string, to func(Progress), now clock.Func) *watch {
	return &watch{to: to, now: now, start: now(), event: Event{Operation: operation}}
}

// begin tells of the beginning, once.
func (w *watch) begin() {
	w.mu.Lock()
	first := !w.begun
	w.begun = true
	e := w.event
	w.mu.Unlock()
	if first && w.s.cfg.Events.Begin != nil {
		w.s.tell(w.ctx, "Begin", func() { w.s.cfg.Events.Begin(w.ctx, e) })
	}
}

// about says which backup the operation is about, as far as that isn't known yet, and which store's copy of it, and begins.
func (w *watch) about(at *place, b *catalog.Backup) {
	w.mu.Lock()
	w.event.Backup, w.event.DataStore, w.event.Kind, w.event.Store = b.ID, b.DataStore, b.Kind, at.Name
	w.mu.Unlock()
	w.begin()
}

// registered says which ID the backup has got.
func (w *watch) registered(id catalog.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.event.Backup = id
}

// end tells of the end, also when nothing was told of a beginning, for want of something to tell about. The host may want to note it though the
// operation was cancelled: its context goes on.
func (w *watch) end(keys, bytes int64, err error) {
	w.begin()
	w.mu.Lock()
	e := w.event
	w.mu.Unlock()
	e.Duration, e.Keys, e.Bytes, e.Err = w.now().Sub(w.start), keys, bytes, err
	if w.s.cfg.Events.End != nil {
		ctx := context.WithoutCancel(w.ctx)
		w.s.tell(ctx, "End", func() { w.s.cfg.Events.End(ctx, e) })
	}
}

func (w *watch) backup(p backup.Progress) { w.tell(string(p.Stage), p.Bytes, p.Total, p.Keys) }

func (w *watch) restore(p restore.Progress) { w.tell(string(p.Stage), p.Bytes, p.Total, p.Keys) }

func (w *watch) tell(stage string, bytes, total, keys int64) {
	told := w.s != nil && w.s.cfg.Events.Progress != nil
	if w.to == nil && !told {
		return
	}
	w.mu.Lock()
	e := w.event
	w.mu.Unlock()
	now := w.now()
	if stage != w.stage {
		w.stage, w.since = stage, now
	}
	p := Progress{Operation: e.Operation, Stage: stage, Bytes: bytes, Total: total, Keys: keys, Elapsed: now.Sub(w.start)}
	if took := now.Sub(w.since).Seconds(); took > 0 {
		p.Rate = float64(bytes) / took
	}
	if total > bytes && p.Rate > 0 {
		p.Left = time.Duration(float64(total-bytes) / p.Rate * float64(time.Second)).Round(time.Second)
	}
	if w.to != nil {
		w.to(p)
	}
	if told {
		w.s.tell(w.ctx, "Progress", func() { w.s.cfg.Events.Progress(w.ctx, e, p) })
	}
}
