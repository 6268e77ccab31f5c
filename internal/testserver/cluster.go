package testserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Slots is the number of hash slots of a cluster.
const Slots = 16384

// A Cluster is a real cluster of servers that listen on 127.0.0.1.
type Cluster struct {
	Version string // as All gives it, such as "redis-8.0"
	TLS     *TLS   // nil unless it was started with StartClusterTLS; all nodes share it

	nodes     []*Server // the primaries first
	primaries int
	admin     map[*Server]*redis.Client
	ids       map[*Server]string // the names by which nodes know each other
	moves     map[int]move       // slots that are on their way
}

type move struct{ from, to *Server }

// Timeouts after which a node that is silent counts as failed. Nodes meet quicker, and a cluster is up sooner, with a
// small one, with which a machine that is busy for a second would later make a cluster fall apart.
const (
	nodeTimeoutToMeet = "1000"
	nodeTimeout       = "5000"
)

// StartCluster starts a cluster for a test, each node as Start starts a server, and returns when every node says that the
// cluster is ok and knows all the others, who has which slots and whose replica is whose; that takes two to three seconds,
// for no node says so earlier. Each primary has that many replicas, which have its data then, and an equal share of the
// slots. The arguments are those of every node and win over Amber's own.
//
// A node that is silent for 5 s counts as failed, unless the arguments have another "--cluster-node-timeout". No replica
// moves to another primary by itself.
func StartCluster(t testing.TB, version string, primaries, replicas int, args ...string) *Cluster {
	t.Helper()
	return startCluster(t, version, nil, primaries, replicas, args)
}

// StartClusterTLS is StartCluster with nodes that speak TLS only, among themselves too.
func StartClusterTLS(t testing.TB, version string, primaries, replicas int, args ...string) *Cluster {
	t.Helper()
	sec, err := newTLS(t.TempDir())
	if err != nil {
		t.Fatalf("making certificates: %v", err)
	}
	args = append([]string{"--tls-cluster", "yes", "--tls-replication", "yes"}, args...)
	return startCluster(t, version, sec, primaries, replicas, args)
}

func startCluster(t testing.TB, version string, sec *TLS, primaries, replicas int, args []string) *Cluster {
	t.Helper()
	c := &Cluster{Version: version, TLS: sec, primaries: primaries, nodes: make([]*Server, primaries*(1+replicas)),
		admin: make(map[*Server]*redis.Client), ids: make(map[*Server]string), moves: make(map[int]move)}
	own := []string{"--cluster-enabled", "yes", "--cluster-node-timeout", nodeTimeoutToMeet, "--cluster-allow-replica-migration", "no",
		"--repl-ping-replica-period", "1"} // CLUSTER SLOTS of Redis leaves out a replica to which nothing was sent yet, for 10 s
	if i := slices.Index(args, "--requirepass"); i >= 0 && i+1 < len(args) {
		own = append(own, "--masterauth", args[i+1])
	}
	args = append(own, args...)
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i := range c.nodes {
		dir := t.TempDir()
		wg.Go(func() { c.nodes[i], errs[i] = launch(version, dir, sec, logReady, args) })
	}
	wg.Wait()
	for _, s := range c.nodes {
		if s != nil {
			closeAfter(t, s)
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.nodes {
		c.admin[s] = s.Client(t)
	}
	if err := c.join(t.Context()); err != nil {
		t.Fatalf("making a cluster of %s: %v", version, err)
	}
	c.WaitUp(t)
	if !slices.Contains(args[len(own):], "--cluster-node-timeout") {
		for _, s := range c.nodes {
			if err := c.admin[s].ConfigSet(t.Context(), "cluster-node-timeout", nodeTimeout).Err(); err != nil {
				t.Fatal(err)
			}
			s.args = append(s.args, "--cluster-node-timeout", nodeTimeout) // for Restart
		}
	}
	return c
}

// join makes one cluster of nodes that know nothing of each other.
func (c *Cluster) join(ctx context.Context) error {
	for i, s := range c.nodes {
		id, err := c.admin[s].ClusterMyID(ctx).Result()
		if err != nil {
			return err
		}
		c.ids[s] = id
		// Nodes whose epochs are equal would have to settle that first.
		if err := c.admin[s].Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return err
		}
		if i < c.primaries {
			first, last := c.share(i)
			if err := c.admin[s].ClusterAddSlotsRange(ctx, first, last).Err(); err != nil {
				return err
			}
		}
	}
	if err := c.meet(ctx); err != nil {
		return err
	}
	for i, s := range c.nodes[c.primaries:] {
		if err := c.admin[s].ClusterReplicate(ctx, c.ids[c.nodes[i%c.primaries]]).Err(); err != nil {
			return err
		}
	}
	return nil
}

// meet tells every pair of nodes of each other, which is quicker than to let the news spread, and waits until they have met.
func (c *Cluster) meet(ctx context.Context) error {
	var told time.Time
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if time.Since(told) > 2*time.Second { // for a node of a busy machine may have given up on another after a second
			told = time.Now()
			for i, s := range c.nodes {
				for _, other := range c.nodes[:i] {
					if err := c.admin[s].Do(ctx, "CLUSTER", "MEET", other.Host, other.Port, other.bus).Err(); err != nil {
						return err
					}
				}
			}
		}
		met := true
		for _, s := range c.nodes {
			known, err := c.admin[s].ClusterNodes(ctx).Result()
			if err != nil {
				return err
			}
			for _, id := range c.ids {
				met = met && strings.Contains(known, id)
			}
			if met = met && !strings.Contains(known, "handshake"); !met && time.Since(begin) > readyWithin {
				return fmt.Errorf("after %v %s knows only\n%s", readyWithin, s.Addr, known)
			}
		}
		if met {
			return nil
		}
	}
}

