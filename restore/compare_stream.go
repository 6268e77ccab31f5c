package restore

import (
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
)

// streamNames is how many groups of a stream, and consumers of a group, are compared by what XINFO says: all are in one answer.
const streamNames = 1 << 16

// A streamAsker is what the elements of a stream told so far.
type streamAsker struct {
	info    rdb.StreamInfo
	group   string
	groups  []wantGroup
	total   int64
	members *wantConsumers // of the group; nil if there are too many
	owned   *wantOwned     // the consumer
}

// A wantGroup is a group as it has to be.
type wantGroup struct {
	name          string
	last          rdb.StreamID
	read, pending int64
}

// wantStream is what XINFO STREAM has to tell.
type wantStream struct {
	info   rdb.StreamInfo
	groups int64
}

// wantConsumers are the consumers of a group, with the number of entries that each owns.
type wantConsumers struct {
	group string
	owned map[string]int64
}

// wantOwned names the consumer whose pending entries are asked for.
type wantOwned struct{ group, consumer string }

// streamElement makes of an element of a stream a part of a question.
func (a *asker) streamElement(el *rdb.Element) error {
	s := &a.stream
	switch el.Kind {
	case rdb.ElementEntry:
		if err := a.gathers(askEntries); err != nil {
			return err
		}
		a.count++
		b := a.b
		id := b.keepID(el.ID)
		from := len(b.text)
		for _, f := range el.Fields {
			b.text = append(binary.AppendUvarint(b.text, uint64(len(f))), f...)
		}
		b.replies += 16 * len(el.Fields)
		return a.add(wantElem{name: id, want: span{from, len(b.text)}, number: int64(len(el.Fields))})
	case rdb.ElementStream:
		s.info = el.Stream
		return a.gathers(askNothing)
	case rdb.ElementGroup:
		if err := a.endGroup(); err != nil {
			return err
		}
		s.group = string(el.Value)
		s.members = &wantConsumers{group: s.group, owned: map[string]int64{}}
		if s.total++; s.total <= streamNames {
			s.groups = append(s.groups, wantGroup{s.group, el.ID, el.Read, el.Count})
		}
	case rdb.ElementPending:
		if err := a.gathers(askPending); err != nil {
			return err
		}
		return a.add(wantElem{name: a.b.keepID(el.ID), number: el.Count, at: el.Delivered})
	case rdb.ElementConsumer:
		if err := a.gathers(askNothing); err != nil {
			return err
		}
		s.owned = &wantOwned{s.group, string(el.Value)}
		if s.members != nil && len(s.members.owned) < streamNames {
			s.members.owned[string(el.Value)] = el.Count
		} else {
			s.members = nil
		}
	case rdb.ElementOwned:
		if err := a.gathers(askOwned); err != nil {
			return err
		}
		return a.add(wantElem{name: a.b.keepID(el.ID)})
	case rdb.ElementIDMP:
		if el.Left > 0 {
			a.c.note("streams with ids that make adding idempotent, which weren't compared")
		}
	}
	return nil
}

func (b *compareBatch) keepID(id rdb.StreamID) span {
	from := len(b.text)
	b.text = id.AppendText(b.text)
	return span{from, len(b.text)}
}

// askStreamGroup begins the command that asks for what was gathered of a stream: what is between the first and the last, and one more if
// there is more.
func (a *asker) askStreamGroup(elems []wantElem) (more any) {
	first, last := a.b.bytes(elems[0].name), a.b.bytes(elems[len(elems)-1].name)
	args := 5
	switch a.gather {
	case askEntries:
		a.of("XRANGE", 5)
		a.arg(first)
		a.arg(last)
		a.str("COUNT")
		a.int(int64(len(elems)) + 1)
		return nil
	case askPending:
		a.timed()
		more = a.stream.group
	case askOwned:
		args++
		more = a.stream.owned
	}
	a.of("XPENDING", args)
	a.str(a.stream.group)
	a.arg(first)
	a.arg(last)
	a.int(int64(len(elems)) + 1)
	if a.gather == askOwned {
		a.str(a.stream.owned.consumer)
	}
	return more
}

// endGroup asks for the consumers of the group that ends.
func (a *asker) endGroup() error {
	if err := a.gathers(askNothing); err != nil {
		return err
	}
	s := &a.stream
	switch {
	case s.total == 0:
	case s.members == nil:
		a.c.note("groups of streams with more than 65536 consumers, which weren't counted")
	default:
		a.begin("XINFO", 3)
		a.str("CONSUMERS")
		a.arg(a.name)
		a.str(s.group)
		a.end(question{kind: askConsumers, more: s.members})
		a.b.replies += 128 * len(s.members.owned)
	}
	return nil
}

