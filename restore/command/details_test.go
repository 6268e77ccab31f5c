package command

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// What servers know of when and how often a key was used comes along, where the target keeps it.
func TestIdleTimesAndFrequencies(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			for _, policy := range []string{"allkeys-lru", "allkeys-lfu"} {
				src := streamOf(t, rdb.Dialect{Family: rdb.Redis, Version: 10}, func(w *rdb.Writer) error {
					for i := range 100 {
						e := &rdb.Entry{Kind: rdb.KindKey, Key: fmt.Append(nil, "key:", i), Type: rdb.TypeString, Idle: -1, Freq: -1}
						if policy == "allkeys-lru" {
							e.Idle = int64(i) * 1000
						} else {
							e.Freq = i
						}
						if err := errors.Join(w.WriteEntry(e, rdb.Shape{Len: 1}), w.WriteElement(&rdb.Element{Kind: rdb.ElementBytes, Value: []byte("v")})); err != nil {
							return err
						}
					}
					return nil
				})
				s := testserver.Start(t, version, "--maxmemory-policy", policy)
				c := s.Client(t)
				if _, err := loader(t, s.Options(), nil).Load(t.Context(), src, nil); err != nil {
					t.Fatal(err)
				}
				for i := range 100 {
					name := fmt.Sprint("key:", i)
					if policy == "allkeys-lru" {
						idle, err := c.ObjectIdleTime(t.Context(), name).Result()
						if off := idle - time.Duration(i)*1000*time.Second; err != nil || off < -2*time.Second || off > 20*time.Second {
							t.Errorf("%s is idle for %v, %v", name, idle, err)
						}
					} else if freq, err := c.ObjectFreq(t.Context(), name).Result(); err != nil || freq != int64(i) {
						t.Errorf("%s has the frequency %d, %v", name, freq, err)
					}
				}
			}
		})
	}
}

// Keys whose time comes while they are being restored are no difference, and none stays for ever.
func TestKeysExpireMeanwhile(t *testing.T) {
	for _, version := range []string{"redis-7.0", "valkey-9.1"} {
		for _, user := range []string{"default", "plain"} {
			t.Run(version+"/"+user, func(t *testing.T) {
				now := time.Now()
				src := streamOf(t, rdb.Dialect{Family: rdb.Redis, Version: 10}, func(w *rdb.Writer) error {
					for i := range 3000 {
						// From half a second ago to half a second from now, and some later.
						at := now.Add(time.Duration(i-1000) * time.Millisecond / 2)
						if i >= 2000 {
							at = now.Add(time.Hour)
						}
						e := &rdb.Entry{Kind: rdb.KindKey, Key: fmt.Append(nil, "key:", i), Type: rdb.TypeList, Idle: -1, Freq: -1, HasExpiry: true, ExpireAt: at.UnixMilli()}
						if err := errors.Join(w.WriteEntry(e, rdb.Shape{Len: 1}), w.WriteElement(&rdb.Element{Kind: rdb.ElementItem, Value: []byte("v")})); err != nil {
							return err
						}
					}
					return nil
				})
				s := testserver.Start(t, version)
				c := s.Client(t)
				opts := s.Options()
				if user == "plain" {
					s.AddUser(t, user, "CANARY-7", "~*", "&*", "+@all", "-restore")
					opts.Username, opts.Password = user, "CANARY-7"
				}
				rep, err := loader(t, opts, nil).Load(t.Context(), src, nil)
				if err != nil {
					t.Fatal(err)
				}
				if rep.Keys != 3000 || !rep.Proof.Counted {
					t.Errorf("%d keys are reported, counted: %v", rep.Keys, rep.Proof.Counted)
				}
				testserver.Eventually(t, 10*time.Second, "what had to expire has, and nothing else", func() error {
					keys, err := c.Keys(t.Context(), "*").Result()
					if err != nil || len(keys) != 1000 {
						return fmt.Errorf("%d keys, %v", len(keys), err)
					}
					return nil
				})
			})
		}
	}
}

