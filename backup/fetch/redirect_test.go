package fetch_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/amberkv/amber/backup/fetch"
)

// listenOn starts a server on another address of loopback.
func listenOn(t testing.TB, addr string, h http.HandlerFunc, secure bool) *httptest.Server {
	l, err := net.Listen("tcp", addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Config.ErrorLog = quiet()
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

func trusting(p fetch.Policy, srv *httptest.Server) fetch.Policy {
	p.TLS = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}
	p.TLS.RootCAs.AddCert(srv.Certificate())
	return p
}

// TestRedirects follows redirects from a server that may be reached, at 127.0.0.2, to what may not.
func TestRedirects(t *testing.T) {
	tr := newTrap(t)
	want := rdbFile(t)
	h := func(w http.ResponseWriter, r *http.Request) {
		switch to := r.URL.Query().Get("to"); {
		case to != "":
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop?again="+canary, http.StatusTemporaryRedirect)
		default:
			http.ServeContent(w, r, "", t0, bytes.NewReader(want))
		}
	}
	open, secure := listenOn(t, "127.0.0.2", h, false), listenOn(t, "127.0.0.2", h, true)
	p := trusting(loopback(), secure)
	p.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	p.Resolver = startDNS(t, insideNames)
	chain := func(srv *httptest.Server, hops ...string) string {
		at := hops[len(hops)-1]
		for i := len(hops) - 2; i >= 0; i-- {
			at = hops[i] + "?to=" + escape(at)
		}
		return at
	}
	fetchFrom := func(url string, p fetch.Policy) error {
		got, err := read(t, fetch.Config{URL: url, Policy: p})
		if err == nil && !bytes.Equal(got["dump.rdb"], want) {
			t.Errorf("%s: %d bytes, want %d", url, len(got["dump.rdb"]), len(want))
		}
		return err
	}
	a, s := open.URL+"/a", secure.URL+"/a"
	for name, url := range map[string]string{
		"none": a, "one": chain(open, a, a), "five": chain(open, a, a, a, a, a, a), "relative": a + "?to=b.rdb", "absolute path": a + "?to=/b/c?x=1",
		"without a scheme": a + "?to=" + escape(strings.TrimPrefix(a, "http:")), "http to https": chain(open, a, s), "https": chain(secure, s, s, s),
	} {
		if err := fetchFrom(url, p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	secret := "/a.rdb?sig=" + canary
	local := "http://127.0.0.1:" + tr.port + secret
	for name, test := range map[string]struct{ url, says string }{
		"to loopback":          {chain(open, a, local), "loopback"},
		"a chain to loopback":  {chain(open, a, a, a, a, local), "loopback"},
		"from https":           {chain(secure, s, "https://127.0.0.1:"+tr.port+secret), "loopback"},
		"to a name":            {chain(open, a, "http://inside.example:"+tr.port+secret), "loopback"},
		"to metadata":          {chain(open, a, a, "http://169.254.169.254/latest/meta-data/iam"+secret), "metadata"},
		"to metadata by name":  {chain(open, a, "http://metadata.google.internal"+secret), "metadata"},
		"to a mapped address":  {chain(open, a, "http://[::ffff:127.0.0.1]:"+tr.port+secret), "loopback"},
		"to a number":          {chain(open, a, "http://2130706433:"+tr.port+secret), "number"},
		"with a user":          {chain(open, a, "http://u:"+canary+"@127.0.0.2/a"), "user name"},
		"to a file":            {chain(open, a, "file:///etc/passwd?"+canary), "scheme"},
		"to gopher":            {chain(open, a, "gopher://127.0.0.1:"+tr.port+"/_"+canary), "scheme"},
		"to data":              {chain(open, a, "data:text/plain,"+canary), "scheme"},
		"to nothing":           {chain(open, a, "http:///"+canary), "no host"},
		"to no URL":            {chain(open, a, "http://127.0.0.2:port/"+canary+"?"+canary), "no URL"},
		"to a broken escape":   {chain(open, a, "/%zz?"+canary), "no URL"},
		"from https to http":   {chain(secure, s, a+"?sig="+canary), "from https to http"},
		"six, one too many":    {chain(open, a, a, a, a, a, a, a+"?sig="+canary), "more than 5 redirects"},
		"in circles":           {open.URL + "/loop?" + canary, "more than 5 redirects"},
		"http where it's not":  {chain(secure, s, local), "http"},
		"in circles, as https": {secure.URL + "/loop?" + canary, "more than 5 redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			p := p
			if name == "http where it's not" {
				p.AllowHTTP = false
			}
			refused(t, fetchFrom(test.url, p), fetch.ErrRefused, test.says)
		})
	}
	none := p
	none.MaxRedirects = -1
	refused(t, fetchFrom(chain(open, a, a), none), fetch.ErrRefused, "more than 0 redirects")
	if err := fetchFrom(a, none); err != nil {
		t.Error(err)
	}
	if n := tr.conns.Load(); n > 0 {
		t.Errorf("%d connections were made to where none should", n)
	}
}

// TestRedirectCarriesNothing looks at what another host gets to see after a redirect, and this one.
func TestRedirectCarriesNothing(t *testing.T) {
	want := rdbFile(t)
	var mu sync.Mutex
	var seen []*http.Request
	second := listenOn(t, "127.0.0.2", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r)
		w.Header().Set("Set-Cookie", "c="+canary)
		http.ServeContent(w, r, "", t0, bytes.NewReader(want))
	}, false)
	first := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r)
		w.Header().Set("Set-Cookie", "c="+canary)
		if r.URL.Path == "/here.rdb" {
			http.Redirect(w, r, "/a.rdb"+query, http.StatusTemporaryRedirect)
			return
		}
		http.Redirect(w, r, second.URL+"/b.rdb?other=1", http.StatusTemporaryRedirect)
	})
	p := loopback()
	p.Allow = append(p.Allow, netip.MustParsePrefix("127.0.0.2/32"))
	s := newSnapshotter(t, fetch.Config{URL: first.URL + "/a.rdb" + query, Policy: p})
	for range 2 {
		sn, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if src := fmt.Sprintf("%+v %+v", sn.Source(), sn.Parts()); !strings.Contains(src, first.URL+"/a.rdb") {
			t.Error(src)
		} else {
			tells(t, "the source", src)
		}
		sn.Close()
	}
	err := fetch.Put(t.Context(), p, first.URL+"/a.rdb"+query, 5, opener("hello"), fetch.QuickPut(fetch.PutOptions{Header: http.Header{"X-Key": {canary}}}))
	if err != nil {
		t.Error(err)
	}
	if _, err := read(t, fetch.Config{URL: first.URL + "/here.rdb" + query, Policy: p}); err != nil {
		t.Error(err)
	}
	if len(seen) != 9 {
		t.Fatalf("%d requests", len(seen))
	}
	for i, r := range seen {
		head := fmt.Sprint(r.Header)
		if r.URL.Path == "/b.rdb" {
			tells(t, "the request after a redirect", head+r.URL.String())
		}
		if r.Header.Get("Referer") != "" || r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "" {
			t.Errorf("request %d: %s", i, head)
		}
		if r.Method == http.MethodGet && r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("request %d: %s", i, head)
		}
	}
	if seen[4].Header.Get("X-Key") != canary || seen[5].Method != http.MethodPut || seen[5].ContentLength != 5 {
		t.Errorf("PUT: %v, then %s of %d bytes", seen[4].Header, seen[5].Method, seen[5].ContentLength)
	}
}

