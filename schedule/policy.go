package schedule

import (
	"time"

	"github.com/amberkv/amber/catalog/retention"
)

// A Policy says when a data store is backed up, and how long these backups are kept. A data store may have any number.
type Policy struct {
	ID        string `json:"id"`        // as catalog.ValidName says
	DataStore string `json:"dataStore"` // the host's ID of the data store, as catalog.ValidName says
	Enabled   bool   `json:"enabled"`   // else no backup becomes due; retention goes on

	When     When   `json:"when"`
	TimeZone string `json:"timeZone,omitempty"` // as "Europe/Berlin" of the IANA's database; empty: UTC, never that of the process

	// Window is how long after its due time a backup may start, in nanoseconds. It starts at a point in the first half of it, which the data store
	// determines, so that not all of them start at once, and retries have the rest. 0: the backup starts at its due time, and for
	// DefaultLate after it may still start. A window ends early where the next one begins. How long a backup takes has nothing to do with it.
	Window time.Duration `json:"window,omitempty"`
	// Retries are how often a backup that failed is begun again while its window lasts, with pauses that grow; 0 to MaxRetries.
	Retries int `json:"retries,omitempty"`
	// CatchUp says what becomes of due times that passed while no scheduler ran; empty: CatchUpLatest.
	CatchUp CatchUp `json:"catchUp,omitempty"`

	Retention retention.Rules `json:"retention,omitzero"`

	Store      string            `json:"store,omitempty"`      // the name of the store that keeps the backups; empty: the host's first
	BackupName string            `json:"backupName,omitempty"` // of each backup, with "{timestamp}" in it or "{Y}", "{m}", "{d}"; empty: they have none
	Labels     map[string]string `json:"labels,omitempty"`     // of each backup; see catalog.ValidLabels

	// Set by Scheduler.Set: when the policy was created, and when its schedule was changed last. Due times before that don't count.
	CreatedAt time.Time `json:"createdAt,omitzero"`
	ChangedAt time.Time `json:"changedAt,omitzero"`
}

// DefaultLate is how long after its due time a backup may start whose policy has no window.
const DefaultLate = 15 * time.Minute

// MaxRetries is the most retries that a policy can have.
const MaxRetries = 10

// A CatchUp says what becomes of due times that passed while no scheduler ran.
type CatchUp string

// What becomes of due times that passed while no scheduler ran. All that aren't caught up with are missed, and recorded so.
const (
	CatchUpLatest CatchUp = "latest" // the latest of them is run, if its window still lasts
	CatchUpNone   CatchUp = "none"   // they are missed
)

// When says when backups are due, by the wall clock of the policy's time zone. Exactly one of its fields is set.
//
// A time is due at the first instant at which the wall clock reads it or a later one: what the clock passes over when it is set forward is due right
// after that, together with whatever else it passed over; what comes twice when it is set back is due the first time. But a schedule that has a
// time in each of the 24 hours goes by the time that passes: it is due whenever the clock reads such a time, in both of the hours.
type When struct {
	// Cron are the five fields of crontab(5): minute, hour, day of the month, month, day of the week; or @hourly, @daily and
	// the like. If both of the days are restricted, one of them is enough.
	Cron string `json:"cron,omitempty"`
	// Weekly are days of the week and hours of the day.
	Weekly *Weekly `json:"weekly,omitempty"`
	// Daily are times of the day, as "02:30". With a window they must not be closer than that.
	Daily []string `json:"daily,omitempty"`
	// SaveSchedule is Dragonfly's flag of that name: HH:MM with "*" and "?" in it, as "23:45", "*:15", "*:*".
	SaveSchedule string `json:"saveSchedule,omitempty"`
	// Every is a time between backups, in nanoseconds: at least a minute, and counted from 1970 by Unix time, whatever the zone.
	Every time.Duration `json:"every,omitempty"`
}

// Weekly are the days of the week and the hours of the day at which backups are due.
type Weekly struct {
	Days   []time.Weekday `json:"days,omitempty"`  // 0 is Sunday; none: every day
	Hours  []int          `json:"hours,omitempty"` // 0 to 23; none: every hour
	Minute int            `json:"minute,omitempty"`
}

// A Trigger says when something is due.
type Trigger interface {
	// Next returns the first due time after t, or the zero time if there is none any more.
	Next(after time.Time) time.Time
}

// Limits are a host's limits to policies.
type Limits struct {
	MaxRetentionDays int           // 0: 730
	MinInterval      time.Duration // between due times of a policy; 0: a minute
}
