package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"
)

// A sample is the contents of an object: bytes that can't be compressed and that depend on seed.
type sample struct {
	seed byte
	size int64
}

// from reads the sample from an offset.
func (s sample) from(off int64) io.Reader { return &sampleReader{s: s, at: off} }

// A sampleReader makes a sample block by block, so that it can begin anywhere at once.
type sampleReader struct {
	s     sample
	at    int64
	block [64 << 10]byte
	rest  []byte // of block
}

func (r *sampleReader) Read(p []byte) (int, error) {
	if r.at >= r.s.size {
		return 0, io.EOF
	}
	if len(r.rest) == 0 {
		const size = int64(len(r.block))
		var seed [32]byte
		seed[0] = r.s.seed
		binary.LittleEndian.PutUint64(seed[8:], uint64(r.at/size))
		rand.NewChaCha8(seed).Read(r.block[:])
		r.rest = r.block[r.at%size:]
	}
	n := copy(p[:min(int64(len(p)), r.s.size-r.at)], r.rest)
	r.rest, r.at = r.rest[n:], r.at+int64(n)
	return n, nil
}

const smallSize = 4 << 10

// create makes an object. Whatever comes of it, the key is remembered for cleaning up.
func (d *doctor) create(ctx context.Context, name string, s sample, opts *CreateOptions) (Info, error) {
	w, err := d.begin(ctx, name, s, opts)
	if err != nil {
		return Info{}, err
	}
	defer w.Abort()
	return d.commit(ctx, w, name, s)
}

// begin writes an object and doesn't commit it.
func (d *doctor) begin(ctx context.Context, name string, s sample, opts *CreateOptions) (Writer, error) {
	w, err := d.store.Create(ctx, d.prefix+name, opts)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.tried[d.prefix+name] = true
	d.mu.Unlock()
	// The writer is hidden behind an interface without ReadFrom, so that pieces are as large as a backup's.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, s.from(0), make([]byte, 256<<10))
	d.mu.Lock()
	d.moved += n
	d.mu.Unlock()
	if err != nil {
		w.Abort()
		d.refused(name, err)
		return nil, err
	}
	return w, nil
}

// refused forgets an object that wasn't there before and that the store said no to, so that nobody looks for it in vain. What came of
// a write whose answer was lost is not known.
func (d *doctor) refused(name string, err error) {
	if errors.Is(err, ErrTransient) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, made := d.made[name]; !made {
		delete(d.tried, d.prefix+name)
	}
}

func (d *doctor) commit(ctx context.Context, w Writer, name string, s sample) (Info, error) {
	info, err := w.Commit(ctx)
	if err != nil {
		d.mu.Lock()
		d.failed[d.prefix+name] = true
		d.mu.Unlock()
		d.refused(name, err)
		return Info{}, err
	}
	d.mu.Lock()
	d.made[name] = s
	d.tried[d.prefix+name] = true // of several writers, one that was refused may have been quicker to say so
	d.mu.Unlock()
	if info.Key != d.prefix+name || info.Size != s.size {
		return info, brokenf("%d bytes were written as %s, and the store says that it has %d bytes of %s", s.size, d.prefix+name, info.Size, info.Key)
	}
	return info, nil
}

// compare reads n bytes of an object from off, or to its end if n is negative, and holds them against a sample.
func (d *doctor) compare(ctx context.Context, name string, s sample, off, n int64) error {
	size := max(0, s.size-off)
	if n >= 0 {
		size = min(size, n)
	}
	in, err := d.store.Open(ctx, d.prefix+name, off, n)
	if err != nil {
		return err
	}
	defer in.Close()
	want := s.from(off)
	got, expected := make([]byte, 64<<10), make([]byte, 64<<10)
	at := int64(0)
	for err == nil {
		var k int
		k, err = in.Read(got)
		d.moved += int64(k)
		if int64(k) > size-at {
			return brokenf("reading from byte %d of an object of %d bytes gives more than the %d bytes that it should", off, s.size, size)
		}
		if _, err := io.ReadFull(want, expected[:k]); err != nil {
			return err
		}
		if !bytes.Equal(got[:k], expected[:k]) {
			return brokenf("an object of %d bytes reads differently from what was written, between byte %d and byte %d", s.size, off+at, off+at+int64(k))
		}
		at += int64(k)
	}
	if err != io.EOF {
		return err
	}
	if at != size {
		return brokenf("reading from byte %d of an object of %d bytes gives %d bytes, and should give %d", off, s.size, at, size)
	}
	return nil
}

