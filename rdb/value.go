package rdb

import (
	"bytes"
	"io"
	"unsafe"
)

// Value returns the value of the entry that Next returned last as a whole: its elements, with pieces joined. The result is the
// caller's. It is for small values: one that would take more than limit bytes of memory is a *TooLargeError, and Next can go on. A negative
// limit means none.
//
// The other errors are those of Elements. A value can be read once.
func (r *Reader) Value(limit int) ([]Element, error) {
	if r.err == nil && r.frame == frameNone {
		return nil, ErrNoValue
	}
	out := []Element{}
	size, more := uint64(0), false
	for {
		e, err := r.Element()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		size += uint64(len(e.Value))
		if !more {
			size += uint64(unsafe.Sizeof(*e)) + uint64(len(e.Field))
			for _, f := range e.Fields {
				size += uint64(len(f)) + uint64(unsafe.Sizeof(f))
			}
		}
		if limit >= 0 && size > uint64(limit) {
			key, db := r.context()
			return nil, &TooLargeError{Offset: r.entry.Offset, Key: key, DB: db, What: "value as a whole", Size: size, Limit: int64(limit)}
		}
		if more {
			last := &out[len(out)-1]
			last.Value = append(last.Value, e.Value...)
		} else {
			own := *e
			own.Value, own.Field = bytes.Clone(e.Value), bytes.Clone(e.Field)
			if e.Fields != nil {
				own.Fields = make([][]byte, len(e.Fields))
				for i, f := range e.Fields {
					own.Fields[i] = append([]byte{}, f...)
				}
			}
			own.More = false
			if e.More {
				own.Left = 0
			}
			out = append(out, own)
		}
		more = e.More || e.Kind == ElementRaw
	}
}
