package amber_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage/memstore"
)

// slogLines returns a log and what takes its lines, without the time.
func slogLines(level slog.Level) (*slog.Logger, func() []string) {
	var out lockedBuffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.TimeKey:
			return slog.Attr{}
		case "duration":
			return slog.String("duration", "some")
		}
		return a
	}}))
	seen := 0
	return log, func() []string {
		text := out.String()[seen:]
		seen += len(text)
		return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	}
}

// TestSlogEvents: each thing that happens is a line of its level, with what it is about, and without the secrets that a host's own code puts into errors.
func TestSlogEvents(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	log, lines := slogLines(slog.LevelDebug)
	events := amber.SlogEvents(log)
	s, err := amber.New(amber.Config{Store: memstore.New(nil), Events: events})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what string, want ...string) {
		t.Helper()
		got := lines()
		if len(got) != len(want) {
			t.Fatalf("%s: the log has\n%s", what, strings.Join(got, "\n"))
		}
		for i := range got {
			if !regexp.MustCompile("^" + want[i] + "$").MatchString(got[i]) {
				t.Errorf("%s: the log has\n%s\nwant\n%s", what, got[i], want[i])
			}
		}
	}
	if _, err := s.Import(ctx, amber.ImportRequest{DataStore: "orders", Reader: bytes.NewReader(readFile(t, someRDB))}); err != nil {
		t.Fatal(err)
	}
	expect("an import", `level=DEBUG msg="import begins" dataStore=orders kind=import`,
		`level=INFO msg="import is done" dataStore=orders backup=\S+ kind=import duration=some keys=12 bytes=\d+`)
	fails := func(err error) {
		_, got := s.Backup(ctx, amber.BackupRequest{DataStore: "orders", Snapshotter: snapshotFunc(func(context.Context) (backup.Snapshot, error) { return nil, err })})
		if got == nil {
			t.Fatal("a backup without a snapshot is done")
		}
	}
	fails(errors.New("dial redis://admin:CANARY@10.0.0.1: refused; see https://x.example/log?sig=CANARY"))
	expect("a failure", `level=DEBUG msg="backup begins" dataStore=orders kind=manual`,
		`level=ERROR msg="backup failed" dataStore=orders backup=\S+ kind=manual duration=some error="backup of orders: .*redis://\*\*\*@10\.0\.0\.1: refused; see https://x.example/log\?\*\*\*"`)
	fails(context.Canceled)
	expect("a cancellation", `level=DEBUG .*`, `level=WARN msg="backup was cancelled" .*`)
	fails(fmt.Errorf("%w: by another", backup.ErrBusy))
	expect("another at work", `level=DEBUG .*`, `level=WARN msg="backup was refused" .*`)
	if _, err := s.Sweep(ctx, 0); err != nil {
		t.Fatal(err)
	}
	expect("a sweep of nothing", `level=DEBUG msg="stores are swept" interrupted=0 records=0 objects=0 bytes=0`)
	if _, err := s.Sweep(ctx, -1); err != nil {
		t.Fatal(err)
	}
	expect("a sweep", `level=INFO msg="stores are swept" interrupted=0 records=3 objects=0 bytes=0`)

	due := time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)
	attempts := []schedule.Attempt{{Error: "one"}, {Error: "https://x/?y=CANARY"}}
	for _, r := range []schedule.Run{
		{State: schedule.RunDone, Backup: "B", Attempts: attempts},
		{State: schedule.RunFailed, Reason: "its window has ended", Attempts: attempts},
		{State: schedule.RunSkipped, Reason: "another one is at work"},
		{State: schedule.RunMissed, First: due.AddDate(0, 0, -2), Count: 3, Reason: "nobody was there"},
	} {
		r.Policy, r.DataStore, r.Due = "nightly", "orders", due
		events.Run(ctx, &r)
	}
	const about = `policy=nightly dataStore=orders dueTime=2026-11-23T22:00:00.000Z`
	expect("due times", `level=DEBUG msg="due time is done" `+about+` backup=B attempts=2`,
		`level=ERROR msg="due time has failed" `+about+` attempts=2 error="?https://x/\?\*\*\*"? reason="its window has ended"`,
		`level=WARN msg="due time is skipped" `+about+` reason="another one is at work"`,
		`level=WARN msg="due times are missed" `+about+` first=2026-11-21T22:00:00.000Z count=3 reason="nobody was there"`)

	events.Held(ctx, amber.Held{DataStore: "orders", Store: "far", Reason: "keys fell by 95 %"})
	events.Pruned(ctx, amber.Pruned{Backup: &catalog.Backup{ID: "B", DataStore: "orders", Kind: catalog.KindAutomatic, StoredBytes: 7}, Reason: "older than 7 days"})
	events.Pruned(ctx, amber.Pruned{Reason: "nothing"})
	events.Begin(ctx, amber.Event{Operation: "backup", DataStore: "orders", Policy: "nightly", DueTime: due, Attempt: 2, Store: "far"})
	expect("retention", `level=WARN msg="retention is held" dataStore=orders store=far reason="keys fell by 95 %"`,
		`level=INFO msg="retention has deleted a backup" dataStore=orders backup=B kind=automatic bytes=7 reason="older than 7 days"`, `level=INFO .*`,
		`level=DEBUG msg="backup begins" dataStore=orders store=far policy=nightly dueTime=2026-11-23T22:00:00.000Z attempt=2`)
	amber.SlogEvents(nil).Begin(ctx, amber.Event{})
}