// missing checks that there is no object, for all who look.
func (d *doctor) missing(ctx context.Context, name, after string) error {
	key := d.prefix + name
	if _, err := d.store.Stat(ctx, key); err == nil {
		return brokenf("after %s the object is still there", after)
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	r, err := d.store.Open(ctx, key, 0, -1)
	if err == nil {
		// Some stores tell only when they are read.
		_, err = r.Read(make([]byte, 1))
		r.Close()
		if err == nil || err == io.EOF {
			return brokenf("after %s the object can still be read", after)
		}
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	for info, err := range d.store.List(ctx, key) {
		if err != nil {
			return err
		}
		if info.Key == key {
			return brokenf("after %s the object is still listed", after)
		}
	}
	return nil
}

// largest returns an object that is there, the large one if it could be made.
func (d *doctor) largest() (string, sample) {
	if s, ok := d.made["large"]; ok {
		return "large", s
	}
	return "small", d.made["small"]
}

func (d *doctor) checkPut(ctx context.Context) (string, error) {
	d.from = d.opts.Now()
	info, err := d.create(ctx, "small", sample{1, smallSize}, nil)
	d.to, d.stored = d.opts.Now(), info.ModTime
	_, d.put = d.made["small"]
	return fmt.Sprintf("an object of %d bytes was created", smallSize), err
}

func (d *doctor) checkPutLarge(ctx context.Context) (string, error) {
	_, err := d.create(ctx, "large", sample{2, d.opts.LargeSize}, &CreateOptions{SizeHint: d.opts.LargeSize})
	return fmt.Sprintf("an object of %d bytes was created", d.opts.LargeSize), err
}

func (d *doctor) checkGet(ctx context.Context) (string, error) {
	for _, name := range []string{"small", "large"} {
		if s, ok := d.made[name]; ok {
			if err := d.compare(ctx, name, s, 0, -1); err != nil {
				return "", err
			}
		}
	}
	return "what was written reads back equal", nil
}

func (d *doctor) checkRange(ctx context.Context) (string, error) {
	name, s := d.largest()
	for _, r := range []struct{ off, n int64 }{
		{s.size / 3, s.size / 3}, {1, 1}, {0, 0}, {s.size - 10, 100}, {s.size - 10, -1}, {s.size, -1}, {s.size + 10, 10}, {s.size + 10, -1},
	} {
		if err := d.compare(ctx, name, s, r.off, r.n); err != nil {
			return "", fmt.Errorf("range of %d bytes from byte %d: %w", r.n, r.off, err)
		}
	}
	return "ranges from the middle, past the end and to the end are right", nil
}

func (d *doctor) checkStat(ctx context.Context) (string, error) {
	for name, s := range d.made {
		info, err := d.store.Stat(ctx, d.prefix+name)
		if err != nil {
			return "", err
		}
		if info.Size != s.size || info.Key != d.prefix+name {
			return "", brokenf("stat of %s with %d bytes tells %d bytes of %s", d.prefix+name, s.size, info.Size, info.Key)
		}
	}
	switch _, err := d.store.Stat(ctx, d.prefix+"missing"); {
	case err == nil:
		return "", brokenf("stat of an object that doesn't exist finds it")
	case !errors.Is(err, ErrNotFound):
		return "", fmt.Errorf("stat of an object that doesn't exist: %w", err)
	}
	return "sizes are right, and what is missing is missing", nil
}

func (d *doctor) checkList(ctx context.Context) (string, error) {
	n, err := d.list(ctx, "")
	if err == nil {
		_, err = d.list(ctx, "sm") // a prefix need not end at a slash
	}
	if !d.put {
		return "nothing can be put, but listing is possible: these credentials may be for reading only", err
	}
	return fmt.Sprintf("%d objects are listed as they are", n), err
}

// list checks that what was made below a prefix is listed once, in order and with its size, and nothing that wasn't.
func (d *doctor) list(ctx context.Context, below string) (int, error) {
	seen := map[string]bool{}
	last := ""
	for info, err := range d.store.List(ctx, d.prefix+below) {
		if err != nil {
			return 0, err
		}
		name, ok := strings.CutPrefix(info.Key, d.prefix)
		s, made := d.made[name]
		switch {
		case !ok || !strings.HasPrefix(name, below):
			return 0, brokenf("the list of what begins with %s has %s", d.prefix+below, info.Key)
		case seen[name]:
			return 0, brokenf("%s is listed twice", info.Key)
		case info.Key < last:
			return 0, brokenf("%s is listed after %s: the order is wrong", info.Key, last)
		case !made && !d.failed[info.Key]:
			return 0, brokenf("%s is listed, and nobody made it", info.Key)
		case made && info.Size != s.size:
			return 0, brokenf("%s is listed with %d bytes and has %d", info.Key, info.Size, s.size)
		}
		seen[name], last = true, info.Key
	}
	for name := range d.made {
		if strings.HasPrefix(name, below) && !seen[name] {
			return 0, brokenf("%s exists and is not listed, with %d others that are", d.prefix+name, len(seen))
		}
	}
	return len(seen), nil
}

func (d *doctor) checkPages(ctx context.Context) (string, error) {
	names := make([]string, d.opts.Objects)
	for i := range names {
		names[i] = fmt.Sprintf("many/%08d", i)
	}
	for _, err := range each(names, func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := d.create(ctx, name, sample{3, 1}, nil)
		return err
	}) {
		if err != nil {
			return "", err // others will have failed in the same way
		}
	}
	n, err := d.list(ctx, "many/")
	return fmt.Sprintf("%d objects are listed as they are", n), err
}

var onlyNew = &CreateOptions{IfNotExist: true}

func (d *doctor) checkExclusive(ctx context.Context) (string, error) {
	if !CapabilitiesOf(d.store).Exclusive {
		return "", &warning{"this store has no exclusive create", "keep the catalog in a database, or all of it in another store: here two runs could back up one data store at the same time " +
			"and each take the other's place, so Amber refuses to keep its catalog and leases in this store"}
	}
	first, second := sample{4, smallSize}, sample{5, smallSize}
	if _, err := d.create(ctx, "exclusive", first, onlyNew); err != nil {
		return "", err
	}
	switch _, err := d.create(ctx, "exclusive", second, onlyNew); {
	case err == nil:
		return "", brokenf("a second exclusive create of the same object succeeded")
	case !errors.Is(err, ErrExists):
		return "", fmt.Errorf("exclusive create of what exists: %w", err)
	}
	if err := d.compare(ctx, "exclusive", first, 0, -1); err != nil {
		return "", fmt.Errorf("after a second exclusive create: %w", err)
	}
	d.exclusive = true
	return "a second create of the same object is refused", nil
}

// checkRace lets writers race for a key, a few times: who only looks before he writes may have luck once.
func (d *doctor) checkRace(ctx context.Context) (string, error) {
	const rounds, writers = 4, 8
	for round := range rounds {
		name := fmt.Sprintf("race-%d", round)
		winner, err := d.race(ctx, name, writers)
		if err != nil {
			return "", err
		}
		if err := d.compare(ctx, name, winner, 0, -1); err != nil {
			return "", fmt.Errorf("after a race of %d writers: %w", writers, err)
		}
	}
	return fmt.Sprintf("of %d writers one wins, %d times", writers, rounds), nil
}

// race returns what the only winner wrote.
func (d *doctor) race(ctx context.Context, name string, writers int) (sample, error) {
	errs := make([]error, writers)
	pending := make([]Writer, writers)
	content := func(i int) sample { return sample{byte(100 + i), smallSize} }
	// All have written before any commits.
	for i := range writers {
		pending[i], errs[i] = d.begin(ctx, name, content(i), onlyNew)
	}
	var group sync.WaitGroup
	start := make(chan struct{})
	for i, w := range pending {
		if w == nil {
			continue
		}
		group.Go(func() {
			defer w.Abort()
			<-start
			_, errs[i] = d.commit(ctx, w, name, content(i))
		})
	}
	close(start)
	group.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			return sample{}, brokenf("%d writers raced for one object with an exclusive create, and more than one won", writers)
		case err == nil:
			winner = i
		case !errors.Is(err, ErrExists):
			return sample{}, fmt.Errorf("in a race of %d writers for one object: %w", writers, err)
		}
	}
	if winner < 0 {
		return sample{}, brokenf("%d writers raced for one object with an exclusive create, and none won", writers)
	}
	d.made[name] = content(winner)
	return content(winner), nil
}