// finishStream asks what is known of the stream as a whole.
func (a *asker) finishStream() error {
	if err := a.endGroup(); err != nil {
		return err
	}
	s := &a.stream
	a.begin("XINFO", 2)
	a.str("STREAM")
	a.arg(a.name)
	a.end(question{kind: askStreamInfo, more: &wantStream{s.info, s.total}})
	switch {
	case s.total > streamNames:
		a.c.note("streams with more than 65536 groups, of which no list was compared")
	case s.total > 0:
		a.begin("XINFO", 2)
		a.str("GROUPS")
		a.arg(a.name)
		a.end(question{kind: askGroups, more: s.groups})
		a.b.replies += 160 * len(s.groups)
	}
	a.counted("XLEN")
	return nil
}

// readEntries holds the answer to XRANGE against the entries that were asked for.
func (n *compareNode) readEntries(b *compareBatch, q *question, count int64) error {
	elems := b.elems[q.elems.from:q.elems.to]
	for i := range count {
		if kind, parts, err := n.in.head(); err != nil {
			return err
		} else if kind != resp.Array || parts != 2 {
			return n.unexpected(q)
		}
		id, err := n.in.text()
		if err != nil {
			return err
		}
		kind, fields, err := n.in.head()
		if err != nil {
			return err
		} else if kind != resp.Array && kind != resp.Null {
			return n.unexpected(q)
		}
		if i >= int64(len(elems)) {
			q.key.fail(q.rank, "has an entry %s, which the backup doesn't have", id)
			return n.in.skipAll(fields + count - 1 - i)
		}
		w := &elems[i]
		if want := b.bytes(w.name); string(id) != string(want) {
			n.entryDiffers(q, id, want)
			return n.in.skipAll(fields + count - 1 - i)
		}
		if fields != w.number {
			q.key.fail(q.rank, "entry %s has %d fields and values, the backup has %d", id, fields, w.number)
			return n.in.skipAll(fields + count - 1 - i)
		}
		name := string(id)
		rest := b.bytes(w.want)
		for j := range fields {
			size, used := binary.Uvarint(rest)
			want := rest[used : used+int(size)]
			rest = rest[used+int(size):]
			same, err := n.in.bulk(want)
			if err != nil {
				return err
			}
			if !same {
				q.key.fail(q.rank, "entry %s, place %d of its fields and values: %s", name, j+1, n.in.differs(0, want))
			}
		}
	}
	if count < int64(len(elems)) {
		q.key.fail(q.rank, "entry %s is missing", b.bytes(elems[count].name))
	}
	return nil
}

// entryDiffers says which of two entries in the same place is the one that the other side lacks.
func (n *compareNode) entryDiffers(q *question, got, want []byte) {
	if parseID(string(got)).Less(parseID(string(want))) {
		q.key.fail(q.rank, "has an entry %s, which the backup doesn't have", got)
	} else {
		q.key.fail(q.rank, "entry %s is missing", want)
	}
}

// parseID reads an id as commands write it.
func parseID(s string) (id rdb.StreamID) {
	ms, seq, _ := strings.Cut(s, "-")
	id.MS, _ = strconv.ParseUint(ms, 10, 64)
	id.Seq, _ = strconv.ParseUint(seq, 10, 64)
	return id
}

// readPending holds the answer to XPENDING against the pending entries that were asked for: of a consumer only which they are.
func (n *compareNode) readPending(b *compareBatch, q *question, count int64) error {
	elems := b.elems[q.elems.from:q.elems.to]
	group, whose := q.subject(), ""
	for i := range count {
		if kind, parts, err := n.in.head(); err != nil {
			return err
		} else if kind != resp.Array || parts != 4 {
			return n.unexpected(q)
		}
		text, err := n.in.text()
		if err != nil {
			return err
		}
		id := string(text)
		owner, err := n.in.text()
		if err != nil {
			return err
		}
		whose = short(owner)
		idle, err := n.in.integer()
		if err != nil {
			return err
		}
		deliveries, err := n.in.integer()
		if err != nil {
			return err
		}
		if i >= int64(len(elems)) || parseID(id).Less(parseID(string(b.bytes(elems[i].name)))) {
			q.key.fail(q.rank, "%s has entry %s pending%s, which the backup doesn't have", group, id, q.owner(whose))
			return n.in.skipAll(count - 1 - i)
		}
		w := &elems[i]
		if want := b.bytes(w.name); id != string(want) {
			q.key.fail(q.rank, "%s doesn't have entry %s pending%s, as the backup has", group, want, q.owner(q.consumer()))
			return n.in.skipAll(count - 1 - i)
		}
		if q.kind == askOwned {
			continue
		}
		if deliveries != w.number {
			q.key.fail(q.rank, "%s, pending entry %s was delivered %d times, in the backup %d", group, id, deliveries, w.number)
		}
		if at, want := n.now-idle, min(w.at, n.now); at < want-compareTolerance || at > want+compareTolerance {
			q.key.fail(q.rank, "%s, pending entry %s was delivered at %s, in the backup at %s", group, id, moment(at), moment(w.at))
		}
	}
	if count < int64(len(elems)) {
		q.key.fail(q.rank, "%s doesn't have entry %s pending%s, as the backup has", group, b.bytes(elems[count].name), q.owner(q.consumer()))
	}
	return nil
}