// TestSlogEventsAreFew: at the ordinary level an operation is one line.
func TestSlogEventsAreFew(t *testing.T) {
	t.Parallel()
	log, lines := slogLines(slog.LevelInfo)
	s, err := amber.New(amber.Config{Store: memstore.New(nil), Events: amber.SlogEvents(log)})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Reader: bytes.NewReader(readFile(t, someRDB))}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sweep(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := lines(); len(got) != 3 {
		t.Errorf("three imports, each with a sweep after it, are in the log as\n%s", strings.Join(got, "\n"))
	}
}

// TestEventsAnd: every func of both is called, in order, also if the first panics, and one that is missing does no harm. A field that is new in Events has to be
// in And too.
func TestEventsAnd(t *testing.T) {
	t.Parallel()
	var called []string
	full := func(name string, panics bool) amber.Events {
		var e amber.Events
		v := reflect.ValueOf(&e).Elem()
		for i := range v.NumField() {
			field := v.Type().Field(i)
			v.Field(i).Set(reflect.MakeFunc(field.Type, func([]reflect.Value) []reflect.Value {
				called = append(called, name+" "+field.Name)
				if panics {
					panic(name)
				}
				return nil
			}))
		}
		return e
	}
	call := func(e amber.Events, field int) (recovered any) {
		defer func() { recovered = recover() }()
		f := reflect.ValueOf(e).Field(field)
		if f.IsNil() {
			return nil
		}
		args := []reflect.Value{reflect.ValueOf(t.Context())}
		for i := 1; i < f.Type().NumIn(); i++ {
			args = append(args, reflect.Zero(f.Type().In(i)))
		}
		f.Call(args)
		return nil
	}
	none := amber.Events{}
	for i := range reflect.TypeFor[amber.Events]().NumField() {
		field := reflect.TypeFor[amber.Events]().Field(i).Name
		for name, test := range map[string]struct {
			e      amber.Events
			want   []string
			panics any
		}{
			"both":         {full("first", false).And(full("second", false)), []string{"first " + field, "second " + field}, nil},
			"first":        {full("first", false).And(none), []string{"first " + field}, nil},
			"second":       {none.And(full("second", false)), []string{"second " + field}, nil},
			"three":        {full("first", false).And(full("second", false)).And(full("third", false)), []string{"first " + field, "second " + field, "third " + field}, nil},
			"first panics": {full("first", true).And(full("second", false)), []string{"first " + field, "second " + field}, "first"},
			"none":         {none.And(none), nil, nil},
		} {
			called = nil
			if p := call(test.e, i); p != test.panics || !reflect.DeepEqual(called, test.want) {
				t.Errorf("%s, %s: called %q, and panicked with %v; want %q and %v", field, name, called, p, test.want, test.panics)
			}
		}
	}
}
