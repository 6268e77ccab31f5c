package command

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// Slots that move while a restore writes to them are followed, also by values that go in pieces: those of one server each, with CAMPAIGN=1 of both.
func TestSlotsMove(t *testing.T) {
	for i, version := range []string{"redis-8.0", "valkey-9.1"} {
		img := sampleOfCluster(t, version, 2, 1200)
		for j, maxValue := range []int{0, 2000} {
			if (i+j)%2 != 0 && !campaign() {
				continue
			}
			t.Run(fmt.Sprint(version, "/", maxValue), func(t *testing.T) {
				t.Parallel()
				cluster := testserver.StartCluster(t, version, 3, 0)
				p := cluster.Primaries()
				// A slot is on its way from the beginning, and is there in the middle; others go at once.
				slots := map[int]bool{}
				for id := range img.contents {
					_, name, _ := strings.Cut(id, "/")
					slots[testserver.Slot(name)] = true
					if len(slots) == 40 {
						break
					}
				}
				to := func(slot int) *testserver.Server {
					for i, s := range p {
						if cluster.Owner(t, slot) == s {
							return p[(i+1)%3]
						}
					}
					return p[0]
				}
				for slot := range slots {
					cluster.BeginMove(t, slot, to(slot))
				}
				done := make(chan struct{})
				var once sync.Once
				l := loader(t, slow(p[0].Options()), func(c *Config) { c.MaxValue = maxValue })
				v := check(t, l, img, nil)
				if level, detail := point(v, "cluster"); level != restore.Pass || !strings.Contains(detail, "moved") {
					t.Errorf("the check says %s: %s", level, detail)
				}
				rep, err := l.Load(t.Context(), img, &restore.Options{Progress: func(pr restore.Progress) {
					once.Do(func() {
						go func() {
							defer close(done)
							for slot := range slots {
								cluster.FinishMove(t, slot)
							}
						}()
					})
				}})
				<-done
				if err != nil {
					t.Fatal(err)
				}
				got := cluster.Contents(t)
				if rep.Keys != img.backup.Keys || !rep.Proof.Counted {
					t.Errorf("%d keys are reported, of %d, counted: %v", rep.Keys, img.backup.Keys, rep.Proof.Counted)
				}
				compareButLost(t, got, img, rep, version)
			})
		}
	}
}

// A node that fails over in the middle of a restore is followed: its replica gets the rest.
func TestFailover(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sampleOfCluster(t, version, 2, 3000)
			cluster := testserver.StartCluster(t, version, 2, 1)
			p := cluster.Primaries()
			replica := cluster.Replicas(p[1])[0].Client(t)
			var once sync.Once
			l := loader(t, slow(p[0].Options()), nil)
			rep, err := l.Load(t.Context(), img, &restore.Options{Progress: func(pr restore.Progress) {
				if pr.Bytes > pr.Total/4 {
					once.Do(func() {
						if err := replica.ClusterFailover(t.Context()).Err(); err != nil {
							t.Error(err)
						}
					})
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			cluster.WaitUp(t) // until all nodes know who has which slots
			got := cluster.Contents(t)
			compareButLost(t, got, img, rep, version)
		})
	}
}

// One server's backup goes into a cluster, and a cluster's into one server.
func TestBetweenServersAndClusters(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			src := testserver.Start(t, version, "--databases", "1")
			c := src.Client(t)
			for i := range 300 {
				name := fmt.Sprintf("{tag%d}:%d", i%7, i)
				if err := errors.Join(c.Set(t.Context(), name, i, 0).Err(), c.RPush(t.Context(), name+"}list{", i).Err()); err != nil {
					t.Fatal(err)
				}
			}
			testserver.LoadFunction(t, c, "shop")
			img := take(t, src)
			cluster := testserver.StartCluster(t, version, 3, 0)
			rep, err := loader(t, cluster.Nodes()[2].Options(), nil).Load(t.Context(), img, nil)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Keys != 600 || rep.Functions != 1 {
				t.Errorf("%d keys and %d functions are reported", rep.Keys, rep.Functions)
			}
			compareButLost(t, cluster.Contents(t), img, rep, "into the cluster")
			for _, s := range cluster.Primaries() {
				if f := testserver.Functions(t, s.Client(t)); len(f) != 1 {
					t.Errorf("%s has the functions %v", s.Addr, f)
				}
			}
			// Again, with everything replaced.
			if _, err := loader(t, cluster.Nodes()[0].Options(), nil).Load(t.Context(), img, replace); err != nil {
				t.Fatal(err)
			}
			compareButLost(t, cluster.Contents(t), img, rep, "into the cluster again")

			// Several databases have no place.
			c.Do(t.Context(), "FLUSHALL")
			many := sampleOf(t, version, 100)
			l := loader(t, cluster.Nodes()[0].Options(), nil)
			v := check(t, l, many, replace)
			if level, detail := point(v, "databases"); level != restore.Fail || !strings.Contains(detail, "map") {
				t.Errorf("the check says %s: %s", level, detail)
			}
			if _, err := l.Load(t.Context(), many, replace); !errors.Is(err, restore.ErrRefused) {
				t.Errorf("the error is %v", err)
			}
			compareButLost(t, cluster.Contents(t), img, rep, "the cluster that was refused")

			parts := sampleOfCluster(t, version, 3, 500)
			one := testserver.Start(t, version)
			rep, err = loader(t, one.Options(), nil).Load(t.Context(), parts, nil)
			if err != nil {
				t.Fatal(err)
			}
			sameButLost(t, one.Client(t), parts, rep, "into one server")
		})
	}
}

// A cluster that doesn't serve all slots is refused.
func TestUncoveredSlots(t *testing.T) {
	t.Parallel()
	version := "valkey-9.1"
	img := sampleOfCluster(t, version, 1, 100)
	cluster := testserver.StartCluster(t, version, 2, 0)
	if err := cluster.Nodes()[1].Client(t).ClusterDelSlotsRange(t.Context(), 16000, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	l := loader(t, cluster.Nodes()[1].Options(), nil)
	if level, detail := point(check(t, l, img, nil), "cluster"); level != restore.Fail || !strings.Contains(detail, "384") {
		t.Errorf("the check says %s: %s", level, detail)
	}
	cluster.Nodes()[1].Kill()
	l = loader(t, cluster.Nodes()[0].Options(), nil)
	if level, detail := point(check(t, l, img, nil), "cluster"); level != restore.Fail || !strings.Contains(detail, cluster.Nodes()[1].Addr) {
		t.Errorf("the check says %s: %s", level, detail)
	}
}

// Since Valkey 9 a cluster may have several databases.
func TestClusterOfManyDatabases(t *testing.T) {
	t.Parallel()
	img := sampleOf(t, "valkey-9.1", 300)
	cluster := testserver.StartCluster(t, "valkey-9.1", 2, 0, "--cluster-databases", "16")
	for _, maxValue := range []int{0, 1000} {
		l := loader(t, cluster.Nodes()[0].Options(), func(c *Config) { c.MaxValue = maxValue })
		rep, err := l.Load(t.Context(), img, replace)
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.DBs) < 3 {
			t.Errorf("the report has the databases %v", rep.DBs)
		}
		compareButLost(t, cluster.Contents(t), img, rep, "many databases")
	}
}
