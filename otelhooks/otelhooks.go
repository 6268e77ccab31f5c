package otelhooks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/schedule"
)

// DefaultMaxDataStores is how many data stores have series of their own unless Config.MaxDataStores says otherwise.
const DefaultMaxDataStores = 1000

// Config says where Hooks tell what happens.
type Config struct {
	MeterProvider  metric.MeterProvider // nil: there are no metrics
	TracerProvider trace.TracerProvider // nil: there are no spans

	// MaxDataStores is how many data stores have series of their own, those that are heard of first; all others share the one of "_OTHER", and have
	// neither an age nor a gauge of retention. 0: DefaultMaxDataStores; -1: none has, and amber.data_store is left out. OpenTelemetry's SDK has a limit of
	// its own: of 2000 series of an instrument, unless it is told otherwise.
	MaxDataStores int

	// Redact is given the texts of errors and reasons before they are put into spans; nil: logins and queries of URLs are masked. Amber's own errors hold
	// no secrets, but those of a host's own code may.
	Redact func(text string) string

	Now func() time.Time // nil: the machine's clock
}

// Hooks turn events into metrics and spans. They are safe for use by several goroutines, and one may serve several Services. Make them with New.
type Hooks struct {
	cfg    Config
	now    clock.Func
	tracer trace.Tracer

	duration                                   metric.Float64Histogram
	io, count, dueTimes, deleted, deletedIO    metric.Int64Counter
	sweeps, interrupted, sweptObjects, sweptIO metric.Int64Counter
	active                                     metric.Int64UpDownCounter
	age                                        metric.Float64ObservableGauge
	held                                       metric.Int64ObservableGauge
	registration                               metric.Registration

	mu       sync.Mutex
	named    map[string]bool // the data stores that have series of their own, for ever: what was counted is told again and again
	observed map[string]*dataStore
}

// dataStore is what is observed of one.
type dataStore struct {
	last  time.Time // its last good backup was ready; zero: none is known
	heard bool      // retention was carried out
	held  bool
}

// New returns Hooks. The error is that of a provider that refuses an instrument, or says which field of the configuration is wrong.
func New(cfg Config) (*Hooks, error) {
	if cfg.MaxDataStores < -1 {
		return nil, fmt.Errorf("otelhooks: Config.MaxDataStores is %d, it can't be less than -1", cfg.MaxDataStores)
	}
	if cfg.MaxDataStores == 0 {
		cfg.MaxDataStores = DefaultMaxDataStores
	}
	if cfg.Redact == nil {
		cfg.Redact = redact.URLs
	}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = metricnoop.NewMeterProvider()
	}
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = tracenoop.NewTracerProvider()
	}
	h := &Hooks{cfg: cfg, now: clock.Or(cfg.Now), tracer: cfg.TracerProvider.Tracer(scope), named: map[string]bool{}, observed: map[string]*dataStore{}}
	if err := h.instruments(cfg.MeterProvider.Meter(scope)); err != nil {
		return nil, fmt.Errorf("otelhooks: %w", err)
	}
	return h, nil
}

// scope names this package to OpenTelemetry.
const scope = "github.com/amberkv/amber/otelhooks"

