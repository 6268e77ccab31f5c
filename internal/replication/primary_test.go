package replication

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

// serve starts a Primary and returns its address and what Accept returned.
func serve(t *testing.T, p *Primary) (addr string, link func() *Link) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Listener = listener
	if p.Timeout == 0 {
		p.Timeout = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	links, errs := make(chan *Link, 1), make(chan error, 1)
	go func() {
		l, err := p.Accept(ctx)
		links <- l
		errs <- err
	}()
	t.Cleanup(cancel)
	return listener.Addr().String(), func() *Link {
		t.Helper()
		l, err := <-links, <-errs
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
}

type replica struct {
	net.Conn
	*bufio.Reader
}

func (r replica) Read(p []byte) (int, error) { return r.Reader.Read(p) }

func connect(t *testing.T, addr string) replica {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return replica{conn, bufio.NewReader(conn)}
}

// say sends a line and returns the line that comes back, or what ended the connection.
func (r replica) say(line string) string {
	fmt.Fprintf(r.Conn, "%s\r\n", line)
	reply, err := r.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimRight(reply, "\r\n")
}

func (r replica) expect(t *testing.T, line, want string) {
	t.Helper()
	if got := r.say(line); got != want {
		t.Fatalf("%s is answered by %q, want %q", line, got, want)
	}
}

func TestHandshake(t *testing.T) {
	p := &Primary{Password: "sesame"}
	addr, link := serve(t, p)
	r := connect(t, addr)
	r.expect(t, "PING", "+PONG")
	r.expect(t, "AUTH someone sesame", "+OK")
	r.expect(t, "REPLCONF listening-port 7001", "+OK")
	r.expect(t, "*5\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n$4\r\ncapa\r\n$6\r\npsync2", "+OK")
	r.expect(t, "\n\nREPLCONF version 9.1.2", "+OK")
	io.WriteString(r.Conn, "PSYNC abc 17\r\n")
	l := link()
	want := Hello{Addr: r.LocalAddr(), Port: 7001, Version: "9.1.2", EOF: true, ID: "abc"}
	if got := l.Hello(); got.Addr.String() != want.Addr.String() || got.Port != want.Port || got.Version != want.Version || got.EOF != want.EOF || got.ID != want.ID {
		t.Errorf("the replica told %+v, want %+v", got, want)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("the listener is still open")
	}
	if n, last := p.Refused(); n != 0 {
		t.Errorf("%d were refused: %s", n, last)
	}
}

// What isn't the replica goes away without data, and the replica is served all the same.
func TestRefuses(t *testing.T) {
	p := &Primary{Password: "sesame", Handshake: time.Second, Admit: func(h Hello) error {
		if h.Port != 7001 {
			return errors.New("another port")
		}
		return nil
	}}
	addr, link := serve(t, p)
	for _, lines := range [][]string{
		{"PSYNC ? -1"},
		{"SYNC"},
		{"AUTH open"},
		{"AUTH"},
		{"AUTH sesame sesam"},
		{"AUTH sesame", "PSYNC ? -1"}, // not admitted
		{"AUTH sesame", "REPLCONF listening-port 7002", "PSYNC ? -1"},
		{"AUTH sesame", "GET key"},
		{"*3\r\n:1"},
		{"*-5"},
		{"*99999999"},
		{strings.Repeat("x", 5000)},
	} {
		r := connect(t, addr)
		var got []string
		for _, line := range lines {
			got = append(got, r.say(line))
		}
		rest, _ := io.ReadAll(r)
		all := strings.Join(got, "\n") + string(rest)
		if strings.Contains(all, "FULLRESYNC") || strings.Contains(all, "$") {
			t.Errorf("%q is answered by %q", lines, all)
		}
	}
	pinger := connect(t, addr)
	for i := range maxCommands {
		if got := pinger.say("PING"); got != "+PONG" {
			t.Fatalf("PING %d is answered by %q", i, got)
		}
	}
	if got := pinger.say("PING"); got == "+PONG" {
		t.Error("a handshake goes on without end")
	}
	silent := connect(t, addr)
	if _, err := silent.Reader.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("a silent connection ends by %v, want the end of the handshake's time", err)
	}
	if n, last := p.Refused(); n != 14 || strings.Contains(last, "sesame") {
		t.Errorf("%d were refused, want 14; the last ones: %s", n, last)
	}

	r := connect(t, addr)
	r.expect(t, "AUTH sesame", "+OK")
	r.expect(t, "REPLCONF listening-port 7001", "+OK")
	io.WriteString(r.Conn, "PSYNC ? -1\r\n")
	link()
}

