package scan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/internal/resp"
)

// A refusal is a key of a transaction that the server didn't read, and why.
type refusal struct {
	key int // -1: it is about the whole transaction
	err resp.Error
}

// refuse takes note of an error reply; any other error is returned.
func (sc *scanner) refuse(key int, err error) error {
	var e resp.Error
	if !errors.As(err, &e) {
		return err
	}
	sc.refused = append(sc.refused, refusal{key, e})
	return nil
}

// answerKeys reads the answer to a transaction, of which each command is answered first as it is queued.
func (sc *scanner) answerKeys(r request) error {
	w := sc.wire
	sc.refused = sc.refused[:0]
	if err := sc.queued(-1); err != nil {
		return err
	}
	if sc.node.old {
		if err := sc.queued(-1); err != nil {
			return err
		}
	}
	commands := 2 // a key
	if r.strings {
		commands = 1
		if err := sc.queued(-1); err != nil {
			return err
		}
	}
	for i := r.from; i < r.to; i++ {
		for range commands {
			if err := sc.queued(i); err != nil {
				return err
			}
		}
	}
	n, err := w.want(resp.Array)
	if err != nil {
		if err := sc.refuse(-1, err); err != nil {
			return err
		}
		return sc.aborted(r)
	}
	want := int64(commands * (r.to - r.from))
	if r.strings {
		want++
	}
	var now int64
	if sc.node.old {
		want++
	}
	if n != want {
		return w.bad(fmt.Sprintf("an answer to EXEC with %d elements of %d", n, want))
	}
	if sc.node.old {
		if now, err = w.time(); err != nil {
			return err
		}
	}
	sc.refused = sc.refused[:0]
	if r.strings {
		if err := sc.answerStrings(r, now); err != nil {
			return err
		}
		return sc.settle(r)
	}
	for i := r.from; i < r.to; i++ {
		if err := sc.answerKey(r.page.name(i), i, now); err != nil {
			return err
		}
		sc.answered()
	}
	return sc.settle(r)
}

// answered takes note that a key of the first request under way is done, should the connection break.
func (sc *scanner) answered() {
	sc.pending[sc.head].from++
	sc.inFlight--
}

// queued reads the answer to a command that is only queued.
func (sc *scanner) queued(key int) error {
	if b, err := sc.wire.peek(5); err == nil && (string(b) == "+OK\r\n" || string(b) == "+QUEU") {
		// The text of a status doesn't matter.
		if b[1] == 'O' {
			sc.wire.r += 5
			return nil
		}
		if b, err = sc.wire.peek(9); err == nil && string(b) == "+QUEUED\r\n" {
			sc.wire.r += 9
			return nil
		}
	}
	if err := sc.wire.discard(0); err != nil {
		return sc.refuse(key, err)
	}
	return nil
}

// time reads the answer to TIME, in Unix milliseconds.
func (w *wire) time() (int64, error) {
	n, err := w.want(resp.Array)
	if err != nil {
		return 0, err
	}
	if n != 2 {
		return 0, w.bad("an answer to TIME that is no pair")
	}
	var parts [2]int64
	for i := range parts {
		text, _, err := w.text(32)
		if err != nil {
			return 0, err
		}
		var ok bool
		if parts[i], ok = number(text); !ok {
			return 0, w.bad("a time that is no number")
		}
	}
	return parts[0]*1000 + parts[1]/1000, nil
}

// settle is what is left to do when a transaction was answered: some of its keys may have been refused.
func (sc *scanner) settle(r request) error {
	sc.shift()
	if len(sc.refused) > 0 {
		if err := sc.sortOut(r); err != nil {
			return err
		}
	} else {
		sc.waited = 0
	}
	sc.done(r.page)
	return nil
}

// aborted is what is left to do when nothing of a transaction was done.
func (sc *scanner) aborted(r request) error {
	first := sc.refused[0]
	if first.key >= 0 && elsewhere(first.err.Code()) {
		// Others of them can be read.
		moved := map[int]bool{}
		for _, f := range sc.refused {
			moved[f.key] = true
		}
		sc.shift()
		for i := r.from; i < r.to; i++ {
			if moved[i] {
				sc.counts.Moved++
			} else {
				sc.askAgain(request{page: r.page, from: i, to: i + 1})
			}
		}
		sc.done(r.page)
		return nil
	}
	code := first.err.Code()
	alone := r.to-r.from == 1
	switch {
	case alone && elsewhere(code):
		sc.counts.Moved++
		sc.shift()
	case elsewhere(code) || !alone && code == "TRYAGAIN":
		// Some went away after they were queued: each tells by itself.
		sc.shift()
		for i := r.from; i < r.to; i++ {
			sc.askAgain(request{page: r.page, from: i, to: i + 1})
		}
	default:
		if err := sc.wait("DUMP", first.err); err != nil {
			return err
		}
		sc.shift()
		sc.askAgain(r)
	}
	sc.done(r.page)
	return nil
}

