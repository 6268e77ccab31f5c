package probe_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/probe"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/testserver"
)

const readyWithin = 30 * time.Second

// peer answers each command with what answer returns; "" ends the connection.
func peer(t *testing.T, answer func(args []string) string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			r := resp.NewReader(conn, nil)
			for {
				args, err := r.ReadCommand()
				if err != nil {
					break
				}
				text := answer(args)
				if text == "" {
					break
				}
				io.WriteString(conn, text)
			}
			stop()
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		cancel()
		l.Close()
		<-done
	})
	return l.Addr().String()
}

// Whatever a server answers, it is an error that says where or a report, and no password is in it.
func TestGarbage(t *testing.T) {
	info := "$19\r\nredis_version:7.2.4\r\n"
	for name, test := range map[string]struct {
		answers map[string]string
		want    string // of the error; empty: a report
	}{
		"not RESP":          {map[string]string{"AUTH": "HTTP/1.1 400 Bad Request\r\n\r\n"}, "authenticate: "},
		"echo":              {map[string]string{"AUTH": "what is " + canary + "?\r\n"}, "authenticate: "},
		"INFO is a number":  {map[string]string{"INFO": ":7\r\n"}, "INFO: "},
		"INFO is cut":       {map[string]string{"INFO": "$100\r\nredis_ver"}, "INFO: "},
		"COMMAND nonsense":  {map[string]string{"COMMAND": "*1\r\n*1\r\n*1\r\n:3\r\n"}, ""},
		"COMMAND empty":     {map[string]string{"COMMAND": "*0\r\n"}, ""},
		"COMMAND all of it": {map[string]string{"COMMAND": "*9\r\n" + strings.Repeat("*0\r\n", 9)}, ""},
		"ACL is a number":   {map[string]string{"ACL": ":1\r\n"}, ""},
		"ACL too long":      {map[string]string{"ACL": "+" + strings.Repeat("x", 1000) + "\r\n"}, ""},
		"ACL garbage":       {map[string]string{"ACL": "?\r\n"}, "ACL WHOAMI: "},
		"COMMAND garbage":   {map[string]string{"COMMAND": "%1\r\n"}, "COMMAND INFO: "},
		"closes":            {map[string]string{"COMMAND": ""}, "COMMAND INFO: "},
	} {
		addr := peer(t, func(args []string) string {
			if text, ok := test.answers[args[0]]; ok {
				return text
			}
			switch args[0] {
			case "INFO":
				return info
			case "ACL":
				return "+app\r\n"
			}
			return "+OK\r\n"
		})
		r, err := run(t, probe.Config{Options: &redis.Options{Addr: addr, Password: canary}, Timeout: time.Second})
		var e *backup.SourceError
		switch {
		case test.want != "":
			if !errors.As(err, &e) || e.Addr != addr || !strings.HasPrefix(err.Error(), "snapshot of "+addr+": "+test.want) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || r.Engine != "redis":
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// Cancelling ends it at each stage, within a second, and leaves no goroutine.
func TestCancel(t *testing.T) {
	for _, stage := range []string{"AUTH", "INFO", "ACL", "COMMAND"} {
		ctx, cancel := context.WithCancel(t.Context())
		addr := peer(t, func(args []string) string {
			switch {
			case args[0] == stage:
				cancel()
				<-t.Context().Done()
				return ""
			case args[0] == "INFO":
				return "$19\r\nredis_version:7.2.4\r\n"
			}
			return "+OK\r\n"
		})
		begin := time.Now()
		_, err := probe.Run(ctx, probe.Config{Options: &redis.Options{Addr: addr, Password: canary}})
		if took := time.Since(begin); !errors.Is(err, context.Canceled) || took > 5*time.Second {
			t.Errorf("%s: %v after %v", stage, err, took)
		}
	}
	testserver.Eventually(t, 20*time.Second, "no goroutine is left", func() error {
		buf := make([]byte, 1<<20)
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "/backup/probe.") || strings.Contains(g, "/internal/link.") {
				return errors.New(g)
			}
		}
		return nil
	})
}

func TestConfig(t *testing.T) {
	for want, cfg := range map[string]probe.Config{
		"probe: Config.Options is required: use the options of a redis.Client, or redis.ParseURL": {},
		"probe: Config.Timeout is negative": {Options: &redis.Options{}, Timeout: -1},
	} {
		if _, err := probe.Run(t.Context(), cfg); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Errors of connections and credentials are those that a snapshot would end with.
func TestUnreachable(t *testing.T) {
	s := testserver.StartTLS(t, "redis-8.0", "--requirepass", canary)
	if r := report(t, probe.Config{Options: s.Options()}); r.Chosen != probe.Replica {
		t.Errorf("TLS: %+v", r)
	}
	wrong := s.Options()
	wrong.Password = canary + "x"
	if _, err := run(t, probe.Config{Options: wrong}); !errors.Is(err, backup.ErrAuth) {
		t.Errorf("a wrong password: %v", err)
	}
	plain := s.Options()
	plain.TLSConfig = nil
	var e *backup.SourceError
	if _, err := run(t, probe.Config{Options: plain}); !errors.As(err, &e) || !strings.Contains(e.Hint, "TLS") {
		t.Errorf("without TLS: %v", err)
	}
	addr := s.Addr
	s.Kill()
	if _, err := run(t, probe.Config{Options: &redis.Options{Addr: addr}}); !errors.As(err, &e) || e.Step != "connect" {
		t.Errorf("nobody listens: %v", err)
	}
	dir := t.TempDir()
	full := testserver.StartIn(t, "redis-8.0", dir)
	testserver.Generate(t, full.Client(t), 2000, 1)
	if err := full.Client(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	full.Kill()
	loading := testserver.StartLoading(t, "redis-8.0", dir, "--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
	r := report(t, probe.Config{Options: loading.Options()})
	if err := r.Err(); !errors.Is(err, backup.ErrTransient) || !strings.Contains(err.Error(), "replica, save, scan: the server is loading its data") || len(r.Usable()) > 0 {
		t.Errorf("loading: %v, %s", err, lines(r))
	}
}
