package inspect

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/amberkv/amber/rdb"
)

// A Report is what an Inspector saw. Rows without a key are left out, but for those of the histograms.
type Report struct {
	Total     Sums          `json:"total"`
	Types     []TypeRow     `json:"types"`     // in order of memory, the most first
	DBs       []DBRow       `json:"dbs"`       // in ascending order
	Encodings []EncodingRow `json:"encodings"` // in order of memory, the most first
	Prefixes  []PrefixRow   `json:"prefixes"`  // in order of memory, the most first
	Other     Sums          `json:"other"`     // what isn't in Prefixes
	Exact     bool          `json:"prefixes_exact"`
	Biggest   []KeyRow      `json:"biggest"` // by memory, the biggest first
	Expiry    []Bucket      `json:"expiry"`
	Idle      []Bucket      `json:"idle,omitempty"` // time since the last access, if the stream tells that of any key
	Freq      []Bucket      `json:"freq,omitempty"` // logarithmic frequency of access, if the stream tells that of any key
}

// Sums are sums over keys.
type Sums struct {
	Keys     int64 `json:"keys"`
	Bytes    int64 `json:"bytes"`    // in the stream
	Memory   int64 `json:"memory"`   // in bytes: see Memory
	Elements int64 `json:"elements"` // of those keys whose encoding tells in passing
	Expires  int64 `json:"expires"`  // keys with an expiry
}

func (s *Sums) add(o *Sums) {
	s.Keys += o.Keys
	s.Bytes += o.Bytes
	s.Memory += o.Memory
	s.Elements += o.Elements
	s.Expires += o.Expires
}

// A TypeRow is about the keys of a type.
type TypeRow struct {
	Type string `json:"type"` // as rdb.Type says it
	Sums
}

// A DBRow is about the keys of a database.
type DBRow struct {
	DB int `json:"db"`
	Sums
}

// An EncodingRow is about the values of an encoding.
type EncodingRow struct {
	kind     rdb.Type
	Type     string `json:"type"`
	Encoding string `json:"encoding"` // as rdb.ValueInfo says it
	Sums
}

// A PrefixRow is about the keys whose names begin alike.
type PrefixRow struct {
	Prefix string `json:"prefix"` // up to a separator and with it; at most 512 bytes; "" for the names without a separator
	Sums
	Missed int64 `json:"missed"` // at most as many bytes of memory are missing
}

// A KeyRow is one of the biggest keys.
type KeyRow struct {
	DB       int    `json:"db"`
	Key      string `json:"key"`     // the first 512 bytes
	KeyLen   int    `json:"key_len"` // of the whole name, in bytes
	Type     string `json:"type"`
	Encoding string `json:"encoding"`
	Bytes    int64  `json:"bytes"` // in the stream
	Memory   int64  `json:"memory"`
	Elements int64  `json:"elements"` // -1 if the encoding doesn't tell in passing
}

// A Bucket is a range of a histogram.
type Bucket struct {
	Name   string `json:"name"`
	Keys   int64  `json:"keys"`
	Memory int64  `json:"memory"`
}

type bucket struct{ keys, memory int64 }

func (b *bucket) add(memory int64) {
	b.keys++
	b.memory += memory
}

// The ranges of the histograms: each limit is above what belongs to the range of the same place, and the last has none.
var (
	expiryNames  = [...]string{"none", "expired", "<1h", "<1d", "<7d", "<30d", "<1y", "later"}
	expiryLimits = [...]int64{1, 3600_000, 24 * 3600_000, 7 * 24 * 3600_000, 30 * 24 * 3600_000, 365 * 24 * 3600_000} // milliseconds from now
	idleNames    = [...]string{"<1h", "<1d", "<7d", "<30d", "<1y", "longer"}
	idleLimits   = [...]int64{3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600, 365 * 24 * 3600} // seconds
	freqNames    = [...]string{"0", "1-5", "6-20", "21-50", "51-100", "101-200", "201-255"}    // a new key has 5
	freqLimits   = [...]int64{1, 6, 21, 51, 101, 201}
)

// below returns the place of the first limit that n is below.
func below(limits []int64, n int64) int {
	for i, limit := range limits {
		if n < limit {
			return i
		}
	}
	return len(limits)
}

func mergeBuckets(to, from []bucket) {
	for i := range to {
		to[i].keys += from[i].keys
		to[i].memory += from[i].memory
	}
}

// histogram returns nil if there is no key in it.
func histogram(names []string, buckets []bucket) []Bucket {
	var out []Bucket
	keys := int64(0)
	for i, b := range buckets {
		keys += b.keys
		out = append(out, Bucket{names[i], b.keys, b.memory})
	}
	if keys == 0 {
		return nil
	}
	return out
}

// Report returns what was seen so far. The result is the caller's.
func (i *Inspector) Report() *Report {
	r := &Report{
		Total: i.total, Types: []TypeRow{}, DBs: []DBRow{}, Encodings: slices.Clone(i.encodings), Prefixes: []PrefixRow{},
		Other: i.prefixes.other, Exact: !i.prefixes.full, Biggest: []KeyRow{},
		Expiry: histogram(expiryNames[:], i.expiry[:]),
		Idle:   histogram(idleNames[:], i.idle[:]),
		Freq:   histogram(freqNames[:], i.freq[:]),
	}
	for t, s := range i.types {
		if s.Keys > 0 {
			r.Types = append(r.Types, TypeRow{rdb.Type(t).String(), s})
		}
	}
	for db, s := range i.dbs {
		r.DBs = append(r.DBs, DBRow{db, *s})
	}
	for n := range i.prefixes.rows {
		p := &i.prefixes.rows[n]
		r.Prefixes = append(r.Prefixes, PrefixRow{string(p.name), p.Sums, p.missed})
	}
	keys := slices.Clone(i.top.keys)
	slices.SortFunc(keys, func(a, b topKey) int { return b.compare(&a) })
	for _, k := range keys {
		r.Biggest = append(r.Biggest, KeyRow{k.db, string(k.name), k.length, k.kind.String(), k.encoding, k.bytes, k.memory, k.elements})
	}
	slices.SortFunc(r.Types, func(a, b TypeRow) int { return cmp.Or(b.compare(&a.Sums), cmp.Compare(a.Type, b.Type)) })
	slices.SortFunc(r.DBs, func(a, b DBRow) int { return cmp.Compare(a.DB, b.DB) })
	slices.SortFunc(r.Encodings, func(a, b EncodingRow) int {
		return cmp.Or(b.compare(&a.Sums), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Encoding, b.Encoding))
	})
	slices.SortFunc(r.Prefixes, func(a, b PrefixRow) int {
		return cmp.Or(b.compare(&a.Sums), bytes.Compare([]byte(a.Prefix), []byte(b.Prefix)))
	})
	if r.Encodings == nil {
		r.Encodings = []EncodingRow{}
	}
	if r.Expiry == nil {
		r.Expiry = []Bucket{}
	}
	return r
}

// compare orders by memory, and then by keys.
func (s *Sums) compare(o *Sums) int {
	return cmp.Or(cmp.Compare(s.Memory, o.Memory), cmp.Compare(s.Keys, o.Keys))
}
