package blobstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
)

var scenarios = []struct {
	name string
	run  func(t *testing.T, c *cloud)
}{
	{"read-cut", readCut},
	{"replaced-while-cut", replacedWhileCut},
	{"source-fails", sourceFails},
	{"upload-cut", uploadCut},
	{"lost-answer", lostAnswer},
	{"lost-race", lostRace},
	{"server-hangs", serverHangs},
}

// long says that there is time for all of it.
var long = os.Getenv("CAMPAIGN") != ""

// readCut: a connection that is cut at any byte of an answer doesn't show in what is read.
func readCut(t *testing.T, c *cloud) {
	data := pattern(1<<20 + 3)
	size := int64(len(data))
	put(t, c.direct, "object", data)
	cuts := []int64{1, 100, 1000, 64 << 10, 300_000, size - 1, size}
	for n := size + 100; n <= size+900; n += 200 { // with the header this is about the last byte
		cuts = append(cuts, n)
	}
	if long {
		for n := int64(1); n < size+1500; n += 7919 {
			cuts = append(cuts, n)
		}
	}
	for _, n := range cuts {
		c.proxy.CutDown(n, false)
		got, err := read(t.Context(), c, "object", 0, -1)
		if n < 1000 && errors.Is(err, storage.ErrTransient) { // of Open, which the caller may try again
			got, err = read(t.Context(), c, "object", 0, -1)
		}
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("cut at byte %d: %d bytes, %v", n, len(got), err)
		}
	}
	if n := c.proxy.Cuts(); n < len(cuts)-5 {
		t.Errorf("only %d of %d cuts were made", n, len(cuts))
	}
	c.proxy.CutDown(150_000, true)
	for _, r := range [][2]int64{{0, -1}, {1, size - 2}, {500_000, 400_000}} {
		got, err := read(t.Context(), c, "object", r[0], r[1])
		want := data[r[0]:]
		if r[1] >= 0 {
			want = want[:r[1]]
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("cut at every 150,000 bytes, from %d: %d bytes, %v", r[0], len(got), err)
		}
	}
}

