package dumpfile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/rdb/aof"
	"github.com/amberkv/amber/storage"
)

// aofCalls does things before calls of a store, Reads of its readers among them.
type aofCalls struct {
	storage.Store
	n        int
	at       map[int]func()
	unpinned bool // what is read is what is there then, as if each read asked a bucket anew
}

func (c *aofCalls) call() {
	c.n++
	if do := c.at[c.n]; do != nil {
		do()
	}
}

func (c *aofCalls) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	c.call()
	r, err := c.Store.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return &aofCallsReader{ReadCloser: r, c: c, ctx: ctx, key: key, off: off}, nil
}

func (c *aofCalls) Stat(ctx context.Context, key string) (storage.Info, error) {
	c.call()
	return c.Store.Stat(ctx, key)
}

type aofCallsReader struct {
	io.ReadCloser
	c   *aofCalls
	ctx context.Context
	key string
	off int64
}

func (r *aofCallsReader) Read(p []byte) (int, error) {
	r.c.call()
	if r.c.unpinned {
		in, err := r.c.Store.Open(r.ctx, r.key, r.off, int64(len(p)))
		if err != nil {
			return 0, err
		}
		defer in.Close()
		n, err := in.Read(p)
		r.off += int64(n)
		return n, err
	}
	return r.ReadCloser.Read(p)
}

// A model of a server writes numbers into its increments, and rewrites its files in the steps in which servers do that.
type aofModel struct {
	t       *testing.T
	store   storage.Store
	n       int // numbers written
	inBase  int // of these, that are in the base
	covers  int // that the base will have which is being written
	seq     int // of the increment
	base    int // number of the base
	stage   int
	history []string
}

// basePad makes bases larger than what is read of them when the snapshot is taken.
var basePad = strings.Repeat("x", 300<<10)

func newAOFModel(t *testing.T, s storage.Store) *aofModel {
	m := &aofModel{t: t, store: s, seq: 1, base: 1}
	put(t, s, m.incr(1), nil)
	put(t, s, m.baseFile(), []byte(command("BASE", basePad, "0")))
	m.name(1)
	for range 3 {
		m.write()
	}
	return m
}

func (m *aofModel) incr(seq int) string { return fmt.Sprintf("dir/a.%d.incr.aof", seq) }
func (m *aofModel) baseFile() string    { return fmt.Sprintf("dir/a.%d.base.aof", m.base) }

func (m *aofModel) name(first int) {
	text := fmt.Sprintf("file a.%d.base.aof seq %d type b\n", m.base, m.base)
	for _, key := range m.history {
		text += fmt.Sprintf("file %s seq 1 type h\n", strings.TrimPrefix(key, "dir/"))
	}
	for seq := first; seq <= m.seq; seq++ {
		text += fmt.Sprintf("file a.%d.incr.aof seq %d type i\n", seq, seq)
	}
	put(m.t, m.store, manifest, []byte(text))
}

func (m *aofModel) write() {
	m.n++
	put(m.t, m.store, m.incr(m.seq), append(readKey(m.t, m.store, m.incr(m.seq)), command("SET", "n", strconv.Itoa(m.n))...))
}