// sortOut does what is to be done about keys that were refused.
func (sc *scanner) sortOut(r request) error {
	for _, f := range sc.refused {
		if elsewhere(f.err.Code()) {
			sc.counts.Moved++
			continue
		}
		if err := sc.wait("DUMP", f.err); err != nil {
			return err
		}
		sc.askAgain(request{page: r.page, from: f.key, to: f.key + 1})
	}
	return nil
}

func (sc *scanner) askAgain(r request) {
	r.page.open++
	sc.again = append(sc.again, r)
}

// patience is how long a server that isn't ready is left alone.
const patience = 200 * time.Millisecond

// wait waits if an error reply means that the server will be able to answer soon, and turns it into the error to end with otherwise.
func (sc *scanner) wait(step string, err error) error {
	var e resp.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() {
	case "LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN":
		if sc.waited >= sc.s.cfg.StallTimeout {
			return sc.node.Fail(step, link.As(backup.ErrTransient, e))
		}
		sc.waited += patience
		if err := clock.Sleep(sc.ctx, patience); err != nil {
			return sc.node.Fail(step, err)
		}
		return nil
	case "NOPERM":
		failed := sc.node.Fail(step, e)
		var se *backup.SourceError
		if errors.As(failed, &se) && strings.Contains(e.Error(), "key") {
			se.Hint = "the user may not read all keys, and a backup without some would be none: allow it all of them, for reading: ACL SETUSER <user> %R~* (Redis 6: ~*)"
		}
		return failed
	}
	return sc.node.Fail(step, e)
}

// answerKey reads what a transaction says of one key, and writes the key.
func (sc *scanner) answerKey(name []byte, i int, now int64) error {
	w := sc.wire
	expiry, err := w.want(resp.Integer)
	failed := err != nil
	if failed {
		if err := sc.refuse(i, err); err != nil {
			return err
		}
	}
	size, err := w.want(resp.Bulk)
	if err != nil {
		if failed && link.IsReply(err) {
			return nil
		}
		return sc.refuse(i, err)
	}
	switch {
	case failed && size >= 0:
		return sc.skip(size)
	case failed:
		return nil
	case size < 0:
		sc.counts.Gone++
		return nil
	case expiry < -1: // no transaction gives that
		sc.refused = append(sc.refused, refusal{i, "TRYAGAIN the key has a value and no time to live"})
		return sc.skip(size)
	case size < 2+footerLen:
		return w.bad(fmt.Sprintf("a DUMP payload of %d bytes", size))
	}
	if sc.node.old && expiry >= 0 {
		expiry += now
	}
	sc.measure(size)
	head, err := w.peek(1)
	if err != nil {
		return err
	}
	sc.likely.learn(name, head[0] == codeString)
	if size+2 <= maxLine {
		return sc.small(name, expiry, int(size))
	}
	return sc.large(name, expiry, size)
}

// measure takes note of how large a value is.
func (sc *scanner) measure(size int64) {
	sc.average += (float64(size+64) - sc.average) / 64
	sc.window = max(min(sc.s.cfg.Batch, int(windowBytes/sc.average)), 1)
}

func (sc *scanner) skip(size int64) error {
	if err := sc.wire.skip(size); err != nil {
		return err
	}
	return sc.wire.end()
}

// small writes a key whose payload fits into the wire's buffer.
func (sc *scanner) small(name []byte, expiry int64, size int) error {
	b, err := sc.wire.peek(size + 2)
	if err != nil {
		return err
	}
	if b[size] != '\r' || b[size+1] != '\n' {
		return sc.wire.bad(fmt.Sprintf("%q where a DUMP payload has to end", b[size:]))
	}
	payload := b[:size]
	at := size - crc64.Size
	if err := sc.checkFooter(name, payload[at-2:], crc64.Checksum(payload[:at])); err != nil {
		return err
	}
	sc.wire.r += size + 2
	if sc.special(payload[0]) {
		return sc.encode(name, expiry, payload[:at-2], payload[:at+crc64.Size])
	}
	sc.compare(name, payload[0])
	if err := sc.out.room(32 + len(name) + size); err != nil {
		return err
	}
	sc.begin(name, expiry, payload[0])
	sc.out.buf = append(sc.out.buf, payload[1:at-2]...)
	return nil
}

