package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage/filestore"
)

// service opens a service over the directory that all share.
func (o options) service(events amber.Events) (*amber.Service, func(), error) {
	store, err := filestore.New(filepath.Join(o.Dir, "store"), nil)
	if err != nil {
		return nil, nil, err
	}
	// Leases go by the time that really passes, however fast the clock goes by which backups are due.
	c, err := storecatalog.New(storecatalog.Config{Store: store, ClockSkew: 500 * time.Millisecond})
	if err != nil {
		return nil, nil, err
	}
	cfg := amber.Config{Store: store, Catalog: c, Leaser: c, LeaseTTL: 3 * time.Second, SchedulePoll: time.Second, ScheduleGrace: 5 * time.Second, TidyEvery: time.Minute,
		Events: events, DataStores: func(_ context.Context, dataStore string) (amber.BackupRequest, error) {
			s, ok := o.Servers[dataStore]
			if !ok {
				return amber.BackupRequest{}, fmt.Errorf("nobody knows data store %s", dataStore)
			}
			return amber.BackupRequest{From: s.options()}, nil
		}}
	if o.Speed != 1 {
		cfg.Now = func() time.Time { return o.Since.Add(time.Duration(float64(time.Since(o.Since)) * o.Speed)) }
	}
	service, err := amber.New(cfg)
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	return service, func() { store.Close() }, nil
}

// beReplica runs schedules until a signal comes, or the host is gone.
func beReplica(ctx context.Context, name string, in io.Reader, w io.Writer) error {
	var o options
	input := json.NewDecoder(in)
	if err := input.Decode(&o); err != nil {
		return fmt.Errorf("-replica is for the program itself, which tells it what to do: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, io.MultiReader(input.Buffered(), in)) // its end is what counts
		cancel()
	}()
	out := &lines{w: w}
	var held sync.Map // the data stores of which that was told
	service, done, err := o.service(amber.Events{
		Begin: func(_ context.Context, e amber.Event) {
			if e.Operation == "backup" {
				out.say("%s: %s due %s, attempt %d begins", name, e.DataStore, clock(e.DueTime), e.Attempt)
			}
		},
		Run: func(_ context.Context, r *schedule.Run) {
			text := fmt.Sprintf("%s: %s due %s is %s", name, r.DataStore, clock(r.Due), r.State)
			if r.Count > 1 {
				text += fmt.Sprintf(", with all since %s", clock(r.First))
			}
			if r.Backup != "" {
				text += ": " + string(r.Backup)
			}
			if r.Reason != "" {
				text += ": " + r.Reason
			}
			out.say("%s", text)
		},
		Pruned: func(_ context.Context, p amber.Pruned) {
			out.say("%s: %s of %s is deleted: %s", name, p.Backup.ID, p.Backup.DataStore, p.Reason)
		},
		Held: func(_ context.Context, h amber.Held) {
			if _, again := held.LoadOrStore(h.DataStore, true); !again {
				out.say("%s: nothing of %s is deleted: %s", name, h.DataStore, h.Reason)
			}
		},
	})
	if err != nil {
		return err
	}
	defer done()
	if err := service.RunSchedules(ctx); err != nil {
		return err
	}
	return service.Close(context.WithoutCancel(ctx))
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05") }

// startReplica starts this program once more.
func startReplica(name string, o options, out *lines) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := exec.Command(self, "-replica", name)
	p.Stdout, p.Stderr = out, out
	stdin, err := p.StdinPipe() // when it ends the host is gone
	if err != nil {
		return nil, err
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	return p, json.NewEncoder(stdin).Encode(o)
}
