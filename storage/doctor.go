package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// DoctorOptions are the choices of Doctor.
type DoctorOptions struct {
	// LargeSize is how many bytes the large object has, half of which is written once more and aborted. It ought to be more than two pieces of what
	// the store uploads in pieces. 0: 20 MiB.
	LargeSize int64
	// Objects is how many small objects are made in addition, to see that a list goes on behind its first page, which has 1000
	// objects at most providers. 0: none; that finding is left out then.
	Objects int
	// Timeout is how long each check may take. 0: a minute.
	Timeout time.Duration
	// Now is the clock that the store's is held against. nil means the machine's.
	Now func() time.Time
}

// A Diagnosis is what Doctor found out about a store.
type Diagnosis struct {
	OK       bool      `json:"ok"`       // no check failed; some may have a warning
	Facts    []Fact    `json:"facts"`    // what the store tells about itself, if it is a Describer
	Findings []Finding `json:"findings"` // one for each check, in the order in which they were made
}

// A Finding is the result of one check.
type Finding struct {
	Check    string        `json:"check"`            // its name, as the documentation of Doctor has it
	Result   string        `json:"result"`           // "ok", "warn" or "fail"
	Seen     string        `json:"seen"`             // what was seen, or what went wrong
	Advice   string        `json:"advice,omitempty"` // what to change, of a warning or failure, without a full stop
	Duration time.Duration `json:"duration"`         // in nanoseconds
	Bytes    int64         `json:"bytes,omitempty"`  // of objects that were written and read
	Err      error         `json:"-"`                // of a failure: the store's error if it returned one
}

// doctorPrefix is where Doctor works. It is no valid name of a data store.
const doctorPrefix = "_doctor/"

// Doctor tries out what Amber needs of a store, and says what works, what doesn't, and what to change. It works below a prefix of its own that
// no other use of the store has to do with, "_doctor/", so that it can be used on a store with data at any time. It removes what it has made, also when
// something fails or ctx is cancelled, and what a run that was killed left there more than an hour ago. A nil opts means the defaults.
//
// The checks, which are tried one after the other, each as far as the ones before it allow:
//
//	put               a small object is created
//	put large         a large object is created, in several pieces where the store works that way
//	get               both are read back and equal
//	range get         ranges from the middle, past the end and to the end give what they should
//	stat              size and key are right; a missing object is ErrNotFound
//	list              the objects are listed, once and in order
//	list pages        many objects are listed; only with DoctorOptions.Objects
//	exclusive create  a create with IfNotExist of what exists is ErrExists
//	exclusive race    of several writers one wins
//	overwrite         what replaces an object is seen at once
//	abort             an aborted write leaves nothing
//	delete            a deleted object is gone
//	delete missing    a delete of what doesn't exist is ErrNotFound
//	sweep             unfinished writes can be looked for
//	clock             the store's clock agrees with ours
//	signed URL        a URL is made, where the store can; it is not fetched
//	clean up          what was made is removed
//
// That the store retains objects for a time, so that they can't be deleted now, is a warning. When nothing can be put, only list is tried after it, which tells whether reading is possible. A store that says by Capabilities that it has no exclusive create gets a
// warning for it.
//
// Doctor moves about 60 MiB with the default options. It returns soon after ctx is cancelled; it then takes two seconds at most to clean up.
func Doctor(ctx context.Context, s Store, opts *DoctorOptions) *Diagnosis {
	d := &doctor{store: s, prefix: doctorPrefix + rand.Text() + "/", tried: make(map[string]bool), failed: make(map[string]bool), made: make(map[string]sample)}
	if opts != nil {
		d.opts = *opts
	}
	if d.opts.LargeSize <= 0 {
		d.opts.LargeSize = 20 << 20
	}
	if d.opts.Timeout <= 0 {
		d.opts.Timeout = time.Minute
	}
	d.opts.Now = clock.Or(d.opts.Now)

	d.result = &Diagnosis{OK: true, Facts: []Fact{}, Findings: []Finding{}}
	if describer := DescriberOf(s); describer != nil {
		limited, cancel := context.WithTimeout(ctx, d.opts.Timeout)
		d.result.Facts = append(d.result.Facts, describer.Describe(limited)...)
		cancel()
	}
	for _, c := range doctorChecks {
		if c.name == "list pages" && d.opts.Objects <= 0 || c.name == "exclusive race" && !d.exclusive {
			continue
		}
		if !d.put && c.name != "put" && c.name != "list" {
			continue
		}
		d.check(ctx, c)
		if ctx.Err() != nil {
			break
		}
		if !d.put { // whoever waits for a store that doesn't answer has waited long enough
			d.opts.Timeout = min(d.opts.Timeout, 10*time.Second)
		}
	}
	d.cleanUp(ctx)
	return d.result
}