func (h *Hooks) instruments(m metric.Meter) error {
	var errs []error
	counter := func(name, unit, description string) metric.Int64Counter {
		c, err := m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	h.io = counter("amber.operation.io", "By", "Bytes that operations have stored, or brought to their targets.")
	h.count = counter("amber.operation.count", "{operation}", "Operations that have ended.")
	h.dueTimes = counter("amber.schedule.due_times", "{due_time}", "Due times that were settled.")
	h.deleted = counter("amber.retention.deletions", "{backup}", "Backups that retention has deleted.")
	h.deletedIO = counter("amber.retention.io", "By", "Stored bytes of the backups that retention has deleted.")
	h.sweeps = counter("amber.sweep.count", "{sweep}", "Sweeps.")
	h.interrupted = counter("amber.sweep.interrupted", "{run}", "Runs that had died, as sweeps found.")
	h.sweptObjects = counter("amber.sweep.objects", "{object}", "Objects that sweeps have deleted.")
	h.sweptIO = counter("amber.sweep.io", "By", "Bytes of the objects that sweeps have deleted.")
	var err error
	h.duration, err = m.Float64Histogram("amber.operation.duration", metric.WithUnit("s"), metric.WithDescription("How long operations took that have ended."),
		metric.WithExplicitBucketBoundaries(0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 1800, 3600, 3*3600, 6*3600, 12*3600))
	errs = append(errs, err)
	h.active, err = m.Int64UpDownCounter("amber.operation.active", metric.WithUnit("{operation}"), metric.WithDescription("Operations that are at work."))
	errs = append(errs, err)
	h.age, err = m.Float64ObservableGauge("amber.backup.last_success.age", metric.WithUnit("s"), metric.WithDescription("Time since the last good backup of a data store was ready."))
	errs = append(errs, err)
	h.held, err = m.Int64ObservableGauge("amber.retention.held", metric.WithUnit("{data_store}"), metric.WithDescription("Whether nothing of a data store is let go of until somebody has looked."))
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	h.registration, err = m.RegisterCallback(h.observe, h.age, h.held)
	return err
}

// Close ends the observation of what is observed. What the Hooks are told afterwards is still counted.
func (h *Hooks) Close() error { return h.registration.Unregister() }

// Events are what an amber.Config takes. Events.And combines them with others.
func (h *Hooks) Events() amber.Events {
	return amber.Events{Begin: h.begin, End: h.end, Run: h.run, Pruned: h.pruned, Swept: h.swept, Retention: h.retention}
}

// Seed looks up when the last good backups were ready, so that their ages are known before the next ones are made: of these data stores, or, if none are
// given, of all, for which every manifest is read. What can't be read is left out, and is in the error.
func (h *Hooks) Seed(ctx context.Context, s *amber.Service, dataStores ...string) error {
	var errs []error
	seed := func(q catalog.Query, all bool) {
		// Newest first by their beginning; as one data store has one at a time, that is the order of their ends too.
		for b, err := range s.List(ctx, q) {
			switch {
			case err != nil:
				errs = append(errs, err)
				continue
			case lasting(b.Kind):
				h.succeeded(b.DataStore, b.ReadyAt)
				if !all {
					return
				}
			}
		}
	}
	for _, name := range dataStores {
		seed(catalog.Query{DataStore: name}, false)
	}
	if len(dataStores) == 0 {
		seed(catalog.Query{}, true)
	}
	return errors.Join(errs...)
}

// lasting tells whether a backup of a kind says that its data store is backed up: an import was made of a file.
func lasting(k catalog.Kind) bool { return k != catalog.KindImport && k != catalog.KindCopy }

// Forget forgets a data store that is no more: neither its age nor whether its retention is held is told any longer.
func (h *Hooks) Forget(dataStore string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.observed, dataStore)
}

// observes returns what is observed of a data store; nil: nothing is. It is called with h.mu held.
func (h *Hooks) observes(name string) *dataStore {
	d := h.observed[name]
	if d == nil && name != "" && len(h.observed) < h.cfg.MaxDataStores {
		d = &dataStore{}
		h.observed[name] = d
	}
	return d
}

// of returns the attribute of a data store, and others.
func (h *Hooks) of(name string, others ...attribute.KeyValue) metric.MeasurementOption {
	if name != "" && h.cfg.MaxDataStores > 0 {
		h.mu.Lock()
		switch {
		case h.named[name]:
		case len(h.named) < h.cfg.MaxDataStores:
			h.named[name] = true
		default:
			name = other
		}
		h.mu.Unlock()
		others = append(others, keyDataStore.String(name))
	}
	return metric.WithAttributeSet(attribute.NewSet(others...))
}

// other stands for what has no series of its own. No data store can have that name.
const other = "_OTHER"

const (
	keyDataStore = attribute.Key("amber.data_store")
	keyOperation = attribute.Key("amber.operation")
	keyKind      = attribute.Key("amber.backup.kind")
	keyRunState  = attribute.Key("amber.run.state")
	keyErrorType = attribute.Key("error.type")
)

func (h *Hooks) succeeded(name string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.observes(name); d != nil && at.After(d.last) {
		d.last = at
	}
}

