package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
)

// answer reads the answer to a question and holds it against what is wanted.
func (n *compareNode) answer(b *compareBatch, i int) error {
	q := &b.asks[i]
	if q.kind == askNothing {
		n.done = append(n.done, q.key)
		return nil
	}
	err := n.read(b, i)
	if k := q.key; k.text != "" && k.rank == q.rank && q.kind.detail() {
		k.detail = q.rank
	}
	return err
}

func (n *compareNode) read(b *compareBatch, i int) error {
	q := &b.asks[i]
	kind, count, err := n.in.head()
	if err != nil {
		return err
	}
	switch {
	case q.kind == askSelect && kind != resp.Failure:
		n.selected(q.db, nil)
		return nil
	case n.noDB != "" && q.kind != askSelect && q.kind != askTime:
		q.key.fail(rankDB, "%s", n.noDB)
		return n.in.rest(kind, count)
	case kind == resp.Failure:
		return n.refused(b, i, n.in.line)
	}
	want := resp.Array
	switch q.kind {
	case askExpiry, askTTL, askLength, askMember, askFieldTTL, askCount:
		want = resp.Integer
	case askRange, askSum, askScore, askDump, askJSON, askAttributes:
		want = resp.Bulk
	case askType:
		want = resp.Status
	}
	if kind != want && kind != resp.Null {
		return n.unexpected(q)
	}
	switch q.kind {
	case askTime:
		return n.readTime(q, count)
	case askExpiry, askTTL:
		n.expiry(q, count)
	case askLength:
		n.length(b, q, count)
	case askFieldTTL:
		n.fieldTTL(b, q, count)
	case askMember:
		n.member(b, q, &b.elems[q.elems.from], count)
	case askCount:
		if count > q.n || count < q.n-q.key.soon {
			q.key.fail(math.MaxInt, "has %d %s, the backup has %d", count, elementsOf(q.key.typ), q.n)
		}
	case askType:
		if n.in.line == "none" {
			q.key.fail(rankMissing, "is missing")
		} else if w := moduleType(q.key); n.in.line != w {
			q.key.fail(rankType, "%s", typeDiffers(n.in.line, q.key))
		}
	case askRange:
		return n.readRange(b, q, kind, count)
	case askScore:
		return n.readScore(b, q, &b.elems[q.elems.from], kind, count)
	case askSum:
		return n.readSum(b, q, kind, count)
	case askDump:
		return n.readDump(b, q, kind, count)
	case askJSON:
		return n.readJSON(b, q, kind, count)
	case askVector:
		return n.readVector(b, q, kind, count)
	case askAttributes:
		return n.readAttributes(b, q, kind, count)
	case askEntries:
		return n.readEntries(b, q, count)
	case askStreamInfo:
		return n.readInfo(q, count)
	case askGroups:
		return n.readGroups(q, count)
	case askConsumers:
		return n.readConsumers(q, count)
	case askPending, askOwned:
		return n.readPending(b, q, count)
	default:
		return n.readElements(b, q, count)
	}
	return nil
}

// readElements reads an array with something for each element.
func (n *compareNode) readElements(b *compareBatch, q *question, count int64) error {
	elems := b.elems[q.elems.from:q.elems.to]
	if count > int64(len(elems)) || count < int64(len(elems)) && q.kind != askItems {
		if count <= 0 { // Redis 7.4 says so of a key that is missing
			return nil
		}
		return n.unexpected(q)
	}
	for i := range elems[:max(count, 0)] {
		w := &elems[i]
		kind, v, err := n.in.head()
		if err != nil {
			return err
		}
		if kind == resp.Failure {
			return &compareError{q.key, fmt.Errorf("%v: %w", q.kind, serverError(n.in.line))}
		}
		switch q.kind {
		case askItems:
			same, err := n.in.equal(kind, v, b.bytes(w.want))
			if err != nil {
				return err
			}
			if !same {
				q.key.fail(q.rank, "item %d %s", w.number, n.in.differs(0, b.bytes(w.want)))
			}
		case askMembers:
			n.member(b, q, w, v)
		case askScores:
			if err := n.readScore(b, q, w, kind, v); err != nil {
				return err
			}
		case askFields:
			same, err := n.in.equal(kind, v, b.bytes(w.want))
			if err != nil {
				return err
			}
			if !same {
				n.fieldDiffers(b, q, w, kind)
			}
		case askFieldExpiries:
			n.fieldExpiry(b, q, w, v)
		}
	}
	if q.kind == askItems && count < int64(len(elems)) {
		q.key.fail(q.rank, "item %d is missing, the backup has %s", elems[count].number, short(b.bytes(elems[count].want)))
	}
	return nil
}