// TLS, a password and a cluster whose nodes speak nothing else.
func TestClusterByTLS(t *testing.T) {
	t.Parallel()
	img := sampleOfCluster(t, "redis-8.0", 1, 300)
	cluster := testserver.StartClusterTLS(t, "redis-8.0", 2, 0, "--requirepass", "CANARY-tls")
	opts := cluster.Nodes()[1].Options()
	opts.Password = "CANARY-tls"
	rep, err := loader(t, opts, nil).Load(t.Context(), img, nil)
	if err != nil {
		t.Fatal(err)
	}
	compareButLost(t, cluster.Contents(t), img, rep, "by TLS")
	opts.Password = "CANARY-wrong"
	l := loader(t, opts, nil)
	if level, detail := point(check(t, l, img, nil), "reachable"); level != restore.Fail {
		t.Errorf("the check says %s: %s", level, detail)
	}
}

// Several parts are restored one after the other; a part that is missing ends the restore, with the truth about the target.
func TestPartIsMissing(t *testing.T) {
	t.Parallel()
	img := sampleOfCluster(t, "valkey-9.1", 3, 300)
	s := testserver.Start(t, "valkey-9.1")
	c := s.Client(t)
	img.data[2] = img.data[2][:20]
	_, err := loader(t, s.Options(), nil).Load(t.Context(), img, nil)
	var partial *restore.PartialError
	if !errors.As(err, &partial) || !errors.Is(err, io.ErrUnexpectedEOF) || partial.State != restore.TargetPartial {
		t.Fatalf("the error is %v", err)
	}
	if got := data(testserver.Snapshot(t, c)); int64(len(got)) != partial.Keys {
		t.Errorf("the error says %d keys, there are %d", partial.Keys, len(got))
	}
}

// What Check was told of the memory that the data takes counts when it is loaded, and an estimate that may be too high is a warning.
func TestMemoryIsEstimated(t *testing.T) {
	img := sampleOf(t, "redis-8.0", 100)
	s := testserver.Start(t, "redis-8.0", "--maxmemory", "100mb")
	l := loader(t, s.Options(), nil)
	for _, c := range []struct {
		memory int64
		want   restore.Level
	}{{50 << 20, restore.Pass}, {105 << 20, restore.Warn}, {200 << 20, restore.Fail}} {
		v, err := l.Check(t.Context(), restore.Requirements{Backup: img.backup, Memory: c.memory, Final: true})
		if err != nil {
			t.Fatal(err)
		}
		if level, detail := point(v, "memory"); level != c.want {
			t.Errorf("%d bytes: the check says %s: %s", c.memory, level, detail)
		}
		_, err = l.Load(t.Context(), img, replace)
		if failed := map[restore.Level]error{restore.Pass: nil, restore.Warn: restore.ErrNotAccepted, restore.Fail: restore.ErrRefused}[c.want]; !errors.Is(err, failed) {
			t.Errorf("%d bytes: loading gives %v", c.memory, err)
		}
	}
}

// A key that goes by RESTORE takes no memory of its own.
func TestKeysTakeNoAllocation(t *testing.T) {
	const keys = 50_000
	img := func() *image {
		src := testserver.Start(t, "redis-7.0")
		defer src.Close()
		if err := src.Client(t).Do(t.Context(), "DEBUG", "POPULATE", fmt.Sprint(keys), "key", "100").Err(); err != nil {
			t.Fatal(err)
		}
		return take(t, src)
	}()
	s := testserver.Start(t, "redis-7.0")
	l := loader(t, s.Options(), func(c *Config) { c.Connections, c.Logger = 1, nil })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := l.Load(t.Context(), img, nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > keys/4 {
		t.Errorf("%d keys took %d allocations", keys, n)
	} else {
		t.Logf("%d keys took %d allocations", keys, n)
	}
}
