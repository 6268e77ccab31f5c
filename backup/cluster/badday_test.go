package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/cluster"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
)

// Slots that are on their way, that have moved, and that nobody has.
func TestSlots(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		c := testserver.StartCluster(t, version, 3, 0)
		c.Generate(t, 200, 1)
		same := unharmed(t, c.Nodes())
		nodes := c.Primaries()
		var ids []string
		for _, s := range nodes {
			id, err := s.Client(t).ClusterMyID(t.Context()).Result()
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		h := newHouse(t)
		given := nodes[2].Options()

		// Stuck: refused, with the slot and both nodes.
		key := testserver.KeyFor(42, "key")
		if err := nodes[0].Client(t).Set(t.Context(), key, "1", 0).Err(); err != nil {
			t.Fatal(err)
		}
		c.BeginMove(t, 42, nodes[1])
		short := func(c *cluster.Config) { c.SlotWait = 500 * time.Millisecond }
		_, err := h.run(t, of(t, given, replica.PreferExact, short))
		refused(t, "a slot that is stuck", err, backup.ErrTransient, "slot 42 is on its way", ids[0], ids[1], nodes[0].Addr, "after 500ms")
		h.nothing(t)

		// One that arrives is waited for.
		arrived := make(chan struct{})
		time.AfterFunc(time.Second, func() { c.FinishMove(t, 42); close(arrived) })
		b, err := h.run(t, of(t, given, replica.PreferExact, func(c *cluster.Config) { c.SlotWait = 20 * time.Second }))
		<-arrived
		if err != nil {
			t.Fatalf("a slot that arrives: %v", err)
		}
		want := c.Contents(t)
		if int(b.Keys) != len(want) || len(b.Parts[0].Shard.Slots) != 2 || len(b.Parts[1].Shard.Slots) != 2 || b.Parts[1].Shard.Slots[0] != (catalog.SlotRange{First: 42, Last: 42}) {
			t.Errorf("%d keys of %d, shards of %v and %v", b.Keys, len(want), b.Parts[0].Shard.Slots, b.Parts[1].Shard.Slots)
		}

		// One that moves between the instants, and one that does there and back.
		for what, move := range map[string]func(){
			"slots 42": func() { c.Move(t, 42, nodes[2]) },
			"slot 43":  func() { c.BeginMove(t, 43, nodes[1]) },
			"slots 16383": func() {
				c.Move(t, 16383, nodes[0])
				c.Move(t, 16383, nodes[2])
			},
		} {
			d := &driver{begin: func(_ context.Context, addr string) error {
				if addr == nodes[2].Addr {
					move()
				}
				return nil
			}}
			_, err = h.run(t, of(t, given, replica.PreferExact, d.with(nil)))
			words := map[string]string{"slots 42": "slot 42 left " + ids[1], "slot 43": "slot 43 is on its way", "slots 16383": ids[2] + " at " + nodes[2].Addr + " has another epoch"}
			refused(t, what, err, backup.ErrTransient, words[what], "slots moved while the snapshot was taken")
			if what == "slot 43" {
				c.FinishMove(t, 43)
			}
		}

		// A migration that the server does by itself.
		if version == "valkey-9.1" {
			d := &driver{begin: func(_ context.Context, addr string) error {
				if addr == nodes[2].Addr {
					migrate(t, nodes[0], ids[1], 300, 310)
				}
				return nil
			}}
			_, err = h.run(t, of(t, given, replica.PreferExact, d.with(nil)))
			refused(t, "a migration by the server", err, backup.ErrTransient, "slots 300-310 left "+ids[0], "slots 300-310 came to "+ids[1],
				"slots 300-310: a migration from "+ids[0]+" to "+ids[1]+` is in state "success"`)
		}

		// One that moves when all have begun does no harm.
		want = c.Contents(t)
		d := &driver{}
		var once sync.Once
		d.read = func(addr string, at int64) { once.Do(func() { c.Move(t, 5000, nodes[2]) }) }
		b, err = h.run(t, of(t, given, replica.PreferExact, d.with(nil)))
		if err != nil {
			t.Fatal(err)
		}
		one := testserver.Start(t, version)
		h.restore(t, b, one.Options())
		checkContents(t, "one server", want, testserver.Snapshot(t, one.Client(t)), 0)

		// With a limit the last shard begins when others were read: then it does.
		once = sync.Once{}
		d.read = func(addr string, at int64) { once.Do(func() { c.Move(t, 5001, nodes[2]) }) }
		_, err = h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: of(t, given, replica.PreferExact, d.with(func(c *cluster.Config) { c.Parallel = 1 })), Parallel: 1})
		refused(t, "a slot that moved before the last part", err, backup.ErrTransient, "slot 5001 left")

		// The instant of a snapshot that reads keys one by one is all of the time.
		d = &driver{tell: func(_ int, src *catalog.Source) { src.Fuzzy = true }}
		once = sync.Once{}
		d.read = func(addr string, at int64) { once.Do(func() { c.Move(t, 5002, nodes[2]) }) }
		_, err = h.run(t, of(t, given, replica.PreferExact, d.with(nil)))
		refused(t, "a slot that moved while keys were read one by one", err, backup.ErrTransient, "slot 5002 left")
		if b, err = h.run(t, of(t, given, replica.PreferExact, (&driver{tell: d.tell}).with(nil))); err != nil || !b.Source.Fuzzy {
			t.Errorf("keys that were read one by one: %+v, %v", b, err)
		}

		same()
		// And nobody's.
		for _, s := range nodes {
			cl := s.Client(t)
			if err := cl.ClusterDelSlots(t.Context(), 100, 101, 7).Err(); err != nil {
				t.Fatal(err)
			}
		}
		_, err = h.run(t, of(t, given, replica.PreferExact, nil))
		refused(t, "missing slots", err, backup.ErrUnsupported, "slots 7, 100-101 have no node")
	}, "redis-8.0", "valkey-9.1")
}

