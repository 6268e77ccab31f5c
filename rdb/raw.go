package rdb

import (
	"encoding/binary"
	"io"
)

// footerLen is what ends a DUMP payload: two bytes of version, eight of checksum.
const footerLen = 10

// AppendRaw appends the value of the entry that Next returned last to dst, as the payload that the DUMP command would
// give: for RESTORE, or FUNCTION RESTORE if the entry is a function. The bytes of the value are those of the stream; the footer
// states the lowest RDB version that has its type, and so suits every server that knows the type.
//
// A payload of more than limit bytes is not kept: the error is then a *TooLargeError that tells its size, and Next can
// go on. A negative limit means none. The memory taken grows as bytes arrive, never by what a length in the stream claims.
//
// The value can be taken once: a second time, or without an entry that has one, the error is ErrNoValue. An
// *UnsupportedError says that the value can't leave its stream: it uses a hash template, or the entry is neither a key nor a function. After it Next
// can go on, too. All other errors are those of Next. On an error the result is dst as it was given.
func (r *Reader) AppendRaw(dst []byte, limit int) ([]byte, error) {
	if err := r.dumpable(); err != nil {
		return dst, err
	}
	r.tee = sink{dst: dst, limit: limit}
	size, err := r.dump()
	out := r.tee.dst
	r.tee = sink{}
	if err != nil {
		return dst, err
	}
	if limit >= 0 && size > int64(limit) {
		key, db := r.context()
		return dst, &TooLargeError{Offset: r.entry.Offset, Key: key, DB: db, What: "DUMP payload", Size: uint64(size), Limit: int64(limit)}
	}
	return out, nil
}

// WriteRaw writes the same payload as AppendRaw to w while it reads it, whatever its size, and returns the number of
// bytes written. w must not keep the slices that it is given. An error of w is returned wrapped; it ends the reader, as the value was
// not read to its end.
func (r *Reader) WriteRaw(w io.Writer) (int64, error) {
	if err := r.dumpable(); err != nil {
		return 0, err
	}
	r.tee = sink{w: w}
	size, err := r.dump()
	r.tee = sink{}
	return size, err
}

// dumpable tells whether there is a value that makes a DUMP payload.
func (r *Reader) dumpable() error {
	if r.err != nil && r.err != io.EOF {
		return r.err
	}
	e := &r.entry
	what := ""
	switch {
	case e.Kind != KindKey && e.Kind != KindFunction && e.Kind != 0 && r.err == nil:
		what = "entry of kind " + e.Kind.String() + " has no DUMP payload"
	case r.frame == frameNone:
		return ErrNoValue
	case r.since == 0:
		what = "the hash refers to a template elsewhere in the stream, which a DUMP payload can't carry"
	default:
		return nil
	}
	key, db := r.context()
	return &UnsupportedError{Offset: e.Offset, Key: key, DB: db, What: what}
}

// dump sends the payload to the tee and returns its size.
func (r *Reader) dump() (int64, error) {
	f := r.frame
	r.frame = frameNone
	r.tee.take(r.entry.Meta)
	r.small[0] = r.entry.Encoding
	r.tee.take(r.small[:1])
	r.startTee()
	ok := r.skipValue(f)
	r.stopTee()
	if ok {
		footer := r.small[:footerLen]
		binary.LittleEndian.PutUint16(footer, uint16(max(r.since, minFooter)))
		r.tee.take(footer[:2])
		binary.LittleEndian.PutUint64(footer[2:], r.tee.sum)
		r.tee.take(footer[2:])
	}
	if r.tee.err != nil && r.err == nil {
		r.starved()
	}
	return r.tee.size, r.err
}

// startTee gives the tee what is consumed from here on.
func (r *Reader) startTee() { r.teeing, r.teeFrom = true, r.pos }

// stopTee ends that and returns how many bytes the tee took in all.
func (r *Reader) stopTee() int64 {
	r.settle()
	r.teeing = false
	return r.tee.size
}
