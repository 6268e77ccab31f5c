package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/retry"
)

// Snapshot returns an RDB file of so many keys whose values, of size bytes each, can't be compressed.
func Snapshot(keys, size int) []byte {
	noise := rand.NewChaCha8([32]byte{byte(keys), byte(size)})
	values := make([][]byte, keys)
	for i := range values {
		values[i] = make([]byte, size)
		noise.Read(values[i])
	}
	return rdbOf(values...)
}

// rdbOf returns an RDB file of strings.
func rdbOf(values ...[]byte) []byte {
	var b bytes.Buffer
	b.WriteString("REDIS0010\xfe\x00")
	for i, value := range values {
		key := fmt.Sprintf("key:%08d", i)
		b.WriteByte(0)
		b.WriteByte(byte(len(key)))
		b.WriteString(key)
		b.WriteByte(0x80)
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(value))))
		b.Write(value)
	}
	b.WriteByte(0xff)
	return binary.LittleEndian.AppendUint64(b.Bytes(), crc64.Checksum(b.Bytes()))
}

// A Bytes is a backup.Snapshotter of an RDB file.
type Bytes []byte

// Snapshot returns the snapshot.
func (b Bytes) Snapshot(ctx context.Context) (backup.Snapshot, error) { return b, ctx.Err() }

// Source says where it comes from.
func (Bytes) Source() catalog.Source { return catalog.Source{Engine: "redis", Method: "bytes"} }

// Parts lists the one part.
func (b Bytes) Parts() []backup.Part {
	return []backup.Part{{Name: "part-0000.rdb", Size: int64(len(b))}}
}

// Open reads it.
func (b Bytes) Open(context.Context, backup.Part) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b)), nil
}

// Close does nothing.
func (Bytes) Close() error { return nil }

// A Memory is a restore.Loader whose target is memory.
type Memory struct {
	Data  []byte // what the target holds
	Whole bool   // Load returned nil
}

// Check finds an empty target ready for anything.
func (m *Memory) Check(context.Context, restore.Requirements) (v restore.Verdict, err error) {
	v.Pass("reachable", "it is memory")
	return v, nil
}

// Load reads what it is given.
func (m *Memory) Load(ctx context.Context, src restore.Source, _ *restore.Options) (*restore.Report, error) {
	b := src.Backup()
	for _, p := range b.Parts {
		in, err := src.Open(ctx, p)
		if err == nil {
			var data []byte
			data, err = io.ReadAll(in)
			m.Data = append(m.Data, data...)
			in.Close()
		}
		if err != nil && len(m.Data) > 0 {
			err = &restore.PartialError{Target: "memory", State: restore.TargetPartial, Keys: -1, Err: err}
		}
		if err != nil {
			return nil, err
		}
	}
	m.Whole = true
	return &restore.Report{Target: "memory", Method: "memory", Keys: b.Keys, Functions: b.Functions, DBs: b.DBs, Bytes: int64(len(m.Data))}, nil
}

// A scene is what operations begin with: objects in the order in which they were written.
type scene struct {
	keys                 []string
	objects              map[string][]byte
	oldest, older, newer catalog.ID // of orders; newer is the newest, and the time of all three is over
	other                catalog.ID // of carts
	archived             catalog.ID // of orders, in the archive
	archive              storage.Store
	data                 []byte // of newer
}

// dumpKey is that of a file that a server left in the store.
const dumpKey = "dumps/dump.rdb"

