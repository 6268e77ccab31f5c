package replica_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// Each refusal says what to do, and none repeats the password.
func TestRefusals(t *testing.T) {
	echo := "`" + canary + "`"
	for _, test := range []struct {
		command, text string
		kind          error
		hint          string
	}{
		{"AUTH", "-WRONGPASS invalid username-password pair or user is disabled.\r\n", backup.ErrAuth, "check the user name"},
		{"AUTH", "-ERR invalid password\r\n", backup.ErrAuth, "check the user name"},
		{"AUTH", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n", backup.ErrAuth, "leave Password empty"},
		{"AUTH", "-ERR wrong number of arguments for 'auth' command\r\n", backup.ErrAuth, "leave Username empty"},
		{"AUTH", "-ERR unknown command `AUTH`, with args beginning with: `amber`, " + echo + "\r\n", backup.ErrUnsupported, ""},
		{"AUTH", "-ERR " + canary + "\r\n", nil, ""},
		{"AUTH", canary + "\r\n", resp.ErrProtocol, ""},
		{"AUTH", "-DENIED Redis is running in protected mode\r\n", backup.ErrPermission, "protected mode"},
		{"AUTH", "-ERR max number of clients reached\r\n", backup.ErrTransient, "maxclients"},
		{"AUTH", "\x15\x03\x03\x00\x02\x02F", nil, "speaks TLS"},
		{"AUTH", "", io.ErrUnexpectedEOF, "speaks TLS"},
		{"INFO", "-NOAUTH Authentication required.\r\n", backup.ErrAuth, "set Username and Password"},
		{"INFO", "-ERR operation not permitted\r\n", backup.ErrAuth, "set Password"},
		{"INFO", bulk("redis_version:7.2.0\r\nredis_mode:sentinel\r\n"), backup.ErrUnsupported, "primary or a replica"},
		{"INFO", bulk("redis_version:7.2.0\r\ncluster_enabled:1\r\n"), backup.ErrUnsupported, "a snapshotter for clusters"},
		{"INFO", bulk("redis_version:6.2.11\r\ndragonfly_version:df-v1.40.0\r\n"), backup.ErrUnsupported, "Dragonfly"},
		{"INFO", bulk("redis_version:7.2.0\r\nloading:1\r\nloading_eta_seconds:12\r\n"), backup.ErrTransient, "12 s"},
		{"INFO", ":7\r\n", resp.ErrProtocol, ""},
		{"REPLCONF", "-NOPERM this user has no permissions to run the 'replconf' command\r\n", backup.ErrPermission, "+replconf"},
		{"PSYNC", "-NOPERM this user has no permissions to run the 'psync' command\r\n", backup.ErrPermission, "+psync"},
		{"PSYNC", "-LOADING Redis is loading the dataset in memory\r\n", backup.ErrTransient, "try again"},
		{"PSYNC", "-NOMASTERLINK Can't SYNC while not connected with my master\r\n", backup.ErrTransient, "primary"},
		{"PSYNC", "-ERR Can't SYNC while not connected with my master\r\n", backup.ErrTransient, "primary"},
		{"PSYNC", "-MASTERDOWN Link with MASTER is down\r\n", backup.ErrTransient, "primary"},
		{"PSYNC", "-BUSY Redis is busy running a script\r\n", backup.ErrTransient, "script"},
		{"PSYNC", "-ERR This command is not allowed\r\n", backup.ErrUnsupported, "managed services"},
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
		var e *backup.SourceError
		if !errors.As(err, &e) || e.Addr != p.addr || test.kind != nil && !errors.Is(err, test.kind) || !strings.Contains(e.Hint, test.hint) {
			t.Errorf("%s answered by %.60q: %v (%#v), want %v with %q", test.command, test.text, err, err, test.kind, test.hint)
		}
		for _, kind := range []error{backup.ErrTransient, backup.ErrAuth, backup.ErrPermission, backup.ErrUnsupported, backup.ErrStalled} {
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
	over := make(chan struct{}) // all have returned
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
				select {
				case <-over:
				case <-time.After(10 * time.Second):
				}
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
			if took := time.Since(started); took > 3*time.Second {
				t.Errorf("%s: returned %v after the cancellation", name, took-200*time.Millisecond)
			}
			checkSecret(t, err)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want context.Canceled", name, err)
			}
		})
	}
	conns.Wait()
	close(over)
	noGoroutines(t)
}

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
		if _, err := s.Snapshot(t.Context()); !errors.Is(err, backup.ErrTransient) {
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

func TestNewNames(t *testing.T) {
	for want, cfg := range map[string]replica.Config{
		`replica: Config.SyncCommand: character 2 of the name, ' ', is not allowed: printable ones of ASCII are, and no spaces`: {SyncCommand: "a b"},
		`replica: Config.SyncCommand: the name has 101 characters, the limit is 100`:                                            {SyncCommand: strings.Repeat("x", 101)},
		`replica: Config.SyncCommands of "host:1": the name is empty`:                                                           {SyncCommands: map[string]string{"host:1": ""}},
	} {
		cfg.Options = &redis.Options{}
		if _, err := replica.New(cfg); err == nil || err.Error() != want {
			t.Errorf("New: %v, want %s", err, want)
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
	var e *backup.SourceError
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
	if !errors.Is(err, backup.ErrStalled) || errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	p := startPeer(t, with("PSYNC", "-LOADING\r\n"), nil)
	_, err = snapshotter(t, "FailoverClient", func(c *replica.Config) {
		c.Options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) { return net.Dial(network, p.addr) }
	}).Snapshot(t.Context())
	if !errors.As(err, &e) || e.Addr != p.addr {
		t.Errorf("an address that is only a name: %v", err)
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
	if _, err = snapshotter(t, path, nil).Snapshot(t.Context()); !errors.Is(err, backup.ErrTransient) {
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
	// One that has acknowledged nothing yet isn't known to have anything.
	{
		p := startPeer(t, replicaInfo(replID, up), send("replica"))
		host, port, _ := net.SplitHostPort(p.addr)
		primary := startPeer(t, with("INFO", bulk(header+"role:master\r\nmaster_replid:"+replID+"\r\nmaster_repl_offset:7\r\nconnected_slaves:1\r\n"+
			"slave0:ip="+host+",port="+port+",state=online,offset=0,lag=0\r\n")), send("primary"))
		_, r := open(t, snapshotter(t, primary.addr, nil))
		if got, err := io.ReadAll(r); err != nil || string(got) != "primary" {
			t.Errorf("snapshot of the %s, %v, want the primary", got, err)
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
