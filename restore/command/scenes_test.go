package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// points returns the level and detail of a verdict's point, the worst if there are several of the name.
func point(v restore.Verdict, name string) (level restore.Level, detail string) {
	for _, p := range v.Points {
		if p.Name == name && (level == "" || p.Level == restore.Fail) {
			level, detail = p.Level, p.Detail
		}
	}
	return level, detail
}

func check(t *testing.T, l *Loader, img *image, opts *restore.Options) restore.Verdict {
	t.Helper()
	v, err := l.Check(t.Context(), restore.Requirements{Backup: img.backup, Options: opts})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A user who may not use one of the commands is told by the check which rule is missing; without RESTORE plain commands do.
func TestRights(t *testing.T) {
	img := sampleOf(t, "redis-7.0", 200)
	for _, version := range []string{"redis-7.0", "valkey-9.1"} {
		for _, c := range []struct {
			rules    []string
			conflict restore.Conflict
			want     string // in what fails; "" if it works
		}{
			{[]string{"-set"}, "", "+set"},
			{[]string{"-del"}, "", "+del"},
			{[]string{"-get"}, "", "+get"},
			{[]string{"-flushall"}, restore.Replace, "+flushall"},
			{[]string{"-flushall"}, "", ""},
			{[]string{"-multi"}, restore.Replace, "+multi"},
			{[]string{"-function|flush"}, restore.Replace, "+function|flush"},
			{[]string{"-function|load"}, "", "+function|load"},
			{[]string{"-exists"}, restore.MergeFail, "+exists"},
			{[]string{"-restore"}, "", ""},
			{[]string{"-restore", "-renamenx"}, "", "+renamenx"},
			{[]string{"-restore", "-pexpireat"}, "", "+pexpireat"},
			{[]string{"-info"}, "", "+info"},
			{[]string{"-config", "-command", "-time", "-acl"}, "", ""},
			{[]string{"resetkeys", "~orders:*"}, "", "~amber:*"},
		} {
			t.Run(version+"/"+strings.Join(c.rules, " ")+string(c.conflict), func(t *testing.T) {
				s := testserver.Start(t, version)
				admin := s.Client(t)
				if c.conflict != "" {
					testserver.LoadFunction(t, admin, "old")
				}
				s.AddUser(t, "restorer", "CANARY-7", append([]string{"~*", "&*", "+@all"}, c.rules...)...)
				opts := s.Options()
				opts.Username, opts.Password = "restorer", "CANARY-7"
				l := loader(t, opts, nil)
				options := &restore.Options{Conflict: c.conflict}
				v := check(t, l, img, options)
				rep, err := l.Load(t.Context(), img, options)
				if c.want == "" {
					if v.Failed() || err != nil {
						t.Fatalf("%v, %v", v.Err(nil), err)
					}
					sameButLost(t, admin, img, rep, version)
					return
				}
				var partial *restore.PartialError
				if why := v.Err(options); !errors.Is(why, restore.ErrRefused) || !strings.Contains(why.Error(), c.want) {
					t.Errorf("the check says %v: it has to tell of %s", why, c.want)
				}
				if err == nil || errors.As(err, &partial) || strings.Contains(err.Error(), "CANARY") {
					t.Errorf("the error of loading is %v", err)
				}
				if got := testserver.Snapshot(t, admin); len(got) > 0 {
					t.Errorf("the target was touched: %v", slices.Collect(maps.Keys(got)))
				}
			})
		}
	}
}

// Where RESTORE may not be used all values are made by plain commands, on every server, in many databases.
func TestWithoutRestore(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			img := sampleOf(t, version, 300)
			delete(img.contents, "nothing")
			s := testserver.Start(t, version)
			s.AddUser(t, "restorer", "CANARY-7", "~*", "&*", "+@all", "-restore")
			opts := s.Options()
			opts.Username, opts.Password = "restorer", "CANARY-7"
			l := loader(t, opts, nil)
			want := img
			v := check(t, l, img, nil)
			if len(img.backup.Modules) > 0 {
				// They can't be made by commands: the verdict takes none, so that they are left out on the way, if that is accepted.
				if _, detail := point(v, "modules"); len(v.Modules) > 0 || !strings.Contains(detail, "only be left out") {
					t.Errorf("the check takes %q and says %v", v.Modules, v.Points)
				}
				return
			}
			rep, err := l.Load(t.Context(), img, nil)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Keys != img.backup.Keys || rep.Converted != rep.Keys {
				t.Errorf("%d keys are reported, %d by commands, of %d", rep.Keys, rep.Converted, img.backup.Keys)
			}
			sameButLost(t, s.Client(t), want, rep, version)
		})
	}
}

