package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
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
	data := "REDIS0011" + strings.Repeat("some data ", 20) + rdbEnd
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
			var e *replica.Error
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
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, replica.ErrStalled) || !strings.Contains(err.Error(), "does not confirm") {
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
	const stall = 200 * time.Millisecond
	for name, test := range map[string]struct {
		send      []string // with half of the stall timeout between
		wantStall bool
	}{
		"before FULLRESYNC":     {nil, true},
		"before the header":     {[]string{fullResync, "\n"}, true},
		"in the snapshot":       {[]string{fullResync, "$100\r\nREDIS"}, true},
		"in a marked snapshot":  {[]string{fullResync, "$EOF:" + mark + "\r\nREDIS"}, true},
		"kept alive":            {[]string{"\n", "\n", "\n", "\n", fullResync, "\n", "\n", "\n", "\n", "$5\r\nREDIS"}, false},
		"a little at a time":    {[]string{fullResync + "$5\r\nR", "E", "D", "I", "S"}, false},
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
					time.Sleep(stall / 2)
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
			if test.wantStall != errors.Is(err, replica.ErrStalled) || !test.wantStall && err != nil {
				t.Errorf("got %v", err)
			}
			var e *replica.Error
			if err != nil && (!errors.As(err, &e) || e.Hint == "") {
				t.Errorf("the error gives no hint: %v", err)
			}
		})
	}
}

