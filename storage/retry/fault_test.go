package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/retry"
	"github.com/amberkv/amber/storage/storetest"
)

// swift finds out soon that a call hangs, and holds little. Time passes only while everybody waits, so that no machine is too slow for it.
var swift = &retry.Options{Wait: time.Millisecond, Stall: 10 * time.Millisecond, Hold: 500}

var ops = []storetest.Op{storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpOpen, storetest.OpRead, storetest.OpStat,
	storetest.OpList, storetest.OpDelete, storetest.OpSweep}

var onlyNew = &storage.CreateOptions{IfNotExist: true}

func noise(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

// unversioned hides which version a reader reads.
type unversioned struct{ storage.Store }

func (s unversioned) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r, err := s.Store.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return struct{ io.ReadCloser }{r}, nil
}

func write(ctx context.Context, s storage.Store, key string, data []byte, opts *storage.CreateOptions) error {
	w, err := s.Create(ctx, key, opts)
	if err != nil {
		return err
	}
	defer w.Abort()
	for piece := range slices.Chunk(data, 100) {
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	info, err := w.Commit(ctx)
	if err == nil && (info.Size != int64(len(data)) || info.Key != key) {
		return fmt.Errorf("Commit of %d bytes of %s gives %+v", len(data), key, info)
	}
	return err
}

func read(ctx context.Context, s storage.Store, key string, off, n int64) ([]byte, error) {
	r, err := s.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var got []byte
	for buf := make([]byte, 70); ; {
		k, err := r.Read(buf)
		got = append(got, buf[:k]...)
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

// work uses every method of a store, and returns the first thing that isn't as it should be.
func work(ctx context.Context, s storage.Store) error {
	data := noise(350)
	for _, opts := range []*storage.CreateOptions{nil, onlyNew} {
		key := map[bool]string{true: "a/plain", false: "a/exclusive"}[opts == nil]
		if err := write(ctx, s, key, data, opts); err != nil {
			return err
		}
		if opts == onlyNew {
			if err := write(ctx, s, key, data[:1], onlyNew); !errors.Is(err, storage.ErrExists) {
				return fmt.Errorf("a second exclusive create: %w", err)
			}
		}
		for _, r := range [][2]int64{{0, -1}, {100, -1}, {10, 200}, {300, 500}, {400, 10}} {
			want := data[min(r[0], 350):]
			if r[1] >= 0 {
				want = want[:min(r[1], int64(len(want)))]
			}
			if got, err := read(ctx, s, key, r[0], r[1]); err != nil || !bytes.Equal(got, want) {
				return fmt.Errorf("range %v gives %d bytes: %w", r, len(got), err)
			}
		}
		if info, err := s.Stat(ctx, key); err != nil || info.Size != 350 {
			return fmt.Errorf("stat gives %+v: %w", info, err)
		}
	}
	for _, key := range []string{"b/1", "b/2", "b/3"} {
		if err := write(ctx, s, key, nil, nil); err != nil {
			return err
		}
	}
	var keys []string
	for info, err := range s.List(ctx, "") {
		if err != nil {
			return err
		}
		keys = append(keys, info.Key)
	}
	if want := []string{"a/exclusive", "a/plain", "b/1", "b/2", "b/3"}; !slices.Equal(keys, want) {
		return fmt.Errorf("listed are %q", keys)
	}
	for _, key := range keys {
		if err := s.Delete(ctx, key); err != nil {
			return err
		}
	}
	for _, err := range s.List(ctx, "") {
		return fmt.Errorf("after everything was deleted something is listed: %w", err)
	}
	if _, _, err := storage.SweepUnfinished(ctx, s, time.Now()); err != nil {
		return err
	}
	return ctx.Err()
}

// TestEveryCallFailsOnce: each call of the store fails for the moment, in each way, when it comes for the first time and never for the second; and
// nobody notices.
func TestEveryCallFailsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, everyCallFailsOnce)
}

func everyCallFailsOnce(t *testing.T) {
	modes := map[string]storetest.Mode{"before": storetest.Before, "after": storetest.After, "hang": storetest.Hang, "stall": storetest.Stall,
		"short write": storetest.ShortWrite, "cut": storetest.Cut, "doubled": storetest.Doubled, "midway": storetest.Midway}
	total := 0
	for name, mode := range modes {
		for _, op := range ops {
			if mode == storetest.Cut && op == storetest.OpWrite {
				continue // that is a store that lies
			}
			if mode == storetest.Hang && op == storetest.OpSweep {
				continue // for which it waits too long here
			}
			for _, versioned := range []bool{true, false} {
				for k := 1; ; k++ {
					s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: op, Call: k, Mode: mode, Err: storage.ErrTransient, For: time.Millisecond})
					inner := storage.Store(s)
					if !versioned {
						inner = unversioned{s}
					}
					if err := work(t.Context(), retry.New(inner, swift)); err != nil {
						t.Errorf("%s %d fails: %s: %v", op, k, name, err)
					}
					if s.Fired() == 0 {
						break
					}
					if total++; k > 1000 {
						t.Fatalf("%s %s never ends", name, op)
					}
				}
			}
		}
	}
	t.Logf("%d calls failed", total)
	if total < 400 {
		t.Errorf("only %d calls failed", total)
	}
}

