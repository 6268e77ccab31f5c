package fetch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/internal/teststore"
)

// opener gives a text, as often as it is called.
func opener(text string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
}

func put(t testing.TB, url string, size int64, open func() (io.ReadCloser, error)) error {
	return fetch.Put(t.Context(), loopback(), url, size, open, fetch.QuickPut(fetch.PutOptions{}))
}

// TestPutS3 sends to a URL that a real server signed for it, and fetches from another one.
func TestPutS3(t *testing.T) {
	t.Parallel()
	srv := teststore.StartS3(t)
	bucket := srv.Bucket("exports")
	file := rdbFile(t)
	now := time.Now()
	open := opener(string(file))
	if err := put(t, srv.SignedURL("PUT", bucket, "dir/a b.rdb", now, time.Minute), int64(len(file)), open); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(srv.Objects(bucket), "dir", "a b.rdb"))
	if err != nil || !bytes.Equal(got, file) {
		t.Errorf("%d bytes of %d, %v", len(got), len(file), err)
	}
	back, err := read(t, fetch.Config{URL: srv.SignedURL("GET", bucket, "dir/a b.rdb", now, time.Minute), Policy: loopback()})
	if err != nil || !bytes.Equal(back["dump.rdb"], file) {
		t.Errorf("%d bytes of %d, %v", len(back["dump.rdb"]), len(file), err)
	}
	for name, test := range map[string]struct{ method, url, says string }{
		"expired, to PUT":   {"PUT", srv.SignedURL("PUT", bucket, "late.rdb", now.Add(-time.Hour), time.Minute), "expired"},
		"for GET, to PUT":   {"PUT", srv.SignedURL("GET", bucket, "late.rdb", now, time.Minute), "not signed for PUT"},
		"changed, to PUT":   {"PUT", strings.Replace(srv.SignedURL("PUT", bucket, "late.rdb", now, time.Minute), "late.rdb", "other.rdb", 1), "signed"},
		"unsigned, to PUT":  {"PUT", srv.URL + "/" + bucket + "/late.rdb", "signed URL"},
		"expired":           {"GET", srv.SignedURL("GET", bucket, "dir/a b.rdb", now.Add(-time.Hour), time.Minute), "expired"},
		"for PUT":           {"GET", srv.SignedURL("PUT", bucket, "dir/a b.rdb", now, time.Minute), "not signed for GET"},
		"not there":         {"GET", srv.SignedURL("GET", bucket, "none.rdb", now, time.Minute), "404"},
		"no such bucket":    {"GET", srv.SignedURL("GET", "nothing-here", "none.rdb", now, time.Minute), "404"},
		"to no such bucket": {"PUT", srv.SignedURL("PUT", "nothing-here", "none.rdb", now, time.Minute), "404"},
	} {
		var err error
		if test.method == "PUT" {
			err = put(t, test.url, int64(len(file)), open)
		} else {
			_, err = read(t, fetch.Config{URL: test.url, Policy: loopback()})
		}
		refused(t, err, fetch.ErrStatus, test.says)
		_, secret, _ := strings.Cut(test.url, "X-Amz-Signature=")
		if secret = secret[:min(len(secret), 8)]; secret != "" && strings.Contains(fmt.Sprintf("%v %#v", err, err), secret) {
			t.Errorf("%s: the error holds the signature", name)
		}
		t.Logf("%s: %v", name, err)
	}
	left, err := filepath.Glob(filepath.Join(srv.Objects(bucket), "*.rdb"))
	if err != nil || len(left) != 0 {
		t.Errorf("refused, and yet there: %v, %v", left, err)
	}
}

// A putServer takes what is put, after answering the first requests otherwise.
type putServer struct {
	mu    sync.Mutex
	got   []byte
	seen  []string // "PUT length transfer-encoding expect"
	first []http.HandlerFunc
}

func (s *putServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, fmt.Sprintf("%s %d %v %s", r.Method, r.ContentLength, r.TransferEncoding, r.Header.Get("Expect")))
	if len(s.first) > 0 {
		f := s.first[0]
		s.first = s.first[1:]
		f(w, r)
		return
	}
	b, err := io.ReadAll(r.Body)
	if err == nil {
		s.got = b
	}
}

func fails(code int, more ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i+1 < len(more); i += 2 {
			w.Header().Set(more[i], more[i+1])
		}
		http.Error(w, "no: "+r.URL.String(), code)
	}
}

