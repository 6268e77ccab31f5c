package dumpfile_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
	"github.com/amberkv/amber/storage/storetest"
)

func TestContract(t *testing.T) {
	big := rdbOf(bytes.Repeat([]byte("0123456789"), 1<<17), false)
	waiting := func(t *testing.T) backup.Snapshotter {
		s := memory()
		put(t, s, "dump.rdb", big)
		return newSnapshotter(t, storetest.NewFaulty(s, storetest.Fault{Op: storetest.OpStat, Mode: storetest.Hang}), "dump.rdb", false)
	}
	check := func(t *testing.T, _ backup.Part, r io.Reader) {
		if _, err := catalog.Inspect(r, nil); err != nil {
			t.Error(err)
		}
	}
	t.Run("File", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) backup.Snapshotter {
			s := openDir(t, t.TempDir())
			put(t, s, "data/dump.rdb", read(t, testdata+"redis-8.0.2/streams.rdb"))
			return newSnapshotter(t, s, "data/dump.rdb", false)
		}, &snapshottest.Options{Check: check, Waiting: waiting,
			Stalled: func(t *testing.T) backup.Snapshotter {
				s := memory()
				put(t, s, "dump.rdb", big)
				return newSnapshotter(t, &stalled{Store: s, after: 1 << 20}, "dump.rdb", false)
			},
			Failing: map[string]func(t *testing.T) backup.Snapshotter{
				"NotThere": func(t *testing.T) backup.Snapshotter { return newSnapshotter(t, memory(), "dump.rdb", false) },
			}})
	})
	t.Run("Set", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) backup.Snapshotter {
			s := memory()
			putSet(t, s, setName)
			return newSnapshotter(t, s, setName+"-summary.dfs", true)
		}, &snapshottest.Options{Check: check, Failing: map[string]func(t *testing.T) backup.Snapshotter{
			"ShardMissing": func(t *testing.T) backup.Snapshotter {
				s := memory()
				putSet(t, s, setName)
				if err := s.Delete(t.Context(), setName+"-0000.dfs"); err != nil {
					t.Fatal(err)
				}
				return newSnapshotter(t, s, setName+"-summary.dfs", false)
			},
		}})
	})
}

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		cfg  dumpfile.Config
		want string
	}{
		{dumpfile.Config{Name: "dump.rdb"}, "Store"},
		{dumpfile.Config{Store: memory()}, "Name"},
		{dumpfile.Config{Store: memory(), Name: "../dump.rdb"}, "Name"},
		{dumpfile.Config{Store: memory(), Name: "dump.rdb.tmp"}, "not finished"},
		{dumpfile.Config{Store: memory(), Name: "a/dump-0003.dfs"}, "a/dump-summary.dfs"},
		{dumpfile.Config{Store: memory(), Name: "dump.dfs"}, "dump-summary.dfs"},
	} {
		if _, err := dumpfile.New(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.cfg, err, test.want)
		}
	}
}

// Every fixture that a server wrote becomes a backup, with what it says of itself; adopted and copied.
func TestFixtures(t *testing.T) {
	names := slices.Concat(glob(t, testdata+"redis-*/*.rdb"), glob(t, testdata+"valkey-*/*.rdb"), glob(t, testdata+"dragonfly-*/*.rdb"))
	for _, name := range names {
		for _, adopt := range []bool{false, true} {
			h := newHouse(t, memory())
			key := "dumps/" + filepath.Base(name)
			put(t, h.Store, key, read(t, name))
			b, err := h.keep(t, newSnapshotter(t, h.Store, key, adopt))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if b.Source.Method != "dumpfile" || b.Source.File != key || b.Source.Time.IsZero() || b.Parts[0].Adopted != adopt || b.Kind != catalog.KindImport {
				t.Errorf("%s: %+v %+v", name, b.Source, b.Parts)
			}
			if engine, _, _ := strings.Cut(filepath.Base(filepath.Dir(name)), "-"); b.Source.Engine != "" && b.Source.Engine != engine {
				t.Errorf("%s: it is said to be of %s", name, b.Source.Engine)
			}
		}
	}
}