// A primary that is killed while its part is read: its replica is promoted and gives the part, the others go on. And then one without a replica.
func TestFailover(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		c := testserver.StartCluster(t, version, 3, 1)
		c.Generate(t, 300, 1)
		nodes := c.Primaries()
		want := c.Contents(t)
		delay := func(s *testserver.Server, us string) {
			if err := s.Client(t).ConfigSet(t.Context(), "rdb-key-save-delay", us).Err(); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range c.Nodes() {
			delay(s, "3000")
		}
		delay(nodes[1], "20000") // so that all is not in the sockets when it dies, however late that is
		h := newHouse(t)
		stop := c.WriteLoad(t)
		d := &driver{}
		var once sync.Once
		d.read = func(addr string, at int64) {
			if addr == nodes[1].Addr && at > 0 {
				once.Do(func() {
					nodes[1].Kill()
					if !campaign() { // else the nodes find out themselves, which takes as long as a node may be silent
						time.AfterFunc(time.Second, func() { promote(t, c.Replicas(nodes[1])[0]) })
					}
				})
			}
		}
		b, err := h.run(t, of(t, nodes[1].Options(), replica.PreferExact, d.with(func(cfg *cluster.Config) { cfg.Addrs = []string{nodes[0].Addr} })))
		stop()
		if err != nil {
			t.Fatal(err)
		}
		promoted := c.Replicas(nodes[1])[0]
		id, err := promoted.Client(t).ClusterMyID(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		sh := b.Parts[1].Shard
		if sh.Attempts != 2 || sh.ID != id || sh.Address != promoted.Addr || sh.Role != "primary" || len(sh.Slots) != 1 {
			t.Errorf("the shard that failed over is %+v, want 2 attempts from %s at %s", sh, id, promoted.Addr)
		}
		if b.Parts[0].Shard.Attempts != 0 || b.Parts[2].Shard.Attempts != 0 || d.count[nodes[0].Addr] != 1 || d.count[nodes[2].Addr] != 1 {
			t.Errorf("the other shards were begun more than once: %v", d.count)
		}
		if b.Source.Spread < time.Second {
			t.Errorf("the spread is %v", b.Source.Spread)
		}
		one := testserver.Start(t, version)
		h.restore(t, b, one.Options())
		checkContents(t, "one server", want, testserver.Snapshot(t, one.Client(t)), 3)

		delay(promoted, "20000")
		// Without a replica: an error within the time that was given, and the others are left alone.
		same := unharmed(t, []*testserver.Server{nodes[0], nodes[2]})
		begin := time.Now()
		once = sync.Once{}
		d.read = func(addr string, at int64) {
			if addr == promoted.Addr && at > 0 {
				once.Do(func() { promoted.Kill() })
			}
		}
		_, err = h.run(t, of(t, nodes[0].Options(), replica.PreferExact, d.with(func(c *cluster.Config) { c.FailoverWait = 2 * time.Second })))
		refused(t, "a shard that is lost", err, backup.ErrTransient, "slots 5461-10921 have no primary that answers for 2s", "the server closed the connection", "connection refused")
		if took := time.Since(begin); took > 40*time.Second {
			t.Errorf("it took %v", took)
		}
		same()
		// And before anything was begun.
		_, err = h.run(t, of(t, nodes[0].Options(), replica.PreferExact, func(c *cluster.Config) { c.SlotWait = 300 * time.Millisecond }))
		refused(t, "a shard that is down", err, backup.ErrTransient, "the primary of slots 5461-10921", "doesn't answer")
	}, "redis-7.0", "valkey-8.1")
}

