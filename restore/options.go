package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
)

// Options are the choices of a restore. The zero value restores everything into an empty target.
type Options struct {
	// Conflict says what becomes of data that the target holds.
	Conflict Conflict
	// Expiry says what becomes of the times at which keys expire.
	Expiry Expiry
	// Select says which keys are restored, and under which names.
	Select Selection
	// Accept lists the warnings that don't stop the restore, by the names of the Verdict's points; "all" accepts every one. What the
	// target can't hold is such a warning: accepting it means doing without.
	Accept []string
	// Compare says how many values are compared after loading.
	Compare Compare
	// Safety, if set, takes a backup of what the target holds and returns its ID. With Replace it is called before the target is
	// touched, unless that is empty; an error ends the restore.
	Safety func(ctx context.Context) (catalog.ID, error)
	// Progress is called now and then, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// A Conflict says what becomes of data that the target holds.
type Conflict string

// The policies for data that the target holds.
const (
	IntoEmpty      Conflict = ""          // a target with data is refused
	Replace        Conflict = "replace"   // all of it goes, functions included, once the backup is verified
	MergeSkip      Conflict = "skip"      // the target's keys stay; of the backup's those of other names are written
	MergeOverwrite Conflict = "overwrite" // the backup's keys replace those of the same name, the others stay
	MergeFail      Conflict = "fail"      // a key that both have ends the restore, before anything is written if it was there then
)

// Merges tells whether what the target holds stays, but for keys of the same name.
func (c Conflict) Merges() bool { return c == MergeSkip || c == MergeOverwrite || c == MergeFail }

// An Expiry says what becomes of the times at which keys, hash fields and set members expire.
type Expiry string

// The policies for expiry.
const (
	ExpiryKeep  Expiry = ""      // as in the backup; keys that have expired since are left out and counted
	ExpiryDrop  Expiry = "drop"  // nothing expires
	ExpiryShift Expiry = "shift" // later by the age of the backup: what had an hour left then has an hour left now
)

// A Selection says which keys are restored, and under which names. The zero value selects all.
type Selection struct {
	DBs   []int    // databases of the backup; nil: all
	Match string   // a pattern of key names, as the KEYS command has it; empty: all
	Types []string // types as the TYPE command names them; nil: all

	// MapDB gives databases another number. Two of the backup may not become one.
	MapDB map[int]int
	// TrimPrefix is taken off the names of keys; those that don't begin with it are left out. AddPrefix is then put before them.
	TrimPrefix, AddPrefix string
}

// all tells whether the selection leaves everything as it is.
func (s *Selection) all() bool {
	return s.DBs == nil && s.Match == "" && s.Types == nil && len(s.MapDB) == 0 && s.TrimPrefix == "" && s.AddPrefix == ""
}

// A Compare says how many values are compared after loading.
type Compare string

// The ways to compare.
const (
	CompareSample Compare = ""     // about a thousand keys, spread over the backup
	CompareAll    Compare = "all"  // every key
	CompareNone   Compare = "none" // none; keys are counted all the same
)

// check returns what is wrong with the options.
func (o *Options) check() error {
	switch o.Conflict {
	case IntoEmpty, Replace, MergeSkip, MergeOverwrite, MergeFail:
	default:
		return fmt.Errorf("restore: Options.Conflict is %q, which is no policy", o.Conflict)
	}
	switch o.Expiry {
	case ExpiryKeep, ExpiryDrop, ExpiryShift:
	default:
		return fmt.Errorf("restore: Options.Expiry is %q, which is no policy", o.Expiry)
	}
	switch o.Compare {
	case CompareSample, CompareAll, CompareNone:
	default:
		return fmt.Errorf("restore: Options.Compare is %q, which is none of the ways to compare", o.Compare)
	}
	_, err := o.Select.types()
	return err
}

// types returns the selected types as package rdb has them.
func (s *Selection) types() ([]rdb.Type, error) {
	var types []rdb.Type
	for _, name := range s.Types {
		t := rdb.TypeNone + 1
		for t.String() != name {
			if t++; t > rdb.TypeCuckoo {
				return nil, fmt.Errorf("restore: Selection.Types has %q, which is no type of values", name)
			}
		}
		types = append(types, t)
	}
	if s.Types != nil && len(types) == 0 {
		return nil, errors.New("restore: Selection.Types is empty but not nil, which selects nothing")
	}
	return types, nil
}

// accepts tells whether a warning doesn't stop the restore.
func (o *Options) accepts(name string) bool {
	return o != nil && (slices.Contains(o.Accept, name) || slices.Contains(o.Accept, "all"))
}
