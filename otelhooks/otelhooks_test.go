package otelhooks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/otelhooks"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage/memstore"
)

// A host is what OpenTelemetry gets of a Service, at a time that the test sets.
type host struct {
	*otelhooks.Hooks
	t      *testing.T
	reader *metric.ManualReader
	spans  *tracetest.SpanRecorder

	mu  sync.Mutex
	now time.Time
}

func newHost(t *testing.T, cfg otelhooks.Config) *host {
	t.Helper()
	h := &host{t: t, reader: metric.NewManualReader(), spans: tracetest.NewSpanRecorder(), now: time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)}
	cfg.MeterProvider = metric.NewMeterProvider(metric.WithReader(h.reader))
	cfg.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(h.spans))
	cfg.Now = h.time
	var err error
	if h.Hooks, err = otelhooks.New(cfg); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) time() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *host) advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// collect returns all series as "name{attributes}" with their values; of a histogram the number of its measurements.
func (h *host) collect() map[string]float64 {
	h.t.Helper()
	var all metricdata.ResourceMetrics
	if err := h.reader.Collect(h.t.Context(), &all); err != nil {
		h.t.Fatal(err)
	}
	series := map[string]float64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			add := func(attrs attribute.Set, v float64) {
				var text []string
				for _, kv := range attrs.ToSlice() {
					text = append(text, fmt.Sprintf("%s=%s", strings.TrimPrefix(string(kv.Key), "amber."), kv.Value.AsString()))
				}
				slices.Sort(text)
				series[m.Name+"{"+strings.Join(text, ",")+"}"] = v
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Count))
				}
			default:
				h.t.Fatalf("%s is a %T", m.Name, data)
			}
			if m.Unit == "" || m.Description == "" {
				h.t.Errorf("%s has the unit %q and the description %q", m.Name, m.Unit, m.Description)
			}
		}
	}
	return series
}

// wants checks series.
func (h *host) wants(what string, want map[string]float64) {
	h.t.Helper()
	got := h.collect()
	for name, v := range want {
		if has, ok := got[name]; !ok || has != v {
			h.t.Errorf("%s: %s is %v (there: %v), want %v", what, name, has, ok, v)
		}
	}
	if h.t.Failed() {
		for name, v := range got {
			h.t.Logf("%s %v", name, v)
		}
		h.t.FailNow()
	}
}

