package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/redis/go-redis/v9"
)

// A cutter dials connections that break after some bytes.
type cutter struct {
	reads, writes int64 // bytes after which a connection breaks; 0: never
	times         int64 // how many connections do
	spare         int64 // so many connections before the first that does

	dialled, cut atomic.Int64
}

func (c *cutter) options(opts *redis.Options) *redis.Options {
	opts.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		n := c.dialled.Add(1)
		if n <= c.spare || n > c.spare+c.times {
			return conn, nil
		}
		return &cutConn{Conn: conn, c: c}, nil
	}
	return opts
}

type cutConn struct {
	net.Conn
	c         *cutter
	in, out   atomic.Int64
	closeOnce sync.Once
}

// CloseWrite is not there: a broken connection has no halves.

func (c *cutConn) break1() {
	c.closeOnce.Do(func() { c.c.cut.Add(1); c.Conn.Close() })
}

func (c *cutConn) Read(p []byte) (int, error) {
	if limit := c.c.reads; limit > 0 {
		left := limit - c.in.Load()
		if left <= 0 {
			c.break1()
			return 0, errors.New("the connection was cut while reading")
		}
		p = p[:min(int64(len(p)), left)]
	}
	n, err := c.Conn.Read(p)
	c.in.Add(int64(n))
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	if limit := c.c.writes; limit > 0 {
		left := limit - c.out.Load()
		if left < int64(len(p)) {
			n, _ := c.Conn.Write(p[:max(left, 0)])
			c.out.Add(int64(n))
			c.break1()
			return n, errors.New("the connection was cut while writing")
		}
	}
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

// A connection that breaks, in the middle of a command or of an answer, is opened again, and nothing is lost or written twice. At each place one of
// the ways to deal with keys that are there is tried, with CAMPAIGN=1 all.
func TestConnectionBreaks(t *testing.T) {
	for v, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sampleOf(t, version, 300)
			s := testserver.Start(t, version)
			c := s.Client(t)
			for m, maxValue := range []int{0, 1000} {
				for i, at := range []struct{ reads, writes int64 }{
					{1, 0}, {103, 0}, {2001, 0}, {0, 1}, {0, 77_777}, {0, 300_001}, {900, 400_000},
				} {
					for j, conflict := range []restore.Conflict{restore.IntoEmpty, restore.Replace, restore.MergeFail, restore.MergeSkip} {
						if (v+2*m+i+j)%4 != 0 && !campaign() {
							continue
						}
						name := fmt.Sprintf("%d/%d/%s", maxValue, i, conflict)
						if err := c.FlushAll(t.Context()).Err(); err != nil {
							t.Fatal(err)
						}
						if err := c.FunctionFlush(t.Context()).Err(); err != nil {
							t.Fatal(err)
						}
						cut := &cutter{reads: at.reads, writes: at.writes, times: 2, spare: 2} // looking at the target, and the one beside
						l := loader(t, cut.options(s.Options()), func(c *Config) { c.MaxValue, c.Connections, c.Logger = maxValue, 1, nil })
						rep, err := l.Load(t.Context(), img, &restore.Options{Conflict: conflict})
						if err != nil {
							t.Fatalf("%s: %v", name, err)
						}
						if rep.Keys != img.backup.Keys || rep.Skipped != 0 {
							t.Errorf("%s: the report says %d keys and %d skipped, of %d", name, rep.Keys, rep.Skipped, img.backup.Keys)
						}
						if cut.cut.Load() == 0 && cut.reads+cut.writes == 1 {
							t.Errorf("%s: nothing was cut", name)
						}
						sameButLost(t, c, img, rep, name)
					}
				}
			}
		})
	}
}

// The connection over which doubtful keys are looked at breaks too, also in the middle of comparing one.
func TestConnectionBesideBreaks(t *testing.T) {
	img := sampleOf(t, "redis-8.0", 300)
	s := testserver.Start(t, "redis-8.0")
	c := s.Client(t)
	for at := int64(300); at < 1500; at += 131 {
		if err := c.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.FunctionFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		cut := &cutter{reads: at, times: 3, spare: 1} // looking at the target
		l := loader(t, cut.options(s.Options()), func(c *Config) { c.Connections, c.Logger = 1, nil })
		rep, err := l.Load(t.Context(), img, &restore.Options{Conflict: restore.MergeSkip})
		if err != nil {
			t.Fatalf("cut after %d bytes: %v", at, err)
		}
		if rep.Keys != img.backup.Keys || rep.Skipped != 0 || cut.cut.Load() == 0 {
			t.Errorf("cut after %d bytes: the report says %d keys and %d skipped, of %d; %d connections were cut", at, rep.Keys, rep.Skipped, img.backup.Keys, cut.cut.Load())
		}
		sameButLost(t, c, img, rep, fmt.Sprint("cut after ", at))
	}
}

// sameButLost compares what a server holds with a backup, but for what no command sets and what is reported as lost.
func sameButLost(t *testing.T, c *redis.Client, img *image, rep *restore.Report, name string) {
	t.Helper()
	compareButLost(t, testserver.Snapshot(t, c), img, rep, name)
}

func compareButLost(t *testing.T, got map[string]string, img *image, rep *restore.Report, name string) {
	t.Helper()
	if left := reserved(got); len(left) > 0 {
		t.Errorf("%s: the target has %v", name, left)
	}
	want, got := comparable(img.contents), comparable(got)
	for _, l := range rep.Losses {
		if rdb.Loss(l.Name) != lossStreamPending {
			continue // what else is lost isn't compared
		}
		differ := int64(0)
		for key, value := range want {
			if strings.HasPrefix(value, "stream") && got[key] != value {
				differ++
				delete(want, key)
				delete(got, key)
			}
		}
		if differ != l.Count {
			t.Errorf("%s: %d streams are said to have lost pending entries, and %d have", name, l.Count, differ)
		}
	}
	if diff := testserver.Diff(want, got); diff != "" {
		t.Errorf("%s: it holds something else than the backup: %s", name, diff)
	}
}

