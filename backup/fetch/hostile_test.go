package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/fetch"
)

// hostile are URLs that lead, or that some program could be brought to let lead, to an address that nobody outside should reach.
// PORT is that of the listener that must not be reached. With "!" before it a plain http.Client with the same resolver connects there; with
// "~" one does whose names are looked up by getaddrinfo, as Go's are on some systems.
var hostile = []string{
	// as addresses
	"!http://127.0.0.1:PORT/a.rdb",
	"!http://127.255.255.254:PORT/a.rdb",
	"!http://0.0.0.0:PORT/a.rdb",
	"!http://0.1.2.3:PORT/a.rdb",
	"!http://10.0.0.1/a.rdb",
	"!http://172.16.0.1/a.rdb",
	"!http://172.31.255.255/a.rdb",
	"!http://192.168.1.1/a.rdb",
	"!http://169.254.169.254/latest/meta-data/",
	"!http://169.254.170.2/v2/credentials",
	"!http://168.63.129.16/metadata",
	"!http://100.64.0.1/a.rdb",
	"!http://100.100.100.200/latest/meta-data/",
	"!http://192.0.0.192/opc/v2/",
	"!http://192.0.2.1/a.rdb",
	"!http://198.18.0.1/a.rdb",
	"!http://198.51.100.1/a.rdb",
	"!http://203.0.113.1/a.rdb",
	"!http://192.88.99.1/a.rdb",
	"!http://224.0.0.1/a.rdb",
	"!http://239.255.255.250/a.rdb",
	"!http://240.0.0.1/a.rdb",
	"!http://255.255.255.255/a.rdb",
	"!https://127.0.0.1:PORT/a.rdb",
	"!http://[::1]:PORT/a.rdb",
	"!http://[::]:PORT/a.rdb",
	"!http://[0:0:0:0:0:0:0:1]:PORT/a.rdb",
	"!http://[::ffff:127.0.0.1]:PORT/a.rdb",
	"!http://[::ffff:7f00:1]:PORT/a.rdb",
	"!http://[::FFFF:169.254.169.254]/a.rdb",
	"!http://[0:0:0:0:0:ffff:10.0.0.1]/a.rdb",
	"!http://[::127.0.0.1]:PORT/a.rdb",
	"!http://[::ffff:0:127.0.0.1]:PORT/a.rdb",
	"!http://[64:ff9b::127.0.0.1]:PORT/a.rdb",
	"!http://[64:ff9b::a9fe:a9fe]/a.rdb",
	"!http://[64:ff9b:1::7f00:1]/a.rdb",
	"!http://[2002:7f00:1::]/a.rdb",
	"!http://[2002:a9fe:a9fe::1]/a.rdb",
	"!http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/a.rdb",
	"!http://[fe80::1]/a.rdb",
	"!http://[fe80::1%25lo]:PORT/a.rdb",
	"!http://[::1%25lo]:PORT/a.rdb",
	"!http://[fec0::1]/a.rdb",
	"!http://[fc00::1]/a.rdb",
	"!http://[fd00:ec2::254]/latest/meta-data/",
	"!http://[fd20:ce::254]/computeMetadata/v1/",
	"!http://[ff02::1]/a.rdb",
	"!http://[2001:db8::1]/a.rdb",
	"!http://[100::1]/a.rdb",
	"!http://[5f00::1]/a.rdb",

	// as numbers that only some programs read as addresses
	"~http://2130706433:PORT/a.rdb",
	"!http://0x7f000001:PORT/a.rdb",
	"!http://0X7F000001:PORT/a.rdb",
	"~http://017700000001:PORT/a.rdb",
	"~http://0177.0.0.1:PORT/a.rdb",
	"~http://0177.0.0.01:PORT/a.rdb",
	"!http://0x7f.0x0.0x0.0x1:PORT/a.rdb",
	"!http://0x7f.1:PORT/a.rdb",
	"~http://127.1:PORT/a.rdb",
	"~http://127.0.1:PORT/a.rdb",
	"~http://127.65530:PORT/a.rdb",
	"~http://0:PORT/a.rdb",
	"!http://0x0:PORT/a.rdb",
	"~http://127.000.000.001:PORT/a.rdb",
	"~http://2852039166/latest/meta-data/",
	"!http://0xa9fea9fe/latest/meta-data/",
	"~http://169.254.43518/latest/meta-data/",
	"~http://127.0.0.1.:PORT/a.rdb",
	"!http://0x7f.1.:PORT/a.rdb",

	// by names
	"!http://localhost:PORT/a.rdb",
	"!http://LOCALHOST:PORT/a.rdb",
	"!http://localhost.:PORT/a.rdb",
	"!http://127.0.0.1.nip.io:PORT/a.rdb",
	"!http://app-7f000001.nip.io:PORT/a.rdb",
	"!http://0x7f000001.nip.io:PORT/a.rdb",
	"!http://169-254-169-254.sslip.io/latest/meta-data/",
	"!http://metadata.google.internal/computeMetadata/v1/",
	"!http://mapped.example:PORT/a.rdb",
	"!http://translated.example:PORT/a.rdb",
	"!http://mixed.example:PORT/a.rdb",
	"!https://inside.example:PORT/a.rdb",

	// in other scripts, which net/http turns into ASCII
	"!http://１２７.０.０.１:PORT/a.rdb",
	"!http://127。0。0。1:PORT/a.rdb",
	"!http://①②⑦.⓪.⓪.①:PORT/a.rdb",
	"!http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:PORT/a.rdb",
	"!http://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1:PORT/a.rdb",

	// with what misleads who reads the URL
	"!http://user@127.0.0.1:PORT/a.rdb",
	"!http://CANARYzQ7xW4pLm2vK9:CANARYzQ7xW4pLm2vK9@127.0.0.1:PORT/a.rdb",
	"!http://example.com@127.0.0.1:PORT/a.rdb",
	"!http://example.com%3A443@127.0.0.1:PORT/a.rdb",
	"!http://127.0.0.1:PORT#@example.com/a.rdb",
	"!http://127.0.0.1:PORT?@example.com/a.rdb",
	"!HTTP://127.0.0.1:PORT/a.rdb",
	"!hTtP://localhost:PORT/a.rdb",
	"!http://127.0.0.1:PORT/a b.rdb",
	`!http://127.0.0.1:PORT/..\example.com`,
	"http://example.com@@127.0.0.1:PORT/a.rdb?CANARYzQ7xW4pLm2vK9",
	`http://127.0.0.1:PORT\@example.com/a.rdb`,
	`http:\\127.0.0.1:PORT\a.rdb`,
	"http://127.0.0.1\t:PORT/a.rdb",
	"http://127.0.0.1:PORT\n/CANARYzQ7xW4pLm2vK9",
	"http://127.0.0.1\r\nHost: example.com:PORT/",
	" http://127.0.0.1:PORT/a.rdb",
	"\x00http://127.0.0.1:PORT/a.rdb",
	"http://%31%32%37.0.0.1:PORT/a.rdb",
	"http://127.0.0.1%00.example.com:PORT/a.rdb",
	"http://127.0.0.1%2eexample.com:PORT/a.rdb",
	"http://loc%61lhost:PORT/a.rdb?CANARYzQ7xW4pLm2vK9",
	"http://[127.0.0.1]:PORT/a.rdb",
	"http://[::1/a.rdb",
	"http://::1:PORT/a.rdb",
	"http://[::1]PORT/a.rdb",
	"http://[::1]]:PORT/a.rdb",
	"http://:PORT/a.rdb",
	"http:///a.rdb",
	"http:127.0.0.1:PORT/a.rdb",
	"http:/127.0.0.1:PORT/a.rdb",
	"//127.0.0.1:PORT/a.rdb",
	"127.0.0.1:PORT/a.rdb",
	"/a.rdb",
	"",
	"?" + canary,
	"http://127.0.0.1:0/a.rdb",
	"http://127.0.0.1:/a.rdb",
	"http://127.0.0.1:99999/a.rdb?" + canary,
	"http://127.0.0.1:-1/a.rdb",
	"http://127.0.0.1:PORT:80/a.rdb",
	"http://.:PORT/a.rdb",
	"http://a..b:PORT/a.rdb",
	"file:///etc/passwd",
	"file://127.0.0.1/etc/passwd",
	"gopher://127.0.0.1:PORT/_SAVE",
	"ftp://127.0.0.1:PORT/a.rdb",
	"dict://127.0.0.1:PORT/info",
	"redis://127.0.0.1:PORT/",
	"unix:///var/run/docker.sock",
	"data:text/plain,REDIS0009",
	"javascript:alert(1)",
	"jar:http://127.0.0.1:PORT!/a.rdb",
	"ws://127.0.0.1:PORT/a.rdb",
	"http+unix://%2Fvar%2Frun%2Fdocker.sock/a.rdb",
}