func TestSet(t *testing.T) {
	for _, adopt := range []bool{false, true} {
		h := newHouse(t, openDir(t, t.TempDir()))
		putSet(t, h.Store, "backups/"+setName)
		put(t, h.Store, "backups/"+setName+"-0002.dfs", shard("stale", "snapshot-id", strings.Repeat("a", 32), "shard-id", "2")) // of an earlier save
		b, err := h.keep(t, newSnapshotter(t, h.Store, "backups/"+setName+"-summary.dfs", adopt))
		if err != nil {
			t.Fatal(err)
		}
		if b.Keys != 39 || len(b.Parts) != 3 || b.Source.Engine != "dragonfly" || b.Source.Dialect != "dragonfly:9" || b.Source.Time.IsZero() {
			t.Errorf("manifest: %+v", b)
		}
		for i, p := range b.Parts {
			if p.Adopted != adopt {
				t.Errorf("part %d: %+v", i, p)
			}
		}
		if !adopt {
			continue
		}
		if err := h.runner.Delete(t.Context(), b.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := h.runner.Sweep(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		if _, err := newSnapshotter(t, h.Store, "backups/"+setName+"-summary.dfs", false).Snapshot(t.Context()); err != nil {
			t.Errorf("after its backup was deleted: %v", err)
		}
	}
}

// What isn't one whole snapshot is refused, and the error says which file is why.
func TestRefused(t *testing.T) {
	id, other := strings.Repeat("a", 32), strings.Repeat("b", 32)
	good := map[string][]byte{
		"d-summary.dfs": shard("", "snapshot-id", id, "shard-count", "2"),
		"d-0000.dfs":    shard("a", "snapshot-id", id, "shard-id", "0"),
		"d-0001.dfs":    shard("b", "snapshot-id", id, "shard-id", "1"),
	}
	for name, test := range map[string]struct {
		change map[string][]byte // nil: the file isn't there
		name   string
		want   error
		text   string
	}{
		"whole":             {nil, "d-summary.dfs", nil, ""},
		"shard missing":     {map[string][]byte{"d-0001.dfs": nil}, "d-summary.dfs", dfs.ErrIncomplete, "d-0001.dfs"},
		"all shards gone":   {map[string][]byte{"d-0000.dfs": nil, "d-0001.dfs": nil}, "d-summary.dfs", dfs.ErrIncomplete, "d-0000.dfs"},
		"foreign shard":     {map[string][]byte{"d-0001.dfs": shard("b", "snapshot-id", other, "shard-id", "1")}, "d-summary.dfs", dfs.ErrIncomplete, "d-0001.dfs is of snapshot " + other},
		"shard without ID":  {map[string][]byte{"d-0001.dfs": shard("b")}, "d-summary.dfs", dfs.ErrIncomplete, "no snapshot id"},
		"shards exchanged":  {map[string][]byte{"d-0001.dfs": good["d-0000.dfs"]}, "d-summary.dfs", dfs.ErrIncomplete, "holds shard 0"},
		"one shard more":    {map[string][]byte{"d-0002.dfs": shard("c", "snapshot-id", id, "shard-id", "2")}, "d-summary.dfs", dfs.ErrIncomplete, "only 2 shards"},
		"stale shard":       {map[string][]byte{"d-0002.dfs": shard("c", "snapshot-id", other, "shard-id", "2")}, "d-summary.dfs", nil, ""},
		"shard elsewhere":   {map[string][]byte{"d-0001.dfs": nil, "d-x/d-0001.dfs": good["d-0001.dfs"]}, "d-summary.dfs", dfs.ErrIncomplete, "d-0001.dfs"},
		"summary gone":      {map[string][]byte{"d-summary.dfs": nil}, "d-summary.dfs", storage.ErrNotFound, "d-summary.dfs"},
		"shard cut":         {map[string][]byte{"d-0001.dfs": good["d-0001.dfs"][:60]}, "d-summary.dfs", backup.ErrSource, "d-0001.dfs"},
		"value cut":         {map[string][]byte{"d-0001.dfs": good["d-0001.dfs"][:len(good["d-0001.dfs"])-14]}, "d-summary.dfs", backup.ErrNotSound, ""},
		"shard is nothing":  {map[string][]byte{"d-0001.dfs": {}}, "d-summary.dfs", backup.ErrSource, "d-0001.dfs"},
		"file of a set":     {map[string][]byte{"d.rdb": good["d-0000.dfs"]}, "d.rdb", dumpfile.ErrPartOfSet, "summary"},
		"no RDB":            {map[string][]byte{"d.rdb": []byte("hello")}, "d.rdb", backup.ErrNotSound, ""},
		"RDB cut":           {map[string][]byte{"d.rdb": rdbOf([]byte("value"), true)[:30]}, "d.rdb", backup.ErrNotSound, ""},
		"bytes after RDB":   {map[string][]byte{"d.rdb": append(rdbOf([]byte("value"), true), 'x')}, "d.rdb", backup.ErrNotSound, ""},
		"wrong checksum":    {map[string][]byte{"d.rdb": bytes.Replace(rdbOf([]byte("value"), true), []byte("key"), []byte("kez"), 1)}, "d.rdb", backup.ErrNotSound, ""},
		"AOF with preamble": {map[string][]byte{"d.rdb": append(rdbOf([]byte("value"), true), "*1\r\n$4\r\nPING\r\n"...)}, "d.rdb", backup.ErrNotSound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, memory())
			files := map[string][]byte{}
			for key, data := range good {
				files[key] = data
			}
			for key, data := range test.change {
				files[key] = data
			}
			for key, data := range files {
				if data != nil {
					put(t, h.Store, "dumps/"+key, data)
				}
			}
			b, err := h.keep(t, newSnapshotter(t, h.Store, "dumps/"+test.name, false))
			switch {
			case test.want == nil:
				if err != nil || b.Keys != 2 {
					t.Errorf("%+v, %v", b, err)
				}
			case !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text):
				t.Errorf("error: %v; want one that wraps %q and says %q", err, test.want, test.text)
			}
		})
	}
}

