package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/redis/go-redis/v9"
)

// campaign tells whether sizes are those that the promises name. Otherwise they are smaller, so that the test takes seconds.
func campaign() bool { return os.Getenv("CAMPAIGN") != "" }

// stream is a backup of one stream that is made while it is read.
type stream struct {
	backup *catalog.Backup
	write  func(w *rdb.Writer) error
	to     rdb.Dialect
}

func (s *stream) Backup() *catalog.Backup { return s.backup }

func (s *stream) Open(context.Context, catalog.Part) (io.ReadCloser, error) {
	out, in := io.Pipe()
	go func() {
		w, err := rdb.NewWriter(in, s.to, nil)
		if err == nil {
			if err = s.write(w); err == nil {
				err = w.Close()
			}
		}
		in.CloseWithError(err)
	}()
	return out, nil
}

// streamOf makes a backup of what write writes.
func streamOf(t testing.TB, to rdb.Dialect, write func(w *rdb.Writer) error) *stream {
	t.Helper()
	s := &stream{write: write, to: to}
	in, _ := s.Open(t.Context(), catalog.Part{})
	counter := &countingReader{in: in}
	found, err := catalog.Inspect(counter, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.backup = &catalog.Backup{Format: catalog.Format, ID: catalog.NewID(time.Now()), DataStore: "orders", Kind: catalog.KindManual, State: catalog.StateReady,
		Parts:    []catalog.Part{{Name: "part-0.rdb", Dialect: found.Dialect, Compression: "none", Size: counter.n, RawSize: counter.n, Keys: found.Keys}},
		RawBytes: counter.n}
	found.Record(s.backup)
	return s
}

type countingReader struct {
	in io.Reader
	n  int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += int64(n)
	return n, err
}

// heapPeak calls f and returns by how much the heap grew meanwhile.
func heapPeak(f func()) uint64 {
	made.Clear() // the more there is, the longer garbage stays
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	base, peak := m.HeapInuse, uint64(0)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				if m.HeapInuse > base {
					peak = max(peak, m.HeapInuse-base)
				}
			}
		}
	}()
	f()
	close(stop)
	<-done
	return peak
}

