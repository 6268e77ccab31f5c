package schedule

import (
	"fmt"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

const (
	jumpLimit = time.Minute    // by how much the clock may be off what the machine has counted before it counts as a jump
	distrust  = 24 * time.Hour // for how long a clock that jumped isn't trusted
	slewPart  = 1000           // clocks are corrected by up to a thousandth of the time that passes
)

// ClockTrouble says why the clock isn't to be trusted by those who delete by age, or nothing: in the last 24 hours Run saw it jump by more than a
// minute against the time that the machine counts. A machine that slept may look like that too.
func (s *Scheduler) ClockTrouble() string { return s.clock.trouble() }

// A clockWatch compares a clock, which people and programs set, with the time that the machine counts since it was started, which nobody can.
type clockWatch struct {
	mu      sync.Mutex
	wall    time.Time // at the last look
	counted time.Time // likewise
	off     time.Duration
	what    string    // the last jump
	at      time.Time // when that was seen, as counted
}

// look takes notice of what the clock says. Back means that it was set back since the last look.
func (w *clockWatch) look(wall time.Time) (back bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	counted := clock.System()
	if w.counted.IsZero() {
		w.wall, w.counted = wall, counted
		return false
	}
	passed := counted.Sub(w.counted)
	moved := wall.Sub(w.wall) - passed
	// What is gained or lost little by little is no jump, unless it is more than a clock is ever corrected by.
	w.off += moved
	if slew := passed/slewPart + time.Millisecond; w.off > slew {
		w.off -= slew
	} else if w.off < -slew {
		w.off += slew
	} else {
		w.off = 0
	}
	if w.off > jumpLimit || w.off < -jumpLimit {
		w.what = fmt.Sprintf("the clock was off by %v within %v, at %s: it was set, or the machine slept", w.off.Round(time.Second),
			passed.Round(time.Second), wall.UTC().Format(time.RFC3339))
		w.at, w.off = counted, 0
	}
	w.wall, w.counted = wall, counted
	return moved < -time.Second
}

// jumped says whether the clock has ever jumped.
func (w *clockWatch) jumped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.what != ""
}

func (w *clockWatch) trouble() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.what == "" || clock.Since(w.at) >= distrust {
		return ""
	}
	return w.what
}

// wall is what the clock says, and nothing else: a time.Time of the machine may also know what it has counted.
func (s *Scheduler) wall() time.Time { return s.now().Round(0).UTC() }
