// Package retention decides how long backups are kept, and says why.
//
// It decides and does nothing: Plan is a function of the backups of one data store, what was promised about them, and the time. Package backup
// deletes what a plan lets go of.
package retention

import (
	"time"

	"github.com/amberkv/amber/catalog"
)

// DefaultFall is by how many percent the keys of a data store may fall before retention is held.
const DefaultFall = 90

// Rules say how long the backups that one policy has made are kept. A backup that any of the rules keeps is kept. The zero value keeps
// all of them: rules that say nothing let go of nothing.
//
// Ages are counted from the policy's newest ready backup, not from now: while no backups are made none is let go of.
type Rules struct {
	Days  int `json:"days,omitempty"`  // those that are at most so many days older than the newest, of 24 hours each
	Count int `json:"count,omitempty"` // the newest ones, so many

	// The last backup of each of the newest hours, days, weeks (which begin on Monday), months and years that have one, so many of each, by
	// the calendar of the policy's time zone.
	Hourly  int `json:"hourly,omitempty"`
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
	Yearly  int `json:"yearly,omitempty"`

	// FallPercent is by how many percent the newest backup's keys may fall short of those of an older one before nothing is let go
	// of any more: 1 to 100; 0: DefaultFall; -1: however many. Falls that somebody has looked at are accepted by FallAccepted: backups
	// that began before it are no longer compared with.
	FallPercent  int       `json:"fallPercent,omitempty"`
	FallAccepted time.Time `json:"fallAccepted,omitzero"`
}

// Promises are what was promised about the backups of a data store.
type Promises struct {
	// Policies are the rules of each policy, by its ID. Backups of a policy that isn't there are kept.
	Policies map[string]PolicyRules
	// InUse are the backups that somebody reads, and who that is.
	InUse map[catalog.ID]string
	// Distrust says why the clock isn't to be trusted, if it isn't: then all is kept.
	Distrust string
}

// PolicyRules are the rules of a policy, by the calendar of a time zone.
type PolicyRules struct {
	Rules    Rules
	Location *time.Location // nil: UTC
}

// A Verdict says what is to become of a backup, and why.
type Verdict struct {
	Backup  *catalog.Backup `json:"-"`
	Delete  bool            `json:"delete"`
	Reasons []string        `json:"reasons"` // for a person; at least one. Of what is kept: all that keeps it
}

// A Result is what a plan says about the backups of a data store.
type Result struct {
	Verdicts []Verdict // newest first
	// Held says why nothing is let go of that would be otherwise: the clock, or a fall in keys; empty if that isn't so.
	Held string
}
