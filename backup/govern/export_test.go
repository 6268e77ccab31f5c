package govern

import "time"

// SetTuning makes a Snapshotter act as if servers kept what is written meanwhile, and sets how often it looks, how often it asks and over what time.
func SetTuning(s *Snapshotter, noRDBOnly bool, poll, ping, window time.Duration) {
	s.tuning = tuning{noRDBOnly: noRDBOnly, poll: poll, ping: ping, window: window}
}
