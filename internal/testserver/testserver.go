// Package testserver gives tests real servers, data to put into them, and a way to tell whether two servers hold the same.
//
// The servers are those that `make servers` prepares. They are found in the directory that the environment variable
// AMBER_SERVERS names, else in amber/servers of the user's cache directory. A server that is missing fails the test.
package testserver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/resp"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// All returns the versions that there are, oldest first within a product.
func All() []string { return []string{"redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9.1"} }

// Half returns two of the versions, one of each product, for tests that hardly depend on the version: with turn 0 the oldest and the newest, with
// turn 1 the others. Those of a package take turns, so that each version occurs. With CAMPAIGN=1 in the environment it returns all.
func Half(turn int) []string {
	all := All()
	if os.Getenv("CAMPAIGN") != "" {
		return all
	}
	return []string{all[turn], all[len(all)-1-turn]}
}

// Start starts a server of its own for a test, in a temporary directory and on a free port of 127.0.0.1, and ends it with
// the test. When the test failed, the end of the server's log is added to its output. See Launch for the arguments.
func Start(t testing.TB, version string, args ...string) *Server {
	t.Helper()
	return start(t, version, t.TempDir(), nil, logReady, args)
}

// StartIn is Start in a given directory, from which the server loads dump.rdb if there is one.
func StartIn(t testing.TB, version, dir string, args ...string) *Server {
	t.Helper()
	return start(t, version, dir, nil, logReady, args)
}

// StartLoading is StartIn but returns as soon as the server listens, while it may still be loading its data. The argument
// "--key-load-delay", "1000" makes it wait for that many microseconds after each key.
func StartLoading(t testing.TB, version, dir string, args ...string) *Server {
	t.Helper()
	return start(t, version, dir, nil, logListens, args)
}

// StartReplica starts a server that replicates from another and returns when it has the other's data, and the other knows it.
func StartReplica(t testing.TB, version string, of *Server, args ...string) *Server {
	t.Helper()
	args = append([]string{"--replicaof", of.Host + " " + fmt.Sprint(of.Port)}, args...)
	if of.Password != "" {
		args = append(args, "--masterauth", of.Password)
	}
	s := Start(t, version, args...)
	c := s.Client(t)
	Eventually(t, 30*time.Second, "the replica's link to its primary is up", func() error {
		info, err := c.Info(t.Context(), "replication").Result()
		if err == nil && !strings.Contains(info, "master_link_status:up") {
			err = errors.New("it is not:\n" + info)
		}
		return err
	})
	primary := of.Client(t)
	Eventually(t, 30*time.Second, "the primary has an acknowledgement of its replica", func() error {
		info, err := primary.Info(t.Context(), "replication").Result()
		if err != nil {
			return err
		}
		for line := range strings.Lines(info) {
			if strings.Contains(line, fmt.Sprintf("port=%d,", s.Port)) && strings.Contains(line, "state=online") &&
				(!strings.Contains(line, "offset=0,") || strings.Contains(info, "master_repl_offset:0\r")) {
				return nil
			}
		}
		return errors.New("it has none:\n" + info)
	})
	return s
}

// AwaitReplicas returns when as many replicas have acknowledged all that the server had written when it was called.
func (s *Server) AwaitReplicas(t testing.TB, replicas int) {
	t.Helper()
	c := s.Client(t)
	offset := int64(-1)
	Eventually(t, 30*time.Second, "replicas have all", func() error {
		text, err := c.Info(t.Context(), "replication").Result()
		if err != nil {
			return err
		}
		info := resp.ParseInfo(text)
		if offset < 0 {
			offset = info.Int("master_repl_offset")
		}
		have := 0
		for i := range info.Int("connected_slaves") {
			for name, value := range info.Attributes(fmt.Sprintf("slave%d", i)) {
				if at, err := strconv.ParseInt(value, 10, 64); name == "offset" && err == nil && at >= offset {
					have++
				}
			}
		}
		if have < replicas {
			return fmt.Errorf("%d of %d: %s", have, replicas, text)
		}
		return nil
	})
}

func start(t testing.TB, version, dir string, sec *TLS, until string, args []string) *Server {
	t.Helper()
	s, err := launch(version, dir, sec, until, args)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, s)
	return s
}

// closeAfter closes a server with the test.
func closeAfter(t testing.TB, s *Server) {
	t.Cleanup(func() {
		s.Close()
		if t.Failed() {
			t.Logf("the log of %s at %s ends\n%s", s.Version, s.Addr, tail([]byte(s.Log()), 30))
		}
	})
}

// Restart kills the server if it runs and starts it with the same arguments on the same port and in the same directory.
// It comes back with what was in its dump.rdb.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Kill()
	if err := s.run(logReady); err != nil {
		t.Fatal(err)
	}
}

// Options returns options for a client that sends the server nothing but its commands: no CLIENT SETINFO, no
// subscription to maintenance notifications. They carry the password and the TLS configuration.
func (s *Server) Options() *redis.Options {
	opts := &redis.Options{
		Addr:                     s.Addr,
		Password:                 s.Password,
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		ContextTimeoutEnabled:    true,
		ReadTimeout:              30 * time.Second,
		WriteTimeout:             30 * time.Second,
	}
	if s.TLS != nil {
		opts.TLSConfig = s.TLS.Client.Clone()
	}
	return opts
}

// Client returns a client with the server's Options, which is closed when the test ends.
func (s *Server) Client(t testing.TB) *redis.Client {
	c := redis.NewClient(s.Options())
	t.Cleanup(func() { c.Close() })
	return c
}

// URL returns the server's address as a command line takes it: redis://:password@host:port, or rediss:// with TLS.
func (s *Server) URL() string {
	scheme, user := "redis://", ""
	if s.TLS != nil {
		scheme = "rediss://"
	}
	if s.Password != "" {
		user = ":" + s.Password + "@"
	}
	return scheme + user + s.Addr
}

// AddUser makes a user with a password and the given ACL rules, such as "~*", "+@all".
func (s *Server) AddUser(t testing.TB, name, password string, rules ...string) {
	t.Helper()
	args := []any{"ACL", "SETUSER", name, "reset", "on", ">" + password}
	for _, r := range rules {
		args = append(args, r)
	}
	if err := s.Client(t).Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("adding user %s: %v", name, err)
	}
}

// Program returns the path of one of a version's programs: "server", "cli" or "check-rdb".
func Program(t testing.TB, version, name string) string {
	t.Helper()
	path, err := ProgramPath(version, name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// MoreAtOnce lets so many tests of a package run at the same time, unless the command line says how many. TestMain calls it where the tests wait most of their
// time: for servers, leases and what is slow on purpose.
func MoreAtOnce(tests int) error {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if asked {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(tests))
}

// Eventually calls f until it returns nil, and fails the test with its last error when that takes longer than limit.
func Eventually(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s: %v", limit, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// knows says whether the server has a command.
func knows(ctx context.Context, c *redis.Client, command string) (bool, error) {
	reply, err := c.Do(ctx, "COMMAND", "INFO", command).Slice()
	if err != nil {
		return false, fmt.Errorf("COMMAND INFO %s: %w", command, err)
	}
	return len(reply) == 1 && reply[0] != nil, nil
}