// insideNames answers as those do who own a name, and as getaddrinfo does with numbers.
func insideNames(name string, six bool) []netip.Addr {
	at := netip.MustParseAddr
	switch name {
	case "metadata.google.internal":
		return []netip.Addr{at("169.254.169.254")}
	case "mapped.example":
		return []netip.Addr{at("::ffff:127.0.0.1")}
	case "translated.example":
		return []netip.Addr{at("64:ff9b::7f00:1")}
	case "mixed.example":
		return []netip.Addr{at("127.0.0.1"), at("::1"), at("10.0.0.1")}
	case "169-254-169-254.sslip.io":
		return []netip.Addr{at("169.254.169.254")}
	}
	if addr, ok := aton(name); ok {
		return []netip.Addr{addr}
	}
	return []netip.Addr{at("127.0.0.1")}
}

// A trap is a listener that must not be reached.
type trap struct {
	port  string
	conns atomic.Int64
}

func newTrap(t testing.TB) *trap {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := &trap{port: fmt.Sprint(l.Addr().(*net.TCPAddr).Port)}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tr.conns.Add(1)
			c.Close()
		}
	}()
	return tr
}

var errLooked = errors.New("this was for looking only")

// looker notes what would be connected to, and keeps it from that.
type looker struct {
	mu  sync.Mutex
	saw []netip.Addr
}