// share returns the first and the last slot that a primary gets.
func (c *Cluster) share(i int) (first, last int) {
	return i * Slots / c.primaries, (i+1)*Slots/c.primaries - 1
}

// WaitUp waits until every node is up, says that the cluster is ok and knows all the others, agrees with them on the
// slots, and replicas have the data of their primaries: after Restart of a node, say.
func (c *Cluster) WaitUp(t testing.TB) {
	t.Helper()
	Eventually(t, readyWithin, "all nodes say that the cluster is ok", func() error {
		var first string
		for i, s := range c.nodes {
			slots, err := c.up(t.Context(), s)
			if err != nil {
				return fmt.Errorf("node %s: %w", s.Addr, err)
			}
			if i == 0 {
				first = slots
			} else if slots != first {
				return fmt.Errorf("nodes don't agree on the slots: %s says\n%s%s says\n%s", c.nodes[0].Addr, first, s.Addr, slots)
			}
		}
		return nil
	})
}

// up returns what a node says of the slots, or why it is not ready.
func (c *Cluster) up(ctx context.Context, s *Server) (string, error) {
	client := c.admin[s]
	info, err := client.ClusterInfo(ctx).Result()
	if err != nil {
		return "", err
	}
	for _, want := range []string{"cluster_state:ok", fmt.Sprint("cluster_slots_ok:", Slots), fmt.Sprint("cluster_known_nodes:", len(c.nodes))} {
		if !strings.Contains(info, want+"\r\n") {
			return "", fmt.Errorf("CLUSTER INFO has no %s:\n%s", want, info)
		}
	}
	list, err := slotRanges(ctx, client)
	if err != nil {
		return "", err
	}
	var lines []string
	seen := make(map[string]bool)
	for _, r := range list {
		slices.Sort(r.nodes[1:])
		lines = append(lines, fmt.Sprintf("%5d-%d: %s\n", r.first, r.last, strings.Join(r.nodes, " ")))
		for _, id := range r.nodes {
			seen[id] = true
		}
	}
	if all := len(c.nodes); len(seen) < all {
		return "", fmt.Errorf("CLUSTER SLOTS has %d of %d nodes", len(seen), all)
	}
	slices.Sort(lines)
	repl, err := client.Info(ctx, "replication").Result()
	if err == nil && strings.Contains(repl, "role:slave") && !strings.Contains(repl, "master_link_status:up") {
		err = errors.New("the replica's link to its primary is not up:\n" + repl)
	}
	return strings.Join(lines, ""), err
}

// Nodes returns all nodes: the primaries and then the first replica of each of them, the second and so on.
func (c *Cluster) Nodes() []*Server { return slices.Clone(c.nodes) }

// Primaries returns the nodes that were started as primaries, in the order of their slots. A failover changes that no
// more than a move of slots does: see Owner.
func (c *Cluster) Primaries() []*Server { return slices.Clone(c.nodes[:c.primaries]) }

// Replicas returns the nodes that were started as replicas of a primary.
func (c *Cluster) Replicas(of *Server) []*Server {
	var out []*Server
	for i, s := range c.nodes[c.primaries:] {
		if c.nodes[i%c.primaries] == of {
			out = append(out, s)
		}
	}
	return out
}

// Addrs returns the host:port of every node, in the order of Nodes.
func (c *Cluster) Addrs() []string {
	out := make([]string, len(c.nodes))
	for i, s := range c.nodes {
		out[i] = s.Addr
	}
	return out
}

// Options returns options for a client that knows all nodes and sends them nothing but its commands and the questions of
// a cluster's client, as those of Server.Options do.
func (c *Cluster) Options() *redis.ClusterOptions {
	o := c.nodes[0].Options()
	return &redis.ClusterOptions{
		Addrs:                    c.Addrs(),
		Password:                 o.Password,
		Protocol:                 o.Protocol,
		DisableIdentity:          o.DisableIdentity,
		MaintNotificationsConfig: o.MaintNotificationsConfig,
		ContextTimeoutEnabled:    o.ContextTimeoutEnabled,
		ReadTimeout:              o.ReadTimeout,
		WriteTimeout:             o.WriteTimeout,
		TLSConfig:                o.TLSConfig,
	}
}

// Client returns a client with the cluster's Options, which is closed when the test ends.
func (c *Cluster) Client(t testing.TB) *redis.ClusterClient {
	client := redis.NewClusterClient(c.Options())
	t.Cleanup(func() { client.Close() })
	return client
}