// Each refusal says what to do, and none repeats the password.
func TestRefusals(t *testing.T) {
	echo := "`" + canary + "`"
	for _, test := range []struct {
		command, text string
		kind          error
		hint          string
	}{
		{"AUTH", "-WRONGPASS invalid username-password pair or user is disabled.\r\n", replica.ErrAuth, "check the user name"},
		{"AUTH", "-ERR invalid password\r\n", replica.ErrAuth, "check the user name"},
		{"AUTH", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n", replica.ErrAuth, "leave Password empty"},
		{"AUTH", "-ERR wrong number of arguments for 'auth' command\r\n", replica.ErrAuth, "leave Username empty"},
		{"AUTH", "-ERR unknown command `AUTH`, with args beginning with: `amber`, " + echo + "\r\n", replica.ErrUnsupported, ""},
		{"AUTH", "-ERR " + canary + "\r\n", nil, ""},
		{"AUTH", canary + "\r\n", resp.ErrProtocol, ""},
		{"AUTH", "-DENIED Redis is running in protected mode\r\n", replica.ErrPermission, "protected mode"},
		{"AUTH", "-ERR max number of clients reached\r\n", replica.ErrTransient, "maxclients"},
		{"AUTH", "\x15\x03\x03\x00\x02\x02F", nil, "speaks TLS"},
		{"AUTH", "", io.ErrUnexpectedEOF, "speaks TLS"},
		{"INFO", "-NOAUTH Authentication required.\r\n", replica.ErrAuth, "set Username and Password"},
		{"INFO", "-ERR operation not permitted\r\n", replica.ErrAuth, "set Password"},
		{"INFO", bulk("redis_version:7.2.0\r\nredis_mode:sentinel\r\n"), replica.ErrUnsupported, "primary or a replica"},
		{"INFO", bulk("redis_version:7.2.0\r\ncluster_enabled:1\r\n"), replica.ErrUnsupported, "cluster mode"},
		{"INFO", bulk("redis_version:6.2.11\r\ndragonfly_version:df-v1.40.0\r\n"), replica.ErrUnsupported, "Dragonfly"},
		{"INFO", bulk("redis_version:7.2.0\r\nloading:1\r\nloading_eta_seconds:12\r\n"), replica.ErrTransient, "12 s"},
		{"INFO", ":7\r\n", resp.ErrProtocol, ""},
		{"REPLCONF", "-NOPERM this user has no permissions to run the 'replconf' command\r\n", replica.ErrPermission, "+replconf"},
		{"PSYNC", "-NOPERM this user has no permissions to run the 'psync' command\r\n", replica.ErrPermission, "+psync"},
		{"PSYNC", "-LOADING Redis is loading the dataset in memory\r\n", replica.ErrTransient, "try again"},
		{"PSYNC", "-NOMASTERLINK Can't SYNC while not connected with my master\r\n", replica.ErrTransient, "primary"},
		{"PSYNC", "-ERR Can't SYNC while not connected with my master\r\n", replica.ErrTransient, "primary"},
		{"PSYNC", "-MASTERDOWN Link with MASTER is down\r\n", replica.ErrTransient, "primary"},
		{"PSYNC", "-BUSY Redis is busy running a script\r\n", replica.ErrTransient, "script"},
		{"PSYNC", "-ERR This command is not allowed\r\n", replica.ErrUnsupported, "managed services"},
		{"PSYNC", "+CONTINUE\r\n", resp.ErrProtocol, ""},
		{"PSYNC", "+FULLRESYNC short 1\r\n", resp.ErrProtocol, ""},
		{"PSYNC", "+FULLRESYNC " + replID + " one\r\n", resp.ErrProtocol, ""},
		{"PSYNC", "hello " + canary + "\r\n", resp.ErrProtocol, ""},
		{"PSYNC", fullResync + "$ENDOFF:1 x 0 1\r\n", resp.ErrProtocol, ""},
		{"PSYNC", fullResync + "$-1\r\n", resp.ErrProtocol, ""},
		{"PSYNC", fullResync + "$EOF:abc\r\n", resp.ErrProtocol, ""},
		{"PSYNC", fullResync + "+OK\r\n", resp.ErrProtocol, ""},
		{"PSYNC", fullResync + "-ERR BGSAVE failed, replication can't continue\r\n", nil, "log"},
		{"PSYNC", strings.Repeat("x", 100_000), resp.ErrProtocol, ""},
	} {
		p := startPeer(t, with(test.command, test.text), nil)
		sn, err := snapshotter(t, p.addr, func(c *replica.Config) { c.StallTimeout = 10 * time.Second }).Snapshot(t.Context())
		if err == nil {
			sn.Close()
			t.Errorf("%s answered by %.60q: no error", test.command, test.text)
			continue
		}
		checkSecret(t, err)
		var e *replica.Error
		if !errors.As(err, &e) || e.Addr != p.addr || test.kind != nil && !errors.Is(err, test.kind) || !strings.Contains(e.Hint, test.hint) {
			t.Errorf("%s answered by %.60q: %v (%#v), want %v with %q", test.command, test.text, err, err, test.kind, test.hint)
		}
		for _, kind := range []error{replica.ErrTransient, replica.ErrAuth, replica.ErrPermission, replica.ErrUnsupported, replica.ErrStalled} {
			if errors.Is(err, kind) && kind != test.kind {
				t.Errorf("%s answered by %.60q: %v is also %v", test.command, test.text, err, kind)
			}
		}
	}
}

// checkSecret fails the test if an error holds the password.
func checkSecret(t *testing.T, err error) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		if text := fmt.Sprintf("%v %+v %#v", e, e, e); strings.Contains(text, canary) {
			t.Errorf("the error holds the password: %s", strings.ReplaceAll(text, canary, "<PASSWORD>"))
		}
	}
}

// Cancelling ends Snapshot at each stage, with the context's error and without a goroutine or connection left.
func TestCancelStages(t *testing.T) {
	var conns sync.WaitGroup
	silent := startPeer(t, polite, func(conn net.Conn, r *resp.Reader) {})
	for name, test := range map[string]struct {
		answer func([]string) string
		change func(*replica.Config)
	}{
		"dial": {change: func(c *replica.Config) {
			c.Options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}},
		"dial that ignores its context": {change: func(c *replica.Config) {
			c.Options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				time.Sleep(1500 * time.Millisecond)
				return net.Dial(network, silent.addr)
			}
		}},
		"credentials": {change: func(c *replica.Config) {
			c.Options.CredentialsProviderContext = func(ctx context.Context) (string, string, error) {
				<-ctx.Done()
				return "", "", ctx.Err()
			}
		}},
		"AUTH":     {answer: waits("AUTH")},
		"INFO":     {answer: waits("INFO")},
		"REPLCONF": {answer: waits("REPLCONF")},
		"PSYNC":    {answer: waits("PSYNC")},
		"header":   {answer: with("PSYNC", fullResync)},
	} {
		conns.Go(func() {
			answer := test.answer
			if answer == nil {
				answer = polite
			}
			p := startPeer(t, answer, nil)
			s := snapshotter(t, p.addr, test.change)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(200*time.Millisecond, cancel)
			started := time.Now()
			_, err := s.Snapshot(ctx)
			if took := time.Since(started); took > 1200*time.Millisecond {
				t.Errorf("%s: returned %v after the cancellation", name, took-200*time.Millisecond)
			}
			checkSecret(t, err)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want context.Canceled", name, err)
			}
		})
	}
	conns.Wait()
	noGoroutines(t)
}