func (n *compareNode) fieldDiffers(b *compareBatch, q *question, w *wantElem, kind resp.Kind) {
	switch {
	case kind != resp.Null:
		q.key.fail(q.rank, "field %s %s", short(b.bytes(w.name)), n.in.differs(0, b.bytes(w.want)))
	case n.ends(w.at):
		q.key.soon++
	default:
		q.key.fail(q.rank, "field %s is missing", short(b.bytes(w.name)))
	}
}

func (n *compareNode) fieldExpiry(b *compareBatch, q *question, w *wantElem, got int64) {
	want, what := w.at, "field"
	if want == 0 {
		want = -1
	}
	if q.key.typ == rdb.TypeSet {
		what = "member"
	}
	switch {
	case got == want || got == -2: // HMGET tells that it is missing
	case n.ends(w.at) && got < n.now:
	case got == -1:
		q.key.fail(q.rank, "%s %s never expires, in the backup at %s", what, short(b.bytes(w.name)), moment(want))
	case want == -1:
		q.key.fail(q.rank, "%s %s expires at %s, in the backup never", what, short(b.bytes(w.name)), moment(got))
	default:
		q.key.fail(q.rank, "%s %s expires at %s, in the backup at %s", what, short(b.bytes(w.name)), moment(got), moment(want))
	}
}

// fieldTTL holds the answer to FIELDTTL, in seconds, against when a field or member expires.
func (n *compareNode) fieldTTL(b *compareBatch, q *question, got int64) {
	w := &b.elems[q.elems.from]
	if got >= 0 {
		got = n.now + got*1000
		if w.at != 0 && got >= w.at-compareTolerance && got <= w.at+compareTolerance {
			got = w.at
		}
	} else if got == -3 {
		got = -2 // as HPEXPIRETIME says of what is missing
	}
	n.fieldExpiry(b, q, w, got)
}

func (n *compareNode) member(b *compareBatch, q *question, w *wantElem, is int64) {
	switch {
	case is != 0:
	case n.ends(w.at):
		q.key.soon++
	default:
		q.key.fail(q.rank, "member %s is missing", short(b.bytes(w.name)))
	}
}

func (n *compareNode) readScore(b *compareBatch, q *question, w *wantElem, kind resp.Kind, size int64) error {
	if kind == resp.Null {
		q.key.fail(q.rank, "member %s is missing", short(b.bytes(w.name)))
		return nil
	}
	if kind != resp.Bulk {
		return n.unexpected(q)
	}
	text, err := n.in.take(size)
	if err != nil {
		return err
	}
	score, err := strconv.ParseFloat(string(text), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return n.unexpected(q)
	}
	if score != w.score {
		q.key.fail(q.rank, "member %s has the score %s, in the backup %s", short(b.bytes(w.name)), short(text), strconv.FormatFloat(w.score, 'g', -1, 64))
	}
	return nil
}

func (n *compareNode) readTime(q *question, count int64) error {
	if count != 2 {
		return n.unexpected(q)
	}
	s, err := n.in.integer()
	if err != nil {
		return err
	}
	us, err := n.in.integer()
	n.now = s*1000 + us/1000
	return err
}