// Contents is Snapshot of all primaries together: it can be compared with that of one server, by Diff. A key that two
// primaries have fails the test. No slot may be on its way, for nobody is asked for the keys of such a slot.
func (c *Cluster) Contents(t testing.TB) map[string]string {
	t.Helper()
	all := make(map[string]string)
	from := make(map[string]string)
	for _, s := range c.masters(t) {
		for k, v := range Snapshot(t, c.admin[s]) {
			if _, twice := all[k]; twice {
				t.Fatalf("key %q is on %s and on %s", k, from[k], s.Addr)
			}
			all[k], from[k] = v, s.Addr
		}
	}
	return all
}

// Generate is the function Generate for a cluster: all keys are in database 0, each on the primary that has its slot. Names
// with a hash tag, by which several keys share a slot, are not among them.
func (c *Cluster) Generate(t testing.TB, keys int, seed uint64) {
	t.Helper()
	kinds, err := usableKinds(t.Context(), c.admin[c.nodes[0]])
	if err != nil {
		t.Fatal(err)
	}
	g := &generator{ctx: t.Context(), random: rand.New(rand.NewPCG(seed, 0))}
	owners := make([]int, Slots)
	for _, r := range c.slots(t) {
		for slot := r.first; slot <= r.last; slot++ {
			owners[slot] = len(g.pipes)
		}
		opts := c.node(t, r.nodes[0]).Options()
		opts.MaxRetries = -1 // a batch of RPUSH must not be sent twice
		client := redis.NewClient(opts)
		defer client.Close()
		g.pipes = append(g.pipes, client.Pipeline())
	}
	g.pipe = func(key string) int { return owners[Slot(key)] }
	if err := g.fill(kinds, keys, seed, 0, 1); err != nil {
		t.Fatalf("generating %d keys on a cluster: %v", keys, err)
	}
}

// masters returns the nodes that have slots now, in the order of Nodes.
func (c *Cluster) masters(t testing.TB) []*Server {
	t.Helper()
	var out []*Server
	for _, r := range c.slots(t) {
		if s := c.node(t, r.nodes[0]); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *Server) int { return slices.Index(c.nodes, a) - slices.Index(c.nodes, b) })
	return out
}

// Owner returns the node that has a slot, as the first node says that answers.
func (c *Cluster) Owner(t testing.TB, slot int) *Server {
	t.Helper()
	for _, r := range c.slots(t) {
		if r.first <= slot && slot <= r.last {
			return c.node(t, r.nodes[0])
		}
	}
	t.Fatalf("nobody has slot %d", slot)
	return nil
}

// A slotRange is slots that one primary has.
type slotRange struct {
	first, last int
	nodes       []string // their names: the primary and its replicas
}

func (c *Cluster) slots(t testing.TB) []slotRange {
	t.Helper()
	var errs []error
	for _, s := range c.nodes {
		list, err := slotRanges(t.Context(), c.admin[s])
		if err == nil {
			return list
		}
		errs = append(errs, err)
	}
	t.Fatalf("no node tells who has the slots: %v", errors.Join(errs...))
	return nil
}

// slotRanges asks a node. CLUSTER SHARDS, which go-redis recommends, has the same but in a form that is much longer to read.
func slotRanges(ctx context.Context, client *redis.Client) ([]slotRange, error) {
	list, err := client.Do(ctx, "CLUSTER", "SLOTS").Slice()
	if err != nil {
		return nil, err
	}
	var out []slotRange
	for _, item := range list {
		var r slotRange
		fields, _ := item.([]any)
		for i, field := range fields {
			switch f := field.(type) {
			case int64:
				if i == 0 {
					r.first = int(f)
				} else {
					r.last = int(f)
				}
			case []any: // host, port, name and more
				if len(f) > 2 {
					r.nodes = append(r.nodes, fmt.Sprint(f[2]))
				}
			}
		}
		if len(r.nodes) == 0 {
			return nil, fmt.Errorf("CLUSTER SLOTS: %v", item)
		}
		out = append(out, r)
	}
	return out, nil
}

func (c *Cluster) node(t testing.TB, id string) *Server {
	t.Helper()
	for s, other := range c.ids {
		if other == id {
			return s
		}
	}
	t.Fatalf("node %s is none of the cluster's", id)
	return nil
}

// KeyFor returns a key in a slot: a prefix with a hash tag behind it.
func KeyFor(slot int, prefix string) string {
	for i := 0; ; i++ {
		if tag := strconv.Itoa(i); Slot(tag) == slot {
			return prefix + "{" + tag + "}"
		}
	}
}

// Slot returns the slot of a key: CRC16 (XMODEM) of what is between its first "{" and the next "}", or of all of it if
// there is nothing between. The facts are from the cluster specification of Redis.
func Slot(key string) int {
	if i := strings.IndexByte(key, '{'); i >= 0 {
		if n := strings.IndexByte(key[i+1:], '}'); n > 0 {
			key = key[i+1 : i+1+n]
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if high := crc&0x8000 != 0; high {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % Slots
}
