package storecatalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// What the ledger keeps is in the keys of empty objects, so that it is read by listing:
//
//	_usage/<yyyy-mm>/<data store>/<id>.<kind>.<bytes>.<from>.<until>    a stay that ended in that month (UTC); times are Unix seconds
//	_usage/_copied/<id>.<time>                                          when a copy came into the store, in Unix nanoseconds
//	_usage/_months/<yyyy-mm>                                            there are stays that ended in that month
//
// A month's mark is there before its first stay, so that whoever asks for a period need not guess, by a clock, which months there are.
const (
	usagePrefix  = "_usage/"
	ownPrefix    = usagePrefix + "_" // what is no month
	copiedPrefix = ownPrefix + "copied/"
	monthsPrefix = ownPrefix + "months/"
	monthLayout  = "2006-01"
)

// stayKey returns the key of a stay that has ended.
func stayKey(s catalog.Stay) string {
	return fmt.Sprintf("%s%s.%d.%d.%d", staysOf(s), s.Kind, s.Bytes, s.From.Unix(), s.Until.Unix())
}

// staysOf is what the keys of all stays of a backup that ended in the same month begin with.
func staysOf(s catalog.Stay) string {
	return usagePrefix + s.Until.UTC().Format(monthLayout) + "/" + s.DataStore + "/" + string(s.ID) + "."
}

// parseStay takes the key of a stay apart; ok is false for every other key.
func parseStay(key string) (s catalog.Stay, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 || catalog.ValidName(parts[2]) != nil {
		return s, false
	}
	fields := strings.Split(parts[3], ".")
	n := len(fields) - 3 // where the numbers begin; an ID has a point in it, and a kind may have some
	if n < 3 {
		return s, false
	}
	s.DataStore, s.ID, s.Kind = parts[2], catalog.ID(fields[0]+"."+fields[1]), catalog.Kind(strings.Join(fields[2:n], "."))
	if _, valid := s.ID.Time(); !valid || catalog.ValidName(string(s.Kind)) != nil {
		return s, false
	}
	var numbers [3]int64
	for i := range numbers {
		var err error
		if numbers[i], err = strconv.ParseInt(fields[n+i], 10, 64); err != nil {
			return s, false
		}
	}
	s.Bytes, s.From, s.Until = numbers[0], time.Unix(numbers[1], 0).UTC(), time.Unix(numbers[2], 0).UTC()
	return s, s.Bytes >= 0 && stayKey(s) == key // only the one spelling
}

// since corrects a stay by the times at which the backup was copied into the store, if it was. The last counts.
func since(s catalog.Stay, copied []time.Time) catalog.Stay {
	last := time.Time{}
	for _, at := range copied {
		if at = second(at); !s.Until.IsZero() {
			at = at.Add(min(0, s.Until.Sub(at))) // by clocks that differ
		}
		if at.After(last) {
			last = at
		}
	}
	if !last.IsZero() {
		s.From = last
	}
	return s
}