// TestNoProxy: the environment has a proxy, which is not asked. net/http looks at the environment once, so this is another process.
func TestNoProxy(t *testing.T) {
	const proxy = "HTTPS_PROXY"
	if at := os.Getenv(proxy); strings.HasPrefix(at, "http://127.0.0.1:") {
		var seen looker
		outside := func(string, bool) []netip.Addr { return []netip.Addr{netip.MustParseAddr("8.8.8.8")} }
		p := fetch.Policy{AllowHTTP: true, Resolver: startDNS(t, outside), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}.Dialing(seen.dialing)
		for _, scheme := range []string{"http", "https"} {
			_, err := read(t, fetch.Config{URL: scheme + "://outside.example/a.rdb" + query, Policy: p})
			refused(t, err, errLooked)
		}
		for _, addr := range seen.saw {
			if addr != netip.MustParseAddr("8.8.8.8") {
				t.Errorf("would have connected to %s", addr)
			}
		}
		return
	}
	tr := newTrap(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestNoProxy$", "-test.v")
	cmd.Env = os.Environ()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", proxy, "https_proxy", "ALL_PROXY", "all_proxy"} {
		cmd.Env = append(cmd.Env, name+"=http://127.0.0.1:"+tr.port)
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS: TestNoProxy") || tr.conns.Load() > 0 {
		t.Errorf("%v, %d connections\n%s", err, tr.conns.Load(), out)
	}
}