// promote makes a replica the primary of its shard, though nobody voted for it.
func promote(t *testing.T, s *testserver.Server) {
	if err := s.Client(t).Do(t.Context(), "CLUSTER", "FAILOVER", "TAKEOVER").Err(); err != nil {
		t.Error(err)
	}
}

// migrate lets a Valkey migrate slots to another node and waits for it.
func migrate(t *testing.T, from *testserver.Server, to string, first, last int) {
	c := from.Client(t)
	if err := c.Do(t.Context(), "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", to).Err(); err != nil {
		t.Error(err)
		return
	}
	testserver.Eventually(t, 20*time.Second, "the migration is done", func() error {
		jobs, err := c.Do(t.Context(), "CLUSTER", "GETSLOTMIGRATIONS").Result()
		if err == nil && !strings.Contains(fmt.Sprint(jobs), "success") {
			err = fmt.Errorf("%v", jobs)
		}
		return err
	})
}

// What is refused at once, and how often what isn't is tried.
func TestRefusals(t *testing.T) {
	t.Parallel()
	alone := testserver.Start(t, "redis-7.0")
	_, err := of(t, alone.Options(), replica.PreferExact, nil).Snapshot(t.Context())
	refused(t, "no node of a cluster", err, backup.ErrUnsupported, "no node of a cluster", alone.Addr)

	free, ferr := testserver.FreeAddr()
	if ferr != nil {
		t.Fatal(ferr)
	}
	o := alone.Options()
	o.Addr = free
	_, err = of(t, o, replica.PreferExact, nil).Snapshot(t.Context())
	refused(t, "nobody there", err, nil, "nothing listens there")

	c := testserver.StartCluster(t, "valkey-9.1", 1, 0, "--requirepass", canary)
	c.Generate(t, 50, 1)
	node := c.Nodes()[0]
	o = node.Options()
	o.Password = canary + "2"
	_, err = of(t, o, replica.PreferExact, nil).Snapshot(t.Context())
	refused(t, "a wrong password", err, backup.ErrAuth)
	node.AddUser(t, "few", canary, "+psync", "+replconf", "+info")
	o = node.Options()
	o.Username = "few"
	_, err = of(t, o, replica.PreferExact, nil).Snapshot(t.Context())
	refused(t, "no right to ask", err, backup.ErrPermission, "+cluster +info")
	node.AddUser(t, "some", canary, "+psync", "+replconf", "+info", "+cluster|nodes", "+cluster|slots")
	o.Username = "some"
	_, err = of(t, o, replica.PreferExact, nil).Snapshot(t.Context())
	refused(t, "no right to see migrations", err, backup.ErrPermission, "CLUSTER GETSLOTMIGRATIONS", "+cluster +info")
	node.AddUser(t, "enough", canary, "+psync", "+replconf", "+info", "+cluster")
	o.Username = "enough"
	h := newHouse(t)
	b, err := h.run(t, of(t, o, replica.PreferReplica, nil))
	if err != nil || len(b.Parts) != 1 || b.Keys < 40 || b.Source.Spread != 0 {
		t.Errorf("a cluster of one: %v, %v", b, err)
	}

	// A node that can't for a while is asked again after a pause, so often as is given and no more; one that refuses is not.
	broken := errors.New("it is broken")
	for _, test := range []struct {
		err          error
		fail         int // so many times
		tried        int
		kind, second error
	}{
		{broken, 2, 3, nil, nil},
		{broken, 100, 3, broken, nil},
		{backup.ErrPermission, 100, 1, backup.ErrPermission, nil},
		{backup.ErrUnsupported, 100, 1, backup.ErrUnsupported, nil},
	} {
		tried := 0
		d := &driver{begin: func(context.Context, string) error {
			if tried++; tried <= test.fail {
				return &backup.SourceError{Addr: "x", Step: "y", Err: test.err}
			}
			return nil
		}}
		b, err := h.run(t, of(t, o, replica.PreferExact, d.with(nil)))
		if tried != test.tried || !errors.Is(err, test.kind) || errors.Is(err, backup.ErrAgain) {
			t.Errorf("%v, %d times: %v after %d attempts, want %d", test.err, test.fail, err, tried, test.tried)
		}
		if err == nil && b.Parts[0].Shard.Attempts != 3 {
			t.Errorf("%d attempts in the manifest", b.Parts[0].Shard.Attempts)
		}
	}
}

