package testserver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestStartsClusterOfEveryVersion(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		start := time.Now()
		c := StartCluster(t, version, 3, 0)
		t.Logf("up in %v", time.Since(start))
		client := c.Client(t)
		want := make(map[string]string)
		for i := range 300 {
			k := "k" + strconv.Itoa(i)
			if err := client.Set(t.Context(), k, i, 0).Err(); err != nil {
				t.Fatal(err)
			}
			want["0/"+k] = "string\n" + strconv.Quote(strconv.Itoa(i))
		}
		if diff := Diff(want, c.Contents(t)); diff != "" {
			t.Error(diff)
		}
		for i, s := range c.Primaries() {
			first, last := c.share(i)
			if c.Owner(t, first) != s || c.Owner(t, last) != s {
				t.Errorf("slots %d and %d are not on node %d", first, last, i)
			}
			n, err := s.Client(t).DBSize(t.Context()).Result()
			if err != nil || n < 50 {
				t.Errorf("node %d has %d of 300 keys: %v", i, n, err)
			}
			key := KeyFor(last, "at:")
			if slot, err := s.Client(t).ClusterKeySlot(t.Context(), key).Result(); err != nil || int(slot) != last {
				t.Errorf("the server has %q in slot %d, not %d: %v", key, slot, last, err)
			}
		}
	})
}

func TestSlotIsThatOfTheServer(t *testing.T) {
	s := Start(t, "redis-8.0", "--cluster-enabled", "yes")
	c := s.Client(t)
	for _, key := range []string{"", "a", "123456789", "{a}b", "x{}{a}", "{{a}}", "{a", "a}{b}", "\x00\xff{\r\n}", "ü{日本}x"} {
		if slot, err := c.ClusterKeySlot(t.Context(), key).Result(); err != nil || int(slot) != Slot(key) {
			t.Errorf("%q is in slot %d, not %d: %v", key, slot, Slot(key), err)
		}
	}
}

func TestClusterWithReplicasAndPassword(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := StartCluster(t, version, 3, 1, "--requirepass", "p w")
			client := c.Client(t)
			for i := range 100 {
				if err := client.Set(t.Context(), "k"+strconv.Itoa(i), i, 0).Err(); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range c.Primaries() {
				replicas := c.Replicas(p)
				if len(replicas) != 1 {
					t.Fatalf("%d replicas", len(replicas))
				}
				opts := replicas[0].Options()
				opts.OnConnect = func(ctx context.Context, conn *redis.Conn) error { return conn.ReadOnly(ctx).Err() }
				reader := redis.NewClient(opts)
				defer reader.Close()
				Eventually(t, time.Minute, "the replica has the primary's keys", func() error {
					want, got := Snapshot(t, p.Client(t)), Snapshot(t, reader)
					if len(want) == 0 || !maps.Equal(want, got) {
						return fmt.Errorf("of %d keys: %s", len(want), Diff(want, got))
					}
					return nil
				})
			}
			if len(c.Nodes()) != 6 || len(c.Contents(t)) != 100 {
				t.Errorf("%d nodes with %d keys", len(c.Nodes()), len(c.Contents(t)))
			}
			// A failover makes a replica the owner.
			replica := c.Replicas(c.Primaries()[0])[0]
			if err := replica.Client(t).ClusterFailover(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			Eventually(t, 30*time.Second, "the replica is the owner", func() error {
				if c.Owner(t, 0) != replica {
					return fmt.Errorf("it is %s", c.Owner(t, 0).Addr)
				}
				return nil
			})
			c.WaitUp(t)
			if n := len(c.Contents(t)); n != 100 {
				t.Errorf("after a failover there are %d keys", n)
			}
			slot := 5
			c.Move(t, slot, c.Primaries()[1])
			if c.Owner(t, slot) != c.Primaries()[1] {
				t.Errorf("slot %d is on %s", slot, c.Owner(t, slot).Addr)
			}
		})
	}
}

