package command

import (
	"cmp"
	"fmt"
	"iter"
	"math"

	"github.com/amberkv/amber/rdb"
)

// What streams have when nobody told otherwise (Redis 8.6): for how many seconds, and how many of each producer, they remember
// the ids by which they tell entries that are added twice.
const defaultIDMP = 100

// nackedConsumer gets the pending entries that have no owner, as rdb.LossStreamNacks says.
const nackedConsumer = "nacked"

// seedGroup makes a stream that has no entries: it is created with the stream and destroyed at once.
const seedGroup = "amber"

// A streamBuilder is how far a stream was made.
//
// Everything comes in the order in which commands can make it, but for one thing: XCLAIM needs at once when a pending entry was delivered, how
// often and who owns it, and owners come after all pending entries of a group. So these are remembered, up to maxPending. Of what is beyond, the
// owner is kept but not the time and the number of deliveries, which counts as rdb.LossStreamTimes: no command sets them later, for
// XCLAIM sets the time whether it is told one or not.
//
// XCLAIM leaves out entries that are deleted. So that this can be told, the ids of the live ones are remembered, up to maxLive; of what is
// beyond, all are taken for alive. Deleted ones couldn't be added for a moment, either: by the time that the groups come, the
// stream's last id is higher.
type streamBuilder struct {
	entries     int64
	first, last rdb.StreamID // of the live entries
	live        idTable
	info        rdb.StreamInfo
	kind        rdb.ElementKind // of the last element

	group, consumer []byte // as arguments
	longest         int    // how much longer than nackedConsumer the longest name like it is, -1 without one
	pending         idTable
	unowned         int64 // pending entries of which the owner is still to come

	claims   int // ids in rebuilder.later, which one XCLAIM makes pending
	claimAs  record
	known    bool // claimAs has a time and a count
	produced uint64
	producer []byte // as an argument
}

func (s *streamBuilder) clear() {
	s.entries, s.claims, s.produced, s.kind, s.unowned = 0, 0, 0, 0, 0
	s.first, s.last = rdb.StreamID{}, rdb.StreamID{}
	s.live.limit, s.pending.limit, s.pending.details = cmp.Or(s.live.limit, maxLive), cmp.Or(s.pending.limit, maxPending), true
	s.live.clear()
	s.pending.clear()
}

// alive tells whether the stream has an entry, as far as that is known.
func (s *streamBuilder) alive(id rdb.StreamID) bool {
	if s.entries == 0 || id.Less(s.first) || s.last.Less(id) {
		return false
	}
	if s.live.full && s.live.last.id.Less(id) {
		return true
	}
	_, ok := s.live.find(id)
	return ok
}

func (b *rebuilder) makeStream(elements iter.Seq2[*rdb.Element, error]) error {
	s := &b.stream
	s.clear()
	defer s.clear()
	for e, err := range elements {
		if err != nil {
			return err
		}
		if b.full() {
			if err := b.flush(); err != nil {
				return err
			}
		}
		switch e.Kind {
		case rdb.ElementEntry:
			err = b.addEntry(e)
		case rdb.ElementStream:
			b.setID(&e.Stream)
		case rdb.ElementGroup:
			err = b.addGroup(e)
		case rdb.ElementPending:
			s.pending.add(record{e.ID, e.Delivered, e.Count})
		case rdb.ElementConsumer:
			err = b.addConsumer(e)
		case rdb.ElementOwned:
			b.claim(e.ID)
		case rdb.ElementNacked:
			b.claimNacked(e)
		case rdb.ElementIDMP:
			b.setIDMP(&e.Stream)
		case rdb.ElementProducer:
			s.producer = appendArg(s.producer[:0], e.Value)
		case rdb.ElementProduced:
			b.addProduced(e)
		case rdb.ElementIDMPEnd:
			// No command sets these.
			if (e.Stream.IDMPAdded != 0 && e.Stream.IDMPAdded != s.produced) || e.Stream.IDMPDuplicates != 0 {
				b.lose(rdb.LossStreamIDMP, 1)
			}
		default:
			err = fmt.Errorf("the stream in db %d, key %.128q, has an element of kind %s", b.entry.DB, b.entry.Key, e.Kind)
		}
		if err != nil {
			return err
		}
		s.kind = e.Kind
	}
	b.finishGroup()
	return nil
}