// A replica that was behind when the slots were looked at is not taken.
func TestLag(t *testing.T) {
	t.Parallel()
	c := testserver.StartCluster(t, "redis-7.0", 1, 0)
	c.Generate(t, 50, 1)
	if err := c.Nodes()[0].Client(t).ConfigSet(t.Context(), "repl-diskless-sync-delay", "0").Err(); err != nil {
		t.Fatal(err)
	}
	h := newHouse(t)
	// The first synchronisation is what makes a server count.
	if _, err := h.run(t, of(t, c.Nodes()[0].Options(), replica.PreferExact, nil)); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes()[0].Client(t).Set(t.Context(), "a", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	d := &driver{tell: func(n int, src *catalog.Source) {
		if n == 1 {
			src.ReplicationOffset = 0
		}
	}}
	b, err := h.run(t, of(t, c.Nodes()[0].Options(), replica.PreferExact, d.with(nil)))
	if err != nil || b.Parts[0].Shard.Attempts != 2 || b.Parts[0].Shard.ReplicationOffset == 0 {
		t.Errorf("%+v, %v: want the second attempt", b, err)
	}
}

// More shards than are begun at a time, one of them empty: each is begun when its turn comes.
func TestParallel(t *testing.T) {
	t.Parallel()
	c := testserver.StartCluster(t, "valkey-9.1", 5, 0)
	c.Generate(t, 200, 1)
	nodes := c.Primaries()
	empty := nodes[3].Client(t)
	if err := empty.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	want := c.Contents(t)
	same := unharmed(t, nodes)
	var mu sync.Mutex
	now, most := map[string]bool{}, 0
	d := &driver{}
	d.begun = func(addr string) {
		mu.Lock()
		defer mu.Unlock()
		now[addr] = true
		most = max(most, len(now))
	}
	d.ended = func(addr string) {
		mu.Lock()
		defer mu.Unlock()
		delete(now, addr)
	}
	h := newHouse(t)
	b, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Parallel: 2,
		Snapshotter: of(t, nodes[0].Options(), replica.PreferReplica, d.with(func(c *cluster.Config) { c.Parallel = 2 }))})
	if err != nil {
		t.Fatal(err)
	}
	if most != 2 || len(b.Parts) != 5 || int(b.Keys) != len(want) || b.Parts[3].Keys != 0 || len(b.Parts[3].Shard.Slots) == 0 {
		t.Errorf("%d at a time, want 2; %d parts with %d keys, want 5 with %d", most, len(b.Parts), b.Keys, len(want))
	}
	same()
	one := testserver.Start(t, "valkey-9.1")
	h.restore(t, b, one.Options())
	checkContents(t, "one server", want, testserver.Snapshot(t, one.Client(t)), 0)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	c := testserver.StartClusterTLS(t, "redis-8.0", 2, 1, "--requirepass", canary)
	c.Generate(t, 100, 1)
	h := newHouse(t)
	b, err := h.run(t, of(t, c.Nodes()[0].Options(), replica.PreferReplica, nil))
	if err != nil {
		t.Fatal(err)
	}
	one := testserver.Start(t, "redis-8.0")
	h.restore(t, b, one.Options())
	checkContents(t, "one server", c.Contents(t), testserver.Snapshot(t, one.Client(t)), 0)
	for i, p := range b.Parts {
		if want := c.Replicas(c.Primaries()[i])[0].Addr; p.Shard.Address != want {
			t.Errorf("part %d is from %s, want the replica %s", i, p.Shard.Address, want)
		}
	}

	// Its replica dies in the middle: the shard begins again at its primary.
	second := c.Replicas(c.Primaries()[1])[0]
	if err := second.Client(t).ConfigSet(t.Context(), "rdb-key-save-delay", "50000").Err(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	d := &driver{read: func(addr string, at int64) {
		if addr == c.Primaries()[1].Addr && at > 0 {
			once.Do(second.Kill)
		}
	}}
	b, err = h.run(t, of(t, c.Nodes()[0].Options(), replica.PreferReplica, d.with(nil)))
	if err != nil {
		t.Fatal(err)
	}
	if sh := b.Parts[1].Shard; sh.Attempts != 2 || sh.Address != c.Primaries()[1].Addr || b.Source.Role != "" {
		t.Errorf("%+v of %+v, want the second attempt at %s", sh, b.Source, c.Primaries()[1].Addr)
	}
}

