package scan

import (
	"fmt"
	"math"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
)

// What is likely a string is read with MGET: DUMP compresses each value and makes a checksum of it, so that a string costs a server two to five times as much. MGET answers
// null for a key of another type, which is then read with DUMP; that has cost 0.7 µs more.

// likely tells which keys are strings, by their names without digits: those of one kind are mostly of one type. For each class of names that is a number of 0 to 3, which those
// that were read last have made.
type likely [4096]uint8

// class returns the class of a name.
func (l *likely) class(name []byte) *uint8 {
	h := uint32(2166136261) // FNV-1a
	for _, c := range name[:min(len(name), 64)] {
		if c < '0' || c > '9' {
			h = (h ^ uint32(c)) * 16777619
		}
	}
	return &l[(h^h>>12^h>>24)%uint32(len(l))]
}

func (l *likely) isString(name []byte) bool { return *l.class(name) >= 2 }

// learn takes note of what a key was.
func (l *likely) learn(name []byte, isString bool) {
	switch n := l.class(name); {
	case isString && *n < 3:
		*n++
	case !isString && *n > 0:
		*n--
	}
}

// list takes the names of a page as those to be asked for: strings apart from others.
func (sc *scanner) list(p *page) {
	if sc.node.mget {
		strings := sc.newPage()
		strings.strings = true
		p.keep(func(name []byte) bool {
			if !sc.likely.isString(name) {
				return true
			}
			strings.add(name)
			return false
		})
		sc.enqueue(strings)
	}
	sc.enqueue(p)
}

// enqueue makes the names of a page be asked for.
func (sc *scanner) enqueue(p *page) {
	if p.len() == 0 {
		sc.recycle(p)
		return
	}
	sc.pages = append(sc.pages, p)
}

// noExpiry stands for an expiry that was refused.
const noExpiry = math.MinInt64

// plainStrings says whether all that belongs to a string is what MGET answers: since Redis 8.6 a key may have metadata, which only DUMP tells.
func plainStrings(d rdb.Dialect) bool {
	return d.Family == rdb.Valkey || d.Family == rdb.Redis && d.Version < 13
}

// askStrings sends the commands that read keys that may be strings. The expiries come first, for in a stream they stand before the value.
func (sc *scanner) askStrings(out []byte, r request) []byte {
	for i := r.from; i < r.to; i++ {
		out = sc.askExpiry(out, r.page.name(i))
	}
	out = append(out, '*')
	out = append(appendNumber(out, r.to-r.from+1), "$4\r\nMGET\r\n"...)
	for i := r.from; i < r.to; i++ {
		out = appendArg(append(out, '$'), r.page.name(i))
	}
	return out
}

// answerStrings reads what a transaction says of keys that may be strings.
func (sc *scanner) answerStrings(r request, now int64) error {
	w := sc.wire
	sc.expiries = sc.expiries[:0]
	for i := r.from; i < r.to; i++ {
		expiry, err := w.want(resp.Integer)
		if err != nil {
			if err := sc.refuse(i, err); err != nil {
				return err
			}
			expiry = noExpiry
		}
		sc.expiries = append(sc.expiries, expiry)
	}
	n, err := w.want(resp.Array)
	if err != nil {
		// Nobody knows of which key that is said: each tells by itself.
		if err := sc.refuse(-1, err); err != nil {
			return err
		}
		sc.refused = sc.refused[:0]
		for i := r.from; i < r.to; i++ {
			sc.askAgain(request{page: r.page, from: i, to: i + 1})
		}
		return nil
	}
	if n != int64(r.to-r.from) {
		return w.bad(fmt.Sprintf("an answer to MGET with %d elements of %d", n, r.to-r.from))
	}
	for i := r.from; i < r.to; i++ {
		if err := sc.answerString(r.page.name(i), i, sc.expiries[i-r.from], now); err != nil {
			return err
		}
		sc.answered()
	}
	return nil
}

// answerString reads one value of an answer to MGET, and writes the key.
func (sc *scanner) answerString(name []byte, i int, expiry, now int64) error {
	size, err := sc.wire.want(resp.Bulk)
	switch {
	case err != nil:
		return err // there are none within such an answer
	case expiry == noExpiry: // which is settled by itself
		if size < 0 {
			return nil
		}
		return sc.skip(size)
	case size < 0 && expiry == -2:
		sc.counts.Gone++
		return nil
	case size < 0:
		if sc.others == nil {
			sc.others = sc.newPage()
		}
		sc.others.add(name)
		return nil
	case expiry < -1: // no transaction gives that
		sc.refused = append(sc.refused, refusal{i, "TRYAGAIN the key has a value and no time to live"})
		return sc.skip(size)
	}
	sc.likely.learn(name, true)
	if sc.node.old && expiry >= 0 {
		expiry += now
	}
	sc.measure(size)
	return sc.writeString(name, expiry, size)
}

// writeString writes a key while its value comes in. What is handed on before the value's end can't be taken back.
func (sc *scanner) writeString(name []byte, expiry, size int64) error {
	o := sc.out
	if err := o.room(int(min(32+int64(len(name))+size, chunkSize))); err != nil {
		return err
	}
	mark, handed := len(o.buf), o.n
	sc.compare(name, codeString)
	sc.begin(name, expiry, codeString)
	o.buf = appendLength(o.buf, uint64(size))
	err := sc.pour(size, func([]byte) {})
	if err == nil {
		err = sc.wire.end()
	}
	if err != nil {
		sc.cutOff(name, codeString, mark, handed)
	}
	return err
}
