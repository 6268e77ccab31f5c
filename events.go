package amber

import (
	"context"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
)

// Events are what a host may want to hear of. Each func may be nil; they are called by whichever goroutine something happens in, and what
// happens waits for them to return. One that panics is logged, and what happens goes on.
type Events struct {
	// Begin is called when an operation begins, Progress about five times a second while it goes on, and End when it has ended, well or not.
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
}

// An Event is about one operation on a backup.
type Event struct {
	Operation string // "backup", "import", "restore", "verify", "export", "copy"
	DataStore string
	Backup    catalog.ID // empty if it isn't known yet
	Kind      catalog.Kind
	Store     string // the name of the store; empty: Config.Store

	Policy  string    // of an automatic backup
	DueTime time.Time // likewise
	Attempt int       // likewise, beginning with 1

	// Of an operation that has ended.
	Duration time.Duration
	Keys     int64
	Bytes    int64 // as stored, or read from the store
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
