package feed

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// The target dies while it loads from its disk, where the backup is its dump.rdb by then, and comes back with that.
func TestTargetKilledWhileLoadingFromDisk(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 200)
			s := testserver.Start(t, version, "--loading-process-events-interval-bytes", "1024")
			c := s.Client(t)
			fill(t, c)
			before := state(t, c)
			img = spool(t, c, img)
			set(t, c, "key-load-delay", "20000")
			done := false
			l := loader(t, s, func(c *Config) { c.Grace = 30 * time.Second })
			_, err := l.Load(t.Context(), img, &restore.Options{Conflict: restore.Replace, Progress: func(p restore.Progress) {
				if p.Stage == restore.StageLoad && p.Bytes > p.Total/2 && !done { // the second half is loading
					done = true
					s.Restart(t)
				}
			}})
			partialError(t, err, restore.TargetLoaded)
			sameState(t, before, state(t, s.Client(t)))
			holds(t, s, img)
		})
	}
}

// whenSent calls f once, when the load has begun and some of the stream was sent.
func whenSent(f func()) *restore.Options {
	done := false
	return &restore.Options{Conflict: restore.Replace, Progress: func(p restore.Progress) {
		if p.Stage == restore.StageLoad && p.Bytes > 0 && !done {
			done = true
			f()
		}
	}}
}

// The target dies while it loads.
func TestTargetKilled(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 300)
			s := testserver.Start(t, version, "--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
			c := s.Client(t)
			fill(t, c)
			if err := c.Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			contents := testserver.Snapshot(t, c)

			l := loader(t, s, func(c *Config) { c.Grace = 300 * time.Millisecond })
			_, err := l.Load(t.Context(), img, whenSent(s.Kill))
			partial := partialError(t, err, restore.TargetUnknown)
			if partial.Keys != -1 || !strings.Contains(err.Error(), "REPLICAOF NO ONE") || !strings.Contains(err.Error(), setPassword) {
				t.Errorf("the error doesn't tell what to do: %v", err)
			}

			// It comes back while we try to reach it, with its old data: what arrived was not on its disk.
			s.Restart(t)
			before := state(t, s.Client(t))
			l = loader(t, s, func(c *Config) { c.Grace = 30 * time.Second })
			_, err = l.Load(t.Context(), img, whenSent(func() { s.Restart(t) }))
			partialError(t, err, restore.TargetUnchanged)
			sameState(t, before, state(t, s.Client(t)))
			if diff := testserver.Diff(contents, testserver.Snapshot(t, s.Client(t))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Cancelling while the target parses ends that soon and leaves it with what it had. It parses what it has in its socket's
// buffer before it sees that there is no more.
func TestCancelWhileLoading(t *testing.T) {
	for _, version := range testserver.All() {
		img := bulky(t, version)
		for _, filled := range []bool{false, true} {
			name, want := "/empty", restore.TargetEmpty
			if filled {
				name, want = "/filled", restore.TargetUnchanged
			}
			t.Run(version+name, func(t *testing.T) {
				t.Parallel()
				s := testserver.Start(t, version, "--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
				c := s.Client(t)
				if filled {
					fill(t, c)
				}
				before, contents := state(t, c), testserver.Snapshot(t, c)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var at time.Time
				_, err := loader(t, s, nil).Load(ctx, img, whenSent(func() { at = time.Now(); cancel() }))
				if took := time.Since(at); took > 3*time.Second {
					t.Errorf("it took %v", took)
				}
				partialError(t, err, want)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the error is %v", err)
				}
				sameState(t, before, state(t, c))
				if diff := testserver.Diff(contents, testserver.Snapshot(t, c)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// bulky takes a backup of 8 MB, which is more than sockets buffer.
func bulky(t *testing.T, version string) *image {
	t.Helper()
	return madeOnce(version+" bulky", func() *image {
		s := testserver.Start(t, version, "--rdbcompression", "no")
		if err := s.Client(t).Do(t.Context(), "DEBUG", "POPULATE", "4000", "key", "2000").Err(); err != nil {
			t.Fatal(err)
		}
		img := take(t, s)
		s.Close()
		return img
	})
}

// A load from the target's disk can't be interrupted: that is told after Grace, and what to do.
func TestCancelWhileLoadingFromDisk(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 200)
			s := testserver.Start(t, version, "--loading-process-events-interval-bytes", "1024")
			c := s.Client(t)
			fill(t, c)
			img = spool(t, c, img)
			set(t, c, "key-load-delay", "20000")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var at time.Time
			l := loader(t, s, func(c *Config) { c.Grace = 300 * time.Millisecond })
			_, err := l.Load(ctx, img, &restore.Options{Conflict: restore.Replace, Progress: func(p restore.Progress) {
				if p.Stage == restore.StageLoad && p.Bytes > p.Total/2 { // the second half is loading
					at = time.Now()
					cancel()
				}
			}})
			if took := time.Since(at); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			partialError(t, err, restore.TargetUnknown)
			if !strings.Contains(err.Error(), "still loading") || !strings.Contains(err.Error(), "REPLICAOF NO ONE") {
				t.Errorf("the error doesn't tell what to do: %v", err)
			}
			set(t, c, "key-load-delay", "0")
			testserver.Eventually(t, 20*time.Second, "what the error says works", func() error {
				return c.ReplicaOf(t.Context(), "NO", "ONE").Err()
			})
			holds(t, s, img)

			// With more patience it is brought back, with the whole backup.
			set(t, c, "key-load-delay", "10000", setPassword, "")
			before := state(t, c)
			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
			l.cfg.Grace = 20 * time.Second
			_, err = l.Load(ctx, img, &restore.Options{Conflict: restore.Replace, Progress: func(p restore.Progress) {
				if p.Stage == restore.StageLoad && p.Bytes > p.Total/2 && ctx.Err() == nil {
					cancel()
					time.AfterFunc(300*time.Millisecond, func() { c.ConfigSet(t.Context(), "key-load-delay", "0") })
				}
			}})
			partialError(t, err, restore.TargetLoaded)
			sameState(t, before, state(t, c))
			holds(t, s, img)
		})
	}
}

// A target that waits in vain is let go when the caller cancels.
func TestCancelWhileWaiting(t *testing.T) {
	img := sample(t, "valkey-9.1", 60)
	s := testserver.Start(t, "valkey-9.1")
	c := s.Client(t)
	closed, err := testserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	before := state(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var at time.Time
	done := make(chan struct{})
	go func() {
		defer close(done)
		testserver.Eventually(t, 20*time.Second, "the target was told", func() error {
			if info(t, c)["role"] != "slave" {
				return errors.New("it wasn't")
			}
			return nil
		})
		at = time.Now()
		cancel()
	}()
	_, err = loader(t, s, func(c *Config) { c.Advertise, c.Contact = closed, time.Minute }).Load(ctx, img, nil)
	<-done
	if took := time.Since(at); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	partialError(t, err, restore.TargetEmpty)
	sameState(t, before, state(t, c))
}

// Keys that were past their time but not yet deleted when the snapshot was taken are counted, as the manifest does.
func TestExpiredInside(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			src := testserver.Start(t, version)
			c := src.Client(t)
			if err := c.Do(t.Context(), "DEBUG", "SET-ACTIVE-EXPIRE", "0").Err(); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]any{
				{"SET", "stays", "1"},
				{"SET", "gone", "1", "PX", "1"},
				{"RPUSH", "gonelist", "1", "2"},
				{"PEXPIREAT", "gonelist", "1"},
				{"HSET", "fields", "a", "1", "b", "2"},
				{"HPEXPIRE", "fields", "1", "FIELDS", "2", "a", "b"},
			} {
				if err := c.Do(t.Context(), args...).Err(); err != nil && args[0] != "HPEXPIRE" { // not in all versions
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Millisecond)
			img := take(t, src)
			if img.backup.Keys < 3 {
				t.Fatalf("the file has %d keys; it was to have expired ones", img.backup.Keys)
			}
			s := testserver.Start(t, version)
			report, err := loader(t, s, nil).Load(t.Context(), img, nil)
			if err != nil {
				t.Fatal(err)
			}
			if report.Keys != img.backup.Keys {
				t.Errorf("%d keys were counted, the file has %d", report.Keys, img.backup.Keys)
			}
			if n := s.Client(t).Exists(t.Context(), "gone").Val(); n != 0 {
				t.Error("an expired key came back to life")
			}
		})
	}
}

// A target with an append-only file has the new data after a restart.
func TestAppendOnly(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 60)
			s := testserver.Start(t, version, "--appendonly", "yes")
			fill(t, s.Client(t))
			if _, err := loader(t, s, nil).Load(t.Context(), img, replace); err != nil {
				t.Fatal(err)
			}
			testserver.Eventually(t, 20*time.Second, "the append-only file is rewritten", func() error {
				i := info(t, s.Client(t))
				if i["aof_rewrite_in_progress"] != "0" || i["aof_rewrite_scheduled"] != "0" {
					return errors.New("not yet")
				}
				return nil
			})
			s.Restart(t)
			holds(t, s, img)
		})
	}
}

