package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

const brokenEnv = "STORETEST_BROKEN"

// TestGoodStore is what TestBroken runs in a child process, with a store that breaks one rule. By itself it shows
// that the suite passes a store that breaks none.
func TestGoodStore(t *testing.T) {
	opts := &storetest.Options{InProcess: true}
	name := os.Getenv(brokenEnv)
	if name == "memory of one process" {
		opts = &storetest.Options{
			Locate: func(storage.Store) string { return "here" },
			Reopen: func(string) (storage.Store, error) { return memstore.New(nil), nil },
		}
	}
	storetest.Run(t, func(t *testing.T) storage.Store {
		if name == "" {
			return memstore.New(nil)
		}
		return broken[name].open(memstore.New(nil))
	}, opts)
}

// TestLimitedStore: the suite passes a store that has no exclusive creates and says so.
func TestLimitedStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storage.Store {
		m := memstore.New(nil)
		return &limited{hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
			if onlyNew(opts) && storage.ValidKey(key) == nil {
				return nil, fmt.Errorf("create %s: %w", key, errors.ErrUnsupported)
			}
			return m.Create(ctx, key, opts)
		}}}
	}, &storetest.Options{InProcess: true, Objects: 100})
}

// A limited store is one that says it has no exclusive creates.
type limited struct{ hooked }

func (*limited) Capabilities() storage.Capabilities { return storage.Capabilities{} }

// TestBroken shows that every subtest of the suite finds a store that breaks its rule.
func TestBroken(t *testing.T) {
	if os.Getenv(brokenEnv) != "" {
		t.Fatal("TestBroken was started by itself")
	}
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGoodStore$/^"+b.caught+"$", "-test.timeout=1m")
			cmd.Env = append(os.Environ(), brokenEnv+"="+name)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("%s passed a store with this fault: %v\n%s", b.caught, err, out)
			}
			if !bytes.Contains(out, []byte("--- FAIL: TestGoodStore/"+b.caught)) || !bytes.Contains(out, []byte("The rule: ")) {
				t.Errorf("the failure doesn't say which rule was broken:\n%s", out)
			}
		})
	}
}

// TestEveryRuleHasABrokenStore holds the table below complete: a rule that nothing breaks may not be tested at all.
func TestEveryRuleHasABrokenStore(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGoodStore$", "-test.v")
	cmd.Env = append(os.Environ(), brokenEnv+"=") // the good one
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the suite doesn't pass a good store: %v\n%s", err, out)
	}
	caught := map[string]bool{}
	for _, b := range broken {
		caught[b.caught] = true
	}
	rules := 0
	for line := range strings.Lines(string(out)) {
		if _, rule, ok := strings.Cut(strings.TrimSpace(line), "=== RUN   TestGoodStore/"); ok {
			rules++
			if !caught[rule] {
				t.Errorf("no store in this test breaks the rule %s", rule)
			}
		}
	}
	if rules < 30 {
		t.Errorf("the suite has only %d rules:\n%s", rules, out)
	}
}

// A hooked store is a good one but for the methods that are set.
type hooked struct {
	*memstore.Store
	create func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error)
	open   func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
	stat   func(ctx context.Context, key string) (storage.Info, error)
	list   func(ctx context.Context, prefix string) iter.Seq2[storage.Info, error]
	delete func(ctx context.Context, key string) error
}

func (h *hooked) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if h.create != nil {
		return h.create(ctx, key, opts)
	}
	return h.Store.Create(ctx, key, opts)
}

func (h *hooked) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if h.open != nil {
		return h.open(ctx, key, off, n)
	}
	return h.Store.Open(ctx, key, off, n)
}

func (h *hooked) Stat(ctx context.Context, key string) (storage.Info, error) {
	if h.stat != nil {
		return h.stat(ctx, key)
	}
	return h.Store.Stat(ctx, key)
}

func (h *hooked) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	if h.list != nil {
		return h.list(ctx, prefix)
	}
	return h.Store.List(ctx, prefix)
}

func (h *hooked) Delete(ctx context.Context, key string) error {
	if h.delete != nil {
		return h.delete(ctx, key)
	}
	return h.Store.Delete(ctx, key)
}

