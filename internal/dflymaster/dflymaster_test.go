package dflymaster_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/internal/resp"
)

// A conn says commands and reads answers.
type conn struct {
	t *testing.T
	net.Conn
	*resp.Reader
}

func (c conn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func dial(t *testing.T, m *dflymaster.Master) conn {
	t.Helper()
	c, err := net.Dial("tcp", m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return conn{t, c, resp.NewReader(c, nil)}
}

// say sends a command and returns the answer as text.
func (c conn) say(command string) string {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
		c.t.Fatalf("%s: %v", command, err)
	}
	reply, err := c.ReadReply()
	if err != nil {
		return "-" + err.Error()
	}
	text := string(reply.Kind) + reply.Text
	for _, e := range reply.Elems {
		text += " " + string(e.Kind) + e.Text
		if e.Kind == resp.Integer {
			text += fmt.Sprint(e.Int)
		}
	}
	return text
}

func (c conn) expect(command, want string) {
	c.t.Helper()
	if got := c.say(command); got != want {
		c.t.Errorf("%s: %q, want %q", command, got, want)
	}
}

const id = "efc7f87f1fc3ede89f23541b52a290d81337b49b"

// TestConversation has the conversation that a Dragonfly 1.40 was seen to have with its replica.
func TestConversation(t *testing.T) {
	flows := dflymaster.Keys(2, 3)
	flows[0].Token = strings.Repeat("a", 40)
	flows[1].Token = strings.Repeat("b", 40)
	flows[1].After = dflymaster.Journal(0, 1, "SET", "k", "v")
	m := dflymaster.Start(t, dflymaster.Config{Flows: flows, ID: id})
	main, f0, f1 := dial(t, m), dial(t, m), dial(t, m)
	main.expect("PING", "+PONG")
	main.expect("REPLCONF listening-port 16392", "+OK")
	main.expect("REPLCONF capa eof capa psync2", "+OK")
	main.expect("REPLCONF capa dragonfly", "* +"+id+" +SYNC1 :2 :5 +"+id)
	main.expect("REPLCONF CLIENT-VERSION 5", "+OK")
	f1.expect("DFLY FLOW "+id+" SYNC1 1", "* +FULL +"+flows[1].Token)
	f0.expect("DFLY FLOW "+id+" SYNC1 0", "* +FULL +"+flows[0].Token)
	main.expect("DFLY SYNC SYNC1", "+OK")
	for i, f := range []conn{f0, f1} {
		want := slices.Concat(flows[i].Static, flows[i].After)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("flow %d: %q, %v", i, got, err)
		}
	}
	main.expect("DFLY STARTSTABLE SYNC1", "+OK")
	for i, f := range []conn{f0, f1} {
		want := slices.Concat(flows[i].Final, []byte(flows[i].Token))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("flow %d ends with %q, %v", i, got, err)
		}
	}
	f0.Close()
	if _, err := f1.ReadReply(); err == nil {
		t.Error("a flow lives on after another has left")
	}
	if n := m.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// TestViolations does what harms a master.
func TestViolations(t *testing.T) {
	begin := func(m *dflymaster.Master, t *testing.T) conn {
		c := dial(t, m)
		c.say("REPLCONF capa dragonfly")
		return c
	}
	flow := func(m *dflymaster.Master, t *testing.T, n int) conn {
		c := dial(t, m)
		c.say(fmt.Sprintf("DFLY FLOW %s SYNC1 %d", m.ID(), n))
		return c
	}
	for want, do := range map[string]func(t *testing.T, m *dflymaster.Master){
		"CLIENT-VERSION before capa dragonfly": func(t *testing.T, m *dflymaster.Master) {
			dial(t, m).say("REPLCONF CLIENT-VERSION 5")
		},
		"capa dragonfly twice": func(t *testing.T, m *dflymaster.Master) {
			begin(m, t).say("REPLCONF capa dragonfly")
		},
		"DFLY SYNC before all flows": func(t *testing.T, m *dflymaster.Master) {
			c := begin(m, t)
			flow(m, t, 0)
			c.say("DFLY SYNC SYNC1")
		},
		"STARTSTABLE without DFLY SYNC": func(t *testing.T, m *dflymaster.Master) {
			c := begin(m, t)
			flow(m, t, 0)
			flow(m, t, 1)
			c.say("DFLY STARTSTABLE SYNC1")
		},
		"before flow 0 had sent its static data": func(t *testing.T, m *dflymaster.Master) {
			c := begin(m, t)
			for _, f := range []conn{flow(m, t, 0), flow(m, t, 1)} {
				go io.Copy(io.Discard, f)
			}
			c.say("DFLY SYNC SYNC1")
			c.say("DFLY STARTSTABLE SYNC1")
		},
		"takes nothing but REPLCONF ACK": func(t *testing.T, m *dflymaster.Master) {
			begin(m, t)
			f := flow(m, t, 0)
			fmt.Fprint(f, "PING\r\n")
		},
		"behind DFLY FLOW": func(t *testing.T, m *dflymaster.Master) {
			begin(m, t)
			c := dial(t, m)
			c.say("DFLY FLOW " + m.ID() + " SYNC1 0\r\nPING")
		},
		"wasn't read during DFLY STARTSTABLE": func(t *testing.T, m *dflymaster.Master) {
			c := begin(m, t)
			f0, f1 := flow(m, t, 0), flow(m, t, 1)
			c.say("DFLY SYNC SYNC1")
			for i, f := range []conn{f0, f1} {
				io.CopyN(io.Discard, f, int64(len(dflymaster.Keys(2, 3)[i].Static)))
			}
			c.say("DFLY STARTSTABLE SYNC1")
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			cfg := dflymaster.Config{Flows: dflymaster.Keys(2, 3), Stall: 50 * time.Millisecond}
			switch {
			case strings.Contains(want, "wasn't read"):
				cfg.Flows[0].Stable = make([]byte, 64<<20)
			case strings.Contains(want, "static data"):
				cfg.Send = func(_ int, w io.Writer, p []byte) error {
					if len(p) > 9 { // so that the answer comes before
						time.Sleep(100 * time.Millisecond)
					}
					_, err := w.Write(p)
					return err
				}
			}
			m := dflymaster.Start(t, cfg)
			do(t, m)
			var seen []string
			for range 500 {
				seen = append(seen, m.Violations()...)
				if strings.Contains(strings.Join(seen, ";"), want) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("violations: %q", seen)
		})
	}
}

// TestClient asks with a client library.
func TestClient(t *testing.T) {
	m := dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(3, 5), Password: "two words", ID: id})
	c := redis.NewClient(m.Options())
	defer c.Close()
	if n, err := c.DBSize(t.Context()).Result(); err != nil || n != 15 {
		t.Errorf("DBSIZE: %d, %v", n, err)
	}
	info, err := c.Info(t.Context()).Result()
	if err != nil || !strings.Contains(info, "dragonfly_version:df-v1.40.0") || !strings.Contains(info, "master_replid:"+id) {
		t.Errorf("INFO: %q, %v", info, err)
	}
	if err := c.Do(t.Context(), "PSYNC", "?", "-1").Err(); err == nil || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("PSYNC: %v", err)
	}
	if all, err := c.Do(t.Context(), "COMMAND", "INFO", "PSYNC", "DFLY").Slice(); err != nil || len(all) != 2 || all[0] != nil || all[1] == nil {
		t.Errorf("COMMAND INFO: %v, %v", all, err)
	}
	wrong := *m.Options()
	wrong.Password = "other"
	w := redis.NewClient(&wrong)
	defer w.Close()
	if err := w.Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("wrong password: %v", err)
	}
	if text := strings.Join(m.Commands(), "\n"); strings.Contains(text, "two words") {
		t.Error("the password is written down")
	}
}