// A target that saves by itself is in memory first: the report says so.
func TestSaveIsAdvised(t *testing.T) {
	img := sample(t, "redis-7.0", 60)
	s := testserver.Start(t, "redis-7.0", "--save", "3600 1")
	report, err := loader(t, s, nil).Load(t.Context(), img, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(report.Warnings, "\n"), "BGSAVE") {
		t.Errorf("the report has the warnings %q", report.Warnings)
	}
}

func TestTargetIsLoading(t *testing.T) {
	img := sample(t, "valkey-8.1", 300)
	src := testserver.Start(t, "valkey-8.1")
	testserver.Generate(t, src.Client(t), 300, 1)
	if err := src.Client(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	src.Kill()
	s := testserver.StartLoading(t, "valkey-8.1", src.Dir, "--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
	_, err := loader(t, s, nil).Load(t.Context(), img, replace)
	if !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), "loading") {
		t.Errorf("the error is %v", err)
	}
}

// What the target has loaded isn't what the manifest says: it is not called a success.
func TestCountsDiffer(t *testing.T) {
	img := sample(t, "redis-7.0", 60)
	b := *img.backup
	b.DBs = append(b.DBs[:0:0], b.DBs...)
	b.DBs[0].Keys++
	s := testserver.Start(t, "redis-7.0")
	_, err := loader(t, s, nil).Load(t.Context(), &image{backup: &b, data: img.data}, nil)
	partial := partialError(t, err, restore.TargetPartial)
	if partial.Keys != img.backup.Keys || !strings.Contains(err.Error(), "manifest") {
		t.Errorf("the error is %v", err)
	}
	if got := state(t, s.Client(t)); got["role"] != "master" || got[setPassword] != "" {
		t.Errorf("the target is left with %v", got)
	}
}
