package amber

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"slices"
	"time"

	"github.com/amberkv/amber/catalog"
)

// A UsageRequest says of what, and for which time, usage is asked.
type UsageRequest struct {
	// From and Until are the period: from the one second until before the other. Parts of a second don't count. A zero Until means now, and so does
	// one that is later. A zero From means the beginning of the month in UTC that the period ends in: so both zero mean this month, and the first
	// of a month alone means all of the month before. If they are equal only what there is now is asked for.
	From, Until time.Time
	DataStore   string // only of this one; empty: of all
}

// Usage tells how many bytes the stores have, and had over a period: what a bill is made of.
type Usage struct {
	From  time.Time  `json:"from"`  // of the period
	Until time.Time  `json:"until"` // likewise
	At    time.Time  `json:"at"`    // the moment of what there is now
	Rows  []UsageRow `json:"rows"`  // sorted by data store, kind and store
	Total UsageRow   `json:"total"`
}

// A UsageRow is the usage of the backups of one data store that are of one kind and in one store, or of several of those.
type UsageRow struct {
	DataStore string       `json:"dataStore,omitempty"`
	Kind      catalog.Kind `json:"kind,omitempty"`
	Store     string       `json:"store,omitempty"` // its name; empty: Config.Store
	Backups   int64        `json:"backups"`         // that there are now
	Bytes     int64        `json:"bytes"`           // of those
	// ByteSeconds is the sum of the bytes of each second of the period. It is exact, so that the usage of two periods adds up to that of both together.
	ByteSeconds ByteSeconds `json:"byteSeconds"`
	// GiBHours is the same in units of 2³⁰ bytes for an hour, for people: rounded half up to six decimals, each row for itself.
	GiBHours string `json:"gibHours"`
}

// Usage tells how many bytes of backups the stores have now and had in each second of a period, also of backups that are deleted by now. A backup counts from
// the second in which it was ready, or copied into the store, until the one in which it was deleted, with the bytes of its parts as they are
// stored; parts that it has adopted are somebody else's. What is at work or has failed doesn't count, nor what Amber keeps beside backups.
//
// If a store can't be read, or a manifest, the error says so, and beside it is the usage of what could be. It wraps catalog.ErrCorrupt for a manifest, and
// errors.ErrUnsupported if a period is asked for and a store has a catalog that is no catalog.Ledger, which can't tell what was deleted. The catalog that a
// Service keeps in a store is one. What was deleted by versions of Amber that had none isn't known.
func (s *Service) Usage(ctx context.Context, q UsageRequest) (*Usage, error) {
	u, err := s.usagePeriod(q)
	if err != nil {
		return nil, err
	}
	var errs []error
	rows := map[UsageRow]*UsageRow{} // by what they are of
	for _, at := range s.places {
		for stay, err := range at.stays(ctx, u) {
			if err != nil {
				errs = append(errs, at.wrap(err))
				continue
			}
			if q.DataStore != "" && stay.DataStore != q.DataStore {
				continue
			}
			key := UsageRow{DataStore: stay.DataStore, Kind: stay.Kind, Store: at.Name}
			if rows[key] == nil {
				row := key
				rows[key] = &row
			}
			rows[key].count(stay, u)
		}
	}
	for _, row := range rows {
		u.Total.add(row)
		if row.Backups > 0 || row.ByteSeconds.big().Sign() > 0 {
			row.GiBHours = row.ByteSeconds.GiBHours()
			u.Rows = append(u.Rows, *row)
		}
	}
	u.Total.GiBHours = u.Total.ByteSeconds.GiBHours()
	slices.SortFunc(u.Rows, func(a, b UsageRow) int {
		return cmp.Or(cmp.Compare(a.DataStore, b.DataStore), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Store, b.Store))
	})
	if err := errors.Join(errs...); err != nil {
		return u, fmt.Errorf("usage is not complete: %w", err)
	}
	return u, nil
}

