package feed

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// broken is a source that breaks off after some bytes.
type broken struct {
	*image
	after int
	err   error
}

var errStore = errors.New("the store went away")

func (b broken) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(b.data[:b.after]), failing{b.err})), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// partialError returns err as one, and holds it to state.
func partialError(t *testing.T, err error, want restore.TargetState) *restore.PartialError {
	t.Helper()
	var partial *restore.PartialError
	if !errors.As(err, &partial) {
		t.Fatalf("the error is %v: it should be a PartialError", err)
	}
	if partial.State != want {
		t.Errorf("the error says that the target is %s, want %s: %v", partial.State, want, err)
	}
	return partial
}

// verdictPoint returns the point of a name, or one without a level.
func verdictPoint(v restore.Verdict, name string) restore.Point {
	for _, p := range v.Points {
		if p.Name == name {
			return p
		}
	}
	return restore.Point{}
}

// refuses checks that both Check and Load fail at a point and that the target is as it was.
func refuses(t *testing.T, l *Loader, s *testserver.Server, img *image, point string, opts *restore.Options) {
	t.Helper()
	c := s.Client(t)
	before, contents := state(t, c), testserver.Snapshot(t, c)
	v, err := l.Check(t.Context(), restore.Requirements{Backup: img.backup, Final: true, Options: opts})
	if err != nil {
		t.Fatal(err)
	}
	if p := verdictPoint(v, point); p.Level != restore.Fail {
		t.Errorf("point %s is %+v: it should fail; the verdict is %+v", point, p, v)
	}
	_, err = l.Load(t.Context(), img, opts)
	var partial *restore.PartialError
	if !errors.Is(err, restore.ErrRefused) && !errors.Is(err, restore.ErrNotEmpty) || errors.As(err, &partial) {
		t.Errorf("Load gives %v: it should refuse, without a PartialError", err)
	}
	sameState(t, before, state(t, c))
	if diff := testserver.Diff(contents, testserver.Snapshot(t, c)); diff != "" {
		t.Errorf("the target's data was touched: %s", diff)
	}
}

func TestSettingsArePutBack(t *testing.T) {
	for _, version := range testserver.All() {
		img := sample(t, version, 60)
		for _, former := range [][]string{
			nil,
			{setPassword, "former password", setUser, "former user", setDiskless, loadSwap, setReadOnly, "no"},
		} {
			name := "default"
			if former != nil {
				name = "set"
			}
			t.Run(version+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := testserver.Start(t, version)
				c := s.Client(t)
				set(t, c, former...)
				before := state(t, c)
				l := loader(t, s, nil)

				_, err := l.Load(t.Context(), broken{img, len(img.data) / 2, errStore}, nil)
				partialError(t, err, restore.TargetEmpty)
				sameState(t, before, state(t, c))

				var during map[string]string
				_, err = l.Load(t.Context(), img, &restore.Options{Progress: func(p restore.Progress) {
					if p.Stage == restore.StageLoad && during == nil {
						during = state(t, c)
					}
				}})
				if err != nil {
					t.Fatal(err)
				}
				if during[setPassword] == before[setPassword] || len(during[setPassword]) < 40 || during[setUser] != "" || during[setReadOnly] != "yes" {
					t.Errorf("during the load the target has %v", during)
				}
				sameState(t, before, state(t, c))

				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				_, err = l.Load(ctx, img, &restore.Options{Conflict: restore.Replace, Progress: func(restore.Progress) { cancel() }})
				if err == nil {
					t.Error("a load that was cancelled gives no error")
				}
				sameState(t, before, state(t, c))
				holds(t, s, img)
			})
		}
	}
}

// A proxy stands between a target and the loader: the target is told to connect to it.
type proxy struct {
	listen net.Listener
	dest   string // where the loader listens
	before func() // is called when the first connection came, before it is passed on
	cut    int64  // close each connection after so many bytes to the target; negative: never
	deaf   bool   // pass nothing from the target after the data began, and close when it ends

	mu       sync.Mutex
	payloads int // connections on which data was sent
	group    sync.WaitGroup
}

// newProxy starts a proxy, whose fields configure sets, and returns it and the changes to a Config that make it work.
func newProxy(t *testing.T, configure func(p *proxy)) (*proxy, func(*Config)) {
	t.Helper()
	dest, err := testserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listen: listen, dest: dest, cut: -1}
	configure(p)
	p.group.Go(p.run)
	t.Cleanup(func() {
		listen.Close()
		p.group.Wait()
	})
	return p, func(c *Config) { c.Listen, c.Advertise = dest, listen.Addr().String() }
}