// alternating is a store of which every other call of a kind fails for the moment, before or after its effect. Reads of objects that are replaced meanwhile
// can't go on after a failure, and a Delete can't tell what an earlier try did; these don't fail here.
func alternating(s storage.Store, mode storetest.Mode) storage.Store {
	var faults []storetest.Fault
	for _, op := range ops {
		if op == storetest.OpRead || op == storetest.OpDelete {
			continue
		}
		for k := 1; k < 200; k += 2 {
			faults = append(faults, storetest.Fault{Op: op, Call: k, Mode: mode, Err: storage.ErrTransient})
		}
	}
	return storetest.NewFaulty(s, faults...)
}

// TestSuiteOverFaults: a store of which every other call fails keeps the contract.
func TestSuiteOverFaults(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]storetest.Mode{"before": storetest.Before, "after": storetest.After} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storage.Store {
				return retry.New(alternating(memstore.New(nil), mode), &retry.Options{Wait: 10 * time.Microsecond, Attempts: 1000, Hold: 16 << 20})
			}, &storetest.Options{InProcess: true, Objects: 1500, Slow: os.Getenv("CAMPAIGN") == ""})
		})
	}
}

// TestPermanent: what isn't for the moment is returned at once.
func TestPermanent(t *testing.T) { synctest.Test(t, permanent) }

func permanent(t *testing.T) {
	for _, op := range ops {
		for _, cause := range []error{storetest.ErrInjected, errors.Join(storage.ErrTransient, storage.ErrDenied), errors.Join(storage.ErrTransient, storage.ErrRetained)} {
			s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: op, Err: cause})
			if err := work(t.Context(), retry.New(s, swift)); !errors.Is(err, cause) {
				t.Errorf("%s: the error is %v", op, err)
			}
			if n := s.Calls(op); n != 1 {
				t.Errorf("%s fails for good and was called %d times", op, n)
			}
		}
	}
}

// TestGivenUp: tries are bounded in number and in time, and the error tells so.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, givenUp)
}

func givenUp(t *testing.T) {
	for _, op := range ops {
		opts := *swift
		opts.Attempts = 4
		s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: op, Err: storage.ErrTransient})
		err := work(t.Context(), retry.New(s, &opts))
		if !errors.Is(err, storage.ErrTransient) || !strings.Contains(err.Error(), "tried 4 times") {
			t.Errorf("%s: the error is %v", op, err)
		}
		if n := s.Calls(op); n != 4 {
			t.Errorf("%s fails always and was called %d times, want 4", op, n)
		}
	}
	s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpStat, Err: storage.ErrTransient})
	r := retry.New(s, &retry.Options{Wait: 10 * time.Millisecond, Time: 100 * time.Millisecond, Attempts: 1000})
	if _, err := r.Stat(t.Context(), "x"); !errors.Is(err, storage.ErrTransient) || s.Calls(storetest.OpStat) > 20 {
		t.Errorf("in 100 ms there were %d tries, %v", s.Calls(storetest.OpStat), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := retry.New(s, &retry.Options{Wait: time.Hour}).Stat(ctx, "x"); !errors.Is(err, storage.ErrTransient) || !strings.Contains(err.Error(), "no time left") {
		t.Errorf("with a deadline before the next try: %v", err)
	}
}

// TestCancelled: cancelling ends the waiting, and a call that hangs, at once.
func TestCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, cancelled)
}

