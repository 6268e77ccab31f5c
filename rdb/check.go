package rdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/internal/distinct"
)

// CheckOptions are the rare choices of Check. The zero value means the defaults.
type CheckOptions struct {
	// Databases is how many databases the server has that is to load the stream: a key or a hint for a database of a higher index is
	// wrong then. 0 means any number.
	Databases int

	// MaxHeld is how many bytes of memory Check uses, half for keys and half for the members or fields of one value, to find out
	// whether anything is there twice; tables take up to 2 MiB more. A string takes 16 bytes. 0 means 4 MiB.
	MaxHeld int
	// Spool gives room for what is beyond MaxHeld, 16 bytes a key; it is asked for at most once, and Check closes it, but doesn't
	// remove what is behind it.
	Spool func() (Spool, error)
}

// Check reads a stream to its end and tells whether servers load it: it decodes every value and is as strict as any
// server of the stream's family is when it loads or later uses what it loaded. Beyond what makes Next and Element fail, a
// stream is wrong if
//
//   - a key is there twice in a database, a member or field twice in a value, a group, consumer, pending entry or producer twice in
//     a stream
//   - a list, set, sorted set or hash is empty
//   - a score is not a number, or a packed sorted set isn't in the order of scores and members
//   - a packed hash with expiries isn't in their order, those without one last
//   - the ids of a stream don't ascend, lie before that of their node or behind the last one, or it has not as many entries as it says
//   - a consumer owns what isn't pending in its group, or a pending entry has no owner or several
//   - an expiry, a database, a cluster slot, the settings of a stream or of a filter are none that a server can have
//   - a document of Dragonfly is no JSON
//
// The first that is wrong is the error, a *CorruptError with its offset, key and reason. Of keys that are there twice among more
// than 32768, and of members of very large values, it is told when all were read.
//
// If there is no Spool and more strings than MaxHeld has room for have to be compared with each other, the stream is read to its
// end all the same; if nothing else is wrong the error is a *TooLargeError then: what is there twice may not have been
// found. All other errors are those of Next, and of the Spool.
//
// In a stream that has commands of a journal, as Dragonfly sends it to replicas, a key may be there twice: it was changed
// meanwhile.
//
// The contents of module values and of functions are nothing that can be checked without the server.
func Check(r *Reader, opts *CheckOptions) error {
	c := NewChecker(opts)
	err := c.Check(r)
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}

// A Checker is Check for the streams of one snapshot, such as the shards of a cluster: no key may be in two of them
// either. It is used by one goroutine.
type Checker struct {
	r     *Reader
	opts  CheckOptions
	spool Spool
	err   error

	keys    *distinct.Set // of all databases
	db      int           // whose scope keys is in
	before  int64         // bytes of the streams before this one
	ends    []int64       // of each stream, in bytes of all
	journal bool          // the streams aren't of one moment: a key that is there twice was changed meanwhile
	members *distinct.Set // of one value
	full    *TooLargeError

	pairs   scoreOrder
	stream  streamChecker
	json    jsonChecker
	hinted  uint64 // keys that the stream says it has, in the database of which it said most
	scratch []byte
}

// errChecked is the error of a Checker that is used after Close.
var errChecked = errors.New("rdb: the Checker is closed")

// NewChecker returns a Checker. A nil opts means the defaults.
func NewChecker(opts *CheckOptions) *Checker {
	c := &Checker{}
	if opts != nil {
		c.opts = *opts
	}
	if c.opts.MaxHeld <= 0 {
		c.opts.MaxHeld = 4 << 20
	}
	room := &distinct.Room{}
	if open := c.opts.Spool; open != nil {
		room.Open = func() (distinct.Store, error) {
			s, err := open()
			c.spool = s
			return s, err
		}
	}
	c.keys, c.members = distinct.New(c.opts.MaxHeld/2, room), distinct.New(c.opts.MaxHeld/2, room)
	c.keys.Begin(-1)
	return c
}

// Check checks the next stream, to its end. After an error the Checker can only be closed.
func (c *Checker) Check(r *Reader) error {
	if c.err == nil {
		c.r, c.hinted = r, 0
		r.strict = true
		c.err = c.run()
		r.strict = false
		c.before += r.Offset()
		c.ends = append(c.ends, c.before)
	}
	return c.err
}

// Close tells what is wrong with all streams together, and closes the spool. After an error of Check it gives that
// again.
func (c *Checker) Close() error {
	if c.err == nil {
		c.err = c.end()
	}
	err := c.err
	if c.err == nil {
		c.err = errChecked
	}
	if c.spool != nil {
		if cerr := c.spool.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("rdb: checking: %w", cerr)
		}
		c.spool = nil
	}
	return err
}

func (c *Checker) run() error {
	for {
		e, err := c.r.Next()
		if err == io.EOF {
			return c.endStream()
		}
		if err != nil {
			return err
		}
		ok := false
		if e.Kind == KindKey {
			ok = c.key(e)
		} else {
			ok = c.other(e)
		}
		if !ok {
			return c.r.err
		}
	}
}