func (b *rebuilder) addEntry(e *rdb.Element) error {
	s := &b.stream
	if s.entries == 0 {
		s.first = e.ID
	}
	s.entries++
	s.last = e.ID
	s.live.add(record{id: e.ID})
	b.command(3+len(e.Fields), "XADD")
	b.id(e.ID)
	longest := 0
	for _, p := range e.Fields {
		longest = max(longest, len(p))
		b.arg(p)
	}
	return b.fits(int64(longest), "field of a stream entry")
}

// setID makes the stream if it has no entries, and tells it what it can't know from those it has.
func (b *rebuilder) setID(i *rdb.StreamInfo) {
	s := &b.stream
	if s.entries == 0 {
		b.command(6, "XGROUP", "CREATE")
		b.word(seedGroup)
		b.word("0")
		b.word("MKSTREAM")
		b.command(4, "XGROUP", "DESTROY")
		b.word(seedGroup)
	}
	s.info = *i
	plain := !i.HasHistory || i.MaxDeletedID == (rdb.StreamID{}) && i.EntriesAdded == uint64(s.entries)
	// What servers refuse. No server writes such a stream.
	possible := !i.LastID.Less(s.last) && !i.LastID.Less(i.MaxDeletedID) && i.EntriesAdded <= math.MaxInt64 &&
		(plain || i.EntriesAdded >= uint64(s.entries))
	switch {
	case plain && i.LastID == s.last && s.entries > 0:
	case !possible || !plain && !b.caps.xsetidFull:
		b.lose(rdb.LossStreamCounts, 1)
		if s.last.Less(i.LastID) {
			b.command(3, "XSETID")
			b.id(i.LastID)
		}
	case plain:
		b.command(3, "XSETID")
		b.id(i.LastID)
	default:
		b.command(7, "XSETID")
		b.id(i.LastID)
		b.word("ENTRIESADDED")
		b.number(int64(i.EntriesAdded))
		b.word("MAXDELETEDID")
		b.id(i.MaxDeletedID)
	}
}

// addGroup completes the group before and makes the next.
func (b *rebuilder) addGroup(e *rdb.Element) error {
	s := &b.stream
	b.finishGroup()
	s.pending.clear()
	s.longest, s.unowned = -1, e.Count
	s.group = appendArg(s.group[:0], e.Value)
	read := e.Read
	if !s.info.HasHistory {
		read = s.estimate(e.ID)
	}
	n := 5
	if read >= 0 && b.caps.entriesRead {
		n += 2
	}
	b.command(n, "XGROUP", "CREATE")
	b.buf = append(b.buf, s.group...)
	b.id(e.ID)
	switch {
	case n > 5:
		b.word("ENTRIESREAD")
		b.number(read)
	case !b.caps.entriesRead && s.info.HasHistory && read != s.estimate(e.ID):
		b.lose(rdb.LossStreamCounts, 1)
	}
	return b.fits(int64(len(e.Value)), "name of a consumer group")
}

// estimate returns how many entries a group has read, as servers conclude it from the entries of a stream that doesn't say, -1 if they can't.
func (s *streamBuilder) estimate(last rdb.StreamID) int64 {
	switch {
	case s.entries == 0 || last.Less(s.first):
		return 0
	case last == s.info.LastID:
		return s.entries
	case last == s.first:
		return 1
	}
	return -1
}

// addConsumer makes a consumer. When it was active is lost: commands make it so now.
func (b *rebuilder) addConsumer(e *rdb.Element) error {
	s := &b.stream
	b.finishClaim()
	s.longest = max(s.longest, likeNacked(e.Value))
	s.consumer = appendArg(s.consumer[:0], e.Value)
	b.makeConsumer()
	b.lose(rdb.LossStreamTimes, 1)
	return b.fits(int64(len(e.Value)), "name of a consumer")
}