func hangUp(after int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, after)
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
}

func TestPut(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("amber ", 200_000)
	for name, test := range map[string]struct {
		first []http.HandlerFunc
		kind  error  // nil: it is taken
		says  string // by the error
		tries int
	}{
		"at once":           {nil, nil, "", 1},
		"unavailable":       {[]http.HandlerFunc{fails(503), fails(500), fails(429)}, nil, "", 4},
		"wait":              {[]http.HandlerFunc{fails(503, "Retry-After", "1")}, nil, "", 2},
		"wait for long":     {[]http.HandlerFunc{fails(503, "Retry-After", "600")}, fetch.ErrStatus, "left alone for 10m0s", 1},
		"down":              {[]http.HandlerFunc{fails(503), fails(503), fails(503), fails(503), fails(503), fails(503)}, fetch.ErrStatus, "503", 5},
		"cut at the start":  {[]http.HandlerFunc{hangUp(0)}, nil, "", 2},
		"cut in the middle": {[]http.HandlerFunc{hangUp(100_000), hangUp(900_000)}, nil, "", 3},
		"cut at the end":    {[]http.HandlerFunc{hangUp(int64(len(text)))}, nil, "", 2},
		"forbidden":         {[]http.HandlerFunc{fails(403)}, fetch.ErrStatus, "not signed for PUT", 1},
		"too large":         {[]http.HandlerFunc{fails(413)}, fetch.ErrStatus, "one PUT", 1},
		"307":               {[]http.HandlerFunc{fails(307, "Location", "/b?x="+canary)}, nil, "", 2},
		"308":               {[]http.HandlerFunc{fails(308, "Location", "/b")}, nil, "", 2},
		"301":               {[]http.HandlerFunc{fails(301, "Location", "/b?x="+canary)}, fetch.ErrRefused, "another request of a PUT", 1},
		"302":               {[]http.HandlerFunc{fails(302, "Location", "/b?x="+canary)}, fetch.ErrRefused, "another request of a PUT", 1},
		"303":               {[]http.HandlerFunc{fails(303, "Location", "/b?x="+canary)}, fetch.ErrRefused, "another request of a PUT", 1},
		"307 inside":        {[]http.HandlerFunc{fails(307, "Location", "http://10.0.0.1/"+"?"+canary)}, fetch.ErrRefused, "private", 1},
		"307 to ftp":        {[]http.HandlerFunc{fails(307, "Location", "ftp://127.0.0.1/"+"?"+canary)}, fetch.ErrRefused, "scheme", 1},
		"an odd yes":        {[]http.HandlerFunc{fails(202)}, fetch.ErrStatus, "202", 1},
		"no, endlessly": {[]http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			for b := make([]byte, 1<<16); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}}, fetch.ErrStatus, "400", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &putServer{first: test.first}
			srv := serve(t, h.ServeHTTP)
			var opened, closed atomic.Int64
			err := put(t, srv.URL+"/a.rdb"+query, int64(len(text)), func() (io.ReadCloser, error) {
				opened.Add(1)
				return &countedCloser{strings.NewReader(text), &closed}, nil
			})
			h.mu.Lock()
			defer h.mu.Unlock()
			if test.kind == nil {
				if err != nil || string(h.got) != text {
					t.Errorf("%d bytes of %d arrived, %v", len(h.got), len(text), err)
				}
			} else {
				refused(t, err, test.kind, test.says)
				if h.got != nil {
					t.Error("it was taken all the same")
				}
			}
			if len(h.seen) != test.tries {
				t.Errorf("requests: %q, want %d", h.seen, test.tries)
			}
			for _, s := range h.seen {
				if want := fmt.Sprintf("PUT %d [] 100-continue", len(text)); s != want {
					t.Errorf("a request was %q, want %q", s, want)
				}
			}
			if err := eventually(func() bool { return opened.Load() == closed.Load() }); err != nil {
				t.Errorf("%d were opened, %d closed", opened.Load(), closed.Load())
			}
		})
	}
}

type countedCloser struct {
	io.Reader
	n *atomic.Int64
}

func (c *countedCloser) Close() error { c.n.Add(1); return nil }

