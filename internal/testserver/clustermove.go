package testserver

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// BeginMove begins to move a slot to another primary: the one that has it answers ASK for keys that it doesn't have (any
// more), and TRYAGAIN for commands with several keys of which it has only some.
func (c *Cluster) BeginMove(t testing.TB, slot int, to *Server) {
	t.Helper()
	from := c.Owner(t, slot)
	if from == to {
		t.Fatalf("slot %d is on %s already", slot, to.Addr)
	}
	// In this order, else a client could be sent to a node that doesn't expect it.
	c.setSlot(t, to, slot, "IMPORTING", c.ids[from])
	c.setSlot(t, from, slot, "MIGRATING", c.ids[to])
	c.moves[slot] = move{from, to}
}

// MoveKeys moves keys of a slot for which BeginMove was called, and returns how many: as many as the given number, or all
// that there are if it is negative. A key that is written meanwhile moves along or is made at the new place.
func (c *Cluster) MoveKeys(t testing.TB, slot, keys int) int {
	t.Helper()
	n, err := c.moveKeys(t.Context(), slot, keys)
	if err != nil {
		t.Fatalf("moving keys of slot %d: %v", slot, err)
	}
	return n
}

func (c *Cluster) moveKeys(ctx context.Context, slot, keys int) (int, error) {
	m, ok := c.moves[slot]
	if !ok {
		return 0, fmt.Errorf("BeginMove was not called for it")
	}
	moved := 0
	for moved != keys {
		batch := 100
		if keys >= 0 {
			batch = min(batch, keys-moved)
		}
		names, err := c.admin[m.from].ClusterGetKeysInSlot(ctx, slot, batch).Result()
		if err != nil || len(names) == 0 {
			return moved, err
		}
		args := []any{"MIGRATE", m.to.Host, m.to.Port, "", 0, 10000}
		if m.to.Password != "" {
			args = append(args, "AUTH", m.to.Password)
		}
		args = append(args, "KEYS")
		for _, k := range names {
			args = append(args, k)
		}
		if err := c.admin[m.from].Do(ctx, args...).Err(); err != nil {
			return moved, err
		}
		moved += len(names)
	}
	return moved, nil
}

// FinishMove moves the keys that a slot still has at its old place and gives it to its new owner; the old one answers MOVED
// from then on. It returns when all nodes know.
func (c *Cluster) FinishMove(t testing.TB, slot int) {
	t.Helper()
	c.MoveKeys(t, slot, -1)
	m := c.moves[slot]
	delete(c.moves, slot)
	// The new owner is the first, so that there is one at any time.
	c.setSlot(t, m.to, slot, "NODE", c.ids[m.to])
	c.setSlot(t, m.from, slot, "NODE", c.ids[m.to])
	Eventually(t, 30*time.Second, "all nodes know who has the slot", func() error {
		for _, s := range c.nodes {
			list, err := slotRanges(t.Context(), c.admin[s])
			if err != nil {
				return err
			}
			for _, r := range list {
				if r.first <= slot && slot <= r.last && r.nodes[0] != c.ids[m.to] {
					return fmt.Errorf("%s says that %s has it", s.Addr, c.node(t, r.nodes[0]).Addr)
				}
			}
		}
		return nil
	})
}

// Move moves a slot with its keys to another primary.
func (c *Cluster) Move(t testing.TB, slot int, to *Server) {
	t.Helper()
	c.BeginMove(t, slot, to)
	c.FinishMove(t, slot)
}

func (c *Cluster) setSlot(t testing.TB, at *Server, slot int, state, id string) {
	t.Helper()
	if err := c.admin[at].Do(t.Context(), "CLUSTER", "SETSLOT", slot, state, id).Err(); err != nil {
		t.Fatalf("CLUSTER SETSLOT %d %s at %s: %v", slot, state, at.Addr, err)
	}
}

// WriteLoad is the function WriteLoad for a cluster: each primary of the beginning has a pair of counters, in a slot of its own, and keys that are set between; each
// pair was written when it returns.
// LoadTorn tells from contents whether a pair is torn. After an error of a server the load goes on with the next pair.
func (c *Cluster) WriteLoad(t testing.TB) (stop func() int64) {
	t.Helper()
	client := c.Client(t)
	ctx, cancel := context.WithCancel(t.Context())
	var tags []string
	for _, r := range c.slots(t) {
		tags = append(tags, KeyFor(r.first, ""))
	}
	var n int64
	write := func(tag string) error {
		_, err := client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Incr(ctx, "load:a"+tag)
			p.Set(ctx, fmt.Sprint("load:", n%1000, tag), n, 0)
			p.Incr(ctx, "load:b"+tag)
			return nil
		})
		n++
		return err
	}
	for _, tag := range tags {
		if err := write(tag); err != nil {
			t.Fatalf("writing to a cluster: %v", err)
		}
	}
	done := make(chan int64, 1)
	go func() {
		var written int64
		defer func() { done <- written }()
		for i := 0; ctx.Err() == nil; i++ {
			if write(tags[i%len(tags)]) == nil {
				written++
			}
			time.Sleep(loadPause)
		}
	}()
	var once sync.Once
	var total int64
	stop = func() int64 {
		once.Do(func() {
			cancel()
			total = <-done
		})
		return total
	}
	t.Cleanup(func() { stop() })
	return stop
}

// LoadTorn takes the keys of WriteLoad out of contents that Snapshot made, and tells how many pairs of counters there were and which of them differ.
func LoadTorn(contents map[string]string) (pairs int, torn []string) {
	for key, a := range contents {
		i := strings.Index(key, "load:a")
		if i < 0 {
			continue
		}
		pairs++
		if b := contents[key[:i]+"load:b"+key[i+len("load:a"):]]; a != b {
			torn = append(torn, fmt.Sprintf("%s is %s and its other %s", key, a, b))
		}
	}
	maps.DeleteFunc(contents, func(key, _ string) bool { return strings.Contains(key, "load:") })
	return pairs, torn
}