// A turning is a backup that does something once, when so many bytes of it were read.
type turning struct {
	*image
	at   int64
	once sync.Once
	do   func()
}

func (s *turning) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	in, err := s.image.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	then := readerFunc(func([]byte) (int, error) { s.once.Do(s.do); return 0, io.EOF })
	return io.NopCloser(io.MultiReader(io.LimitReader(in, s.at), then, in)), nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A target that dies and comes back with what it was told is restored to the end; one that comes back without is an error. The versions take turns, but
// with CAMPAIGN=1 each does both.
func TestTargetKilled(t *testing.T) {
	for i, version := range testserver.All() {
		for j, durable := range []bool{true, false} {
			if (i+j)%2 != 0 && !campaign() {
				continue
			}
			t.Run(fmt.Sprintf("%s/%v", version, durable), func(t *testing.T) {
				t.Parallel()
				img := bulky(t, version)
				args := []string{"--appendonly", "no"}
				if durable {
					args = []string{"--appendonly", "yes", "--appendfsync", "no"}
				}
				s := testserver.Start(t, version, args...)
				l := loader(t, slow(s.Options()), nil)
				dies := &turning{image: img, at: img.backup.RawBytes / 3, do: func() { s.Restart(t) }} // and comes back
				rep, err := l.Load(t.Context(), dies, replace)
				c := s.Client(t)
				got := testserver.Snapshot(t, c)
				var partial *restore.PartialError
				switch {
				case durable && err != nil:
					t.Fatal(err)
				case durable:
					if rep.Keys != img.backup.Keys || len(got) != int(rep.Keys) {
						t.Errorf("%d keys are reported, %d are there, of %d", rep.Keys, len(got), img.backup.Keys)
					}
				case !errors.As(err, &partial):
					t.Fatalf("the target lost keys, and the error is %v", err)
				case partial.State != restore.TargetPartial || partial.Keys != int64(len(data(got))):
					t.Errorf("the error says %s with %d keys, and there are %d", partial.State, partial.Keys, len(data(got)))
				case !strings.Contains(err.Error(), "keys instead of"):
					t.Errorf("the error doesn't tell what is missing: %v", err)
				}
				// And the same restore again makes it whole.
				if err != nil {
					if _, err := l.Load(t.Context(), img, replace); err != nil {
						t.Fatal(err)
					}
					holdsImage(t, c, img)
				}
			})
		}
	}
}

// slow lets a client's connections write in small pieces, so that there is time to do something in the middle of a restore.
func slow(opts *redis.Options) *redis.Options {
	opts.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &slowConn{conn.(*net.TCPConn)}, nil
	}
	return opts
}

type slowConn struct{ *net.TCPConn }

func (c *slowConn) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		m, err := c.TCPConn.Write(p[:min(len(p), 32<<10)])
		n += m
		if err != nil {
			return n, err
		}
		if p = p[m:]; len(p) > 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	return n, nil
}

// bulky takes a backup of 16 MB, which is more than sockets and our own buffers take at once.
func bulky(t *testing.T, version string) *image {
	t.Helper()
	return madeOnce(version+" bulky", func() *image {
		s := testserver.Start(t, version, "--rdbcompression", "no")
		if err := s.Client(t).Do(t.Context(), "DEBUG", "POPULATE", "8000", "key", "2000").Err(); err != nil {
			t.Fatal(err)
		}
		img := take(t, s)
		s.Close()
		return img
	})
}

// A snapshot that can be read once only is written all the same, unless something has to be made anew: that is told.
func TestReadOnce(t *testing.T) {
	img := sampleOf(t, "valkey-9.1", 300)
	s := testserver.Start(t, "valkey-9.1")
	c := s.Client(t)
	live := *img.backup
	live.Keys, live.RawBytes, live.DBs, live.Expires = 0, 0, nil, 0
	live.Parts = slices.Clone(live.Parts)
	live.Parts[0].RawSize, live.Parts[0].Size = 0, 0
	src := &readOnce{image: image{backup: &live, data: img.data}}
	rep, err := loader(t, s.Options(), func(c *Config) { c.MaxValue = 1000 }).Load(t.Context(), src, replace)
	if err != nil || rep.Keys != img.backup.Keys {
		t.Fatalf("%v, %+v", err, rep)
	}
	sameButLost(t, c, img, rep, "read once")
	src.opened = false
	cut := &cutter{writes: 100_000, times: 2, spare: 1}
	_, err = loader(t, cut.options(s.Options()), func(c *Config) { c.MaxValue, c.Connections = 100, 1 }).Load(t.Context(), src, replace)
	var partial *restore.PartialError
	if err != nil && (!errors.As(err, &partial) || !strings.Contains(err.Error(), "read once") || partial.State != restore.TargetPartial) {
		t.Errorf("the error is %v", err)
	}
	src.opened = false
	l := loader(t, s.Options(), nil)
	if level, _ := point(check(t, l, &src.image, &restore.Options{Conflict: restore.MergeFail}), "conflict"); level != restore.Fail {
		t.Error("the check lets a snapshot that is read once be held against the target's keys")
	}
}

type readOnce struct {
	image
	opened bool
}

func (r *readOnce) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	if r.opened {
		return nil, errors.New("it was read already")
	}
	r.opened = true
	return r.image.Open(ctx, p)
}