// expiry holds the answer to PEXPIRETIME or PTTL against a key's expiry.
func (n *compareNode) expiry(q *question, got int64) {
	k := q.key
	if !n.c.facts.time {
		n.now = clock.System().UnixMilli()
	}
	slack := int64(0)
	if q.kind == askTTL && got >= 0 {
		got, slack = got+n.now, compareTolerance
	} else if n.c.facts.dragonfly {
		slack = 1000 // it keeps whole seconds where the time is far off
		if far := n.now + compareFarthest; k.expireAt > far && got > far-compareTolerance-24*3600*1000 && got < k.expireAt {
			n.c.note("keys that expire later than Dragonfly can keep, which is in eight and a half years")
			return
		}
	} else if n.c.slots != nil {
		slack = compareTolerance // keys of a slot that moves expire later by the time that their way takes
	}
	switch {
	case got == -2:
		k.fail(rankMissing, "is missing")
	case got == -1 && k.hasExpiry:
		k.fail(q.rank, "never expires, in the backup at %s", moment(k.expireAt))
	case got >= 0 && !k.hasExpiry:
		k.fail(q.rank, "expires at %s, in the backup never", moment(got))
	case got >= 0 && (got < k.expireAt-slack || got > k.expireAt+slack):
		k.fail(q.rank, "expires at %s, in the backup at %s", moment(got), moment(k.expireAt))
	}
}

func (n *compareNode) length(b *compareBatch, q *question, got int64) {
	w := &b.elems[q.elems.from]
	switch {
	case got == q.n:
	case got == 0 && n.ends(w.at):
		q.key.soon++
	default:
		q.key.fail(q.rank, "field %s has %d bytes, in the backup %d", short(b.bytes(w.name)), got, q.n)
	}
}

// readRange reads a piece of a string, and a byte more if the string is longer than the backup's.
func (n *compareNode) readRange(b *compareBatch, q *question, kind resp.Kind, size int64) error {
	w := &b.elems[q.elems.from]
	want := b.bytes(w.want)
	same, err := n.in.equal(kind, size, want)
	switch {
	case err != nil || same:
	case size == int64(len(want))+1 && n.in.diff == int64(len(want)):
		q.key.fail(q.rank, "is longer than the %d bytes that the backup has", w.number+int64(len(want)))
	default:
		q.key.fail(q.rank, "%s", n.in.differs(w.number, want))
	}
	return err
}

// readSum reads an element of which only length and SHA-256 are known.
func (n *compareNode) readSum(b *compareBatch, q *question, kind resp.Kind, size int64) error {
	w := &b.elems[q.elems.from]
	what := fmt.Sprintf("item %d", w.number)
	if w.name.from < w.name.to || q.key.typ == rdb.TypeHash {
		what = "field " + short(b.bytes(w.name))
	}
	if kind == resp.Null {
		if n.ends(w.at) {
			q.key.soon++
		} else {
			q.key.fail(q.rank, "%s is missing", what)
		}
		return nil
	}
	sum := sha256.New()
	if err := n.in.copy(sum, size); err != nil {
		return err
	}
	if size != q.n {
		q.key.fail(q.rank, "%s has %d bytes, in the backup %d", what, size, q.n)
	} else if !bytes.Equal(sum.Sum(nil), b.bytes(w.want)) {
		q.key.fail(q.rank, "%s is another than in the backup, of the same %d bytes", what, size)
	}
	return nil
}

// readDump reads a DUMP payload: the type, the value, and a footer of ten bytes.
func (n *compareNode) readDump(b *compareBatch, q *question, kind resp.Kind, size int64) error {
	sum, name := sha256.New(), q.more.(string)
	if kind == resp.Null {
		q.key.fail(rankMissing, "is missing")
		return nil
	}
	if err := n.in.copy(&within{sum, 1, size - 10}, size); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), b.bytes(b.elems[q.elems.from].want)) {
		n.c.note("values of type " + name + ", of which only the type was compared: the target's dump is another, which it may be")
	}
	return nil
}

// within passes on the bytes from one place to another.
type within struct {
	w        hash.Hash
	from, to int64
}

func (x *within) Write(p []byte) (int, error) {
	n := int64(len(p))
	if lo, hi := max(x.from, 0), min(x.to, n); lo < hi {
		x.w.Write(p[lo:hi])
	}
	x.from -= n
	x.to -= n
	return len(p), nil
}

// readJSON reads a document and compares what it says.
func (n *compareNode) readJSON(b *compareBatch, q *question, kind resp.Kind, size int64) error {
	want := b.bytes(b.elems[q.elems.from].want)
	if kind == resp.Null {
		q.key.fail(rankMissing, "is missing")
		return nil
	}
	if size > 4*compareReplies {
		q.key.fail(q.rank, "is a document of %d bytes, in the backup of %d", size, len(want))
		return n.in.copy(io.Discard, size)
	}
	got, err := n.in.take(size)
	if err != nil {
		return err
	}
	if !sameJSON(got, want) {
		q.key.fail(q.rank, "is %s, the backup has %s", short(got), short(want))
	}
	return nil
}

