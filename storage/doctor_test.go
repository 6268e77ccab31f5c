package storage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// quick are the options of most tests.
func quick() *storage.DoctorOptions { return &storage.DoctorOptions{LargeSize: 300 << 10} }

// everyCheck is what Doctor checks without options, in its order.
var everyCheck = []string{"put", "put large", "get", "range get", "stat", "list", "exclusive create", "exclusive race", "overwrite", "abort", "delete",
	"delete missing", "sweep", "clock", "signed URL", "clean up"}

// checks returns the names of the findings with a result.
func checks(d *storage.Diagnosis, result string) []string {
	names := []string{}
	for _, f := range d.Findings {
		if result == "" || f.Result == result {
			names = append(names, f.Check)
		}
	}
	return names
}

// finding returns the finding of a check.
func finding(t *testing.T, d *storage.Diagnosis, check string) storage.Finding {
	t.Helper()
	for _, f := range d.Findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("there is no finding %q: %s", check, describe(d))
	return storage.Finding{}
}

func describe(d *storage.Diagnosis) string {
	text, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// keys returns the keys of all objects.
func keys(t *testing.T, s storage.Store) []string {
	t.Helper()
	all := []string{}
	for info, err := range s.List(context.WithoutCancel(t.Context()), "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, info.Key)
	}
	return all
}

func TestDoctorWell(t *testing.T) {
	dir, err := filestore.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for name, s := range map[string]storage.Store{"memory": memstore.New(nil), "directory": dir} {
		t.Run(name, func(t *testing.T) {
			data := []string{"_doctors/a", "_leases/a/1.json", "orders/x/manifest.json"}
			for _, key := range data {
				if err := storage.WriteFile(t.Context(), s, key, []byte(key), nil); err != nil {
					t.Fatal(err)
				}
			}
			d := storage.Doctor(t.Context(), s, nil)
			if got := checks(d, "ok"); !d.OK || !slices.Equal(got, everyCheck) {
				t.Errorf("checks that are ok: %v\n%s", got, describe(d))
			}
			if f := finding(t, d, "put large"); f.Bytes != 20<<20 || f.Duration <= 0 {
				t.Errorf("the large object: %+v", f)
			}
			opts := quick()
			opts.Objects = 120
			if d = storage.Doctor(t.Context(), s, opts); !d.OK || !strings.Contains(finding(t, d, "list pages").Seen, "120") {
				t.Errorf("with many objects: %s", describe(d))
			}
			if got := keys(t, s); !slices.Equal(got, data) {
				t.Errorf("the store holds %v, and held %v", got, data)
			}
			for _, key := range data {
				if got, err := storage.ReadFile(t.Context(), s, key, 100); err != nil || string(got) != key {
					t.Errorf("%s has become %q, %v", key, got, err)
				}
			}
			// Nothing unfinished is left either.
			if n, _, err := storage.SweepUnfinished(t.Context(), s, time.Now().Add(time.Hour)); n != 0 || err != nil {
				t.Errorf("%d unfinished writes are left, %v", n, err)
			}
		})
	}
}

// lateCommits is a store whose commits say late that they succeeded.
type lateCommits struct{ storage.Store }

func (s lateCommits) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := s.Store.Create(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return lateWriter{w}, nil
}

type lateWriter struct{ storage.Writer }

func (w lateWriter) Commit(ctx context.Context) (storage.Info, error) {
	info, err := w.Writer.Commit(ctx)
	if err == nil {
		time.Sleep(5 * time.Millisecond)
	}
	return info, err
}

// What the winner of a race made is removed also where the losers hear of it first, and where a listing can't tell.
func TestDoctorRemovesWhatWon(t *testing.T) {
	m := memstore.New(nil)
	counter := storetest.NewFaulty(lateCommits{memstore.New(nil)})
	storage.Doctor(t.Context(), counter, quick())
	s := storetest.NewFaulty(lateCommits{m}, storetest.Fault{Op: storetest.OpList, Key: "_doctor/", Call: counter.Calls(storetest.OpList), Err: storage.ErrTransient})
	d := storage.Doctor(t.Context(), s, quick())
	if got := checks(d, "fail"); s.Fired() != 1 || !slices.Equal(got, []string{"clean up"}) {
		t.Errorf("the fault fired %d times, and what fails is %v", s.Fired(), got)
	}
	if left := keys(t, m); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// Each call of a store that fails is found by the check that made it, with advice of the error's nature.
func TestDoctorNamesTheCheck(t *testing.T) {
	for _, test := range []struct {
		op    storetest.Op
		key   string
		call  int
		check string
		right string // in the advice when access is denied
	}{
		{storetest.OpCreate, "/small", 1, "put", "create objects"},
		{storetest.OpWrite, "/small", 1, "put", "create objects"},
		{storetest.OpCommit, "/small", 1, "put", "create objects"},
		{storetest.OpCreate, "/large", 1, "put large", "several pieces"},
		{storetest.OpWrite, "/large", 2, "put large", "several pieces"},
		{storetest.OpCommit, "/large", 1, "put large", "several pieces"},
		{storetest.OpOpen, "/small", 1, "get", "read objects"},
		{storetest.OpRead, "/large", 2, "get", "read objects"},
		{storetest.OpOpen, "/large", 2, "range get", "read objects"},
		{storetest.OpStat, "/small", 1, "stat", "properties"},
		{storetest.OpStat, "/missing", 1, "stat", "properties"},
		{storetest.OpList, "", 1, "list", "list objects"},
		{storetest.OpCreate, "/exclusive", 1, "exclusive create", "create objects"},
		{storetest.OpCreate, "/exclusive", 2, "exclusive create", "create objects"},
		{storetest.OpCommit, "/race-2", 3, "exclusive race", "create objects"},
		{storetest.OpCommit, "/small", 2, "overwrite", "replace objects"},
		{storetest.OpStat, "/small", 2, "overwrite", "replace objects"},
		{storetest.OpList, "/small", 1, "overwrite", "replace objects"},
		{storetest.OpAbort, "/aborted-4096", 1, "abort", "not finished"},
		{storetest.OpStat, "/aborted-153600", 1, "abort", "not finished"},
		{storetest.OpDelete, "/small", 1, "delete", "delete objects"},
		{storetest.OpOpen, "/small", 3, "delete", "delete objects"},
		{storetest.OpDelete, "/missing", 1, "delete missing", "delete objects"},
		{storetest.OpSweep, "", 1, "sweep", "unfinished uploads"},
		{storetest.OpList, "_doctor/", 4, "clean up", ""}, // see below
	} {
		for nature, advice := range map[error]string{
			storage.ErrDenied: test.right, storage.ErrTransient: "try again", errors.New("out of order"): "own tools", storage.ErrRetained: "retention",
			errors.ErrUnsupported: "another store", fmt.Errorf("no bucket: %w", storage.ErrNotFound): "exists",
		} {
			m := memstore.New(nil)
			call := test.call
			if test.check == "clean up" { // it lists last
				counter := storetest.NewFaulty(memstore.New(nil))
				storage.Doctor(t.Context(), counter, quick())
				call, advice = counter.Calls(storetest.OpList), ""
			}
			s := storetest.NewFaulty(m, storetest.Fault{Op: test.op, Key: test.key, Call: call, Err: nature})
			d := storage.Doctor(t.Context(), s, quick())
			if s.Fired() != 1 {
				t.Fatalf("%+v: the fault fired %d times", test, s.Fired())
			}
			expected := errors.Is(nature, storage.ErrNotFound) && (test.op == storetest.OpStat && strings.Contains("/missing/aborted-153600", test.key) ||
				test.op == storetest.OpDelete && test.key == "/missing" || test.op == storetest.OpOpen && test.check == "delete")
			if expected { // the error is the right answer
				if !d.OK {
					t.Errorf("%+v: %s", test, describe(d))
				}
				continue
			}
			result := "fail"
			if errors.Is(nature, storage.ErrRetained) {
				result = "warn"
			}
			if got := checks(d, result); d.OK == (result == "fail") || !slices.Equal(got, []string{test.check}) {
				t.Errorf("%+v, %v: the checks that fail are %v, want only %s\n%s", test, nature, got, test.check, describe(d))
				continue
			}
			f := finding(t, d, test.check)
			if !errors.Is(f.Err, nature) || !strings.Contains(f.Seen, nature.Error()) || f.Advice == "" || !strings.Contains(f.Advice, advice) {
				t.Errorf("%+v, %v: the finding is %+v, want advice with %q", test, nature, f, advice)
			}
			if left := keys(t, m); len(left) > 0 {
				t.Errorf("%+v, %v: %v is left", test, nature, left)
			}
		}
	}
}

// Whatever call fails, in whatever way: it is found, Doctor goes on to clean up, and nothing is left.
func TestDoctorFaults(t *testing.T) {
	for _, op := range []storetest.Op{storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpOpen, storetest.OpRead,
		storetest.OpStat, storetest.OpList, storetest.OpDelete, storetest.OpSweep} {
		for _, mode := range []storetest.Mode{storetest.Before, storetest.After, storetest.Hang} {
			t.Run(fmt.Sprint(op, " ", mode), func(t *testing.T) {
				t.Parallel()
				// Time passes only while everybody waits: a call that hangs has an end then, and no other, however busy the machine is.
				synctest.Test(t, func(t *testing.T) {
					for call := 1; failCall(t, op, mode, call); call++ {
						switch mode {
						case storetest.After:
							call += step(2)
						case storetest.Hang:
							call += step(12)
						}
					}
				})
			})
		}
	}
}

// step is how many calls a test leaves out each time, unless it has time for all.
func step(n int) int {
	if os.Getenv("CAMPAIGN") != "" {
		return 0
	}
	return n
}

// failCall makes a call of a store fail, and returns false if there is no such call.
func failCall(t *testing.T, op storetest.Op, mode storetest.Mode, call int) bool {
	m := memstore.New(nil)
	if err := storage.WriteFile(t.Context(), m, "orders/data", []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	s := storetest.NewFaulty(m, storetest.Fault{Op: op, Call: call, Mode: mode})
	opts := quick()
	if mode == storetest.Hang {
		opts.Timeout = 150 * time.Millisecond
	}
	d := storage.Doctor(t.Context(), s, opts)
	if s.Fired() == 0 {
		return false
	}
	if mode == storetest.Hang && slices.Contains(checks(d, "fail"), "clean up") {
		return true // it had its time to clean up, and says that it could not
	}
	if got := keys(t, m); !slices.Equal(got, []string{"orders/data"}) {
		t.Fatalf("%s %d, mode %v: the store holds %v\n%s", op, call, mode, got, describe(d))
	}
	// What was deleted in the second try is deleted. Where the store has an error of its own for a call, that is its answer.
	tidied := op == storetest.OpDelete && finding(t, d, "delete").Result == "ok" && finding(t, d, "delete missing").Result == "ok"
	own := mode == storetest.After && op != storetest.OpWrite && op != storetest.OpList && op != storetest.OpSweep
	if d.OK != tidied && !own {
		t.Errorf("%s %d, mode %v: OK is %v\n%s", op, call, mode, d.OK, describe(d))
	}
	if mode == storetest.Hang && !d.OK {
		f := finding(t, d, checks(d, "fail")[0])
		if !errors.Is(f.Err, context.DeadlineExceeded) || f.Advice == "" {
			t.Errorf("%s %d hangs: %+v", op, call, f)
		}
	}
	return true
}

// A store that nothing can be put in is asked for nothing but a list.
func TestDoctorStopsEarly(t *testing.T) {
	m := memstore.New(nil)
	s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpCommit, Err: storage.ErrDenied}, storetest.Fault{Op: storetest.OpDelete, Err: storage.ErrDenied})
	d := storage.Doctor(t.Context(), s, quick())
	if got := checks(d, ""); d.OK || !slices.Equal(got, []string{"put", "list"}) || finding(t, d, "list").Result != "ok" {
		t.Errorf("credentials for reading only: %s", describe(d))
	}
	if !strings.Contains(finding(t, d, "list").Seen, "reading only") {
		t.Errorf("credentials for reading only: %s", describe(d))
	}
	if n := s.Calls(storetest.OpCreate); n != 1 {
		t.Errorf("%d objects were tried", n)
	}
	// As of a bucket that doesn't exist: nothing can be left in it.
	none := errors.New("no such bucket")
	s = storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpCommit, Err: none}, storetest.Fault{Op: storetest.OpList, Err: none},
		storetest.Fault{Op: storetest.OpDelete, Err: none}, storetest.Fault{Op: storetest.OpStat, Err: none})
	d = storage.Doctor(t.Context(), s, quick())
	if got := checks(d, "fail"); !slices.Equal(got, []string{"put", "list"}) || len(d.Findings) != 2 {
		t.Errorf("a bucket that doesn't exist: %s", describe(d))
	}
	s = storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpCommit, Err: storage.ErrTransient}, storetest.Fault{Op: storetest.OpList, Err: storage.ErrTransient},
		storetest.Fault{Op: storetest.OpDelete, Err: storage.ErrTransient}, storetest.Fault{Op: storetest.OpStat, Err: storage.ErrTransient})
	d = storage.Doctor(t.Context(), s, quick())
	if got := checks(d, "fail"); !slices.Equal(got, []string{"put", "list", "clean up"}) {
		t.Errorf("a store that doesn't answer: %s", describe(d))
	}
}

