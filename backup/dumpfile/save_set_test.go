package dumpfile_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/storetest"
	"github.com/redis/go-redis/v9"
)

// saverOfDragon returns a snapshotter of a Dragonfly whose directory is the store.
func saverOfDragon(t *testing.T, d *dragon, change func(*dumpfile.SaveConfig)) (*dumpfile.SaveSnapshotter, *logBook) {
	t.Helper()
	book := &logBook{t: t}
	cfg := dumpfile.SaveConfig{Options: &redis.Options{Addr: d.addr, Password: canary}, Store: openDir(t, d.dir),
		Logger: slog.New(slog.NewTextHandler(book, nil)), VisibleTimeout: 200 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s, err := dumpfile.NewSave(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, book
}

// run makes a backup of what a snapshotter takes.
func run(t *testing.T, s backup.Snapshotter) (*house, *catalog.Backup, error) {
	t.Helper()
	h := newHouse(t, memory())
	b, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Kind: catalog.KindManual, Snapshotter: s})
	if err == nil {
		if _, err := h.restorer.Verify(t.Context(), b.ID, nil); err != nil {
			t.Error(err)
		}
	}
	return h, b, err
}

// Others' files are in the directory, as saves with more shards have left them, and are in the end what they were.
func othersFiles(t *testing.T, dir string) (unchanged func()) {
	t.Helper()
	names := []string{"dump-0000.dfs", "dump-0001.dfs", "dump-0002.dfs", "dump-0003.dfs", "dump-summary.dfs", "amber-save-20260822T115503Z-0123456789abcdef-0000.dfs",
		"amber-save-20260822T115503Z-0123456789abcdef-summary.dfs", "x.rdb.tmp"}
	for i, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	return func() {
		t.Helper()
		testserver.Eventually(t, 20*time.Second, "only others' files are in the directory", func() error {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Name())
			}
			if !slices.Equal(got, names) {
				return errors.New(strings.Join(got, " "))
			}
			return nil
		})
	}
}

// The set that was saved for us becomes the backup, and nothing of it is left; what others have in the directory stays.
func TestSaveSet(t *testing.T) {
	for _, format := range []string{"", "rdb"} {
		d := startDragon(t)
		unchanged := othersFiles(t, d.dir)
		s, book := saverOfDragon(t, d, func(c *dumpfile.SaveConfig) { c.Format = format })
		before := time.Now()
		_, b, err := run(t, s)
		if err != nil {
			t.Fatal(err)
		}
		unchanged()
		want, file := 3, regexp.MustCompile(`^amber-save-\d{8}T\d{6}Z-[0-9a-f]{16}-summary\.dfs$`)
		command := "BGSAVE DF amber-save-"
		if format == "rdb" {
			want, file, command = 1, regexp.MustCompile(`^amber-save-\d{8}T\d{6}Z-[0-9a-f]{16}\.rdb$`), "BGSAVE RDB amber-save-"
		}
		src := b.Source
		if b.Keys != d.keys || len(b.Parts) != want || src.Method != "save" || src.Engine != "dragonfly" || src.Version != "1.40.0" || src.Topology != "standalone" ||
			src.Role != "primary" || !file.MatchString(src.File) || src.Time.Before(before.Add(-time.Second)) || src.Time.After(time.Now()) || src.Cost.Bytes != b.RawBytes || src.Cost.Duration <= 0 {
			t.Errorf("%d keys in %d parts, source %+v", b.Keys, len(b.Parts), src)
		}
		if asked := d.asked("BGSAVE"); len(asked) != 1 || !strings.HasPrefix(asked[0], command) {
			t.Errorf("asked for %q", asked)
		}
		if book.has("may load") || book.has("more keys") {
			t.Error("a warning without a reason")
		}
	}
}