func someFile(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("../rdb/testdata/redis-8.0.2/streams.rdb")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

type snapshotFunc func(ctx context.Context) (backup.Snapshot, error)

func (f snapshotFunc) Snapshot(ctx context.Context) (backup.Snapshot, error) { return f(ctx) }

// TestOperations: what a Service does is counted and traced, of each data store, and what failed by the sort of its error; no ID and no text of an error is in a metric, and no
// secret in a span.
func TestOperations(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	h := newHost(t, otelhooks.Config{})
	s, err := amber.New(amber.Config{Store: memstore.New(nil), Stores: []amber.NamedStore{{Name: "far", Store: memstore.New(nil)}}, Events: h.Events(), Now: h.time})
	if err != nil {
		t.Fatal(err)
	}
	data := someFile(t)
	b, err := s.Backup(ctx, amber.BackupRequest{DataStore: "orders", Snapshotter: dumpfile.Stream("dump.rdb", bytes.NewReader(data))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(ctx, amber.ImportRequest{DataStore: "carts", Reader: bytes.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CopyBackup(ctx, amber.CopyBackupRequest{Backup: b.ID, To: "far"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(ctx, b.ID, nil); err != nil {
		t.Fatal(err)
	}
	const canary = "CANARY"
	active := map[string]float64{}
	_, err = s.Backup(ctx, amber.BackupRequest{DataStore: "orders", Snapshotter: snapshotFunc(func(context.Context) (backup.Snapshot, error) {
		active = h.collect()
		if _, err := s.Backup(ctx, amber.BackupRequest{DataStore: "orders", Snapshotter: dumpfile.Stream("x", bytes.NewReader(data))}); !errors.Is(err, backup.ErrBusy) {
			t.Errorf("a second one at a time: %v", err)
		}
		h.advance(7 * time.Second)
		return nil, errors.New("dial redis://admin:" + canary + "@host:6379: refused; see https://x.example/?sig=" + canary)
	})})
	if err == nil {
		t.Fatal("a backup without a snapshot is done")
	}
	if _, err := s.Import(ctx, amber.ImportRequest{DataStore: "carts", Reader: strings.NewReader("REDIS0011 and nothing of use")}); err == nil {
		t.Fatal("an import of nothing is done")
	}
	if _, err := s.Verify(ctx, "nothing", nil); err == nil {
		t.Fatal("what isn't there verifies")
	}
	if _, err := s.Sweep(ctx, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(ctx, amber.PruneRequest{}); err != nil {
		t.Fatal(err)
	}
	h.advance(3 * time.Second)
	size := float64(b.StoredBytes)
	h.wants("after all", map[string]float64{
		"amber.operation.count{data_store=orders,operation=backup}":                      1,
		"amber.operation.count{data_store=orders,error.type=source,operation=backup}":    1,
		"amber.operation.count{data_store=orders,error.type=busy,operation=backup}":      1,
		"amber.operation.count{data_store=carts,operation=import}":                       1,
		"amber.operation.count{data_store=carts,error.type=not_sound,operation=import}":  1,
		"amber.operation.count{data_store=orders,operation=copy}":                        1,
		"amber.operation.count{data_store=orders,operation=verify}":                      1,
		"amber.operation.count{error.type=not_found,operation=verify}":                   1,
		"amber.operation.duration{data_store=orders,error.type=source,operation=backup}": 1,
		"amber.operation.io{data_store=orders,operation=backup}":                         size,
		"amber.operation.io{data_store=orders,operation=copy}":                           size,
		"amber.operation.active{operation=backup}":                                       0,
		"amber.operation.active{operation=import}":                                       0,
		"amber.backup.last_success.age{data_store=orders}":                               10,
		"amber.retention.held{data_store=orders}":                                        0,
		"amber.sweep.count{}":       1,
		"amber.sweep.interrupted{}": 0,
	})
	if n := active["amber.operation.active{operation=backup}"]; n != 1 {
		t.Errorf("while a backup is at work, %v are", n)
	}
	for name := range h.collect() {
		if strings.Contains(name, string(b.ID)) || strings.Contains(name, canary) || strings.Contains(name, "refused") || name == "amber.backup.last_success.age{data_store=carts}" {
			t.Errorf("there is a series %s", name)
		}
	}
	ended := h.spans.Ended()
	if started := len(h.spans.Started()); started != len(ended) || len(ended) != 8 {
		t.Fatalf("there are %d spans, of which %d have ended", started, len(ended))
	}
	failed := ended[5] // the busy one ended before the one that it met
	if failed.Name() != "amber.backup" || failed.EndTime().Sub(failed.StartTime()) != 7*time.Second || failed.Status().Code != codes.Error ||
		!strings.Contains(failed.Status().Description, "redis://***@host:6379: refused; see https://x.example/?***") {
		t.Errorf("the span of a failure: %s, %v until %v, %+v", failed.Name(), failed.StartTime(), failed.EndTime(), failed.Status())
	}
	want := map[attribute.Key]string{"amber.data_store": "orders", "amber.backup.id": string(b.ID), "amber.backup.kind": "manual", "amber.operation": "backup"}
	for _, kv := range ended[0].Attributes() {
		if v, ok := want[kv.Key]; ok && kv.Value.AsString() != v {
			t.Errorf("%s is %q, want %q", kv.Key, kv.Value.AsString(), v)
		}
		delete(want, kv.Key)
	}
	if len(want) > 0 || ended[0].Status().Code == codes.Error || ended[0].EndTime().Sub(ended[0].StartTime()) != 0 {
		t.Errorf("the span of a backup lacks %v: %+v", want, ended[0])
	}
	for _, span := range ended {
		if text := fmt.Sprint(span.Attributes(), span.Events(), span.Status()); strings.Contains(text, canary) {
			t.Errorf("a span says %s", text)
		}
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, ok := h.collect()["amber.backup.last_success.age{data_store=orders}"]; ok {
		t.Error("after Close there is an age")
	}
}

// TestAge: the age of the last good backup is known after a restart, by all data stores or those that are named; a failure doesn't change it, and neither does an import.
func TestAge(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := memstore.New(nil)
	first := newHost(t, otelhooks.Config{})
	s, err := amber.New(amber.Config{Store: store, Events: first.Events(), Now: first.time})
	if err != nil {
		t.Fatal(err)
	}
	back := func(dataStore string) {
		t.Helper()
		first.advance(time.Hour)
		if _, err := s.Backup(ctx, amber.BackupRequest{DataStore: dataStore, Snapshotter: dumpfile.Stream("x", bytes.NewReader(someFile(t)))}); err != nil {
			t.Fatal(err)
		}
	}
	back("orders")
	back("carts")
	back("orders")
	first.advance(time.Hour)
	if _, err := s.Import(ctx, amber.ImportRequest{DataStore: "orders", Reader: bytes.NewReader(someFile(t))}); err != nil {
		t.Fatal(err)
	}
	first.wants("before", map[string]float64{"amber.backup.last_success.age{data_store=orders}": 3600, "amber.backup.last_success.age{data_store=carts}": 7200})
	for name, test := range map[string]struct {
		stores []string
		want   map[string]float64
	}{
		"all":   {nil, map[string]float64{"amber.backup.last_success.age{data_store=orders}": 5400, "amber.backup.last_success.age{data_store=carts}": 9000}},
		"named": {[]string{"carts", "nobody"}, map[string]float64{"amber.backup.last_success.age{data_store=carts}": 9000}},
	} {
		again := newHost(t, otelhooks.Config{})
		if got := again.collect(); len(got) != 0 {
			t.Errorf("before anything there are %v", got)
		}
		again.now = first.time().Add(30 * time.Minute)
		service, err := amber.New(amber.Config{Store: store, Events: again.Events(), Now: again.time})
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Seed(ctx, service, test.stores...); err != nil {
			t.Fatal(err)
		}
		again.wants(name, test.want)
		if got := again.collect(); len(got) != len(test.want) {
			t.Errorf("%s: there are %v", name, got)
		}
		again.Forget("carts")
		if _, ok := again.collect()["amber.backup.last_success.age{data_store=carts}"]; ok {
			t.Errorf("%s: what was forgotten has an age", name)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := first.Seed(cancelled, s); !errors.Is(err, context.Canceled) {
		t.Errorf("Seed with a context that has ended: %v", err)
	}
}

// TestRetention: whether retention is held is told until it isn't any more.
func TestRetention(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	h := newHost(t, otelhooks.Config{})
	e := h.Events()
	fates := []backup.Fate{{DataStore: "orders"}, {DataStore: "orders"}, {DataStore: "carts"}}
	e.Retention(ctx, backup.PruneReport{Fates: fates, Held: []backup.Held{{DataStore: "orders", Store: "far"}}})
	h.wants("held", map[string]float64{"amber.retention.held{data_store=orders}": 1, "amber.retention.held{data_store=carts}": 0})
	e.Retention(ctx, backup.PruneReport{Fates: fates[2:]})
	h.wants("of another", map[string]float64{"amber.retention.held{data_store=orders}": 1, "amber.retention.held{data_store=carts}": 0})
	e.Retention(ctx, backup.PruneReport{Fates: fates})
	h.wants("no more", map[string]float64{"amber.retention.held{data_store=orders}": 0, "amber.retention.held{data_store=carts}": 0})
	e.Pruned(ctx, amber.Pruned{Backup: &catalog.Backup{DataStore: "orders", Kind: catalog.KindAutomatic, StoredBytes: 7}})
	e.Pruned(ctx, amber.Pruned{Backup: &catalog.Backup{DataStore: "orders", Kind: "of-the-future", StoredBytes: 7}})
	e.Pruned(ctx, amber.Pruned{})
	e.Run(ctx, &schedule.Run{DataStore: "orders", State: schedule.RunMissed, Count: 5})
	e.Run(ctx, &schedule.Run{DataStore: "orders", State: schedule.RunDone})
	e.Swept(ctx, backup.SweepReport{Interrupted: 1, Objects: 2, Bytes: 3})
	h.wants("the rest", map[string]float64{
		"amber.retention.deletions{backup.kind=automatic,data_store=orders}": 1,
		"amber.retention.deletions{backup.kind=_OTHER,data_store=orders}":    1,
		"amber.retention.io{backup.kind=automatic,data_store=orders}":        7,
		"amber.schedule.due_times{data_store=orders,run.state=missed}":       5,
		"amber.schedule.due_times{data_store=orders,run.state=done}":         1,
		"amber.sweep.interrupted{}":                                          1, "amber.sweep.objects{}": 2, "amber.sweep.io{}": 3,
	})
}

// TestCardinality: thousands of operations of any number of data stores, backups and errors, by several goroutines, make a bounded number of series.
func TestCardinality(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	errs := []error{nil, backup.ErrSource, backup.ErrStore, backup.ErrBusy, backup.ErrNotSound, catalog.ErrLeaseLost, context.Canceled, restore.ErrNotVerified, restore.ErrNotEmpty, catalog.ErrNotFound, errors.New("x")}
	times := 3000
	if os.Getenv("CAMPAIGN") != "" {
		times = 10_000
	}
	operations := []string{"backup", "import", "restore", "verify", "export", "copy"}
	for name, test := range map[string]struct{ max, bound int }{
		"some": {20, 21 * len(operations) * len(errs)},
		"none": {-1, len(operations) * len(errs)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, otelhooks.Config{MaxDataStores: test.max})
			e := h.Events()
			var all sync.WaitGroup
			for g := range 4 {
				all.Go(func() {
					for n := g; n < times; n += 4 {
						ev := amber.Event{Operation: operations[n%6], DataStore: fmt.Sprintf("store-%d", n*7919%5000), Backup: catalog.NewID(h.time()), Kind: catalog.KindManual}
						e.Begin(ctx, ev)
						ev.Bytes, ev.Duration = int64(n), time.Duration(n)*time.Second
						if err := errs[n%11]; err != nil {
							ev.Err = fmt.Errorf("operation %d of %s: %w", n, ev.Backup, err)
						}
						e.End(ctx, ev)
						e.Retention(ctx, backup.PruneReport{Fates: []backup.Fate{{DataStore: ev.DataStore}}})
						if n%100 == 0 {
							h.Forget(ev.DataStore)
						}
					}
				})
			}
			all.Wait()
			series := map[string]int{}
			total := 0.0
			for name, v := range h.collect() {
				metric, _, _ := strings.Cut(name, "{")
				series[metric]++
				if metric == "amber.operation.count" {
					total += v
				}
			}
			for metric, n := range series {
				if n > test.bound {
					t.Errorf("%s has %d series, the bound is %d", metric, n, test.bound)
				}
			}
			if total != float64(times) || series["amber.operation.active"] != len(operations) {
				t.Errorf("%v operations were counted, and %d are at work", total, series["amber.operation.active"])
			}
			if held := series["amber.retention.held"]; held > max(0, test.max) {
				t.Errorf("whether retention is held is told of %d data stores, the limit is %d", held, test.max)
			}
			t.Logf("series: %v", series)
		})
	}
}

// TestConfig: what is missing does no harm, and what is wrong is told.
func TestConfig(t *testing.T) {
	t.Parallel()
	h, err := otelhooks.New(otelhooks.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h.Events().Begin(t.Context(), amber.Event{})
	h.Events().End(t.Context(), amber.Event{Err: errors.New("x")})
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := otelhooks.New(otelhooks.Config{MaxDataStores: -2}); err == nil || !strings.Contains(err.Error(), "MaxDataStores is -2") {
		t.Errorf("New: %v", err)
	}
	redacted := newHost(t, otelhooks.Config{Redact: func(string) string { return "something" }})
	redacted.Events().End(t.Context(), amber.Event{Operation: "backup", Err: errors.New("CANARY"), DueTime: redacted.time(), Attempt: 2, Policy: "nightly", Store: "far"})
	span := redacted.spans.Ended()[0]
	if text := fmt.Sprint(span.Attributes(), span.Status()); span.Status().Description != "something" || strings.Contains(text, "CANARY") ||
		!strings.Contains(text, "nightly") || !strings.Contains(text, "2026-11-23T22:17:00Z") || !strings.Contains(text, "far") {
		t.Errorf("the span says %s", text)
	}
}
