// Package otelhooks tells OpenTelemetry what an amber.Service does: in metrics of few series, and in a span for each operation.
//
//	hooks, err := otelhooks.New(otelhooks.Config{MeterProvider: meters, TracerProvider: tracers})
//	service, err := amber.New(amber.Config{Store: store, Events: hooks.Events()})
//	err = hooks.Seed(ctx, service) // so that the age of the last backup is known though none was made since the start
//
// # Metrics
//
//	amber.backup.last_success.age    gauge, s            since the last good backup of a data store was ready
//	amber.operation.duration         histogram, s        of operations that have ended, well or not
//	amber.operation.io               counter, By         bytes that operations have stored, or brought to their targets
//	amber.operation.count            counter, {operation}      that have ended; failures have an error.type
//	amber.operation.active           up-down counter, {operation}    that are at work
//	amber.schedule.due_times         counter, {due_time} that were settled, by amber.run.state: done, failed, skipped or missed
//	amber.retention.held             gauge, {data_store} 1 if nothing of the data store is let go of until somebody has looked, else 0
//	amber.retention.deletions        counter, {backup}   that retention has deleted
//	amber.retention.io               counter, By         of those, as they were stored
//	amber.sweep.count                counter, {sweep}
//	amber.sweep.interrupted          counter, {run}      that had died
//	amber.sweep.objects              counter, {object}   that sweeps have deleted
//	amber.sweep.io                   counter, By         of those
//
// Their attributes are amber.data_store, of which there are as many as Config.MaxDataStores says; amber.operation, which is "backup",
// "import", "restore", "verify", "export" or "copy"; amber.backup.kind; amber.run.state; and error.type, which is "source", "store", "busy",
// "not_sound", "not_verified", "not_found", "lease_lost", "refused", "cancelled" or "_OTHER". IDs of backups and texts of errors are in spans only.
//
// An alert that wakes somebody should look at amber.backup.last_success.age: it rises whatever the reason is, also if nothing runs at all.
package otelhooks
