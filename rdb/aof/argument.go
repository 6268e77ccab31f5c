package aof

import (
	"errors"
	"io"
)

// errNoArg is the error of Arg when there is nothing to read.
var errNoArg = errors.New("aof: the command has no argument that is still to be read")

// Arg begins the next of the arguments that Entry.Rest counts, and counts it off: it returns its size in bytes and a reader of it, which lasts until the next call
// of Arg or Next, and gives io.EOF only if the argument ends where its size says. What is left of the argument before is passed. The entry's Args are lost by it.
func (r *Reader) Arg() (size int64, data io.Reader, err error) {
	if r.err != nil {
		return 0, nil, r.err
	}
	r.pos += r.size
	r.size = 0
	r.entry.Args = r.entry.Args[:0]
	if r.arg.open && !r.arg.skip() {
		return 0, nil, r.err
	}
	if r.entry.Rest == 0 {
		return 0, nil, errNoArg
	}
	if !r.openArg() {
		return 0, nil, r.err
	}
	return r.arg.left, &r.arg, nil
}

// openArg reads the head of an argument that isn't held.
func (r *Reader) openArg() bool {
	n, at, ok := r.number(0, '$')
	if !ok {
		return false
	}
	r.pos += at
	r.entry.Rest--
	r.arg = argument{r: r, open: true, left: n}
	return true
}

// An argument is one that isn't held. Its bytes begin at the reader's pos.
type argument struct {
	r    *Reader
	open bool  // it isn't read to its end
	left int64 // in bytes
}

func (a *argument) Read(p []byte) (int, error) {
	switch {
	case a.r == nil || !a.open:
		return 0, io.EOF
	case a.r.err != nil:
		return 0, a.r.err
	case len(p) == 0:
		return 0, nil
	}
	r := a.r
	if a.left == 0 {
		if !a.close() {
			return 0, r.err
		}
		return 0, io.EOF
	}
	if r.pos == r.end && !r.more() {
		r.starved("an argument")
		return 0, r.err
	}
	n := copy(p[:min(int64(len(p)), a.left)], r.buf[r.pos:r.end])
	r.pos += n
	a.left -= int64(n)
	return n, nil
}

// skip passes what is left of it.
func (a *argument) skip() bool {
	r := a.r
	for a.left > 0 {
		if r.pos == r.end && !r.more() {
			return r.starved("an argument")
		}
		n := min(int64(r.end-r.pos), a.left)
		r.pos += int(n)
		a.left -= n
	}
	return a.close()
}

// close reads the end of the line.
func (a *argument) close() bool {
	r := a.r
	for r.end-r.pos < 2 {
		if !r.more() {
			return r.starved("an argument")
		}
	}
	if r.buf[r.pos] != '\r' || r.buf[r.pos+1] != '\n' {
		return r.corrupt(0, "an argument doesn't end where its length says")
	}
	r.pos += 2
	a.open = false
	if r.entry.Rest == 0 && !r.multi {
		r.whole = r.base + int64(r.pos)
	}
	return true
}