func (l *looker) dialing(at netip.AddrPort) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saw = append(l.saw, at.Addr())
	return errLooked
}

func TestHostileURLs(t *testing.T) {
	tr := newTrap(t)
	resolver := startDNS(t, insideNames)
	if len(hostile) < 60 {
		t.Fatalf("only %d spellings", len(hostile))
	}
	reached := 0
	for _, raw := range hostile {
		raw, plain := strings.CutPrefix(raw, "!")
		raw, numeric := strings.CutPrefix(raw, "~")
		raw = strings.ReplaceAll(raw, "PORT", tr.port)
		if plain {
			// Without the guard it is connected to: else the spelling would prove nothing.
			var seen looker
			dialer := &net.Dialer{Timeout: 3 * time.Second, Resolver: resolver, ControlContext: func(_ context.Context, _, addr string, _ syscall.RawConn) error {
				return seen.dialing(netip.MustParseAddrPort(addr))
			}}
			if _, err := (&http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}).Get(raw); err == nil {
				t.Errorf("%q: a plain client got an answer", raw)
			}
			if len(seen.saw) == 0 {
				t.Errorf("%q: a plain client would not connect, so it proves nothing that we don't", raw)
			}
			for _, addr := range seen.saw {
				if fetch.CheckAddr(fetch.Policy{}, addr) == nil {
					t.Errorf("%q leads to %s, which may be reached", raw, addr)
				}
			}
			reached++
		}
		if numeric {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if addr, ok := aton(strings.TrimSuffix(u.Hostname(), ".")); !ok || fetch.CheckAddr(fetch.Policy{}, addr) == nil {
				t.Errorf("%q leads nowhere that matters", raw)
			}
		}
		var seen looker
		p := fetch.Policy{AllowHTTP: true, Resolver: resolver}.Dialing(seen.dialing)
		for what, f := range map[string]func() error{
			"fetching": func() error { _, err := read(t, fetch.Config{URL: raw, Policy: p}); return err },
			"a shard": func() error {
				_, err := read(t, fetch.Config{URL: "https://127.0.0.1/s-summary.dfs", More: []string{raw}, Policy: p})
				return err
			},
			"sending": func() error {
				return fetch.Put(t.Context(), p, raw, 5, opener("hello"), fetch.QuickPut(fetch.PutOptions{}))
			},
		} {
			err := f()
			if !errors.Is(err, fetch.ErrRefused) {
				t.Errorf("%s %q: %v, want it refused", what, raw, err)
			}
			refused(t, err, nil)
		}
		if len(seen.saw) > 0 {
			t.Errorf("%q: would have connected to %v", raw, seen.saw)
		}
	}
	if n := tr.conns.Load(); n > 0 {
		t.Errorf("%d connections were made", n)
	}
	t.Logf("%d spellings, of which a plain client follows %d; connections: %d", len(hostile), reached, tr.conns.Load())
}