// Whoever waits for the cluster, for a shard's new primary, or for the last look at the slots, is let go within a second by a cancelled context and by Close, and nothing is left.
func TestCancel(t *testing.T) {
	c := testserver.StartCluster(t, "valkey-8.1", 2, 0)
	c.Generate(t, 100, 1)
	nodes := c.Primaries()
	before := runtime.NumGoroutine()
	within := func(what string, begin time.Time) {
		t.Helper()
		if took := time.Since(begin); took > 5*time.Second { // a busy machine's second
			t.Errorf("%s took %v", what, took)
		}
	}
	// While slots are waited for.
	c.BeginMove(t, 5, nodes[1])
	ctx, cancel := context.WithCancel(t.Context())
	var begin time.Time
	_, err := of(t, nodes[0].Options(), replica.PreferExact, func(c *cluster.Config) {
		c.SlotWait = time.Hour
		c.Logger = slog.New(onLog{c.Logger.Handler(), "waits until the cluster is settled", func() {
			begin = time.Now()
			time.AfterFunc(50*time.Millisecond, cancel) // of the 300 that are between two looks
		}})
	}).Snapshot(ctx)
	refused(t, "cancelled while slots are waited for", err, context.Canceled, "wait for slots")
	within("Snapshot", begin)
	cancel()
	c.FinishMove(t, 5)

	// While a primary is waited for, that doesn't come.
	long := func(c *cluster.Config) { c.FailoverWait = time.Hour }
	lose := func() (backup.Snapshot, backup.Part) {
		t.Helper()
		sn, err := of(t, nodes[0].Options(), replica.PreferExact, long).Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sn.Close() })
		p := sn.Parts()[1]
		r, err := sn.Open(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		nodes[1].Kill()
		_, err = io.Copy(io.Discard, r)
		r.Close()
		if !errors.Is(err, backup.ErrAgain) {
			t.Fatalf("the part of a node that was killed: %v", err)
		}
		return sn, p
	}
	if err := nodes[1].Client(t).ConfigSet(t.Context(), "rdb-key-save-delay", "100000").Err(); err != nil {
		t.Fatal(err)
	}
	sn, p := lose()
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	begin = time.Now()
	_, err = sn.Open(ctx, p)
	refused(t, "cancelled while a primary is waited for", err, context.DeadlineExceeded, "wait for a primary")
	within("Open", begin)
	cancel()
	time.AfterFunc(300*time.Millisecond, func() { sn.Close() })
	begin = time.Now()
	if _, err = sn.Open(t.Context(), p); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed while a primary is waited for: %v", err)
	}
	within("Open and Close", begin)

	// While the last part is whole, and whether slots have moved isn't known, for a node doesn't answer.
	nodes[1].Restart(t)
	c.WaitUp(t)
	for what, let := range map[string]func(cancel func(), sn backup.Snapshot){
		"cancelled": func(cancel func(), _ backup.Snapshot) { cancel() },
		"closed":    func(_ func(), sn backup.Snapshot) { sn.Close() },
	} {
		d := &driver{tell: func(_ int, src *catalog.Source) { src.Fuzzy = true }}
		sn, err := of(t, nodes[0].Options(), replica.PreferExact, d.with(func(c *cluster.Config) { c.SlotWait = time.Hour })).Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sn.Close() })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i, p := range sn.Parts() {
			last := i == len(sn.Parts())-1
			d.ended = func(string) {
				if last {
					nodes[1].Kill()
					time.AfterFunc(700*time.Millisecond, func() { let(cancel, sn) }) // while it looks, or between two looks
				}
			}
			r, err := sn.Open(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			read := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, r)
				read <- err
			}()
			select {
			case err = <-read:
			case <-time.After(30 * time.Second):
				t.Fatalf("%s while whether slots have moved is found out: the part is still read", what)
			}
			r.Close()
			want := map[string]error{"cancelled": context.Canceled, "closed": net.ErrClosed}[what]
			switch {
			case !last && err != nil:
				t.Fatal(err)
			case last:
				refused(t, what+" while whether slots have moved is found out", err, want, "look for slots that moved")
			}
		}
		sn.Close()
		nodes[1].Restart(t)
		c.WaitUp(t)
	}
	testserver.Eventually(t, 10*time.Second, "no goroutine is left", func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d instead of %d", n, before)
		}
		return nil
	})
	testserver.Eventually(t, 10*time.Second, "no replica is left", func() error {
		info, err := nodes[0].Client(t).InfoMap(t.Context(), "replication").Result()
		if n := info["Replication"]["connected_slaves"]; err == nil && n != "0" {
			err = errors.New(n)
		}
		return err
	})
}