func cancelled(t *testing.T) {
	for _, mode := range []storetest.Mode{storetest.Before, storetest.Hang} {
		for _, op := range ops {
			ctx, cancel := context.WithCancel(t.Context())
			s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: op, Mode: mode, Err: storage.ErrTransient})
			time.AfterFunc(20*time.Millisecond, cancel)
			start := time.Now()
			err := work(ctx, retry.New(s, &retry.Options{Wait: 8 * time.Second}))
			if took := time.Since(start); !errors.Is(err, context.Canceled) || took > 3*time.Second {
				t.Errorf("%s, mode %d: %v after %v", op, mode, err, took)
			}
		}
	}
	// The context of Create counts while Commit waits.
	s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpCommit, Err: storage.ErrTransient})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	w, err := retry.New(s, &retry.Options{Wait: 8 * time.Second}).Create(ctx, "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := w.Commit(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
		t.Errorf("Commit when the context of Create ends: %v after %v", err, time.Since(start))
	}
}

// TestHung: a call that hangs for ever is given up, and the error says that it hung and not that its caller went away.
func TestHung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, hung)
}

func hung(t *testing.T) {
	for _, op := range ops {
		opts := *swift
		opts.Attempts, opts.Stall = 2, 5*time.Millisecond
		s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: op, Mode: storetest.Hang})
		err := work(t.Context(), retry.New(s, &opts))
		if !errors.Is(err, storage.ErrTransient) || !strings.Contains(err.Error(), "hung") || errors.Is(err, context.Canceled) {
			t.Errorf("%s: the error is %v", op, err)
		}
	}
}

// TestLarge: of an object that is not held the store is told at once, and what fails then fails with its cause; but for what can be settled
// by looking.
func TestLarge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, large)
}

func large(t *testing.T) {
	data := noise(1000)
	for _, opts := range []*storage.CreateOptions{nil, onlyNew} {
		for op, modes := range map[storetest.Op][]storetest.Mode{
			storetest.OpCreate: {storetest.Before, storetest.After, storetest.Hang}, storetest.OpWrite: {storetest.Before, storetest.After, storetest.Hang, storetest.ShortWrite},
			storetest.OpCommit: {storetest.Before, storetest.After, storetest.Hang},
		} {
			for _, mode := range modes {
				for k := 1; ; k++ {
					m := memstore.New(nil)
					s := storetest.NewFaulty(m, storetest.Fault{Op: op, Call: k, Mode: mode, Err: storage.ErrTransient})
					slow := *swift
					slow.Hold = 100 // so that little may be on its way, and a hang is soon found
					err := write(t.Context(), retry.New(s, &slow), "x", data, opts)
					there, gerr := read(t.Context(), m, "x", 0, -1)
					if gerr == nil != bytes.Equal(there, data) {
						t.Errorf("%s %d, mode %d: the object has %d bytes", op, k, mode, len(there))
					}
					// The first Write is of what is held, and can be made again.
					works := op == storetest.OpCreate || op == storetest.OpWrite && k == 1 || op == storetest.OpCommit && mode == storetest.After || s.Fired() == 0
					if works != (err == nil) || err == nil && gerr != nil || err != nil && !errors.Is(err, storage.ErrTransient) {
						t.Errorf("%s %d, mode %d: %v; the object: %v", op, k, mode, err, gerr)
					}
					if s.Fired() == 0 {
						break
					}
				}
			}
		}
	}
}

