package command

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"

	"github.com/amberkv/amber/rdb"
)

// The latest expiry of a hash field that HPEXPIREAT takes, in Unix milliseconds, and the longest that Dragonfly's commands take, in
// seconds. What is beyond gets these, and is counted as a loss.
const (
	latestFieldExpiry = 1<<46 - 1
	longestSeconds    = 1<<28 - 1
)

// makeString sets a short string at once. A long one gets its full length first, by its last byte, and is then filled piece by piece: so the
// server finds memory for it once. With APPEND, which has it find more for each piece, 600 MB took four times as long.
func (b *rebuilder) makeString(elements iter.Seq2[*rdb.Element, error]) error {
	size, at, room := int64(-1), int64(0), int64(0) // of all, what was sent, and what is left of the command
	for e, err := range elements {
		if err != nil {
			return err
		}
		p := e.Value
		if size < 0 {
			size = int64(len(p))
			if e.More {
				size += e.Left
			}
			if err := b.fits(size, "string"); err != nil {
				return err
			}
			if size <= pieceBytes {
				b.command(3, "SET")
				b.buf = appendHead(b.buf, '$', size)
				room = size
			} else {
				b.command(4, "SETRANGE")
				b.number(size - 1)
				b.word("0")
			}
		}
		if int64(len(p)) > size-at {
			return fmt.Errorf("the string in db %d, key %.128q, is longer than its first piece says", b.entry.DB, b.entry.Key)
		}
		for len(p) > 0 {
			if room == 0 {
				b.command(4, "SETRANGE")
				b.number(at)
				room = min(size-at, pieceBytes)
				b.buf = appendHead(b.buf, '$', room)
			}
			n := min(int64(len(p)), room)
			b.buf = append(b.buf, p[:n]...)
			p, room, at = p[n:], room-n, at+n
			if room == 0 && at < size {
				b.buf = append(b.buf, '\r', '\n')
				if err := b.flush(); err != nil {
					return err
				}
			}
		}
	}
	if size < 0 || at < size {
		return b.cut()
	}
	b.buf = append(b.buf, '\r', '\n') // behind the last piece, which may be empty
	return nil
}

func (b *rebuilder) makeList(elements iter.Seq2[*rdb.Element, error]) error {
	for e, err := range elements {
		if err != nil {
			return err
		}
		if !b.inside {
			if err := b.next("RPUSH", 1); err != nil {
				return err
			}
		}
		if err := b.piece(e, "list item"); err != nil {
			return err
		}
	}
	return nil
}

func (b *rebuilder) makeZSet(elements iter.Seq2[*rdb.Element, error]) error {
	for e, err := range elements {
		if err != nil {
			return err
		}
		if math.IsNaN(e.Score) {
			return fmt.Errorf("a member of the sorted set in db %d, key %.128q, has a score that is not a number: no server takes it", b.entry.DB, b.entry.Key)
		}
		if err := b.fits(int64(len(e.Value)), "sorted set member"); err != nil {
			return err
		}
		if err := b.next("ZADD", 2); err != nil {
			return err
		}
		b.arg(appendScore(b.text[:0], e.Score))
		b.arg(e.Value)
	}
	return nil
}

