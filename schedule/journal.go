package schedule

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/amberkv/amber/catalog"
)

// Errors that every Journal returns, wrapped with what they are about.
var (
	// ErrNotFound: there is no such policy or run.
	ErrNotFound = errors.New("does not exist")
	// ErrConflict: it was changed or created by somebody else since the revision at hand.
	ErrConflict = errors.New("was changed by another writer")
	// ErrCorrupt: a record can't be trusted: it is cut, changed, or written by a newer Amber.
	ErrCorrupt = errors.New("record is corrupt")
)

// A Revision names one version of a policy or a run. The empty one means "none yet".
type Revision string

// A Journal keeps policies, and what became of their due times. It is safe for use by several goroutines and processes.
//
// Puts are compare-and-swap: of several writers with the same prev exactly one wins, and the error of the others wraps ErrConflict. When the
// error of a Put or Delete doesn't wrap ErrConflict or ErrNotFound the outcome is unknown: Get and compare. Nothing that is handed over is kept, and what
// is returned is the caller's.
type Journal interface {
	// PutPolicy writes a policy if prev is its revision, and returns the new one; an empty prev means that there must be none of that ID.
	PutPolicy(ctx context.Context, p *Policy, prev Revision) (Revision, error)
	// GetPolicy returns a policy and its revision. The error wraps ErrNotFound or ErrCorrupt; with the latter there is a revision, so that it can
	// be deleted or replaced.
	GetPolicy(ctx context.Context, id string) (*Policy, Revision, error)
	// DeletePolicy removes a policy if its revision is rev. Its runs stay.
	DeletePolicy(ctx context.Context, id string, rev Revision) error
	// Policies gives the IDs of all policies in ascending order, each with its revision: cheap enough to be asked every minute.
	Policies(ctx context.Context) iter.Seq2[PolicyRevision, error]

	// PutRun writes what became of a due time: of its Policy and Due there is one record.
	PutRun(ctx context.Context, r *Run, prev Revision) (Revision, error)
	// GetRun returns the record of a due time. The error wraps ErrNotFound or ErrCorrupt.
	GetRun(ctx context.Context, policy string, due time.Time) (*Run, Revision, error)
	// Runs gives the runs that q selects, those of the latest due times first. A record that can't be read is an error in the sequence that wraps
	// ErrCorrupt, after which the sequence goes on.
	Runs(ctx context.Context, q RunQuery) iter.Seq2[*Run, error]
	// TrimRuns removes the runs of a policy whose due times are before a moment, but never those that are running, nor the latest one.
	// It says how many it removed.
	TrimRuns(ctx context.Context, policy string, before time.Time) (int, error)
}

// A PolicyRevision is the ID of a policy and the revision that it has now.
type PolicyRevision struct {
	ID       string
	Revision Revision
}

// A RunState says what became of a due time.
type RunState string

// The states of a run. One that is missed or skipped can become running, if the clock is set back and the time comes again; those that are
// done or failed stay what they are.
const (
	RunRunning RunState = "running" // a backup is being made, or was when its scheduler died, or is to be tried again
	RunDone    RunState = "done"    // there is a ready backup: Run.Backup
	RunFailed  RunState = "failed"  // every attempt failed, or the window ended; the Attempts say why
	RunSkipped RunState = "skipped" // it was decided not to make a backup: Run.Reason
	RunMissed  RunState = "missed"  // nobody was there in time: Run.Reason
)

// A Run says what became of a due time, or of several that were missed together.
type Run struct {
	Policy    string    `json:"policy"`
	DataStore string    `json:"dataStore"`
	Due       time.Time `json:"due"` // in UTC, to the second
	State     RunState  `json:"state"`
	Reason    string    `json:"reason,omitempty"` // why it was skipped or missed, or why there were no more attempts

	// Of due times that were missed together: the first, and how many there are from that until Due.
	// A due time that lies in between and has a record of its own, because the clock was set back and the time came again, is what its own says.
	First time.Time `json:"first,omitzero"`
	Count int       `json:"count,omitempty"` // at most MaxCount; there may be more

	// Behind is the due time of the same policy whose backup had not ended when this one was skipped or missed.
	Behind time.Time `json:"behind,omitzero"`

	Start     time.Time  `json:"start,omitzero"`     // the point in the window at which it was to start
	WindowEnd time.Time  `json:"windowEnd,omitzero"` // no attempt begins after that
	Attempts  []Attempt  `json:"attempts,omitempty"`
	Backup    catalog.ID `json:"backup,omitempty"` // that is ready
	EndedAt   time.Time  `json:"endedAt,omitzero"`
}

// MaxCount is up to where due times that were missed together are counted.
const MaxCount = 100_000

// An Attempt is one try to make the backup of a due time.
type Attempt struct {
	Owner   string     `json:"owner"` // the scheduler that made it
	BeganAt time.Time  `json:"beganAt"`
	EndedAt time.Time  `json:"endedAt,omitzero"`
	Backup  catalog.ID `json:"backup,omitempty"` // that was begun
	Error   string     `json:"error,omitempty"`

	// NotBefore: the attempt was refused, because no backup of the data store may begin before that time; see LaterError. Of several in a row there
	// is the last.
	NotBefore time.Time `json:"notBefore,omitzero"`

	// None of these, nor one that was refused, is a try as Policy.Retries counts them, but a second one that was lost is.
	Lost    bool `json:"lost,omitempty"`    // its scheduler died, or lost its lease: another one, that took over, says so
	Stopped bool `json:"stopped,omitempty"` // its scheduler was stopped before it could end
}

// A RunQuery selects runs; each field that is set narrows that down.
type RunQuery struct {
	Policy    string
	DataStore string
	States    []RunState
	From      time.Time // due at this time or later
	Until     time.Time // due before this time
	Limit     int       // at most so many
}
