package feed

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore/loadertest"
	"github.com/redis/go-redis/v9"
)

// The contract of restore.Loader, on every server, with both ways of replacing data.
func TestContract(t *testing.T) {
	for _, version := range testserver.All() {
		img := sample(t, version, 300)
		large := *img.backup
		large.Source.UsedMemory = 256 << 20
		suite := func(b *catalog.Backup, settings ...string) func(t *testing.T) {
			return func(t *testing.T) {
				t.Parallel()
				loadertest.Run(t, func(t *testing.T) loadertest.Target {
					s := testserver.Start(t, version)
					c := s.Client(t)
					set(t, c, settings...)
					return loadertest.Target{
						Loader: loader(t, s, nil),
						Fill: func(t *testing.T) {
							if err := c.FlushAll(t.Context()).Err(); err != nil {
								t.Fatal(err)
							}
							fill(t, c)
						},
						Contents: func(t *testing.T) map[string]string {
							if err := c.Set(t.Context(), "probe", "1", 0).Err(); err != nil {
								t.Fatalf("the target is not writable: %v", err)
							}
							if err := c.Del(t.Context(), "probe").Err(); err != nil {
								t.Fatal(err)
							}
							return testserver.Snapshot(t, c)
						},
					}
				}, &image{backup: b, data: img.data}, &loadertest.Options{Contents: img.contents})
			}
		}
		t.Run(version+"/memory", suite(img.backup))
		if version != "redis-8.0" && version != "valkey-8.1" {
			continue // those are enough for the second way
		}
		// It seems to be too small for its own data and the backup's at once, so that it has to load from its disk.
		t.Run(version+"/spool", suite(&large, "maxmemory", itoa(large.Source.UsedMemory)))
	}
}

func TestNew(t *testing.T) {
	opts := &redis.Options{Addr: "127.0.0.1:6379"}
	for name, cfg := range map[string]Config{
		"no options":     {},
		"listen":         {Options: opts, Listen: "here"},
		"no certificate": {Options: opts, TLS: &tls.Config{}},
		"contact":        {Options: opts, Contact: -1},
		"stall":          {Options: opts, Stall: -1},
		"grace":          {Options: opts, Grace: -1},
	} {
		if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), "feed: Config.") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	if _, err := New(Config{Options: opts}); err != nil {
		t.Error(err)
	}
}
