package scan

import (
	"context"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
)

// What is under way at a time, as far as the sizes of the values before tell: bytes of all answers, and of one transaction. In a transaction the server lets
// nobody else in.
const (
	windowBytes = 4 << 20
	groupBytes  = 64 << 10
	groupKeys   = 64
)

// A request is what is under way: a SCAN if page is nil, else the keys from, to of a page in one transaction, which are asked for as strings or not.
type request struct {
	page     *page
	from, to int
	strings  bool
}

// A scanner makes the stream of one part. It is used by one goroutine, which owns it.
type scanner struct {
	s     *Snapshotter
	ctx   context.Context // ends when nobody reads on
	node  *node
	wire  *wire
	out   *output
	seen  *seen
	keys  *bucket
	bytes *bucket
	lost  func() bool // takes note that the stream is spoilt, and tells whether it may be made again
	info  resp.Info   // of the server when the scan began

	counts   catalog.Scan
	received int64 // bytes of connections before this one

	// Of the database that is being scanned.
	db       database
	cursor   string
	scanning bool                   // a SCAN is under way
	listed   bool                   // all names were
	rest     func() ([]byte, error) // names that were put off, after that; nil: not yet, or no more
	pages    []*page                // with keys that aren't asked for yet, in order
	finished bool                   // there are no more names than those of pages
	again    []request              // that are to be asked for again
	pending  []request              // under way, in order
	head     int                    // of pending
	inFlight int                    // keys
	window   int                    // how many may be
	average  float64                // bytes of answers per key
	likely   likely
	others   *page // keys that are no strings, and not asked for yet
	spare    []*page

	first    map[string]byte // type bytes of keys whose values were lost with a connection
	spoilt   bool            // a value was handed on in part
	progress int64           // answers
	before   int64           // progress when the connection broke last
	attempts int             // to connect again, without progress
	refused  []refusal       // memory of answerKeys
	expiries []int64         // memory of answerStrings
	waited   time.Duration   // for the server to be ready, since it answered last
}

// run makes the whole stream.
func (sc *scanner) run() error {
	o, d := sc.out, sc.node.dialect
	o.header(d)
	for _, fact := range sc.facts() {
		o.aux(fact[0], fact[1])
	}
	for f := sc.node.functions; len(f) > 0; {
		n := min(len(f), chunkSize/2)
		if err := o.room(n); err != nil {
			return err
		}
		o.buf = append(o.buf, f[:n]...)
		f = f[n:]
	}
	sc.node.functions = nil
	for _, db := range sc.node.dbs {
		if err := sc.database(db); err != nil {
			return err
		}
	}
	if err := sc.countExpired(); err != nil {
		return err
	}
	return o.finish()
}

// facts are what servers say of themselves at the beginning of their streams.
func (sc *scanner) facts() [][2]string {
	info := sc.node.Info
	var facts [][2]string
	add := func(name, value string) {
		if value != "" {
			facts = append(facts, [2]string{name, value})
		}
	}
	engine, version := sc.node.Engine()
	if engine == "valkey" {
		add("valkey-ver", version)
	} else {
		add("redis-ver", info["redis_version"])
	}
	add("df-ver", info["dragonfly_version"])
	add("redis-bits", info["arch_bits"])
	add("ctime", strconv.FormatInt(sc.s.now().Unix(), 10))
	if engine != "dragonfly" { // which refuses to load more than it thinks it has room for
		add("used-mem", info["used_memory"])
	}
	return facts
}

// database scans one database.
func (sc *scanner) database(db database) error {
	sc.db, sc.cursor, sc.scanning, sc.listed, sc.finished, sc.rest = db, "0", false, false, false, nil
	sc.seen.begin(db.keys, sc.s.tuning.filter)
	if err := sc.out.selectDB(db, sc.node.dialect); err != nil {
		return err
	}
	if err := sc.selectDB(); err != nil {
		if err = sc.recover(err); err != nil {
			return err
		}
	}
	for {
		if err := sc.fill(); err != nil {
			return err
		}
		if sc.head == len(sc.pending) {
			break
		}
		if err := sc.answer(); err != nil {
			if err = sc.recover(err); err != nil {
				return err
			}
		}
	}
	sc.counts.Listed += sc.seen.count
	return nil
}

func (sc *scanner) selectDB() error {
	if sc.db.index == 0 && len(sc.node.dbs) == 1 {
		return nil // that is where a connection begins; a cluster's node may not know SELECT
	}
	return sc.wire.do("SELECT", strconv.Itoa(sc.db.index))
}

// fill asks for more, as much as there may be under way. If nothing is under way afterwards, all is done.
func (sc *scanner) fill() error {
	for {
		// Names are listed ahead, so that the server needn't wait for us.
		if !sc.scanning && !sc.listed && sc.unasked() < sc.s.cfg.Batch/2+1 {
			sc.wire.command("SCAN", sc.cursor, "COUNT", strconv.Itoa(sc.s.cfg.Batch))
			sc.pending = append(sc.pending, request{})
			sc.scanning = true
		}
		if sc.listed && !sc.finished && len(sc.pages) == 0 {
			if err := sc.fillRest(); err != nil {
				return err
			}
		}
		r, ok := sc.next()
		if !ok {
			return nil
		}
		sc.keys.take(r.to - r.from)
		sc.ask(r)
	}
}

// unasked counts the names that are listed and not yet asked for, until there are enough.
func (sc *scanner) unasked() (n int) {
	for _, p := range sc.pages {
		n += p.len() - p.next
	}
	return n
}