// In a bucket, too; where what is saved for us isn't cleaned up by a Dragonfly whose save fails.
func TestSaveSetInBucket(t *testing.T) {
	d := startDragon(t)
	put(t, d.cloud, "p/dump-0000.dfs", []byte("others'"))
	s, _ := saverOfDragon(t, d, func(c *dumpfile.SaveConfig) {
		c.Store, c.Prefix, c.Location = d.cloud, "p/", "s3://bucket/p"
	})
	if _, b, err := run(t, s); err != nil || b.Keys != d.keys {
		t.Errorf("%+v, %v", b, err)
	}
	if asked := d.asked("BGSAVE"); len(asked) != 1 || !strings.HasPrefix(asked[0], "BGSAVE DF s3://bucket/p amber-save-") {
		t.Errorf("asked for %q", asked)
	}
	d.set(func() { d.fail = "NoSuchUpload" })
	_, _, err := run(t, s)
	fails(t, "a save that fails", err, backup.ErrSource, "NoSuchUpload")
	testserver.Eventually(t, 20*time.Second, "what failed is removed", func() error {
		for info, err := range d.cloud.List(t.Context(), "") {
			if err != nil || info.Key != "p/dump-0000.dfs" {
				return errors.New(info.Key)
			}
		}
		return nil
	})
	if _, err := d.cloud.Stat(t.Context(), "p/dump-0000.dfs"); err != nil {
		t.Error(err)
	}
}

// Sets that aren't whole, or of several saves, are none; and nothing of them is left either.
func TestSaveSetIncomplete(t *testing.T) {
	part := func(files map[string][]byte, end string) string {
		for name := range files {
			if strings.HasSuffix(name, end) {
				return name
			}
		}
		return ""
	}
	for name, test := range map[string]struct {
		change func(files map[string][]byte)
		kind   error
		text   string
	}{
		"missing shard":   {func(f map[string][]byte) { delete(f, part(f, "-0001.dfs")) }, dfs.ErrIncomplete, "-0001.dfs"},
		"missing summary": {func(f map[string][]byte) { delete(f, part(f, "-summary.dfs")) }, dumpfile.ErrElsewhere, "Prefix"},
		"nothing there":   {func(f map[string][]byte) { clear(f) }, dumpfile.ErrElsewhere, "Prefix"},
		"another ID":      {func(f map[string][]byte) { n := part(f, "-0001.dfs"); f[n] = ofAnother(f[n]) }, dfs.ErrIncomplete, strings.Repeat("f", 32)},
		"cut":             {func(f map[string][]byte) { n := part(f, "-0001.dfs"); f[n] = f[n][:3000] }, rdb.ErrCorrupt, "ends"},
		"other shard":     {func(f map[string][]byte) { f[part(f, "-0001.dfs")] = f[part(f, "-0000.dfs")] }, dfs.ErrIncomplete, "holds shard 0"},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDragon(t)
			unchanged := othersFiles(t, d.dir)
			d.change = test.change
			s, _ := saverOfDragon(t, d, nil)
			_, _, err := run(t, s)
			fails(t, name, err, test.kind, test.text)
			unchanged()
			if n := len(d.asked("BGSAVE")); n != 1 {
				t.Errorf("%d saves were asked for", n)
			}
		})
	}
}

// A file with our name that is of another save, with more shards, isn't read, and goes with ours. What only begins like it isn't a server's, and stays.
func TestSaveSetStale(t *testing.T) {
	d := startDragon(t)
	unchanged := othersFiles(t, d.dir)
	var notes []string
	d.change = func(files map[string][]byte) {
		for name, data := range files {
			if base, ok := strings.CutSuffix(name, "-0001.dfs"); ok {
				files[base+"-0002.dfs"] = ofAnother(data)
				notes = []string{base + "-notes.dfs", base + "-summary.dfs.old", base + "0-summary.dfs", base + "-01.dfs"}
			}
		}
		for _, n := range notes {
			files[n] = []byte("somebody's")
		}
	}
	s, _ := saverOfDragon(t, d, nil)
	if _, b, err := run(t, s); err != nil || len(b.Parts) != 3 || b.Keys != d.keys {
		t.Errorf("%+v, %v", b, err)
	}
	for _, n := range notes {
		if err := os.Remove(filepath.Join(d.dir, n)); err != nil {
			t.Error(err)
		}
	}
	unchanged()
}

