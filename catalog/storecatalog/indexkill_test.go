//go:build unix

package storecatalog_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// A dying store kills its process at a call.
type dying struct {
	storage.Store
	left atomic.Int64 // calls until then; 0: never
}

func (d *dying) call() {
	if d.left.Load() > 0 && d.left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (d *dying) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	d.call()
	w, err := d.Store.Create(ctx, key, opts)
	return &dyingWriter{w, d}, err
}

type dyingWriter struct {
	storage.Writer
	d *dying
}

// Commit counts twice: the process may die before and after it.
func (w *dyingWriter) Commit(ctx context.Context) (storage.Info, error) {
	w.d.call()
	info, err := w.Writer.Commit(ctx)
	w.d.call()
	return info, err
}

func (d *dying) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	d.call()
	return d.Store.Open(ctx, key, off, n)
}

func (d *dying) Stat(ctx context.Context, key string) (storage.Info, error) {
	d.call()
	return d.Store.Stat(ctx, key)
}

func (d *dying) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	d.call()
	return d.Store.List(ctx, prefix)
}

func (d *dying) Delete(ctx context.Context, key string) error {
	d.call()
	err := d.Store.Delete(ctx, key)
	d.call()
	return err
}

// TestKillIndex kills processes, by a signal that nobody can catch, at every call of the store that a writer, a maker of summaries and a Reindex make, while two
// others write, read and make summaries: whatever a process has said it put is on the pages at once, and after a Reindex the pages are the list. With CAMPAIGN=1
// it is every call, else each ninth.
func TestKillIndex(t *testing.T) {
	step := 9
	if os.Getenv("CAMPAIGN") != "" {
		step = 1
	}
	dir := t.TempDir()
	c := newCatalog(t, openFile(t, dir), nil)
	indexed(t, openFile(t, dir))
	others := []*child{start(t, dir), start(t, dir)}
	number := 0
	kills := 0
	for call := 1; call <= 60; call += step {
		p := start(t, dir)
		said := map[catalog.ID]catalog.State{}
		put := func(p *child, alive bool) (ended bool) {
			number++
			id, rev := backup(number, catalog.StateRunning).ID, ""
			for _, state := range []catalog.State{catalog.StateRunning, catalog.StateReady, catalog.StateFailed} {
				if _, err := fmt.Fprintf(p.in, "put %s %q %s 1\n", id, rev, state); err != nil {
					return true
				}
				if !p.out.Scan() {
					if alive {
						t.Error("a process has ended that was not killed")
					}
					delete(said, id) // nobody knows what came of it
					return true
				}
				next, ok := strings.CutPrefix(p.out.Text(), "revision ")
				if !ok {
					t.Errorf("put: %s", p.out.Text())
					return true
				}
				rev = next
				said[id] = state
			}
			return false
		}
		p.tell("die x x x %d", call)
		ended := put(p, false)
		for i, cmd := range []string{"summarize", "page", "reindex", "summarize"} {
			others[i%2].tell("%s", []string{"summarize", "page"}[i/2])
			if !ended {
				_, err := fmt.Fprintln(p.in, cmd)
				ended = err != nil || !p.out.Scan()
			}
			answer := others[i%2].hear()
			if answer != "done <nil>" {
				t.Fatalf("a process that was not killed says %q", answer)
			}
		}
		if ended {
			kills++
		}
		put(others[call%2], true)
		for id, state := range said {
			page, _, err := newCatalog(t, openFile(t, dir), nil).Page(t.Context(), catalog.Query{States: []catalog.State{state}, Text: string(id)}, catalog.Cursor{}, 10)
			if err != nil || len(page) != 1 {
				t.Fatalf("killed at call %d: %s was put as %s, and the page has %v, %v", call, id, state, states(page), err)
			}
		}
	}
	if kills < 3 {
		t.Errorf("only %d processes were killed", kills)
	}
	indexed(t, openFile(t, dir))
	listed, paged := everything(t, c)
	if !reflect.DeepEqual(listed, paged) {
		t.Errorf("the pages have %v, listed are %v", states(paged), states(listed))
	}
}
