package s3store_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/amberkv/amber/internal/teststore"
)

// A request is what a proxy saw of one.
type request struct {
	method, host, path string
	query              url.Values
	header             http.Header
	length             int64
	at                 time.Time
}

// A proxy stands in front of a real server, and records what is on the wire.
type proxy struct {
	*httptest.Server
	mu     sync.Mutex
	seen   []request
	change func(*http.Request)                               // what is sent on
	answer func(w http.ResponseWriter, r *http.Request) bool // instead of the server, if it returns true
}

func newProxy(t testing.TB, s *teststore.S3) *proxy {
	p := proxyOf(t, s)
	p.Start()
	return p
}

// newTLSProxy is one that the store reaches by HTTPS.
func newTLSProxy(t testing.TB, s *teststore.S3) *proxy {
	p := proxyOf(t, s)
	p.StartTLS()
	return p
}

func proxyOf(t testing.TB, s *teststore.S3) *proxy {
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
		if p.change != nil {
			p.change(r.Out)
		}
	}}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, request{r.Method, r.Host, r.URL.Path, r.URL.Query(), r.Header.Clone(), r.ContentLength, time.Now()})
		p.mu.Unlock()
		if p.answer == nil || !p.answer(w, r) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// take returns the requests since the last call.
func (p *proxy) take() []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := slices.Clone(p.seen)
	p.seen = nil
	return seen
}

// withoutToken takes the session token off a request that is signed with the server's key and that token. Another it leaves for the server to refuse.
func withoutToken(r *http.Request) {
	token, signed := r.Header.Get("X-Amz-Security-Token"), r.Header.Get("Authorization")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if token != "session-token" || err != nil {
		return
	}
	signAnew(r, token, at)
	if ok := r.Header.Get("Authorization") == signed; !ok {
		return
	}
	r.Header.Del("X-Amz-Security-Token")
	signAnew(r, "", at)
}

// signAnew signs a request as the server's owner, after something was changed in it.
func signAnew(r *http.Request, token string, at time.Time) {
	r.Header.Del("Authorization")
	key := aws.Credentials{AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey, SessionToken: token}
	if err := v4.NewSigner().SignHTTP(r.Context(), key, r, r.Header.Get("X-Amz-Content-Sha256"), "s3", teststore.S3Region, at, func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = true
	}); err != nil {
		panic(err)
	}
}

// to makes all connections go to one address, whatever host they are for.
func to(addr string) func(*http.Transport) {
	return func(tr *http.Transport) {
		dial := (&net.Dialer{}).DialContext
		tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) { return dial(ctx, network, addr) }
	}
}
