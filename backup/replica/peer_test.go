package replica_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/internal/resp"
	"github.com/redis/go-redis/v9"
)

// canary is the password of every test: it must not be found in any error or log.
const canary = "CANARY-9c1f-secret"

// A peer stands in for a server where a real one can't be made to behave badly in just the way that a test is about.
type peer struct {
	addr string

	mu       sync.Mutex
	commands []string // received so far, over all connections
}

// startPeer answers each command with what answer returns, verbatim; "" ends the connection. When answer returns
// handOver the connection is given to sender, and closed when that returns.
func startPeer(t *testing.T, answer func(args []string) string, sender func(conn net.Conn, r *resp.Reader)) *peer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{addr: l.Addr().String()}
	var group sync.WaitGroup
	var conns []net.Conn
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			conns = append(conns, conn)
			p.mu.Unlock()
			group.Go(func() {
				defer conn.Close()
				r := resp.NewReader(conn, nil)
				for {
					args, err := r.ReadCommand()
					if err != nil {
						return
					}
					p.mu.Lock()
					p.commands = append(p.commands, strings.Join(args, " "))
					p.mu.Unlock()
					switch text := answer(args); text {
					case "":
						return
					case handOver:
						sender(conn, r)
						return
					default:
						io.WriteString(conn, text)
						if strings.HasPrefix(text, "\x15") { // an alert of TLS
							return
						}
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		p.mu.Unlock()
		group.Wait()
	})
	return p
}

func (p *peer) received() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.commands...)
}

const handOver = "hand over"

const (
	replID     = "0123456789abcdef0123456789abcdef01234567"
	fullResync = "+FULLRESYNC " + replID + " 4711\r\n"
	mark       = "00112233445566778899aabbccddeeff00112233"
)

func bulk(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }

// polite answers what comes before PSYNC as a Redis 7.2 does.
func polite(args []string) string {
	switch strings.ToUpper(args[0]) {
	case "INFO":
		return bulk("# Server\r\nredis_version:7.2.4\r\nredis_mode:standalone\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n# Memory\r\nused_memory:1000\r\n")
	case "PSYNC":
		return handOver
	}
	return "+OK\r\n"
}

// with answers one command otherwise than polite.
func with(command, text string) func([]string) string {
	return func(args []string) string {
		if strings.HasPrefix(strings.ToUpper(strings.Join(args, " ")), command) {
			return text
		}
		return polite(args)
	}
}

