package amber

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/retry"
)

// An ExportRequest says which backup becomes files, of what kind, and where they go. Of Key, Writer and URL exactly one is given.
type ExportRequest struct {
	Backup catalog.ID // required

	// Dialect is that of the RDB file. The zero value is that of the backup: one that is a single RDB file is then written byte for byte, unless
	// something is selected or its expiries are changed. Shards makes a set of Dragonfly's (DFS) of as many shards instead, at most 1024, and so does Set
	// with Shards 0: of as many as the backup has, if it is such a set itself, else of 4. Of a backup that is a set of as many shards the
	// files are written byte for byte, too: with the commands of a live Dragonfly's journal, which are a loss of any other file.
	Dialect rdb.Dialect
	Shards  int
	Set     bool

	// Key is that of the file in a store, such as "exports/orders.rdb", or the name of the set without what follows it in its files' names.
	// The store is To, which stays the caller's, else that of Config.Stores which is called Store, else Config.Store. Nothing is replaced unless
	// Replace says so. With SignFor the report has URLs that read the files for so long, and which are secrets; a store that
	// can't make any is refused with an error that wraps errors.ErrUnsupported, before anything is written.
	Key     string
	To      storage.Store
	Store   string
	Replace bool
	SignFor time.Duration

	// Writer takes the file, which is whole only if Export returns nil. It stays the caller's; a Write that waits when the export ends is left to
	// itself.
	Writer io.Writer

	// URL takes the file by HTTP PUT, whose size is told before. It may be signed: its query is told to nobody. Header goes along; Azure wants
	// "x-ms-blob-type: BlockBlob". Config.Web says what may be reached. S3 takes at most 5 GiB in this way.
	URL    string
	Header http.Header

	// What the following mean is told at RestoreRequest. Of what is converted, keys that have expired are left out; of what is not, they aren't.
	Expiry restore.Expiry
	Select restore.Selection
	Accept []string

	// Progress is called about five times a second, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// An ExportReport says what an export wrote.
type ExportReport struct {
	*restore.Report               // Target is the last file, or the URL without its query; Method is "dumpfile", "writer" or "put"
	Store           string        `json:"store,omitempty"` // the name of the store, if it has one
	Files           []ExportFile  `json:"files"`           // in the order in which they were written
	Took            time.Duration `json:"took"`            // in nanoseconds
}

// An ExportFile is one file of an export.
type ExportFile struct {
	Key    string `json:"key,omitempty"` // in the store; empty where there is none
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`        // in hexadecimal
	URL    string `json:"url,omitempty"` // reads it until its time is over; a secret
}

// Export writes a backup as a file that a server loads, of its own dialect or another one, or as a set of such files: a restore whose target is
// that file, which is planned, converted and proved like one. All of the backup is proved before the first byte is written. If
// several stores have the backup, the first copy that verifies is taken.
//
// See restore.Restorer.Restore for what the errors wrap: what the dialect can't hold has to be accepted, and a file that is there is refused with
// restore.ErrNotEmpty. A file appears in its store when it is whole, of a set the summary last; once something was changed there, every
// error is a *restore.PartialError, and it is one too when a writer got bytes of a file that isn't whole, or a server may have taken it and
// didn't say so. Cancelling ctx ends an export within a second.
func (s *Service) Export(ctx context.Context, q ExportRequest) (*ExportReport, error) {
	out, err := s.exportTarget(ctx, &q)
	if err != nil {
		return nil, err
	}
	watch := s.watch(ctx, Event{Operation: "export", Backup: q.Backup}, q.Progress)
	rep, err := s.export(ctx, out, &q, watch)
	if err != nil {
		watch.end(0, 0, err)
		return nil, err
	}
	rep.Took = s.now().Sub(watch.start)
	s.cfg.Logger.InfoContext(ctx, "backup is exported", "backup", q.Backup, "target", rep.Target, "dialect", rep.Dialect, "keys", rep.Keys, "bytes", rep.Bytes, "duration", rep.Took)
	watch.end(rep.Keys, rep.Bytes, nil)
	return rep, nil
}

func (s *Service) export(ctx context.Context, out *exportTarget, q *ExportRequest, watch *watch) (*ExportReport, error) {
	opts := &restore.Options{Expiry: q.Expiry, Select: q.Select, Accept: q.Accept, Compare: restore.CompareNone, Progress: watch.restore}
	if q.Replace {
		opts.Conflict = restore.Replace
	}
	var rep *restore.Report
	err := s.withCopy(ctx, q.Backup, func(at *place, b *catalog.Backup) (err error) {
		watch.about(at, b)
		if rep, err = at.restorer.Restore(ctx, b.ID, out.loader, opts); isBad(err) {
			s.cfg.Logger.WarnContext(ctx, "a copy of a backup can't be exported", "backup", b.ID, "store", at.Name, "error", err)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("export of %s: %w", q.Backup, err)
	}
	all := &ExportReport{Report: rep, Store: q.Store, Files: out.files()}
	for i := range all.Files {
		if f := &all.Files[i]; q.SignFor > 0 {
			if f.URL, err = storage.SignGet(ctx, out.store, f.Key, q.SignFor); err != nil {
				return nil, fmt.Errorf("export of %s: %w", q.Backup, &restore.PartialError{Target: rep.Target, State: restore.TargetLoaded, Keys: rep.Keys,
					Err: fmt.Errorf("all is written, but there is no URL of %s: %w", f.Key, err)})
			}
		}
	}
	return all, nil
}

// exportTarget is where an export goes.
type exportTarget struct {
	loader restore.Loader
	files  func() []ExportFile
	store  storage.Store // nil if it goes to none
}

// exportTarget checks a request and makes its target.
func (s *Service) exportTarget(ctx context.Context, q *ExportRequest) (*exportTarget, error) {
	given := 0
	for _, has := range []bool{q.Key != "", q.Writer != nil, q.URL != ""} {
		if has {
			given++
		}
	}
	switch {
	case q.Backup == "":
		return nil, errors.New("amber: ExportRequest.Backup is required")
	case given != 1:
		return nil, errors.New("amber: of ExportRequest.Key, Writer and URL exactly one is required")
	case q.SignFor < 0:
		return nil, fmt.Errorf("amber: ExportRequest.SignFor is negative: %v", q.SignFor)
	case q.Key == "" && (q.To != nil || q.Store != "" || q.Replace || q.SignFor != 0):
		return nil, errors.New("amber: ExportRequest.To, Store, Replace and SignFor are for a Key")
	case q.To != nil && q.Store != "":
		return nil, errors.New("amber: ExportRequest.To and Store exclude each other")
	case q.URL == "" && q.Header != nil:
		return nil, errors.New("amber: ExportRequest.Header is for a URL")
	case q.Key == "" && (q.Shards != 0 || q.Set):
		return nil, errors.New("amber: ExportRequest.Shards and Set make several files, which need a Key")
	case q.Key != "":
		return s.exportToStore(ctx, q)
	}
	if q.Dialect != (rdb.Dialect{}) {
		if _, err := rdb.NewWriter(io.Discard, q.Dialect, nil); err != nil {
			return nil, fmt.Errorf("amber: ExportRequest.Dialect: %w", err)
		}
	}
	l := &sender{dialect: q.Dialect, method: "writer", target: "the writer", to: &writerTarget{q.Writer}}
	if q.URL != "" {
		u, err := url.Parse(q.URL)
		if err != nil || u.Host == "" {
			return nil, errors.New("amber: ExportRequest.URL is not a URL") // without what was parsed, which may be a secret
		}
		l.method, l.target = "put", (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
		l.to = &urlTarget{policy: s.cfg.Web, url: q.URL, header: q.Header}
	}
	return &exportTarget{loader: l, files: l.files}, nil
}

func (s *Service) exportToStore(ctx context.Context, q *ExportRequest) (*exportTarget, error) {
	if catalog.Reserved(q.Key) {
		return nil, fmt.Errorf("amber: ExportRequest.Key %q is one that Amber has itself: choose another, such as exports/orders.rdb", q.Key)
	}
	store := q.To
	if store == nil {
		at, err := s.place(q.Store)
		if err != nil {
			return nil, err
		}
		store = at.Store
	} else if _, ok := store.(*retry.Store); !ok {
		store = retry.New(store, &retry.Options{Logger: s.cfg.Logger})
	}
	if q.SignFor > 0 { // whether there are URLs has to be known before, and how long they last begins after
		if _, err := storage.SignGet(ctx, store, q.Key, q.SignFor); err != nil {
			return nil, fmt.Errorf("export to %s: %w", q.Key, err)
		}
	}
	hashed := &hashedStore{Store: store}
	loader, err := dumpfile.New(dumpfile.Config{Store: hashed, Name: q.Key, Dialect: q.Dialect, Shards: q.Shards, Set: q.Set, Verbatim: true, TempDir: s.cfg.TempDir, Now: s.cfg.Now})
	if err != nil {
		return nil, fmt.Errorf("amber: ExportRequest: %w", err)
	}
	return &exportTarget{loader: loader, files: hashed.files, store: store}, nil
}