// TestReadGivesUp: a read that nothing comes of any more ends.
func TestReadGivesUp(t *testing.T) {
	t.Parallel()
	s := teststore.StartGCS(t)
	s.Bucket("bucket")
	c := newCloud(t, "gcs", s.Server, "", openGCS)
	put(t, c.direct, "object", pattern(1<<20))
	c.proxy.Slow(256 << 10) // so that the rest is not on its way already when the server is killed
	r, err := c.Open(t.Context(), "object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	c.server.Kill()
	c.proxy.Reset()
	if _, err = io.ReadAll(r); !errors.Is(err, storage.ErrTransient) || !strings.Contains(err.Error(), "broken off") {
		t.Errorf("the error is %v", err)
	}
}

// replacedWhileCut: what is read is of one version, or an error.
func replacedWhileCut(t *testing.T, c *cloud) {
	const size = 1 << 20
	for _, now := range []string{"replaced", "deleted"} {
		put(t, c.direct, "object", bytes.Repeat([]byte("a"), size))
		c.proxy.Slow(256 << 10) // so that the rest is not on its way already
		r, err := c.Open(t.Context(), "object", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
		c.proxy.Stall()
		if now == "replaced" { // in the same second, and of the same size
			put(t, c.direct, "object", bytes.Repeat([]byte("b"), size))
		} else if err := c.direct.Delete(t.Context(), "object"); err != nil {
			t.Fatal(err)
		}
		c.proxy.Reset()
		c.proxy.Heal()
		rest, err := io.ReadAll(r)
		if err == nil {
			t.Errorf("%s: a read that broke off went on to its end", now)
		}
		if bytes.Contains(rest, []byte("b")) {
			t.Errorf("%s: a mixture of versions was read", now)
		}
		r.Close()
	}
}

// unfinished are sizes of objects whose writer ends before its end.
var unfinished = []int{0, 1000, 256<<10 + 1, part, 2*part + 1000}

// sourceFails: a writer that is aborted or cancelled at any byte leaves nothing, and what was there before.
func sourceFails(t *testing.T, c *cloud) {
	want := map[string][]byte{"old": []byte("old")}
	put(t, c.direct, "old", want["old"])
	keys := []string{"old", "new"}
	for i, size := range unfinished {
		data := pattern(size)
		if !long {
			keys = [][]string{{"old"}, {"new"}}[i%2]
		}
		for _, key := range keys {
			for _, how := range []string{"aborted", "cancelled", "cancelled at Commit"} {
				when := fmt.Sprintf("%s after %d bytes of %s", how, size, key)
				ctx, cancel := context.WithCancel(t.Context())
				w, err := c.Create(ctx, key, &storage.CreateOptions{IfNotExist: key == "new"})
				if err == nil {
					_, err = w.Write(data)
				}
				if err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				within(t, when, func() {
					switch how {
					case "aborted":
						if err := w.Abort(); err != nil {
							t.Errorf("%s: %v", when, err)
						}
					case "cancelled":
						cancel()
						if _, err := w.Commit(t.Context()); !errors.Is(err, context.Canceled) {
							t.Errorf("%s: %v", when, err)
						}
					default:
						done, cancel := context.WithCancel(t.Context())
						cancel()
						if _, err := w.Commit(done); !errors.Is(err, context.Canceled) {
							t.Errorf("%s: %v", when, err)
						}
					}
					w.Abort()
				})
				cancel()
				c.only(t, when, want)
			}
		}
	}
}

// uploadCut: an upload whose connections are cut succeeds or leaves nothing.
func uploadCut(t *testing.T, c *cloud) {
	data := pattern(2*part + 5000)
	small := data[:100_000]
	want := map[string][]byte{}
	type upload struct {
		what string
		data []byte
		cuts []int64
	}
	uploads := []upload{{"small", small, []int64{50_000}}, {"large", data, []int64{part + 1000}}}
	if long {
		for i := range uploads {
			uploads[i].cuts = []int64{1, 2000, 50_000, part + 1000, 2*part + 3000}
		}
	}
	for _, u := range uploads {
		for _, n := range u.cuts {
			key := fmt.Sprintf("%s/%d", u.what, n)
			c.proxy.CutUp(n, false)
			err := storage.WriteFile(t.Context(), c, key, u.data, onlyNew)
			c.proxy.Heal()
			if err != nil {
				t.Errorf("%s, cut after %d bytes: %v", u.what, n, err)
				continue
			}
			want[key] = u.data
		}
		if u.what == "large" && !long {
			continue
		}
		c.proxy.CutUp(30_000, true)
		err := storage.WriteFile(t.Context(), c, "never/"+u.what, u.data, onlyNew)
		c.proxy.Heal()
		if !errors.Is(err, storage.ErrTransient) {
			t.Errorf("%s, cut at every 30,000 bytes: %v", u.what, err)
		}
	}
	c.only(t, "after cuts", want)
}

var onlyNew = &storage.CreateOptions{IfNotExist: true}

// lostAnswer: a create whose answer is lost is known to have succeeded, though the client that asks again is told that the object exists.
func lostAnswer(t *testing.T, c *cloud) {
	want := map[string][]byte{}
	for _, size := range []int{1000, part + 1000} {
		for _, opts := range []*storage.CreateOptions{onlyNew, nil} {
			if opts == nil && !long {
				continue
			}
			key := fmt.Sprintf("object/%d/%v", size, opts != nil)
			data := pattern(size)
			w, err := c.Create(t.Context(), key, opts)
			if err == nil {
				_, err = w.Write(data)
			}
			if err != nil {
				t.Fatal(err)
			}
			cuts := c.proxy.Cuts()
			c.proxy.CutDown(0, false)
			if size > part {
				time.Sleep(200 * time.Millisecond) // the answers to the parts pass, and the next one is that to Commit
				c.proxy.CutDown(0, false)
			}
			info, err := w.Commit(t.Context())
			if c.name == "gcs" && size > part && err != nil && strings.Contains(err.Error(), "which was deleted") {
				c.proxy.Heal()
				continue // the test server, unlike Google's, counts a piece twice that is sent again
			}
			if err != nil || info.Size != int64(size) {
				t.Errorf("%s: Commit returned %+v, %v", key, info, err)
			}
			if c.proxy.Cuts() == cuts {
				t.Errorf("%s: no answer was lost", key)
			}
			c.proxy.Heal()
			want[key] = data
		}
	}
	c.only(t, "after answers were lost", want)
}

// lostRace: of two exclusive writers the second one loses, also with an object in parts, and leaves nothing.
func lostRace(t *testing.T, c *cloud) {
	want := map[string][]byte{}
	sizes := []int{1000, part + 1000}
	if long {
		sizes = append(sizes, 2*part+1000)
	}
	for _, size := range sizes {
		key := fmt.Sprintf("race/%d", size)
		first, second := pattern(size), pattern(size+1)
		var writers []storage.Writer
		for _, data := range [][]byte{first, second} {
			w, err := c.Create(t.Context(), key, onlyNew)
			if err == nil {
				_, err = w.Write(data)
			}
			if err != nil {
				t.Fatal(err)
			}
			writers = append(writers, w)
		}
		if _, err := writers[0].Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := writers[1].Commit(t.Context()); !errors.Is(err, storage.ErrExists) {
			t.Errorf("the second writer of %d bytes: %v", size, err)
		}
		if err := storage.WriteFile(t.Context(), c, key, second, onlyNew); !errors.Is(err, storage.ErrExists) {
			t.Errorf("a late writer of %d bytes: %v", size, err)
		}
		want[key] = first
	}
	c.only(t, "after races", want)
}

// serverHangs: whatever a server that hangs is asked, the end of the context is the end of the call; and when it goes on there is nothing
// that it wasn't told to keep.
func serverHangs(t *testing.T, c *cloud) {
	data := pattern(2*part + 1000)
	thrice := bytes.Repeat(data, 3) // more than is ever on its way at once
	put(t, c.direct, "old", data)
	large, err := c.Create(t.Context(), "large", nil)
	if err == nil {
		_, err = large.Write(data[:part+1000])
	}
	if err != nil {
		t.Fatal(err)
	}
	c.server.Stop()
	defer c.server.Continue()
	time.Sleep(50 * time.Millisecond) // until each of its threads has stopped
	for what, call := range map[string]func(ctx context.Context) error{
		"Stat":   func(ctx context.Context) error { _, err := c.Stat(ctx, "old"); return err },
		"Delete": func(ctx context.Context) error { return c.Delete(ctx, "nothing") },
		"List": func(ctx context.Context) error {
			for _, err := range c.List(ctx, "") {
				return err
			}
			return nil
		},
		"Open":         func(ctx context.Context) error { _, err := read(ctx, c, "old", 0, -1); return err },
		"Open nothing": func(ctx context.Context) error { _, err := read(ctx, c, "old", 0, 0); return err },
		"small":        func(ctx context.Context) error { return storage.WriteFile(ctx, c, "small", data[:1000], nil) },
		"Write": func(ctx context.Context) error {
			return storage.WriteFile(ctx, c, "written", thrice, nil)
		},
		"Commit": func(ctx context.Context) error { _, err := large.Commit(ctx); return err },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		within(t, what, func() {
			if err := call(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: the error is %v, want %v", what, err, context.Canceled)
			}
		})
	}
	c.server.Continue()
	// What it had been told before it hung it may do now, as soon as it gets to that: all of it, or nothing.
	time.Sleep(300 * time.Millisecond)
	if _, err := c.direct.Stat(t.Context(), "old"); err != nil {
		t.Error(err)
	}
	known := map[string][]byte{"old": data, "small": data[:1000], "large": data[:part+1000], "written": thrice}
	for info, err := range c.direct.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if want := known[info.Key]; want == nil || !bytes.Equal(get(t, c.direct, info.Key), want) {
			t.Errorf("after the server went on there is %s with %d bytes, want the %d it was told", info.Key, info.Size, len(want))
		}
	}
	// A part that versitygw is late with has the upload back that was ended meanwhile. That is for a sweep, as what a kill leaves.
	if _, _, err := c.direct.SweepUnfinished(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	c.finished(t, "after the server went on")
}