// appendScore appends the shortest text that servers read as exactly this number.
func appendScore(b []byte, f float64) []byte {
	switch n := int64(f); {
	case math.IsInf(f, 1):
		return append(b, "inf"...)
	case math.IsInf(f, -1):
		return append(b, "-inf"...)
	case f > -1e15 && f < 1e15 && float64(n) == f && (n != 0 || !math.Signbit(f)):
		return appendInt(b, n)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

// makeSet adds the members; those that expire by SADDEX, together with the others that are due at the same second.
func (b *rebuilder) makeSet(elements iter.Seq2[*rdb.Element, error]) error {
	lasting := false
	for e, err := range elements {
		if err != nil {
			return err
		}
		if err := b.fits(int64(len(e.Value)), "set member"); err != nil {
			return err
		}
		if e.ExpireAt == 0 || !b.caps.saddex {
			if e.ExpireAt != 0 {
				b.lose(rdb.LossMemberExpiry, 1)
			}
			lasting = true
			if err := b.next("SADD", 1); err != nil {
				return err
			}
			b.arg(e.Value)
			continue
		}
		seconds, ok := b.seconds(e.ExpireAt, rdb.LossMemberExpiry)
		if !ok {
			continue
		}
		if len(b.due) == batchElements || len(b.later) >= batchBytes {
			if err := b.finish(); err != nil {
				return err
			}
		}
		from := len(b.later)
		b.later = appendArg(b.later, e.Value)
		b.due = append(b.due, due{seconds, from, len(b.later)})
	}
	b.mayVanish = !lasting
	return nil
}

// makeHash sets the fields, and after each batch when those of it expire: so what has to be remembered is one batch. Fields that have
// expired already are set, too, and deleted by the target in the next command, because it is the target's clock that counts.
func (b *rebuilder) makeHash(elements iter.Seq2[*rdb.Element, error]) error {
	name := "HSET"
	if !b.caps.hset {
		name = "HMSET"
	}
	lasting, skip := false, false
	for e, err := range elements {
		if err != nil {
			return err
		}
		if b.inside {
			if err := b.piece(e, "value of a hash field"); err != nil {
				return err
			}
			continue
		}
		if skip {
			skip = e.More
			continue
		}
		if err := b.fits(int64(len(e.Field)), "name of a hash field"); err != nil {
			return err
		}
		at := e.ExpireAt
		switch {
		case at == 0:
			lasting = true
		case b.putOff != nil:
			exact := false
			if at, exact = b.putOff(at); !exact {
				b.lose(rdb.LossFieldExpiry, 1)
			}
			lasting = true
		case b.caps.hpexpireat:
			if at <= b.millis() {
				b.expired++
			}
			if at > latestFieldExpiry {
				b.lose(rdb.LossFieldExpiry, 1)
				at = latestFieldExpiry
			}
		case b.caps.hexpire:
			var ok bool
			if at, ok = b.seconds(at, rdb.LossFieldExpiry); !ok {
				skip = e.More
				continue
			}
		default:
			b.lose(rdb.LossFieldExpiry, 1)
			lasting, at = true, 0
		}
		if err := b.next(name, 2); err != nil {
			return err
		}
		from := len(b.buf)
		b.arg(e.Field)
		if at != 0 {
			b.due = append(b.due, due{at, from, len(b.buf)})
		}
		if err := b.piece(e, "value of a hash field"); err != nil {
			return err
		}
	}
	b.mayVanish = !lasting
	return nil
}

// seconds tells in how many an element expires, at least 1. It returns false if that has passed: such an element is not sent.
func (b *rebuilder) seconds(at int64, kind rdb.Loss) (int64, bool) {
	now := b.millis()
	if at <= now {
		b.expired++
		return 0, false
	}
	seconds := (at - now + 999) / 1000
	if seconds > longestSeconds {
		b.lose(kind, 1)
		seconds = longestSeconds
	}
	return seconds, true
}

// next makes room for n more arguments in a command of many elements.
func (b *rebuilder) next(name string, n int) error {
	if b.open && (b.args > n*batchElements || b.full()) {
		if err := b.finish(); err != nil {
			return err
		}
	}
	if !b.open {
		b.openCommand(name)
	}
	b.args += n
	return nil
}

// finish emits the elements collected so far, and after them when those that are due expire: together where that is at the same time.
func (b *rebuilder) finish() error {
	b.close()
	all := b.due
	slices.SortFunc(all, func(x, y due) int { return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.from, y.from)) })
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].at == all[0].at {
			n++
		}
		b.expire(all[:n])
		all = all[n:]
	}
	b.later, b.due = b.later[:0], b.due[:0]
	if cap(b.later) > keepBytes {
		b.later = nil
	}
	return b.flush()
}

// expire makes the command for elements that expire at the same time.
func (b *rebuilder) expire(group []due) {
	if b.entry.Type == rdb.TypeSet {
		b.command(3+len(group), "SADDEX")
		b.number(group[0].at)
		for _, d := range group {
			b.buf = append(b.buf, b.later[d.from:d.end]...)
		}
		return
	}
	name := "HPEXPIREAT"
	if !b.caps.hpexpireat {
		name = "HEXPIRE"
	}
	b.command(5+len(group), name)
	b.number(group[0].at)
	b.word("FIELDS")
	b.number(int64(len(group)))
	for _, d := range group {
		b.buf = append(b.buf, b.buf[d.from:d.end]...)
	}
}