// A doctor is one run of Doctor.
type doctor struct {
	store  Store
	opts   DoctorOptions
	prefix string
	result *Diagnosis

	mu     sync.Mutex
	tried  map[string]bool   // keys that may be there, for cleaning up
	failed map[string]bool   // keys whose commit failed, so that they may be there or not
	made   map[string]sample // what should be there
	moved  int64             // bytes, in the check at hand

	put       bool      // something can be created
	exclusive bool      // so far as one writer can tell
	from, to  time.Time // our clock before and after the first commit
	stored    time.Time // the store's in between
}

// A doctorCheck is something that is tried. It returns what was seen.
type doctorCheck struct {
	name  string
	run   func(*doctor, context.Context) (seen string, err error)
	right string // what the credentials have to be allowed
	wrong string // what to do if the store breaks its contract here
}

var doctorChecks = []doctorCheck{
	{"put", (*doctor).checkPut, "create objects", badStore},
	{"put large", (*doctor).checkPutLarge, "create objects in several pieces (multipart uploads)", badStore},
	{"get", (*doctor).checkGet, "read objects", badStore},
	{"range get", (*doctor).checkRange, "read objects", "see that nothing between here and the store changes requests for a range: a proxy or a cache may"},
	{"stat", (*doctor).checkStat, "read objects' properties", badStore},
	{"list", (*doctor).checkList, "list objects", staleStore},
	{"list pages", (*doctor).checkPages, "list objects", staleStore},
	{"exclusive create", (*doctor).checkExclusive, "create objects", notExclusive},
	{"exclusive race", (*doctor).checkRace, "create objects", notExclusive},
	{"overwrite", (*doctor).checkOverwrite, "replace objects", staleStore},
	{"abort", (*doctor).checkAbort, "end uploads that are not finished", badStore},
	{"delete", (*doctor).checkDelete, "delete objects", staleStore},
	{"delete missing", (*doctor).checkDeleteMissing, "delete objects", badStore},
	{"sweep", (*doctor).checkSweep, "list unfinished uploads and end them", badStore},
	{"clock", (*doctor).checkClock, "", "synchronise the clock of this machine, by NTP: leases allow for clocks that are 5 seconds apart, and providers refuse requests of a clock that is far off"},
	{"signed URL", (*doctor).checkSigned, "sign URLs", "look at the store's endpoint: the URL begins with it"},
}

const (
	badStore     = "don't keep backups in this store: it, or something between here and it, doesn't keep what it is given; run storetest.Run on its driver"
	staleStore   = "see that reads don't come from a cache or a replica that lags behind: Amber needs a store that shows at once what was written"
	notExclusive = "keep the catalog in a database, or in another store: here two runs can take each other's place. What the provider calls conditional writes may be off or not honoured"
)

// broken is an error of ours: the store breaks its contract.
type broken struct{ text string }

func (b *broken) Error() string { return b.text }

func brokenf(format string, args ...any) error { return &broken{fmt.Sprintf(format, args...)} }

// A warning is not a failure.
type warning struct{ seen, advice string }

func (w *warning) Error() string { return w.seen }

// check makes one check within its time.
func (d *doctor) check(ctx context.Context, c doctorCheck) {
	limited, cancel := context.WithTimeout(ctx, d.opts.Timeout)
	defer cancel()
	d.moved = 0
	began := clock.System()
	seen, err := c.run(d, limited)
	f := Finding{Check: c.name, Result: "ok", Seen: seen, Duration: clock.Since(began), Bytes: d.moved}
	var w *warning
	switch {
	case err == nil:
	case errors.As(err, &w):
		f.Result, f.Seen, f.Advice = "warn", w.seen, w.advice
	default:
		if ctx.Err() == nil && limited.Err() != nil {
			err = fmt.Errorf("it took longer than %v: %w", d.opts.Timeout, err)
		}
		f.Result, f.Seen, f.Err, f.Advice = failure(err), err.Error(), err, d.advise(ctx, err, c)
	}
	d.report(f)
}

// failure is the result of a check that ended with an error. That a store keeps objects for a time is what somebody wanted of it.
func failure(err error) string {
	if errors.Is(err, ErrRetained) {
		return "warn"
	}
	return "fail"
}