func eventually(ok func() bool) error {
	for range 1000 {
		if ok() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("never")
}

// TestPutRefusedHalfway: a server that refuses while it is being sent to, and hangs up. Its answer may be lost with that, not the secret.
func TestPutRefusedHalfway(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 100_000)
		fails(403)(w, r)
	})
	refused(t, put(t, srv.URL+"/a.rdb"+query, 100<<20, func() (io.ReadCloser, error) { return io.NopCloser(&pattern{size: 100 << 20}), nil }), nil, srv.URL+"/a.rdb: ")
}

// TestPutSource: what is to be sent fails, or isn't as large as was said; then nothing is taken, and nothing tried again.
func TestPutSource(t *testing.T) {
	broken := errors.New("the store broke")
	var opened int
	for name, test := range map[string]struct {
		size int64
		open func() (io.ReadCloser, error)
		want error
		says string
	}{
		"open fails": {5, func() (io.ReadCloser, error) { opened++; return nil, broken }, broken, "broke"},
		"read fails": {500000, func() (io.ReadCloser, error) {
			opened++
			return io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", 100000)), failing{broken})), nil
		}, broken, "broke"},
		"fails at last": {100000, func() (io.ReadCloser, error) {
			opened++
			return io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", 100000)), failing{broken})), nil
		}, broken, "broke"},
		"too short":    {100001, func() (io.ReadCloser, error) { opened++; return opener(strings.Repeat("x", 100000))() }, io.ErrUnexpectedEOF, "100001 were announced"},
		"too long":     {99999, func() (io.ReadCloser, error) { opened++; return opener(strings.Repeat("x", 100000))() }, nil, "99999 bytes that were announced"},
		"size unknown": {-1, func() (io.ReadCloser, error) { opened++; return opener("")() }, nil, "size"},
	} {
		opened = 0
		h := &putServer{}
		srv := serve(t, h.ServeHTTP)
		err := put(t, srv.URL+"/a.rdb"+query, test.size, test.open)
		refused(t, err, test.want, test.says)
		srv.Close()
		if h.got != nil || opened > 1 {
			t.Errorf("%s: %d bytes were taken, it was opened %d times", name, len(h.got), opened)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestPutEnds: cancelling ends a Put within a second, whatever it waits for; a server that takes nothing ends it, too.
func TestPutEnds(t *testing.T) {
	t.Parallel()
	silent := rawServer(t, func(_ int, _ string, c net.Conn) { io.Copy(io.Discard, c) })
	stop := make(chan struct{})
	defer close(stop)
	deaf := rawServer(t, func(_ int, _ string, c net.Conn) { <-stop })
	slow := func() (io.ReadCloser, error) { return io.NopCloser(&pattern{size: 1 << 40}), nil }
	down := serve(t, fails(503, "Retry-After", "20"))
	for name, url := range map[string]string{"silent": silent, "deaf": deaf, "waiting": down.URL} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		began := time.Now()
		p := loopback()
		p.StallTimeout, p.HeaderTimeout = time.Minute, time.Minute
		err := fetch.Put(ctx, p, url+"/a.rdb"+query, 1<<40, slow, nil)
		cancel()
		refused(t, err, context.DeadlineExceeded, url)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
	p := loopback()
	p.StallTimeout, p.HeaderTimeout = 100*time.Millisecond, 100*time.Millisecond
	err := fetch.Put(t.Context(), p, deaf+"/a.rdb"+query, 1<<40, slow, fetch.PutOnce(fetch.PutOptions{}))
	refused(t, err, nil, "StallTimeout")
	p.StallTimeout = time.Minute
	err = fetch.Put(t.Context(), p, silent+"/a.rdb"+query, 5, opener("hello"), fetch.PutOnce(fetch.PutOptions{}))
	refused(t, err, nil, "timeout awaiting response headers")
}

// TestPutSlowSource: what is to be sent comes slowly; that is no stall.
func TestPutSlowSource(t *testing.T) {
	t.Parallel()
	h := &putServer{}
	srv := serve(t, h.ServeHTTP)
	p := loopback()
	p.StallTimeout = 500 * time.Millisecond
	err := fetch.Put(t.Context(), p, srv.URL+"/a.rdb"+query, 6, func() (io.ReadCloser, error) {
		return io.NopCloser(&slowReader{strings.NewReader("abcdef")}), nil
	}, fetch.QuickPut(fetch.PutOptions{}))
	if err != nil || string(h.got) != "abcdef" {
		t.Errorf("%q, %v", h.got, err)
	}
}

type slowReader struct{ r io.Reader }

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(600 * time.Millisecond)
	return s.r.Read(p[:min(2, len(p))])
}

func TestPutHeaders(t *testing.T) {
	var seen http.Header
	var other http.Header
	second := listenOn(t, "127.0.0.2", func(w http.ResponseWriter, r *http.Request) { other = r.Header }, false)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		if r.URL.Path == "/away" {
			http.Redirect(w, r, second.URL, http.StatusTemporaryRedirect)
		}
	})
	p := loopback()
	p.Allow = append(p.Allow, netip.MustParsePrefix("127.0.0.2/32"))
	opts := fetch.QuickPut(fetch.PutOptions{Header: http.Header{"x-ms-blob-type": {"BlockBlob"}, "Authorization": {canary}}})
	for _, path := range []string{"/here", "/away"} {
		if err := fetch.Put(t.Context(), p, srv.URL+path+query, 5, opener("hello"), opts); err != nil {
			t.Error(err)
		}
		if seen.Get("X-Ms-Blob-Type") != "BlockBlob" || seen.Get("User-Agent") != "amber" {
			t.Errorf("%s: %v", path, seen)
		}
	}
	if other == nil || other.Get("X-Ms-Blob-Type") != "" || other.Get("Authorization") != "" {
		t.Errorf("at the other host: %v", other)
	}
}