// fillRest makes a page of names that were put off.
func (sc *scanner) fillRest() error {
	if sc.rest == nil {
		rest, err := sc.seen.rest()
		if err != nil {
			return sc.node.Fail("tell names apart", err)
		}
		sc.rest = rest
	}
	p := sc.newPage()
	for p.len() < sc.s.cfg.Batch && len(p.names) < maxLine {
		name, err := sc.rest()
		if err != nil {
			sc.list(p)
			if sc.finished = err == io.EOF; sc.finished {
				return nil
			}
			return sc.node.Fail("tell names apart", err)
		}
		p.add(name)
	}
	sc.list(p)
	return nil
}

// next chooses the keys to ask for next, if some may be.
func (sc *scanner) next() (r request, ok bool) {
	if len(sc.again) > 0 {
		r = sc.again[0]
		if sc.inFlight > 0 && sc.inFlight+r.to-r.from > sc.window {
			return r, false
		}
		sc.again = sc.again[1:]
		return r, true
	}
	if sc.others != nil && (len(sc.pages) == 0 || sc.others.len() >= sc.groupSize() || len(sc.others.names) >= maxLine) {
		sc.pages = slices.Insert(sc.pages, 0, sc.others)
		sc.others = nil
	}
	if len(sc.pages) == 0 {
		return r, false
	}
	p := sc.pages[0]
	n := min(sc.groupSize(), p.len()-p.next)
	if sc.inFlight > 0 && sc.inFlight+n > sc.window {
		return r, false
	}
	if sc.node.cluster {
		n = sameSlot(p, n)
	}
	r = request{p, p.next, p.next + n, p.strings}
	p.next += n
	p.open++
	if p.next == p.len() {
		sc.pages = sc.pages[1:]
	}
	return r, true
}

// sameSlot returns how many of the next n keys of a page, one at least, are in the slot of the first: a cluster's node takes no others into one transaction.
func sameSlot(p *page, n int) int {
	slot := target.Slot(p.name(p.next))
	for i := 1; i < n; i++ {
		if target.Slot(p.name(p.next+i)) != slot {
			return i
		}
	}
	return n
}

// groupSize is how many keys go into a transaction.
func (sc *scanner) groupSize() int {
	if n := sc.s.tuning.group; n > 0 {
		return n
	}
	n := min(groupKeys, int(groupBytes/sc.average))
	if rate := sc.s.cfg.KeysPerSecond; rate > 0 {
		n = min(n, int(rate/20))
	}
	return max(n, 1)
}

// ask sends the commands that read keys.
func (sc *scanner) ask(r request) {
	out := append(sc.wire.out, "*1\r\n$5\r\nMULTI\r\n"...)
	if sc.node.old {
		out = append(out, "*1\r\n$4\r\nTIME\r\n"...)
	}
	if r.strings {
		out = sc.askStrings(out, r)
	} else {
		for i := r.from; i < r.to; i++ {
			name := r.page.name(i)
			out = sc.askExpiry(out, name)
			out = appendArg(append(out, "*2\r\n$4\r\nDUMP\r\n$"...), name)
		}
	}
	sc.wire.out = append(out, "*1\r\n$4\r\nEXEC\r\n"...)
	sc.pending = append(sc.pending, r)
	sc.inFlight += r.to - r.from
}

func (sc *scanner) askExpiry(out, name []byte) []byte {
	if sc.node.old {
		out = append(out, "*2\r\n$4\r\nPTTL\r\n$"...)
	} else {
		out = append(out, "*2\r\n$11\r\nPEXPIRETIME\r\n$"...)
	}
	return appendArg(out, name)
}

func appendArg(out, arg []byte) []byte {
	return append(append(appendNumber(out, len(arg)), arg...), "\r\n"...)
}

func appendNumber(out []byte, n int) []byte {
	return append(strconv.AppendInt(out, int64(n), 10), "\r\n"...)
}

// answer reads the answer to the first request under way.
func (sc *scanner) answer() error {
	r := sc.pending[sc.head]
	if r.page == nil {
		return sc.answerScan()
	}
	return sc.answerKeys(r)
}

// shift takes the first request off those under way.
func (sc *scanner) shift() {
	r := sc.pending[sc.head]
	sc.pending[sc.head] = request{}
	if sc.head++; sc.head == len(sc.pending) {
		sc.pending, sc.head = sc.pending[:0], 0
	}
	sc.inFlight -= r.to - r.from
	sc.progress++
}

// done lets go of a request's page.
func (sc *scanner) done(p *page) {
	if p.open--; p.open == 0 && p.next == p.len() {
		sc.recycle(p)
	}
}

func (sc *scanner) newPage() *page {
	if n := len(sc.spare); n > 0 {
		p := sc.spare[n-1]
		sc.spare = sc.spare[:n-1]
		return p
	}
	return new(page)
}

func (sc *scanner) recycle(p *page) {
	p.reset()
	if cap(p.names) <= 1<<20 && len(sc.spare) < 8 {
		sc.spare = append(sc.spare, p)
	}
}

func (sc *scanner) answerScan() error {
	p := sc.newPage()
	cursor, err := p.receive(sc.wire)
	if err != nil {
		sc.recycle(p)
		if err = sc.wait("SCAN", err); err == nil {
			sc.scanning = false // fill asks again
			sc.shift()
		}
		return err
	}
	sc.waited = 0
	sc.scanning, sc.cursor, sc.listed = false, cursor, cursor == "0"
	sc.shift()
	// Those that may have come before go out of the page.
	p.keep(func(name []byte) bool {
		isNew, e := sc.seen.pass(name)
		if e != nil {
			err = e
		}
		return isNew
	})
	if err != nil {
		return sc.node.Fail("tell names apart", err)
	}
	sc.list(p)
	return nil
}
