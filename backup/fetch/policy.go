package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// Defaults of a Policy.
const (
	DefaultMaxRedirects   = 5
	DefaultConnectTimeout = 10 * time.Second
	DefaultHeaderTimeout  = time.Minute
	DefaultStallTimeout   = time.Minute
	DefaultMaxHeaderBytes = 64 << 10
)

// A Policy says what may be reached by HTTP, and how long it may take. The zero value allows https to public addresses, at any
// port: a port says little about what listens there, and stores on other ports than 443 are common.
//
// Every connection, that after a redirect too, is checked by the address that its name had when it was made, so that no name, spelling
// or redirect leads to an address that is refused: loopback, private, link-local with the metadata of clouds,
// carrier-grade NAT, multicast, reserved and unspecified ones, and the forms of IPv6 that carry an IPv4 address. No proxy is used,
// no cookie kept, and a URL's user name and password are refused.
type Policy struct {
	// AllowHTTP allows http URLs, too. A redirect from https to http is refused all the same.
	AllowHTTP bool
	// Allow are addresses that would be refused by default and may be reached. Where one stands for an IPv4 address (NAT64, 6to4), that one is checked, too.
	Allow []netip.Prefix
	// MaxRedirects is how many redirects are followed, one after the other. 0: DefaultMaxRedirects; negative: none.
	MaxRedirects int
	// TLS holds the authorities and certificates to use; nil: the system's authorities. It isn't changed.
	TLS *tls.Config
	// Resolver looks up names. Nil: the system's.
	Resolver *net.Resolver

	// ConnectTimeout bounds the looking up and connecting, and the TLS handshake after it. 0: DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// HeaderTimeout bounds the wait for the head of an answer once the request is sent. 0: DefaultHeaderTimeout.
	HeaderTimeout time.Duration
	// StallTimeout bounds the time in which less than 1 KiB moves while it is waited for. 0: DefaultStallTimeout.
	StallTimeout time.Duration
	// MaxHeaderBytes bounds the head of an answer. 0: DefaultMaxHeaderBytes.
	MaxHeaderBytes int64

	dialing func(netip.AddrPort) error // tests see what would be connected to
}

// filled returns the policy with its defaults, or what is wrong with it.
func (p Policy) filled() (*Policy, error) {
	if p.ConnectTimeout < 0 || p.HeaderTimeout < 0 || p.StallTimeout < 0 || p.MaxHeaderBytes < 0 {
		return nil, errors.New("fetch: a limit of Policy is negative")
	}
	for _, a := range p.Allow {
		if !a.IsValid() || a.Addr().Is4In6() {
			return nil, errors.New("fetch: Policy.Allow holds a prefix that is none; an IPv4 address is written as such, like 10.1.2.0/24")
		}
	}
	or := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	or(&p.ConnectTimeout, DefaultConnectTimeout)
	or(&p.HeaderTimeout, DefaultHeaderTimeout)
	or(&p.StallTimeout, DefaultStallTimeout)
	if p.MaxHeaderBytes == 0 {
		p.MaxHeaderBytes = DefaultMaxHeaderBytes
	}
	if p.MaxRedirects == 0 {
		p.MaxRedirects = DefaultMaxRedirects
	}
	return &p, nil
}

// Client returns a client that keeps to the policy. It speaks HTTP/1.1 with a connection for each request, so that nothing is
// left open, and whoever reads slowly slows the sender. The errors of a client hold the URL with its query, as those of any http.Client do.
func (p Policy) Client() (*http.Client, error) {
	filled, err := p.filled()
	if err != nil {
		return nil, err
	}
	return filled.client(), nil
}

func (p *Policy) client() *http.Client {
	dialer := &net.Dialer{Timeout: p.ConnectTimeout, Resolver: p.Resolver, ControlContext: p.control}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	secure := &tls.Config{}
	if p.TLS != nil {
		secure = p.TLS.Clone()
	}
	secure.NextProtos = []string{"http/1.1"}
	return &http.Client{
		Transport: &guard{policy: p, next: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        secure,
			Protocols:              &protocols,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			TLSHandshakeTimeout:    p.ConnectTimeout,
			ResponseHeaderTimeout:  p.HeaderTimeout,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: p.MaxHeaderBytes,
		}},
		CheckRedirect: p.checkRedirect,
	}
}

// checkRedirect says whether a redirect is followed. Where it leads the guard checks.
func (p *Policy) checkRedirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	switch {
	case len(via) > p.MaxRedirects:
		return refuse("more than %d redirects, one after the other; see Policy.MaxRedirects", max(p.MaxRedirects, 0))
	case last.URL.Scheme == "https" && req.URL.Scheme != "https":
		return refuse("a redirect from https to %.10s", req.URL.Scheme)
	case req.Method != last.Method:
		return refuse("a redirect that makes another request of a %s", last.Method)
	}
	req.Header.Del("Referer") // it would be the URL with its query
	if req.URL.Host != via[0].URL.Host {
		for name := range req.Header {
			switch name {
			case "User-Agent", "Accept-Encoding", "Range", "If-Range", "Expect":
			default:
				req.Header.Del(name) // it was meant for another host, and may be a key
			}
		}
	}
	return nil
}

// A guard lets through what the policy allows, and gives up what stands still.
type guard struct {
	policy *Policy
	next   http.RoundTripper
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.policy.checkURL(req.URL); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	trail := trailOf(req.Context())
	trail.add(req.URL)
	ctx, cancel := context.WithCancelCause(req.Context())
	out := req.Clone(ctx)
	var sent *sentBody
	if req.Body != nil && req.Body != http.NoBody {
		sent = &sentBody{body: req.Body, watch: newWatch(cancel, g.policy.StallTimeout), last: g.policy.HeaderTimeout}
		out.Body = sent
		defer sent.watch.end()
	}
	resp, err := g.next.RoundTrip(out)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = &receivedBody{body: resp.Body, ctx: ctx, cancel: cancel, watch: newWatch(cancel, g.policy.StallTimeout)}
	if err := g.location(req.URL, resp, trail); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// location checks where a redirect leads before http.Client looks, whose errors quote it.
func (g *guard) location(from *url.URL, resp *http.Response, trail *trail) error {
	to := resp.Header.Get("Location")
	if resp.StatusCode/100 != 3 || to == "" {
		return nil
	}
	u, err := from.Parse(to)
	if err != nil {
		return refuse("a redirect to what is no URL")
	}
	trail.add(u)
	if err := g.policy.checkURL(u); err != nil {
		return fmt.Errorf("after a redirect: %w", err)
	}
	return nil
}
