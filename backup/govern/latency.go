package govern

import (
	"math"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// latencies are how long the answers of a server take: those of the last seconds one by one, and all by their size.
type latencies struct {
	window time.Duration

	mu     sync.Mutex
	last   []sample
	asked  time.Time       // when what has no answer yet was asked; zero: there is nothing
	counts [buckets]uint32 // of all answers
	total  int
}

type sample struct {
	at   time.Time
	took time.Duration
}

// maxSamples bounds what is kept of the window.
const maxSamples = 256

// Bucket b counts answers of up to step^b microseconds.
const (
	buckets = 400
	step    = 1.05
)

// ask notes that an answer is waited for.
func (l *latencies) ask() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = clock.System()
}

// answered notes that it has come; or won't, if ok is false.
func (l *latencies) answered(ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := clock.Since(l.asked)
	if ok && !l.asked.IsZero() {
		l.add(sample{l.asked.Add(took), took})
	}
	l.asked = time.Time{}
}

func (l *latencies) add(s sample) {
	if len(l.last) == maxSamples {
		l.last = append(l.last[:0], l.last[1:]...)
	}
	l.last = append(l.last, s)
	b := int(math.Ceil(math.Log(max(float64(s.took)/float64(time.Microsecond), 1)) / math.Log(step)))
	l.counts[min(b, buckets-1)]++
	l.total++
}

// recent returns the 99th percentile of the window. What is waited for takes as long as it has been waited for, at least.
func (l *latencies) recent() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var d []time.Duration
	for _, s := range l.last {
		if clock.Since(s.at) <= l.window {
			d = append(d, s.took)
		}
	}
	if !l.asked.IsZero() {
		d = append(d, clock.Since(l.asked))
	}
	return p99(d)
}

// all returns the 99th percentile of everything, to five percent; 0 of nothing.
func (l *latencies) all() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	rank, seen := (99*l.total+99)/100, 0
	for b, n := range l.counts {
		if seen += int(n); n > 0 && seen >= rank {
			return time.Duration(math.Pow(step, float64(b)) * float64(time.Microsecond))
		}
	}
	return 0
}