// owner is what is said of whose a pending entry is.
func (q *question) owner(consumer string) string {
	if q.kind != askOwned || consumer == "" {
		return ""
	}
	return " for consumer " + consumer
}

func (q *question) consumer() string {
	if w, ok := q.more.(*wantOwned); ok {
		return short([]byte(w.consumer))
	}
	return ""
}

// readInfo holds the answer to XINFO STREAM against what is known of the stream.
func (n *compareNode) readInfo(q *question, count int64) error {
	w := q.more.(*wantStream)
	return n.in.pairs(count, func(name string) (bool, error) {
		id := func(want rdb.StreamID) (bool, error) {
			text, err := n.in.text()
			if got := parseID(string(text)); err == nil && got != want {
				q.key.fail(q.rank, "%s is %s, in the backup %s", name, got, want)
			}
			return true, err
		}
		number := func(want int64) (bool, error) {
			got, err := n.in.integer()
			if err == nil && got != want {
				q.key.fail(q.rank, "%s is %d, in the backup %d", name, got, want)
			}
			return true, err
		}
		switch {
		case name == "last-generated-id":
			return id(w.info.LastID)
		case name == "groups" && w.groups == 0: // else XINFO GROUPS says it better
			return number(0)
		case name == "max-deleted-entry-id" && w.info.HasHistory:
			return id(w.info.MaxDeletedID)
		case name == "entries-added" && w.info.HasHistory:
			return number(int64(w.info.EntriesAdded))
		}
		return false, nil
	})
}

// readGroups holds the answer to XINFO GROUPS against the groups.
func (n *compareNode) readGroups(q *question, count int64) error {
	want := map[string]*wantGroup{}
	list := q.more.([]wantGroup)
	for i := range list {
		want[list[i].name] = &list[i]
	}
	for range count {
		var g wantGroup
		g.read = -1
		kind, parts, err := n.in.head()
		if err == nil && kind != resp.Array {
			err = n.unexpected(q)
		}
		if err == nil {
			err = n.in.pairs(parts, func(name string) (bool, error) {
				var err error
				var text []byte
				switch name {
				case "name":
					text, err = n.in.text()
					g.name = string(text)
				case "last-delivered-id":
					text, err = n.in.text()
					g.last = parseID(string(text))
				case "pending":
					g.pending, err = n.in.integer()
				case "entries-read":
					g.read, err = n.in.integerOr(-1)
				default:
					return false, nil
				}
				return true, err
			})
		}
		if err != nil {
			return err
		}
		w := want[g.name]
		delete(want, g.name)
		group := "group " + short([]byte(g.name))
		switch {
		case w == nil:
			q.key.fail(q.rank, "has a %s, which the backup doesn't have", group)
		case g.last != w.last:
			q.key.fail(q.rank, "%s: last-delivered-id is %s, in the backup %s", group, g.last, w.last)
		case g.pending != w.pending:
			q.key.fail(q.rank, "%s has %d pending entries, in the backup %d", group, g.pending, w.pending)
		case w.read >= 0 && g.read >= 0 && g.read != w.read && !n.c.facts.dragonfly: // which counts anew when it loads
			q.key.fail(q.rank, "%s: entries-read is %d, in the backup %d", group, g.read, w.read)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		q.key.fail(q.rank, "group %s is missing", short([]byte(name)))
	}
	return nil
}

// readConsumers holds the answer to XINFO CONSUMERS against the consumers of a group.
func (n *compareNode) readConsumers(q *question, count int64) error {
	w := q.more.(*wantConsumers)
	seen := map[string]bool{}
	group := q.subject()
	for range count {
		consumer, pending := "", int64(0)
		kind, parts, err := n.in.head()
		if err == nil && kind != resp.Array {
			err = n.unexpected(q)
		}
		if err == nil {
			err = n.in.pairs(parts, func(name string) (bool, error) {
				var err error
				switch name {
				case "name":
					var text []byte
					text, err = n.in.text()
					consumer = string(text)
				case "pending":
					pending, err = n.in.integer()
				default:
					return false, nil
				}
				return true, err
			})
		}
		if err != nil {
			return err
		}
		want, ok := w.owned[consumer]
		seen[consumer] = true
		if !ok {
			q.key.fail(q.rank, "%s has a consumer %s, which the backup doesn't have", group, short([]byte(consumer)))
		} else if pending != want {
			q.key.fail(q.rank, "%s, consumer %s has %d pending entries, in the backup %d", group, short([]byte(consumer)), pending, want)
		}
	}
	for _, consumer := range slices.Sorted(maps.Keys(w.owned)) {
		if !seen[consumer] {
			q.key.fail(q.rank, "%s: consumer %s is missing", group, short([]byte(consumer)))
		}
	}
	return nil
}
