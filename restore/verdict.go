package restore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
)

// Requirements are what a target has to offer for a backup.
type Requirements struct {
	// Backup is the manifest.
	Backup *catalog.Backup
	// Final says that Backup is of what is to be loaded, after selection and conversion. Before the backup was read it is that
	// of the whole backup. What Load is given is final.
	Final bool
	// Options are the caller's choices; nil means the defaults.
	Options *Options
	// Memory is how much memory the data takes in the target, in bytes, by an estimate from the keys; 0 if that isn't known.
	Memory int64
}

// Conflict returns what the options say about data that the target holds.
func (r Requirements) Conflict() Conflict {
	if r.Options == nil {
		return IntoEmpty
	}
	return r.Options.Conflict
}

// Databases returns the databases that are written to, in ascending order.
func (r Requirements) Databases() []int {
	var dbs []int
	for _, db := range r.Backup.DBs {
		n := db.Index
		if r.Options != nil && !r.Final {
			s := r.Options.Select
			if s.DBs != nil && !slices.Contains(s.DBs, n) {
				continue
			}
			if to, ok := s.MapDB[n]; ok {
				n = to
			}
		}
		dbs = append(dbs, n)
	}
	slices.Sort(dbs)
	return slices.Compact(dbs)
}

// A Level says how a point of a Verdict came out.
type Level string

// The levels of a point.
const (
	Pass Level = "pass"
	Warn Level = "warn" // it works, but not without what Detail tells: it has to be accepted, see Options.Accept
	Fail Level = "fail" // it doesn't work
)

// A Point is one thing that was looked at.
type Point struct {
	Name   string `json:"name"`   // such as "empty", "rdb-version", "databases"
	Level  Level  `json:"level"`  //
	Detail string `json:"detail"` // what was found and, unless it passed, what to do
}

// A Verdict says whether a target can take a backup, point by point.
type Verdict struct {
	Points []Point `json:"points"`

	// Dialect is what the target takes the snapshot in. The zero Dialect means whatever the backup is in.
	Dialect rdb.Dialect `json:"-"`
	// Modules are those types of module values that the target takes, by their nine characters.
	Modules []string `json:"-"`
	// OneStream says that the target takes one stream only: the parts of a backup are joined.
	OneStream bool `json:"-"`
	// Verbatim says that the target keeps what it is given and doesn't run it: what needs no conversion it gets byte for byte, even if keys in it
	// have expired, or only Dragonfly can read it.
	Verbatim bool `json:"-"`
	// Appends says that the target executes the commands of append-only parts itself, which it gets as they are, behind the parts before them.
	Appends bool `json:"-"`
	// Replays says that the loader executes the commands of a backup, in the order of its parts: it gets them in its stream as entries of
	// rdb.KindJournal, of which a reader has to be told by rdb.ReaderOptions.Commands. Where several keys have one name the last counts.
	// A loader without it gets streams without commands, which is a loss that somebody has to accept.
	Replays bool `json:"-"`
	// Has tells whether the target has a command, by its name in small letters, for loaders that replay. Nil: that isn't known.
	Has func(name string) bool `json:"-"`
	// NoIndexes says that the target can't take definitions of search indexes with the stream, even if its dialect has them.
	NoIndexes bool `json:"-"`
	// Holds is how many keys and function libraries the target holds.
	Holds int64 `json:"holds"`
}

// Add adds a point.
func (v *Verdict) Add(level Level, name, format string, args ...any) {
	v.Points = append(v.Points, Point{Name: name, Level: level, Detail: fmt.Sprintf(format, args...)})
}

// Pass adds a point that passed.
func (v *Verdict) Pass(name, format string, args ...any) { v.Add(Pass, name, format, args...) }

// Warn adds a point that has to be accepted.
func (v *Verdict) Warn(name, format string, args ...any) { v.Add(Warn, name, format, args...) }

// Fail adds a point that failed.
func (v *Verdict) Fail(name, format string, args ...any) { v.Add(Fail, name, format, args...) }

// Failed tells whether a point failed.
func (v Verdict) Failed() bool {
	for _, p := range v.Points {
		if p.Level == Fail {
			return true
		}
	}
	return false
}

// Err returns nil if no point failed and opts accept every warning, else an error with the details of the others. It
// wraps ErrNotEmpty if the point called "empty" failed, ErrRefused for others that did, and ErrNotAccepted for warnings. Nil opts
// accept none.
func (v Verdict) Err(opts *Options) error {
	var errs []error
	for _, p := range v.Points {
		switch {
		case p.Level == Pass:
		case p.Level == Warn && opts.accepts(p.Name):
		case p.Level == Warn:
			errs = append(errs, fmt.Errorf("%w: %s: %s", ErrNotAccepted, p.Name, p.Detail))
		case p.Name == "empty":
			errs = append(errs, fmt.Errorf("%w: %s", ErrNotEmpty, p.Detail))
		default:
			errs = append(errs, fmt.Errorf("%w: %s: %s", ErrRefused, p.Name, p.Detail))
		}
	}
	return errors.Join(errs...)
}