// A file that is replaced while it is read gives one of its versions, or an error; never a mixture. The second version may come at any
// of the moments at which something is read.
func TestReplacedMeanwhile(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, 300_000), bytes.Repeat([]byte{2}, 300_000)
	for _, place := range []string{"memory", "directory"} {
		for _, checksum := range []bool{true, false} {
			outcomes := map[string]int{}
			for _, at := range []int64{0, 4096, 100_000, 270_000, 300_000} {
				var s storage.Store = memory()
				if place == "directory" {
					s = openDir(t, t.TempDir())
				}
				put(t, s, "dump.rdb", rdbOf(one, checksum))
				h := newHouse(t, s)
				reading := &between{Store: s, key: "dump.rdb", at: at, do: func() { put(t, s, "dump.rdb", rdbOf(two, checksum)) }}
				b, err := h.keep(t, newSnapshotter(t, reading, "dump.rdb", false))
				switch {
				case err == nil && (b.Parts[0].RawSize != int64(len(rdbOf(one, checksum)))):
					t.Errorf("%+v", b)
				case err == nil:
					outcomes["version"]++
				case errors.Is(err, dumpfile.ErrChanged):
					outcomes["changed"]++
				default:
					t.Errorf("at %d: %v", at, err)
				}
			}
			if want := map[bool]string{true: "version", false: "changed"}[checksum]; outcomes[want] < 4 {
				t.Errorf("%s, checksum %v: %v", place, checksum, outcomes)
			}
		}
	}
}