func snapshotter(t *testing.T, addr string, change func(*replica.Config)) *replica.Snapshotter {
	t.Helper()
	cfg := replica.Config{
		Options: &redis.Options{Addr: addr, Username: "amber", Password: canary},
		Logger:  logger(t),
	}
	if change != nil {
		change(&cfg)
	}
	s, err := replica.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open takes a snapshot and opens its part.
func open(t *testing.T, s *replica.Snapshotter) (backup.Snapshot, io.ReadCloser) {
	t.Helper()
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	t.Cleanup(func() { sn.Close() })
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return sn, r
}

// rdbEnd is how the RDB file ends that a snapshot is.
const rdbEnd = "\xff12345678"

func TestMarkInside(t *testing.T) {
	pause := 250 * time.Millisecond // longer than the probe
	for name, chunks := range map[string][]string{
		"in a value":             {"REDIS0011 a" + mark + "b" + rdbEnd},
		"at the end of a chunk":  {"REDIS0011 a" + mark, "b" + rdbEnd},
		"like the end, slowly":   {"REDIS0011 a" + rdbEnd + mark, "b" + rdbEnd},
		"like the end, at once":  {"REDIS0011 a" + rdbEnd + mark + "b" + rdbEnd},
		"then almost a command":  {"REDIS0011 a" + rdbEnd + mark, "*12\r", "x" + rdbEnd},
		"then a star":            {"REDIS0011 a" + rdbEnd + mark, "*", "*" + rdbEnd},
		"twice":                  {"REDIS0011 a" + rdbEnd + mark, mark + rdbEnd},
		"overlapping":            {"REDIS0011 a" + rdbEnd + mark[:20], mark + rdbEnd},
		"no end of an RDB there": {"REDIS0011 a" + mark, mark + rdbEnd},
		"bytes one by one":       strings.Split("REDIS0011 a"+rdbEnd+mark[:39]+"_"+rdbEnd, ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := strings.Join(chunks, "")
			p := startPeer(t, polite, func(conn net.Conn, r *resp.Reader) {
				io.WriteString(conn, fullResync+"\n\n$EOF:"+mark+"\r\n")
				for i, c := range chunks {
					if i > 0 && len(chunks) < 10 {
						time.Sleep(pause)
					}
					io.WriteString(conn, c)
				}
				io.WriteString(conn, mark)
			})
			s := snapshotter(t, p.addr, nil)
			replica.SetTuning(s, false, pause/3)
			_, r := open(t, s)
			got, err := io.ReadAll(r)
			if err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

// A snapshot arrives whole, whatever the sizes of what is sent and read at a time.
func TestFragments(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var data []byte
		for len(data) < 200_000 {
			switch rnd.IntN(4) {
			case 0:
				data = append(data, mark...)
			case 1:
				data = append(data, rdbEnd...)
			default:
				data = append(data, bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(5000))...)
			}
		}
		data = append(data, rdbEnd...)
		sized := seed%2 == 0
		header, end := "$EOF:"+mark+"\r\n", mark
		if sized {
			header, end = fmt.Sprintf("$%d\r\n", len(data)), "*1\r\n$4\r\nPING\r\n"
		}
		pieces := []byte(fullResync + "\n" + header + string(data) + end)
		p := startPeer(t, polite, func(conn net.Conn, r *resp.Reader) {
			sizes := rand.New(rand.NewPCG(seed, 2))
			for rest := pieces; len(rest) > 0; {
				n := min(len(rest), 1+sizes.IntN(40_000)>>sizes.IntN(12))
				conn.Write(rest[:n])
				rest = rest[n:]
			}
		})
		s := snapshotter(t, p.addr, nil)
		replica.SetTuning(s, seed%4 == 1, 50*time.Millisecond)
		sn, r := open(t, s)
		if want := map[bool]int64{true: int64(len(data)), false: -1}[sized]; sn.Parts()[0].Size != want {
			t.Errorf("seed %d: Size %d, want %d", seed, sn.Parts()[0].Size, want)
		}
		var got []byte
		for {
			p := make([]byte, 1+rnd.IntN(60_000)>>rnd.IntN(14))
			n, err := r.Read(p)
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("seed %d: after %d bytes: %v", seed, len(got), err)
			}
		}
		if !bytes.Equal(got, data) {
			t.Errorf("seed %d: got %d bytes that are not the %d sent", seed, len(got), len(data))
		}
		sn.Close()
	}
}

// Wherever the connection is cut, the snapshot isn't taken for whole.
func TestCut(t *testing.T) {
	data := "REDIS0011" + strings.Repeat("some data ", 10) + mark + strings.Repeat("some data ", 10) + rdbEnd // a value holds the mark
	for name, stream := range map[string]string{
		"sized":  fmt.Sprintf("%s\n$%d\r\n%s", fullResync, len(data), data),
		"marked": fmt.Sprintf("%s\n$EOF:%s\r\n%s%s", fullResync, mark, data, mark),
	} {
		for cut := range len(stream) {
			p := startPeer(t, polite, func(conn net.Conn, r *resp.Reader) { io.WriteString(conn, stream[:cut]) })
			s := snapshotter(t, p.addr, nil)
			sn, err := s.Snapshot(t.Context())
			if err == nil {
				r, oerr := sn.Open(t.Context(), sn.Parts()[0])
				if oerr != nil {
					t.Fatal(oerr)
				}
				_, err = io.Copy(io.Discard, r)
				sn.Close()
			}
			var e *backup.SourceError
			if !errors.As(err, &e) || !errors.Is(err, io.ErrUnexpectedEOF) || e.Hint == "" {
				t.Errorf("%s, cut after %d of %d bytes: %v", name, cut, len(stream), err)
			}
		}
	}
}

// Below Redis 6.2 a server waits for an acknowledgement after the snapshot and then sends commands.
func TestEndByCommand(t *testing.T) {
	data := "REDIS0009 data" + rdbEnd
	var acks []string
	p := startPeer(t, func(args []string) string {
		switch {
		case args[0] == "INFO":
			return bulk("redis_version:5.0.14\r\nrole:master\r\nconnected_slaves:1\r\n")
		case args[0] == "REPLCONF" && args[1] != "capa":
			return "-ERR Unrecognized REPLCONF option: " + args[1] + "\r\n"
		}
		return polite(args)
	}, func(conn net.Conn, r *resp.Reader) {
		io.WriteString(conn, fullResync+"$EOF:"+mark+"\r\n"+data+mark)
		for range 3 { // the first come before the server has seen its child's end
			args, err := r.ReadCommand()
			if err != nil {
				return
			}
			acks = append(acks, strings.Join(args, " "))
		}
		io.WriteString(conn, "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n")
		r.ReadCommand() // until the connection is closed
	})
	s := snapshotter(t, p.addr, nil)
	replica.SetTuning(s, false, 20*time.Millisecond)
	sn, r := open(t, s)
	if got, err := io.ReadAll(r); err != nil || string(got) != data {
		t.Errorf("got %q, %v", got, err)
	}
	sn.Close()
	if got := strings.Join(acks, ","); got != "REPLCONF ACK 4711,REPLCONF ACK 4711,REPLCONF ACK 4711" {
		t.Errorf("acknowledged by %s", got)
	}
	want := "AUTH amber " + canary + ",INFO,REPLCONF capa eof capa psync2,PSYNC ? -1"
	if got := strings.Join(p.received(), ","); got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
	if src := sn.Source(); src.Topology != "replicated" || src.Version != "5.0.14" || src.ReplicationID != replID || src.ReplicationOffset != 4711 {
		t.Errorf("source %+v", src)
	}
}

func TestEndNotConfirmed(t *testing.T) {
	p := startPeer(t, polite, func(conn net.Conn, r *resp.Reader) {
		io.WriteString(conn, fullResync+"$EOF:"+mark+"\r\nREDIS0011"+rdbEnd+mark)
		for {
			if _, err := r.ReadCommand(); err != nil {
				return
			}
		}
	})
	s := snapshotter(t, p.addr, func(c *replica.Config) { c.StallTimeout = 200 * time.Millisecond })
	replica.SetTuning(s, false, 50*time.Millisecond)
	_, r := open(t, s)
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, backup.ErrStalled) || !strings.Contains(err.Error(), "does not confirm") {
		t.Errorf("got %v", err)
	}
}