func TestTLS(t *testing.T) {
	want := rdbFile(t)
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("it came by %s", r.Proto)
		}
		http.ServeContent(w, r, "", t0, bytes.NewReader(want))
	}
	srv := listenOn(t, "127.0.0.1", h, true)
	plain := serve(t, h)
	if _, err := read(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: trusting(loopback(), srv)}); err != nil {
		t.Error(err)
	}
	wrong := trusting(loopback(), srv)
	wrong.TLS.ServerName = "amber.example"
	wants := listenOn(t, "127.0.0.1", h, false)
	wants.Close()
	for name, test := range map[string]struct {
		url, says string
		p         fetch.Policy
	}{
		"nobody signed it":        {srv.URL, "isn't trusted", loopback()},
		"it's another's":          {srv.URL, "isn't trusted", wrong},
		"the server speaks plain": {strings.Replace(plain.URL, "http:", "https:", 1), "doesn't speak TLS", loopback()},
		"plain to a TLS server":   {strings.Replace(srv.URL, "https:", "http:", 1), "400", loopback()},
		"nothing listens":         {wants.URL, "nothing listens", loopback()},
	} {
		_, err := read(t, fetch.Config{URL: test.url + "/a.rdb" + query, Policy: test.p})
		t.Logf("%s: %v", name, err)
		refused(t, err, nil, test.says, test.url)
	}
	// A server that wants a certificate.
	strict := httptest.NewUnstartedServer(http.HandlerFunc(h))
	strict.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	strict.Config.ErrorLog = quiet()
	strict.StartTLS()
	defer strict.Close()
	_, err := read(t, fetch.Config{URL: strict.URL + "/a.rdb" + query, Policy: trusting(loopback(), strict)})
	refused(t, err, nil, "client certificate")
}

func TestPolicyIsChecked(t *testing.T) {
	for name, p := range map[string]fetch.Policy{
		"negative limit":  {StallTimeout: -1},
		"negative head":   {MaxHeaderBytes: -1},
		"no prefix":       {Allow: []netip.Prefix{{}}},
		"a mapped prefix": {Allow: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}},
	} {
		if _, err := p.Client(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := fetch.New(fetch.Config{URL: "https://example.com/a.rdb", Policy: p}); err == nil {
			t.Errorf("%s: no error of New", name)
		}
	}
	for name, cfg := range map[string]fetch.Config{
		"no URL": {}, "http": {URL: "http://example.com/a.rdb" + query}, "a shard": {URL: "https://example.com/dump-0000.dfs" + query},
		"a blank": {URL: "https://example.com/a b.rdb" + query}, "a backslash": {URL: `https://example.com/a\b.rdb` + query}, "a fragment": {URL: "https://example.com/a.rdb" + query + "#" + canary},
		"negative size": {URL: "https://example.com/a.rdb", MaxBytes: -1}, "a shard over http": {URL: "https://example.com/d-summary.dfs", More: []string{"http://example.com/d-0000.dfs" + query}},
	} {
		_, err := fetch.New(cfg)
		t.Logf("%s: %v", name, err)
		refused(t, err, nil)
	}
	// A client as a host would use it keeps to the policy, too.
	tr := newTrap(t)
	client, err := fetch.Policy{AllowHTTP: true}.Client()
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"http://127.0.0.1:" + tr.port, "http://localhost:" + tr.port} {
		if _, err := client.Get(url); !errors.Is(err, fetch.ErrRefused) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if tr.conns.Load() > 0 {
		t.Error("it was connected to")
	}
}
