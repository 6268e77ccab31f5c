package feed

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// forDragonfly converts an image to what Dragonfly is fed.
func forDragonfly(t *testing.T, img *image) *image {
	t.Helper()
	var out bytes.Buffer
	w, err := rdb.NewWriter(&out, dragonfly, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rdb.Convert(w, rdb.NewReader(bytes.NewReader(img.data), nil), &rdb.ConvertOptions{Policy: rdb.DropDetail, NoIndexes: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	made := imageOf(t, out.Bytes())
	made.backup.Parts[0].Dialect = dragonfly.String() // its head alone is that of an old Redis
	return made
}

func (f *fakeDragonfly) loader(t *testing.T, change func(*Config)) *Loader {
	t.Helper()
	cfg := Config{Options: f.options(), Listen: "127.0.0.1:0", Contact: 30 * time.Second, Grace: 30 * time.Second, Logger: logger(t)}
	if change != nil {
		change(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// left checks what a Dragonfly is after a restore, however that ended. It would have tried to connect again by now.
func (f *fakeDragonfly) left(t *testing.T, syncs int) {
	t.Helper()
	time.Sleep(5 * f.retry)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.role != "master" || f.masterauth != "former" || f.masteruser != "" {
		t.Errorf("it is left as a %s with masterauth %q and masteruser %q", f.role, f.masterauth, f.masteruser)
	}
	if f.syncs != syncs {
		t.Errorf("its data was replaced %d times, want %d", f.syncs, syncs)
	}
}

func fakeFormer(change func(f *fakeDragonfly)) func(f *fakeDragonfly) {
	return func(f *fakeDragonfly) {
		f.masterauth = "former"
		if change != nil {
			change(f)
		}
	}
}

func TestDragonfly(t *testing.T) {
	img := forDragonfly(t, sample(t, "redis-7.0", 400))
	for name, noConfig := range map[string]bool{"password": false, "address": true} {
		t.Run(name, func(t *testing.T) {
			f := startFakeDragonfly(t, fakeFormer(func(f *fakeDragonfly) { f.noConfig = noConfig }))
			if noConfig {
				f.masterauth = "" // so that what it sends is what was recorded, to the last byte
			}
			f.keys[3] = 7
			l := f.loader(t, nil)
			if _, err := l.Load(t.Context(), img, nil); !errors.Is(err, restore.ErrNotEmpty) {
				t.Fatalf("with data in it: %v", err)
			}
			report, err := l.Load(t.Context(), img, replace)
			if err != nil {
				t.Fatal(err)
			}
			if report.Keys != img.backup.Keys || report.Dialect != "dragonfly:9" || !report.Proof.Counted || report.Bytes != int64(len(img.data)) {
				t.Errorf("the report is %+v", report)
			}
			if !maps.Equal(f.keys, wanted(img.backup)) {
				t.Errorf("it has the keys %v, want %v", f.keys, wanted(img.backup))
			}
			if noConfig {
				f.masterauth = "former"
			}
			f.left(t, 1)
			if f.attempts != 0 {
				t.Error("the link was closed before it was told to stop replicating")
			}
		})
	}
}

// A backup of each product, in whatever dialect, becomes what a Dragonfly loads; what it can't hold has to be accepted.
func TestDragonflyGetsEveryBackup(t *testing.T) {
	t.Parallel()
	sources := map[string]*image{}
	for _, version := range testserver.All() {
		sources[version] = sample(t, version, 100)
	}
	for _, name := range []string{"dragonfly-1.40/chunked-0000", "dragonfly-1.40/lz4-0000"} {
		data, err := os.ReadFile("../../rdb/testdata/" + name + ".dfs")
		if err != nil {
			t.Fatal(err)
		}
		// Files that Dragonfly writes are padded.
		r := rdb.NewReader(bytes.NewReader(data), nil)
		for _, err := range r.Entries() {
			if err != nil {
				t.Fatal(err)
			}
		}
		sources[name] = imageOf(t, data[:r.Stats().Bytes])
	}
	for name, img := range sources {
		t.Run(name, func(t *testing.T) {
			r, id := kept(t, img)
			f := startFakeDragonfly(t, fakeFormer(nil))
			loss := map[bool]string{true: "function", false: "search-index"}[img.backup.Functions > 0]
			_, err := r.Restore(t.Context(), id, f.loader(t, nil), nil)
			if !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), loss) {
				t.Fatalf("the error is %v, which should tell of %s", err, loss)
			}
			f.left(t, 0)
			// Its values are what only a real one can be asked for.
			report, err := r.Restore(t.Context(), id, f.loader(t, nil), &restore.Options{Accept: []string{"all"}, Compare: restore.CompareNone})
			if err != nil {
				t.Fatal(err)
			}
			if report.Dialect != "dragonfly:9" || report.Functions != 0 || report.Keys == 0 || report.Keys < f.keys.Total() {
				t.Errorf("it has %v, and the report is %+v", f.keys, report)
			}
			f.left(t, 1)
		})
	}
}

// Whatever ends the transfer, it is told to stop, and gets no second one, which would take its data away again and again.
func TestDragonflyBreaksOff(t *testing.T) {
	t.Parallel()
	img := forDragonfly(t, sample(t, "redis-7.0", 400))
	size := int64(len(img.data))
	late, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, c := range map[string]struct {
		change func(f *fakeDragonfly)
		src    restore.Source
		ctx    context.Context
		opts   *restore.Options
		want   restore.TargetState
		is     error
		text   string
	}{
		"source breaks off": {src: broken{img, len(img.data) / 2, errStore}, want: restore.TargetEmpty, is: errStore},
		"link breaks":       {change: func(f *fakeDragonfly) { f.cut = size / 2 }, want: restore.TargetPartial, text: "broke the connection"},
		"link breaks early": {change: func(f *fakeDragonfly) { f.cut = 10 }, want: restore.TargetEmpty, text: "broke the connection"},
		"never done":        {change: func(f *fakeDragonfly) { f.hangs = true }, want: restore.TargetPartial, text: "took and sent nothing"},
		"keys get lost":     {change: func(f *fakeDragonfly) { f.lose = 2 }, want: restore.TargetPartial, text: "manifest"},
		"cancelled": {ctx: late, want: restore.TargetEmpty, is: context.Canceled, opts: &restore.Options{Conflict: restore.Replace, Progress: func(p restore.Progress) {
			if p.Stage == restore.StageLoad {
				cancel()
			}
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFakeDragonfly(t, fakeFormer(c.change))
			f.keys[0] = 5
			if c.ctx == nil {
				c.ctx, c.opts = t.Context(), replace
			}
			if c.src == nil {
				c.src = img
			}
			_, err := f.loader(t, func(cfg *Config) {
				if f.hangs {
					cfg.Stall = time.Second // which is the time that any answer has, too
				}
			}).Load(c.ctx, c.src, c.opts)
			var partial *restore.PartialError
			if !errors.As(err, &partial) {
				t.Fatalf("the error is %v", err)
			}
			f.mu.Lock()
			syncs := f.syncs
			now := f.keys.Total()
			f.mu.Unlock()
			want := c.want
			switch {
			case name == "cancelled" && syncs == 0:
				want = restore.TargetUnchanged
			case name == "cancelled" || name == "source breaks off": // it depends on how much of it arrived
				want = map[bool]restore.TargetState{true: restore.TargetEmpty, false: restore.TargetPartial}[now == 0]
			}
			if partial.State != want || partial.Keys != now || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("the error is %v; it should say %s with %d keys, and %q", err, want, now, c.text)
			}
			if syncs > 1 {
				t.Errorf("its data was replaced %d times", syncs)
			}
			f.left(t, syncs)
		})
	}
}

// It has loaded all, and its word of that gets lost with the connection.
func TestDragonflyAcknowledgementLost(t *testing.T) {
	img := forDragonfly(t, sample(t, "redis-7.0", 60))
	f := startFakeDragonfly(t, fakeFormer(func(f *fakeDragonfly) { f.deaf = true }))
	if _, err := f.loader(t, nil).Load(t.Context(), img, nil); err != nil {
		t.Fatal(err)
	}
	f.left(t, 1)
}

// It connects before it answers REPLICAOF.
func TestDragonflyFindsNoWayBack(t *testing.T) {
	img := forDragonfly(t, sample(t, "redis-7.0", 60))
	f := startFakeDragonfly(t, fakeFormer(nil))
	closed, err := testserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.loader(t, func(c *Config) { c.Advertise = closed }).Load(t.Context(), img, nil)
	partialError(t, err, restore.TargetUnchanged)
	if !strings.Contains(err.Error(), "Config.Advertise") || !strings.Contains(err.Error(), "could not connect") {
		t.Errorf("the error doesn't tell what to do: %v", err)
	}
	f.left(t, 0)
}

// Another server at the target's address that says to listen on its port, and is no Dragonfly, gets nothing.
func TestImpostorOfDragonfly(t *testing.T) {
	img := forDragonfly(t, sample(t, "redis-7.0", 60))
	f := startFakeDragonfly(t, fakeFormer(func(f *fakeDragonfly) { f.noConfig = true }))
	f.script[3] = []byte("REPLCONF version 8.0.2\r\n")
	f.masterauth = ""
	for contact := 300 * time.Millisecond; ; contact *= 4 { // how long it takes to come is for the machine to say
		_, err := f.loader(t, func(c *Config) { c.Contact = contact }).Load(t.Context(), img, nil)
		partialError(t, err, restore.TargetUnchanged)
		if strings.Contains(err.Error(), "turned away") {
			break
		}
		if contact > 10*time.Second {
			t.Fatalf("the error is %v", err)
		}
	}
	f.masterauth = "former"
	f.left(t, 0)
}

// Dragonfly leaves out what has expired when it gets there. That is no loss, and anything more is.
func TestDragonflyLeavesOutTheExpired(t *testing.T) {
	t.Parallel()
	s := testserver.Start(t, "redis-8.0")
	c := s.Client(t)
	for _, args := range [][]any{
		{"DEBUG", "SET-ACTIVE-EXPIRE", "0"}, // what has expired when it is saved is in the backup all the same
		{"SET", "stays", "1"}, {"SET", "goes", "1", "PX", "1500"}, {"HSET", "stays too", "a", "1", "b", "2"}, {"HPEXPIRE", "stays too", "1500", "FIELDS", "1", "a"},
		{"HSET", "goes too", "a", "1", "b", "2"}, {"HPEXPIRE", "goes too", "500", "FIELDS", "2", "a", "b"},
	} {
		if err := c.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	img := forDragonfly(t, take(t, s))
	if img.backup.Keys != 4 {
		t.Fatalf("the backup has %d keys", img.backup.Keys)
	}
	time.Sleep(2600 * time.Millisecond) // Dragonfly counts whole seconds of fields, rounded up
	f := startFakeDragonfly(t, fakeFormer(nil))
	report, err := f.loader(t, nil).Load(t.Context(), img, nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Keys != 4 || f.keys.Total() != 2 || !slices.ContainsFunc(report.Warnings, func(w string) bool { return strings.HasPrefix(w, "2 keys had expired") }) {
		t.Errorf("it has %v, and the report says %+v", f.keys, report)
	}
	f = startFakeDragonfly(t, fakeFormer(func(f *fakeDragonfly) { f.lose = 1 }))
	_, err = f.loader(t, nil).Load(t.Context(), img, nil)
	partialError(t, err, restore.TargetPartial)
}

// What a Dragonfly doesn't survive is not fed.
func TestDragonflyIsSpared(t *testing.T) {
	img := sample(t, "redis-7.0", 20)
	f := startFakeDragonfly(t, fakeFormer(nil))
	l := f.loader(t, nil)
	clean := forDragonfly(t, img)
	indexed := &image{backup: clean.backup, data: slices.Concat([]byte("REDIS0009\xfa\x0csearch-index\x05idx x"), clean.data[9:])}
	for name, src := range map[string]*image{
		"another dialect": img,
		"functions":       altered(clean, func(b *catalog.Backup) { b.Functions = 1 }),
		"a module":        altered(clean, func(b *catalog.Backup) { b.Modules = []catalog.Module{{Name: "vectorset", Keys: 1}} }),
		"two parts":       altered(clean, func(b *catalog.Backup) { b.Parts = append(b.Parts, b.Parts[0]) }),
		"a database":      altered(clean, func(b *catalog.Backup) { b.DBs = append(b.DBs[:0:0], catalog.DB{Index: 16, Keys: 1}) }),
		"a search index":  indexed,
	} {
		_, err := l.Load(t.Context(), src, nil)
		var partial *restore.PartialError
		if !errors.Is(err, restore.ErrRefused) || errors.As(err, &partial) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.left(t, 0)
}

// Before the conversion it is said what will be left out, and nothing of that is a failure.
func TestVerdictOfDragonfly(t *testing.T) {
	backup := &catalog.Backup{
		Parts: []catalog.Part{{Name: "a", Dialect: "redis:12"}, {Name: "b", Dialect: "redis:12"}}, Functions: 2, Modules: []catalog.Module{{Name: "vectorset", Keys: 1}},
		DBs: []catalog.DB{{Index: 2, Keys: 1, Types: map[string]int64{"cuckoo": 1}}},
	}
	for version, want := range map[string]map[string]restore.Level{
		"df-v1.40.0": {"rdb-version": restore.Pass, "functions": restore.Pass, "modules": restore.Pass, "types": "", "latency": restore.Pass},
		"df-v1.41.0": {"rdb-version": restore.Warn, "types": ""},
		"df-v1.30.1": {"rdb-version": restore.Pass, "types": restore.Fail},
		"df-v1.20.0": {"rdb-version": restore.Fail},
	} {
		f := startFakeDragonfly(t, fakeFormer(func(f *fakeDragonfly) { f.version = version }))
		v, err := f.loader(t, nil).Check(t.Context(), restore.Requirements{Backup: backup})
		if err != nil {
			t.Fatal(err)
		}
		for name, level := range want {
			if p := verdictPoint(v, name); p.Level != level {
				t.Errorf("%s: the point %s is %+v, want %q", version, name, p, level)
			}
		}
		if v.Dialect != dragonfly || !v.OneStream || !v.NoIndexes || !slices.Equal(v.Modules, []string{"ReJSON-RL"}) {
			t.Errorf("%s: the verdict is %+v", version, v)
		}
		f.left(t, 0)
	}
}