func TestClusterTLS(t *testing.T) {
	t.Parallel()
	c := StartClusterTLS(t, "valkey-9.1", 2, 1)
	client := c.Client(t)
	for i := range 50 {
		if err := client.Set(t.Context(), "k"+strconv.Itoa(i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.Contents(t)); n != 50 {
		t.Errorf("%d of 50 keys are there", n)
	}
	slot := Slot("k7")
	to := c.Primaries()[0]
	if c.Owner(t, slot) == to {
		to = c.Primaries()[1]
	}
	c.Move(t, slot, to)
	if n := len(c.Contents(t)); n != 50 {
		t.Errorf("after a move %d of 50 keys are there", n)
	}
}

// TestSlotOnItsWay looks at a slot that moves as a client does that follows no redirection, and writes to it meanwhile with
// one that does.
func TestSlotOnItsWay(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		c := StartCluster(t, version, 3, 0)
		const slot = 1000
		from, to := c.Owner(t, slot), c.Primaries()[2]
		tag := KeyFor(slot, "")
		client := c.Client(t)
		for i := range 20 {
			if err := client.Set(t.Context(), tag+strconv.Itoa(i), i, 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		written := make(chan int)
		go func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				if err := client.Set(ctx, tag+"w"+strconv.Itoa(n%500), n, 0).Err(); err != nil && ctx.Err() == nil {
					t.Errorf("write %d: %v", n, err)
				}
			}
			written <- n
		}()
		node := from.Client(t)
		get := func(key string) string {
			err := node.Get(t.Context(), key).Err()
			if err == nil {
				return ""
			}
			word, _, _ := strings.Cut(err.Error(), " ")
			return word
		}
		if got := get(tag + "none"); got != "redis:" {
			t.Errorf("a key that isn't there before the move: %q", got)
		}
		c.BeginMove(t, slot, to)
		if got := get(tag + "none"); got != "ASK" {
			t.Errorf("a key that isn't there while its slot moves: %q", got)
		}
		if n := c.MoveKeys(t, slot, 10); n != 10 {
			t.Errorf("moved %d keys", n)
		}
		seen := make(map[string]int)
		for i := range 20 {
			seen[get(tag+strconv.Itoa(i))]++
		}
		for answer := range seen {
			if answer != "" && answer != "ASK" {
				t.Errorf("keys of a slot that moves are answered by %v", seen)
			}
		}
		if c.Owner(t, slot) != from {
			t.Error("the slot has a new owner before its move is finished")
		}
		time.Sleep(50 * time.Millisecond)
		c.FinishMove(t, slot)
		if got := get(tag + "0"); got != "MOVED" {
			t.Errorf("after the move: %q", got)
		}
		if c.Owner(t, slot) != to {
			t.Error("the slot has no new owner after its move is finished")
		}
		time.Sleep(50 * time.Millisecond)
		stop()
		n := <-written
		all := c.Contents(t)
		if want := 20 + min(n, 500); len(all) < want-1 || len(all) > want {
			t.Errorf("%d keys are there after %d writes", len(all), n)
		}
		if left, err := node.ClusterCountKeysInSlot(t.Context(), slot).Result(); err != nil || left != 0 {
			t.Errorf("%d keys are left behind: %v", left, err)
		}
	})
}

func TestClusterNodeComesBack(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, "valkey-9.1", 3, 0)
	node := c.Primaries()[1]
	first, _ := c.share(1)
	key := KeyFor(first, "k")
	client := c.Client(t)
	if err := client.Set(t.Context(), key, "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := node.Client(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	node.Restart(t)
	c.WaitUp(t)
	if c.Owner(t, first) != node {
		t.Error("the node has lost its slots")
	}
	if v, err := client.Get(t.Context(), key).Result(); err != nil || v != "v" {
		t.Errorf("GET: %q, %v", v, err)
	}
	for _, s := range c.Nodes() {
		reply, err := s.Client(t).ConfigGet(t.Context(), "cluster-node-timeout").Result()
		if err != nil || reply["cluster-node-timeout"] != nodeTimeout {
			t.Errorf("%s: cluster-node-timeout: %v, %v", s.Addr, reply, err)
		}
	}
}

func TestGeneratedClusterHoldsWhatOneServerDoes(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			one := Start(t, version, "--databases", "1")
			c := StartCluster(t, version, 3, 0)
			Generate(t, one.Client(t), 300, 7)
			c.Generate(t, 300, 7)
			want, got := withoutSeen(Snapshot(t, one.Client(t))), withoutSeen(c.Contents(t))
			if diff := Diff(want, got); diff != "" || len(got) < 250 {
				t.Error(len(got), diff)
			}
		})
	}
}

func TestArgumentsOfClusterWin(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, "redis-8.0", 1, 0, "--cluster-node-timeout", "700", "--databases", "1")
	reply, err := c.Nodes()[0].Client(t).ConfigGet(t.Context(), "cluster-node-timeout").Result()
	if err != nil || reply["cluster-node-timeout"] != "700" {
		t.Errorf("cluster-node-timeout: %v, %v", reply, err)
	}
	if err := c.Client(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(c.Addrs(), []string{c.Nodes()[0].Addr}) {
		t.Errorf("addresses: %v", c.Addrs())
	}
}