func (d *doctor) checkOverwrite(ctx context.Context) (string, error) {
	old, replaced := d.made["small"], sample{6, smallSize + 1}
	if _, err := d.create(ctx, "small", replaced, nil); err != nil {
		return "", err
	}
	if err := d.compare(ctx, "small", replaced, 0, -1); err != nil {
		if d.compare(ctx, "small", old, 0, -1) == nil {
			return "", brokenf("an object that was replaced still reads as before")
		}
		return "", fmt.Errorf("after an object was replaced: %w", err)
	}
	info, err := d.store.Stat(ctx, d.prefix+"small")
	if err != nil {
		return "", err
	}
	if info.Size != replaced.size {
		return "", brokenf("an object was replaced by one of %d bytes, and stat still tells %d bytes", replaced.size, info.Size)
	}
	if _, err := d.list(ctx, "small"); err != nil {
		return "", fmt.Errorf("after an object was replaced: %w", err)
	}
	return "what replaces an object is seen at once", nil
}

func (d *doctor) checkAbort(ctx context.Context) (string, error) {
	for _, size := range []int64{smallSize, d.opts.LargeSize / 2} {
		name := fmt.Sprintf("aborted-%d", size)
		w, err := d.begin(ctx, name, sample{7, size}, nil)
		if err != nil {
			return "", err
		}
		if err := w.Abort(); err != nil {
			w.Abort() // if it can be done now it is done
			return "", err
		}
		if err := d.missing(ctx, name, "an abort"); err != nil {
			return "", err
		}
	}
	return "what was aborted is not there", nil
}