// TestTheTrapWorks shows that what the other tests count is counted: with the address allowed, the same is connected to.
func TestTheTrapWorks(t *testing.T) {
	tr := newTrap(t)
	for _, host := range []string{"127.0.0.1", "localhost", "inside.example"} {
		p := loopback()
		p.Resolver = startDNS(t, insideNames)
		before := tr.conns.Load()
		_, err := read(t, fetch.Config{URL: "http://" + host + ":" + tr.port + "/a.rdb" + query, Policy: p})
		refused(t, err, nil)
		if errors.Is(err, fetch.ErrRefused) || tr.conns.Load() == before {
			t.Errorf("%s: %v, and %d connections", host, err, tr.conns.Load()-before)
		}
	}
}

// TestRebinding asks names that mean a public address when they are looked up first and another one later.
func TestRebinding(t *testing.T) {
	tr := newTrap(t)
	public := netip.MustParseAddr("8.8.8.8")
	for name, answers := range map[string][]string{
		"later":     {"8.8.8.8", "127.0.0.1"},
		"much":      {"8.8.8.8", "8.8.8.8", "8.8.8.8", "169.254.169.254"},
		"alternate": {"8.8.8.8", "127.0.0.1", "8.8.8.8"},
		"mixed":     {"8.8.8.8,127.0.0.1"},
		"six":       {"8.8.8.8", "::1"},
	} {
		var mu sync.Mutex
		asked := map[bool]int{}
		resolver := startDNS(t, func(_ string, six bool) []netip.Addr {
			mu.Lock()
			defer mu.Unlock()
			var out []netip.Addr
			for _, a := range strings.Split(answers[min(asked[six], len(answers)-1)], ",") {
				out = append(out, netip.MustParseAddr(a))
			}
			asked[six]++
			return out
		})
		var seen looker
		p := fetch.Policy{AllowHTTP: true, Resolver: resolver}.Dialing(seen.dialing)
		for range 3 {
			_, err := read(t, fetch.Config{URL: "http://rebind.example:" + tr.port + "/a.rdb" + query, Policy: p})
			refused(t, err, nil)
		}
		if len(seen.saw) == 0 {
			t.Errorf("%s: the public address was not connected to either", name)
		}
		for _, addr := range seen.saw {
			if addr != public {
				t.Errorf("%s: would have connected to %s", name, addr)
			}
		}
	}
	if n := tr.conns.Load(); n > 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestAddresses(t *testing.T) {
	allow := func(s ...string) fetch.Policy {
		var p fetch.Policy
		for _, a := range s {
			p.Allow = append(p.Allow, netip.MustParsePrefix(a))
		}
		return p
	}
	for _, test := range []struct {
		addr string
		p    fetch.Policy
		ok   bool
	}{
		{"8.8.8.8", allow(), true},
		{"52.216.1.1", allow(), true},
		{"::ffff:8.8.8.8", allow(), true},
		{"2606:4700::1111", allow(), true},
		{"2a00:1450:4001::1", allow(), true},
		{"100.63.255.255", allow(), true},
		{"100.128.0.0", allow(), true},
		{"172.15.255.255", allow(), true},
		{"172.32.0.0", allow(), true},
		{"11.0.0.0", allow(), true},
		{"168.63.129.17", allow(), true},
		{"223.255.255.255", allow(), true},
		{"2001:200::1", allow(), true},
		{"10.0.0.1", allow("10.0.0.0/24"), true},
		{"10.0.1.1", allow("10.0.0.0/24"), false},
		{"::ffff:10.0.0.1", allow("10.0.0.0/24"), true},
		{"fd00::1", allow("fd00::/8"), true},
		{"127.0.0.1", allow("::/0"), false},
		{"::1", allow("0.0.0.0/0"), false},
		{"::1", allow("::1/128"), true},
		// Who allows a translator doesn't mean that it may lead back in.
		{"64:ff9b::8.8.8.8", allow(), false},
		{"64:ff9b::8.8.8.8", allow("64:ff9b::/96"), true},
		{"64:ff9b::127.0.0.1", allow("64:ff9b::/96"), false},
		{"64:ff9b::10.0.0.1", allow("64:ff9b::/96", "10.0.0.0/8"), true},
		{"2002:7f00:1::1", allow("2002::/16"), false},
		{"2002:808:808::1", allow("2002::/16"), true},
		{"2001:0:4136:e378:8000:63bf:80ff:fffe", allow("2001::/32"), false},
		{"::127.0.0.1", allow("::/96"), false},
	} {
		err := fetch.CheckAddr(test.p, netip.MustParseAddr(test.addr))
		if (err == nil) != test.ok {
			t.Errorf("%s with %v: %v", test.addr, test.p.Allow, err)
		}
	}
}

// FuzzImportURL: the host of no URL that is accepted is an address, in any program's eyes, that may not be reached.
func FuzzImportURL(f *testing.F) {
	for _, raw := range hostile {
		f.Add(strings.ReplaceAll(strings.TrimLeft(raw, "!~"), "PORT", "6379"))
	}
	for _, raw := range []string{"https://bucket.s3.amazonaws.com/a.rdb?X-Amz-Signature=1", "http://8.8.8.8:9000/a", "https://[2606:4700::1111]/a", "https://xn--bcher-kva.example./x%20y"} {
		f.Add(raw)
		if _, err := fetch.ParseURL(fetch.Policy{AllowHTTP: true}, raw); err != nil {
			f.Errorf("%s: %v", raw, err)
		}
	}
	f.Fuzz(func(t *testing.T, raw string) {
		host, err := fetch.ParseURL(fetch.Policy{AllowHTTP: true}, raw)
		if err != nil {
			if !errors.Is(err, fetch.ErrRefused) {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		req, err := http.NewRequest("GET", raw, nil)
		if err != nil || req.URL.Hostname() != host || req.URL.User != nil || req.URL.Scheme != "http" && req.URL.Scheme != "https" {
			t.Fatalf("%q: was taken for one of %q, but net/http says %v, %v", raw, host, req, err)
		}
		for _, c := range []byte(host) {
			if c <= ' ' || c > '~' {
				t.Errorf("%q: the host is %q", raw, host)
			}
		}
		for _, h := range []string{host, strings.TrimSuffix(host, "."), strings.Trim(host, "[]")} {
			addr, err := netip.ParseAddr(h)
			if err != nil {
				var ok bool
				if addr, ok = aton(h); !ok {
					continue
				}
				if addr.String() != h {
					t.Errorf("%q: its host is a number", raw)
				}
			}
			if err := fetch.CheckAddr(fetch.Policy{}, addr); err != nil {
				t.Errorf("%q: %v", raw, err)
			}
		}
	})
}
