package amber

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// An ImportRequest says which snapshot becomes a backup, and where that is kept. Of URL, Key, Reader and Snapshotter exactly one is given.
type ImportRequest struct {
	DataStore   string            // the host's ID of the data store: letters, digits, "-", "_", "."; required
	Name        string            // what a person calls the backup: the same characters, a letter first, and no other backup of the data store has it; may be empty
	Description string            // at most 1000 bytes
	Labels      map[string]string // the host's own, as catalog.ValidLabels says

	// URL is that of an RDB file, or of the summary of a DFS set, which may be signed: its query is told to nobody. More are the URLs of the
	// set's shards, where each is signed by itself. Config.Web says what may be reached. MaxBytes bounds the snapshot; 0:
	// fetch.DefaultMaxBytes.
	URL      string
	More     []string
	MaxBytes int64

	// Key is that of an RDB file, of the summary of a DFS set, or of the manifest of append-only files (NAME.manifest, or their directory with its slash; a
	// single file as Redis 6.2 has it is called NAME.aof), in a store: in From, if it is set, which stays the caller's, else in
	// that of Config.Stores which is called FromStore, else in Config.Store. See package dumpfile.
	Key       string
	From      storage.Store
	FromStore string
	// Adopt makes the backup refer to the files in the store, which has to be the one that is imported to, instead of storing their bytes
	// again. They stay what they are when the backup is deleted; who changes or removes them makes the backup one that doesn't verify.
	// They are neither compressed nor encrypted, so that Adopt is refused where there are recipients. Append-only files can't be adopted.
	Adopt bool

	// Reader gives one RDB file, and File is what it is called. It is read to its io.EOF and stays the caller's; a Read that waits when the
	// import ends is left to itself.
	Reader io.Reader
	File   string

	// Snapshotter takes the snapshot in another way.
	Snapshotter backup.Snapshotter

	Store string // the name of one of Config.Stores that keeps the backup; empty: Config.Store
	// Recipients are those who can open this backup; none: those of the Config.
	Recipients []age.Recipient
	// Retain is how long the backup is kept, as BackupRequest.Retain says. 0: it is kept for ever.
	Retain time.Duration

	// Progress is called about five times a second, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// Import makes a backup of a snapshot that a server wrote into a file before, of kind "import". The backup is running while the whole is
// read, parsed and checked, and then ready, which is when Import returns nil, or failed, with the reason in the catalog. Cancelling ctx ends it
// within a second.
//
// One data store has one backup or import at a time. See backup.Runner.Run for what the errors wrap, and packages fetch and dumpfile.
func (s *Service) Import(ctx context.Context, q ImportRequest) (*catalog.Backup, error) {
	at, err := s.place(q.Store)
	if err != nil {
		return nil, err
	}
	snapshotter, err := s.importSource(&q)
	if err != nil {
		return nil, err
	}
	return s.run(ctx, at, "import", 0, q.Progress, backup.Request{DataStore: q.DataStore, Name: q.Name, Description: q.Description, Labels: q.Labels, Kind: catalog.KindImport,
		Snapshotter: snapshotter, Seal: s.seal(q.Recipients), Retain: q.Retain})
}

// importSource returns what reads what a request asks for.
func (s *Service) importSource(q *ImportRequest) (backup.Snapshotter, error) {
	given := 0
	for _, is := range []bool{q.URL != "", q.Key != "", q.Reader != nil, q.Snapshotter != nil} {
		if is {
			given++
		}
	}
	bad := func(text string) error { return errors.New("amber: ImportRequest." + text) }
	switch {
	case given != 1:
		return nil, bad(fmt.Sprintf("URL, Key, Reader and Snapshotter: exactly one is required, %d are given", given))
	case q.URL == "" && (len(q.More) > 0 || q.MaxBytes != 0):
		return nil, bad("More and MaxBytes go with URL")
	case q.Key == "" && (q.From != nil || q.FromStore != "" || q.Adopt):
		return nil, bad("From, FromStore and Adopt go with Key")
	case q.Reader == nil && q.File != "":
		return nil, bad("File goes with Reader")
	case q.From != nil && q.FromStore != "":
		return nil, bad("From and FromStore exclude each other")
	case q.Adopt && (q.From != nil || q.FromStore != q.Store):
		return nil, bad(fmt.Sprintf("Adopt: only what lies in the store that is imported to can be adopted: FromStore has to be %q like Store, and From nil", q.Store))
	}
	switch {
	case q.URL != "":
		return fetch.New(fetch.Config{URL: q.URL, More: q.More, MaxBytes: q.MaxBytes, Policy: s.cfg.Web, Logger: s.cfg.Logger})
	case q.Key != "":
		from := q.From
		if from == nil {
			place, err := s.place(q.FromStore)
			if err != nil {
				return nil, err
			}
			from = place.Store
		}
		return dumpfile.Of(dumpfile.Config{Store: from, Name: q.Key, Adopt: q.Adopt})
	case q.Reader != nil:
		return dumpfile.Stream(q.File, q.Reader), nil
	}
	return q.Snapshotter, nil
}