// waits never answers one command.
func waits(command string) func([]string) string { return with(command, "\n") }

// noGoroutines fails the test if a goroutine of the package doesn't end.
func noGoroutines(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		left := 0
		for _, g := range strings.Split(stacks, "\n\n") {
			if strings.Contains(g, "/backup/replica.") || strings.Contains(g, "created by context.AfterFunc") {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d goroutines are left:\n%s", left, stacks)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestCredentials(t *testing.T) {
	for name, test := range map[string]struct {
		opts redis.Options
		want string
	}{
		"none":          {redis.Options{}, ""},
		"user only":     {redis.Options{Username: "amber"}, ""},
		"password":      {redis.Options{Password: canary}, "AUTH " + canary},
		"both":          {redis.Options{Username: "amber", Password: canary}, "AUTH amber " + canary},
		"provider":      {redis.Options{Username: "x", Password: "y", CredentialsProvider: func() (string, string) { return "amber", canary }}, "AUTH amber " + canary},
		"with context":  {redis.Options{CredentialsProviderContext: func(context.Context) (string, string, error) { return "", canary, nil }}, "AUTH " + canary},
		"stream of one": {redis.Options{StreamingCredentialsProvider: &streaming{}}, "AUTH amber " + canary},
	} {
		p := startPeer(t, with("PSYNC", "-LOADING\r\n"), nil)
		s := snapshotter(t, p.addr, func(c *replica.Config) {
			test.opts.Addr = p.addr
			c.Options = &test.opts
		})
		if _, err := s.Snapshot(t.Context()); !errors.Is(err, replica.ErrTransient) {
			t.Errorf("%s: %v", name, err)
		}
		got := p.received()[0]
		if !strings.HasPrefix(got, "AUTH") {
			got = ""
		}
		if got != test.want {
			t.Errorf("%s: sent %q, want %q", name, got, test.want)
		}
		if st, ok := test.opts.StreamingCredentialsProvider.(*streaming); ok && st.subscribed != 0 {
			t.Errorf("%s: %d subscriptions are left", name, st.subscribed)
		}
	}

	p := startPeer(t, polite, nil)
	s := snapshotter(t, p.addr, func(c *replica.Config) {
		c.Options.CredentialsProviderContext = func(context.Context) (string, string, error) {
			return "amber", canary, errors.New("can't renew the token " + canary)
		}
	})
	_, err := s.Snapshot(t.Context())
	checkSecret(t, err)
	if err == nil || !strings.Contains(err.Error(), "credentials provider failed: can't renew the token ***") {
		t.Errorf("a provider that fails: %v", err)
	}
}

func TestNew(t *testing.T) {
	for _, cfg := range []replica.Config{
		{},
		{Options: &redis.Options{}, Prefer: 3},
		{Options: &redis.Options{}, Prefer: -1},
		{Options: &redis.Options{}, StallTimeout: -1},
		{Options: &redis.Options{}, ConnectTimeout: -1},
	} {
		if _, err := replica.New(cfg); err == nil {
			t.Errorf("New(%+v): no error", cfg)
		}
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = snapshotter(t, addr, nil).Snapshot(t.Context())
	var e *replica.Error
	if !errors.As(err, &e) || e.Step != "connect" || !strings.Contains(e.Hint, "nothing listens") {
		t.Errorf("closed port: %v", err)
	}
	_, err = snapshotter(t, addr, func(c *replica.Config) {
		c.ConnectTimeout = 50 * time.Millisecond
		c.Options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}).Snapshot(t.Context())
	if !errors.Is(err, replica.ErrStalled) || errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	path := t.TempDir() + "/socket"
	if l, err = net.Listen("unix", path); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			io.WriteString(conn, "-LOADING\r\n")
			conn.Close()
		}
	}()
	if _, err = snapshotter(t, path, nil).Snapshot(t.Context()); !errors.Is(err, replica.ErrTransient) {
		t.Errorf("Unix socket: %v", err)
	}
}

// The announced address of a replica may lead to another data store: its data are not taken.
func TestForeignReplica(t *testing.T) {
	const header = "redis_version:7.2.4\r\nredis_mode:standalone\r\n"
	var foreign string
	replicaInfo := func(id, more string) func([]string) string {
		return with("INFO", bulk(header+"role:slave\r\nmaster_replid:"+id+"\r\n"+more))
	}
	send := func(text string) func(conn net.Conn, r *resp.Reader) {
		return func(conn net.Conn, r *resp.Reader) {
			io.WriteString(conn, fullResync+"$"+strconv.Itoa(len(text))+"\r\n"+text)
		}
	}
	const up = "master_link_status:up\r\nmaster_sync_in_progress:0\r\n"
	other := strings.Repeat("f", 40)
	for name, test := range map[string]struct {
		answer func([]string) string
		want   string
	}{
		"good":              {replicaInfo(replID, up), "replica"},
		"other data store":  {replicaInfo(other, up), "primary"},
		"no ID":             {replicaInfo("", up), "primary"},
		"link down":         {replicaInfo(replID, "master_link_status:down\r\n"), "primary"},
		"synchronising":     {replicaInfo(replID, "master_link_status:up\r\nmaster_sync_in_progress:1\r\n"), "primary"},
		"not a replica":     {with("INFO", bulk(header+"role:master\r\nmaster_replid:"+replID+"\r\n")), "primary"},
		"INFO not allowed":  {with("INFO", "-NOPERM no\r\n"), "primary"},
		"other password":    {with("AUTH", "-WRONGPASS no\r\n"), "primary"},
		"PSYNC not allowed": {func(args []string) string { return pick(args, "PSYNC", "-NOPERM no\r\n", replicaInfo(replID, up)) }, "primary"},
	} {
		p := startPeer(t, test.answer, send("replica"))
		foreign = p.addr
		host, port, _ := net.SplitHostPort(foreign)
		primary := startPeer(t, with("INFO", bulk(header+"role:master\r\nmaster_replid:"+replID+"\r\nconnected_slaves:2\r\n"+
			"slave0:ip=192.0.2.1,port=1,state=wait_bgsave,offset=900,lag=0\r\n"+
			"slave1:ip="+host+",port="+port+",state=online,offset=500,lag=1,type=main-channel\r\n")), send("primary"))
		_, r := open(t, snapshotter(t, primary.addr, nil))
		if got, err := io.ReadAll(r); err != nil || string(got) != test.want {
			t.Errorf("%s: snapshot of the %s, %v, want the %s", name, got, err, test.want)
		}
	}
	// A synchronisation that broke after it had begun is not begun again elsewhere.
	p := startPeer(t, replicaInfo(replID, up), func(conn net.Conn, r *resp.Reader) { io.WriteString(conn, fullResync) })
	host, port, _ := net.SplitHostPort(p.addr)
	primary := startPeer(t, with("INFO", bulk(header+"role:master\r\nmaster_replid:"+replID+"\r\nconnected_slaves:1\r\n"+
		"slave0:ip="+host+",port="+port+",state=online,offset=500,lag=1\r\n")), send("primary"))
	if _, err := snapshotter(t, primary.addr, nil).Snapshot(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a replica that broke off: %v", err)
	}
	for _, c := range primary.received() {
		if strings.HasPrefix(c, "PSYNC") {
			t.Error("a second synchronisation was begun, at the primary")
		}
	}
}

func pick(args []string, command, text string, otherwise func([]string) string) string {
	if args[0] == command {
		return text
	}
	return otherwise(args)
}
