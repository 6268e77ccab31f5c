package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	srv "github.com/amberkv/amber/internal/target"
)

// migrating returns the slots that a node moves or gets, by its own line of CLUSTER NODES.
func migrating(nodes string) []int {
	var out []int
	for line := range strings.Lines(nodes) {
		if !strings.Contains(line, "myself") {
			continue
		}
		for _, f := range strings.Fields(line) {
			// [slot->-node] or [slot-<-node]
			if !strings.HasPrefix(f, "[") {
				continue
			}
			digits, _, _ := strings.Cut(f[1:], "-")
			if n, err := strconv.Atoi(digits); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// failing returns the addresses of primaries that the others take for failed, by CLUSTER NODES.
func failing(nodes string) []string {
	var out []string
	for line := range strings.Lines(nodes) {
		f := strings.Fields(line)
		if len(f) < 9 || !strings.Contains(f[2], "master") || !strings.Contains(f[2], "fail") {
			continue
		}
		at, _, _ := strings.Cut(f[1], "@")
		out = append(out, at)
	}
	return out
}

// A topology is what a run knows of the target's nodes. It isn't changed once it is in use.
type topology struct {
	nodes []*node           // the primaries; one if it is no cluster
	owner *[srv.Slots]*node // nil if it is no cluster
}

func (t *topology) has(n *node) bool { return slices.Contains(t.nodes, n) }

// of returns the node that has a key.
func (t *topology) of(key []byte) *node {
	if t.owner == nil {
		return t.nodes[0]
	}
	if n := t.owner[srv.Slot(key)]; n != nil {
		return n
	}
	return t.nodes[0] // it says CLUSTERDOWN, which is waited for
}

// A node is a primary of the target.
type node struct {
	id    int // from 0 on
	addr  string
	links []*link
}

// cluster tells whether the target is one.
func (r *run) cluster() bool { return r.facts.cluster }

// arrange makes the topology, of the ranges of a cluster. Nodes that are new get connections.
func (r *run) arrange(ranges []srv.SlotRange) {
	t := &topology{}
	if !r.facts.cluster {
		t.nodes = []*node{r.reach(r.facts.addr)}
		r.topo.Store(t)
		return
	}
	t.owner = new([srv.Slots]*node)
	for _, s := range ranges {
		n := r.reach(s.Addr)
		if !slices.Contains(t.nodes, n) {
			t.nodes = append(t.nodes, n)
		}
		for slot := s.First; slot <= s.Last; slot++ {
			t.owner[slot] = n
		}
	}
	r.topo.Store(t)
}

// reach returns the node of an address, with its connections.
func (r *run) reach(addr string) *node {
	for _, n := range r.known {
		if n.addr == addr {
			return n
		}
	}
	n := &node{id: len(r.known), addr: addr}
	for range r.connections {
		l := &link{id: n.id*r.connections + len(n.links), r: r, node: n, queue: make(chan *chunk, 2)}
		n.links = append(n.links, l)
		if r.closing {
			close(l.queue)
		}
		r.links.Go(func() { l.work(r.ctx) })
	}
	r.known = append(r.known, n)
	return n
}

// refresh asks the cluster's nodes, until one answers, who has which slots. After an error what was known stays.
func (r *run) refresh(ctx context.Context) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	return r.refreshLocked(ctx)
}

func (r *run) refreshLocked(ctx context.Context) error {
	var errs []error
	for _, n := range slices.Clone(r.known) {
		ranges, err := r.admin(n.addr).SlotRanges(ctx)
		if err == nil && len(ranges) == 0 {
			err = errors.New("it knows of no slots")
		}
		if err == nil {
			r.arrange(ranges)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		errs = append(errs, fmt.Errorf("%s: %w", n.addr, err))
	}
	return fmt.Errorf("no node of the cluster tells who has which slots: %w", errors.Join(errs...))
}