// Fewer keys than the server had are a loss. Expiry and clients that are at work explain some.
func TestSaveSetCounts(t *testing.T) {
	n := fixtureSize(t)
	for name, test := range map[string]struct {
		keys, expires int64
		busy          int64
		fails         bool
	}{
		"all":                {n, 0, 0, false},
		"a few more":         {n + 30, 0, 0, true},
		"that may expire":    {n + 30, 40, 0, false},
		"that were deleted":  {n + 30, 0, 40, false},
		"more than deleted":  {n + 300, 100, 50, true},
		"less than are told": {n - 30, 0, 0, false},
		"nothing is told":    {0, 0, 0, false},
	} {
		d := startDragon(t)
		d.keys, d.expires = test.keys, test.expires
		d.answers = func(line string) string {
			if strings.HasPrefix(line, "BGSAVE") {
				d.executed += test.busy
			}
			return ""
		}
		s, book := saverOfDragon(t, d, nil)
		_, _, err := run(t, s)
		if test.fails {
			fails(t, name, err, dumpfile.ErrKeysMissing, "it has ")
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if more := test.keys < n-10; more != book.has("more keys") {
			t.Errorf("%s: it says that there are more: %v", name, !more)
		}
		if left := d.files(); len(left) > 0 {
			t.Errorf("%s: left is %q", name, left)
		}
	}
}

// A save of others is waited for, whether it is seen before or when ours is refused.
func TestSaveSetWaits(t *testing.T) {
	for _, seen := range []bool{true, false} {
		d := startDragon(t)
		d.hold = make(chan struct{})
		other := redis.NewClient(&redis.Options{Addr: d.addr, Password: canary, Protocol: 2, DisableIdentity: true})
		defer other.Close()
		go other.Do(t.Context(), "BGSAVE", "DF", "others")
		d.waitBegun()
		if !seen {
			hidden := 2 // looks that don't show it
			d.set(func() {
				d.answers = func(line string) string {
					if line == "INFO" && hidden > 0 {
						hidden--
						return bulk(strings.ReplaceAll(strings.ReplaceAll(d.info(), "saving:1", "saving:0"), "in_progress:1", "in_progress:0"))
					}
					return ""
				}
			})
		}
		s, book := saverOfDragon(t, d, nil)
		result := inBackground(t.Context(), s)
		testserver.Eventually(t, 20*time.Second, "the other save is waited for", func() error {
			if !book.has("waiting for a save") {
				return errors.New("not yet")
			}
			return nil
		})
		time.Sleep(100 * time.Millisecond)
		hold := d.hold
		d.set(func() { d.hold = nil })
		close(hold)
		sn, err := result()
		if err != nil {
			t.Fatal(err)
		}
		if cost := sn.Source().Cost; cost.Waited < 50*time.Millisecond {
			t.Errorf("it waited %v", cost.Waited)
		}
		want := 1
		if !seen {
			want = 2
		}
		if asked := d.asked("BGSAVE DF amber"); len(asked) != want {
			t.Errorf("asked for %q", asked)
		}
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
		if left := d.files(); len(left) != 3 || !strings.HasPrefix(left[0], "others-") {
			t.Errorf("left is %q", left)
		}
	}
}

// An older Dragonfly, and what a save can be refused with.
func TestSaveSetOld(t *testing.T) {
	d := startDragon(t)
	d.old = true
	s, book := saverOfDragon(t, d, nil)
	if _, b, err := run(t, s); err != nil || b.Keys != d.keys {
		t.Errorf("%+v, %v", b, err)
	}
	if asked := d.asked("SAVE DF amber"); len(asked) != 1 || len(d.asked("BGSAVE")) != 0 || len(d.files()) > 0 {
		t.Errorf("asked for %q, left is %q", d.commands, d.files())
	}
	d.set(func() {
		d.answers = func(line string) string {
			if line == "INFO" {
				return bulk(d.info() + "saving:0\r\n")
			}
			return ""
		}
	})
	if _, b, err := run(t, s); err != nil || b.Keys != d.keys || !book.has("trying SAVE") {
		t.Errorf("%+v, %v", b, err)
	}
	d.set(func() { d.fail = "No space left on device" })
	_, _, err := run(t, s)
	fails(t, "disk full", err, backup.ErrSource, "No space left on device", "disk is full")
}

func TestSaveSetRefused(t *testing.T) {
	for name, test := range map[string]struct {
		command, answer string
		kind            error
		text            string
	}{
		"loading":         {"BGSAVE", "-LOADING Dragonfly is loading the dataset in memory\r\n", backup.ErrTransient, "loading"},
		"another state":   {"BGSAVE", "-ERR Operation now in progress: LOADING - can not save database\r\n", backup.ErrTransient, "try again"},
		"unknown format":  {"BGSAVE", "-ERR unknown subcommand or wrong number of arguments for 'SAVE'. Try SAVE HELP.\r\n", backup.ErrUnsupported, "too old"},
		"no rights":       {"BGSAVE", "-NOPERM this user has no permissions to run the 'bgsave' command\r\n", backup.ErrPermission, "+bgsave"},
		"no credentials":  {"BGSAVE", "-ERR Permission denied: Couldn't open file for writing\r\n", nil, "may not write"},
		"wrong password":  {"AUTH", "-WRONGPASS invalid " + canary + "\r\n", backup.ErrAuth, "password"},
		"INFO is loading": {"INFO", bulk("dragonfly_version:df-v1.40.0\r\nloading:1\r\n"), backup.ErrTransient, "loading"},
		"no INFO":         {"INFO", "-NOPERM no\r\n", backup.ErrPermission, "+info"},
		"out of sync":     {"INFO", bulk("dragonfly_version:df-v1.40.0\r\nrole:slave\r\nmaster_link_status:down\r\n"), backup.ErrTransient, "in sync"},
		"cut at INFO":     {"INFO", "cut", io.ErrUnexpectedEOF, "restarted"},
		"cut at BGSAVE":   {"BGSAVE", "cut", io.ErrUnexpectedEOF, "restarted"},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDragon(t)
			d.answers = func(line string) string {
				if strings.HasPrefix(line, test.command) {
					return test.answer
				}
				return ""
			}
			s, _ := saverOfDragon(t, d, nil)
			_, err := s.Snapshot(t.Context())
			fails(t, name, err, test.kind, test.text)
			// A refusal that is one has begun nothing, and leaves nothing to clean.
			if err := s.Close(); test.kind != nil && test.answer != "cut" && err != nil {
				t.Errorf("Close: %v", err)
			}
			if n := len(d.asked("BGSAVE")); n > 1 || n == 0 && test.command == "BGSAVE" {
				t.Errorf("%d saves were asked for", n)
			}
		})
	}
	d := startDragon(t)
	s, _ := saverOfDragon(t, d, func(c *dumpfile.SaveConfig) { c.Name = "dump.rdb" })
	_, err := s.Snapshot(t.Context())
	fails(t, "a name", err, backup.ErrUnsupported, "SaveConfig.Name")
}