func (b *rebuilder) makeConsumer() {
	s := &b.stream
	if b.caps.createConsumer {
		b.command(5, "XGROUP", "CREATECONSUMER")
		b.buf = append(append(b.buf, s.group...), s.consumer...)
		return
	}
	// To ask for one's own pending entries makes a consumer.
	b.commands++
	b.buf = appendHead(b.buf, '*', 9)
	b.word("XREADGROUP")
	b.word("GROUP")
	b.buf = append(append(b.buf, s.group...), s.consumer...)
	b.word("COUNT")
	b.word("1")
	b.word("STREAMS")
	b.buf = append(b.buf, b.key...)
	b.word("0")
}

// claim makes a pending entry of the group the consumer's.
func (b *rebuilder) claim(id rdb.StreamID) {
	s := &b.stream
	s.unowned--
	if !s.alive(id) {
		b.lose(lossStreamPending, 1)
		return
	}
	r, known := s.pending.find(id)
	if !known || r.delivered < 0 || r.delivered > b.millis() {
		b.lose(rdb.LossStreamTimes, 1) // the target takes its own time
	}
	if s.claims > 0 && (s.claims == batchElements || known != s.known || known && (r.delivered != s.claimAs.delivered || r.count != s.claimAs.count)) {
		b.finishClaim()
	}
	s.claimAs, s.known = r, known
	s.claims++
	b.later = appendArg(b.later, id.AppendText(b.text[:0]))
}

// finishClaim makes the command for the ids that were claimed last.
func (b *rebuilder) finishClaim() {
	s := &b.stream
	if s.claims == 0 {
		return
	}
	n := 5 + s.claims + 2
	if s.known {
		n += 4
	}
	b.command(n, "XCLAIM")
	b.buf = append(append(b.buf, s.group...), s.consumer...)
	b.word("0")
	b.buf = append(b.buf, b.later...)
	if s.known {
		b.word("TIME")
		b.number(s.claimAs.delivered)
		b.word("RETRYCOUNT")
		b.number(s.claimAs.count)
	}
	b.word("JUSTID")
	b.word("FORCE")
	b.later, s.claims = b.later[:0], 0
}

// finishGroup completes the last group. Pending entries that nobody was said to own are not made.
func (b *rebuilder) finishGroup() {
	b.finishClaim()
	if s := &b.stream; s.unowned > 0 {
		b.lose(rdb.LossStreamNacks, s.unowned)
		s.unowned = 0
	}
}

// likeNacked tells how much longer than nackedConsumer a name is that begins like it, -1 if it doesn't.
func likeNacked(name []byte) int {
	if n := len(nackedConsumer); len(name) >= n && string(name[:n]) == nackedConsumer {
		return len(name) - n
	}
	return -1
}

// claimNacked makes a pending entry without owner that of a consumer of its own, whose name is longer than any like it.
func (b *rebuilder) claimNacked(e *rdb.Element) {
	s := &b.stream
	if s.kind != rdb.ElementNacked {
		b.finishClaim()
		name := append(make([]byte, 0, len(nackedConsumer)+s.longest+1), nackedConsumer...)
		for range s.longest + 1 {
			name = append(name, '+')
		}
		s.consumer = appendArg(s.consumer[:0], name)
		b.makeConsumer()
	}
	b.lose(rdb.LossStreamNacks, 1)
	b.claim(e.ID)
}

// setIDMP sets how long the stream remembers what makes adding entries idempotent. It forgets what it knew of that.
func (b *rebuilder) setIDMP(i *rdb.StreamInfo) {
	b.finishGroup()
	switch {
	case b.caps.xcfgset:
		b.command(6, "XCFGSET")
		b.word("IDMP-DURATION")
		b.number(int64(i.IDMPDuration))
		b.word("IDMP-MAXSIZE")
		b.number(int64(i.IDMPMaxSize))
	case i.IDMPDuration != defaultIDMP || i.IDMPMaxSize != defaultIDMP:
		b.lose(rdb.LossStreamIDMP, 1)
	}
}

// addProduced tells the stream by which id a producer added an entry. It takes that of live entries only.
func (b *rebuilder) addProduced(e *rdb.Element) {
	s := &b.stream
	if !b.caps.xidmprecord || !s.alive(e.ID) {
		b.lose(rdb.LossStreamIDMP, 1)
		return
	}
	s.produced++
	b.command(5, "XIDMPRECORD")
	b.buf = append(b.buf, s.producer...)
	b.arg(e.Value)
	b.id(e.ID)
}