// Values that are larger than what goes by one command go in pieces, within the memory that is promised, and get their names when
// they are whole.
func TestBigValues(t *testing.T) {
	members, size := 100_000, int64(40<<20)
	if campaign() {
		members, size = 1_000_000, 600<<20
	}
	text := make([]byte, 0, 64)
	piece := bytes.Repeat([]byte("amber keeps a living data store. "), 2000)[:64<<10]
	write := func(w *rdb.Writer) error {
		begin := func(key string, typ rdb.Type, n int) error {
			return w.WriteEntry(&rdb.Entry{Kind: rdb.KindKey, Key: []byte(key), Type: typ, Idle: -1, Freq: -1, HasExpiry: true, ExpireAt: 4102444800000}, rdb.Shape{Len: uint64(n)})
		}
		if err := begin("zset", rdb.TypeZSet, members); err != nil {
			return err
		}
		for i := range members {
			text = strconv.AppendInt(append(text[:0], "member:"...), int64(i), 10)
			if err := w.WriteElement(&rdb.Element{Kind: rdb.ElementScored, Value: text, Score: float64(i)}); err != nil {
				return err
			}
		}
		if err := begin("string", rdb.TypeString, 1); err != nil {
			return err
		}
		for left := size; left > 0; {
			n := min(left, int64(len(piece)))
			left -= n
			if err := w.WriteElement(&rdb.Element{Kind: rdb.ElementBytes, Value: piece[:n], More: left > 0, Left: left}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			src := streamOf(t, rdb.Dialect{Family: rdb.Redis, Version: 10}, write)
			// The string is larger than the target takes, until that is changed for the time of the restore.
			s := testserver.Start(t, version, "--proto-max-bulk-len", strconv.FormatInt(size/2, 10))
			c := s.Client(t)
			l := loader(t, s.Options(), func(c *Config) { c.MaxValue = 1 << 20; c.Connections = 1 })
			var rep *restore.Report
			var err error
			half := atomic.Int64{}
			peak := heapPeak(func() {
				rep, err = l.Load(t.Context(), src, &restore.Options{Progress: func(restore.Progress) {
					for _, key := range []string{"zset", "string"} {
						if n, err := c.Exists(t.Context(), key).Result(); err == nil && n > 0 {
							want := map[string]int64{"zset": int64(members), "string": size}[key]
							got, err := map[string]func() (int64, error){
								"zset": c.ZCard(t.Context(), "zset").Result, "string": c.StrLen(t.Context(), "string").Result,
							}[key]()
							if err == nil && got != want {
								half.Add(1)
							}
						}
					}
				}})
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d MB of payload in %v, %d MB of heap", src.backup.RawBytes>>20, rep.Load.Round(time.Millisecond), peak>>20)
			if rep.Keys != 2 || rep.Converted != 2 || half.Load() > 0 {
				t.Errorf("%d keys are reported, %d by commands; a half one was seen %d times", rep.Keys, rep.Converted, half.Load())
			}
			if peak > 64<<20 {
				t.Errorf("it took %d bytes of heap", peak)
			}
			if n, err := c.ZCard(t.Context(), "zset").Result(); err != nil || n != int64(members) {
				t.Errorf("the sorted set has %d members: %v", n, err)
			}
			if n, err := c.StrLen(t.Context(), "string").Result(); err != nil || n != size {
				t.Errorf("the string has %d bytes: %v", n, err)
			}
			if end, err := c.GetRange(t.Context(), "string", size-100, -1).Result(); err != nil || len(end) != 100 {
				t.Errorf("the string ends with %q: %v", end, err)
			}
			if at, err := c.PExpireTime(t.Context(), "zset").Result(); err != nil || at.Milliseconds() != 4102444800000 {
				t.Errorf("the sorted set expires at %v: %v", at, err)
			}
			if keys, err := c.Keys(t.Context(), "*").Result(); err != nil || len(keys) != 2 {
				t.Errorf("there are %v: %v", keys, err)
			}
			if got, err := c.ConfigGet(t.Context(), "proto-max-bulk-len").Result(); err != nil || got["proto-max-bulk-len"] != strconv.FormatInt(size/2, 10) {
				t.Errorf("the setting was not put back: %v, %v", got, err)
			}
		})
	}
}

// Where the setting may not be changed, the key that is too large is told, and what to do; all others are there.
func TestTooLargeForTheTarget(t *testing.T) {
	src := streamOf(t, rdb.Dialect{Family: rdb.Redis, Version: 10}, func(w *rdb.Writer) error {
		for i, size := range []int{10, 3 << 20, 100} {
			e := &rdb.Entry{Kind: rdb.KindKey, Key: fmt.Append(nil, "key:", i), Type: rdb.TypeString, Idle: -1, Freq: -1}
			if err := w.WriteEntry(e, rdb.Shape{Len: 1}); err != nil {
				return err
			}
			if err := w.WriteElement(&rdb.Element{Kind: rdb.ElementBytes, Value: make([]byte, size)}); err != nil {
				return err
			}
		}
		return nil
	})
	s := testserver.Start(t, "redis-7.0", "--proto-max-bulk-len", "1mb")
	s.AddUser(t, "restorer", "CANARY-7", "~*", "&*", "+@all", "-config|set")
	opts := s.Options()
	opts.Username, opts.Password = "restorer", "CANARY-7"
	_, err := loader(t, opts, nil).Load(t.Context(), src, nil)
	partial, ok := err.(*restore.PartialError)
	if !ok || len(partial.Failed) != 1 || !strings.Contains(partial.Failed[0], "key:1") || !strings.Contains(partial.Failed[0], "proto-max-bulk-len") || partial.Keys != 2 {
		t.Errorf("the error is %+v", err)
	}
}

// The memory that a restore takes doesn't depend on how many keys there are.
func TestMemory(t *testing.T) {
	keys := 100_000
	if campaign() {
		keys = 1_000_000
	}
	value := bytes.Repeat([]byte("0123456789abcdef"), 32)
	src := streamOf(t, rdb.Dialect{Family: rdb.Redis, Version: 10}, func(w *rdb.Writer) error {
		for i := range keys {
			e := &rdb.Entry{Kind: rdb.KindKey, Key: fmt.Append(nil, "key:", i), Type: rdb.TypeString, Idle: -1, Freq: -1}
			if err := w.WriteEntry(e, rdb.Shape{Len: 1}); err != nil {
				return err
			}
			if err := w.WriteElement(&rdb.Element{Kind: rdb.ElementBytes, Value: value}); err != nil {
				return err
			}
		}
		return nil
	})
	s := testserver.Start(t, "valkey-9.1")
	for _, connections := range []int{1, 16} {
		peak := heapPeak(func() {
			rep, err := loader(t, s.Options(), func(c *Config) { c.Connections = connections }).Load(t.Context(), src, replace)
			if err != nil || rep.Keys != int64(keys) {
				t.Fatalf("%v, %+v", err, rep)
			}
		})
		t.Logf("%d connections: %d MB in %d MB of heap", connections, src.backup.RawBytes>>20, peak>>20)
		if peak > 64<<20 {
			t.Errorf("with %d connections it took %d bytes of heap", connections, peak)
		}
	}
}

// A process that is killed in the middle of a restore leaves a mark, and no half value under its own name; the same restore again
// carries on, and another one is refused.
func TestKilledProcess(t *testing.T) {
	if dir := os.Getenv("AMBER_TEST_RESTORE"); dir != "" {
		restoreUntilKilled(t, dir)
		return
	}
	img := sampleOf(t, "redis-8.0", 1500)
	dir := t.TempDir()
	manifest, err := json.Marshal(img.backup)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"manifest": manifest, "data": img.data[0]} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := testserver.Start(t, "redis-8.0")
	watcher := s.Options()
	watcher.ClientName = "watcher"
	c := redis.NewClient(watcher)
	defer c.Close()
	killed := 0
	for i := 0; i < 8 || killed < 3 && i < 80; i++ { // how far each of them comes is for the machine to say
		if err := c.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.FunctionFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
		cmd.Env = append(os.Environ(), "AMBER_TEST_RESTORE="+dir, "AMBER_TEST_TARGET="+s.Addr)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testserver.Eventually(t, 30*time.Second, "the restore has begun", func() error {
			if n, err := c.DBSize(t.Context()).Result(); err != nil || n == 0 { // its mark comes first, and is gone when it has ended
				return fmt.Errorf("%d, %v", n, err)
			}
			return nil
		})
		time.Sleep(time.Duration(i%8*15) * time.Millisecond)
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
		testserver.Eventually(t, 30*time.Second, "the server has done what was on its way", func() error {
			list, err := c.ClientList(t.Context()).Result()
			if err == nil && strings.Count(list, " name=") != strings.Count(list, " name=watcher ") {
				err = errors.New(list)
			}
			return err
		})
		marked, err := c.Exists(t.Context(), markKey).Result()
		if err != nil {
			t.Fatal(err)
		}
		if marked > 0 {
			killed++
		}
		l := loader(t, s.Options(), nil)
		if marked > 0 {
			other := *img.backup
			other.ID = catalog.NewID(time.Now())
			v := check(t, l, &image{backup: &other}, nil)
			if level, detail := point(v, "unfinished"); level != restore.Fail || !strings.Contains(detail, string(img.backup.ID)) {
				t.Errorf("another restore: the check says %s: %s", level, detail)
			}
			if err := check(t, l, img, nil).Err(nil); err != nil {
				t.Errorf("the same restore: the check says %v", err)
			}
		}
		rep, err := l.Load(t.Context(), img, map[bool]*restore.Options{true: nil, false: replace}[marked > 0])
		if err != nil {
			t.Fatal(err)
		}
		sameButLost(t, c, img, rep, fmt.Sprint("after ", i))
	}
	if killed < 3 {
		t.Errorf("only %d of the processes were killed in the middle", killed)
	}
}

// restoreUntilKilled is the process that is killed.
func restoreUntilKilled(t *testing.T, dir string) {
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	b := &catalog.Backup{}
	if err := json.Unmarshal(manifest, b); err != nil {
		t.Fatal(err)
	}
	opts := slow(&redis.Options{Addr: os.Getenv("AMBER_TEST_TARGET")})
	l := loader(t, opts, func(c *Config) { c.MaxValue, c.Connections = 3000, 1 })
	if _, err := l.Load(t.Context(), &image{backup: b, data: [][]byte{data}}, nil); err != nil {
		t.Fatal(err)
	}
}
