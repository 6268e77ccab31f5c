// Package restore puts a backup into a target.
//
// A [Loader] is one way to put a snapshot into one target: package feed lets the target replicate from Amber, package
// command sends it RESTORE and plain commands, package dumpfile writes a file for a server to start from. A
// loader of your own proves itself with loadertest.Run.
//
// A [Restorer] opens a backup, looks at the target, verifies the whole of the backup, selects and converts what the caller and the target
// ask for, and only then lets a loader touch the target. In the end it holds what the target has against the backup.
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
	// ErrNotEmpty: the target holds data, and the caller said nothing about it. See Options.Conflict.
	ErrNotEmpty = errors.New("target is not empty")
	// ErrRefused: the target can't take this backup by this loader. See Verdict.
	ErrRefused = errors.New("target can't take the backup")
	// ErrNotAccepted: the target can take the backup, but not without what a warning tells, and the caller didn't accept that. See
	// Options.Accept.
	ErrNotAccepted = errors.New("a warning was not accepted")
)

// A Loader is one way to put a snapshot into one target.
type Loader interface {
	// Check looks at the target and says whether Load can work. It changes nothing there that lasts. The error is about looking; a
	// target that can't take the backup is a Verdict with a failed point.
	Check(ctx context.Context, need Requirements) (Verdict, error)

	// Load puts the snapshot into the target. The caller has verified src, and made of it what the loader's Verdict
	// asked for. Load checks the target itself, right before it writes: one that Verdict.Err would refuse is refused with the same
	// error. A nil opts means the defaults. Of opts, Conflict, Accept and Progress are the loader's business; the rest was done by the caller.
	//
	// It returns nil only if the target has taken all of src, as far as Options.Conflict lets it. Once
	// something was changed at the target every error is a *PartialError. It returns within a second of ctx being
	// cancelled, plus the time that bringing the target back into a known state takes, at most a few seconds.
	Load(ctx context.Context, src Source, opts *Options) (*Report, error)
}

// A Source is a verified backup, as a loader reads it.
type Source interface {
	// Backup returns the manifest, of what is to be loaded: if that was selected or converted, its counts, parts and sizes are
	// those of the result. The loader doesn't change it.
	Backup() *catalog.Backup
	// Open reads a part: decompressed, converted where that was asked for, and proved against the manifest's hash by the
	// time Read returns io.EOF. It may be called several times. The caller closes the reader.
	Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error)
}

// A Stage is a step of a restore, for Progress.
type Stage string

// The stages of a restore, in order.
const (
	StageCheck   Stage = "check"   // looking at the target
	StageVerify  Stage = "verify"  // reading and proving the whole backup
	StageSafety  Stage = "safety"  // the target's own data is backed up first
	StageLoad    Stage = "load"    // the target takes the data
	StageCount   Stage = "count"   // comparing the number of keys with the manifest
	StageCompare Stage = "compare" // comparing values with those of the backup
	StageDone    Stage = "done"
)

// Progress tells how far a restore is.
type Progress struct {
	Stage Stage
	Bytes int64 // of this stage, done: as stored while verifying, as the source sent them while loading
	Total int64 // of this stage
	Keys  int64 // parsed, loaded or compared so far, where known
}

// A Report says what a restore did. The loader tells of itself; the Restorer adds the rest.
type Report struct {
	Backup  catalog.ID `json:"backup"`
	Target  string     `json:"target"` // host:port, or what else the loader writes to
	Method  string     `json:"method"` // the loader: "feed", "command", "dumpfile"
	Dialect string     `json:"dialect,omitempty"`

	Keys      int64        `json:"keys"`                // written to the target; some may have been past their expiry when they got there
	Functions int64        `json:"functions"`           // libraries, written
	DBs       []catalog.DB `json:"dbs,omitempty"`       // the keys written, by database and type
	Filtered  int64        `json:"filtered,omitempty"`  // keys left out by the selection
	Expired   int64        `json:"expired,omitempty"`   // keys left out because they had expired when the restore began
	Skipped   int64        `json:"skipped,omitempty"`   // keys left alone because the target had one of that name
	Commands  int64        `json:"commands,omitempty"`  // of the backup, executed on top of its keys, of which Keys and DBs don't tell
	Converted int64        `json:"converted,omitempty"` // keys encoded anew for the target, or written by plain commands
	Losses    []LossReport `json:"losses,omitempty"`    // what the target can't hold
	Proof     Proof        `json:"proof"`               // the comparison afterwards

	Bytes    int64         `json:"bytes"`  // of the snapshot, as the target got it
	Verify   time.Duration `json:"verify"` // time that proving the backup took, in nanoseconds
	Load     time.Duration `json:"load"`   // from the first command to the target until it was ready for clients
	Safety   catalog.ID    `json:"safetyBackup,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`

	// Source is what a copy was made of, how, and what that cost it; nil for a restore, since the backup's manifest has it.
	Source *catalog.Source `json:"source,omitempty"`
}

// A LossReport tells what of a backup the target doesn't hold after a restore, and of how many keys.
type LossReport struct {
	Name    string   `json:"name"` // as the point of the Verdict: see package rdb's Loss
	Count   int64    `json:"count"`
	Skipped int64    `json:"skipped,omitempty"` // keys of these that were left out altogether
	Keys    []string `json:"keys,omitempty"`    // the first of them, at most ten, as "database/name"
}

// A Proof says what was compared after loading.
type Proof struct {
	Counted  bool          `json:"counted"`  // the keys of each database
	Compared int64         `json:"compared"` // keys whose type, value and expiry were held against the backup's
	Expired  int64         `json:"expired"`  // of the keys chosen, those that expired meanwhile
	Changed  int64         `json:"changed"`  // of these, those that differ for a reason that is known: the target had its own, or something is lost
	Took     time.Duration `json:"took"`     // in nanoseconds
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
	Failed []string    // the first keys that the target didn't take, as "database/name: why"; may be empty
	Safety catalog.ID  // the backup of the target's own data that was made before; may be empty
	Err    error       // what went wrong first
}

// Error tells what went wrong, what the target holds and what to do.
func (e *PartialError) Error() string {
	s := fmt.Sprintf("restore into %s failed: %v; the target's data: %s", e.Target, e.Err, e.State)
	if e.Keys >= 0 {
		s += fmt.Sprintf(" (%d keys)", e.Keys)
	}
	for i, failed := range e.Failed {
		if i == 3 {
			s += fmt.Sprintf("; and %d more keys", len(e.Failed)-i)
			break
		}
		s += "; " + failed
	}
	if e.Detail != "" {
		s += "; " + e.Detail
	}
	if e.Safety != "" {
		s += fmt.Sprintf("; what it held before is backup %s", e.Safety)
	}
	return s
}

// Unwrap returns what went wrong first.
func (e *PartialError) Unwrap() error { return e.Err }