func TestSyncWherePsyncIsUnknown(t *testing.T) {
	for _, refusal := range []string{
		"-ERR unknown command 'PSYNC'\r\n",
		"-ERR unknown command `PSYNC`, with args beginning with: `?`, `-1`, \r\n",
	} {
		p := startPeer(t, func(args []string) string {
			switch args[0] {
			case "PSYNC":
				return refusal
			case "SYNC":
				return handOver
			}
			return polite(args)
		}, func(conn net.Conn, r *resp.Reader) {
			io.WriteString(conn, "\n\n$15\r\nREDIS0006"+"\xff\xff\xff\xff\xff\xff*1\r\n$4\r\nPING\r\n")
		})
		sn, r := open(t, snapshotter(t, p.addr, nil))
		if got, err := io.ReadAll(r); err != nil || len(got) != 15 {
			t.Errorf("got %q, %v", got, err)
		}
		if src := sn.Source(); src.ReplicationID != "" || src.Version != "7.2.4" {
			t.Errorf("source %+v", src)
		}
	}
}

// A server that keeps the connection alive may take its time; one that is silent may not.
func TestStall(t *testing.T) {
	const stall, interval = 900 * time.Millisecond, 100 * time.Millisecond
	for name, test := range map[string]struct {
		send      []string // with the interval between
		wantStall bool
	}{
		"before FULLRESYNC":     {nil, true},
		"before the header":     {[]string{fullResync, "\n"}, true},
		"in the snapshot":       {[]string{fullResync, "$100\r\nREDIS"}, true},
		"in a marked snapshot":  {[]string{fullResync, "$EOF:" + mark + "\r\nREDIS"}, true},
		"kept alive":            {append(slices.Repeat([]string{"\n"}, 10), append([]string{fullResync}, append(slices.Repeat([]string{"\n"}, 10), "$5\r\nREDIS")...)...), false},
		"a little at a time":    {strings.SplitAfter(fullResync+"$13\r\nR-E-D-I-S-0-0-", "-"), false},
		"half of the end mark":  {[]string{fullResync + "$EOF:" + mark + "\r\nREDIS" + rdbEnd + mark[:20]}, true},
		"a mark in small parts": {[]string{fullResync + "$EOF:" + mark + "\r\nREDIS" + rdbEnd, mark[:20], mark[20:]}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan struct{})
			defer close(done)
			p := startPeer(t, polite, func(conn net.Conn, r *resp.Reader) {
				for _, text := range test.send {
					io.WriteString(conn, text)
					time.Sleep(interval)
				}
				if test.wantStall {
					<-done
				}
			})
			sn, err := snapshotter(t, p.addr, func(c *replica.Config) { c.StallTimeout = stall }).Snapshot(t.Context())
			if err == nil {
				defer sn.Close()
				r, _ := sn.Open(t.Context(), sn.Parts()[0])
				_, err = io.Copy(io.Discard, r)
			}
			if test.wantStall != errors.Is(err, backup.ErrStalled) || !test.wantStall && err != nil {
				t.Errorf("got %v", err)
			}
			var e *backup.SourceError
			if err != nil && (!errors.As(err, &e) || e.Hint == "") {
				t.Errorf("the error gives no hint: %v", err)
			}
		})
	}
}

// waits never answers one command.
func waits(command string) func([]string) string { return with(command, "\n") }

// The contract, with a peer that can stall for ever.
func TestConformanceOfPeer(t *testing.T) {
	data := "REDIS0011" + strings.Repeat("some data ", 10_000) + rdbEnd
	for name, header := range map[string]string{
		"sized":  fmt.Sprintf("$%d\r\n", len(data)),
		"marked": "$EOF:" + mark + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			maker := func(text string, stay bool) func(t *testing.T) backup.Snapshotter {
				return func(t *testing.T) backup.Snapshotter {
					p := startPeer(t, polite, func(conn net.Conn, r *resp.Reader) {
						io.WriteString(conn, text)
						if stay {
							r.ReadCommand() // until the connection is closed
						}
					})
					return snapshotter(t, p.addr, nil)
				}
			}
			end := map[string]string{"sized": "", "marked": mark}[name]
			snapshottest.Run(t, maker(fullResync+header+data+end, false), &snapshottest.Options{
				Secret: canary,
				Check: func(t *testing.T, p backup.Part, r io.Reader) {
					if got, err := io.ReadAll(r); err != nil || string(got) != data {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
				},
				Released: noGoroutines,
				Stalled:  maker(fullResync+header+data[:50_000], true),
				Waiting:  maker(fullResync+"\n", true),
			})
		})
	}
}