func (h *Hooks) observe(_ context.Context, o metric.Observer) error {
	now := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, d := range h.observed {
		with := metric.WithAttributeSet(attribute.NewSet(keyDataStore.String(name)))
		if !d.last.IsZero() {
			o.ObserveFloat64(h.age, max(0, now.Sub(d.last).Seconds()), with)
		}
		if d.heard {
			held := int64(0)
			if d.held {
				held = 1
			}
			o.ObserveInt64(h.held, held, with)
		}
	}
	return nil
}

func (h *Hooks) begin(ctx context.Context, e amber.Event) {
	h.active.Add(ctx, 1, metric.WithAttributes(keyOperation.String(e.Operation)))
}

func (h *Hooks) end(ctx context.Context, e amber.Event) {
	h.active.Add(ctx, -1, metric.WithAttributes(keyOperation.String(e.Operation)))
	attrs := []attribute.KeyValue{keyOperation.String(e.Operation)}
	class := errorType(e.Err)
	if class != "" {
		attrs = append(attrs, keyErrorType.String(class))
	}
	with := h.of(e.DataStore, attrs...)
	h.count.Add(ctx, 1, with)
	h.duration.Record(ctx, e.Duration.Seconds(), with)
	if e.Bytes > 0 {
		h.io.Add(ctx, e.Bytes, with)
	}
	if e.Err == nil && e.Operation == "backup" && lasting(e.Kind) {
		h.succeeded(e.DataStore, h.now())
	}
	h.span(ctx, e, class)
}

// span makes the span of an operation that has ended. Its beginning is known by then, and no operation that is never heard of again keeps one open.
func (h *Hooks) span(ctx context.Context, e amber.Event, class string) {
	until := h.now()
	_, span := h.tracer.Start(ctx, "amber."+e.Operation, trace.WithTimestamp(until.Add(-e.Duration)), trace.WithSpanKind(trace.SpanKindInternal))
	if span.IsRecording() {
		span.SetAttributes(keyOperation.String(e.Operation))
		for key, value := range map[attribute.Key]string{
			keyDataStore: e.DataStore, "amber.backup.id": string(e.Backup), keyKind: string(e.Kind), "amber.store": e.Store, "amber.policy": e.Policy,
		} {
			if value != "" {
				span.SetAttributes(key.String(value))
			}
		}
		if !e.DueTime.IsZero() {
			span.SetAttributes(attribute.String("amber.due_time", e.DueTime.UTC().Format(time.RFC3339)))
		}
		if e.Attempt > 0 {
			span.SetAttributes(attribute.Int("amber.attempt", e.Attempt))
		}
		if e.Err == nil {
			span.SetAttributes(attribute.Int64("amber.keys", e.Keys), attribute.Int64("amber.bytes", e.Bytes))
		} else {
			span.SetAttributes(keyErrorType.String(class))
			span.SetStatus(codes.Error, h.cfg.Redact(e.Err.Error()))
		}
	}
	span.End(trace.WithTimestamp(until))
}

func (h *Hooks) run(ctx context.Context, r *schedule.Run) {
	h.dueTimes.Add(ctx, int64(max(r.Count, 1)), h.of(r.DataStore, keyRunState.String(string(r.State))))
}

func (h *Hooks) pruned(ctx context.Context, p amber.Pruned) {
	if p.Backup == nil {
		return
	}
	with := h.of(p.Backup.DataStore, keyKind.String(kind(p.Backup.Kind)))
	h.deleted.Add(ctx, 1, with)
	h.deletedIO.Add(ctx, p.Backup.StoredBytes, with)
}

func (h *Hooks) swept(ctx context.Context, r backup.SweepReport) {
	h.sweeps.Add(ctx, 1)
	h.interrupted.Add(ctx, int64(r.Interrupted))
	h.sweptObjects.Add(ctx, int64(r.Objects))
	h.sweptIO.Add(ctx, r.Bytes)
}

func (h *Hooks) retention(_ context.Context, r backup.PruneReport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range r.Fates {
		if d := h.observes(f.DataStore); d != nil {
			d.heard, d.held = true, false
		}
	}
	for _, held := range r.Held {
		if d := h.observes(held.DataStore); d != nil {
			d.heard, d.held = true, true
		}
	}
}
