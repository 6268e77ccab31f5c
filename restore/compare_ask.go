package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"iter"
	"slices"
	"strconv"

	"github.com/amberkv/amber/rdb"
)

// A questionKind says what a question asks.
type questionKind uint8

const (
	askNothing       questionKind = iota // all of a key was asked
	askSelect                            // SELECT
	askTime                              // TIME
	askExpiry                            // PEXPIRETIME
	askTTL                               // PTTL
	askRange                             // GETRANGE: the one element
	askItems                             // LRANGE: the elements
	askSum                               // HGET or LINDEX: the one element's length and SHA-256
	askLength                            // HSTRLEN: n
	askMembers                           // SMISMEMBER
	askMember                            // SISMEMBER
	askScores                            // ZMSCORE
	askScore                             // ZSCORE
	askFields                            // HMGET
	askFieldExpiries                     // HPEXPIRETIME
	askFieldTTL                          // FIELDTTL, which is of Dragonfly and also for members of sets
	askCount                             // LLEN, SCARD, ZCARD, HLEN, XLEN, VCARD: n
	askEntries                           // XRANGE
	askStreamInfo                        // XINFO STREAM
	askGroups                            // XINFO GROUPS
	askConsumers                         // XINFO CONSUMERS
	askPending                           // XPENDING
	askOwned                             // XPENDING of one consumer
	askType                              // TYPE
	askDump                              // DUMP: length and SHA-256 of the value
	askJSON                              // JSON.GET
	askVector                            // VEMB RAW
	askAttributes                        // VGETATTR
)

// String returns the command.
func (k questionKind) String() string {
	return [...]string{"", "SELECT", "TIME", "PEXPIRETIME", "PTTL", "GETRANGE", "LRANGE", "HGET or LINDEX", "HSTRLEN", "SMISMEMBER", "SISMEMBER",
		"ZMSCORE", "ZSCORE", "HMGET", "HPEXPIRETIME", "FIELDTTL", "counting", "XRANGE", "XINFO STREAM", "XINFO GROUPS", "XINFO CONSUMERS", "XPENDING",
		"XPENDING", "TYPE", "DUMP", "JSON.GET", "VEMB", "VGETATTR"}[k]
}

// detail tells whether a question is about what a value has besides its elements: when they expire, groups of streams, what streams know of themselves.
func (k questionKind) detail() bool {
	switch k {
	case askFieldExpiries, askFieldTTL, askStreamInfo, askGroups, askConsumers, askPending, askOwned:
		return true
	}
	return false
}

// An asker makes the questions about one key.
type asker struct {
	c    *comparer
	n    *compareNode
	b    *compareBatch // that is being built
	ctx  context.Context
	key  *comparedKey
	name []byte // of the key
	rank int

	count   int64 // elements, or bytes of a string, so far
	group   span  // of elements that the next command asks for
	gather  questionKind
	sum     hash.Hash // of an element in pieces
	size    int64
	forever bool   // a field or member doesn't expire
	last    int64  // when the last one does that does
	wholly  []byte // a document
	stream  streamAsker
	vector  vectorAsker
}

// ask makes the questions about a key, which end up in batches, of which those that are full are sent.
func (c *comparer) ask(ctx context.Context, e *rdb.Entry, elements iter.Seq2[*rdb.Element, error], done chan struct{}) (*comparedKey, error) {
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	if err := c.failure(); err != nil {
		return nil, err
	}
	n := c.node(e.Key)
	k := &comparedKey{db: e.DB, name: string(e.Key), typ: e.Type, hasExpiry: e.HasExpiry, expireAt: e.ExpireAt, done: done}
	if e.Type == rdb.TypeModule {
		k.module = e.Module.Name()
	}
	a := &c.asker
	*a = asker{c: c, n: n, b: n.building, ctx: ctx, key: k, name: []byte(k.name), rank: rankValue}
	if n.buildDB != e.DB {
		n.buildDB = e.DB
		a.begin("SELECT", 1)
		a.int(int64(e.DB))
		a.end(question{kind: askSelect})
	}
	a.expiry()
	for el, err := range elements {
		if err != nil {
			return nil, err
		}
		if k.failed.Load() {
			if el.Kind != rdb.ElementField && el.Kind != rdb.ElementMember {
				break
			}
			a.expires(el.ExpireAt) // they may all have expired
			continue
		}
		if err := a.element(el); err != nil {
			return nil, err
		}
	}
	if err := a.finish(); err != nil {
		return nil, err
	}
	return k, nil
}