// A replica is refused, and its primary is named.
func TestReplicaIsRefused(t *testing.T) {
	img := sampleOf(t, "valkey-8.1", 60)
	s := testserver.Start(t, "valkey-8.1")
	replica := testserver.StartReplica(t, "valkey-8.1", s)
	l := loader(t, replica.Options(), nil)
	v := check(t, l, img, nil)
	if level, detail := point(v, "role"); level != restore.Fail || !strings.Contains(detail, s.Addr) {
		t.Errorf("the check says %s: %s", level, detail)
	}
	if _, err := l.Load(t.Context(), img, nil); !errors.Is(err, restore.ErrRefused) {
		t.Errorf("the error is %v", err)
	}
}

// A target that is too small is refused; one that becomes too small is told apart by its policy. With
// CAMPAIGN=1 every version has every policy.
func TestTooLittleMemory(t *testing.T) {
	for i, version := range []string{"redis-7.0", "redis-8.0", "valkey-9.1"} {
		img := bulky(t, version)
		for j, policy := range []string{"noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"} {
			if (i+j)%3 != 0 && j > 0 && !campaign() {
				continue
			}
			t.Run(version+"/"+policy, func(t *testing.T) {
				s := testserver.Start(t, version, "--maxmemory-policy", policy, "--maxmemory", "8mb")
				c := s.Client(t)
				l := loader(t, s.Options(), nil)
				if level, detail := point(check(t, l, img, nil), "memory"); level != restore.Fail || !strings.Contains(detail, policy) {
					t.Errorf("the check says %s: %s", level, detail)
				}
				if err := c.ConfigSet(t.Context(), "maxmemory", "1gb").Err(); err != nil {
					t.Fatal(err)
				}
				var once sync.Once
				_, err := l.Load(t.Context(), img, &restore.Options{Progress: func(restore.Progress) {
					once.Do(func() { c.ConfigSet(t.Context(), "maxmemory", "8mb") })
				}})
				var partial *restore.PartialError
				if !errors.As(err, &partial) || partial.State != restore.TargetPartial {
					t.Fatalf("the error is %v", err)
				}
				evicts := strings.HasPrefix(policy, "allkeys")
				if text := err.Error(); !evicts && (!strings.Contains(text, "maxmemory 8388608") || !strings.Contains(text, policy)) || evicts && !strings.Contains(text, "evict") {
					t.Errorf("the error doesn't tell why: %v", err)
				}
				if got := data(testserver.Snapshot(t, c)); !evicts && partial.Keys != int64(len(got)) {
					t.Errorf("the error says %d keys, there are %d", partial.Keys, len(got))
				}
			})
		}
	}
}