// usagePeriod says which period a request means.
func (s *Service) usagePeriod(q UsageRequest) (*Usage, error) {
	if q.DataStore != "" {
		if err := catalog.ValidName(q.DataStore); err != nil {
			return nil, fmt.Errorf("amber: UsageRequest.DataStore %.40q: %w", q.DataStore, err)
		}
	}
	now := second(s.now())
	from, until := second(q.From), second(q.Until)
	if !q.From.IsZero() && !q.Until.IsZero() && from.After(until) {
		return nil, fmt.Errorf("amber: UsageRequest.From is %s, which is after UsageRequest.Until, %s", from.Format(time.RFC3339), until.Format(time.RFC3339))
	}
	if q.Until.IsZero() || until.After(now) {
		until = now
	}
	if q.From.IsZero() {
		last := until.Add(-time.Second)
		from = time.Date(last.Year(), last.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	if from.After(until) { // all of it is yet to come
		from = until
	}
	return &Usage{From: from, Until: until, At: now, Rows: []UsageRow{}}, nil
}

func second(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

// stays gives the stays that usage is counted from: those of its period, and those of what there is now. Without a catalog.Ledger it has only the latter,
// which is enough if there is no period.
func (p *place) stays(ctx context.Context, u *Usage) iter.Seq2[catalog.Stay, error] {
	if ledger, ok := p.Catalog.(catalog.Ledger); ok {
		// The clock of whoever has made a backup may be ahead of this one.
		return ledger.Stays(ctx, u.From, u.At.AddDate(1, 0, 0))
	}
	return func(yield func(catalog.Stay, error) bool) {
		if u.From.Before(u.Until) && !yield(catalog.Stay{}, fmt.Errorf("%w: its catalog, a %T, is no catalog.Ledger and doesn't know what was deleted since %s; "+
			"ask with From equal to Until for what there is now", errors.ErrUnsupported, p.Catalog, u.From.Format(time.RFC3339))) {
			return
		}
		for b, err := range p.Catalog.List(ctx, catalog.Query{}) {
			s, ok := catalog.Stay{}, false
			if err == nil {
				s, ok = catalog.StayOf(b)
			}
			if (ok || err != nil) && !yield(s, err) {
				return
			}
		}
	}
}

// count counts a stay.
func (r *UsageRow) count(s catalog.Stay, u *Usage) {
	from, until := s.From, s.Until
	if until.IsZero() {
		r.Backups++
		r.Bytes += s.Bytes
	}
	if from.Before(u.From) {
		from = u.From
	}
	if until.IsZero() || until.After(u.Until) {
		until = u.Until
	}
	if seconds := until.Unix() - from.Unix(); seconds > 0 {
		r.ByteSeconds = r.ByteSeconds.Plus(ByteSeconds{new(big.Int).Mul(big.NewInt(s.Bytes), big.NewInt(seconds))})
	}
}

// add adds what another row has.
func (r *UsageRow) add(o *UsageRow) {
	r.Backups += o.Backups
	r.Bytes += o.Bytes
	r.ByteSeconds = r.ByteSeconds.Plus(o.ByteSeconds)
}

// By sums up the rows by what is asked for: By(true, false, false) has a row for each data store.
func (u *Usage) By(dataStore, kind, store bool) []UsageRow {
	out := []UsageRow{}
	at := map[UsageRow]int{}
	for i := range u.Rows {
		row, key := &u.Rows[i], UsageRow{}
		if dataStore {
			key.DataStore = row.DataStore
		}
		if kind {
			key.Kind = row.Kind
		}
		if store {
			key.Store = row.Store
		}
		n, ok := at[key]
		if !ok {
			n = len(out)
			at[key], out = n, append(out, key)
		}
		out[n].add(row)
	}
	for i := range out {
		out[i].GiBHours = out[i].ByteSeconds.GiBHours()
	}
	return out
}

// ByteSeconds is a number of bytes times seconds, of any size. The zero value is 0. As JSON it is a string of digits: a number of
// that size would lose some of them in most readers of JSON.
type ByteSeconds struct{ n *big.Int } // n is never changed

func (b ByteSeconds) big() *big.Int {
	if b.n == nil {
		return new(big.Int)
	}
	return b.n
}

// Big returns the number, which is the caller's.
func (b ByteSeconds) Big() *big.Int { return new(big.Int).Set(b.big()) }

// Plus returns the sum of two.
func (b ByteSeconds) Plus(o ByteSeconds) ByteSeconds {
	return ByteSeconds{new(big.Int).Add(b.big(), o.big())}
}

// String returns the number in decimal.
func (b ByteSeconds) String() string { return b.big().String() }

// MarshalText returns the number in decimal.
func (b ByteSeconds) MarshalText() ([]byte, error) { return b.big().MarshalText() }

// UnmarshalText reads what MarshalText returns.
func (b *ByteSeconds) UnmarshalText(text []byte) error {
	n, ok := new(big.Int).SetString(string(text), 10)
	if !ok || n.Sign() < 0 {
		return fmt.Errorf("amber: %.40q is no number of byte-seconds", text)
	}
	b.n = n
	return nil
}

// GiBHours returns the number in units of 2³⁰ bytes for an hour, rounded half up to six decimals.
func (b ByteSeconds) GiBHours() string {
	const decimals = 1_000_000
	unit := big.NewInt(3600 << 30)
	n := new(big.Int).Mul(b.big(), big.NewInt(decimals))
	n.Add(n, new(big.Int).Rsh(unit, 1)).Quo(n, unit)
	whole, rest := new(big.Int).QuoRem(n, big.NewInt(decimals), new(big.Int))
	return fmt.Sprintf("%s.%06d", whole, rest)
}