// TestOtherBytes: a Commit whose answer was lost is not taken for one that worked if other bytes are there.
func TestOtherBytes(t *testing.T) { synctest.Test(t, otherBytes) }

func otherBytes(t *testing.T) {
	for _, size := range []int{300, 2000} { // held and not
		data := noise(size)
		for _, mine := range []bool{true, false} {
			m := memstore.New(nil)
			there := bytes.Clone(data)
			if !mine {
				there[size-1] ^= 1
			}
			s := &meddler{Store: m, commit: func() error {
				if err := storage.WriteFile(t.Context(), m, "x", there, nil); err != nil {
					t.Fatal(err)
				}
				return storage.ErrTransient
			}}
			err := write(t.Context(), retry.New(s, swift), "x", data, onlyNew)
			if mine && err != nil || !mine && !errors.Is(err, storage.ErrExists) {
				t.Errorf("%d bytes, ours %v: %v", size, mine, err)
			}
		}
	}
}

// A meddler fails the first Commit after doing something.
type meddler struct {
	storage.Store
	commit func() error
}

func (m *meddler) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := m.Store.Create(ctx, key, opts)
	return &meddlersWriter{w, m}, err
}

type meddlersWriter struct {
	storage.Writer
	m *meddler
}

func (w *meddlersWriter) Commit(ctx context.Context) (storage.Info, error) {
	if f := w.m.commit; f != nil {
		w.m.commit = nil
		return storage.Info{}, f()
	}
	return w.Writer.Commit(ctx)
}

// TestUnclear: when it can't be found out whose object is there, the error doesn't say that it is somebody else's.
func TestUnclear(t *testing.T) { synctest.Test(t, unclear) }

func unclear(t *testing.T) {
	m := memstore.New(nil)
	s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpCommit, Call: 1, Mode: storetest.After, Err: storage.ErrTransient},
		storetest.Fault{Op: storetest.OpStat})
	err := write(t.Context(), retry.New(s, swift), "x", noise(100), onlyNew)
	if err == nil || errors.Is(err, storage.ErrExists) || !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("the error is %v", err)
	}
}

// TestChanged: an object that is replaced while it is read isn't read on as if it were the same.
func TestChanged(t *testing.T) { synctest.Test(t, changed) }