// While the server saves it is restarted, fails over or fails; or our connection is cut, which doesn't matter.
func TestSaveSetMeanwhile(t *testing.T) {
	cutOnce := func(d *dragon) func(string) string {
		cut := 2
		return func(line string) string {
			if cut > 0 && line == "INFO" {
				cut--
				return "cut"
			}
			return ""
		}
	}
	for name, test := range map[string]struct {
		happens func(d *dragon)
		kind    error
		text    string
	}{
		"restart":  {func(d *dragon) { d.runID = "2" }, backup.ErrTransient, "restarted"},
		"failover": {func(d *dragon) { d.role = "slave" }, backup.ErrTransient, "was a master and is a slave"},
		"failure":  {func(d *dragon) { d.fail = "No space left on device" }, nil, "No space left on device"},
		"cut":      {func(d *dragon) { d.answers = cutOnce(d) }, nil, ""},
		"cut for good": {func(d *dragon) {
			d.answers = func(line string) string { return "cut" }
		}, io.ErrUnexpectedEOF, "restarted"},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDragon(t)
			unchanged := othersFiles(t, d.dir)
			d.hold = make(chan struct{})
			if name == "failure" {
				test.happens(d)
			}
			s, _ := saverOfDragon(t, d, nil)
			result := inBackground(t.Context(), s)
			d.waitBegun()
			d.set(func() { test.happens(d) })
			if name == "failure" || name == "cut" {
				close(d.hold)
			}
			sn, err := result()
			if test.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				sn.Close()
			} else {
				fails(t, name, err, test.kind, test.text)
			}
			d.set(func() {
				d.answers = nil
				if name != "failure" && name != "cut" {
					close(d.hold)
				}
			})
			if name != "cut for good" { // then it was taken to be down, and may have written its files after that
				unchanged()
			}
		})
	}
}