// begin begins a command with a number of arguments, which follow.
func (a *asker) begin(command string, args int) {
	b := a.b
	b.asks = append(b.asks, question{cmd: span{from: len(b.out)}})
	b.out = append(strconv.AppendInt(append(b.out, '*'), int64(args+1), 10), "\r\n"...)
	a.str(command)
}

// of is begin with the key as the first argument, which is counted.
func (a *asker) of(command string, args int) {
	a.begin(command, args)
	a.arg(a.name)
}

func (a *asker) arg(p []byte) {
	out := strconv.AppendInt(append(a.b.out, '$'), int64(len(p)), 10)
	out = append(append(out, "\r\n"...), p...)
	a.b.out = append(out, "\r\n"...)
}

func (a *asker) str(s string) {
	out := strconv.AppendInt(append(a.b.out, '$'), int64(len(s)), 10)
	out = append(append(out, "\r\n"...), s...)
	a.b.out = append(out, "\r\n"...)
}

func (a *asker) int(n int64) {
	var digits [20]byte
	a.arg(strconv.AppendInt(digits[:0], n, 10))
}

// end ends the command.
func (a *asker) end(q question) {
	last := &a.b.asks[len(a.b.asks)-1]
	a.rank++
	q.cmd, q.key, q.db = span{last.cmd.from, len(a.b.out)}, a.key, a.n.buildDB
	if q.rank == 0 {
		q.rank = a.rank
	}
	a.b.replies += 64
	*last = q
}

// one adds an element that is a group by itself.
func (a *asker) one(el wantElem) span {
	a.b.elems = append(a.b.elems, el)
	a.group = span{len(a.b.elems), len(a.b.elems)}
	return span{len(a.b.elems) - 1, len(a.b.elems)}
}

// timed asks for the time of the target, if it wasn't in this batch.
func (a *asker) timed() {
	if a.b.timed {
		return
	}
	a.b.timed = true
	if a.c.facts.time {
		a.begin("TIME", 0)
		a.end(question{kind: askTime})
	}
}

func (a *asker) expiry() {
	if a.c.facts.dragonfly && a.key.hasExpiry {
		a.timed()
	}
	if a.c.facts.pexpiretime {
		a.of("PEXPIRETIME", 1)
		a.end(question{kind: askExpiry, rank: rankExpiry})
	} else {
		a.timed()
		a.of("PTTL", 1)
		a.end(question{kind: askTTL, rank: rankExpiry})
	}
}

// gathers says what the elements from here on are asked by.
func (a *asker) gathers(kind questionKind) error {
	if a.gather == kind {
		return nil
	}
	if err := a.ungather(); err != nil {
		return err
	}
	a.gather = kind
	a.group = span{len(a.b.elems), len(a.b.elems)}
	return nil
}

// add adds an element to those that are asked for by the next command.
func (a *asker) add(el wantElem) error {
	a.b.elems = append(a.b.elems, el)
	a.group.to++
	a.b.replies += 32 + el.want.to - el.want.from
	if a.group.to-a.group.from >= compareGroup || len(a.b.text) >= compareReplies || a.b.replies >= compareReplies {
		return a.ungather()
	}
	return nil
}

// ungather asks for the elements that were gathered, and sends the batch if it is full.
func (a *asker) ungather() error {
	if a.group.from < a.group.to {
		a.askGroup()
	}
	if a.b.full() {
		if err := a.n.submit(a.ctx); err != nil {
			return err
		}
		a.b = a.n.building
	}
	a.group = span{len(a.b.elems), len(a.b.elems)}
	return nil
}

func (a *asker) askGroup() {
	elems := a.b.elems[a.group.from:a.group.to]
	n := len(elems)
	switch a.gather {
	case askItems:
		a.of("LRANGE", 3)
		a.int(a.count - int64(n))
		a.int(a.count - 1)
	case askMembers:
		if a.ending(elems); !a.c.facts.smismember {
			a.each("SISMEMBER", askMember, a.group)
		} else {
			a.of("SMISMEMBER", 1+n)
			a.names(elems)
			a.end(question{kind: askMembers, elems: a.group})
		}
		if slices.ContainsFunc(elems, expiring) {
			a.fieldTTLs("members of sets", a.group)
		}
		return
	case askScores:
		if !a.c.facts.zmscore {
			a.each("ZSCORE", askScore, a.group)
			return
		}
		a.of("ZMSCORE", 1+n)
		a.names(elems)
	case askFields:
		a.ending(elems)
		a.of("HMGET", 1+n)
		a.names(elems)
		a.end(question{kind: askFields, elems: a.group})
		a.fieldExpiries(a.group)
		return
	default:
		more := a.askStreamGroup(elems)
		a.end(question{kind: a.gather, elems: a.group, more: more})
		return
	}
	a.end(question{kind: a.gather, elems: a.group})
}

