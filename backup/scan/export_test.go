package scan

import "time"

// Tuning is what only tests change.
type Tuning struct {
	Old     bool // act as with a server that doesn't know PEXPIRETIME
	Group   int  // keys in a transaction
	Filter  uint // bits of the number of bits of the filter of names
	Pauses  []time.Duration
	Strings bool // all keys are thought to be strings in the beginning
}

// SetTuning changes a Snapshotter. Zero fields leave what is.
func SetTuning(s *Snapshotter, t Tuning) {
	s.tuning.old, s.tuning.group, s.tuning.filter, s.tuning.strings = t.Old, t.Group, t.Filter, t.Strings
	if t.Pauses != nil {
		s.tuning.pauses = t.Pauses
	}
}
