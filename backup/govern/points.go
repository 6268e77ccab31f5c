package govern

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/resp"
)

// A Level says how a point came out.
type Level string

// The levels of a point.
const (
	Pass Level = "pass"
	Warn Level = "warn" // not known, or close: the snapshot is taken
	Wait Level = "wait" // not now: it is waited for, and refused when it doesn't pass
	Fail Level = "fail" // refused
)

// A Point is one thing that was looked at.
type Point struct {
	Name  string `json:"name"`
	Level Level  `json:"level"`
	Seen  string `json:"seen"`            // in words
	Limit string `json:"limit,omitempty"` // in words
	Hint  string `json:"hint,omitempty"`  // what to do, unless it passed
}

// facts are what is known of a server before it is asked for a snapshot. What follows from them is a function of them alone.
type facts struct {
	info            resp.Info // empty: the server doesn't let us see it
	engine, version string
	method          string
	noRDBOnly       bool          // see tuning
	writes          int64         // bytes a second that are written to it, as commands
	buffer          bufferLimit   // for replicas
	ping            time.Duration // its 99th percentile; 0: not known
	expected        time.Duration // that a snapshot takes; 0: not known
	limits          Limits
}

// bufferLimit is client-output-buffer-limit for replicas; 0 is no limit.
type bufferLimit struct {
	hard, soft int64
	softFor    time.Duration
	assumed    bool // the server doesn't let us see it: this is the default
}

var defaultBuffer = bufferLimit{hard: 256 << 20, soft: 64 << 20, softFor: time.Minute, assumed: true}

// parseBuffer reads the value of client-output-buffer-limit: a class, two sizes and seconds, for each class.
func parseBuffer(value string) (bufferLimit, bool) {
	words := strings.Fields(value)
	for i := 0; i+3 < len(words); i += 4 {
		if words[i] != "slave" && words[i] != "replica" {
			continue
		}
		var n [3]int64
		for k := range n {
			var err error
			if n[k], err = strconv.ParseInt(words[i+1+k], 10, 64); err != nil || n[k] < 0 || k == 2 && n[k] > 1e9 {
				return bufferLimit{}, false
			}
		}
		return bufferLimit{hard: n[0], soft: n[1], softFor: time.Duration(n[2]) * time.Second}, true
	}
	return bufferLimit{}, false
}

// forks tells whether the method makes a server fork.
func (f *facts) forks() bool { return forks(f.method) && f.engine != "dragonfly" }

func forks(method string) bool {
	switch method {
	case "scan", "flows", "dumpfile", "aof":
		return false
	}
	return true
}

// buffered tells whether the server keeps for us what is written meanwhile. Since Redis 6.2, and in every Valkey, a replica can say that it
// wants the snapshot alone.
func (f *facts) buffered() bool {
	switch {
	case !f.forks() || f.method == "save":
		return false
	case f.noRDBOnly:
		return true
	}
	return f.engine == "redis" && older(f.version, 6, 2)
}

// older says whether a version such as "6.0.16" is below major.minor. One that can't be read isn't.
func older(version string, major, minor int) bool {
	a, rest, _ := strings.Cut(version, ".")
	b, _, _ := strings.Cut(rest, ".")
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && (x < major || x == major && y < minor)
}

// guessedRate is how fast a server is taken to send a snapshot whose speed isn't known: that of a child that compresses.
const guessedRate = 64 << 20

// duration is how long a snapshot is expected to take, at least a second.
func (f *facts) duration() time.Duration {
	seconds := func(rate int64) time.Duration {
		return time.Duration(float64(f.info.Int("used_memory")) / float64(rate) * float64(time.Second))
	}
	d := f.expected
	if d == 0 {
		d = seconds(guessedRate)
	}
	if rate := f.limits.BytesPerSecond; rate > 0 {
		d = max(d, seconds(rate))
	}
	return max(d, time.Second)
}

// written is how many bytes are written to the server while a snapshot is taken.
func (f *facts) written() int64 { return int64(float64(f.writes) * f.duration().Seconds()) }

// points looks at everything that applies.
func (f *facts) points() []Point {
	var out []Point
	if len(f.info) == 0 {
		out = append(out, Point{Name: ForkRunning, Level: Warn, Seen: "the server doesn't let us see INFO: whether it is ready for a snapshot isn't known",
			Hint: "allow the user +info"})
	} else {
		out = append(out, f.forkRunning())
		if f.forks() {
			out = append(out, f.memory(), f.lastSave(), f.forkTime())
		}
		if f.buffered() {
			out = append(out, f.outputBuffer())
		}
	}
	return append(out, f.latency())
}

func (f *facts) forkRunning() Point {
	p := Point{Name: ForkRunning, Level: Wait}
	switch i := f.info; {
	case i.Int("loading") != 0:
		p.Seen, p.Hint = "the server is loading its data", "try again when it is done"
		if eta := i["loading_eta_seconds"]; eta != "" {
			p.Hint += ", which it thinks will be in " + eta + " s"
		}
		return p
	case !f.forks():
	case i.Int("rdb_bgsave_in_progress") != 0:
		p.Seen = "a child of the server is saving already"
		if n := i.Int("rdb_current_bgsave_time_sec"); n > 0 {
			p.Seen += fmt.Sprintf(", for %d s", n)
		}
	case i.Int("aof_rewrite_in_progress") != 0:
		p.Seen = "a child of the server rewrites its append-only file"
	case i.Int("aof_rewrite_scheduled") != 0:
		p.Seen = "the server is about to rewrite its append-only file"
	case i.Int("module_fork_in_progress") != 0:
		p.Seen = "a module has a child at work"
	case i.Int("slot_migration_fork_in_progress") != 0:
		p.Seen = "a child of the server sends slots to another node"
	default:
		for n := range 1000 { // the count is the server's word; the lines are what there is
			field := "slave" + strconv.Itoa(n)
			if i[field] == "" {
				break
			}
			for name, value := range i.Attributes(field) {
				// Behind these beginnings are the states of a replica that gets its data over two connections.
				if name == "state" && (strings.HasPrefix(value, "wait_bgsave") || strings.HasPrefix(value, "send_bulk") || strings.HasPrefix(value, "bg_transfer")) {
					p.Seen = "a replica is being synchronised: " + value
				}
			}
		}
	}
	if p.Seen == "" {
		p.Level, p.Seen = Pass, "no child of the server is at work"
	} else {
		p.Hint = "try again when that has ended; a second fork costs what the first one does"
	}
	return p
}