func expiring(el wantElem) bool { return el.at != 0 }

// ending asks for the time if an element may be gone already.
func (a *asker) ending(elems []wantElem) {
	if slices.ContainsFunc(elems, expiring) {
		a.timed()
	}
}

func (a *asker) names(elems []wantElem) {
	for i := range elems {
		a.arg(a.b.bytes(elems[i].name))
	}
}

// each asks for every element by a command of its own.
func (a *asker) each(command string, kind questionKind, group span) {
	for i := group.from; i < group.to; i++ {
		a.of(command, 2)
		a.arg(a.b.bytes(a.b.elems[i].name))
		a.end(question{kind: kind, elems: span{i, i + 1}})
	}
}

// fieldExpiries asks when fields of a hash expire.
func (a *asker) fieldExpiries(group span) {
	elems := a.b.elems[group.from:group.to]
	if !a.c.facts.hpexpiretime {
		a.fieldTTLs("fields of hashes", group)
		return
	}
	a.of("HPEXPIRETIME", 3+len(elems))
	a.str("FIELDS")
	a.int(int64(len(elems)))
	a.names(elems)
	a.end(question{kind: askFieldExpiries, elems: group})
}

// fieldTTLs asks when fields or members expire by the command that Dragonfly has for it.
func (a *asker) fieldTTLs(what string, group span) {
	if a.c.facts.fieldttl {
		a.timed()
		a.each("FIELDTTL", askFieldTTL, group)
	} else if slices.ContainsFunc(a.b.elems[group.from:group.to], expiring) {
		a.c.note("groups of " + what + " that expire, of which the target doesn't tell when")
	}
}

// element makes of an element a part of a question.
func (a *asker) element(el *rdb.Element) error {
	switch el.Kind {
	case rdb.ElementBytes:
		if a.key.typ == rdb.TypeString {
			return a.piece(el)
		}
		return a.whole(el.Value)
	case rdb.ElementItem:
		return a.item(el)
	case rdb.ElementMember:
		if err := a.gathers(askMembers); err != nil {
			return err
		}
		a.count++
		a.expires(el.ExpireAt)
		return a.add(wantElem{name: a.b.keep(el.Value), at: el.ExpireAt})
	case rdb.ElementScored:
		if err := a.gathers(askScores); err != nil {
			return err
		}
		a.count++
		return a.add(wantElem{name: a.b.keep(el.Value), score: el.Score})
	case rdb.ElementField:
		return a.field(el)
	case rdb.ElementRaw:
		if a.key.module == "vectorset" {
			return a.vectors(el.Value)
		}
		if a.sum == nil {
			a.sum = sha256.New()
		}
		a.sum.Write(el.Value)
		a.count += int64(len(el.Value))
	case rdb.ElementIndexed:
	default:
		return a.streamElement(el)
	}
	return nil
}

// piece asks for a piece of a string: behind the last for a byte more than there may be.
func (a *asker) piece(el *rdb.Element) error {
	n := int64(len(el.Value))
	a.of("GETRANGE", 3)
	a.int(a.count)
	if el.More {
		a.int(a.count + n - 1)
	} else {
		a.int(a.count + n)
	}
	want := a.one(wantElem{want: a.b.keep(el.Value), number: a.count})
	a.end(question{kind: askRange, elems: want})
	a.b.replies += len(el.Value)
	a.count += n
	return a.ungather()
}

// item asks for an item of a list: with others, or alone if it comes in pieces.
func (a *asker) item(el *rdb.Element) error {
	if !el.More && a.sum == nil {
		if err := a.gathers(askItems); err != nil {
			return err
		}
		a.count++
		return a.add(wantElem{want: a.b.keep(el.Value), number: a.count - 1})
	}
	if a.summed(el) {
		return nil
	}
	if err := a.gathers(askSum); err != nil {
		return err
	}
	if a.size > compareWhole {
		a.c.note("list items of more than 64 MiB, which weren't compared")
	} else {
		a.of("LINDEX", 2)
		a.int(a.count)
		a.askSum(wantElem{number: a.count})
	}
	a.sum, a.size = nil, 0
	a.count++
	return a.ungather()
}

// summed adds a piece to the sum, and tells whether more follow.
func (a *asker) summed(el *rdb.Element) (more bool) {
	if a.sum == nil {
		a.sum = sha256.New()
	}
	a.sum.Write(el.Value)
	a.size += int64(len(el.Value))
	return el.More
}

