package dumpfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/rdb/aof"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/retry"
)

// heldCommand is how many bytes of a command are held to see where it ends.
const heldCommand = 64 << 10

// An aofSet are the files of a snapshot while it is taken, opened.
type aofSet struct {
	store   storage.Store
	sn      *aofSnapshot
	dir     string
	members []*aofMember
}

// An aofMember is a file, opened as often as it is to be read.
type aofMember struct {
	key  string
	kind aof.Type
	last bool         // it may grow, and its end may be cut off
	info storage.Info // how it was when it was opened

	read *pinned // for its part, or the first of two
	scan *pinned // to find out where it is whole; nil: that is where it ends
	tail *pinned // for what follows an RDB file; nil: nothing can
}

// pin opens a file as often as it will be read.
func (s *aofSet) pin(key string, kind aof.Type, last bool) error {
	if err := storage.ValidKey(key); err != nil {
		return fmt.Errorf("its manifest names a file that no store can have: %w", err)
	}
	m := &aofMember{key: key, kind: kind, last: last}
	// The size that counts is that of what is opened first. If that doesn't tell, the size before is one that all have: the file only grows.
	var err error
	if m.info, err = s.store.Stat(s.sn.ctx, key); err != nil {
		return err
	}
	if m.read, err = s.open(key); err != nil {
		return err
	}
	if info, ok := storage.VersionOf(m.read.in); ok {
		m.info = info
	}
	// A base that isn't called one is what Redis 7.0 took over from an older one: it may be an RDB file with commands behind it.
	old := kind == aof.Base && !strings.HasSuffix(key, ".base.rdb") && !strings.HasSuffix(key, ".base.aof")
	if last && !strings.HasSuffix(key, ".base.rdb") || old {
		if m.scan, err = s.open(key); err != nil {
			return err
		}
	}
	if old {
		if m.tail, err = s.open(key); err != nil {
			return err
		}
	}
	s.members = append(s.members, m)
	return nil
}

// open opens a file for as long as the snapshot lasts.
func (s *aofSet) open(key string) (*pinned, error) {
	p := &pinned{}
	p.ctx, p.cancel = context.WithCancelCause(s.sn.ctx)
	var err error
	if p.in, err = s.store.Open(p.ctx, key, 0, -1); err != nil {
		p.cancel(errClosed)
		return nil, err
	}
	s.sn.pinned = append(s.sn.pinned, p)
	return p, nil
}

// sameVersion makes sure that the single file was not replaced between two times that it was opened: a rewrite of Redis 6.2 gives its new file the name of the old one.
func (s *aofSet) sameVersion() error {
	m := s.members[0]
	begin, err := m.read.look()
	if err != nil {
		return err
	}
	for _, p := range []*pinned{m.scan, m.tail} {
		other, err := p.look()
		if err != nil {
			return err
		}
		if n := min(len(begin), len(other)); !bytes.Equal(begin[:n], other[:n]) {
			return fmt.Errorf("%w: it was rewritten", ErrChanged)
		}
	}
	return nil
}

// divide makes parts of the files.
func (s *aofSet) divide(ctx context.Context, log *slog.Logger) error {
	src := &s.sn.source
	src.Method = methodAOF
	for i, m := range s.members {
		if t := m.info.ModTime.UTC().Truncate(time.Second); t.After(src.Time) {
			src.Time = t
		}
		size, preamble := m.info.Size, int64(0)
		if size == 0 {
			continue
		}
		h, err := m.read.head()
		if err != nil {
			return changed(fmt.Errorf("%s: %w", path.Base(m.key), err))
		}
		if i == 0 {
			src.Engine, src.Version = h.engine, h.version
			if h.time.After(src.Time) {
				src.Time = h.time
			}
		}
		if m.scan != nil {
			var err error
			if size, preamble, err = m.whole(src.Time, func(t time.Time) { src.Time = t }); err != nil {
				return changed(fmt.Errorf("%s: %w", path.Base(m.key), err))
			}
			if size < m.info.Size {
				log.InfoContext(ctx, "the end of an append-only file is left out, of which a command or transaction is not whole", "file", m.key, "size", m.info.Size, "whole", size)
			}
			if m.kind == aof.Base && preamble == 0 && h.ofRDB() {
				return fmt.Errorf("%s: %w: it begins as an RDB file and isn't one", path.Base(m.key), aof.ErrCorrupt)
			}
		}
		switch {
		case h.ofRDB() && m.kind != aof.Base:
			return fmt.Errorf("%s: %w: it is an increment, and begins as an RDB file", path.Base(m.key), aof.ErrCorrupt)
		case preamble > 0:
			s.sn.add(m, m.read, ".base.rdb", 0, preamble)
			s.sn.add(m, m.tail, ".incr.aof", preamble, size-preamble)
		case h.ofRDB():
			s.sn.add(m, m.read, ".base.rdb", 0, size)
		case m.kind == aof.Base:
			s.sn.add(m, m.read, ".base.aof", 0, size)
		default:
			s.sn.add(m, m.read, ".incr.aof", 0, size)
		}
	}
	if len(s.sn.order) == 0 {
		// A data store without anything, which has no part to say so.
		s.sn.add(nil, nil, ".base.aof", 0, int64(len(nothing)))
	}
	return nil
}

