package amber_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/catalogtest"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// A keeping is that a store had a backup, as a test knows it.
type keeping struct {
	id               catalog.ID
	dataStore, store string
	kind             catalog.Kind
	bytes            int64
	from, until      int64 // in Unix seconds
}

// history makes, copies and deletes backups at random moments of a clock, and remembers it.
type history struct {
	*amber.Service
	t     *testing.T
	r     *rand.Rand
	clock *catalogtest.Clock
	start time.Time
	first *memstore.Store
	far   *backup.Runner // deletes in that store alone
	all   []*keeping
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, r: rand.New(rand.NewPCG(seed, 6)), clock: catalogtest.NewClock(), first: memstore.New(nil)}
	h.clock.Advance(time.Date(2026, 11, 30, 23, 30, 0, 0, time.UTC).Sub(h.clock.Now())) // over the end of a month
	h.start = h.clock.Now()
	farStore := memstore.New(nil)
	farCatalog, err := storecatalog.New(storecatalog.Config{Store: farStore, Now: h.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if h.far, err = backup.NewRunner(backup.Config{Store: farStore, Catalog: farCatalog, Leaser: farCatalog, Now: h.clock.Now}); err != nil {
		t.Fatal(err)
	}
	if h.Service, err = amber.New(amber.Config{Store: h.first, Stores: []amber.NamedStore{{Name: "far", Store: farStore}}, Now: h.clock.Now}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *history) now() int64 { return h.clock.Now().Unix() }

// step does one thing.
func (h *history) step() {
	h.t.Helper()
	if h.r.IntN(5) > 0 {
		h.clock.Advance(time.Duration(h.r.Int64N(int64(10 * time.Minute))))
	}
	at := func(store string) (there []*keeping) {
		for _, k := range h.all {
			if k.store == store && k.until == 0 {
				there = append(there, k)
			}
		}
		return there
	}
	here, far := at(""), at("far")
	switch n := h.r.IntN(8); {
	case n < 3 || len(here) == 0:
		h.make()
	case n < 5: // copied, unless it is there
		k := here[h.r.IntN(len(here))]
		rep, err := h.CopyBackup(h.t.Context(), amber.CopyBackupRequest{Backup: k.id, To: "far"})
		if err != nil {
			h.t.Fatal(err)
		}
		if !rep.Existing {
			c := *k
			c.store, c.from = "far", h.now()
			for _, p := range rep.Backup.Parts { // also what is adopted here is its own there
				c.bytes = p.Size
			}
			h.all = append(h.all, &c)
		}
	case n < 6 && len(far) > 0:
		k := far[h.r.IntN(len(far))]
		if err := h.far.Delete(h.t.Context(), k.id); err != nil {
			h.t.Fatal(err)
		}
		k.until = h.now()
	default:
		id := here[h.r.IntN(len(here))].id
		if err := h.Delete(h.t.Context(), id); err != nil {
			h.t.Fatal(err)
		}
		h.deleted(id)
	}
}

func (h *history) make() {
	h.t.Helper()
	q := amber.ImportRequest{DataStore: []string{"orders", "invoices"}[h.r.IntN(2)], Key: "in/dump.rdb", Adopt: h.r.IntN(4) == 0}
	data := readFile(h.t, []string{someRDB, "rdb/testdata/redis-8.0.2/cluster.rdb"}[h.r.IntN(2)])
	if q.Adopt { // each its own, which stays as it is
		q.Key = fmt.Sprintf("in/dump-%d.rdb", len(h.all))
	}
	putFile(h.t, h.first, q.Key, data)
	var b *catalog.Backup
	var err error
	if h.r.IntN(2) == 0 {
		b, err = h.Import(h.t.Context(), q)
	} else {
		b, err = h.Backup(h.t.Context(), amber.BackupRequest{DataStore: q.DataStore, Snapshotter: dumpfile.Stream("dump.rdb", bytes.NewReader(data))})
	}
	if err != nil {
		h.t.Fatal(err)
	}
	k := &keeping{id: b.ID, dataStore: b.DataStore, kind: b.Kind, from: h.now()}
	for _, p := range b.Parts {
		if !p.Adopted {
			k.bytes += p.Size
		}
	}
	h.all = append(h.all, k)
}

func (h *history) deleted(id catalog.ID) {
	for _, k := range h.all {
		if k.id == id && k.until == 0 {
			k.until = h.now()
		}
	}
}

// count counts what every second of a period has.
func (h *history) count(from, until int64, dataStore string) (rows map[string]int64, total int64) {
	rows = map[string]int64{}
	for second := from; second < until; second++ {
		for _, k := range h.all {
			if k.bytes > 0 && k.from <= second && (k.until == 0 || second < k.until) && (dataStore == "" || k.dataStore == dataStore) {
				rows[fmt.Sprintf("%s %s %q", k.dataStore, k.kind, k.store)] += k.bytes
				total += k.bytes
			}
		}
	}
	return rows, total
}

// check compares the usage of a period with what is counted, and returns its sum.
func (h *history) check(from, until int64, dataStore string) *big.Int {
	h.t.Helper()
	u, err := h.Usage(h.t.Context(), amber.UsageRequest{From: time.Unix(from, 999), Until: time.Unix(until, 0), DataStore: dataStore})
	if err != nil {
		h.t.Fatal(err)
	}
	want, total := h.count(from, min(until, h.now()), dataStore)
	got := map[string]int64{}
	var bytes, backups int64
	for _, row := range u.Rows {
		if row.ByteSeconds.Big().Sign() > 0 {
			got[fmt.Sprintf("%s %s %q", row.DataStore, row.Kind, row.Store)] = row.ByteSeconds.Big().Int64()
		}
		bytes, backups = bytes+row.Bytes, backups+row.Backups
	}
	if !reflect.DeepEqual(got, want) || u.Total.ByteSeconds.Big().Int64() != total {
		h.t.Fatalf("from %d until %d, of %q: the usage is %v, in all %s, and by counting %v, in all %d\n%s", from, until, dataStore, got, u.Total.ByteSeconds, want, total, h)
	}
	for _, k := range h.all {
		if k.until == 0 && (dataStore == "" || k.dataStore == dataStore) {
			bytes, backups = bytes-k.bytes, backups-1
		}
	}
	if bytes != 0 || backups != 0 {
		h.t.Fatalf("now there are %d bytes and %d backups too many\n%s", bytes, backups, h)
	}
	return u.Total.ByteSeconds.Big()
}

func (h *history) String() string {
	var s strings.Builder
	for _, k := range h.all {
		fmt.Fprintf(&s, "%+v\n", *k)
	}
	return s.String()
}

// TestUsageOfRandomHistories: whatever was made, copied and deleted when, the usage of a period is what counting second by second gives, and that
// of two periods adds up to that of both.
func TestUsageOfRandomHistories(t *testing.T) {
	t.Parallel()
	histories := 40
	if os.Getenv("CAMPAIGN") != "" {
		histories = 5000
	}
	for seed := range histories {
		h := newHistory(t, uint64(seed))
		for range 5 + h.r.IntN(25) {
			h.step()
		}
		h.clock.Advance(time.Duration(h.r.Int64N(int64(time.Hour))))
		length := h.now() - h.start.Unix() + 100
		moment := func() int64 { return h.start.Unix() - 50 + h.r.Int64N(length) }
		for range 5 {
			at := []int64{moment(), moment(), moment()}
			slices.Sort(at)
			first, second, both := h.check(at[0], at[1], ""), h.check(at[1], at[2], ""), h.check(at[0], at[2], "")
			if first.Add(first, second).Cmp(both) != 0 {
				t.Fatalf("until %d and from then on there are %v byte-seconds, in all %v", at[1], first, both)
			}
		}
		h.check(h.start.Unix(), h.now(), "orders")
		h.check(h.start.Unix(), h.now()+1000, "")
	}
}

// A dyingStore makes so many more calls and then none: it is what a store sees of a process that is killed.
type dyingStore struct {
	*memstore.Store
	left *int
}

var errDead = errors.New("the process is dead")

func (d *dyingStore) dead() error {
	if *d.left--; *d.left < 0 {
		return errDead
	}
	return nil
}

func (d *dyingStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if err := d.dead(); err != nil {
		return nil, err
	}
	return d.Store.Create(ctx, key, opts)
}

func (d *dyingStore) Delete(ctx context.Context, key string) error {
	if err := d.dead(); err != nil {
		return err
	}
	return d.Store.Delete(ctx, key)
}

func (d *dyingStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	if err := d.dead(); err != nil {
		return func(yield func(storage.Info, error) bool) { yield(storage.Info{}, err) }
	}
	return d.Store.List(ctx, prefix)
}

// TestUsageOfKilledDeletions: a deletion that is killed at any call, and finished later by a sweep that is killed too, is billed once, until the second in which
// the backup was unlisted; so is a copy.
func TestUsageOfKilledDeletions(t *testing.T) {
	t.Parallel()
	for _, copied := range []bool{false, true} {
		killed, over := 0, false
		for n := 0; !over; n++ {
			h := newHistory(t, uint64(n))
			h.make()
			if copied {
				other := memstore.New(nil)
				from := h.first
				h.first = other
				service, err := amber.New(amber.Config{Store: other, Stores: []amber.NamedStore{{Name: "from", Store: from}}, Now: h.clock.Now})
				if err != nil {
					t.Fatal(err)
				}
				h.clock.Advance(90*time.Second + 300*time.Millisecond)
				rep, err := service.CopyBackup(t.Context(), amber.CopyBackupRequest{Backup: h.all[0].id})
				if err != nil {
					t.Fatal(err)
				}
				h.all[0].from, h.all[0].bytes = h.now(), rep.Backup.Parts[0].Size
			}
			h.clock.Advance(time.Hour + 300*time.Millisecond)
			deleted := h.now()
			left := n
			for _, end := range []func(s *amber.Service) error{
				func(s *amber.Service) error { return s.Delete(t.Context(), h.all[0].id) },
				func(s *amber.Service) error { _, err := s.Sweep(t.Context(), 0); return err },
			} {
				dying, err := amber.New(amber.Config{Store: &dyingStore{h.first, &left}, Now: h.clock.Now})
				if err != nil {
					t.Fatal(err)
				}
				err = end(dying)
				over = err == nil
				calm, err := amber.New(amber.Config{Store: h.first, Now: h.clock.Now})
				if err != nil {
					t.Fatal(err)
				}
				h.Service = calm
				if b, err := calm.Get(t.Context(), h.all[0].id); err != nil || b.State != catalog.StateReady {
					h.all[0].until = deleted
				}
				h.clock.Advance(time.Hour)
				h.check(h.start.Unix(), h.now(), "")
				if over {
					break
				}
				killed++
				left = n / 2 // of the sweep
			}
			if _, err := h.Sweep(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			h.check(h.start.Unix(), h.now(), "")
		}
		if killed < 8 {
			t.Errorf("only %d were killed", killed)
		}
	}
}

// TestUsageOfKilledCopies: a copy that is killed at any call, and made again an hour later, is billed from when it was there, and not from when it was tried.
func TestUsageOfKilledCopies(t *testing.T) {
	t.Parallel()
	killed, over := 0, false
	for n := 0; !over; n++ {
		h := newHistory(t, uint64(n))
		h.make()
		from, to := h.first, memstore.New(nil)
		copied := func(store storage.Store) (*amber.CopyBackupReport, error) {
			t.Helper()
			s, err := amber.New(amber.Config{Store: store, Stores: []amber.NamedStore{{Name: "from", Store: from}}, Now: h.clock.Now})
			if err != nil {
				t.Fatal(err)
			}
			return s.CopyBackup(t.Context(), amber.CopyBackupRequest{Backup: h.all[0].id})
		}
		h.clock.Advance(time.Hour + 300*time.Millisecond)
		tried := h.now()
		left := n
		_, err := copied(&dyingStore{to, &left})
		if over = err == nil; !over {
			killed++
		}
		h.clock.Advance(time.Hour)
		h.all[0].from = h.now()
		rep, err := copied(to)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Existing {
			h.all[0].from = tried
		}
		h.all[0].bytes = rep.Backup.Parts[0].Size
		h.clock.Advance(time.Hour)
		if h.Service, err = amber.New(amber.Config{Store: to, Now: h.clock.Now}); err != nil {
			t.Fatal(err)
		}
		h.check(h.start.Unix(), h.now(), "")
		if err := h.Delete(t.Context(), h.all[0].id); err != nil {
			t.Fatal(err)
		}
		h.deleted(h.all[0].id)
		h.check(h.start.Unix(), h.now()+100, "")
	}
	if killed < 8 {
		t.Errorf("only %d were killed", killed)
	}
}

// TestUsageOfClockAhead: what somebody has made whose clock is an hour ahead is there, and what they have deleted isn't; neither has a time yet.
func TestUsageOfClockAhead(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 1)
	ahead := func() time.Time { return h.clock.Now().Add(time.Hour) }
	other, err := amber.New(amber.Config{Store: h.first, Now: ahead})
	if err != nil {
		t.Fatal(err)
	}
	first, second := keep(t, other, readFile(t, someRDB)), keep(t, other, readFile(t, someRDB))
	h.clock.Advance(time.Minute)
	if err := other.Delete(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	u, err := h.Usage(t.Context(), amber.UsageRequest{})
	if err != nil || u.Total.Backups != 1 || u.Total.Bytes != second.StoredBytes || u.Total.ByteSeconds.String() != "0" {
		t.Errorf("%+v, %v", u, err)
	}
}

// TestUsagePeriods: which period a request means, and which are refused.
func TestUsagePeriods(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 22, 17, 0, 999, time.UTC)
	s, err := amber.New(amber.Config{Store: memstore.New(nil), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	date := func(text string) time.Time {
		if text == "" {
			return time.Time{}
		}
		d, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	const atNow = "2026-11-23T22:17:00Z"
	for _, test := range []struct{ from, until, wantFrom, wantUntil string }{
		{"", "", "2026-11-01T00:00:00Z", atNow},
		{"", "2026-11-01T00:00:00Z", "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"},
		{"", "2026-03-31T23:00:00-02:00", "2026-04-01T00:00:00Z", "2026-04-01T01:00:00Z"},
		{"", "2027-03-31T23:00:00Z", "2026-11-01T00:00:00Z", atNow},
		{"2026-01-01T00:00:00.999Z", "", "2026-01-01T00:00:00Z", atNow},
		{"2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z", "2026-01-01T00:00:00Z", atNow},
		{"2028-01-01T00:00:00Z", "", atNow, atNow},
		{"2028-01-01T00:00:00Z", "2029-01-01T00:00:00Z", atNow, atNow},
		{"2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.9Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"},
	} {
		u, err := s.Usage(t.Context(), amber.UsageRequest{From: date(test.from), Until: date(test.until)})
		if err != nil || !u.From.Equal(date(test.wantFrom)) || !u.Until.Equal(date(test.wantUntil)) || !u.At.Equal(date(atNow)) || u.Rows == nil || len(u.Rows) != 0 {
			t.Errorf("from %q until %q: %+v, %v", test.from, test.until, u, err)
		}
	}
	for _, q := range []amber.UsageRequest{{From: now, Until: now.Add(-time.Second)}, {DataStore: "no such/name"}} {
		if u, err := s.Usage(t.Context(), q); err == nil || u != nil || !strings.Contains(err.Error(), "UsageRequest.") {
			t.Errorf("%+v: %+v, %v", q, u, err)
		}
	}
}

// TestUsageUnread: what can't be read is told, beside the usage of the rest.
func TestUsageUnread(t *testing.T) {
	t.Parallel()
	clock := catalogtest.NewClock()
	good, bad, plain := memstore.New(nil), memstore.New(nil), memstore.New(nil)
	inPlain, err := storecatalog.New(storecatalog.Config{Store: plain, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	s, err := amber.New(amber.Config{Store: good, Now: clock.Now, Stores: []amber.NamedStore{
		{Name: "bad", Store: bad}, {Name: "plain", Store: plain, Catalog: struct{ catalog.Catalog }{inPlain}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var lost *catalog.Backup
	for _, store := range []string{"", "bad", "bad", "plain"} {
		b, err := s.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Reader: bytes.NewReader(readFile(t, someRDB)), Store: store})
		if err != nil {
			t.Fatal(err)
		}
		if store == "bad" {
			lost = b
		}
	}
	clock.Advance(time.Hour)
	ofPeriod := amber.UsageRequest{}
	ofNow := amber.UsageRequest{From: clock.Now(), Until: clock.Now()}
	u, err := s.Usage(t.Context(), ofNow)
	if err != nil || u.Total.Backups != 4 || len(u.Rows) != 3 {
		t.Errorf("what there is now: %+v, %v", u, err)
	}
	u, err = s.Usage(t.Context(), ofPeriod)
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "store plain") || errors.Is(err, catalog.ErrCorrupt) || u.Total.Backups != 4 {
		t.Errorf("of a catalog that is no ledger: %+v, %v", u, err)
	}
	putFile(t, bad, lost.Prefix()+"manifest.json", []byte("{}"))
	u, err = s.Usage(t.Context(), ofNow)
	if !errors.Is(err, catalog.ErrCorrupt) || !strings.Contains(err.Error(), "store bad") || !strings.Contains(err.Error(), string(lost.ID)) || u.Total.Backups != 3 {
		t.Errorf("with a manifest that can't be read: %+v, %v", u, err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Usage(cancelled, ofPeriod); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestByteSeconds: sums of any size are exact, and read for people.
func TestByteSeconds(t *testing.T) {
	t.Parallel()
	number := func(text string) (b amber.ByteSeconds) {
		if err := b.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for text, want := range map[string]string{
		"0":             "0.000000",
		"1932735":       "0.000000", // half of a millionth is 1932735.2832
		"1932736":       "0.000001",
		"3865470566400": "1.000000",
		"3865470566399": "1.000000",
		"9663676416000": "2.500000",
		"340282366920938463463374607431768211456": "88031291682515930659493278.151111", // 2^128
	} {
		if got := number(text); got.GiBHours() != want || got.String() != text {
			t.Errorf("%s byte-seconds are %s GiB-hours, and as text %s; want %s", text, got.GiBHours(), got, want)
		}
	}
	// A year of a pebibyte, and the most that one backup can have for a thousand years, many times.
	huge := amber.ByteSeconds{}
	one := number(new(big.Int).Mul(big.NewInt(math.MaxInt64), big.NewInt(365*86400*1000)).String())
	for range 1000 {
		huge = huge.Plus(one)
	}
	if want := new(big.Int).Mul(one.Big(), big.NewInt(1000)); huge.Big().Cmp(want) != 0 || huge.String() != want.String() {
		t.Errorf("the sum is %s, want %s", huge, want)
	}
	data, err := json.Marshal(amber.Usage{Total: amber.UsageRow{ByteSeconds: huge}})
	var back amber.Usage
	if err != nil || json.Unmarshal(data, &back) != nil || back.Total.ByteSeconds.String() != huge.String() || !strings.Contains(string(data), `"byteSeconds":"`+huge.String()+`"`) {
		t.Errorf("as JSON: %s, %v", data, err)
	}
	changed := huge.Big()
	changed.SetInt64(1)
	if huge.String() == "1" {
		t.Error("a number can be changed by what Big returns")
	}
	for _, text := range []string{"", "-1", "1.5", "x", "0x10"} {
		var b amber.ByteSeconds
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %s", text, b)
		}
	}
}

// TestUsageBy: rows are summed up by what is asked for, in order.
func TestUsageBy(t *testing.T) {
	t.Parallel()
	row := func(dataStore, kind, store string, n int64) amber.UsageRow {
		var b amber.ByteSeconds
		if err := b.UnmarshalText(fmt.Append(nil, n*3600<<30)); err != nil {
			t.Fatal(err)
		}
		return amber.UsageRow{DataStore: dataStore, Kind: catalog.Kind(kind), Store: store, Backups: n, Bytes: 10 * n, ByteSeconds: b}
	}
	u := amber.Usage{Rows: []amber.UsageRow{row("a", "manual", "", 1), row("a", "manual", "far", 2), row("a", "safety", "far", 4), row("b", "manual", "far", 8)}}
	tell := func(rows []amber.UsageRow) string {
		var s []string
		for _, r := range rows {
			s = append(s, fmt.Sprintf("%s/%s/%s %d %d %s", r.DataStore, r.Kind, r.Store, r.Backups, r.Bytes, r.GiBHours))
		}
		return strings.Join(s, ", ")
	}
	for got, want := range map[string]string{
		tell(u.By(true, false, false)):  "a// 7 70 7.000000, b// 8 80 8.000000",
		tell(u.By(false, true, false)):  "/manual/ 11 110 11.000000, /safety/ 4 40 4.000000",
		tell(u.By(false, false, true)):  "// 1 10 1.000000, //far 14 140 14.000000",
		tell(u.By(false, false, false)): "// 15 150 15.000000",
	} {
		if got != want {
			t.Errorf("By gives %s, want %s", got, want)
		}
	}
}
