package teststore

import (
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// A Proxy is a TCP proxy before a server, which harms what goes through it. It ends with its test.
type Proxy struct {
	Addr string // host:port, of 127.0.0.1
	URL  string // http://host:port

	mu       sync.Mutex
	changed  *sync.Cond
	up, down cut
	stalled  bool
	pause    time.Duration // before each piece of 16 KiB
	conns    map[*pair]bool
	cuts     int
	closed   bool
}

// A cut is made when so many bytes have passed.
type cut struct {
	left  int64 // negative: never
	every int64 // from then on; negative: only once
}

// A pair is a connection of a client, and ours to the server.
type pair struct{ client, server net.Conn }

func (p *pair) close() {
	for _, c := range []net.Conn{p.client, p.server} {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset, not an end
		}
		c.Close()
	}
}

// StartProxy starts a proxy that does no harm yet before the server at addr.
func StartProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), conns: make(map[*pair]bool)}
	p.URL = (&url.URL{Scheme: "http", Host: p.Addr}).String()
	p.changed = sync.NewCond(&p.mu)
	p.Heal()
	var workers sync.WaitGroup
	workers.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", addr)
			if err != nil {
				client.Close()
				continue
			}
			c := &pair{client, server}
			p.mu.Lock()
			p.conns[c] = true
			p.mu.Unlock()
			workers.Go(func() { p.copy(c, server, client, &p.up) })
			workers.Go(func() { p.copy(c, client, server, &p.down) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.closed = true
		p.changed.Broadcast()
		p.mu.Unlock()
		p.Reset()
		workers.Wait()
	})
	return p
}

// CutDown cuts a connection when n more bytes have come from the server, over whatever connections; and again after each n bytes if always.
func (p *Proxy) CutDown(n int64, always bool) { p.set(&p.down, n, always) }

// CutUp does so for bytes to the server.
func (p *Proxy) CutUp(n int64, always bool) { p.set(&p.up, n, always) }

func (p *Proxy) set(c *cut, n int64, always bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*c = cut{left: n, every: -1}
	if always {
		c.every = n
	}
}

// Stall lets nothing through until Heal; connections stay open.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = true
}

// Slow lets through so many bytes a second on each connection, in each direction.
func (p *Proxy) Slow(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pause = time.Second * piece / time.Duration(bytes)
}

// Heal ends all harm. Connections that were cut stay so.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.down, p.stalled, p.pause = cut{-1, -1}, cut{-1, -1}, false, 0
	p.changed.Broadcast()
}

// Reset cuts all connections that are open.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}

// Cuts returns how often CutDown and CutUp have cut a connection.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

const piece = 16 << 10

func (p *Proxy) copy(c *pair, to, from net.Conn, harm *cut) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		to.Close()
		from.Close()
	}()
	buf := make([]byte, piece)
	for {
		n, err := from.Read(buf)
		data, broken := p.pass(buf[:n], harm)
		if _, err := to.Write(data); err != nil {
			return
		}
		if broken {
			c.close()
			return
		}
		if err != nil {
			return
		}
	}
}

// pass waits until data may pass, and returns what of it may, and whether the connection is cut after it.
func (p *Proxy) pass(data []byte, harm *cut) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stalled && !p.closed {
		p.changed.Wait()
	}
	if pause := p.pause; pause > 0 && len(data) > 0 {
		p.mu.Unlock()
		time.Sleep(pause * time.Duration(len(data)) / piece)
		p.mu.Lock()
	}
	if harm.left < 0 || int64(len(data)) < harm.left || len(data) == 0 {
		if harm.left >= 0 {
			harm.left -= int64(len(data))
		}
		return data, false
	}
	data = data[:harm.left]
	harm.left = harm.every
	p.cuts++
	return data, true
}