// memory compares what a child needs with what there is. Refused is only what can't go well by the server's own figures: what it was written to
// during its last saves, or is being written to now, goes beyond all memory there is. What is less clear is a warning.
func (f *facts) memory() Point {
	i := f.info
	rss := max(i.Int("used_memory_rss"), i.Int("used_memory"))
	total, which := i.Int("total_system_memory"), "the machine has"
	if f.limits.Memory > 0 {
		total, which = f.limits.Memory, "Limits.Memory is"
	}
	p := Point{Name: Memory}
	if total <= 0 || rss <= 0 {
		p.Level, p.Seen = Warn, "how much memory there is for copy-on-write isn't known"
		p.Hint = "give Limits.Memory what the server's machine or container has"
		return p
	}
	free := total - rss
	last := max(i.Int("rdb_last_cow_size"), i.Int("aof_last_cow_size"), i.Int("module_fork_last_cow_size"))
	tables := rss / 512 // of pages: eight bytes for each of 4 KiB
	need := tables + max(last, min(f.written(), rss))
	// A write copies the page that it touches, whatever its length.
	likely := tables + max(last, min(4*f.written(), rss), rss/20)
	p.Seen = fmt.Sprintf("a child needs at least %s for copy-on-write (the last one took %s, %s a second are written), %s are free: the server has %s resident",
		size(need), size(last), size(f.writes), size(max(free, 0)), size(rss))
	p.Limit = which + " " + size(total)
	p.Hint = "take the snapshot from a replica or when less is written, or give the machine more; what others on it use, and a container's limit, INFO doesn't show: " +
		"Limits.Memory says it"
	switch {
	case need > free:
		p.Level = Fail
	case likely > free:
		p.Level = Warn
	default:
		p.Level, p.Hint = Pass, ""
	}
	return p
}

func (f *facts) lastSave() Point {
	p := Point{Name: LastSave, Level: Pass}
	switch status := f.info["rdb_last_bgsave_status"]; status {
	case "ok":
		p.Seen = "the last BGSAVE succeeded"
	case "":
		p.Level, p.Seen, p.Hint = Warn, "the server doesn't tell how its last BGSAVE ended", "see the server's log"
	default:
		p.Level, p.Seen = Fail, "the last BGSAVE failed, and a new fork is likely to"
		p.Hint = "the server's log tells why: disk, memory or vm.overcommit_memory; while stop-writes-on-bgsave-error is on it refuses writes after one that failed. " +
			"Make a BGSAVE succeed, or say that this point is to be ignored (" + LastSave + ")"
	}
	return p
}

func (f *facts) forkTime() Point {
	took := time.Duration(f.info.Int("latest_fork_usec")) * time.Microsecond
	p := Point{Name: ForkTime, Level: Pass, Seen: fmt.Sprintf("the last fork took %v", took)}
	if limit := f.limits.Fork; limit > 0 {
		p.Limit = limit.String()
		if took > limit && f.info["role"] == "master" {
			p.Level, p.Hint = Fail, "all clients of this primary wait for as long: take the snapshot from a replica; transparent huge pages and Xen make forks slow"
		}
	}
	return p
}

func (f *facts) outputBuffer() Point {
	b, much, d := f.buffer, f.written(), f.duration()
	p := Point{Name: Buffer, Level: Pass, Limit: fmt.Sprintf("%s, or %s for %v", limitSize(b.hard), limitSize(b.soft), b.softFor)}
	p.Seen = fmt.Sprintf("%s a second are written, and a snapshot takes about %v: the output buffer takes %s", size(f.writes), d.Round(time.Second), size(much))
	if b.assumed {
		p.Limit += ", by default: the server doesn't let us see its own"
	}
	over := b.hard > 0 && much > b.hard
	if b.soft > 0 && much > b.soft {
		fills := time.Duration(float64(b.soft) / float64(f.writes) * float64(time.Second))
		over = over || d > fills+b.softFor
	}
	if over {
		p.Level = Wait
		p.Hint = "the server would drop us before the end: raise client-output-buffer-limit for replicas, take the snapshot when less is written, or from a replica"
	}
	return p
}

func (f *facts) latency() Point {
	p := Point{Name: Latency, Level: Pass, Seen: fmt.Sprintf("PING takes %v", f.ping.Round(time.Microsecond))}
	if f.ping == 0 {
		p.Level, p.Seen, p.Hint = Warn, "how long PING takes isn't known", "allow the user +ping"
	}
	if limit := f.limits.Latency; limit > 0 {
		p.Limit = limit.String()
		if f.ping > limit {
			p.Level, p.Hint = Wait, "the server is busy, or far: try again when it is less so"
		}
	}
	return p
}

// size is a number of bytes for people.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, u := float64(n)/1024, 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[u])
}

func limitSize(n int64) string {
	if n == 0 {
		return "none"
	}
	return size(n)
}
