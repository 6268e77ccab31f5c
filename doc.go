// Package amber keeps living data stores exactly as they stood: it backs up Redis, Valkey and Dragonfly over the network,
// proves every backup while it is made, keeps it in a store, and puts it back.
//
// The main path, for a program that wants its data safe in a directory:
//
//	store, err := filestore.New("/var/backups", nil)
//	…
//	service, err := amber.New(amber.Config{Store: store})
//	…
//	b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: &redis.Options{Addr: "db:6379"}})
//	…
//	_, err = service.Restore(ctx, amber.RestoreRequest{Backup: b.ID, To: &redis.Options{Addr: "db2:6379"}})
//
// Policies make backups when they are due, and say how long these are kept:
//
//	_, err = service.SetPolicy(ctx, schedule.Policy{ID: "nightly", DataStore: "orders", Enabled: true,
//		When: schedule.When{Daily: []string{"02:30"}}, Window: 2 * time.Hour, Retries: 3, Retention: retention.Rules{Days: 14}})
//	…
//	err = service.RunSchedules(ctx) // until ctx ends, in any number of processes
//
// A [Service] is wired from the packages below this one, each of which can be used or replaced by itself:
//
//   - storage says what a place for objects has to do; filestore and memstore are such places, and so are the buckets of
//     storage/blobstore, a module of its own. seal compresses and encrypts, retry calls again what failed for the moment.
//   - catalog knows which backups there are; storecatalog keeps that in the store itself.
//   - backup takes a snapshot through the pipeline that makes it a backup; replica, dragonfly and scan take the snapshot of a server, cluster and
//     sentinel those of several, dumpfile and fetch read one that is a file, in a store or at a URL; probe finds out which of them a server allows, and
//     govern spares it. [CheckSource] tells beforehand what a backup would do.
//   - restore proves a backup, converts it for its target and gives it to a loader: feed lets the target replicate from Amber,
//     command sends it commands, dumpfile writes a file for it.
//   - schedule knows when backups are due by policies, and sees to it that each due time is dealt with once; catalog/retention says how
//     long backups are kept, and why.
//   - rdb reads the snapshots that servers write.
//
// # What Amber promises
//
// A backup that is listed was committed, read back with its hash equal, and parsed to its end with its checksum right. A
// process killed at any instant leaves garbage that [Service.Sweep] removes, never a listed backup that can't be
// restored. A restore proves the whole backup before it touches the target, refuses a target that holds data unless told to
// replace it or to merge, and ends complete or with a *restore.PartialError that says what is there. The source is read, never
// written. No secret appears in a log, an error or a manifest.
package amber
