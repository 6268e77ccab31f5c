package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// progress is how much has to come between two cuts for the second to count as the first of a row.
const progress = 64 << 10

var errClosed = errors.New("it was closed")

// An identity is what tells an object from another one at the same URL.
type identity struct {
	size     int64  // -1 if not known
	etag     string // a strong one, or empty
	modified string // Last-Modified, or empty
	settled  bool   // modified stands for the contents: nobody can have changed them again in the same second (RFC 9110, 8.8.2.2)
}

func identify(resp *http.Response) identity {
	id := identity{size: resp.ContentLength, modified: resp.Header.Get("Last-Modified")}
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		id.etag = tag
	}
	last, err := http.ParseTime(id.modified)
	date, derr := http.ParseTime(resp.Header.Get("Date"))
	id.settled = err == nil && derr == nil && date.Sub(last) >= time.Second
	return id
}

// validator is what goes into If-Range; empty if the object has nothing that could.
func (id identity) validator() string {
	switch {
	case id.etag != "":
		return id.etag
	case id.settled:
		return id.modified
	}
	return ""
}

// differs says by what two answers can't be about the same object; empty if they can.
func (id identity) differs(now identity) string {
	other := func(a, b string) bool { return a != "" && b != "" && a != b }
	switch {
	case other(id.etag, now.etag):
		return "its ETag is another"
	case (id.etag == "" || now.etag == "") && other(id.modified, now.modified):
		return "it was modified"
	case id.size >= 0 && now.size >= 0 && id.size != now.size:
		return fmt.Sprintf("it had %d bytes and has %d", id.size, now.size)
	}
	return ""
}

// A download reads an object, and goes on where it was when the transfer is cut.
type download struct {
	o      *object
	ctx    context.Context
	cancel context.CancelCauseFunc
	trail  *trail
	letGo  func() bool   // of the context that it follows
	left   *atomic.Int64 // how much of MaxBytes is left

	id   identity
	head []byte        // read already, and not yet delivered
	body io.ReadCloser // nil if it was cut
	off  int64         // received
	err  error         // for good

	cut   error // the last reason why body ended
	row   int   // cuts in a row without progress
	cutAt int64 // off at the first of them
}

// open asks for an object; known, unless nil, is what it has to be. base governs the download as long as it lives, ctx until it is let go.
func (o *object) open(base, ctx context.Context, left *atomic.Int64, known *identity) (*download, error) {
	d := &download{o: o, trail: &trail{}, left: left}
	d.ctx, d.cancel = context.WithCancelCause(base)
	d.follow(ctx)
	resp, err := o.get(d.ctx, d.trail, 0, identity{})
	if err == nil {
		err = d.accept(resp, known)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// follow lets ctx end the download.
func (d *download) follow(ctx context.Context) {
	d.letGo = context.AfterFunc(ctx, func() { d.cancel(context.Cause(ctx)) })
}

func (d *download) fail(kind error, hint, format string, args ...any) error {
	return &Error{URL: shown(d.o.url), Err: fmt.Errorf("%w: "+format, append([]any{kind}, args...)...), Hint: hint}
}

// accept takes the first answer, or one from the start again.
func (d *download) accept(resp *http.Response, known *identity) error {
	if resp.StatusCode != http.StatusOK {
		return refusedBy(d.o.url, d.trail, resp, false)
	}
	if err := d.sound(resp); err != nil {
		resp.Body.Close()
		return err
	}
	id := identify(resp)
	if known != nil {
		if how := known.differs(id); how != "" {
			resp.Body.Close()
			return d.fail(ErrChanged, "start again when nobody writes it", "%s", how)
		}
	}
	if id.size > d.left.Load() {
		resp.Body.Close()
		return d.tooLarge()
	}
	if known != nil && id.size < 0 {
		id.size = known.size
	}
	d.id, d.body = id, resp.Body
	return nil
}

// sound refuses an answer whose bytes are not those of the object, or whose end can't be told from a cut.
func (d *download) sound(resp *http.Response) error {
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return d.fail(ErrNotSnapshot, "store the object without a Content-Encoding", "the server sends it encoded (Content-Encoding: %s), which was not asked for", d.trail.quote(coding))
	}
	if resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
		return d.fail(ErrCut, "serve the file with a Content-Length", "the server doesn't say how long it is, so that its end can't be told from a cut")
	}
	return nil
}

func (d *download) tooLarge() error {
	return d.fail(ErrTooLarge, "raise Config.MaxBytes if that is meant", "there are more than %d bytes", d.o.from.cfg.MaxBytes)
}

