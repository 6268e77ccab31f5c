package command

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore/loadertest"
	"github.com/redis/go-redis/v9"
)

// The contract of restore.Loader, on every server.
func TestContract(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sampleOf(t, version, 300)
			loadertest.Run(t, func(t *testing.T) loadertest.Target {
				s := testserver.Start(t, version)
				c := s.Client(t)
				return loadertest.Target{
					Loader: loader(t, s.Options(), nil),
					Fill: func(t *testing.T) {
						if err := c.FlushAll(t.Context()).Err(); err != nil {
							t.Fatal(err)
						}
						fillOwn(t, c)
					},
					Contents: func(t *testing.T) map[string]string {
						if err := c.Set(t.Context(), "probe", "1", 0).Err(); err != nil {
							t.Fatalf("the target is not writable: %v", err)
						}
						if err := c.Del(t.Context(), "probe").Err(); err != nil {
							t.Fatal(err)
						}
						return data(testserver.Snapshot(t, c))
					},
				}
			}, img, &loadertest.Options{Contents: img.contents})
		})
	}
}

// The same on clusters.
func TestContractOfCluster(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sampleOfCluster(t, version, 2, 300)
			cluster := testserver.StartCluster(t, version, 3, 0)
			flush := func(t *testing.T) {
				for _, s := range cluster.Primaries() {
					if err := s.Client(t).FlushAll(t.Context()).Err(); err != nil {
						t.Fatal(err)
					}
				}
			}
			loadertest.Run(t, func(t *testing.T) loadertest.Target {
				flush(t)
				return loadertest.Target{
					Loader: loader(t, cluster.Nodes()[1].Options(), nil),
					Fill: func(t *testing.T) {
						flush(t)
						fillOwn(t, cluster.Client(t))
					},
					Contents: func(t *testing.T) map[string]string { return data(cluster.Contents(t)) },
				}
			}, img, &loadertest.Options{Contents: img.contents})
		})
	}
}

// fillOwn puts keys into a target that no backup has.
func fillOwn(t *testing.T, c redis.Cmdable) {
	t.Helper()
	for i := range 20 {
		name := fmt.Sprint("own:", i)
		if err := errors.Join(c.Set(t.Context(), name+":string", i, 0).Err(), c.RPush(t.Context(), name+":list", i, "a").Err(),
			c.HSet(t.Context(), name+":hash", "field", i).Err()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNew(t *testing.T) {
	opts := &redis.Options{Addr: "127.0.0.1:6379"}
	for name, cfg := range map[string]Config{
		"no options":  {},
		"connections": {Options: opts, Connections: 17},
		"value":       {Options: opts, MaxValue: 1 << 30},
		"stall":       {Options: opts, Stall: -1},
		"grace":       {Options: opts, Grace: -1},
	} {
		if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), "command: Config.") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	if _, err := New(Config{Options: opts}); err != nil {
		t.Error(err)
	}
}