// TestPutSourceIsUsedByOne: the server redirects while the source is being read. http.Client closes it then, but what open gave isn't used by
// two, and its error is nobody's fault.
func TestPutSourceIsUsedByOne(t *testing.T) {
	t.Parallel()
	h := &putServer{first: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1000)
		fails(307, "Location", "/b")(w, r)
	}}}
	srv := serve(t, h.ServeHTTP)
	text := strings.Repeat("amber ", 100_000)
	var wrong, closed atomic.Int64
	err := put(t, srv.URL+"/a.rdb"+query, int64(len(text)), func() (io.ReadCloser, error) {
		return &exclusive{r: strings.NewReader(text), wrong: &wrong, closed: &closed}, nil
	})
	if err != nil || string(h.got) != text || len(h.seen) != 2 {
		t.Errorf("%d bytes by %q, %v", len(h.got), h.seen, err)
	}
	if err := eventually(func() bool { return closed.Load() == 2 }); err != nil || wrong.Load() > 0 {
		t.Errorf("%d were closed, %d while they were read", closed.Load(), wrong.Load())
	}
}

// exclusive is slow in the middle, and must not be closed then.
type exclusive struct {
	r             *strings.Reader
	reading, gone atomic.Bool
	wrong, closed *atomic.Int64
}

func (e *exclusive) Read(p []byte) (int, error) {
	e.reading.Store(true)
	defer e.reading.Store(false)
	n, err := e.r.Read(p)
	if left := e.r.Len(); left > 500_000 && left < 550_000 {
		time.Sleep(50 * time.Millisecond)
	}
	if e.gone.Load() {
		return 0, os.ErrClosed
	}
	return n, err
}

func (e *exclusive) Close() error {
	if e.reading.Load() {
		e.wrong.Add(1)
	}
	e.gone.Store(true)
	e.closed.Add(1)
	return nil
}

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) { f(); return len(p), nil }

// TestPutMemory sends 200 MiB.
func TestPutMemory(t *testing.T) {
	const size = 200 << 20
	sum := sha256.New()
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(sum, r.Body) })
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var peak uint64
	n := 0
	err := put(t, srv.URL+"/a.rdb"+query, size, func() (io.ReadCloser, error) {
		return io.NopCloser(io.TeeReader(&pattern{size: size}, writerFunc(func() {
			if n++; n%512 == 0 {
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc)
			}
		}))), nil
	})
	want := sha256.New()
	io.Copy(want, &pattern{size: size})
	if err != nil || !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
		t.Errorf("%v, or other bytes", err)
	}
	if grown := int64(peak) - int64(before.HeapAlloc); grown > 16<<20 || n < 512 {
		t.Errorf("the heap grew by %d bytes in %d reads", grown, n)
	} else {
		t.Log("200 MiB: the heap grew by " + strconv.FormatInt(grown>>10, 10) + " KiB")
	}
}