// A file that is written over in place, as cp does, is an error, whatever was read of each version.
func TestWrittenInPlace(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, 300_000), bytes.Repeat([]byte{2}, 300_000)
	for _, checksum := range []bool{true, false} {
		for _, at := range []int64{4096, 100_000, 270_000} {
			dir := t.TempDir()
			s := openDir(t, dir)
			put(t, s, "dump.rdb", rdbOf(one, checksum))
			if err := os.Chtimes(filepath.Join(dir, "dump.rdb"), time.Time{}, time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
			h := newHouse(t, openDir(t, t.TempDir()))
			reading := &between{Store: s, key: "dump.rdb", at: at, do: func() {
				f, err := os.OpenFile(filepath.Join(dir, "dump.rdb"), os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if _, err := f.Write(rdbOf(two, checksum)); err != nil {
					t.Fatal(err)
				}
			}}
			_, err := h.keep(t, newSnapshotter(t, reading, "dump.rdb", false))
			if want := map[bool]error{true: backup.ErrNotSound, false: dumpfile.ErrChanged}[checksum]; !errors.Is(err, want) {
				t.Errorf("at %d, checksum %v: %v", at, checksum, err)
			}
		}
	}
}

// A set whose files a next save overwrites, one by one and the summary last, gives one of the two, or an error; also where the times of the
// store are too coarse to tell the two apart.
func TestSetReplacedMeanwhile(t *testing.T) {
	outcomes := map[string]int{}
	for _, coarse := range []bool{false, true} {
		for replaced := range 4 { // so many files are new before it begins
			replaceSet(t, outcomes, replaced, coarse, true)
		}
	}
	// Without an ID in the files only what changes under our eyes can be seen.
	replaceSet(t, outcomes, 0, false, false)
	// The next save has a shard more, and comes when all was found and nothing was read.
	s := memory()
	for _, name := range []string{"d-0000.dfs", "d-0001.dfs"} {
		put(t, s, name, shard("a"+name, "df-ver", "df-v1.30.0"))
	}
	put(t, s, "d-summary.dfs", shard("", "df-ver", "df-v1.30.0"))
	larger := &nth{Store: s, call: 4, do: func() {
		for _, name := range []string{"d-0000.dfs", "d-0001.dfs", "d-0002.dfs"} {
			put(t, s, name, shard("b"+name, "df-ver", "df-v1.30.0"))
		}
	}}
	if b, err := newHouse(t, memory()).keep(t, newSnapshotter(t, larger, "d-summary.dfs", false)); !errors.Is(err, dumpfile.ErrChanged) {
		t.Errorf("a larger set: %+v, %v", b, err)
	}
	if outcomes["version"] == 0 || outcomes["changed"] == 0 || outcomes["incomplete"] == 0 {
		t.Errorf("%v", outcomes)
	}
	t.Log(outcomes)
}

// replaceSet replaces the rest of a set before each opening of a file.
func replaceSet(t *testing.T, outcomes map[string]int, replaced int, coarse, ids bool) {
	save := func(n byte) map[string][]byte {
		facts := []string{"df-ver", "df-v1.30.0"}
		if ids {
			facts = append(facts, "snapshot-id", strings.Repeat(string('a'+rune(n)), 32), "shard-count", "2")
		}
		return map[string][]byte{
			"d-0000.dfs":    shard("a"+string('0'+rune(n)), facts...),
			"d-0001.dfs":    shard("b"+string('0'+rune(n)), facts...),
			"d-summary.dfs": shard("", append(facts, "lua", string('0'+rune(n)))...),
		}
	}
	order := []string{"d-0000.dfs", "d-0001.dfs", "d-summary.dfs"}
	for call := 1; ; call++ { // all are new before this opening of a file
		opts := &memstore.Options{}
		if coarse {
			opts.Now = func() time.Time { return time.Unix(1e9, 0) }
		}
		s := memstore.New(opts)
		for key, data := range save(0) {
			put(t, s, key, data)
		}
		for _, key := range order[:replaced] {
			put(t, s, key, save(1)[key])
		}
		h := newHouse(t, memory())
		opening := &nth{Store: s, call: call, do: func() {
			for _, key := range order[replaced:] {
				put(t, s, key, save(1)[key])
			}
		}}
		b, err := h.keep(t, newSnapshotter(t, opening, "d-summary.dfs", false))
		switch {
		case err == nil:
			for version := range byte(2) {
				same := 0
				for i, p := range b.Parts {
					if bytes.Equal(rawBytes(t, h, p), save(version)[order[i]]) {
						same++
					}
				}
				if same != 0 && same != len(order) {
					t.Errorf("%d files replaced, then all at opening %d (coarse: %v, IDs: %v): a mixture", replaced, call, coarse, ids)
				}
			}
			outcomes["version"]++
		case errors.Is(err, dumpfile.ErrChanged):
			outcomes["changed"]++
		case errors.Is(err, dfs.ErrIncomplete):
			outcomes["incomplete"]++
		default:
			t.Errorf("%d files replaced, then all at opening %d: %v", replaced, call, err)
		}
		if opening.do != nil {
			return
		}
	}
}

// What has no checksum of its own has to be what was found: Dragonfly's files end in anything, which is none; and an object has to be read
// to its end.
func TestWithoutChecksum(t *testing.T) {
	one, two := shard("one", "df-ver", "df-v1.40.0"), shard("two", "df-ver", "df-v1.40.0")
	s := memory()
	put(t, s, "d.rdb", one)
	reading := &between{Store: s, key: "d.rdb", at: int64(len(one)), do: func() { put(t, s, "d.rdb", two) }}
	if _, err := newHouse(t, memory()).keep(t, newSnapshotter(t, reading, "d.rdb", false)); !errors.Is(err, dumpfile.ErrChanged) {
		t.Errorf("replaced: %v", err)
	}
	put(t, s, "d.rdb", one)
	ends := &stalled{Store: s, after: int64(len(one)) - 2, end: io.EOF} // within what is behind its end
	if _, err := newHouse(t, memory()).keep(t, newSnapshotter(t, ends, "d.rdb", false)); !errors.Is(err, dumpfile.ErrChanged) {
		t.Errorf("cut: %v", err)
	}
}

// rawBytes returns the raw bytes of a part.
func rawBytes(t *testing.T, h *house, p catalog.Part) []byte {
	t.Helper()
	object, err := h.Store.Open(t.Context(), p.Key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	r, err := seal.NewReader(object, restore.Sum(p), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// nth does something before the nth opening of an object.
type nth struct {
	storage.Store

	mu   sync.Mutex // parts are read side by side
	call int
	do   func()
}

func (n *nth) Open(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	n.mu.Lock()
	if n.call--; n.call == 0 {
		n.do()
		n.do = nil
	}
	n.mu.Unlock()
	return n.Store.Open(ctx, key, off, length)
}

// An adopted file that its server replaces: the backup doesn't verify, and isn't restored.
func TestAdoptedAndReplaced(t *testing.T) {
	h := newHouse(t, openDir(t, t.TempDir()))
	put(t, h.Store, "dump.rdb", rdbOf([]byte("one"), true))
	b, err := h.keep(t, newSnapshotter(t, h.Store, "dump.rdb", true))
	if err != nil {
		t.Fatal(err)
	}
	put(t, h.Store, "dump.rdb", rdbOf([]byte("two"), true))
	if _, err := h.restorer.Verify(t.Context(), b.ID, nil); !errors.Is(err, restore.ErrNotVerified) || !strings.Contains(err.Error(), "adopted") {
		t.Errorf("error: %v", err)
	}
}

func TestStream(t *testing.T) {
	h := newHouse(t, memory())
	data := read(t, testdata+"redis-8.0.2/streams.rdb")
	sr := dumpfile.Stream("streams.rdb", bytes.NewReader(data))
	b, err := h.keep(t, sr)
	if err != nil || b.Source.File != "streams.rdb" || b.RawBytes != int64(len(data)) || b.Source.Version != "8.0.2" {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := sr.Snapshot(t.Context()); err == nil {
		t.Error("a stream was taken twice")
	}
	broken := errors.New("connection reset")
	for want, r := range map[error]io.Reader{
		backup.ErrNotSound:    bytes.NewReader(data[:len(data)-1]),
		broken:                io.MultiReader(bytes.NewReader(data[:len(data)/2]), &failing{broken}),
		dumpfile.ErrPartOfSet: bytes.NewReader(read(t, setDir+"mini-0000.dfs")),
	} {
		if _, err := h.keep(t, dumpfile.Stream("x", r)); !errors.Is(err, want) {
			t.Errorf("error: %v, want %v", err, want)
		}
	}
	// One that waits for ever holds nobody up.
	in, out := io.Pipe()
	defer out.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	if _, err := h.runner.Run(ctx, backup.Request{DataStore: "orders", Snapshotter: dumpfile.Stream("-", in)}); !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }
