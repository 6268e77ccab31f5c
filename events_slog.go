package amber

import (
	"context"
	"errors"
	"log/slog"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/schedule"
)

// SlogEvents returns Events that are written to a log: a line for the end of each operation and for each due time that came to something else than
// a backup, for retention that is held, for what it has deleted and for sweeps that removed something; beginnings, and what needs no
// attention, at the level of debug. Progress isn't logged. Failures are errors; what was cancelled or met another one at work is a warning. nil: nothing is
// logged.
//
// It is for a log of operations, such as one for audits; what an operator may want to know a Service writes to Config.Logger by itself.
func SlogEvents(to *slog.Logger) Events {
	if to == nil {
		to = slog.New(slog.DiscardHandler)
	}
	log := slogEvents{to}
	return Events{Begin: log.begin, End: log.end, Run: log.run, Held: log.held, Pruned: log.pruned, Swept: log.swept}
}

type slogEvents struct{ to *slog.Logger }

func (l slogEvents) begin(ctx context.Context, e Event) {
	l.to.LogAttrs(ctx, slog.LevelDebug, e.Operation+" begins", about(e)...)
}

func (l slogEvents) end(ctx context.Context, e Event) {
	attrs := append(about(e), slog.Duration("duration", e.Duration))
	switch {
	case e.Err == nil:
		l.to.LogAttrs(ctx, slog.LevelInfo, e.Operation+" is done", append(attrs, slog.Int64("keys", e.Keys), slog.Int64("bytes", e.Bytes))...)
	case errors.Is(e.Err, context.Canceled):
		l.to.LogAttrs(ctx, slog.LevelWarn, e.Operation+" was cancelled", append(attrs, reason("error", e.Err.Error()))...)
	case errors.Is(e.Err, backup.ErrBusy):
		l.to.LogAttrs(ctx, slog.LevelWarn, e.Operation+" was refused", append(attrs, reason("error", e.Err.Error()))...)
	default:
		l.to.LogAttrs(ctx, slog.LevelError, e.Operation+" failed", append(attrs, reason("error", e.Err.Error()))...)
	}
}

// about says what an operation is about.
func about(e Event) []slog.Attr {
	attrs := given(nil, "dataStore", e.DataStore)
	attrs = given(attrs, "backup", string(e.Backup))
	attrs = given(attrs, "kind", string(e.Kind))
	attrs = given(attrs, "store", e.Store)
	attrs = given(attrs, "policy", e.Policy)
	if !e.DueTime.IsZero() {
		attrs = append(attrs, slog.Time("dueTime", e.DueTime))
	}
	if e.Attempt > 0 {
		attrs = append(attrs, slog.Int("attempt", e.Attempt))
	}
	return attrs
}

// given adds what there is.
func given(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, value))
}

// reason is a text that may quote what a host's own code has written.
func reason(key, text string) slog.Attr { return slog.String(key, redact.URLs(text)) }

func (l slogEvents) run(ctx context.Context, r *schedule.Run) {
	level, count := slog.LevelWarn, max(r.Count, 1)
	switch r.State {
	case schedule.RunDone:
		level = slog.LevelDebug // its backup has had a line
	case schedule.RunFailed:
		level = slog.LevelError
	}
	attrs := []slog.Attr{slog.String("policy", r.Policy), slog.String("dataStore", r.DataStore), slog.Time("dueTime", r.Due)}
	if count > 1 {
		attrs = append(attrs, slog.Time("first", r.First), slog.Int("count", count))
	}
	attrs = given(attrs, "backup", string(r.Backup))
	if n := len(r.Attempts); n > 0 {
		attrs = append(attrs, slog.Int("attempts", n))
		if last := r.Attempts[n-1].Error; last != "" && r.State == schedule.RunFailed {
			attrs = append(attrs, reason("error", last))
		}
	}
	if r.Reason != "" {
		attrs = append(attrs, reason("reason", r.Reason))
	}
	what := "due time is "
	if count > 1 {
		what = "due times are "
	}
	if r.State == schedule.RunFailed {
		what = "due time has "
	}
	l.to.LogAttrs(ctx, level, what+string(r.State), attrs...)
}

func (l slogEvents) held(ctx context.Context, h Held) {
	l.to.LogAttrs(ctx, slog.LevelWarn, "retention is held",
		append(given([]slog.Attr{slog.String("dataStore", h.DataStore)}, "store", h.Store), reason("reason", h.Reason))...)
}

func (l slogEvents) pruned(ctx context.Context, p Pruned) {
	b := p.Backup
	if b == nil {
		b = &catalog.Backup{}
	}
	attrs := given([]slog.Attr{slog.String("dataStore", b.DataStore), slog.String("backup", string(b.ID)), slog.String("kind", string(b.Kind))}, "store", p.Store)
	l.to.LogAttrs(ctx, slog.LevelInfo, "retention has deleted a backup", append(attrs, slog.Int64("bytes", b.StoredBytes), reason("reason", p.Reason))...)
}

func (l slogEvents) swept(ctx context.Context, r backup.SweepReport) {
	level := slog.LevelInfo
	if r == (backup.SweepReport{}) {
		level = slog.LevelDebug
	}
	l.to.LogAttrs(ctx, level, "stores are swept", slog.Int("interrupted", r.Interrupted), slog.Int("records", r.Records), slog.Int("objects", r.Objects), slog.Int64("bytes", r.Bytes))
}

// And returns Events that tell both e and other: e first, and other also if a func of e panics.
func (e Events) And(other Events) Events {
	both := Events{
		Begin: then(e.Begin, other.Begin), Progress: e.Progress, End: then(e.End, other.End), Run: then(e.Run, other.Run),
		Held: then(e.Held, other.Held), Pruned: then(e.Pruned, other.Pruned), Swept: then(e.Swept, other.Swept),
		Retention: then(e.Retention, other.Retention),
	}
	switch {
	case both.Progress == nil:
		both.Progress = other.Progress
	case other.Progress != nil:
		both.Progress = func(ctx context.Context, what Event, p Progress) {
			defer other.Progress(ctx, what, p)
			e.Progress(ctx, what, p)
		}
	}
	return both
}

// then returns what calls both.
func then[T any](first, second func(context.Context, T)) func(context.Context, T) {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return func(ctx context.Context, e T) {
		defer second(ctx, e)
		first(ctx, e)
	}
}