func second(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

// Began notes when a copy came into the store, as catalog.Ledger says.
func (c *Catalog) Began(ctx context.Context, b *catalog.Backup, at time.Time) error {
	if err := c.began(ctx, b, at); err != nil {
		return fmt.Errorf("storecatalog: noting when the copy of %.60s began: %w", b.ID, err)
	}
	return nil
}

func (c *Catalog) began(ctx context.Context, b *catalog.Backup, at time.Time) error {
	if _, ok := b.ID.Time(); !ok {
		return fmt.Errorf("the ID %.40q is not one that NewID makes", b.ID)
	}
	// The former note goes first. Should this be cut short, then there is none, and no copy either.
	notes, err := c.notes(ctx, b.ID)
	if err != nil {
		return err
	}
	if err := c.forgetNotes(ctx, b.ID, notes); err != nil {
		return err
	}
	return storage.WriteFile(ctx, c.store, noteKey(b.ID, at), nil, nil)
}

// A note's time has nanoseconds, so that who sleeps while it removes an old one doesn't remove a later one of the same second.
func noteKey(id catalog.ID, at time.Time) string {
	return fmt.Sprintf("%s%s.%d", copiedPrefix, id, at.UnixNano())
}

// notes lists when a backup was copied into the store, as far as is noted.
func (c *Catalog) notes(ctx context.Context, id catalog.ID) ([]time.Time, error) {
	var notes []time.Time
	for info, err := range c.store.List(ctx, copiedPrefix+string(id)+".") {
		if err != nil {
			return nil, err
		}
		if _, at, ok := parseNote(info.Key); ok {
			notes = append(notes, at)
		}
	}
	return notes, nil
}

func parseNote(key string) (id catalog.ID, at time.Time, ok bool) {
	name := strings.TrimPrefix(key, copiedPrefix)
	point := strings.LastIndexByte(name, '.')
	if point < 0 {
		return "", time.Time{}, false
	}
	nanos, err := strconv.ParseInt(name[point+1:], 10, 64)
	if err != nil {
		return "", time.Time{}, false
	}
	id, at = catalog.ID(name[:point]), time.Unix(0, nanos).UTC()
	_, valid := id.Time()
	return id, at, valid && noteKey(id, at) == key
}

func (c *Catalog) forgetNotes(ctx context.Context, id catalog.ID, notes []time.Time) error {
	for _, at := range notes {
		if err := c.remove(ctx, noteKey(id, at)); err != nil {
			return err
		}
	}
	return nil
}

// Ended notes that a stay has ended, as catalog.Ledger says. A backup that never was ready, or without a DeletedAt, had none.
func (c *Catalog) Ended(ctx context.Context, b *catalog.Backup) error {
	if err := c.ended(ctx, b); err != nil {
		return fmt.Errorf("storecatalog: noting until when backup %.60s was kept: %w", b.ID, err)
	}
	return nil
}

func (c *Catalog) ended(ctx context.Context, b *catalog.Backup) error {
	if b.State != catalog.StateDeleting {
		return fmt.Errorf("it is %s, not deleting", b.State)
	}
	// The order matters when several are at it: who finds no note of a copy, because another has removed it, then finds what that
	// one has written before.
	notes, err := c.notes(ctx, b.ID)
	if err != nil {
		return err
	}
	s, ok := catalog.StayOf(b)
	if !ok {
		return c.forgetNotes(ctx, b.ID, notes)
	}
	s = since(s, notes)
	noted, err := c.noted(ctx, s)
	if err != nil {
		return err
	}
	if noted {
		// Notes that are later than that may be of a copy that was made since.
		notes = slices.DeleteFunc(notes, b.DeletedAt.Before)
	} else {
		if err := c.mark(ctx, s.Until.Format(monthLayout)); err != nil {
			return err
		}
		if err := createOnce(ctx, c.store, stayKey(s), nil); err != nil && !errors.Is(err, storage.ErrExists) {
			return err
		}
	}
	return c.forgetNotes(ctx, b.ID, notes)
}

// noted tells whether a stay is noted already. Its end is what it is known by: the beginning may have been forgotten since. And a stay
// of the same beginning is the same one.
func (c *Catalog) noted(ctx context.Context, s catalog.Stay) (bool, error) {
	is := func(key string) bool {
		other, ok := parseStay(key)
		return ok && other.ID == s.ID && (other.Until.Equal(s.Until) || sameFrom(other, s))
	}
	for info, err := range c.store.List(ctx, staysOf(s)) {
		if err != nil {
			return false, err
		}
		if is(info.Key) {
			return true, nil
		}
	}
	packed, _, err := c.packed(ctx, s.Until.Format(monthLayout), func(error) error { return nil })
	return slices.ContainsFunc(packed, is), err
}

// mark says that there are stays that ended in a month.
func (c *Catalog) mark(ctx context.Context, month string) error {
	c.mu.Lock()
	marked := c.month == month
	c.mu.Unlock()
	if marked {
		return nil
	}
	if err := createOnce(ctx, c.store, monthsPrefix+month, nil); err != nil && !errors.Is(err, storage.ErrExists) {
		return err
	}
	c.mu.Lock()
	c.month = month
	c.mu.Unlock()
	return nil
}

// Stays gives stays, as catalog.Ledger says. It lists the store twice for each month since from in which a stay ended, reads what is packed of it, holds the keys
// of one month at a time, and reads the manifests of the stays that haven't ended. What can't be read, a manifest or a key below "_usage", is an error in the sequence that wraps catalog.ErrCorrupt, after
// which it goes on; any other error ends it.
func (c *Catalog) Stays(ctx context.Context, from, until time.Time) iter.Seq2[catalog.Stay, error] {
	return func(yield func(catalog.Stay, error) bool) {
		if err := c.stays(ctx, from, until, yield); err != nil && !errors.Is(err, errEnough) {
			yield(catalog.Stay{}, fmt.Errorf("storecatalog: stays: %w", err))
		}
	}
}

// errEnough says that whoever asked has heard enough.
var errEnough = errors.New("enough")

func (c *Catalog) stays(ctx context.Context, from, until time.Time, yield func(catalog.Stay, error) bool) error {
	corrupt := func(err error) error {
		if !yield(catalog.Stay{}, fmt.Errorf("storecatalog: stays: %w", err)) {
			return errEnough
		}
		return nil
	}
	// What there is comes before what has ended: so nothing is missed that ends meanwhile, and what is found in both is known to be the same.
	// Notes of copies are looked at before, as they go when a stay has ended, and after, as they come with a copy.
	copied := map[catalog.ID][]time.Time{}
	if _, err := c.remarks(ctx, copied, nil); err != nil {
		return err
	}
	here := map[catalog.ID]catalog.Stay{}
	for b, err := range c.List(ctx, catalog.Query{States: []catalog.State{catalog.StateReady, catalog.StateDeleting}}) {
		switch {
		case errors.Is(err, catalog.ErrCorrupt):
			if err := corrupt(err); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			if s, ok := catalog.StayOf(b); ok {
				here[b.ID] = s
			}
		}
	}
	months, err := c.remarks(ctx, copied, corrupt)
	if err != nil {
		return err
	}
	for id, s := range here {
		here[id] = since(s, copied[id])
	}
	for _, month := range months {
		if month < from.UTC().Format(monthLayout) {
			continue
		}
		keys, err := c.ofMonth(ctx, month, corrupt)
		if err != nil {
			return err
		}
		var before []catalog.Stay // of the same backup
		for _, key := range keys {
			s, ok := parseStay(key)
			if !ok {
				if err := corrupt(fmt.Errorf("%w: %s is not the key of a stay", catalog.ErrCorrupt, key)); err != nil {
					return err
				}
				continue
			}
			if now, ok := here[s.ID]; ok && same(s, now, len(copied[s.ID]) > 0) {
				delete(here, s.ID)
			}
			if len(before) > 0 && before[0].ID != s.ID {
				before = before[:0]
			}
			again := slices.ContainsFunc(before, func(o catalog.Stay) bool { return sameFrom(o, s) })
			before = append(before, s)
			if !again && overlaps(s, from, until) && !yield(s, nil) {
				return errEnough
			}
		}
	}
	for _, s := range here {
		if overlaps(s, from, until) && !yield(s, nil) {
			return errEnough
		}
	}
	return nil
}

func overlaps(s catalog.Stay, from, until time.Time) bool {
	return s.From.Before(until) && (s.Until.IsZero() || s.Until.After(from))
}

// same tells whether a stay that has ended is the one that a backup was found in. If that backup was found without a note of a copy, it was made in
// this store, or it is a copy that came and went while all this was read, note and all; what came later can't be before it.
func same(ended, found catalog.Stay, copied bool) bool {
	return sameFrom(ended, found) || !found.Until.IsZero() && ended.Until.Equal(found.Until) || !copied && ended.From.After(found.From)
}

// sameFrom tells whether a stay is the one that ended, by their beginning. One that ended in the second in which it began says nothing: the next may have
// begun in that second too.
func sameFrom(ended, s catalog.Stay) bool {
	return ended.From.Equal(s.From) && ended.Until.After(ended.From)
}

// remarks reads what the ledger has beside the stays: when which backup was copied into the store, and the months in which stays ended, in order. corrupt
// is told of what can't be read; it may be nil.
func (c *Catalog) remarks(ctx context.Context, copied map[catalog.ID][]time.Time, corrupt func(error) error) (months []string, err error) {
	for info, err := range c.store.List(ctx, ownPrefix) {
		if err != nil {
			return nil, err
		}
		if id, at, ok := parseNote(info.Key); ok {
			copied[id] = append(copied[id], at)
			continue
		}
		if _, _, ok := parsePack(info.Key); ok {
			continue
		}
		month, ok := strings.CutPrefix(info.Key, monthsPrefix)
		if _, err := time.Parse(monthLayout, month); ok && err == nil {
			months = append(months, month)
		} else if corrupt != nil {
			if err := corrupt(fmt.Errorf("%w: %s is no key of the ledger's", catalog.ErrCorrupt, info.Key)); err != nil {
				return nil, err
			}
		}
	}
	return months, nil
}