func (p *proxy) run() {
	var once sync.Once
	for {
		in, err := p.listen.Accept()
		if err != nil {
			return
		}
		once.Do(func() {
			if p.before != nil {
				p.before()
			}
		})
		out, err := net.Dial("tcp", p.dest)
		if err != nil {
			in.Close()
			continue
		}
		p.group.Go(func() { p.pass(in, out) })
	}
}

func (p *proxy) pass(in, out net.Conn) {
	var group sync.WaitGroup
	defer group.Wait()
	defer in.Close()
	defer out.Close()
	began := make(chan struct{})
	group.Go(func() {
		defer out.Close()
		buf := make([]byte, 4096)
		for {
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			select {
			case <-began:
				if p.deaf {
					continue
				}
			default:
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	var sent int64
	var head []byte
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		if err != nil {
			return
		}
		data := buf[:n]
		select {
		case <-began:
			sent += int64(n)
		default:
			const header = len("$EOF:") + 40 + len("\r\n")
			head = append(head, data...)
			if at := bytes.Index(head, []byte("$EOF:")); at >= 0 && len(head) >= at+header {
				sent = int64(len(head) - at - header)
				p.mu.Lock()
				p.payloads++
				p.mu.Unlock()
				close(began)
				if p.cut == 0 {
					return
				}
			}
		}
		if p.cut > 0 && sent >= p.cut { // the snapshot's bytes and then the mark's
			in.Write(data[:max(0, len(data)-int(sent-p.cut))])
			return
		}
		if _, err := in.Write(data); err != nil {
			return
		}
	}
}

func (p *proxy) transfers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.payloads
}

// Whoever connects gets no data, however early and whatever it says.
func TestStrangersGetNothing(t *testing.T) {
	sessions := []string{
		"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n",
		"PING\r\nREPLCONF listening-port 6379\r\nREPLCONF capa eof capa psync2\r\nPSYNC ? -1\r\n",
		"SYNC\r\n",
		"AUTH wrong\r\nPSYNC ? -1\r\n",
		"AUTH\r\nPSYNC ? -1\r\n",
		"*2\r\n$4\r\nAUTH\r\n$0\r\n\r\nPSYNC ? -1\r\n",
		"GET / HTTP/1.1\r\nHost: amber\r\n\r\n",
		"*1000000\r\n$5\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		strings.Repeat("PING\r\n", 100),
		"",
	}
	for _, rights := range []string{"password", "address"} {
		for _, version := range testserver.All() {
			t.Run(rights+"/"+version, func(t *testing.T) {
				t.Parallel()
				img := sample(t, version, 60)
				s := testserver.Start(t, version)
				var got bytes.Buffer
				var silent net.Conn
				gone := make(chan struct{})
				before := func(p *proxy) {
					defer close(gone)
					for _, text := range sessions {
						conn, err := net.Dial("tcp", p.dest)
						if err != nil {
							t.Error(err)
							return
						}
						io.WriteString(conn, text)
						if text == "" {
							silent = conn // stays while the target is served
							continue
						}
						conn.(*net.TCPConn).CloseWrite()
						io.Copy(&got, conn)
						conn.Close()
					}
				}
				_, via := newProxy(t, func(p *proxy) { p.before = func() { before(p) } })
				l := loader(t, s, func(c *Config) {
					via(c)
					if rights == "address" {
						s.AddUser(t, "keeper", "pw", "+@all", "-config", "~*", "&*")
						c.Options.Username, c.Options.Password = "keeper", "pw"
					}
				})
				report, err := l.Load(t.Context(), img, nil)
				if err != nil {
					t.Fatal(err)
				}
				holds(t, s, img)
				<-gone
				if silent != nil {
					io.Copy(&got, silent)
					silent.Close()
				}
				for _, text := range []string{"FULLRESYNC", "CONTINUE", "EOF", "REDIS0", "VALKEY0"} {
					if strings.Contains(got.String(), text) {
						t.Errorf("a stranger got %q: %.300q", text, got.String())
					}
				}
				if !slices.ContainsFunc(report.Warnings, func(w string) bool { return strings.Contains(w, "turned away") }) {
					t.Errorf("nobody is told about the strangers: %q", report.Warnings)
				}
			})
		}
	}
}

// A target that comes from elsewhere, or another server at the target's address, isn't let in without the password.
func TestImpostorWithoutPassword(t *testing.T) {
	img := sample(t, "redis-7.0", 60)
	s := testserver.Start(t, "redis-7.0")
	other := testserver.Start(t, "redis-7.0")
	s.AddUser(t, "keeper", "pw", "+@all", "-config", "~*", "&*")
	release := make(chan struct{})
	_, via := newProxy(t, func(p *proxy) {
		p.before = func() { // the target waits at the proxy while another server comes first
			host, port, _ := net.SplitHostPort(p.dest)
			if err := other.Client(t).ReplicaOf(t.Context(), host, port).Err(); err != nil {
				t.Error(err)
			}
			<-release
		}
	})
	l := loader(t, s, func(c *Config) {
		via(c)
		c.Options.Username, c.Options.Password = "keeper", "pw"
		c.Contact = 2 * time.Second // within which the other comes
	})
	_, err := l.Load(t.Context(), img, nil)
	close(release)
	partialError(t, err, restore.TargetEmpty)
	if !strings.Contains(err.Error(), "turned away") {
		t.Errorf("the error doesn't tell of the impostor: %v", err)
	}
	if n := other.Client(t).DBSize(t.Context()).Val(); n > 0 {
		t.Errorf("another server got %d keys", n)
	}
}

// However the connection breaks, the data is sent once, and the target is told to stop. Each version has each break once, into its memory or onto its
// disk; with CAMPAIGN=1 both.
func TestConnectionCut(t *testing.T) {
	for i, version := range testserver.All() {
		for j, spooled := range []bool{false, true} {
			img := sample(t, version, 200)
			for k, name := range []string{"first", "middle", "last"} {
				if (i+j+k)%2 != 0 && !campaign {
					continue
				}
				cut := []int64{0, int64(len(img.data) / 2), int64(len(img.data)) + 2}[k]
				mode := "memory"
				if spooled {
					mode = "spool"
				}
				t.Run(version+"/"+mode+"/"+name, func(t *testing.T) {
					t.Parallel()
					s := testserver.Start(t, version)
					c := s.Client(t)
					fill(t, c)
					img := img
					if spooled {
						img = spool(t, c, img)
					}
					before, contents := state(t, c), testserver.Snapshot(t, c)
					p, via := newProxy(t, func(p *proxy) { p.cut = cut })
					_, err := loader(t, s, via).Load(t.Context(), img, replace)
					partialError(t, err, restore.TargetUnchanged)
					sameState(t, before, state(t, c))
					if diff := testserver.Diff(contents, testserver.Snapshot(t, c)); diff != "" {
						t.Error(diff)
					}
					if n := p.transfers(); n != 1 {
						t.Errorf("the data was sent %d times", n)
					}
				})
			}
		}
	}
}

// The target has everything, but its word of it gets lost with the connection.
func TestAcknowledgementLost(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 60)
			s := testserver.Start(t, version)
			_, via := newProxy(t, func(p *proxy) { p.deaf = true })
			l := loader(t, s, func(c *Config) { via(c); c.Stall = time.Second })
			if _, err := l.Load(t.Context(), img, nil); err != nil {
				t.Fatal(err)
			}
			holds(t, s, img)
			if got := state(t, s.Client(t)); got["role"] != "master" || got[setPassword] != "" {
				t.Errorf("the target is left with %v", got)
			}
		})
	}
}

