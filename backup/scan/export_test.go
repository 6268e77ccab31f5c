package scan

import "time"

// Tuning is what only tests change.
type Tuning struct {
	Old    bool // act as with a server that doesn't know PEXPIRETIME
	Group  int  // keys in a transaction
	Filter uint // bits of the number of bits of the filter of names
	Pauses []time.Duration
}

// SetTuning changes a Snapshotter. Zero fields leave what is.
func SetTuning(s *Snapshotter, t Tuning) {
	s.tuning.old, s.tuning.group, s.tuning.filter = t.Old, t.Group, t.Filter
	if t.Pauses != nil {
		s.tuning.pauses = t.Pauses
	}
}