// nothing is an append-only file of a data store in which nothing is.
const nothing = "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n"

// ofRDB tells whether the file is an RDB file, at least at its beginning.
func (h *head) ofRDB() bool { return h.dialect.Version != 0 }

// whole reads the file and finds out up to where it is whole, and where its RDB preamble ends; 0: there is none.
func (m *aofMember) whole(latest time.Time, tell func(time.Time)) (size, preamble int64, err error) {
	in := aof.NewReader(io.LimitReader(m.scan, m.info.Size), &aof.Options{MaxHeld: heldCommand})
	pre, err := in.Preamble()
	if err != nil {
		return 0, 0, err
	}
	for err == nil {
		_, err = in.Next()
	}
	if err != io.EOF && !(m.last && errors.Is(err, aof.ErrTruncated)) {
		return 0, 0, err
	}
	if err == io.EOF && in.Offset() < m.info.Size {
		return 0, 0, fmt.Errorf("%w: it had %d bytes, and %d could be read", ErrChanged, m.info.Size, in.Offset())
	}
	if pre != nil {
		preamble = pre.Offset()
	}
	if t := in.Stats().Time; t.After(latest) {
		tell(t)
	}
	return in.Whole(), preamble, nil
}

// changed tells of an error of a store that an object was replaced or deleted while it was read.
func changed(err error) error {
	if !errors.Is(err, ErrChanged) && (errors.Is(err, retry.ErrChanged) || errors.Is(err, storage.ErrNotFound)) {
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}

// A pinned object was opened before it is read, and stays what it was then where its store allows that.
type pinned struct {
	in     io.ReadCloser
	ctx    context.Context // that it was opened in
	cancel context.CancelCauseFunc
	mu     sync.Mutex // of who reads it, and who lets go of it
	begin  []byte     // read already
	looked bool
}

func (p *pinned) Read(b []byte) (int, error) {
	if len(p.begin) > 0 {
		n := copy(b, p.begin)
		p.begin = p.begin[n:]
		return n, nil
	}
	return p.in.Read(b)
}

// look returns how the object begins, which is read again.
func (p *pinned) look() ([]byte, error) {
	if !p.looked {
		p.looked = true
		b := make([]byte, 4<<10)
		n, err := io.ReadFull(p.in, b)
		p.begin = b[:n]
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, err
		}
	}
	return p.begin, nil
}

// head reads what the object says of itself before its first key, which is read again.
func (p *pinned) head() (head, error) {
	rest := p.begin
	h, begin, err := readHead(p)
	// What was looked at before is the beginning of what was read now, unless less was.
	if len(begin) < len(rest) {
		begin = rest
	}
	p.begin = begin
	return h, err
}

// close lets go of the object.
func (p *pinned) close() {
	p.cancel(errClosed)
	p.in.Close()
}

// add adds a part; one that is empty is left out.
func (s *aofSnapshot) add(m *aofMember, from *pinned, ending string, begin, size int64) {
	if size == 0 {
		return
	}
	p := backup.Part{Name: fmt.Sprintf("%04d%s", len(s.order), ending), Size: size}
	s.order = append(s.order, p)
	s.parts[p.Name] = &aofPart{member: m, from: from, begin: begin, size: size}
}