// endStream looks at what can be said only of a whole stream.
func (c *Checker) endStream() error {
	r := c.r
	switch {
	case r.attrs.set:
		return c.wrong("an expiry, or something else that goes before a key, stands at the end")
	case c.hinted > uint64(r.offset())+maxHint:
		return c.wrong(fmt.Sprintf("it says that a database has %d keys, which are many more than there are bytes", c.hinted))
	}
	return nil
}

// end looks at what can be said only of all streams.
func (c *Checker) end() error {
	if c.r == nil {
		return nil
	}
	c.r.keyed = false
	if !c.journal {
		distinct, err := c.keys.End()
		if !distinct {
			first, second := c.keys.Twice()
			at, in := c.place(second)
			before, inBefore := c.place(first)
			return &CorruptError{Offset: at, Why: fmt.Sprintf("the key whose name ends here%s is there twice; before, it ends at byte %d%s", in, before, inBefore)}
		}
		if err = c.ofSet(err, "key names to compare with each other", c.keys.Len()); err != nil {
			return err
		}
	}
	if c.full != nil {
		return c.full
	}
	return nil
}

// place turns an offset in all streams into one in one of them, and tells in which if there are several.
func (c *Checker) place(at int64) (offset int64, in string) {
	i, _ := slices.BinarySearch(c.ends, at)
	if i > 0 {
		at -= c.ends[i-1]
	}
	if len(c.ends) > 1 {
		in = fmt.Sprintf(" (in stream %d of %d)", i+1, len(c.ends))
	}
	return at, in
}

// wrong makes an error that isn't about a key.
func (c *Checker) wrong(why string) error {
	return &CorruptError{Offset: c.r.offset(), Why: why}
}

// ofSet turns the error of a set into one of Check. One that there was no room is kept for the end.
func (c *Checker) ofSet(err error, what string, n uint64) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, distinct.ErrNoRoom):
		if c.full == nil {
			key, db := c.r.context()
			c.full = &TooLargeError{Offset: c.r.offset(), Key: key, DB: db, What: what, Size: 16 * n, Limit: int64(c.opts.MaxHeld / 2)}
		}
		return nil
	}
	return fmt.Errorf("rdb: checking, in the spool: %w", err)
}

func (c *Checker) key(e *Entry) bool {
	r := c.r
	switch {
	case c.opts.Databases > 0 && e.DB >= c.opts.Databases:
		return r.corrupt(fmt.Sprintf("it is in database %d, and the server has %d", e.DB, c.opts.Databases))
	case e.HasExpiry && e.ExpireAt <= 0:
		return r.corrupt(fmt.Sprintf("it expires at %d, which is no time that a server keeps", e.ExpireAt))
	}
	if e.DB != c.db {
		c.db = e.DB
		c.keys.Scope(uint64(e.DB))
	}
	if !c.journal && !c.keys.Add(e.Key, c.before+r.offset()) {
		return r.corrupt("the key is there twice")
	}
	return c.value(e)
}

// value checks the value of a key.
func (c *Checker) value(e *Entry) bool {
	switch e.Type {
	case TypeString:
		c.r.frame = frameNone
		return c.r.checkString()
	case TypeStream:
		return c.checkStream()
	case TypeJSON:
		return c.checkJSON()
	case TypeBloom, TypeCMS, TypeTopK, TypeCuckoo:
		f := c.r.frame
		c.r.frame = frameNone
		switch f {
		case frameBloom, frameBloom2:
			return c.checkBloom(f == frameBloom2)
		case frameCMS:
			return c.checkCMS()
		case frameTopK:
			return c.checkTopK()
		}
		return c.checkCuckoo()
	case TypeList:
		return c.checkList(e)
	case TypeSet, TypeZSet, TypeHash, TypeArray:
		if e.Encoding != codeIntset {
			return c.checkCollection(e)
		}
		if c.r.Len() == 0 {
			return c.empty(e)
		}
	}
	// The others: what there is to check is what reading does. The numbers of an intset ascend, so that they are different.
	for {
		if _, err := c.r.Element(); err != nil {
			return err == io.EOF
		}
	}
}

func (c *Checker) checkList(e *Entry) bool {
	r := c.r
	n := 0
	for {
		x, err := r.Element()
		if err != nil {
			if err == io.EOF && n == 0 {
				return c.empty(e)
			}
			return err == io.EOF
		}
		n++
		if e.Encoding == codeQuicklist2 && r.val.step == stepNodes && len(x.Value) == 0 {
			return r.corrupt("a list node is empty")
		}
		if k := &r.val.pack; r.val.step == stepPackItems && !k.windowed && k.format == packListpack {
			k.walk(math.MaxInt)
		}
	}
}

func (c *Checker) empty(e *Entry) bool {
	return c.r.corrupt("a " + e.Type.String() + " without elements, which no server keeps")
}

