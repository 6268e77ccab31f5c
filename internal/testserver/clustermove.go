package testserver

import (
	"context"
	"fmt"
	"testing"
	"time"
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
