// Package restore puts a backup into a target.
//
// A [Loader] is one way to put a snapshot into one target: package feed lets the target replicate from Amber. A
// loader of your own proves itself with loadertest.Run. A [Restorer] opens a backup, verifies the whole of it, and only
// then lets a loader touch the target.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/amberkv/amber/catalog"
)

// Errors of a restore, wrapped with what they are about. When one of these is returned the target was not touched.
var (
	// ErrNotVerified: the backup is not what its manifest says, or is not ready.
	ErrNotVerified = errors.New("backup does not verify")
	// ErrNotEmpty: the target holds data, and the caller didn't say Replace.
	ErrNotEmpty = errors.New("target is not empty")
	// ErrRefused: the target can't take this backup by this loader. See Verdict.
	ErrRefused = errors.New("target can't take the backup")
)

// A Loader is one way to put a snapshot into one target.
type Loader interface {
	// Check looks at the target and says whether Load can work. It changes nothing there. The error is about looking; a target
	// that can't take the backup is a Verdict with a failed point.
	Check(ctx context.Context, need Requirements) (Verdict, error)

	// Load puts the snapshot into the target. The caller has verified src. Load checks the target itself, right before
	// it writes: a target that holds data is refused with ErrNotEmpty unless opts.Replace is set, one
	// that Check would fail with ErrRefused. A nil opts means the defaults.
	//
	// It returns nil only if the target holds exactly what src does, compared by the keys of each database. Once
	// something was changed at the target every error is a *PartialError. It returns within a second of ctx being
	// cancelled, plus the time that bringing the target back into a known state takes, at most a few seconds.
	Load(ctx context.Context, src Source, opts *Options) (*Report, error)
}

// A Source is a verified backup, as a loader reads it.
type Source interface {
	// Backup returns the manifest. The loader doesn't change it.
	Backup() *catalog.Backup
	// Open reads a part as the data store sent it: decompressed, and proved against the manifest's hash by the
	// time Read returns io.EOF. It may be called several times. The caller closes the reader.
	Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error)
}

// Requirements are what a target has to offer for a backup.
type Requirements struct {
	Backup  *catalog.Backup
	Replace bool // data that the target holds is no reason to fail
}

// A Level says how a point of a Verdict came out.
type Level string

// The levels of a point.
const (
	Pass Level = "pass"
	Warn Level = "warn"
	Fail Level = "fail"
)

// A Point is one thing that a loader looked at.
type Point struct {
	Name   string `json:"name"`   // such as "empty", "rdb-version", "databases"
	Level  Level  `json:"level"`  //
	Detail string `json:"detail"` // what was found and, unless it passed, what to do
}

// A Verdict says whether a target can take a backup, point by point.
type Verdict struct {
	Points []Point `json:"points"`
}

// Err returns nil if no point failed, else an error with the details of those that did. It wraps ErrNotEmpty if
// the point called "empty" failed, and ErrRefused otherwise.
func (v Verdict) Err() error {
	var errs []error
	for _, p := range v.Points {
		switch {
		case p.Level != Fail:
		case p.Name == "empty":
			errs = append(errs, fmt.Errorf("%w: %s", ErrNotEmpty, p.Detail))
		default:
			errs = append(errs, fmt.Errorf("%w: %s: %s", ErrRefused, p.Name, p.Detail))
		}
	}
	return errors.Join(errs...)
}

// Options are the choices of a restore.
type Options struct {
	Replace  bool           // let go of what the target holds, after the backup was verified
	Progress func(Progress) // called now and then, from one goroutine at a time; may be nil
}

// A Stage is a step of a restore, for Progress.
type Stage string

// The stages of a restore, in order.
const (
	StageVerify Stage = "verify" // reading and proving the whole backup
	StageCheck  Stage = "check"  // looking at the target
	StageLoad   Stage = "load"   // the target takes the data
	StageCount  Stage = "count"  // comparing what is there with the manifest
	StageDone   Stage = "done"
)

// Progress tells how far a restore is.
type Progress struct {
	Stage Stage
	Bytes int64 // of this stage, done: as stored while verifying, as the source sent them while loading
	Total int64 // of this stage
	Keys  int64 // parsed or loaded so far, where known
}

// A Report says what a restore did.
type Report struct {
	Backup   catalog.ID    `json:"backup"`
	Target   string        `json:"target"` // host:port
	Method   string        `json:"method"` // the loader: "feed"
	Keys     int64         `json:"keys"`   // that the target held when all was loaded; some may have been past their expiry
	Bytes    int64         `json:"bytes"`  // sent to the target
	Verify   time.Duration `json:"verify"` // time that proving the backup took, in nanoseconds
	Load     time.Duration `json:"load"`   // from the first command to the target until it was ready for clients
	Warnings []string      `json:"warnings,omitempty"`
}

// A TargetState says what a target holds after a restore that didn't end well.
type TargetState string

// The states of a target.
const (
	TargetUnchanged TargetState = "unchanged" // it holds the data it held before, and serves them
	TargetEmpty     TargetState = "empty"     // it holds no data
	TargetPartial   TargetState = "partial"   // it holds a part of the backup, or a mixture
	TargetLoaded    TargetState = "loaded"    // it holds the whole backup, but something after that failed
	TargetUnknown   TargetState = "unknown"   // it can't be asked
)

// A PartialError is a restore that failed after something at the target was changed. It says what state the target is in.
type PartialError struct {
	Target string      // host:port
	State  TargetState // what it holds now
	Keys   int64       // that it holds now; -1 if unknown
	Detail string      // what else was left different from before, and what to do; may be empty
	Err    error       // what went wrong first
}

// Error tells what went wrong, what the target holds and what to do.
func (e *PartialError) Error() string {
	s := fmt.Sprintf("restore into %s failed: %v; the target's data: %s", e.Target, e.Err, e.State)
	if e.Keys >= 0 {
		s += fmt.Sprintf(" (%d keys)", e.Keys)
	}
	if e.Detail != "" {
		s += "; " + e.Detail
	}
	return s
}

// Unwrap returns what went wrong first.
func (e *PartialError) Unwrap() error { return e.Err }
