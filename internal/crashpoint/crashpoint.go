// Package crashpoint names the places at which tests kill a process.
//
// In an ordinary build Hit is empty and costs nothing. Built with the tag "crashpoint", it sends SIGKILL to its own
// process at the place that the environment variable AMBER_CRASHPOINT names: what a test then finds in the store is what a
// power cut or the kernel's out-of-memory killer would have left there.
package crashpoint

// The places, in the order in which a backup passes them.
const (
	BackupLeased     = "backup-leased"     // the lease is taken, nothing else is done
	BackupRegistered = "backup-registered" // the catalog knows the run
	BackupSnapshot   = "backup-snapshot"   // the source is about to send
	BackupFirstByte  = "backup-first-byte" // the first bytes came in
	BackupMidPart    = "backup-mid-part"   // some bytes of the part are with the store
	BackupCommit     = "backup-commit"     // all bytes are with the store, nothing is committed
	BackupCommitted  = "backup-committed"  // the part is committed, not read back
	AdoptParsed      = "adopt-parsed"      // a part that was in the store before is parsed, not read back
	BackupReadBack   = "backup-read-back"  // the part is read back, the manifest not written
	BackupPublished  = "backup-published"  // the manifest is written, the lease not released
	CopyRegistered   = "copy-registered"   // the target store's catalog knows of the copy, nothing is copied
	CopyMidPart      = "copy-mid-part"     // some bytes of the part are with the target store
	CopyCommitted    = "copy-committed"    // the part is committed, not read back
	CopyReadBack     = "copy-read-back"    // every part is read back, the manifest not written
	CopyPublished    = "copy-published"    // the manifest is written, the lease not released
	DeleteMarked     = "delete-marked"     // the backup is marked as deleted, its objects are there
	DeleteNoted      = "delete-noted"      // how long it was there is noted, its objects are there
	DeleteObjects    = "delete-objects"    // its objects are gone, its record is there
	PrunePlanned     = "prune-planned"     // it is decided which backups are to be deleted, none is
	SweepMarked      = "sweep-marked"      // a dead run is marked as interrupted, its objects are there
	RestoreVerified  = "restore-verified"  // the backup is verified, the target untouched
)

// All lists the places.
func All() []string {
	return []string{BackupLeased, BackupRegistered, BackupSnapshot, BackupFirstByte, BackupMidPart, BackupCommit,
		BackupCommitted, AdoptParsed, BackupReadBack, BackupPublished, CopyRegistered, CopyMidPart, CopyCommitted, CopyReadBack, CopyPublished,
		DeleteMarked, DeleteNoted, DeleteObjects, PrunePlanned, SweepMarked, RestoreVerified}
}