// A client writes to the empty target after it was checked.
func TestDataComesAfterTheCheck(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 60)
			s := testserver.Start(t, version)
			c := s.Client(t)
			before := state(t, c)
			_, err := loader(t, s, nil).Load(t.Context(), opening{img, func() {
				if err := c.Set(t.Context(), "late", "1", 0).Err(); err != nil {
					t.Error(err)
				}
			}}, nil)
			partialError(t, err, restore.TargetUnchanged)
			if !errors.Is(err, restore.ErrNotEmpty) {
				t.Errorf("the error is %v", err)
			}
			sameState(t, before, state(t, c))
			if got := testserver.Snapshot(t, c); len(got) != 1 {
				t.Errorf("the target holds %v", got)
			}
		})
	}
}

// opening is a source that calls f when it is opened.
type opening struct {
	*image
	f func()
}

func (o opening) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	o.f()
	return o.image.Open(ctx, p)
}

// Two restores into one target at a time: one is refused by the loader, or by what the target says.
func TestTwoAtOnce(t *testing.T) {
	img := sample(t, "redis-8.0", 300)
	s := testserver.Start(t, "redis-8.0", "--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
	l, other := loader(t, s, nil), loader(t, s, nil)
	tried := false
	_, err := l.Load(t.Context(), img, whenSent(func() {
		tried = true
		for _, l := range []*Loader{l, other} {
			_, err := l.Load(t.Context(), img, replace)
			var partial *restore.PartialError
			if !errors.Is(err, restore.ErrRefused) || errors.As(err, &partial) {
				t.Errorf("a second restore gives %v", err)
			}
		}
		set(t, s.Client(t), "key-load-delay", "0") // it has loaded long enough
	}))
	if err != nil || !tried {
		t.Fatal(err, tried)
	}
	holds(t, s, img)
}
