package scan_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/redis/go-redis/v9"
)

// during calls f over and over in a goroutine until the test, or the returned function, ends it. An error of f ends it, too, and fails the test unless it is the context's.
func during(t *testing.T, f func(ctx context.Context, round int) error) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for round := 0; ctx.Err() == nil; round++ {
			if err := f(ctx, round); err != nil && ctx.Err() == nil {
				t.Errorf("writing meanwhile: %v", err)
				return
			}
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// keys reads the keys of a stream, and fails the test if it is no whole one.
func keys(t *testing.T, data []byte, f func(e *rdb.Entry, value string)) {
	t.Helper()
	r := rdb.NewReader(read(data), nil)
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		entry := *e
		value := ""
		if e.Type == rdb.TypeString {
			elements, err := r.Value(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			value = string(elements[0].Value)
		}
		f(&entry, value)
	}
}

// A key that is either A and expires, or B and doesn't, is never a mixture.
func TestNoMixedPairs(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		srv.AddUser(t, "dumper", canary, append(slices.Clone(rights), "+pttl", "+time")...) // may not MGET
		const expiry, count = 4_000_000_000_000, 200
		// A server goes on with its other clients after each 16 KiB of our commands: with names of this length those are of a few keys.
		long := strings.Repeat("n", 2000) + ":"
		c := srv.Client(t)
		for i := range count {
			if err := c.Set(t.Context(), long+strconv.Itoa(i), "B", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			writer := srv.Client(t)
			during(t, func(ctx context.Context, round int) error {
				p := writer.Pipeline()
				for i := range count {
					if (i+round)%2 == 0 {
						p.Do(ctx, "SET", long+strconv.Itoa(i), "A", "PXAT", expiry)
					} else {
						p.Do(ctx, "SET", long+strconv.Itoa(i), "B")
					}
				}
				_, err := p.Exec(ctx)
				return err
			})
		}
		for _, tuning := range []scan.Tuning{{}, {Old: true}, {Strings: true}, {Old: true, Strings: true}} {
			s := of(t, srv, func(c *scan.Config) {
				if !tuning.Strings {
					as("dumper")(c)
				}
			})
			scan.SetTuning(s, tuning)
			as, bs := 0, 0
			for round := 0; round < 10 || as == 0 || bs == 0; round++ {
				if round == 200 {
					t.Fatalf("after %d rounds, %d keys were A and %d B", round, as, bs)
				}
				data, _ := take(t, s)
				n := 0
				keys(t, data, func(e *rdb.Entry, value string) {
					n++
					switch {
					case value == "A" && e.HasExpiry && max(e.ExpireAt-expiry, expiry-e.ExpireAt) < 100:
						as++
					case value == "B" && !e.HasExpiry:
						bs++
					default:
						t.Fatalf("%s is %q and expires: %v (%d)", e.Key[len(long):], value, e.HasExpiry, e.ExpireAt)
					}
				})
				if n != count {
					t.Errorf("there are %d keys", n)
				}
			}
		}
	})
}

// Every key that exists all the time is in the snapshot once, while the server's table grows and shrinks, and keys come and go.
func TestRehashing(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		c := srv.Client(t)
		const stay = 3000
		if err := c.Do(t.Context(), "DEBUG", "POPULATE", stay, "stay", 8).Err(); err != nil {
			t.Fatal(err)
		}
		writer := srv.Client(t)
		stop := during(t, func(ctx context.Context, round int) error {
			// Up to four times as many keys, and away with them.
			for _, command := range []string{"SET", "DEL"} {
				for from := 0; from < 3*stay && ctx.Err() == nil; from += 500 {
					p := writer.Pipeline()
					for i := from; i < from+500; i++ {
						if command == "SET" {
							p.Do(ctx, "SET", "go:"+strconv.Itoa(i), "x")
						} else {
							p.Do(ctx, "DEL", "go:"+strconv.Itoa(i))
						}
					}
					if _, err := p.Exec(ctx); err != nil {
						return err
					}
				}
			}
			return nil
		})
		for round := range 2 {
			s := of(t, srv, func(c *scan.Config) { c.Batch = 20 })
			if round == 1 {
				scan.SetTuning(s, scan.Tuning{Filter: 12}) // most names are put off
			}
			data, src := take(t, s)
			stats, _ := parse(t, read(data)) // no key is there twice
			there := 0
			keys(t, data, func(e *rdb.Entry, _ string) {
				if strings.HasPrefix(string(e.Key), "stay:") {
					there++
				}
			})
			if there != stay {
				t.Errorf("of %d keys that stay, %d are there", stay, there)
			}
			if src.Scan.Listed != stats.Keys+src.Scan.Gone || src.Scan.Expired != 0 || src.Scan.Moved != 0 || src.Scan.Changed != 0 {
				t.Errorf("%d keys, counts %+v", stats.Keys, src.Scan)
			}
		}
		stop()
	})
}

// Keys that go between listing and reading are counted, and those that may have expired.
func TestGone(t *testing.T) {
	srv := testserver.Start(t, "redis-7.0")
	c := srv.Client(t)
	const count = 1000
	for name, expire := range map[string]bool{"deleted": false, "expired": true} {
		for i := range count {
			if err := c.Set(t.Context(), name+strconv.Itoa(i), "x", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		s := of(t, srv, func(c *scan.Config) { c.KeysPerSecond = 2000 })
		sn, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := sn.Open(t.Context(), sn.Parts()[0])
		if err != nil {
			t.Fatal(err)
		}
		// The names are listed at once, and their keys read in half a second.
		testserver.Eventually(t, 10*time.Second, "the names are listed", func() error {
			list, err := c.ClientList(t.Context()).Result()
			if err == nil && !strings.Contains(list, "cmd=exec") {
				err = errors.New(list)
			}
			return err
		})
		p := c.Pipeline()
		for i := range count {
			if expire {
				p.PExpire(t.Context(), name+strconv.Itoa(i), time.Millisecond)
			} else {
				p.Del(t.Context(), name+strconv.Itoa(i))
			}
		}
		if _, err := p.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		stats, _ := parse(t, read(data))
		counts := sn.Source().Scan
		sn.Close()
		if counts.Listed != count || counts.Gone == 0 || stats.Keys+counts.Gone != count || expire != (counts.Expired == counts.Gone) || !expire && counts.Expired != 0 {
			t.Errorf("%s: %d keys, counts %+v", name, stats.Keys, counts)
		}
		if err := c.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// All databases, binary names, and values that come in pieces.
func TestDatabasesAndLargeValues(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--rdbcompression", "no")
		for db := range 16 {
			opts := srv.Options()
			opts.DB = db
			c := redis.NewClient(opts)
			sizes := []int{1, 60_000}
			if db == 3 || db == 15 {
				sizes = []int{65_000, 65_524, 65_536, 250_000, 262_144, 300_000, 1 << 20}
			}
			for i, size := range sizes {
				if err := c.Set(t.Context(), fmt.Sprintf("\x00\r\n%d:%d\xff", db, i), strings.Repeat(string(rune('a'+db)), size+db), 0).Err(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Set(t.Context(), strings.Repeat("n", 70_000+db), "long name", 0).Err(); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		for _, tuning := range []scan.Tuning{{}, {Filter: 9}} {
			s := of(t, srv, func(c *scan.Config) { c.Batch = 3 })
			scan.SetTuning(s, tuning)
			data, src := take(t, s)
			same(t, version, srv, data, 0)
			if src.Scan.Listed != 14*3+2*8 {
				t.Errorf("counts %+v", src.Scan)
			}
		}
	})
}
