package amber_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog/retention"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage/filestore"
)

// The main path: a server is backed up into a directory, and the backup is put into another server.
func Example() {
	ctx := context.Background()
	from, to, done := servers(ctx)
	defer done()
	dir, err := os.MkdirTemp("", "amber-example-")
	if err != nil {
		log.Panic(err)
	}
	defer os.RemoveAll(dir)

	store, err := filestore.New(dir, nil)
	if err != nil {
		log.Panic(err)
	}
	service, err := amber.New(amber.Config{Store: store})
	if err != nil {
		log.Panic(err)
	}
	b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", Name: "before-upgrade", From: from})
	if err != nil {
		log.Panic(err)
	}
	rep, err := service.Restore(ctx, amber.RestoreRequest{Backup: b.ID, To: to})
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("%s of %s is %s: %d keys, %d with an expiry\n", b.Name, b.DataStore, b.State, b.Keys, b.Expires)
	fmt.Printf("restored by %s: %d keys\n", rep.Method, rep.Keys)
	fmt.Println(redis.NewClient(to).HGetAll(ctx, "order:1").Val())
	// Output:
	// before-upgrade of orders is ready: 3 keys, 1 with an expiry
	// restored by feed: 3 keys
	// map[customer:Ada state:paid]
}

// A backup is started in the background, as by a handler of a page, and its handle is asked how far it is.
func ExampleService_Start() {
	ctx := context.Background()
	from, _, done := servers(ctx)
	defer done()
	dir, err := os.MkdirTemp("", "amber-example-")
	if err != nil {
		log.Panic(err)
	}
	defer os.RemoveAll(dir)
	store, err := filestore.New(dir, nil)
	if err != nil {
		log.Panic(err)
	}
	service, err := amber.New(amber.Config{Store: store})
	if err != nil {
		log.Panic(err)
	}

	started, err := service.Start(ctx, amber.BackupRequest{DataStore: "orders", From: from})
	if err != nil {
		log.Panic(err)
	}
	b, err := started.Wait(ctx) // or look at started.Progress() now and then, or started.Cancel()
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("%s: %s, %d keys\n", started.Progress().Stage, b.State, b.Keys)
	if err := service.Close(ctx); err != nil { // waits for what was started
		log.Panic(err)
	}
	// Output:
	// done: ready, 3 keys
}

// A policy says when a data store is backed up and how long the backups are kept; RunSchedules makes them until its context ends.
func ExampleService_RunSchedules() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	from, _, done := servers(ctx)
	defer done()
	dir, err := os.MkdirTemp("", "amber-example-")
	if err != nil {
		log.Panic(err)
	}
	defer os.RemoveAll(dir)
	store, err := filestore.New(dir, nil)
	if err != nil {
		log.Panic(err)
	}

	clock := heldAt(time.Date(2026, 11, 27, 1, 29, 59, 0, time.UTC)) // a host needs none
	service, err := amber.New(amber.Config{
		Store: store,
		DataStores: func(ctx context.Context, dataStore string) (amber.BackupRequest, error) {
			return amber.BackupRequest{From: from}, nil
		},
		Events: amber.Events{Run: func(ctx context.Context, r *schedule.Run) {
			fmt.Printf("%s, due %s: %s\n", r.DataStore, r.Due.Format(time.RFC3339), r.State)
			cancel() // a host goes on
		}},
		Now: clock.now,
	})
	if err != nil {
		log.Panic(err)
	}
	_, err = service.SetPolicy(ctx, schedule.Policy{ID: "nightly", DataStore: "orders", Enabled: true,
		When: schedule.When{Daily: []string{"02:30"}}, TimeZone: "Europe/Berlin", Retries: 3, Retention: retention.Rules{Days: 14}})
	if err != nil {
		log.Panic(err)
	}
	clock.letGo()
	if err := service.RunSchedules(ctx); err != nil {
		log.Panic(err)
	}
	if err := service.Close(context.WithoutCancel(ctx)); err != nil {
		log.Panic(err)
	}
	// Output:
	// orders, due 2026-11-27T01:30:00Z: done
}

// servers starts two servers, and puts three keys into the first.
func servers(ctx context.Context) (from, to *redis.Options, done func()) {
	var started []*testserver.Server
	var dirs []string
	for range 2 {
		dir, err := os.MkdirTemp("", "amber-example-server-")
		if err != nil {
			log.Panic(err)
		}
		s, err := testserver.Launch("valkey-9.1", dir)
		if err != nil {
			log.Panic(err)
		}
		started, dirs = append(started, s), append(dirs, dir)
	}
	from, to = started[0].Options(), started[1].Options()
	c := redis.NewClient(from)
	defer c.Close()
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, "order:1", "customer", "Ada", "state", "paid")
		p.RPush(ctx, "queue", "order:1")
		p.Set(ctx, "session:7", "Ada", time.Hour)
		return nil
	})
	if err != nil {
		log.Panic(err)
	}
	return from, to, func() {
		for i, s := range started {
			s.Close()
			os.RemoveAll(dirs[i])
		}
	}
}