// begin writes what stands before a value.
func (sc *scanner) begin(name []byte, expiry int64, code byte) {
	b := sc.out.buf
	if expiry >= 0 {
		b = binary.LittleEndian.AppendUint64(append(b, opExpireMillis), uint64(expiry))
	}
	b = appendLength(append(b, code), uint64(len(name)))
	sc.out.buf = append(b, name...)
}

// large writes a key while its payload comes in. What is handed on before the payload's end can't be taken back.
func (sc *scanner) large(name []byte, expiry, size int64) error {
	w, o := sc.wire, sc.out
	head, err := w.peek(1)
	if err != nil {
		return err
	}
	code := head[0]
	if sc.special(code) {
		return sc.largeSpecial(name, expiry, size)
	}
	w.r++
	if err := o.room(int(min(32+int64(len(name))+size, chunkSize))); err != nil {
		return err
	}
	mark, handed := len(o.buf), o.n
	sc.compare(name, code)
	sum := crc64.Update(0, []byte{code})
	sc.begin(name, expiry, code)
	err = sc.pour(size-1-footerLen, func(piece []byte) { sum = crc64.Update(sum, piece) })
	var footer []byte
	if err == nil {
		footer, err = w.peek(footerLen + 2)
	}
	if err != nil {
		sc.cutOff(name, code, mark, handed)
		return err
	}
	if err := sc.checkFooter(name, footer[:footerLen], crc64.Update(sum, footer[:2])); err != nil {
		sc.cutOff(name, code, mark, handed)
		return err
	}
	w.r += footerLen
	return w.end()
}

// pour reads what comes in into the stream.
func (sc *scanner) pour(left int64, each func(piece []byte)) error {
	o := sc.out
	for left > 0 {
		if err := o.room(1); err != nil {
			return err
		}
		k := int(min(left, int64(cap(o.buf)-len(o.buf))))
		piece := o.buf[len(o.buf) : len(o.buf)+k]
		if err := sc.wire.read(piece); err != nil {
			return err
		}
		each(piece)
		o.buf = o.buf[:len(o.buf)+k]
		left -= int64(k)
	}
	return nil
}

// cutOff takes a key back whose value didn't come in to its end, if nothing of it was handed on.
func (sc *scanner) cutOff(name []byte, code byte, mark int, handed int64) {
	if sc.out.n != handed {
		sc.spoilt = true
		return
	}
	sc.out.buf = sc.out.buf[:mark]
	sc.note(name, code)
}

// checkFooter checks what a payload ends with.
func (sc *scanner) checkFooter(name, footer []byte, sum uint64) error {
	if want := binary.LittleEndian.Uint64(footer[2:]); want != sum {
		return sc.node.Fail("DUMP", fmt.Errorf("the checksum of the value of a key is wrong: %016x, not %016x (database %d, %s)", want, sum, sc.db.index, quote(name)))
	}
	if version := int(binary.LittleEndian.Uint16(footer)); version != sc.node.dialect.Version {
		return &backup.SourceError{Addr: sc.node.Addr, Step: "DUMP",
			Err:  fmt.Errorf("a value of version %d after others of version %d: another server answers now", version, sc.node.dialect.Version),
			Hint: "take the snapshot when all servers behind the address have the same version"}
	}
	return nil
}

// quote makes a name fit to be shown.
func quote(name []byte) string {
	const shown = 64
	if len(name) > shown {
		return fmt.Sprintf("key %q… of %d bytes", name[:shown], len(name))
	}
	return fmt.Sprintf("key %q", name)
}

// note keeps what type a value had that was lost with the connection; compare counts if it has another when it is read again.
func (sc *scanner) note(name []byte, code byte) {
	if sc.first == nil {
		sc.first = map[string]byte{}
	}
	if len(sc.first) < 1000 && len(name) < maxLine {
		sc.first[string(name)] = code
	}
}

func (sc *scanner) compare(name []byte, code byte) {
	if len(sc.first) == 0 {
		return
	}
	if was, ok := sc.first[string(name)]; ok {
		delete(sc.first, string(name))
		if sc.kind(was) != sc.kind(code) {
			sc.counts.Changed++
		}
	}
}