// peek returns the first bytes, at most n, without taking them.
func (d *download) peek(n int) ([]byte, error) {
	buf := make([]byte, n)
	n, err := io.ReadFull(d, buf)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	d.head = buf[:n]
	return d.head, err
}

// Read returns io.EOF only when the server said that this was all.
func (d *download) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(d.head) > 0 {
		n := copy(p, d.head)
		d.head = d.head[n:]
		return n, nil
	}
	for d.err == nil {
		n, err := d.step(p)
		if cause := context.Cause(d.ctx); cause != nil {
			d.err = &Error{URL: shown(d.o.url), Err: cause}
			break
		}
		d.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, d.err
}

// step reads once, or goes on after a cut. The error is for good.
func (d *download) step(p []byte) (int, error) {
	if d.body == nil {
		return 0, d.resume()
	}
	n, err := d.body.Read(p)
	d.off += int64(n)
	switch {
	case d.left.Add(-int64(n)) < 0:
		return 0, d.tooLarge()
	case d.id.size >= 0 && d.off > d.id.size:
		return 0, d.fail(ErrChanged, "", "the server sent more than the %d bytes that it has", d.id.size)
	case err == io.EOF && (d.id.size < 0 || d.off == d.id.size):
		return n, io.EOF
	case err != nil:
		d.body.Close()
		d.body, d.cut = nil, err
	}
	return n, nil
}

// whyCut returns the last reason why the transfer was cut.
func (d *download) whyCut() error { return explain(d.o.url, d.trail, d.cut).(*Error).Err }

// resume asks for the rest.
func (d *download) resume() error {
	if d.off-d.cutAt >= progress {
		d.row = 0
	}
	if d.row == 0 {
		d.cutAt = d.off
	}
	why := d.whyCut()
	tuning := d.o.from.tuning
	if d.row++; d.row >= tuning.tries {
		return d.fail(ErrCut, "the server or the network doesn't hold: try again later", "%d times in a row, at byte %d at last: %w", d.row, d.off, why)
	}
	if d.off > 0 && d.id.validator() == "" {
		return d.fail(ErrCut, "try again, or serve the file by a server that knows ranges", "at byte %d, and the server gave no strong ETag and no Last-Modified to ask for the rest by: %w", d.off, why)
	}
	d.o.from.log.InfoContext(d.ctx, "a transfer was cut and goes on", "url", shown(d.o.url), "offset", d.off, "error", why)
	if err := clock.Sleep(d.ctx, tuning.backoff(d.row-1, nil)); err != nil {
		return err
	}
	resp, err := d.o.get(d.ctx, d.trail, d.off, d.id)
	if err != nil {
		return err
	}
	if d.off == 0 {
		return d.accept(resp, &d.id)
	}
	if err := d.rest(resp); err != nil {
		resp.Body.Close()
		return err
	}
	d.body = resp.Body
	return nil
}

// rest checks that an answer is the rest of the object.
func (d *download) rest(resp *http.Response) error {
	now := identify(resp)
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK:
		if how := d.id.differs(now); how != "" {
			return d.fail(ErrChanged, "start again when nobody writes it", "%s", how)
		}
		return d.fail(ErrCut, "try again, or serve the file by a server that knows ranges", "at byte %d, and the server doesn't send the rest alone: %w", d.off, d.whyCut())
	default:
		return refusedBy(d.o.url, d.trail, resp, false)
	}
	if err := d.sound(resp); err != nil {
		return err
	}
	first, last, total, ok := contentRange(resp.Header.Get("Content-Range"))
	if !ok || first != d.off || now.size >= 0 && now.size != last-first+1 {
		return d.fail(ErrCut, "", "the server was asked for the bytes from %d on and sent others", d.off)
	}
	now.size = total
	if how := d.id.differs(now); how != "" {
		return d.fail(ErrChanged, "start again when nobody writes it", "%s", how)
	}
	if d.id.size < 0 {
		d.id.size = total
	}
	return nil
}

// contentRange reads "bytes 5-9/10"; total is -1 if it isn't told.
func contentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	bounds, all, ok2 := strings.Cut(s, "/")
	from, to, ok3 := strings.Cut(bounds, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	a, err1 := strconv.ParseUint(from, 10, 62)
	b, err2 := strconv.ParseUint(to, 10, 62)
	if err1 != nil || err2 != nil || b < a {
		return 0, 0, 0, false
	}
	if all == "*" {
		return int64(a), int64(b), -1, true
	}
	n, err := strconv.ParseUint(all, 10, 62)
	return int64(a), int64(b), int64(n), err == nil && n > b
}

// Close ends a Read that waits. It may be called at any time.
func (d *download) Close() error {
	d.letGo()
	d.cancel(errClosed)
	return nil
}