func changed(t *testing.T) {
	for _, versioned := range []bool{true, false} {
		for _, size := range []int{5000, 4000} {
			m := memstore.New(nil)
			if err := storage.WriteFile(t.Context(), m, "x", noise(5000), nil); err != nil {
				t.Fatal(err)
			}
			var inner storage.Store = storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpRead, Call: 3, Err: storage.ErrTransient})
			if !versioned {
				inner = unversioned{inner}
			}
			r, err := retry.New(inner, swift).Open(t.Context(), "x", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 1000)
			for range 2 {
				if n, err := r.Read(buf); n != 1000 || err != nil {
					t.Fatal(n, err)
				}
			}
			time.Sleep(time.Millisecond) // that nobody replaces it in the same moment
			if err := storage.WriteFile(t.Context(), m, "x", make([]byte, size), nil); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if n, err := r.Read(buf); n != 0 || !errors.Is(err, retry.ErrChanged) {
					t.Errorf("Read of an object that was replaced: %d bytes, %v", n, err)
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A listing that comes a bit further each time is taken up again and again, but not for ever.
func TestStumblingListing(t *testing.T) {
	t.Parallel()
	m := memstore.New(nil)
	for i := range 1500 {
		if err := storage.WriteFile(t.Context(), m, fmt.Sprintf("%04d", i), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	for step, whole := range map[int]bool{10: true, 1: false} {
		given, last := 0, error(nil)
		for info, err := range retry.New(&stumbling{m, step, 0}, &retry.Options{Wait: time.Microsecond}).List(t.Context(), "") {
			if last = err; err != nil {
				continue
			}
			if want := fmt.Sprintf("%04d", given); info.Key != want {
				t.Fatalf("listed is %s instead of %s", info.Key, want)
			}
			given++
		}
		if whole && (given != 1500 || last != nil) || !whole && (given < 900 || !errors.Is(last, storage.ErrTransient)) {
			t.Errorf("a listing of 1500 that breaks off after %d more each time gave %d, %v", step, given, last)
		}
	}
}

// stumbling is a store whose listings fail for the moment, each a step further than the one before.
type stumbling struct {
	*memstore.Store
	step, at int
}

func (s *stumbling) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		n := 0
		s.at += s.step
		for info, err := range s.Store.List(ctx, prefix) {
			if n++; n > s.at {
				yield(info, storage.ErrTransient)
				return
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// TestSweptTwice: what a sweep removed whose answer was lost counts, too.
func TestSweptTwice(t *testing.T) {
	files, err := filestore.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	w, err := files.Create(t.Context(), "unfinished", nil)
	if err == nil {
		_, err = w.Write([]byte("bytes"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	faulty := storetest.NewFaulty(files, storetest.Fault{Op: storetest.OpSweep, Call: 1, Mode: storetest.After, Err: storage.ErrTransient})
	s := retry.New(faulty, &retry.Options{Wait: time.Millisecond})
	if n, size, err := s.SweepUnfinished(t.Context(), time.Now().Add(time.Hour)); n != 1 || size != 5 || err != nil || faulty.Fired() != 1 {
		t.Errorf("%d files of %d bytes are swept, %v, with %d faults; want 1 of 5 bytes", n, size, err, faulty.Fired())
	}
}

func TestAbilities(t *testing.T) {
	m := memstore.New(nil)
	s := retry.New(m, nil)
	if s.Unwrap() != storage.Store(m) || !storage.CapabilitiesOf(s).Exclusive {
		t.Error("the store below is not to be seen")
	}
	if err := storage.WriteFile(t.Context(), s, "x", []byte("data"), nil); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), "x", 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want, _ := m.Stat(t.Context(), "x")
	if got, ok := storage.VersionOf(r); !ok || got != want {
		t.Errorf("the version that is read is %+v, want %+v", got, want)
	}
}

// TestLateAlarm: a Create that returns just after it was given up can't be written to, and is made again.
func TestLateAlarm(t *testing.T) { synctest.Test(t, lateAlarm) }

func lateAlarm(t *testing.T) {
	m := memstore.New(nil)
	s := &late{Store: m}
	if err := write(t.Context(), retry.New(s, &retry.Options{Hold: 100, Stall: 20 * time.Millisecond, Wait: time.Millisecond}), "x", noise(1000), nil); err != nil || s.creates != 2 {
		t.Errorf("%v, after %d calls of Create", err, s.creates)
	}
}

// late is a store whose first Create returns, well, when its context has ended.
type late struct {
	storage.Store
	creates int
}

func (l *late) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := l.Store.Create(ctx, key, opts)
	if l.creates++; l.creates == 1 {
		<-ctx.Done()
	}
	return w, err
}

// TestLateArrival: an exclusive create that seemed lost arrives after all, while it is made again. ErrExists means the first then, if the bytes are its.
func TestLateArrival(t *testing.T) { synctest.Test(t, lateArrival) }

func lateArrival(t *testing.T) {
	for _, mine := range []bool{true, false} {
		data := noise(300)
		arriving := bytes.Clone(data)
		if !mine {
			arriving[7] ^= 1
		}
		m := memstore.New(nil)
		s := &tardy{Store: storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpCommit, Call: 1, Err: storage.ErrTransient}), again: func() {
			if err := storage.WriteFile(t.Context(), m, "x", arriving, nil); err != nil {
				t.Fatal(err)
			}
		}}
		err := write(t.Context(), retry.New(s, swift), "x", data, onlyNew)
		if mine && err != nil || !mine && !errors.Is(err, storage.ErrExists) {
			t.Errorf("ours %v: %v", mine, err)
		}
	}
}

// tardy is a store that does something before its second Create.
type tardy struct {
	storage.Store
	creates int
	again   func()
}

func (s *tardy) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if s.creates++; s.creates == 2 {
		s.again()
	}
	return s.Store.Create(ctx, key, opts)
}