// While a restore merges, a client writes keys of the same names and others. What the policy says holds for each key.
func TestMergeBesideWriter(t *testing.T) {
	const keys = 20000
	for _, version := range []string{"redis-7.0", "valkey-9.1"} {
		src := testserver.Start(t, version)
		if err := src.Client(t).Do(t.Context(), "DEBUG", "POPULATE", fmt.Sprint(keys), "key", "100").Err(); err != nil {
			t.Fatal(err)
		}
		img := take(t, src)
		src.Close()
		for _, conflict := range []restore.Conflict{restore.MergeSkip, restore.MergeOverwrite, restore.MergeFail} {
			t.Run(version+"/"+string(conflict), func(t *testing.T) {
				s := testserver.Start(t, version)
				c := s.Client(t)
				for i := range 50 {
					c.Set(t.Context(), fmt.Sprint("own:", i), "before", 0)
					if conflict != restore.MergeFail {
						c.Set(t.Context(), fmt.Sprint("key:", i), "before", 0)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				var writer sync.WaitGroup
				wrote := map[string]bool{}
				begun := make(chan struct{})
				writer.Go(func() {
					r := rand.New(rand.NewPCG(1, 1))
					<-begun
					for n := 0; ctx.Err() == nil; n++ {
						name := fmt.Sprint("key:", 100+r.IntN(keys-100))
						if err := c.Set(context.WithoutCancel(ctx), name, "writer", 0).Err(); err == nil {
							wrote[name] = true
						}
					}
				})
				l := loader(t, slow(s.Options()), nil)
				var once sync.Once
				rep, err := l.Load(t.Context(), img, &restore.Options{Conflict: conflict, Progress: func(p restore.Progress) {
					if p.Bytes > 0 || p.Keys > 0 {
						once.Do(func() { close(begun) })
					}
				}})
				once.Do(func() { close(begun) })
				cancel()
				writer.Wait()
				got := testserver.Snapshot(t, c)
				if left := reserved(got); len(left) > 0 && err == nil {
					t.Errorf("the target has %v", left)
				}
				for i := range 50 {
					if v := got[fmt.Sprint("0/own:", i)]; v != "string\n\"before\"" {
						t.Fatalf("own:%d is %q", i, v)
					}
				}
				var partial *restore.PartialError
				switch conflict {
				case restore.MergeFail:
					if err == nil && rep.Keys != keys || err != nil && !errors.As(err, &partial) {
						t.Fatalf("%v, %+v", err, rep)
					}
					t.Logf("%d keys were written beside; %v", len(wrote), err)
					return
				case restore.MergeSkip:
					if err != nil {
						t.Fatal(err)
					}
					for name := range wrote {
						if v := got["0/"+name]; v != "string\n\"writer\"" {
							t.Errorf("%s, which the client wrote last, is %q", name, v)
						}
					}
					if rep.Keys+rep.Skipped != keys || rep.Skipped < 50 {
						t.Errorf("%d keys and %d skipped, of %d", rep.Keys, rep.Skipped, keys)
					}
				case restore.MergeOverwrite:
					if err != nil || rep.Keys != keys {
						t.Fatalf("%v, %+v", err, rep)
					}
				}
				for i := range 50 {
					want := img.contents[fmt.Sprint("0/key:", i)]
					if conflict == restore.MergeSkip {
						want = "string\n\"before\""
					}
					if v := got[fmt.Sprint("0/key:", i)]; v != want {
						t.Fatalf("key:%d is %q instead of %q", i, v, want)
					}
				}
				t.Logf("%d keys were written beside, %d skipped", len(wrote), rep.Skipped)
			})
		}
	}
}

// Cancelled at any point, a restore ends soon and says the truth about the target; the next one carries on, and in the end the target
// holds the backup and nothing else.
func TestCancelAndCarryOn(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-8.1"} {
		t.Run(version, func(t *testing.T) {
			img := sampleOf(t, version, 300)
			s := testserver.Start(t, version)
			c := s.Client(t)
			before := runtime.NumGoroutine()
			for i := range 7 {
				if err := errors.Join(c.FlushAll(t.Context()).Err(), c.FunctionFlush(t.Context()).Err()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var since atomic.Pointer[time.Time]
				time.AfterFunc(time.Duration(i)*9*time.Millisecond, func() {
					now := time.Now()
					since.Store(&now)
					cancel()
				})
				l := loader(t, slow(s.Options()), func(c *Config) { c.MaxValue, c.Logger = 2000, nil })
				rep, err := l.Load(ctx, img, nil)
				if err == nil {
					cancel()
					sameButLost(t, c, img, rep, "not cancelled")
					continue
				}
				if took := time.Since(*since.Load()); took > 3*time.Second {
					t.Errorf("it took %v to end", took)
				}
				got := testserver.Snapshot(t, c)
				var partial *restore.PartialError
				switch {
				case !errors.Is(err, context.Canceled):
					t.Errorf("the error is %v", err)
				case !errors.As(err, &partial):
					if len(got) > 0 {
						t.Errorf("the error is %v, and the target has %d keys", err, len(got))
					}
				case partial.Keys != int64(len(data(got))), partial.State == restore.TargetEmpty && len(got) > 0:
					t.Errorf("the error is %v, and the target has %d keys and %v", err, len(data(got)), reserved(got))
				}
				for _, name := range reserved(got) {
					if !strings.HasSuffix(name, markKey) {
						t.Errorf("%s is left", name)
					}
				}
				rep, err = l.Load(t.Context(), img, nil)
				if err != nil {
					t.Fatalf("carrying on: %v", err)
				}
				sameButLost(t, c, img, rep, "carried on")
			}
			testserver.Eventually(t, 20*time.Second, "all goroutines have ended", func() error {
				if n := runtime.NumGoroutine(); n > before+2 {
					buf := make([]byte, 1<<16)
					return fmt.Errorf("%d instead of %d:\n%s", n, before, buf[:runtime.Stack(buf, true)])
				}
				return nil
			})
		})
	}
}

// A merge that was cancelled carries on: what it has written already is its own.
func TestCarryOnMerging(t *testing.T) {
	img := sampleOf(t, "redis-7.0", 300)
	s := testserver.Start(t, "redis-7.0")
	c := s.Client(t)
	for _, conflict := range []restore.Conflict{restore.MergeFail, restore.MergeSkip, restore.MergeOverwrite} {
		t.Run(string(conflict), func(t *testing.T) {
			cancelled := 0
			for i := 0; i < 5 || cancelled < 2 && i < 40; i++ { // how far each comes is for the machine to say
				if err := errors.Join(c.FlushAll(t.Context()).Err(), c.FunctionFlush(t.Context()).Err(), c.Set(t.Context(), "own:1", "before", 0).Err()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				timer := time.AfterFunc(time.Duration(i)*8*time.Millisecond, cancel)
				l := loader(t, slow(s.Options()), func(c *Config) { c.MaxValue, c.Logger = 2000, nil })
				opts := &restore.Options{Conflict: conflict}
				rep, err := l.Load(ctx, img, opts)
				timer.Stop()
				cancel()
				if err != nil {
					n, _ := c.Exists(t.Context(), markKey).Result()
					cancelled += int(n)
					if rep, err = l.Load(t.Context(), img, opts); err != nil {
						t.Fatalf("carrying on: %v", err)
					}
				}
				got := testserver.Snapshot(t, c)
				if got["0/own:1"] != "string\n\"before\"" {
					t.Errorf("own:1 is %q", got["0/own:1"])
				}
				delete(got, "0/own:1")
				if n := img.backup.Keys; rep.Keys+rep.Skipped != n || conflict != restore.MergeSkip && rep.Skipped > 0 {
					t.Errorf("%d keys and %d skipped are reported, of %d", rep.Keys, rep.Skipped, n)
				}
				rep.Losses = []restore.LossReport{{Name: string(lossStreamPending), Count: lostPending(img.contents, got)}} // of both runs
				compareButLost(t, got, img, rep, string(conflict))
			}
			if cancelled < 2 {
				t.Errorf("only %d were cancelled in the middle", cancelled)
			}
		})
	}
}

// lostPending counts the streams that differ.
func lostPending(want, got map[string]string) (n int64) {
	want, got = comparable(want), comparable(got)
	for key, value := range want {
		if strings.HasPrefix(value, "stream") && got[key] != value {
			n++
		}
	}
	return n
}