// A canceller cancels at its n-th call.
type canceller struct {
	storage.Store
	left   atomic.Int64
	cancel context.CancelFunc
}

func (c *canceller) call() {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
}

func (c *canceller) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	c.call()
	w, err := c.Store.Create(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return &hookedWriter{Writer: w, commit: func(ctx context.Context) (storage.Info, error) {
		c.call()
		return w.Commit(ctx)
	}}, nil
}

func (c *canceller) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	c.call()
	return c.Store.Open(ctx, key, off, n)
}

func (c *canceller) Stat(ctx context.Context, key string) (storage.Info, error) {
	c.call()
	return c.Store.Stat(ctx, key)
}

func (c *canceller) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	c.call()
	return c.Store.List(ctx, prefix)
}

func (c *canceller) Delete(ctx context.Context, key string) error {
	c.call()
	return c.Store.Delete(ctx, key)
}

func TestDoctorCancelled(t *testing.T) {
	s, err := filestore.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	late := 0
	for n := 1; ; n += 1 + step(7) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &canceller{Store: s, cancel: cancel}
		c.left.Store(int64(n))
		began := time.Now()
		d := storage.Doctor(ctx, c, &storage.DoctorOptions{LargeSize: 32 << 10})
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("cancelled at call %d it took %v", n, took)
		}
		cancel()
		if c.left.Load() > 0 {
			if n < 100 || late > n/20 {
				t.Errorf("there were %d calls, and %d times it was late", n, late)
			}
			break
		}
		failed := checks(d, "fail")
		if i := slices.Index(failed, "clean up"); i >= 0 && errors.Is(finding(t, d, "clean up").Err, context.DeadlineExceeded) {
			late++ // it has two seconds, which a busy machine may not give it, and says so
			for _, key := range keys(t, s) {
				if err := s.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		if left := keys(t, s); len(left) > 0 {
			t.Fatalf("cancelled at call %d it left %v", n, left)
		}
		if len(failed) > 1 || len(failed) == 1 && !errors.Is(finding(t, d, failed[0]).Err, context.Canceled) {
			t.Errorf("cancelled at call %d: %s", n, describe(d))
		}
		if len(failed) == 1 && !strings.Contains(finding(t, d, failed[0]).Advice, "cancelled") {
			t.Errorf("cancelled at call %d: %s", n, describe(d))
		}
		if last := d.Findings[len(d.Findings)-1]; last.Check != "clean up" && len(d.Findings) > 1 {
			t.Errorf("cancelled at call %d: the last check was %+v", n, last)
		}
	}
}

// What a killed run left is removed an hour later, by the store's clock; what another one is at work with stays.
func TestDoctorLeftovers(t *testing.T) {
	now := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	m := memstore.New(&memstore.Options{Now: clock})
	for _, key := range []string{"_doctor/KILLED/small", "_doctor/KILLED/large", "orders/old"} {
		if err := storage.WriteFile(t.Context(), m, key, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(2 * time.Hour)
	if err := storage.WriteFile(t.Context(), m, "_doctor/OTHER/small", nil, nil); err != nil {
		t.Fatal(err)
	}
	now = now.Add(59 * time.Minute)
	opts := quick()
	opts.Now = clock
	if d := storage.Doctor(t.Context(), m, opts); !d.OK {
		t.Error(describe(d))
	}
	if got := keys(t, m); !slices.Equal(got, []string{"_doctor/OTHER/small", "orders/old"}) {
		t.Errorf("the store holds %v", got)
	}
}

func TestDoctorClock(t *testing.T) {
	for skew, want := range map[time.Duration]string{
		0: "ok", 2 * time.Second: "ok", -2 * time.Second: "ok", 20 * time.Second: "warn", -20 * time.Second: "warn", 2 * time.Minute: "fail", -2 * time.Minute: "fail",
	} {
		opts := quick()
		opts.Now = func() time.Time { return time.Now().Add(skew) }
		d := storage.Doctor(t.Context(), memstore.New(nil), opts)
		f := finding(t, d, "clock")
		if f.Result != want || d.OK != (want != "fail") || (f.Advice == "") != (want == "ok") {
			t.Errorf("a clock that is %v off: %+v", skew, f)
		}
		side := "behind"
		if skew < 0 {
			side = "ahead"
		}
		if want != "ok" && !strings.Contains(f.Seen, side) {
			t.Errorf("a clock that is %v off: %+v", skew, f)
		}
	}
	// A store that tells whole seconds is not behind.
	m := memstore.New(&memstore.Options{Now: func() time.Time { return time.Now().Truncate(time.Second) }})
	if f := finding(t, storage.Doctor(t.Context(), m, quick()), "clock"); f.Result != "ok" {
		t.Errorf("whole seconds: %+v", f)
	}
}

// A talker is a store that is not exclusive, and that tells about itself and its errors.
type talker struct{ storage.Store }

func (talker) Capabilities() storage.Capabilities { return storage.Capabilities{} }
func (talker) Describe(context.Context) []storage.Fact {
	return []storage.Fact{{Name: "region", Value: "eu-west-1"}}
}
func (talker) Advise(err error) string {
	if errors.Is(err, storage.ErrDenied) {
		return "add s3:DeleteObject to the policy."
	}
	return ""
}
func (talker) SignGet(_ context.Context, key string, ttl time.Duration) (string, error) {
	return fmt.Sprintf("https://user:CANARY@bucket.test/%s?ttl=%v&signature=CANARY", key, ttl), nil
}

func TestDoctorAbilities(t *testing.T) {
	s := storetest.NewFaulty(talker{memstore.New(nil)}, storetest.Fault{Op: storetest.OpDelete, Err: storage.ErrDenied, Key: "/small", Call: 1},
		storetest.Fault{Op: storetest.OpSweep, Err: storage.ErrTransient})
	d := storage.Doctor(t.Context(), s, quick())
	if !slices.Equal(d.Facts, []storage.Fact{{Name: "region", Value: "eu-west-1"}}) {
		t.Errorf("the facts are %v", d.Facts)
	}
	if f := finding(t, d, "delete"); f.Advice != "add s3:DeleteObject to the policy" {
		t.Errorf("the driver's advice is not given: %+v", f)
	}
	if f := finding(t, d, "sweep"); !strings.Contains(f.Advice, "try again") {
		t.Errorf("without the driver's advice: %+v", f)
	}
	if f := finding(t, d, "exclusive create"); f.Result != "warn" || !strings.Contains(f.Advice, "database") {
		t.Errorf("a store that is not exclusive: %+v", f)
	}
	if slices.Contains(checks(d, ""), "exclusive race") {
		t.Errorf("a store without exclusive create was raced for: %s", describe(d))
	}
	if f := finding(t, d, "signed URL"); f.Result != "ok" || !strings.Contains(f.Seen, "https://bucket.test") {
		t.Errorf("signed URL: %+v", f)
	}
	if text := describe(d); strings.Contains(text, "CANARY") {
		t.Errorf("a signed URL is told: %s", text)
	}
	if d := storage.Doctor(t.Context(), talker{memstore.New(nil)}, quick()); !d.OK {
		t.Errorf("a warning is no failure: %s", describe(d))
	}
}

func TestDiagnosisJSON(t *testing.T) {
	d := storage.Doctor(t.Context(), memstore.New(nil), quick())
	var doc struct {
		OK       bool
		Facts    []any
		Findings []map[string]any
	}
	if err := json.Unmarshal([]byte(describe(d)), &doc); err != nil || !doc.OK || doc.Facts == nil || len(doc.Findings) != len(everyCheck) {
		t.Fatalf("%v: %s", err, describe(d))
	}
	first := doc.Findings[0]
	if first["check"] != "put" || first["result"] != "ok" || first["seen"] == "" || first["bytes"] != 4096.0 || first["duration"].(float64) <= 0 || len(first) != 5 {
		t.Errorf("a finding is %v", first)
	}
}
