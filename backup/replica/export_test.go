package replica

import "time"

// SetTuning makes a Snapshotter act as with a server that doesn't know REPLCONF rdb-only, and sets how long silence after the
// end mark is waited for at a time.
func SetTuning(s *Snapshotter, noRDBOnly bool, probe time.Duration) {
	s.tuning = tuning{noRDBOnly: noRDBOnly, probe: probe}
}