// A crowd can't use up our memory or connections.
func TestCrowd(t *testing.T) {
	p := &Primary{Password: "sesame"}
	addr, link := serve(t, p)
	var crowd []replica
	for range maxHandshakes {
		r := connect(t, addr)
		r.expect(t, "PING", "+PONG")
		crowd = append(crowd, r)
	}
	if got := connect(t, addr).say("PING"); got == "+PONG" {
		t.Error("one more connection than allowed is served")
	}
	crowd[0].Conn.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		r := connect(t, addr)
		if r.say("PING") == "+PONG" {
			r.expect(t, "AUTH sesame", "+OK")
			io.WriteString(r.Conn, "SYNC\r\n")
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a connection that ended isn't free again")
		}
	}
	link()
	if _, err := crowd[1].ReadByte(); err == nil {
		t.Error("others than the replica are still connected")
	}
}

func TestAcceptEndsWithContext(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Primary{Listener: listener, Timeout: time.Minute}
	r := connect(t, listener.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		r.say("PING")
		cancel()
	}()
	if _, err := p.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if got := r.say("PING"); got == "+PONG" {
		t.Error("a connection is still open")
	}
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// sync makes a link over which data is sent, and returns what the replica got.
func send(t *testing.T, ask []string, src io.Reader, size int64) (got []byte, l *Link, err error) {
	t.Helper()
	addr, link := serve(t, &Primary{})
	r := connect(t, addr)
	for _, line := range ask[:len(ask)-1] {
		r.expect(t, line, "+OK")
	}
	fmt.Fprintf(r.Conn, "%s\r\n", ask[len(ask)-1])
	l = link()
	done := make(chan []byte, 1)
	var arrived atomic.Int64
	go func() {
		var all bytes.Buffer
		io.Copy(&all, io.TeeReader(r, counter{&arrived}))
		done <- all.Bytes()
	}()
	err = l.FullSync(t.Context(), src, size)
	if err == nil {
		// A graceful end, so that nothing of what was sent is lost.
		l.conn.(*net.TCPConn).CloseWrite()
	} else {
		// Let the replica get what it was sent, and what it wasn't.
		for wait := 0; arrived.Load() < l.Sent() && wait < 500; wait++ {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		l.Close()
	}
	return <-done, l, err
}

func TestFullSync(t *testing.T) {
	for _, size := range []int{1, 9, chunkSize - 1, chunkSize, chunkSize + 1, 2 * chunkSize, 3*chunkSize + 7} {
		data := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "dataErr": iotest.DataErrReader,
		} {
			got, l, err := send(t, []string{"REPLCONF capa eof", "PSYNC ? -1"}, wrap(bytes.NewReader(data)), int64(size))
			if err != nil {
				t.Fatal(err)
			}
			head := "+FULLRESYNC " + l.ID() + " 1\r\n$EOF:"
			rest, ok := bytes.CutPrefix(got, []byte(head))
			if !ok || len(l.ID()) != 40 {
				t.Fatalf("it begins with %.90q, want %q", got, head)
			}
			mark, payload := rest[:40], rest[42:]
			if !bytes.Equal(payload, append(append([]byte{}, data...), mark...)) {
				t.Errorf("%d bytes, %s: after the header came %d bytes, which aren't the data and the mark", size, name, len(payload))
			}
			if l.Sent() != int64(size) {
				t.Errorf("Sent is %d, want %d", l.Sent(), size)
			}

			got, l, err = send(t, []string{"PSYNC ? -1"}, wrap(bytes.NewReader(data)), int64(size))
			want := fmt.Sprintf("+FULLRESYNC %s 1\r\n$%d\r\n%s*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n", l.ID(), size, data)
			if err != nil || string(got) != want {
				t.Errorf("%d bytes, %s, by length: %v, got %.90q… of %d bytes", size, name, err, got, len(got))
			}
		}
	}
	got, _, err := send(t, []string{"SYNC"}, strings.NewReader("data"), 4)
	if err != nil || !strings.HasPrefix(string(got), "$4\r\ndata") {
		t.Errorf("SYNC is answered by %q, %v", got, err)
	}
}

// A source that doesn't confirm its end is never a whole snapshot for the replica.
func TestFullSyncOfBrokenSource(t *testing.T) {
	broken := errors.New("the hash is wrong")
	const size = 3*chunkSize + 7
	data := bytes.Repeat([]byte("x"), size+chunkSize)
	for name, c := range map[string]struct {
		n   int
		err error
	}{
		"first": {0, broken}, "middle": {size / 2, broken}, "chunk": {chunkSize, broken}, "last": {size - 1, broken}, "end": {size, broken},
		"empty": {0, io.EOF}, "short": {size - 1, io.EOF}, "long": {size + 1, io.EOF}, "much longer": {size + chunkSize, io.EOF},
	} {
		for _, ask := range [][]string{{"REPLCONF capa eof", "PSYNC ? -1"}, {"PSYNC ? -1"}} {
			src := io.MultiReader(bytes.NewReader(data[:c.n]), iotest.ErrReader(c.err))
			got, l, err := send(t, ask, src, size)
			var source *SourceError
			if !errors.As(err, &source) || c.err == broken && !errors.Is(err, broken) {
				t.Errorf("%s: the error is %v", name, err)
				continue
			}
			if l.Sent() >= size || source.Sent != l.Sent() {
				t.Errorf("%s: %d bytes were sent, and the error says %d", name, l.Sent(), source.Sent)
			}
			if n := bytes.Count(got, []byte("x")); n >= size {
				t.Errorf("%s: the replica got %d of %d bytes", name, n, size)
			}
		}
	}
}

func TestLoaded(t *testing.T) {
	addr, link := serve(t, &Primary{Timeout: time.Second})
	r := connect(t, addr)
	fmt.Fprintf(r.Conn, "PSYNC ? -1\r\n")
	l := link()
	go func() {
		for range 5 { // longer than the timeout, with signs of life
			time.Sleep(250 * time.Millisecond)
			r.Write([]byte("\n"))
		}
		r.Write([]byte("REPLCONF ACK 0\r\n*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n1\r\n"))
	}()
	if err := l.Loaded(t.Context()); err != nil {
		t.Errorf("with signs of life: %v", err)
	}
	if err := l.Loaded(t.Context()); err == nil {
		t.Error("without a sign of life there is no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Loaded(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancelling: %v", err)
	}
}

// A replica that takes nothing is given up after the timeout, and at once when the context ends.
func TestStalledReplica(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		timeout := 300 * time.Millisecond
		if cancelled {
			timeout = time.Minute
		}
		addr, link := serve(t, &Primary{Timeout: timeout})
		r := connect(t, addr)
		fmt.Fprintf(r.Conn, "PSYNC ? -1\r\n")
		l := link()
		ctx, cancel := context.WithCancel(t.Context())
		if cancelled {
			time.AfterFunc(100*time.Millisecond, cancel)
		}
		start := time.Now()
		err := l.FullSync(ctx, endless{}, 1<<40)
		if err == nil || cancelled != errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		cancel()
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