// checkCollection checks a value whose elements are all different.
func (c *Checker) checkCollection(e *Entry) bool {
	r := c.r
	n := r.Len()
	if r.err != nil {
		return false
	}
	if n == 0 {
		return c.empty(e)
	}
	if at := uint64(r.val.minTTL); r.val.step == stepPackTTL || r.val.step == stepFieldsTTL {
		if at > maxFieldTTL+1 {
			return r.corrupt(fmt.Sprintf("the first field of a hash to expire does so at %d", int64(at)))
		}
	}
	c.members.Begin(n)
	c.pairs.ordered = e.Encoding == 12 || e.Encoding == 17
	c.pairs.begun = false
	any, ok := c.walkPlain()
	if ok && !any {
		any, ok = c.walkPacked()
	}
	if !ok {
		return false
	}
	more, lastTTL := false, int64(0)
	for {
		x, err := r.Element()
		if err == io.EOF {
			break
		}
		if err != nil {
			return false
		}
		if more {
			more = x.More
			continue
		}
		name := x.Value
		switch x.Kind {
		case ElementField:
			name, more = x.Field, x.More
			if e.Encoding == 23 || e.Encoding == 25 {
				if any && (lastTTL == 0 && x.ExpireAt != 0 || x.ExpireAt != 0 && x.ExpireAt < lastTTL) {
					return r.corrupt("the fields of a packed hash aren't in the order of their expiry")
				}
				lastTTL = x.ExpireAt
			}
		case ElementScored:
			if !c.pairs.add(r, x.Value, x.Score) {
				return false
			}
		case ElementIndexed:
			c.scratch = binary.BigEndian.AppendUint64(c.scratch[:0], x.Index)
			name, more = c.scratch, x.More
		}
		any = true
		if !c.members.Add(name, r.offset()) {
			return c.twice(x.Kind)
		}
	}
	if !any {
		return c.empty(e)
	}
	return c.endMembers(ElementMember)
}

// endMembers tells whether the members of a value are all different.
func (c *Checker) endMembers(kind ElementKind) bool {
	distinct, err := c.members.End()
	if !distinct {
		return c.twice(kind)
	}
	if err = c.ofSet(err, "elements to compare with each other", c.members.Len()); err != nil {
		c.r.err = err
	}
	return err == nil
}

func (c *Checker) twice(kind ElementKind) bool {
	if first, second := c.members.Twice(); first >= 0 {
		return c.r.corrupt(fmt.Sprintf("a %v is there twice, near bytes %d and %d", kind, first, second))
	}
	return c.r.corrupt(fmt.Sprintf("a %v is there twice", kind))
}

// A scoreOrder checks scores one after the other.
type scoreOrder struct {
	ordered bool // they have to be in order, those that are equal in that of the members
	begun   bool
	score   float64
	member  []byte
}

func (o *scoreOrder) add(r *Reader, member []byte, score float64) bool {
	if math.IsNaN(score) {
		return r.corrupt("a score is not a number")
	}
	if !o.ordered {
		return true
	}
	if o.begun && (score < o.score || score == o.score && bytes.Compare(member, o.member) <= 0) {
		return r.corrupt("the members of a packed sorted set aren't in the order of their scores")
	}
	o.begun, o.score = true, score
	o.member = append(o.member[:0], member...)
	return true
}

// other checks an entry that is no key.
func (c *Checker) other(e *Entry) bool {
	r := c.r
	switch e.Kind {
	case KindResizeDB:
		c.hinted = max(c.hinted, e.Keys, e.Expires)
		if c.opts.Databases > 0 && e.DB >= c.opts.Databases {
			return r.corrupt(fmt.Sprintf("it tells the size of database %d, and the server has %d", e.DB, c.opts.Databases))
		}
	case KindJournal:
		c.journal = true
	case KindSlotInfo:
		return c.slot(e.Slot)
	case KindAux:
		if bytes.EqualFold(e.Key, []byte("slot-info")) {
			return c.slotInfo(e.Value)
		}
	case KindFunction:
		r.frame = frameNone
		return r.checkString()
	case KindModuleAux:
		if r.auxWhen != 1 && r.auxWhen != 2 {
			return r.corrupt(fmt.Sprintf("module aux data are for moment %d instead of 1 or 2", r.auxWhen))
		}
	}
	return true
}

const clusterSlots = 1 << 14

// slotInfo checks what Valkey says of a slot: its number, how many keys it has, how many of them expire, and in newer
// versions more.
func (c *Checker) slotInfo(text []byte) bool {
	rest := string(text)
	for i := range 3 {
		number, after, _ := strings.Cut(rest, ",")
		n, err := strconv.ParseUint(number, 10, 63)
		if err != nil {
			return c.r.corrupt(fmt.Sprintf("the size of a cluster slot is %.60q", text))
		}
		if i == 0 && !c.slot(n) {
			return false
		}
		rest = after
	}
	return true
}

// maxHint is how many keys a stream may say that it has, though it is too small for them: servers make room for so many, and so a
// wrong number can take all of their memory.
const maxHint = 1 << 20

func (c *Checker) slot(n uint64) bool {
	if n >= clusterSlots {
		return c.r.corrupt(fmt.Sprintf("a cluster has no slot %d", n))
	}
	return true
}
