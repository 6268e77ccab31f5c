package govern

import (
	"context"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// A pace bounds how fast all parts of a snapshot are read together, and counts. It is a bucket that fills at the rate and may be owed to: what a read takes is
// known only after it, and the next one waits for that.
type pace struct {
	rate int64 // bytes a second; 0: as fast as they come

	mu      sync.Mutex
	free    time.Time // when what was read so far is paid for
	bytes   int64
	waiting int // readers that wait
	since   time.Time
	slowed  time.Duration // in which at least one did
}

// While the source is slow a read waits for so long, in steps, and then takes a little: servers drop a replica that takes nothing.
const (
	slowPause = 2 * time.Second
	slowStep  = 50 * time.Millisecond
	slowRead  = 64 << 10
)

// What wasn't read in time may be read later, up to what comes in the credit's time; and what is owed for less than the shortest is not waited for, but added up.
const (
	credit   = 100 * time.Millisecond
	shortest = 5 * time.Millisecond
)

// burst is how much may be read at once: what comes in a tenth of a second.
func (p *pace) burst() int { return int(max(min(p.rate/10, 1<<20), 4<<10)) }

// wait waits until something may be read, and returns what may be filled. When ctx ends it returns at once: whoever reads then finds out why.
func (sn *snapshot) wait(ctx context.Context, buf []byte) []byte {
	p := &sn.pace
	if sn.slow() {
		p.begin()
		for waited := time.Duration(0); waited < slowPause && sn.slow(); waited += slowStep {
			if clock.Sleep(ctx, slowStep) != nil {
				break
			}
		}
		p.end()
		buf = buf[:min(len(buf), slowRead)]
	}
	if p.rate == 0 {
		return buf
	}
	p.mu.Lock()
	owed := p.free.Sub(clock.System())
	p.mu.Unlock()
	if owed > shortest {
		p.begin()
		_ = clock.Sleep(ctx, owed) // the read that follows finds out why it ended early
		p.end()
	}
	return buf[:min(len(buf), p.burst())]
}

func (p *pace) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting++; p.waiting == 1 {
		p.since = clock.System()
	}
}

func (p *pace) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting--; p.waiting == 0 {
		p.slowed += clock.Since(p.since)
	}
}

// took notes that bytes were read.
func (p *pace) took(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(n)
	if p.rate == 0 || n == 0 {
		return
	}
	// Who slept too long, as on a busy machine, may make up for it.
	if floor := clock.System().Add(-credit); p.free.Before(floor) {
		p.free = floor
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
}

// sum returns how many bytes were read, and how long nothing was for the sake of the source.
func (p *pace) sum() (bytes int64, slowed time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes, p.slowed
}