// A hookedWriter is a good one but for the methods that are set.
type hookedWriter struct {
	storage.Writer
	write  func(p []byte) (int, error)
	commit func(ctx context.Context) (storage.Info, error)
	abort  func() error
}

func (w *hookedWriter) Write(p []byte) (int, error) {
	if w.write != nil {
		return w.write(p)
	}
	return w.Writer.Write(p)
}

func (w *hookedWriter) Commit(ctx context.Context) (storage.Info, error) {
	if w.commit != nil {
		return w.commit(ctx)
	}
	return w.Writer.Commit(ctx)
}

func (w *hookedWriter) Abort() error {
	if w.abort != nil {
		return w.abort()
	}
	return w.Writer.Abort()
}

// writers returns a store whose writers are changed by change.
func writers(change func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter)) func(*memstore.Store) storage.Store {
	return func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
			w, err := m.Create(ctx, key, opts)
			if err != nil {
				return nil, err
			}
			h := &hookedWriter{Writer: w}
			change(m, key, opts, h)
			return h, nil
		}}
	}
}

// lists returns a store whose listing is changed by change.
func lists(change func(infos []storage.Info) []storage.Info) func(*memstore.Store) storage.Store {
	return func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, list: func(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
			return func(yield func(storage.Info, error) bool) {
				var infos []storage.Info
				for info, err := range m.List(ctx, prefix) {
					if err != nil {
						yield(info, err)
						return
					}
					infos = append(infos, info)
				}
				for _, info := range change(infos) {
					if !yield(info, nil) {
						return
					}
				}
			}
		}}
	}
}

func onlyNew(opts *storage.CreateOptions) bool { return opts != nil && opts.IfNotExist }

// plain creates an object without a condition.
func plain(m *memstore.Store, key string, data []byte) error {
	return storage.WriteFile(context.Background(), m, key, data, nil)
}

