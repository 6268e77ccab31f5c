package amber

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
)

// Events are what a host may want to hear of. Each func may be nil; they are called by whichever goroutine something happens in, and what
// happens waits for them to return: one that takes its time should hand over to a goroutine of the host's. They may call the Service. One
// that panics is logged, and what happens goes on. But for Begin and Progress their contexts don't end with what they tell of, so that also the
// end of what was cancelled can be noted.
type Events struct {
	// Begin is called when an operation begins, Progress about five times a second while it goes on, and End when it has ended, well or not: once
	// for each Begin. Requests that are refused as they stand, for a field that is missing or wrong, are no operations. One operation may be
	// part of another, as the safety backup of a restore is.
	Begin    func(ctx context.Context, e Event)
	Progress func(ctx context.Context, e Event, p Progress)
	End      func(ctx context.Context, e Event)
	// Run is called when it is settled what became of a due time: done, failed, skipped or missed.
	Run func(ctx context.Context, r *schedule.Run)
	// Held is called when retention is held for a data store: nothing of it is let go of until somebody has looked.
	Held func(ctx context.Context, h Held)
	// Pruned is called for each backup that retention has deleted, Swept after each sweep.
	Pruned func(ctx context.Context, p Pruned)
	Swept  func(ctx context.Context, r backup.SweepReport)
	// Retention is called each time after retention was carried out and that has been told of, with all that it has decided: so it tells also of which data
	// stores retention isn't held any more.
	Retention func(ctx context.Context, r backup.PruneReport)
}

// An Event is about one operation on a backup.
type Event struct {
	Operation string // "backup", "import", "restore", "verify", "export", "copy"
	DataStore string
	Backup    catalog.ID // empty if it isn't known yet
	Kind      catalog.Kind
	Store     string // the name of the store, of a copy the one that gets it; empty: Config.Store

	Policy  string    // of an automatic backup
	DueTime time.Time // likewise
	Attempt int       // likewise, beginning with 1

	// Of an operation that has ended.
	Duration time.Duration
	Keys     int64
	Bytes    int64 // as stored; of a restore or an export, as the target got them
	Err      error // nil: it was done
}

// Held says why retention is held for a data store.
type Held struct {
	DataStore string
	Store     string // the name of the store; empty: Config.Store
	Reason    string
}

// Pruned is a backup that retention has deleted.
type Pruned struct {
	Backup *catalog.Backup
	Store  string // the name of the store; empty: Config.Store
	Reason string
}

// tell calls one of the host's funcs. It is the host's business what that does, and it must not end a backup.
func (s *Service) tell(ctx context.Context, which string, call func()) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.ErrorContext(ctx, "a func of Config.Events panicked", "event", which, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	call()
}

// tellRun tells what became of a due time.
func (s *Service) tellRun(ctx context.Context, r *schedule.Run) {
	if s.cfg.Events.Run != nil {
		ctx = context.WithoutCancel(ctx)
		s.tell(ctx, "Run", func() { s.cfg.Events.Run(ctx, r) })
	}
}

// tellHeld tells that retention is held.
func (s *Service) tellHeld(ctx context.Context, h Held) {
	if s.cfg.Events.Held != nil {
		ctx = context.WithoutCancel(ctx)
		s.tell(ctx, "Held", func() { s.cfg.Events.Held(ctx, h) })
	}
}

// tellPruned tells of a backup that retention has deleted.
func (s *Service) tellPruned(ctx context.Context, p Pruned) {
	if s.cfg.Events.Pruned != nil {
		ctx = context.WithoutCancel(ctx)
		s.tell(ctx, "Pruned", func() { s.cfg.Events.Pruned(ctx, p) })
	}
}

// tellRetention tells what retention has decided.
func (s *Service) tellRetention(ctx context.Context, r backup.PruneReport) {
	if s.cfg.Events.Retention != nil {
		ctx = context.WithoutCancel(ctx)
		s.tell(ctx, "Retention", func() { s.cfg.Events.Retention(ctx, r) })
	}
}

// tellSwept tells what a sweep removed.
func (s *Service) tellSwept(ctx context.Context, r backup.SweepReport) {
	if s.cfg.Events.Swept != nil {
		ctx = context.WithoutCancel(ctx)
		s.tell(ctx, "Swept", func() { s.cfg.Events.Swept(ctx, r) })
	}
}
