package command

import (
	"bytes"
	"strconv"

	srv "github.com/amberkv/amber/internal/target"
)

// A tagger finds short hash tags for slots.
type tagger struct {
	tags [srv.Slots]uint32 // a number whose decimal digits have the slot, plus one
	next uint32            // the first that wasn't looked at
}

// maxTag is the longest hash tag of a key that is used as it is.
const maxTag = 64

// appendTag appends a tag, with its braces, that lets a name share the slot of a key.
func (t *tagger) appendTag(b, key []byte) []byte {
	b = append(b, '{')
	if tag := tagOf(key); tag != nil && len(tag) <= maxTag {
		b = append(b, tag...)
	} else {
		b = t.appendDigits(b, srv.Slot(key))
	}
	return append(b, '}')
}

// tagOf returns what is between the first "{" of a key and the next "}", nil if there is nothing.
func tagOf(key []byte) []byte {
	if i := bytes.IndexByte(key, '{'); i >= 0 {
		if n := bytes.IndexByte(key[i+1:], '}'); n > 0 {
			return key[i+1 : i+1+n]
		}
	}
	return nil
}

// appendDigits appends digits that have a slot of their own.
func (t *tagger) appendDigits(b []byte, slot int) []byte {
	var digits [10]byte
	for t.tags[slot] == 0 {
		s := srv.Slot(strconv.AppendUint(digits[:0], uint64(t.next), 10))
		t.next++
		if t.tags[s] == 0 {
			t.tags[s] = t.next
		}
	}
	return strconv.AppendUint(b, uint64(t.tags[slot]-1), 10)
}
