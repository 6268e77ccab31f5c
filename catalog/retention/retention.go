// Package retention decides how long backups are kept, and says why.
//
// It decides and does nothing: Plan is a function of the backups of one data store, what was promised about them, and the time. Package backup
// deletes what a plan lets go of.
package retention

import (
	"time"

	"github.com/amberkv/amber/catalog"
)

const (
	// DefaultFall is by how many percent the keys of a data store may fall before retention is held.
	DefaultFall = 90
	// DefaultMaxDays is how long a policy may say that backups are kept, in days, if a host sets no other limit.
	DefaultMaxDays = 730
	// MaxCount is the most that Rules.Count can be.
	MaxCount = 10000
)

// Rules say how long the backups that one policy has made are kept. A backup that any of the rules keeps is kept. The zero value keeps
// all of them: rules that say nothing let go of nothing.
//
// Ages are counted from the policy's newest ready backup, not from now: while no backups are made none is let go of. The time of a backup is its
// due time, whenever it began after that: what was due at 23:59 and began at 00:01 belongs to the day on which it was due. One without a due
// time, or that began before it, has the time at which it began.
type Rules struct {
	Days  int `json:"days,omitempty"`  // those that are at most so many days older than the newest, of 24 hours each
	Count int `json:"count,omitempty"` // the newest ones, so many

	// The last backup of each of the newest hours, days, weeks (which begin on Monday), months and years that have one, so many of each, by
	// the calendar of the policy's time zone. An hour that comes twice when clocks are set back is two hours.
	Hourly  int `json:"hourly,omitempty"`
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
	Yearly  int `json:"yearly,omitempty"`

	// FallPercent is by how many percent the keys of the newest backup may be fewer than those of an older one of the same policy: from there
	// on nothing of the data store is let go of. 1 to 100, where 100 means that all keys are gone; 0: DefaultFall; -1: they may be however
	// few. Falls that somebody has looked at are accepted by FallAccepted: backups that began before it are no longer compared with.
	FallPercent  int       `json:"fallPercent,omitempty"`
	FallAccepted time.Time `json:"fallAccepted,omitzero"`
}

// Promises are what was promised about the backups of a data store.
type Promises struct {
	// Policies are the rules of each policy, by its ID. Backups of a policy that isn't there are kept.
	Policies map[string]PolicyRules
	// InUse are the backups that somebody reads, and who that is.
	InUse map[catalog.ID]string
	// FallAccepted accepts falls in keys as Rules.FallAccepted does, of all backups of the data store.
	FallAccepted time.Time
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
	Backup *catalog.Backup `json:"-"`
	Delete bool            `json:"delete"`
	// Reasons are for a person; there is at least one. Of what is kept they are all that keeps it and, if neither its policy nor a date is
	// among these, why it would go otherwise.
	Reasons []string `json:"reasons"`
}

// A Result is what a plan says about the backups of a data store.
type Result struct {
	Verdicts []Verdict // of those that are ready, newest first
	// Held says why nothing is let go of, if it is held: the clock, or a fall in keys. It is told as soon as that is so, even if nothing
	// would be let go of otherwise.
	Held string
}
