// Package backup turns a snapshot of a data store into a verified backup in a store.
//
// A [Snapshotter] knows how to take a snapshot of one data store; the drivers are sub-packages, such as replica, and a
// driver of your own proves itself with snapshottest.Run. A [Runner] takes a snapshot through the pipeline: every byte is
// parsed and checked while it is compressed, hashed and stored, what was stored is read back, and only then is the
// manifest written that makes it a backup. [Runner.Prune] deletes backups that are to be kept no longer, [Runner.Sweep] removes what killed runs
// left.
package backup

import (
	"context"
	"errors"
	"io"

	"github.com/amberkv/amber/catalog"
)

// A Snapshotter opens a consistent snapshot of one data store. It never writes to the data store.
type Snapshotter interface {
	// Snapshot connects to the data store and gets it to the point where the snapshot's bytes can be read. It may be
	// called again after the snapshot before was closed. The error says what to do. It returns within a second of
	// ctx being cancelled; ctx governs only this call, not the snapshot.
	Snapshot(ctx context.Context) (Snapshot, error)
}

// A Snapshot is the contents of a data store at one moment, as one or more parts. The caller closes it.
type Snapshot interface {
	// Source describes the data store and the moment. It must not hold a secret. Dialect may be left empty: the
	// stream tells it. It is asked again when all parts were read, and may tell more then, such as what that took.
	Source() catalog.Source

	// Parts lists the parts; there is at least one.
	Parts() []Part

	// Open starts reading a part; each is opened once, several may be at a time, and the caller closes the reader. Where a Read, or Open, gives an error
	// that wraps ErrAgain the part may be opened again, and then comes from its beginning. Read returns io.EOF only if the source confirmed
	// that the part is whole; whatever ends it early is another error. A reader that isn't read for a while may hold up
	// the source but must not make memory grow. Cancelling ctx ends a Read that waits, within a second, and so does closing the reader, which may
	// happen at any time and more than once.
	Open(ctx context.Context, p Part) (io.ReadCloser, error)

	// Close releases everything and leaves the source without a trace of it. It may be called at any time, once or more.
	Close() error
}

// ErrAgain is wrapped by errors of a Snapshot's part that can be opened once more: it is lost as it was, and may come from another
// server, as of a later moment. Whoever wraps it bounds how often.
var ErrAgain = errors.New("part can be read again")

// A Sharded snapshot tells where each of its parts came from. It is asked when the part was read to its end; nil: there is nothing to tell.
type Sharded interface{ Shard(p Part) *catalog.Shard }

// A Counted snapshot knows about how many keys its source had. It is told how many were found in all parts, once these were read to their end; an
// error means that keys are missing, and fails the backup.
type Counted interface{ Count(keys int64) error }

// A Part is one stream of a snapshot.
type Part struct {
	Name string // names the part within the snapshot, such as "part-0000.rdb"
	Size int64  // in bytes; -1 if not known before the end

	// Key is that of the part's object, if the part is in the Runner's store already, as Open reads it: the backup then adopts the object
	// instead of storing its bytes again. Empty: they are stored.
	Key string
}

// A Stage is a step of a run, for Progress.
type Stage string

// The stages of a run, in order.
const (
	StageConnect  Stage = "connect"  // taking the lease, waiting for the source's first byte
	StageTransfer Stage = "transfer" // reading, verifying and storing the snapshot
	StageVerify   Stage = "verify"   // reading back what was stored
	StagePublish  Stage = "publish"  // writing the manifest
	StageDone     Stage = "done"
)

// Progress tells how far a run is.
type Progress struct {
	Stage  Stage
	Bytes  int64 // of this stage, done: as the source sent them, or as stored while verifying
	Total  int64 // of this stage; 0 if not known
	Stored int64 // bytes given to the store
	Keys   int64 // parsed so far
}