// sameJSON tells whether two documents say the same: whatever the order of names, blanks, and how numbers are written.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, err1 := parseJSON(a)
	y, err2 := parseJSON(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(x, y)
}

func parseJSON(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return plainNumbers(v), nil
}

// plainNumbers writes all numbers alike: whole ones without a point, others as the nearest that 64 bits can hold.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		text := v.String()
		f, err := v.Float64()
		switch {
		case err != nil || !strings.ContainsAny(text, ".eE"):
			return v
		case f == math.Trunc(f) && math.Abs(f) < 1<<53:
			return json.Number(strconv.FormatInt(int64(f), 10))
		}
		return json.Number(strconv.FormatFloat(f, 'g', -1, 64))
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k])
		}
	}
	return v
}

// moduleType returns what TYPE has to say of a value that no command takes apart.
func moduleType(k *comparedKey) string {
	switch k.typ {
	case rdb.TypeModule:
		return k.module
	case rdb.TypeJSON:
		return "ReJSON-RL"
	case rdb.TypeBloom:
		return "MBbloom--"
	case rdb.TypeCMS:
		return "CMSk-TYPE"
	case rdb.TypeTopK:
		return "TopK-TYPE"
	case rdb.TypeCuckoo:
		return "MBbloomCF"
	}
	return k.typ.String()
}

// elementsOf names what a type consists of.
func elementsOf(t rdb.Type) string {
	switch t {
	case rdb.TypeList:
		return "items"
	case rdb.TypeHash:
		return "fields"
	case rdb.TypeStream:
		return "entries"
	case rdb.TypeModule:
		return "elements"
	}
	return "members"
}

// unexpected is an answer of a kind that the question doesn't have.
func (n *compareNode) unexpected(q *question) error {
	return &compareError{q.key, fmt.Errorf("%v: %w", q.kind, errUnexpectedReply)}
}

// A functionSet is libraries of functions that the target has to have: by the SHA-256 of their code, the first words of it.
type functionSet struct{ code map[[32]byte]string }

// add adds a library.
func (s *functionSet) add(elements iter.Seq2[*rdb.Element, error]) error {
	sum, first := sha256.New(), []byte(nil)
	for el, err := range elements {
		if err != nil {
			return err
		}
		sum.Write(el.Value)
		if first == nil {
			first = bytes.Clone(el.Value[:min(len(el.Value), 128)])
		}
	}
	if s.code == nil {
		s.code = map[[32]byte]string{}
	}
	line, _, _ := strings.Cut(string(first), "\n")
	_, name, _ := strings.Cut(line, "name=")
	name, _, _ = strings.Cut(name, " ")
	s.code[[32]byte(sum.Sum(nil))] = name
	return nil
}

// functions compares libraries of functions with those of each node.
func (c *comparer) functions(ctx context.Context, want *functionSet, res *comparison) error {
	if len(want.code) == 0 {
		return nil
	}
	addrs := []string{""}
	if c.slots != nil {
		addrs = slices.Compact(slices.Sorted(slices.Values(c.slots)))
	}
	for _, addr := range addrs {
		if addr == "" && c.slots != nil {
			continue // slots that nobody has
		}
		missing := maps.Clone(want.code)
		conn := c.connTo(addr)
		err := persist(ctx, func() error {
			if _, err := conn.Open(ctx); err != nil {
				return err
			}
			return conn.Exchange(ctx, compareTimeout, resp.AppendCommand(nil, "FUNCTION", "LIST", "WITHCODE"), func(r *resp.Reader) error {
				return (&answers{r: r}).libraries(missing)
			})
		})
		conn.Close()
		if err != nil {
			return fmt.Errorf("FUNCTION LIST: %w", err)
		}
		for _, name := range slices.Sorted(maps.Values(missing)) {
			res.add(fmt.Sprintf("function library %s is missing, or is another than in the backup", quoteUpTo(name, 32)))
		}
	}
	return nil
}
