// Package schedule knows when backups are due, and sees to it that each due time is dealt with once.
//
// A [Policy] says when a data store is backed up; a [Journal] keeps policies and what became of their due times; a [Scheduler] waits for these, and
// calls what makes a backup. Any number of schedulers, in any number of processes, share one Journal: each due time runs at most once, and none
// vanishes. It ends as a [Run] that was done, failed, skipped with a reason, or missed.
package schedule