// newScene makes a scene, of which time is now: three backups of one data store, one of another, a run that died, and a part whose record is lost.
func newScene(t testing.TB, now time.Time, data []byte) *scene {
	t.Helper()
	ctx, m, at := t.Context(), memstore.New(nil), now
	clock := func() time.Time { return at }
	s := &scene{objects: map[string][]byte{}, data: data}
	svc, err := amber.New(amber.Config{Store: m, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	make := func(dataStore string, hours int, data []byte, retain time.Duration) catalog.ID {
		at = now.Add(-time.Duration(hours) * time.Hour)
		b, err := svc.Backup(ctx, amber.BackupRequest{DataStore: dataStore, Snapshotter: Bytes(data), Retain: retain})
		if err != nil {
			t.Fatal(err)
		}
		return b.ID
	}
	small := Snapshot(20, 50)
	s.oldest = make("orders", 96, small, time.Hour)
	s.older = make("orders", 72, small, time.Hour)
	s.newer = make("orders", 48, data, time.Hour)
	s.other = make("carts", 47, small, 0)
	s.archive = memstore.New(nil)
	if svc, err = amber.New(amber.Config{Store: s.archive, Now: clock}); err != nil {
		t.Fatal(err)
	}
	s.archived = make("orders", 60, data, 0)
	at = now.Add(-40 * time.Hour)
	c, err := storecatalog.New(storecatalog.Config{Store: m, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	dead := &catalog.Backup{ID: catalog.NewID(at), DataStore: "carts", Kind: catalog.KindManual, State: catalog.StateRunning, CreatedAt: at}
	if _, err := c.Put(ctx, dead, ""); err != nil {
		t.Fatal(err)
	}
	lost := &catalog.Backup{ID: catalog.NewID(at.Add(-time.Hour)), DataStore: "orders"}
	for _, b := range []*catalog.Backup{dead, lost} {
		if err := storage.WriteFile(ctx, m, b.Prefix()+"part-0000.rdb.zst", []byte("begun"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := storage.WriteFile(ctx, m, dumpKey, data, nil); err != nil {
		t.Fatal(err)
	}
	for info := range m.List(ctx, "") {
		if s.objects[info.Key], err = storage.ReadFile(ctx, m, info.Key, 1<<30); err != nil {
			t.Fatal(err)
		}
		s.keys = append(s.keys, info.Key)
	}
	return s
}

// put writes the scene into a store.
func (s *scene) put(ctx context.Context, to storage.Store) error {
	for _, key := range s.keys {
		if err := storage.WriteFile(ctx, to, key, s.objects[key], nil); err != nil {
			return err
		}
	}
	return nil
}

// A world is a store with the scene in it, before an operation.
type world struct {
	*scene
	sound  storage.Store // never fails
	before *State
	late   atomic.Int64 // how far its clock is put forward, in nanoseconds
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.late.Load())) }

// archive is a store that nothing is deleted from, for it serves many worlds at once.
type archive struct{ storage.Store }

func (archive) Delete(context.Context, string) error { return storage.ErrRetained }

// service returns a service over a store, which tries again soon and finds out within stall that a call hangs.
func (w *world) service(s storage.Store, stall time.Duration) (*amber.Service, error) {
	return amber.New(amber.Config{Now: w.now, Store: retry.New(s, &retry.Options{Wait: time.Millisecond, Stall: stall, Hold: 32 << 10}),
		Stores: []amber.NamedStore{{Name: "archive", Store: archive{w.archive}}}})
}

// An Operation is something that a service does with its store.
type Operation struct {
	Name string
	// Do does it. What it returns beside the error is the ID of the backup that it made, if it made one.
	do func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error)
	// mine says which objects it may change.
	mine func(w *world, key string) bool
	// done says what is wrong after Do has returned nil.
	done func(w *world, after *State) []string
	// makes: it makes a backup.
	makes bool
	// outcome says what else is wrong.
	outcome func(w *world, err error) []string
}

func below(dataStore string, id catalog.ID) string { return dataStore + "/" + string(id) + "/" }

func leases(key string) bool { return strings.HasPrefix(key, "_leases/") }

// importing returns an operation that makes a backup of the file in the store.
func importing(name string, q amber.ImportRequest) func() *Operation {
	return func() *Operation {
		return &Operation{Name: name, makes: true, mine: func(_ *world, key string) bool { return leases(key) },
			do: func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error) {
				b, err := s.Import(ctx, q)
				if err != nil {
					return "", err
				}
				return b.ID, nil
			}}
	}
}

// operations returns every operation, each for one use.
func operations(names ...string) []func() *Operation {
	all := []func() *Operation{
		func() *Operation {
			return &Operation{Name: "backup", makes: true, mine: func(_ *world, key string) bool { return leases(key) },
				do: func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error) {
					b, err := s.Backup(ctx, amber.BackupRequest{DataStore: "orders", Name: "nightly", Snapshotter: Bytes(w.data)})
					if err != nil {
						return "", err
					}
					return b.ID, nil
				}}
		},
		importing("import", amber.ImportRequest{DataStore: "orders", Key: dumpKey}),
		importing("adopt", amber.ImportRequest{DataStore: "orders", Key: dumpKey, Adopt: true}),
		func() *Operation {
			return &Operation{Name: "copy", makes: true, mine: func(_ *world, key string) bool { return leases(key) },
				do: func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error) {
					_, err := s.CopyBackup(ctx, amber.CopyBackupRequest{Backup: w.archived})
					return w.archived, err
				}}
		},
		func() *Operation {
			return &Operation{Name: "verify", mine: func(*world, string) bool { return false },
				do: func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error) {
					_, err := s.Verify(ctx, w.newer, nil)
					return "", err
				}}
		},
		func() *Operation {
			var target Memory
			return &Operation{Name: "restore", mine: func(*world, string) bool { return false },
				do: func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error) {
					_, err := s.Restore(ctx, amber.RestoreRequest{Backup: w.newer, Loader: &target})
					return "", err
				},
				outcome: func(w *world, err error) (out []string) {
					var partial *restore.PartialError
					switch {
					case err == nil && (!target.Whole || !bytes.Equal(target.Data, w.data)):
						out = append(out, fmt.Sprintf("Restore returned nil, and the target has %d of %d bytes", len(target.Data), len(w.data)))
					case err != nil && len(target.Data) > 0 && !errors.As(err, &partial):
						out = append(out, "the target was touched, and the error doesn't say what it holds: "+err.Error())
					}
					return out
				}}
		},
		func() *Operation {
			return &Operation{Name: "delete",
				mine: func(w *world, key string) bool { return strings.HasPrefix(key, below("orders", w.oldest)) },
				do: func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error) {
					return "", s.Delete(ctx, w.oldest)
				},
				done: func(w *world, after *State) (out []string) {
					for key := range after.Objects {
						if strings.HasPrefix(key, below("orders", w.oldest)) {
							out = append(out, "Delete returned nil, and there is "+key)
						}
					}
					return out
				}}
		},
		func() *Operation {
			return &Operation{Name: "sweep",
				mine: func(w *world, key string) bool {
					return !strings.HasPrefix(key, below("orders", w.newer)) && !strings.HasPrefix(key, below("carts", w.other))
				},
				do: func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error) {
					_, err := s.Sweep(ctx, -1)
					return "", err
				},
				done: func(w *world, after *State) (out []string) {
					for _, key := range after.Garbage() {
						out = append(out, "Sweep returned nil and left "+key)
					}
					return out
				}}
		},
		func() *Operation {
			return &Operation{Name: "prune",
				mine: func(w *world, key string) bool {
					return strings.HasPrefix(key, below("orders", w.oldest)) || strings.HasPrefix(key, below("orders", w.older))
				},
				do: func(ctx context.Context, w *world, s *amber.Service) (catalog.ID, error) {
					_, err := s.Prune(ctx, amber.PruneRequest{})
					return "", err
				},
				done: func(w *world, after *State) (out []string) {
					for key := range after.Objects {
						if strings.HasPrefix(key, below("orders", w.oldest)) || strings.HasPrefix(key, below("orders", w.older)) {
							out = append(out, "Prune returned nil, and there is "+key)
						}
					}
					return out
				}}
		},
	}
	if len(names) == 0 {
		return all
	}
	var some []func() *Operation
	for _, f := range all {
		for _, n := range names {
			if f().Name == n {
				some = append(some, f)
			}
		}
	}
	return some
}
