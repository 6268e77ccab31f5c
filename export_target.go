package amber

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"

	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
)

// hashedStore tells what was written through it.
type hashedStore struct {
	storage.Store
	done []ExportFile
}

func (s *hashedStore) Unwrap() storage.Store { return s.Store }

func (s *hashedStore) files() []ExportFile { return s.done }

func (s *hashedStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := s.Store.Create(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return &hashedWriter{Writer: w, s: s, key: key, hash: sha256.New()}, nil
}

type hashedWriter struct {
	storage.Writer
	s    *hashedStore
	key  string
	hash hash.Hash
	n    int64
}

func (w *hashedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.hash.Write(p[:n])
	w.n += int64(n)
	return n, err
}

func (w *hashedWriter) Commit(ctx context.Context) (storage.Info, error) {
	info, err := w.Writer.Commit(ctx)
	if err == nil {
		w.s.done = append(w.s.done, ExportFile{Key: w.key, Bytes: w.n, SHA256: hex.EncodeToString(w.hash.Sum(nil))})
	}
	return info, err
}

// A sender is a restore.Loader that gives a file to somebody who only takes it.
type sender struct {
	dialect        rdb.Dialect
	method, target string
	to             receiver
	done           []ExportFile
}

// A receiver takes a file.
type receiver interface {
	// receive takes so many bytes, which open gives from the start each time it is called.
	receive(ctx context.Context, size int64, open func() (io.ReadCloser, error)) error
	// left says what is there after an error: nil, if that is nothing. Of the file some or all was read.
	left(err error, some, all bool) *restore.PartialError
}

// Check asks for one stream. What takes it can't be looked at.
func (l *sender) Check(_ context.Context, need restore.Requirements) (restore.Verdict, error) {
	v := restore.Verdict{Dialect: l.dialect, OneStream: true, Verbatim: true}
	if need.Backup == nil {
		return v, errors.New("amber: there is no manifest of the backup to look at")
	}
	v.Pass("empty", "%s takes one file, whatever it held before", l.target)
	return v, nil
}

// Load sends the file.
func (l *sender) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	start := clock.System()
	b := src.Backup()
	p := b.Parts[0]
	out := &sending{total: p.RawSize, progress: opts.Progress}
	err := l.to.receive(ctx, p.RawSize, func() (io.ReadCloser, error) {
		in, err := src.Open(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("opening part %s: %w", p.Name, err)
		}
		return &try{ReadCloser: in, of: out, hash: sha256.New()}, nil
	})
	out.mu.Lock()
	defer out.mu.Unlock()
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		if partial := l.to.left(err, out.some, out.all); partial != nil {
			partial.Target, partial.Err = l.target, err
			return nil, partial
		}
		return nil, err
	}
	l.done = []ExportFile{{Bytes: p.RawSize, SHA256: out.sum}}
	return &restore.Report{Backup: b.ID, Target: l.target, Method: l.method, Dialect: p.Dialect, Keys: b.Keys, Functions: b.Functions, DBs: b.DBs,
		Bytes: p.RawSize, Load: clock.Since(start)}, nil
}

func (l *sender) files() []ExportFile { return l.done }

// sending is what is known of all tries to send a file. Whoever sends may have given one up that still reads.
type sending struct {
	total    int64
	progress func(restore.Progress)

	mu        sync.Mutex
	some, all bool   // of the file was read, by one of them
	sum       string // SHA-256 of the file
}

// A try hashes what is read of the file.
type try struct {
	io.ReadCloser
	of      *sending
	hash    hash.Hash
	n, told int64
}

func (r *try) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.hash.Write(p[:n])
	r.n += int64(n)
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.of.some = r.of.some || n > 0
	if err == io.EOF {
		r.of.all, r.of.sum = true, hex.EncodeToString(r.hash.Sum(nil))
	}
	if r.of.progress != nil && (r.n-r.told >= 4<<20 || err == io.EOF) {
		r.told = r.n
		r.of.progress(restore.Progress{Stage: restore.StageLoad, Bytes: r.n, Total: r.of.total})
	}
	return n, err
}

// writerTarget is an io.Writer.
type writerTarget struct{ w io.Writer }

// receive writes in a goroutine of its own, for a Write may wait for as long as it likes.
func (t *writerTarget) receive(ctx context.Context, size int64, open func() (io.ReadCloser, error)) error {
	in, err := open()
	if err != nil {
		return err
	}
	defer in.Close()
	type piece struct {
		n   int
		err error
	}
	done := make(chan piece, 1)
	buf := make([]byte, 256<<10)
	var total int64
	for {
		n, readErr := in.Read(buf)
		if total += int64(n); total > size {
			return fmt.Errorf("the file is larger than the %d bytes that it was found to have", size)
		}
		if n > 0 {
			go func(p []byte) {
				n, err := t.w.Write(p)
				done <- piece{n, err}
			}(buf[:n])
			select {
			case wrote := <-done:
				if wrote.err == nil && wrote.n < n {
					wrote.err = io.ErrShortWrite
				}
				if wrote.err != nil {
					return fmt.Errorf("writing the file: %w", wrote.err)
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		switch {
		case readErr == io.EOF && total < size:
			return fmt.Errorf("the file has %d bytes instead of the %d that it was found to have", total, size)
		case readErr == io.EOF:
			return nil
		case readErr != nil:
			return readErr
		}
	}
}

func (t *writerTarget) left(_ error, some, _ bool) *restore.PartialError {
	if !some {
		return nil
	}
	return &restore.PartialError{State: restore.TargetPartial, Keys: -1, Detail: "it was given the beginning of a file, which is of no use"}
}

// urlTarget is a URL that takes a file by PUT.
type urlTarget struct {
	policy fetch.Policy
	url    string
	header http.Header
}

func (t *urlTarget) receive(ctx context.Context, size int64, open func() (io.ReadCloser, error)) error {
	return fetch.Put(ctx, t.policy, t.url, size, open, &fetch.PutOptions{Header: t.header})
}

// left: a server keeps no object of which it didn't get all, nor one that it refused.
func (t *urlTarget) left(err error, _, all bool) *restore.PartialError {
	var refused *fetch.Error
	if !all || errors.As(err, &refused) && refused.Status/100 == 4 {
		return nil
	}
	return &restore.PartialError{State: restore.TargetUnknown, Keys: -1, Detail: "it was sent all of the file: if it took it, it is whole"}
}
