package rdb

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// A Policy says what becomes of a key, or of something else in a stream, that the target dialect can't express in full.
type Policy uint8

// The policies.
const (
	// Fail ends the conversion with a *LossError.
	Fail Policy = iota
	// DropDetail leaves out what can't be expressed. Where that is the whole value, it leaves out the key.
	DropDetail
	// SkipKey leaves out every key that would lose something.
	SkipKey
)

// A Loss is something that a dialect can't express.
type Loss string

// The losses.
const (
	LossType         Loss = "type"          // a whole value, of a type that the dialect doesn't have
	LossModule       Loss = "module"        // a value or aux data of a module that may not be there, or that attached metadata to a key
	LossFieldExpiry  Loss = "field-expiry"  // when fields of a hash expire
	LossMemberExpiry Loss = "member-expiry" // when members of a set expire (Dragonfly, KeyDB)
	LossStreamCounts Loss = "stream-counts" // of a stream: entries ever added, highest ID deleted, entries read by groups
	LossStreamTimes  Loss = "stream-times"  // of a stream: when consumers were active
	LossStreamNacks  Loss = "stream-nacks"  // of a stream: that pending entries have no owner; DropDetail gives them to a consumer named "nacked"
	LossStreamIDMP   Loss = "stream-idmp"   // of a stream: what makes adding entries idempotent
	LossFunction     Loss = "function"      // a library of functions
	LossFlags        Loss = "flags"         // of a key: that it is sticky, or its memcached flags (Dragonfly)
	LossJournal      Loss = "journal"       // a command that is to be applied to the keys (Dragonfly): without it they are not of one moment
	LossIndex        Loss = "search-index"  // the definition of a search index (Dragonfly)
	LossCommand      Loss = "command"       // a command that the target doesn't have, or that can't be executed on what is selected: the keys that it changes are not as they were
	LossRelative     Loss = "relative-ttl"  // of a command: when something expires, since it only says in how long, which counts from now
)

// ErrLoss is what a conversion gives up with when something would be lost. See LossError.
var ErrLoss = errors.New("conversion would lose something")

// A LossError says what a conversion would lose. It wraps ErrLoss.
type LossError struct {
	Loss   Loss
	To     Dialect
	Offset int64  // in the source, in bytes from its start
	DB     int    // in the source
	Key    string // in the source; empty if the loss is of no key
	What   string
}

// Error names the key and what would be lost.
func (e *LossError) Error() string {
	return fmt.Sprintf("rdb: %v can't express all of the source at byte %d%s: %s; a policy other than Fail leaves it out",
		e.To, e.Offset, ofKey(e.Key, e.DB), e.What)
}

// Unwrap returns ErrLoss.
func (e *LossError) Unwrap() error { return ErrLoss }

// reportedKeys is how many keys of a loss a report names.
const reportedKeys = 10

// A LossReport tells how often something was lost.
type LossReport struct {
	Loss    Loss
	Count   int64    // keys, or other entries
	Skipped int64    // of these, left out altogether
	Keys    []string // the first of these, as "db/key" in the source; at most ten, each cut after 128 bytes
}

// A ConvertReport tells what a conversion did.
type ConvertReport struct {
	From, To  Dialect
	Keys      int64        // written
	Encoded   int64        // of these, not copied as they were
	Filtered  int64        // keys left out because the options don't select them
	Expired   int64        // keys left out because they had expired at ConvertOptions.ExpiredAt
	Functions int64        // written
	Commands  int64        // written, see ConvertOptions.Commands
	Unwanted  int64        // commands left out because the options don't select their keys
	Dropped   int64        // entries left out: they only say something about the source or its server, or an earlier source had the same
	Losses    []LossReport // in alphabetical order

	DBs     []DBStats     // of the keys written, by their database in the target, in ascending order
	Modules []ModuleStats // whose values or aux data were written, in order of name and version
}

// lose takes note of a loss and tells whether it makes the key, or what else it is, be left out. On an error it returns false.
func (c *converter) lose(l Loss, whole bool, what string) (skip, ok bool) {
	e := c.entry
	p := c.policy(l)
	key := ""
	named := e.Kind == KindKey || e.Kind == KindJournal && len(e.Key) > 0
	if named {
		key = string(e.Key[:min(len(e.Key), shownKey)])
	}
	if p == Fail {
		c.err = &LossError{Loss: l, To: c.dst.dialect, Offset: e.Offset, DB: e.DB, Key: key, What: what}
		return false, false
	}
	skip = whole || p == SkipKey
	r := c.report.lossOf(l)
	r.Count++
	if skip {
		r.Skipped++
	}
	if len(r.Keys) < reportedKeys && named {
		r.Keys = append(r.Keys, fmt.Sprintf("%d/%s", e.DB, key))
	}
	return skip, true
}

// policy returns what becomes of a loss.
func (c *converter) policy(l Loss) Policy {
	if own, ok := c.opts.Policies[l]; ok {
		return own
	}
	return c.opts.Policy
}

// Add adds what a conversion of another stream to the same target did.
func (r *ConvertReport) Add(other *ConvertReport) {
	if r.To == (Dialect{}) {
		r.From, r.To = other.From, other.To
	}
	if other.From.Family == Dragonfly {
		r.From = other.From // the header alone doesn't tell
	}
	r.Keys += other.Keys
	r.Encoded += other.Encoded
	r.Filtered += other.Filtered
	r.Expired += other.Expired
	r.Functions += other.Functions
	r.Commands += other.Commands
	r.Unwanted += other.Unwanted
	r.Dropped += other.Dropped
	r.DBs = addDBs(r.DBs, other.DBs)
	r.Modules = addModules(r.Modules, other.Modules)
	for _, l := range other.Losses {
		to := r.lossOf(l.Loss)
		to.Count += l.Count
		to.Skipped += l.Skipped
		to.Keys = append(to.Keys, l.Keys[:min(len(l.Keys), reportedKeys-len(to.Keys))]...)
	}
}

// lossOf returns the report of a loss, which is made if there is none.
func (r *ConvertReport) lossOf(l Loss) *LossReport {
	i, found := slices.BinarySearchFunc(r.Losses, l, func(r LossReport, l Loss) int { return cmp.Compare(r.Loss, l) })
	if !found {
		r.Losses = slices.Insert(r.Losses, i, LossReport{Loss: l})
	}
	return &r.Losses[i]
}