func readKey(t testing.TB, s storage.Store, key string) []byte {
	t.Helper()
	data, err := storage.ReadFile(t.Context(), s, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// step does the next step of a rewrite, with a write before and behind it.
func (m *aofModel) step() {
	m.write()
	switch m.stage {
	case 0: // the fork: what comes now goes to a new increment
		m.covers = m.n
		m.seq++
		put(m.t, m.store, m.incr(m.seq), nil)
		m.name(m.seq - 1)
	case 1: // the base is written, and takes its place
		m.history = []string{m.baseFile(), m.incr(m.seq - 1)}
		m.base++
		m.inBase = m.covers
		put(m.t, m.store, m.baseFile(), []byte(command("BASE", basePad, strconv.Itoa(m.inBase))))
		m.name(m.seq)
	case 2, 3: // history goes
		if err := m.store.Delete(m.t.Context(), m.history[0]); err != nil {
			m.t.Fatal(err)
		}
		if m.history = m.history[1:]; len(m.history) == 0 {
			m.name(m.seq)
		}
	}
	m.stage = (m.stage + 1) % 4
	m.write()
}

// sound holds what a snapshot has against the model: numbers without a gap, and all that were written before it.
func sound(parts map[string]string, least int) error {
	next := -1
	for i := range len(parts) {
		text, ok := parts[fmt.Sprintf("%04d.base.aof", i)]
		if !ok {
			text = parts[fmt.Sprintf("%04d.incr.aof", i)]
		}
		for e, err := range aof.NewReader(strings.NewReader(text), nil).Entries() {
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(string(e.Args[len(e.Args)-1]))
			switch {
			case err != nil:
				return err
			case i == 0 && string(e.Args[0]) == "BASE":
			case n != next+1:
				return fmt.Errorf("%d follows %d", n, next)
			}
			next = n
		}
	}
	if next < least {
		return fmt.Errorf("it ends at %d, and %d were written before it", next, least)
	}
	return nil
}

// Whenever a step of a rewrite, or several, come between two calls of the store, the snapshot is sound, or says that it was overtaken.
func TestAOFRewriteAtAnyPoint(t *testing.T) {
	allSteps, allEvery := []int{1, 3}, []int{0, 2}
	if os.Getenv("CAMPAIGN") != "" {
		allSteps, allEvery = []int{1, 2, 3, 4, 5, 6}, []int{0, 1, 2, 3}
	}
	for _, unpinned := range []bool{false, true} {
		outcomes := map[string]int{}
		for stage := range 4 {
			for _, steps := range allSteps {
				for _, every := range allEvery {
					for k := 1; ; k++ {
						store := memory()
						m := newAOFModel(t, store)
						for range stage {
							m.step()
						}
						calls := &aofCalls{Store: store, at: map[int]func(){}, unpinned: unpinned}
						done := false
						for i := range steps {
							at := k + i*every
							before := calls.at[at]
							calls.at[at] = func() {
								if before != nil {
									before()
								}
								m.step()
								done = true
							}
						}
						least := m.n
						got, err := contents(t, newAOF(t, dumpfile.AOFConfig{Store: calls, Dir: "dir", Name: "a"}))
						if !done {
							break
						}
						switch {
						case errors.Is(err, dumpfile.ErrChanged):
							outcomes["changed"]++
							if !unpinned {
								t.Errorf("stage %d, %d steps, call %d: from a store that keeps what was opened: %v", stage, steps, k, err)
							}
						case err != nil:
							t.Errorf("stage %d, %d steps, call %d: %v", stage, steps, k, err)
						default:
							outcomes["sound"]++
							if err := sound(got, least); err != nil {
								t.Errorf("stage %d, %d steps from call %d, each %d calls: %v (%d parts)", stage, steps, k, every, err, len(got))
							}
						}
					}
				}
			}
		}
		t.Log(unpinned, outcomes)
		if outcomes["sound"] == 0 || unpinned && outcomes["changed"] == 0 {
			t.Errorf("outcomes: %v", outcomes)
		}
	}
}

// A server that rewrites its files each time is given up, and may be asked again later; and the wait between ends with the context.
func TestAOFRewrittenAlways(t *testing.T) {
	store := memory()
	m := newAOFModel(t, store)
	calls := &aofCalls{Store: store, at: map[int]func(){}}
	for i := range 1000 {
		calls.at[i] = func() { m.stage = 0; m.history = nil; m.step() }
	}
	_, err := contents(t, newAOF(t, dumpfile.AOFConfig{Store: calls, Dir: "dir", Name: "a"}))
	if !errors.Is(err, dumpfile.ErrChanged) || !errors.Is(err, backup.ErrTransient) || !strings.Contains(err.Error(), "5 times") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := newAOF(t, dumpfile.AOFConfig{Store: calls, Dir: "dir", Name: "a"}).Snapshot(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
