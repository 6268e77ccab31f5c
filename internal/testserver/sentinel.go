package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// SentinelGroup is the name that the sentinels of StartSentinels have for the group that they watch.
const SentinelGroup = "group"

// Sentinels are real sentinels, that listen on 127.0.0.1 and watch one group of a primary and its replicas. For a group to fail over the primary needs a
// replica, and no more than half of the sentinels may be down.
type Sentinels struct {
	Nodes []*Server // each listens as a server does: Kill, Restart, Client and Log work with it
}

// SentinelOptions say how sentinels are started. The zero value is for most.
type SentinelOptions struct {
	Quorum   int           // of sentinels that have to think that the primary is down; 0: more than half of them
	Down     time.Duration // after which a silent primary is down; 0: 3 s, for a busy machine may take a second or two for an answer
	Password string        // that the sentinels themselves want; empty: none
	Lines    []string      // more of their configuration, such as "sentinel auth-user group amber"
}

// StartSentinels starts sentinels for a test that watch the primary of a group, and returns when all of them know each other and the primary's replicas that
// there are. They end with the test. Password and TLS of the primary are theirs as well, for what they ask it; they speak TLS among themselves and to clients if
// it does. Nil opts are the zero SentinelOptions.
func StartSentinels(t testing.TB, version string, count int, primary *Server, opts *SentinelOptions) *Sentinels {
	t.Helper()
	if opts == nil {
		opts = &SentinelOptions{}
	}
	o := *opts
	if o.Quorum == 0 {
		o.Quorum = count/2 + 1
	}
	if o.Down == 0 {
		o.Down = 3 * time.Second
	}
	all := &Sentinels{}
	for range count {
		dir := t.TempDir()
		s, err := launchSentinel(version, dir, primary, &o)
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, s)
		all.Nodes = append(all.Nodes, s)
	}
	info, err := primary.Client(t).InfoMap(t.Context(), "replication").Result()
	if err != nil {
		t.Fatal(err)
	}
	replicas := info["Replication"]["connected_slaves"]
	for _, s := range all.Nodes {
		c := s.Client(t)
		Eventually(t, 60*time.Second, "the sentinels know each other and the replicas", func() error {
			m, err := sentinelGroup(t.Context(), c)
			if err != nil {
				return err
			}
			if m["flags"] != "master" || m["num-other-sentinels"] != strconv.Itoa(count-1) || m["num-slaves"] != replicas {
				return fmt.Errorf("it is %q and has %s other sentinels and %s replicas, want %d and %s", m["flags"], m["num-other-sentinels"], m["num-slaves"], count-1, replicas)
			}
			return nil
		})
	}
	return all
}

func sentinelGroup(ctx context.Context, c *redis.Client) (map[string]string, error) {
	list, err := c.Do(ctx, "SENTINEL", "MASTER", SentinelGroup).StringSlice()
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m, nil
}

// launchSentinel starts one sentinel. It keeps what it learns in its configuration file, which is why that is its own.
func launchSentinel(version, dir string, primary *Server, o *SentinelOptions) (*Server, error) {
	program, err := ProgramPath(version, "server")
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		s := &Server{Version: version, Host: "127.0.0.1", Dir: dir, TLS: primary.TLS, Password: o.Password}
		if s.Port, s.lock, err = freePort(); err != nil {
			return nil, err
		}
		s.Addr = s.Host + ":" + strconv.Itoa(s.Port)
		lines := []string{
			fmt.Sprintf("sentinel monitor %s %s %d %d", SentinelGroup, primary.Host, primary.Port, o.Quorum),
			fmt.Sprintf("sentinel down-after-milliseconds %s %d", SentinelGroup, o.Down.Milliseconds()),
			fmt.Sprintf("sentinel failover-timeout %s 10000", SentinelGroup),
		}
		if primary.Password != "" {
			lines = append(lines, fmt.Sprintf("sentinel auth-pass %s %s", SentinelGroup, primary.Password))
		}
		if primary.TLS != nil {
			lines = append(lines, "tls-replication yes")
		}
		if o.Password != "" {
			lines = append(lines, "requirepass "+o.Password)
		}
		lines = append(lines, o.Lines...)
		file := filepath.Join(dir, "sentinel.conf")
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return nil, err
		}
		defaults := s.defaults()
		for _, name := range []string{"--save", "--appendonly", "--repl-diskless-sync-delay", "--shutdown-timeout", "--enable-debug-command"} { // are a server's only
			if i := slices.Index(defaults, name); i >= 0 {
				defaults = slices.Delete(defaults, i, i+2)
			}
		}
		s.args = append(append([]string{program, file}, defaults...), "--sentinel")
		err := s.run(sentinelReady)
		if err == nil {
			return s, nil
		}
		s.Close()
		if !errors.Is(err, errPortTaken) || attempt == 9 {
			return nil, err
		}
	}
}

// sentinelReady is in the line by which a sentinel says that it has begun to watch.
const sentinelReady = "+monitor master"

// Addrs returns the host:port of every sentinel.
func (s *Sentinels) Addrs() []string {
	var out []string
	for _, n := range s.Nodes {
		out = append(out, n.Addr)
	}
	return out
}

// Failover makes the sentinels promote a replica, though the primary may be well, and returns when the group has another primary as all running sentinels say.
// It returns that one's address.
func (s *Sentinels) Failover(t testing.TB) string {
	t.Helper()
	before := s.Primary(t)
	Eventually(t, 30*time.Second, "a sentinel begins a failover", func() error {
		var errs []error
		for _, n := range s.running() {
			err := n.Client(t).Do(t.Context(), "SENTINEL", "FAILOVER", SentinelGroup).Err()
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return s.Moved(t, before)
}

// Moved waits until all running sentinels say that the group has another primary than the given address, and returns that one's.
func (s *Sentinels) Moved(t testing.TB, before string) string {
	t.Helper()
	var now string
	Eventually(t, 60*time.Second, "the group has another primary", func() error {
		for _, n := range s.running() {
			m, err := sentinelGroup(t.Context(), n.Client(t))
			if err != nil {
				return err
			}
			if now = m["ip"] + ":" + m["port"]; now == before || m["flags"] != "master" {
				return fmt.Errorf("%s says that it is %s (%s)", n.Addr, now, m["flags"])
			}
		}
		return nil
	})
	return now
}

// Primary returns the address of the group's primary, as the first running sentinel says.
func (s *Sentinels) Primary(t testing.TB) string {
	t.Helper()
	for _, n := range s.running() {
		if m, err := sentinelGroup(t.Context(), n.Client(t)); err == nil {
			return m["ip"] + ":" + m["port"]
		}
	}
	t.Fatal("no sentinel tells who the primary is")
	return ""
}

func (s *Sentinels) running() []*Server {
	var out []*Server
	for _, n := range s.Nodes {
		select {
		case <-n.Exited():
		default:
			out = append(out, n)
		}
	}
	return out
}