func (d *doctor) checkDelete(ctx context.Context) (string, error) {
	if err := d.store.Delete(ctx, d.prefix+"small"); err != nil {
		return "", err
	}
	delete(d.made, "small")
	if err := d.missing(ctx, "small", "a delete"); err != nil {
		return "", err
	}
	// The others have to be there still.
	for name, s := range d.made {
		if strings.HasPrefix(name, "many/") {
			continue
		}
		info, err := d.store.Stat(ctx, d.prefix+name)
		if errors.Is(err, ErrNotFound) || err == nil && info.Size != s.size {
			return "", brokenf("a delete of another object took %s with it", d.prefix+name)
		}
		if err != nil {
			return "", err
		}
	}
	return "what was deleted is gone, and nothing else", nil
}

func (d *doctor) checkDeleteMissing(ctx context.Context) (string, error) {
	switch err := d.store.Delete(ctx, d.prefix+"missing"); {
	case err == nil:
		return "", brokenf("a delete of an object that doesn't exist succeeds")
	case !errors.Is(err, ErrNotFound):
		return "", fmt.Errorf("delete of an object that doesn't exist: %w", err)
	}
	return "a delete of what is missing says so", nil
}

func (d *doctor) checkSweep(ctx context.Context) (string, error) {
	// Nothing is as old as that, so nothing of others is removed.
	objects, size, err := SweepUnfinished(ctx, d.store, time.Unix(0, 0))
	if err == nil && (objects != 0 || size != 0) {
		err = brokenf("a sweep of unfinished writes that are older than 1970 removed %d, of %d bytes", objects, size)
	}
	return "unfinished writes can be looked for", err
}

// What the clocks may differ by: leases allow for two machines that are 5 seconds apart.
const (
	skewWarn = 2500 * time.Millisecond
	skewFail = time.Minute
)

func (d *doctor) checkClock(context.Context) (string, error) {
	if d.stored.IsZero() {
		return "", brokenf("the store gives an object no time")
	}
	// Many stores tell whole seconds. By so much is the time at least outside of when we made the object.
	skew, where := d.from.Truncate(time.Second).Sub(d.stored), "behind"
	if ahead := d.stored.Sub(d.to); ahead > skew {
		skew, where = ahead, "ahead of"
	}
	text := fmt.Sprintf("the store's clock is at least %v %s ours", skew.Round(100*time.Millisecond), where)
	switch {
	case skew > skewFail:
		return "", brokenf("%s", text)
	case skew > skewWarn:
		return "", &warning{text, "synchronise the clock of this machine, by NTP: leases allow for clocks that are 5 seconds apart"}
	}
	return "the store's clock agrees with ours", nil
}

func (d *doctor) checkSigned(ctx context.Context) (string, error) {
	name, _ := d.largest()
	text, err := SignGet(ctx, d.store, d.prefix+name, time.Minute)
	if errors.Is(err, errors.ErrUnsupported) {
		return "this store makes none", nil
	}
	if err != nil {
		return "", err
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", brokenf("the store signed something that is not an HTTP URL") // which is a secret all the same
	}
	return "a URL of " + u.Scheme + "://" + u.Host + " was made", nil
}
