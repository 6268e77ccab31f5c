package rdb

import (
	"fmt"
	"io"
)

// The functions below set err and return false, so that they end what is being read.

func (r *Reader) context() (key string, db int) {
	if !r.keyed {
		return "", 0
	}
	return string(r.entry.Key), r.entry.DB
}

func (r *Reader) corrupt(why string) bool {
	key, db := r.context()
	if r.input == inputBlock {
		why += fmt.Sprintf(" (byte %d of the expanded block at this offset)", r.pos)
	}
	r.err = &CorruptError{Offset: r.offset(), Key: key, DB: db, Why: why}
	return false
}

func (r *Reader) unsupported(what string) bool {
	key, db := r.context()
	r.err = &UnsupportedError{Offset: r.offset(), Key: key, DB: db, What: what}
	return false
}

func (r *Reader) tooLarge(what string, size uint64) bool { return r.tooLargeFor(what, size, r.maxKey) }

func (r *Reader) tooLargeFor(what string, size uint64, limit int64) bool {
	key, db := r.context()
	r.err = &TooLargeError{Offset: r.offset(), Key: key, DB: db, What: what, Size: size, Limit: limit}
	return false
}

// starved says why there are no more bytes.
func (r *Reader) starved() bool {
	key, db := r.context()
	switch {
	case r.tee.err != nil:
		r.err = fmt.Errorf("rdb: writing a value%s: %w", ofKey(key, db), r.tee.err)
	case r.input != inputStream:
		r.err = r.endsNested()
	case r.srcErr == io.EOF:
		r.err = &CorruptError{Offset: r.base + int64(r.end), Key: key, DB: db, Err: io.ErrUnexpectedEOF,
			Why: "the stream ends here, before its end: it was cut, or a length in it is wrong"}
	default:
		r.err = fmt.Errorf("rdb: reading at byte %d: %w", r.base+int64(r.end), r.srcErr)
	}
	return false
}