// broken are stores that break one rule each, and the subtests that must find it.
var broken = map[string]struct {
	caught string
	open   func(m *memstore.Store) storage.Store
}{
	"visible with the first byte": {"visible-by-commit", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.write = func(p []byte) (int, error) { plain(m, key, p); return w.Writer.Write(p) }
	})},
	"size of Commit wrong": {"info", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.commit = func(ctx context.Context) (storage.Info, error) {
			info, err := w.Writer.Commit(ctx)
			info.Size++
			return info, err
		}
	})},
	"empty objects are lost": {"empty-object", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		n := 0
		w.write = func(p []byte) (int, error) { n += len(p); return w.Writer.Write(p) }
		w.commit = func(ctx context.Context) (storage.Info, error) {
			if n == 0 {
				return storage.Info{Key: key}, w.Writer.Abort()
			}
			return w.Writer.Commit(ctx)
		}
	})},
	"a megabyte is cut": {"large-object", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.write = func(p []byte) (int, error) {
			n, err := w.Writer.Write(p[:min(len(p), 1<<20)])
			return n + len(p) - min(len(p), 1<<20), err
		}
	})},
	"written when committed": {"write-keeps-nothing", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		var kept [][]byte
		w.write = func(p []byte) (int, error) { kept = append(kept, p); return len(p), nil }
		w.commit = func(ctx context.Context) (storage.Info, error) {
			for _, p := range kept {
				w.Writer.Write(p)
			}
			return w.Writer.Commit(ctx)
		}
	})},
	"Abort commits": {"abort", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.abort = func() error { w.Writer.Commit(context.Background()); return nil }
	})},
	"Abort removes what was committed": {"abort-after-commit", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.abort = func() error { m.Delete(context.Background(), key); return w.Writer.Abort() }
	})},
	"Commit again": {"after-commit", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.commit = func(ctx context.Context) (storage.Info, error) {
			w.Writer.Commit(ctx)
			return m.Stat(ctx, key)
		}
	})},
	"written in place": {"replace", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		if _, err := m.Stat(context.Background(), key); err == nil && !onlyNew(opts) {
			plain(m, key, nil)
		}
	})},
	"read from the version of the moment": {"replace-while-read", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
			if _, err := m.Stat(ctx, key); err != nil || n >= 0 {
				return m.Open(ctx, key, off, n)
			}
			return io.NopCloser(&rereader{ctx, m, key, off}), nil
		}}
	}},
	"exclusive by a look at Create": {"exclusive", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
			if _, err := m.Stat(ctx, key); err == nil && onlyNew(opts) {
				return nil, storage.ErrExists
			}
			return m.Create(ctx, key, nil)
		}}
	}},
	"not exclusive, and silent about it": {"exclusive", func(m *memstore.Store) storage.Store { return &limited{hooked{Store: m}} }},
	"exclusive by a look at Commit": {"exclusive-race", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
			w, err := m.Create(ctx, key, nil)
			if err != nil || !onlyNew(opts) {
				return w, err
			}
			return &hookedWriter{Writer: w, commit: func(ctx context.Context) (storage.Info, error) {
				if _, err := m.Stat(ctx, key); err == nil {
					w.Abort()
					return storage.Info{}, storage.ErrExists
				}
				time.Sleep(time.Millisecond)
				return w.Commit(ctx)
			}}, nil
		}}
	}},
	"memory of one process": {"exclusive-race-processes", func(m *memstore.Store) storage.Store { return m }},
	"case of keys is lost": {"valid-keys", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m,
			create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
				return m.Create(ctx, strings.ToLower(key), opts)
			},
			open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
				return m.Open(ctx, strings.ToLower(key), off, n)
			},
		}
	}},
	"keys are cleaned": {"invalid-keys", func(m *memstore.Store) storage.Store {
		clean := func(key string) string { return strings.TrimPrefix(path.Clean("/"+key), "/") }
		return &hooked{Store: m,
			stat:   func(ctx context.Context, key string) (storage.Info, error) { return m.Stat(ctx, clean(key)) },
			delete: func(ctx context.Context, key string) error { return m.Delete(ctx, clean(key)) },
		}
	}},
	"a range past the end is an error": {"range", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
			if info, err := m.Stat(ctx, key); err == nil && off > info.Size {
				return nil, errors.New("the range can't be satisfied")
			}
			return m.Open(ctx, key, off, n)
		}}
	}},
	"Delete of nothing succeeds": {"missing", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, delete: func(ctx context.Context, key string) error {
			if err := m.Delete(ctx, key); !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			return nil
		}}
	}},
	"Delete takes a prefix": {"delete", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, delete: func(ctx context.Context, key string) error {
			err := m.Delete(ctx, key)
			for info := range m.List(ctx, key) {
				m.Delete(ctx, info.Key)
			}
			return err
		}}
	}},
	"Delete takes the directory": {"delete-while-create", func(m *memstore.Store) storage.Store {
		var mu sync.Mutex
		taken := map[string]int{}
		count := func(dir string, n int) int {
			mu.Lock()
			defer mu.Unlock()
			taken[dir] += n
			return taken[dir]
		}
		return &hooked{Store: m,
			create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
				w, err := m.Create(ctx, key, opts)
				before := count(path.Dir(key), 0)
				return &hookedWriter{Writer: w, commit: func(ctx context.Context) (storage.Info, error) {
					if count(path.Dir(key), 0) != before {
						return storage.Info{}, errors.New("no such directory")
					}
					return w.Commit(ctx)
				}}, err
			},
			delete: func(ctx context.Context, key string) error {
				err := m.Delete(ctx, key)
				for range m.List(ctx, path.Dir(key)+"/") {
					return err
				}
				count(path.Dir(key), 1)
				return err
			},
		}
	}},
	"order of a walk": {"list-order", lists(func(infos []storage.Info) []storage.Info {
		slices.SortFunc(infos, func(a, b storage.Info) int {
			return slices.Compare(strings.Split(a.Key, "/"), strings.Split(b.Key, "/"))
		})
		return infos
	})},
	"prefix is a directory": {"list-prefix", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, list: func(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
			if prefix != "" && !strings.HasSuffix(prefix, "/") {
				prefix += "/"
			}
			return m.List(ctx, prefix)
		}}
	}},
	"one page of a list": {"list-many", lists(func(infos []storage.Info) []storage.Info { return infos[:min(len(infos), 1000)] })},
	"a list can be read once": {"list-break", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, list: func(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
			next, stop := iter.Pull2(m.List(ctx, prefix))
			return func(yield func(storage.Info, error) bool) {
				for {
					info, err, ok := next()
					if !ok || !yield(info, err) {
						break
					}
				}
				_ = stop
			}
		}}
	}},
	"temporary objects are listed": {"list-unfinished", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		plain(m, key+".tmp", nil)
		w.commit = func(ctx context.Context) (storage.Info, error) {
			m.Delete(ctx, key+".tmp")
			return w.Writer.Commit(ctx)
		}
	})},
	"replaced by delete and create": {"list-while-changed", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.commit = func(ctx context.Context) (storage.Info, error) {
			if m.Delete(ctx, key) == nil {
				time.Sleep(time.Millisecond)
			}
			return w.Writer.Commit(ctx)
		}
	})},
	"no look at the context of Stat": {"cancelled-before", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, stat: func(ctx context.Context, key string) (storage.Info, error) {
			return m.Stat(context.WithoutCancel(ctx), key)
		}}
	}},
	"no look at the context of Create": {"cancelled-write", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
			return m.Create(context.WithoutCancel(ctx), key, opts)
		}}
	}},
	"no look at the context of Commit": {"cancelled-commit", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.commit = func(ctx context.Context) (storage.Info, error) { return w.Writer.Commit(context.WithoutCancel(ctx)) }
	})},
	"no look at the context of Open": {"cancelled-read", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
			return m.Open(context.WithoutCancel(ctx), key, off, n)
		}}
	}},
	"a cancelled list ends in silence": {"cancelled-list", func(m *memstore.Store) storage.Store {
		return &hooked{Store: m, list: func(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
			return func(yield func(storage.Info, error) bool) {
				for info, err := range m.List(ctx, prefix) {
					if err != nil || !yield(info, nil) {
						return
					}
				}
			}
		}}
	}},
	"Commit takes its time": {"cancelled-at-work", writers(func(m *memstore.Store, key string, opts *storage.CreateOptions, w *hookedWriter) {
		w.commit = func(ctx context.Context) (storage.Info, error) {
			time.Sleep(4 * time.Second)
			return w.Writer.Commit(ctx)
		}
	})},
	"one buffer for all writers": {"concurrent", func(m *memstore.Store) storage.Store {
		var mu sync.Mutex
		var buf []byte
		return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
			w, err := m.Create(ctx, key, opts)
			return &hookedWriter{Writer: w,
				write: func(p []byte) (int, error) {
					mu.Lock()
					buf = append(buf[:0], p...)
					mu.Unlock()
					time.Sleep(100 * time.Microsecond)
					return len(p), nil
				},
				commit: func(ctx context.Context) (storage.Info, error) {
					mu.Lock()
					w.Write(buf)
					mu.Unlock()
					return w.Commit(ctx)
				},
			}, err
		}}
	}},
	"a sweep takes objects": {"sweep", func(m *memstore.Store) storage.Store { return &sweeper{m} }},
}

// A rereader reads each piece from the version of that moment.
type rereader struct {
	ctx context.Context
	m   *memstore.Store
	key string
	off int64
}

func (r *rereader) Read(p []byte) (int, error) {
	in, err := r.m.Open(r.ctx, r.key, r.off, int64(min(len(p), 1000)))
	if err != nil {
		return 0, err
	}
	n, err := in.Read(p)
	r.off += int64(n)
	return n, err
}

// A sweeper removes committed objects as well.
type sweeper struct{ *memstore.Store }

func (s *sweeper) SweepUnfinished(ctx context.Context, before time.Time) (int, int64, error) {
	for info := range s.List(ctx, "") {
		if info.ModTime.Before(before) {
			s.Delete(ctx, info.Key)
			return 1, info.Size, nil
		}
	}
	return 0, 0, nil
}
