package teststore

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestProxy: a proxy lets everything through, until it is told to cut, stall or reset.
func TestProxy(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 300_000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(body) }))
	defer server.Close()
	p := StartProxy(t, server.Listener.Addr().String())
	get := func(timeout time.Duration) (int, error) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: timeout}
		resp, err := client.Get(p.URL)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		return len(data), err
	}
	whole := func(when string) {
		t.Helper()
		if n, err := get(time.Minute); n != len(body) || err != nil {
			t.Errorf("%s: %d bytes, %v", when, n, err)
		}
	}
	whole("unharmed")
	cuts := 0
	for n := 0; n < 90_000; { // a client that is held up may not have taken all that was sent before a reset, which is lost then
		if cuts++; cuts > 10 {
			t.Fatalf("cut too early, %d times: the last time after %d bytes", cuts-1, n)
		}
		p.CutDown(100_000, false)
		var err error
		if n, err = get(time.Minute); n > 100_000 || err == nil {
			t.Errorf("cut: %d bytes, %v", n, err)
		}
	}
	whole("after the only cut")
	p.CutDown(100_000, true)
	for range 2 {
		if n, err := get(time.Minute); n > 100_000 || err == nil {
			t.Errorf("cut again: %d bytes, %v", n, err)
		}
	}
	if n := p.Cuts(); n != cuts+2 {
		t.Errorf("%d cuts, want %d", n, cuts+2)
	}
	p.Heal()
	whole("healed")
	p.CutUp(10, false)
	if n, err := get(time.Minute); err == nil {
		t.Errorf("a request that was cut: %d bytes", n)
	}
	p.Stall()
	var timeout net.Error
	if n, err := get(200 * time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("stalled: %d bytes, %v", n, err)
	}
	p.Heal()
	p.Slow(10 << 20)
	whole("slow")
}
