package catalog

import (
	"context"
	"iter"
	"math"
	"time"
)

// A Stay is how long a store had a backup, and how many bytes of it: what a bill is made of.
type Stay struct {
	ID        ID
	DataStore string
	Kind      Kind
	Bytes     int64     // as stored, without what is adopted
	From      time.Time // when the backup was ready, or copied into the store, to the second
	Until     time.Time // when it was deleted, to the second; zero: the store still has it
}

// A Ledger is a Catalog that remembers how long a store had the backups that are deleted by now.
type Ledger interface {
	// Began notes when a copy of a backup came into the store, whose manifest tells when the backup was ready elsewhere. It comes before
	// the copy is published. Noting it again replaces the former note.
	Began(ctx context.Context, b *Backup, at time.Time) error
	// Ended notes that a backup was there until its DeletedAt. It comes after the manifest says so, and before anything is deleted. Noting
	// the same again changes nothing, and of two ends of one stay that differ the first counts. A backup that never was ready had no stay.
	Ended(ctx context.Context, b *Backup) error
	// Stays gives the stays that overlap the time from one moment until another, those that haven't ended too, in no order. What can't be read is
	// an error in the sequence that wraps ErrCorrupt, after which it goes on.
	Stays(ctx context.Context, from, until time.Time) iter.Seq2[Stay, error]
}

// A Tidier is a Catalog that has something to tidy up now and then, such as a Ledger that has become long. It changes nothing that is to be seen.
type Tidier interface {
	Tidy(ctx context.Context) error
}

// StayOf returns how long a store has had a backup that was made in it, as the manifest tells; ok is false for one that never was ready.
func StayOf(b *Backup) (s Stay, ok bool) {
	if b.ReadyAt.IsZero() || b.State != StateReady && (b.State != StateDeleting || b.DeletedAt.IsZero()) {
		return s, false
	}
	s = Stay{ID: b.ID, DataStore: b.DataStore, Kind: b.Kind, From: second(b.ReadyAt)}
	for _, p := range b.Parts {
		if !p.Adopted {
			s.Bytes += min(p.Size, math.MaxInt64-s.Bytes)
		}
	}
	if b.State == StateDeleting {
		s.Until = second(b.DeletedAt)
		if s.Until.Before(s.From) { // by clocks that differ
			s.From = s.Until
		}
	}
	return s, true
}

func second(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }
