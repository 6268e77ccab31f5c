package target

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/testserver"
)

func TestSlotIsWhatServersSay(t *testing.T) {
	s := testserver.Start(t, "valkey-9.1", "--cluster-enabled", "yes")
	c := New(s.Options(), 5*time.Second)
	defer c.Close()
	keys := []string{"", "a", "123456789", "{user1000}.following", "foo{}{bar}", "foo{{bar}}zap", "foo{bar}{zap}", "a}{b}", "{", "}{", "\x00\xff{\xfe\r\n}"}
	for i := range 200 {
		keys = append(keys, fmt.Sprint("key:", i*7919))
	}
	for _, key := range keys {
		reply, err := c.Do(t.Context(), "CLUSTER", "KEYSLOT", key)
		if err != nil {
			t.Fatal(err)
		}
		if got := Slot([]byte(key)); got != int(reply.Int) {
			t.Errorf("Slot(%q) = %d, the server says %d", key, got, reply.Int)
		}
	}
}

func TestSlotRangesOfACluster(t *testing.T) {
	cluster := testserver.StartCluster(t, "redis-8.0", 3, 0)
	c := New(cluster.Nodes()[1].Options(), 5*time.Second)
	defer c.Close()
	ranges, err := c.SlotRanges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, r := range ranges {
		total += r.Last - r.First + 1
		if want := cluster.Owner(t, r.First).Addr; r.Addr != want {
			t.Errorf("slots %d to %d are at %s, want %s", r.First, r.Last, r.Addr, want)
		}
	}
	if total != Slots {
		t.Errorf("%d slots in all", total)
	}
	other := testserver.KeyFor(0, "k")
	_, err = c.Do(t.Context(), "GET", other)
	var refused resp.Error
	if !errors.As(err, &refused) {
		t.Fatalf("a key of another node: %v", err)
	}
	addr, slot, ask, ok := c.Redirected(string(refused))
	if want := cluster.Owner(t, 0).Addr; !ok || ask || slot != 0 || addr != want {
		t.Errorf("%q: %s %d %v %v, want %s", refused, addr, slot, ask, ok, want)
	}
	if addr, _, ask, ok := c.Redirected("ASK 7 :7000"); !ok || !ask || addr != "127.0.0.1:7000" {
		t.Errorf("a node without a host is at %q %v %v", addr, ask, ok)
	}
	for _, text := range []string{"", "ERR no", "MOVED", "MOVED 1", "MOVED 1 x", "MOVED 16384 a:1", "MOVED -1 a:1"} {
		if _, _, _, ok := c.Redirected(text); ok {
			t.Errorf("%q is a redirection", text)
		}
	}
}

// TestExchangeOfMuchBothWays sends more than the buffers between us and the server hold, while as much comes back.
func TestExchangeOfMuchBothWays(t *testing.T) {
	s := testserver.Start(t, "redis-7.0")
	c := New(s.Options(), 5*time.Second)
	defer c.Close()
	if fresh, err := c.Open(t.Context()); err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	long := strings.Repeat("x", 1<<20)
	var out []byte
	for range 64 {
		out = resp.AppendCommand(out, "ECHO", long)
	}
	err := c.Exchange(t.Context(), time.Minute, out, func(r *resp.Reader) error {
		for range 64 {
			if reply, err := r.ReadReply(); err != nil || reply.Text != long {
				return fmt.Errorf("%d bytes: %w", len(reply.Text), err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if fresh, err := c.Open(t.Context()); err != nil || fresh {
		t.Errorf("the connection is gone: %v", err)
	}
}

func TestExchangeEnds(t *testing.T) {
	s := testserver.Start(t, "redis-7.0")
	c := New(s.Options(), 5*time.Second)
	defer c.Close()
	block := resp.AppendCommand(nil, "BLPOP", "nothing", "0")
	read := func(r *resp.Reader) error { _, err := r.ReadReply(); return err }
	for name, end := range map[string]func() (error, error){
		"with its context": func() (error, error) {
			why := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
			return c.Exchange(ctx, time.Minute, block, read), why
		},
		"after its time": func() (error, error) {
			return c.Exchange(t.Context(), 100*time.Millisecond, block, read), context.DeadlineExceeded
		},
	} {
		if _, err := c.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err, want := end()
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		if err == nil || want != context.DeadlineExceeded && !errors.Is(err, want) || !strings.Contains(err.Error(), "no answer within") && want == context.DeadlineExceeded {
			t.Errorf("%s: %v", name, err)
		}
		if fresh, err := c.Open(t.Context()); err != nil || !fresh {
			t.Errorf("%s: the connection is still there: %v", name, err)
		}
	}
}