// askSum ends a command that asks for what the sum is of.
func (a *asker) askSum(el wantElem) span {
	el.want = a.b.keep(a.sum.Sum(nil))
	elems := a.one(el)
	a.end(question{kind: askSum, elems: elems, n: a.size})
	a.b.replies += int(a.size)
	return elems
}

func (a *asker) field(el *rdb.Element) error {
	if !el.More && a.sum == nil {
		if err := a.gathers(askFields); err != nil {
			return err
		}
		a.count++
		a.expires(el.ExpireAt)
		return a.add(wantElem{name: a.b.keep(el.Field), want: a.b.keep(el.Value), at: el.ExpireAt})
	}
	if a.summed(el) {
		return nil
	}
	if err := a.gathers(askSum); err != nil {
		return err
	}
	a.count++
	a.expires(el.ExpireAt)
	if el.ExpireAt != 0 {
		a.timed()
	}
	want := wantElem{name: a.b.keep(el.Field), at: el.ExpireAt}
	var elems span
	if a.size > compareWhole {
		a.c.note("hash values of more than 64 MiB, of which only the length was compared")
		a.of("HSTRLEN", 2)
		a.arg(el.Field)
		elems = a.one(want)
		a.end(question{kind: askLength, elems: elems, n: a.size})
	} else {
		a.of("HGET", 2)
		a.arg(el.Field)
		elems = a.askSum(want)
	}
	a.sum, a.size = nil, 0
	a.fieldExpiries(elems)
	return a.ungather()
}

// expires notes when a field or member expires.
func (a *asker) expires(at int64) {
	if at == 0 {
		a.forever = true
	}
	a.last = max(a.last, at)
}

// whole holds a document, if it isn't too large.
func (a *asker) whole(p []byte) error {
	a.count += int64(len(p))
	if a.count <= compareReplies {
		a.wholly = append(a.wholly, p...)
	}
	return nil
}

// finish asks what there is to ask when all elements were asked for.
func (a *asker) finish() error {
	if err := a.gathers(askNothing); err != nil {
		return err
	}
	if !a.forever {
		a.key.fieldsEnd = a.last
	}
	if !a.key.failed.Load() {
		switch a.key.typ {
		case rdb.TypeString:
		case rdb.TypeList:
			a.counted("LLEN")
		case rdb.TypeSet:
			a.counted("SCARD")
		case rdb.TypeZSet:
			a.counted("ZCARD")
		case rdb.TypeHash:
			a.counted("HLEN")
		case rdb.TypeStream:
			if err := a.finishStream(); err != nil {
				return err
			}
		case rdb.TypeJSON:
			a.document()
		default:
			a.opaque()
		}
	}
	a.b.asks = append(a.b.asks, question{kind: askNothing, key: a.key, db: a.n.buildDB, cmd: span{len(a.b.out), len(a.b.out)}})
	return a.ungather()
}

// counted asks for the number of elements, which tells those that are too many. It comes last because it says less than what is
// wrong with one of them.
func (a *asker) counted(command string) {
	a.of(command, 1)
	a.end(question{kind: askCount, n: a.count})
}

// opaque asks for what no command takes apart.
func (a *asker) opaque() {
	a.of("TYPE", 1)
	a.end(question{kind: askType, rank: rankType})
	if v := &a.vector; v.ended && !v.unknown {
		a.count = int64(v.elements)
		a.counted("VCARD")
		return
	}
	if a.sum == nil || a.count > compareReplies {
		a.c.note("values of type " + a.typeName() + ", of which only the type was compared")
		return
	}
	a.of("DUMP", 1)
	a.end(question{kind: askDump, elems: a.one(wantElem{want: a.b.keep(a.sum.Sum(nil))}), n: a.count, more: a.typeName()})
	a.b.replies += int(a.count)
}

func (a *asker) typeName() string {
	if a.key.module != "" {
		return a.key.module
	}
	return a.key.typ.String()
}

// document asks for a document of JSON.
func (a *asker) document() {
	if a.count > compareReplies {
		a.c.note("JSON documents of more than 512 KiB, which weren't compared")
		a.of("TYPE", 1)
		a.end(question{kind: askType, rank: rankType})
		return
	}
	a.key.number = len(bytes.Trim(a.wholly, "-0123456789")) == 0
	a.of("JSON.GET", 1)
	a.end(question{kind: askJSON, elems: a.one(wantElem{want: a.b.keep(a.wholly)})})
	a.b.replies += len(a.wholly)
}
