package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// A hooked store is a good one but for the methods that are set.
type hooked struct {
	*memstore.Store
	create func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error)
	open   func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
	stat   func(ctx context.Context, key string) (storage.Info, error)
	list   func(infos []storage.Info) []storage.Info
	delete func(ctx context.Context, key string) error
	sign   func(key string) string
	sweep  func() (int, int64, error)
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
	if h.list == nil {
		return h.Store.List(ctx, prefix)
	}
	return func(yield func(storage.Info, error) bool) {
		var infos []storage.Info
		for info, err := range h.Store.List(ctx, prefix) {
			if err != nil {
				yield(info, err)
				return
			}
			infos = append(infos, info)
		}
		for _, info := range h.list(infos) {
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (h *hooked) Delete(ctx context.Context, key string) error {
	if h.delete != nil {
		return h.delete(ctx, key)
	}
	return h.Store.Delete(ctx, key)
}

func (h *hooked) SignGet(_ context.Context, key string, _ time.Duration) (string, error) {
	if h.sign == nil {
		return "", errors.ErrUnsupported
	}
	return h.sign(key), nil
}

func (h *hooked) SweepUnfinished(context.Context, time.Time) (int, int64, error) {
	if h.sweep == nil {
		return 0, 0, nil
	}
	return h.sweep()
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
func writers(change func(m *memstore.Store, key string, w *hookedWriter)) func(*memstore.Store) *hooked {
	return func(m *memstore.Store) *hooked {
		return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
			w, err := m.Create(ctx, key, opts)
			if err != nil {
				return nil, err
			}
			h := &hookedWriter{Writer: w}
			change(m, key, h)
			return h, nil
		}}
	}
}

// Stores that break the contract, and the check that has to find each.
func TestDoctorBrokenStores(t *testing.T) {
	ctx := t.Context()
	for name, broken := range map[string]struct {
		check  string
		advice string // in it, or in what was seen
		store  func(m *memstore.Store) *hooked
	}{
		"tells another size": {"put", "don't keep backups", writers(func(m *memstore.Store, key string, w *hookedWriter) {
			w.commit = func(ctx context.Context) (storage.Info, error) {
				info, err := w.Writer.Commit(ctx)
				info.Size--
				return info, err
			}
		})},
		"cuts what is large": {"put large", "don't keep backups", writers(func(m *memstore.Store, key string, w *hookedWriter) {
			left := 256 << 10
			w.write = func(p []byte) (int, error) {
				_, err := w.Writer.Write(p[:min(left, len(p))])
				left -= min(left, len(p))
				return len(p), err
			}
		})},
		"cuts what is read": {"get", "don't keep backups", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
				if n < 0 && off == 0 {
					n = 200 << 10
				}
				return m.Open(ctx, key, off, n)
			}}
		}},
		"changes a bit": {"get", "don't keep backups", writers(func(m *memstore.Store, key string, w *hookedWriter) {
			w.write = func(p []byte) (int, error) {
				p = bytes.Clone(p)
				p[len(p)/2] ^= 1
				return w.Writer.Write(p)
			}
		})},
		"gives all for a range": {"range get", "proxy", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
				return m.Open(ctx, key, 0, -1)
			}}
		}},
		"a range begins a byte late": {"range get", "proxy", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
				if off > 0 {
					off++
				}
				return m.Open(ctx, key, off, n)
			}}
		}},
		"a range past the end is an error": {"range get", "own tools", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
				if info, err := m.Stat(ctx, key); err == nil && off > info.Size {
					return nil, errors.New("416")
				}
				return m.Open(ctx, key, off, n)
			}}
		}},
		"stat finds everything": {"stat", "don't keep backups", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, stat: func(ctx context.Context, key string) (storage.Info, error) {
				if info, err := m.Stat(ctx, key); err == nil || !strings.HasSuffix(key, "/missing") {
					return info, err
				}
				return storage.Info{Key: key}, nil
			}}
		}},
		"stat tells another size": {"stat", "don't keep backups", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, stat: func(ctx context.Context, key string) (storage.Info, error) {
				info, err := m.Stat(ctx, key)
				if info.Size > 100<<10 {
					info.Size = 100 << 10
				}
				return info, err
			}}
		}},
		"lists late": {"list", "replica", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, list: func(infos []storage.Info) []storage.Info { return infos[:max(0, len(infos)-1)] }}
		}},
		"lists twice": {"list", "replica", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, list: func(infos []storage.Info) []storage.Info { return append(infos, infos[max(0, len(infos)-1):]...) }}
		}},
		"lists backwards": {"list", "replica", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, list: func(infos []storage.Info) []storage.Info { slices.Reverse(infos); return infos }}
		}},
		"lists what is unfinished": {"list", "replica", writers(func(m *memstore.Store, key string, w *hookedWriter) {
			if strings.HasSuffix(key, "large") {
				storage.WriteFile(ctx, m, key+".tmp", nil, nil)
			}
		})},
		"lists a page": {"list pages", "replica", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, list: func(infos []storage.Info) []storage.Info { return infos[:min(10, len(infos))] }}
		}},
		"not exclusive": {"exclusive create", "database", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
				return m.Create(ctx, key, nil)
			}}
		}},
		"exclusive by a look": {"exclusive race", "more than one won", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
				w, err := m.Create(ctx, key, nil)
				if err != nil || opts == nil || !opts.IfNotExist {
					return w, err
				}
				return &hookedWriter{Writer: w, commit: func(ctx context.Context) (storage.Info, error) {
					if _, err := m.Stat(ctx, key); err == nil {
						return storage.Info{}, storage.ErrExists
					}
					time.Sleep(time.Millisecond)
					return w.Commit(ctx)
				}}, nil
			}}
		}},
		"nobody wins": {"exclusive race", "none won", func(m *memstore.Store) *hooked {
			var mu sync.Mutex
			writing := map[string]int{}
			return &hooked{Store: m, create: func(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
				w, err := m.Create(ctx, key, opts)
				if err != nil {
					return nil, err
				}
				mu.Lock()
				defer mu.Unlock()
				writing[key]++
				return &hookedWriter{Writer: w, commit: func(ctx context.Context) (storage.Info, error) {
					mu.Lock()
					defer mu.Unlock()
					if strings.Contains(key, "race") && writing[key] > 1 {
						return storage.Info{}, storage.ErrExists
					}
					return w.Commit(ctx)
				}}, nil
			}}
		}},
		"loses what overwrites": {"overwrite", "cache", writers(func(m *memstore.Store, key string, w *hookedWriter) {
			if old, err := m.Stat(ctx, key); err == nil {
				size := int64(0)
				w.write = func(p []byte) (int, error) { size += int64(len(p)); return len(p), nil }
				w.commit = func(context.Context) (storage.Info, error) {
					w.Writer.Abort()
					return storage.Info{Key: key, Size: size, ModTime: old.ModTime}, nil
				}
			}
		})},
		"reads from a cache": {"overwrite", "cache", func(m *memstore.Store) *hooked {
			cache := map[string][]byte{}
			return &hooked{Store: m, open: func(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
				if strings.HasSuffix(key, "small") {
					if cache[key] == nil {
						cache[key], _ = storage.ReadFile(ctx, m, key, 1<<20)
					}
					if _, err := m.Stat(ctx, key); err == nil {
						return io.NopCloser(bytes.NewReader(cache[key][off:])), nil
					}
				}
				return m.Open(ctx, key, off, n)
			}}
		}},
		"publishes what is aborted": {"abort", "don't keep backups", writers(func(m *memstore.Store, key string, w *hookedWriter) {
			w.abort = func() error { w.Writer.Commit(ctx); return nil }
		})},
		"publishes what is aborted and large": {"abort", "don't keep backups", writers(func(m *memstore.Store, key string, w *hookedWriter) {
			size := 0
			w.write = func(p []byte) (int, error) { size += len(p); return w.Writer.Write(p) }
			w.abort = func() error {
				if size > 100<<10 {
					w.Writer.Commit(ctx)
				}
				return w.Writer.Abort()
			}
		})},
		"deletes nothing": {"delete", "cache", func(m *memstore.Store) *hooked {
			first := true
			return &hooked{Store: m, delete: func(ctx context.Context, key string) error {
				if first {
					first = false
					return nil
				}
				return m.Delete(ctx, key)
			}}
		}},
		"deletes all": {"delete", "cache", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, delete: func(ctx context.Context, key string) error {
				err := m.Delete(ctx, key)
				for info := range m.List(ctx, key[:strings.LastIndex(key, "/")]) {
					m.Delete(ctx, info.Key)
				}
				return err
			}}
		}},
		"lists what was deleted": {"delete", "cache", func(m *memstore.Store) *hooked {
			seen := map[string]storage.Info{}
			return &hooked{Store: m, list: func(infos []storage.Info) []storage.Info {
				for _, info := range infos {
					seen[info.Key] = info
				}
				if len(infos) == 0 {
					for key, info := range seen {
						if strings.HasSuffix(key, "/small") {
							return []storage.Info{info}
						}
					}
				}
				return infos
			}}
		}},
		"deletes what is missing": {"delete missing", "don't keep backups", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, delete: func(ctx context.Context, key string) error {
				if err := m.Delete(ctx, key); !errors.Is(err, storage.ErrNotFound) {
					return err
				}
				return nil
			}}
		}},
		"sweeps what is new": {"sweep", "don't keep backups", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, sweep: func() (int, int64, error) { return 1, 10, nil }}
		}},
		"has no clock": {"clock", "NTP", writers(func(m *memstore.Store, key string, w *hookedWriter) {
			w.commit = func(ctx context.Context) (storage.Info, error) {
				info, err := w.Writer.Commit(ctx)
				info.ModTime = time.Time{}
				return info, err
			}
		})},
		"signs a path": {"signed URL", "endpoint", func(m *memstore.Store) *hooked {
			return &hooked{Store: m, sign: func(key string) string { return "/CANARY/" + key }}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := memstore.New(nil)
			if err := storage.WriteFile(ctx, m, "orders/data", []byte("x"), nil); err != nil {
				t.Fatal(err)
			}
			opts := quick()
			opts.Objects = 20
			var d *storage.Diagnosis
			synctest.Test(t, func(t *testing.T) { d = storage.Doctor(t.Context(), broken.store(m), opts) }) // who looks at the same time does
			failed := checks(d, "fail")
			if len(failed) == 0 || failed[0] != broken.check || d.OK {
				t.Fatalf("the checks that fail are %v, want %q first\n%s", failed, broken.check, describe(d))
			}
			if f := finding(t, d, broken.check); f.Advice == "" || !strings.Contains(f.Seen+"; "+f.Advice, broken.advice) || strings.Contains(f.Seen, "CANARY") {
				t.Errorf("the finding is %+v, want advice with %q", f, broken.advice)
			}
			if got := keys(t, m); !slices.Equal(got, []string{"orders/data"}) {
				t.Errorf("the store holds %v", got)
			}
		})
	}
}