// A snapshot that is cancelled at any time leaves nothing, as soon as the server is done.
func TestSaveSetCancelled(t *testing.T) {
	d := startDragon(t)
	unchanged := othersFiles(t, d.dir)
	d.hold = make(chan struct{})
	s, _ := saverOfDragon(t, d, nil)
	ctx, cancel := context.WithCancel(t.Context())
	result := inBackground(ctx, s)
	d.waitBegun()
	start := time.Now()
	cancel()
	_, err := result()
	fails(t, "cancelled while it saves", err, context.Canceled)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	close(d.hold)
	d.set(func() { d.hold = nil })
	unchanged()

	// At every answer.
	for n := 1; n < 12; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		answers := 0
		d.set(func() {
			d.answers = func(string) string {
				if answers++; answers == n {
					cancel()
				}
				return ""
			}
		})
		sn, err := s.Snapshot(ctx)
		if err == nil {
			sn.Close() // which may say that files are left
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("at answer %d: %v", n, err)
		}
		cancel()
	}
	unchanged()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	// Nothing of ours is still at work.
	testserver.Eventually(t, 10*time.Second, "no goroutine is left", func() error {
		stacks := make([]byte, 1<<20)
		if all := string(stacks[:runtime.Stack(stacks, true)]); strings.Contains(all, "dumpfile.(*") {
			return errors.New(all)
		}
		return nil
	})
}

// Close doesn't wait for the server, and names what it will leave.
func TestSaveClose(t *testing.T) {
	d := startDragon(t)
	d.hold = make(chan struct{})
	s, _ := saverOfDragon(t, d, nil)
	ctx, cancel := context.WithCancel(t.Context())
	result := inBackground(ctx, s)
	d.waitBegun()
	cancel()
	result()
	start := time.Now()
	err := s.Close()
	if name := strings.Fields(d.asked("BGSAVE")[0])[2]; err == nil || !strings.Contains(err.Error(), name) || time.Since(start) > 3*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

// Files that can't be removed are told of, by Close, and again.
func TestSaveSetNotRemoved(t *testing.T) {
	d := startDragon(t)
	faulty := storetest.NewFaulty(openDir(t, d.dir), storetest.Fault{Op: storetest.OpDelete, Call: 1, Mode: storetest.Before})
	s, _ := saverOfDragon(t, d, func(c *dumpfile.SaveConfig) { c.Store = faulty })
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := sn.Close(); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("Close: %v", err)
		}
	}
	if left := d.files(); len(left) != 1 {
		t.Errorf("the others were not tried: %q", left)
	}
	var _ storage.Store = faulty
}

func TestSaveSetConformance(t *testing.T) {
	d, waiting, large := startDragon(t), startDragon(t), startDragon(t)
	large.change = func(files map[string][]byte) {
		for name, data := range files {
			files[name] = append(data, make([]byte, 100_000)...) // behind the end, where a Dragonfly leaves anything
		}
	}
	waiting.hold = make(chan struct{})
	by := func(d *dragon, change func(*dumpfile.SaveConfig)) func(t *testing.T) backup.Snapshotter {
		return func(t *testing.T) backup.Snapshotter {
			s, _ := saverOfDragon(t, d, change)
			return s
		}
	}
	snapshottest.Run(t, by(d, nil), &snapshottest.Options{
		Secret: canary,
		Released: func(t *testing.T) {
			testserver.Eventually(t, 10*time.Second, "nothing is left", func() error {
				if left := append(d.files(), large.files()...); len(left) > 0 {
					return errors.New(strings.Join(left, " "))
				}
				return nil
			})
		},
		Stalled: by(large, func(c *dumpfile.SaveConfig) { c.Store = &stalled{Store: c.Store, after: 50_000} }),
		Waiting: by(waiting, nil),
		Failing: map[string]func(t *testing.T) backup.Snapshotter{
			"wrong password": by(d, func(c *dumpfile.SaveConfig) {
				c.Options = &redis.Options{Addr: d.addr, Password: "not " + canary}
			}),
		},
	})
}
