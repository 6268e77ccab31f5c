package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/amberkv/amber/internal/clock"
)

// PutOptions are the rare choices of Put. The zero value means the defaults.
type PutOptions struct {
	// Header are further headers. A URL that was signed with some wants them; Azure wants "x-ms-blob-type: BlockBlob". They
	// don't go along to another host when it redirects.
	Header http.Header

	tuning *tuning // tests have less time
}

// Put sends an object of size bytes to a URL, such as one that is signed for this, and returns nil when the server has
// taken it. open gives the bytes from the start and is called for each try; Put closes what
// it gives, at the latest when a Read that is under way returns. A failure that may pass is tried again, a redirect is followed only if it keeps the
// method and body (307, 308). The size is always announced, for S3 takes nothing else, and bytes that are more or fewer are an error.
//
// The error is an *Error, or the one of open or of reading what it gave. It doesn't hold the URL's query.
func Put(ctx context.Context, p Policy, to string, size int64, open func() (io.ReadCloser, error), opts *PutOptions) error {
	if opts == nil {
		opts = &PutOptions{}
	}
	if size < 1 {
		return errors.New("fetch: Put: the size has to be known, and more than 0")
	}
	policy, err := p.filled()
	if err != nil {
		return err
	}
	u, err := policy.parseURL(to)
	if err != nil {
		return fmt.Errorf("fetch: Put: %w", err)
	}
	tuning := defaultTuning()
	if opts.tuning != nil {
		tuning = *opts.tuning
	}
	up := &upload{client: policy.client(), url: u, size: size, open: open, header: opts.Header, trail: &trail{}}
	for try := 0; ; try++ {
		resp, err := up.send(ctx)
		again := false
		switch {
		case err == nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusNoContent):
			resp.Body.Close()
			return nil
		case ctx.Err() != nil:
			err = explain(u, up.trail, context.Cause(ctx))
		case up.source() != nil:
			return fmt.Errorf("fetch: Put: reading what is to be sent: %w", up.source())
		case err != nil:
			again = transient(err)
			err = explain(u, up.trail, err)
		default:
			again = tuning.again(resp)
			err = refusedBy(u, up.trail, resp, true)
		}
		if resp != nil {
			resp.Body.Close()
		}
		if !again || try+1 >= tuning.tries {
			return err
		}
		if err := clock.Sleep(ctx, tuning.backoff(try, resp)); err != nil {
			return explain(u, up.trail, context.Cause(ctx))
		}
	}
}

// upload is one Put, with all its tries.
type upload struct {
	client *http.Client
	url    *url.URL
	size   int64
	open   func() (io.ReadCloser, error)
	header http.Header
	trail  *trail

	mu  sync.Mutex
	err error // of open, or of what it gave
}

func (up *upload) source() error {
	up.mu.Lock()
	defer up.mu.Unlock()
	return up.err
}

func (up *upload) send(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(withTrail(ctx, up.trail), http.MethodPut, up.url.String(), nil)
	if err != nil {
		return nil, err
	}
	for name, values := range up.header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Set("User-Agent", "amber")
	req.ContentLength = up.size
	// A server that refuses can say so before gigabytes are on the way.
	req.Header.Set("Expect", "100-continue")
	req.GetBody = up.body
	if req.Body, err = up.body(); err != nil {
		return nil, err
	}
	return up.client.Do(req)
}

// body opens what is to be sent.
func (up *upload) body() (io.ReadCloser, error) {
	in, err := up.open()
	if err != nil {
		up.fail(err)
		return nil, err
	}
	return &checkedBody{in: in, up: up}, nil
}

func (up *upload) fail(err error) {
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.err == nil {
		up.err = err
	}
}

// A checkedBody tells a failure of what is sent from one of sending, and that it has the size that was announced.
type checkedBody struct {
	in io.ReadCloser
	up *upload
	n  int64

	mu      sync.Mutex
	reading bool
	closed  bool
}

// Read and Close are called at the same time when a request fails; what open gave isn't used so, and is not to blame.
func (b *checkedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.reading = !b.closed
	b.mu.Unlock()
	if !b.reading {
		return 0, errClosed
	}
	n, err := b.read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	if b.closed {
		b.in.Close()
		return 0, errClosed
	}
	if err != nil && err != io.EOF {
		b.up.fail(err)
	}
	return n, err
}

func (b *checkedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && !b.reading {
		b.in.Close()
	}
	b.closed = true
	return nil
}

func (b *checkedBody) read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	b.n += int64(n)
	if err == nil && b.n == b.up.size {
		// The last bytes make the object exist, so before that it has to be sure that they are the last.
		var more int
		more, err = io.ReadFull(b.in, make([]byte, 1))
		b.n += int64(more)
	}
	switch {
	case b.n > b.up.size:
		err = fmt.Errorf("there are more than the %d bytes that were announced", b.up.size)
	case err == io.EOF && b.n < b.up.size:
		err = fmt.Errorf("there are %d bytes, and %d were announced: %w", b.n, b.up.size, io.ErrUnexpectedEOF)
	}
	if err != nil && err != io.EOF {
		n = 0
	}
	return n, err
}
