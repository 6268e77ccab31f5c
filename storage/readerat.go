package storage

import (
	"context"
	"errors"
	"io"
)

// NewReaderAt returns an object as an io.ReaderAt, such as seal.NewReaderAt takes. Each ReadAt opens the range that it is asked for, and no
// more; cancelling ctx ends it. It is safe for use by several goroutines, if the store is. An object that is replaced between two reads gives
// bytes of both.
func NewReaderAt(ctx context.Context, s Store, key string) io.ReaderAt {
	return &readerAt{ctx: ctx, store: s, key: key}
}

type readerAt struct {
	ctx   context.Context // io.ReaderAt has no room for it
	store Store
	key   string
}

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("the offset of a read is negative")
	}
	if len(p) == 0 {
		return 0, nil
	}
	in, err := r.store.Open(r.ctx, r.key, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer in.Close()
	n, err := io.ReadFull(in, p)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}
