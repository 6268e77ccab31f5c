package extsort

import (
	"errors"
	"fmt"
	"io"
)

// ErrNoSpace: memory is full, and there is no spool.
var ErrNoSpace = errors.New("extsort: there is more than fits in memory, and no spool for the rest")

// A Spool holds what has no room in memory. An *os.File is one.
type Spool interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// A Space is the room in one spool. Several sorters may share it, and bytes of other kinds. It is used by one goroutine.
type Space struct {
	open   func() (Spool, error)
	spool  Spool
	end    int64
	buffer []byte // of runs on their way out
}

// NewSpace returns a Space in the spool that open gives, which is called when it is first needed. A nil open makes every need of
// space an ErrNoSpace.
func NewSpace(open func() (Spool, error)) *Space { return &Space{open: open} }

// Append writes p behind all that is there and returns where. Consecutive calls write side by side.
func (s *Space) Append(p []byte) (at int64, err error) {
	at = s.end
	return at, s.write(p)
}

func (s *Space) write(p []byte) error {
	if s.spool == nil {
		if s.open == nil {
			return ErrNoSpace
		}
		spool, err := s.open()
		if err != nil {
			return fmt.Errorf("opening a spool: %w", err)
		}
		s.spool = spool
	}
	n, err := s.spool.WriteAt(p, s.end)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("writing to the spool: %w", err)
	}
	s.end += int64(n)
	return nil
}

// ReadAt fills p with what was written at a position.
func (s *Space) ReadAt(p []byte, at int64) error {
	if s.spool == nil || at < 0 || at+int64(len(p)) > s.end {
		return fmt.Errorf("reading the spool: %w", io.ErrUnexpectedEOF)
	}
	n, err := s.spool.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading the spool: %w", err)
}

// Reset forgets all that was written: the room is used again.
func (s *Space) Reset() { s.end = 0 }

// Close closes the spool if it was opened. What is behind it is the caller's.
func (s *Space) Close() error {
	if s.spool == nil {
		return nil
	}
	spool := s.spool
	s.spool = nil
	if err := spool.Close(); err != nil {
		return fmt.Errorf("closing the spool: %w", err)
	}
	return nil
}