func (d *doctor) report(f Finding) {
	d.result.Findings = append(d.result.Findings, f)
	d.result.OK = d.result.OK && f.Result != "fail"
}

// advise says what to do about a failure: by what the store's driver knows, else by the nature of the error.
func (d *doctor) advise(ctx context.Context, err error, c doctorCheck) string {
	var b *broken
	if errors.As(err, &b) {
		return c.wrong
	}
	if describer := DescriberOf(d.store); describer != nil && ctx.Err() == nil {
		if advice := strings.TrimSuffix(describer.Advise(err), "."); advice != "" {
			return advice
		}
	}
	switch {
	case ctx.Err() != nil:
		return "run it once more: it was cancelled"
	case errors.Is(err, ErrDenied), errors.Is(err, fs.ErrPermission):
		return "let these credentials " + c.right + " in this store, or take others"
	case errors.Is(err, ErrRetained):
		return "expect that backups can't be deleted before the store's time of retention has passed, or shorten that"
	case errors.Is(err, errors.ErrUnsupported):
		return "use another store, or another driver for it: this one can't do that"
	case errors.Is(err, ErrNotFound):
		return "see that the bucket or directory exists and is spelled right"
	case errors.Is(err, context.DeadlineExceeded):
		return "see that the store's endpoint is right and that nothing between here and it holds packets back: a firewall, a proxy, a slow line; give more time if it is the line"
	case errors.Is(err, ErrTransient):
		return "see that the store's endpoint is right, that it can be reached from here and that it is well, and try again"
	}
	return "see what the store's own tools say about the same from this machine"
}

// cleanUp removes what was made, and what a run left that was killed long ago.
func (d *doctor) cleanUp(ctx context.Context) {
	limit := d.opts.Timeout
	if ctx.Err() != nil {
		limit = min(limit, 2*time.Second)
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	began := clock.System()
	keys, lerr := d.leftovers(limited)
	if len(keys) == 0 && (lerr != nil || !d.put) {
		return // the store refused all of it
	}
	left, err := d.remove(limited, keys)
	if len(left) > 0 && limited.Err() == nil { // it may have been the network, for a moment
		left, err = d.remove(limited, left)
	}
	f := Finding{Check: "clean up", Result: "ok", Seen: "nothing is left", Duration: clock.Since(began)}
	switch {
	case err != nil:
		f.Result, f.Seen, f.Err = failure(err), fmt.Sprintf("what may be left below %s, of %d objects: %v", d.prefix, len(left), err), err
		f.Advice = d.advise(limited, err, doctorCheck{right: "delete objects"}) + "; what is left may be deleted by hand, and is by any run an hour from now"
	case lerr != nil:
		f.Result, f.Seen, f.Err = failure(lerr), fmt.Sprintf("what was made is deleted; whether something else is left below %s can't be seen: %v", doctorPrefix, lerr), lerr
		f.Advice = d.advise(limited, lerr, doctorCheck{right: "list objects"})
	}
	d.report(f)
}

// remove deletes objects and returns those that may still be there, with the error of one.
func (d *doctor) remove(ctx context.Context, keys []string) (left []string, err error) {
	for i, e := range each(keys, func(key string) error {
		err := d.store.Delete(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			if _, serr := d.store.Stat(ctx, key); !errors.Is(serr, ErrNotFound) {
				return err
			}
		}
		return nil
	}) {
		if e != nil {
			left, err = append(left, keys[i]), e
		}
	}
	return left, err
}

// leftovers returns what we may have made, what else is below our prefix, and what others left more than an hour ago by
// the store's own clock.
func (d *doctor) leftovers(ctx context.Context) (keys []string, err error) {
	all := maps.Clone(d.tried)
	for info, e := range d.store.List(ctx, doctorPrefix) {
		if e != nil {
			err = e
			break
		}
		if strings.HasPrefix(info.Key, d.prefix) || !d.stored.IsZero() && info.ModTime.Before(d.stored.Add(-time.Hour)) {
			all[info.Key] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), err
}

// each calls f for every key, eight at a time, and returns what each call did.
func each(keys []string, f func(key string) error) []error {
	errs := make([]error, len(keys))
	next := make(chan int)
	var group sync.WaitGroup
	for range min(len(keys), 8) {
		group.Go(func() {
			for i := range next {
				errs[i] = f(keys[i])
			}
		})
	}
	for i := range keys {
		next <- i
	}
	close(next)
	group.Wait()
	return errs
}
