package command

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

func sid(ms, seq uint64) rdb.StreamID { return rdb.StreamID{MS: ms, Seq: seq} }

func xentry(ms uint64) rdb.Element {
	return rdb.Element{Kind: rdb.ElementEntry, ID: sid(ms, 1), Fields: [][]byte{[]byte("f"), []byte("v")}}
}

func xinfo(i rdb.StreamInfo) rdb.Element { return rdb.Element{Kind: rdb.ElementStream, Stream: i} }

func xpending(ms uint64, delivered, count int64) rdb.Element {
	return rdb.Element{Kind: rdb.ElementPending, ID: sid(ms, 1), Delivered: delivered, Count: count}
}

func xowned(ms uint64) rdb.Element { return rdb.Element{Kind: rdb.ElementOwned, ID: sid(ms, 1)} }

func xconsumer(name string, n int64) rdb.Element {
	return rdb.Element{Kind: rdb.ElementConsumer, Value: []byte(name), Count: n, Seen: 1, Active: 1}
}

func xgroup(name string, ms uint64, read, pending int64) rdb.Element {
	return rdb.Element{Kind: rdb.ElementGroup, Value: []byte(name), ID: sid(ms, 1), Read: read, Count: pending}
}

// full are the capabilities of Redis 7.0, for streams.
var full = capabilities{stream: true, createConsumer: true, xsetidFull: true, entriesRead: true}

func TestCommandsOfStreams(t *testing.T) {
	b := &rebuilder{caps: full, now: at(5000)}
	all := []rdb.Element{
		xentry(1), xentry(3), xentry(4),
		xinfo(rdb.StreamInfo{Length: 3, LastID: sid(9, 0), HasHistory: true, FirstID: sid(1, 1), MaxDeletedID: sid(8, 1), EntriesAdded: 7}),
		xgroup("g", 4, 6, 5), xpending(1, 100, 2), xpending(2, 100, 2), xpending(3, 100, 2), xpending(4, 200, 2), xpending(8, 1, 1),
		xconsumer("idle", 0), xconsumer("c", 3), xowned(1), xowned(2), xowned(3), xconsumer("d", 2), xowned(4), xowned(8),
		xgroup("h", 0, -1, 1), xpending(3, 6000, 1), xconsumer("c", 1), xowned(3),
	}
	wantCommands(t, commandsOf(t, b, rdb.TypeStream, all...),
		"XADD k 1-1 f v", "XADD k 3-1 f v", "XADD k 4-1 f v", "XSETID k 9-0 ENTRIESADDED 7 MAXDELETEDID 8-1",
		"XGROUP CREATE k g 4-1 ENTRIESREAD 6", "XGROUP CREATECONSUMER k g idle", "XGROUP CREATECONSUMER k g c",
		"XCLAIM k g c 0 1-1 3-1 TIME 100 RETRYCOUNT 2 JUSTID FORCE",
		"XGROUP CREATECONSUMER k g d", "XCLAIM k g d 0 4-1 TIME 200 RETRYCOUNT 2 JUSTID FORCE",
		"XGROUP CREATE k h 0-1", "XGROUP CREATECONSUMER k h c", "XCLAIM k h c 0 3-1 TIME 6000 RETRYCOUNT 1 JUSTID FORCE")
	// One entry of group h was delivered in the future, which no server believes.
	wantLost(t, b, loss{rdb.LossStreamTimes, 5}, loss{lossStreamPending, 2})

	b.caps = capabilities{stream: true}
	wantCommands(t, commandsOf(t, b, rdb.TypeStream, all...),
		"XADD k 1-1 f v", "XADD k 3-1 f v", "XADD k 4-1 f v", "XSETID k 9-0",
		"XGROUP CREATE k g 4-1", "XREADGROUP GROUP g idle COUNT 1 STREAMS k 0", "XREADGROUP GROUP g c COUNT 1 STREAMS k 0",
		"XCLAIM k g c 0 1-1 3-1 TIME 100 RETRYCOUNT 2 JUSTID FORCE",
		"XREADGROUP GROUP g d COUNT 1 STREAMS k 0", "XCLAIM k g d 0 4-1 TIME 200 RETRYCOUNT 2 JUSTID FORCE",
		"XGROUP CREATE k h 0-1", "XREADGROUP GROUP h c COUNT 1 STREAMS k 0", "XCLAIM k h c 0 3-1 TIME 6000 RETRYCOUNT 1 JUSTID FORCE")
	wantLost(t, b, loss{rdb.LossStreamCounts, 3}, loss{rdb.LossStreamTimes, 5}, loss{lossStreamPending, 2})
}

func TestStreamsThatNeedNoSetID(t *testing.T) {
	b := &rebuilder{caps: full}
	for _, i := range []rdb.StreamInfo{
		{Length: 1, LastID: sid(1, 1)},
		{Length: 1, LastID: sid(1, 1), HasHistory: true, FirstID: sid(1, 1), EntriesAdded: 1},
	} {
		wantCommands(t, commandsOf(t, b, rdb.TypeStream, xentry(1), xinfo(i)), "XADD k 1-1 f v")
		wantLost(t, b)
	}
	wantCommands(t, commandsOf(t, b, rdb.TypeStream, xentry(1), xinfo(rdb.StreamInfo{Length: 1, LastID: sid(2, 1)})), "XADD k 1-1 f v", "XSETID k 2-1")
	// What servers refuse, and no server writes.
	for _, i := range []rdb.StreamInfo{
		{LastID: sid(1, 0)},
		{LastID: sid(1, 1), HasHistory: true, EntriesAdded: 0},
		{LastID: sid(1, 1), HasHistory: true, EntriesAdded: 1 << 63},
		{LastID: sid(1, 1), HasHistory: true, EntriesAdded: 2, MaxDeletedID: sid(1, 2)},
	} {
		wantCommands(t, commandsOf(t, b, rdb.TypeStream, xentry(1), xinfo(i)), "XADD k 1-1 f v")
		wantLost(t, b, loss{rdb.LossStreamCounts, 1})
	}
}

func TestPendingEntriesWithoutOwnerGoToAConsumerOfTheirOwn(t *testing.T) {
	b := &rebuilder{caps: full, now: at(5000)}
	nacked := func(ms uint64) rdb.Element { return rdb.Element{Kind: rdb.ElementNacked, ID: sid(ms, 1)} }
	got := commandsOf(t, b, rdb.TypeStream,
		xentry(1), xentry(2), xentry(3), xinfo(rdb.StreamInfo{LastID: sid(3, 1)}),
		xgroup("g", 3, 3, 3), xpending(1, 7, 1), xpending(2, 7, 1), xpending(3, 7, 1), xconsumer("nacked+", 1), xowned(1), nacked(2), nacked(3),
		xgroup("h", 3, 3, 2), xpending(1, 7, 1), xpending(2, 7, 1), nacked(1))
	wantCommands(t, got[3:],
		"XGROUP CREATE k g 3-1 ENTRIESREAD 3", "XGROUP CREATECONSUMER k g nacked+", "XCLAIM k g nacked+ 0 1-1 TIME 7 RETRYCOUNT 1 JUSTID FORCE",
		"XGROUP CREATECONSUMER k g nacked++", "XCLAIM k g nacked++ 0 2-1 3-1 TIME 7 RETRYCOUNT 1 JUSTID FORCE",
		"XGROUP CREATE k h 3-1 ENTRIESREAD 3", "XGROUP CREATECONSUMER k h nacked", "XCLAIM k h nacked 0 1-1 TIME 7 RETRYCOUNT 1 JUSTID FORCE")
	// And one of group h belongs to nobody at all.
	wantLost(t, b, loss{rdb.LossStreamTimes, 1}, loss{rdb.LossStreamNacks, 4})
}

func TestWhatMakesAddingIdempotent(t *testing.T) {
	idmp := func(duration, size uint64) rdb.Element {
		return rdb.Element{Kind: rdb.ElementIDMP, Stream: rdb.StreamInfo{IDMPDuration: duration, IDMPMaxSize: size}}
	}
	produced := func(name string, ms uint64) rdb.Element {
		return rdb.Element{Kind: rdb.ElementProduced, Value: []byte(name), ID: sid(ms, 1)}
	}
	end := func(added, duplicates uint64) rdb.Element {
		return rdb.Element{Kind: rdb.ElementIDMPEnd, Stream: rdb.StreamInfo{IDMPAdded: added, IDMPDuplicates: duplicates}}
	}
	b := &rebuilder{caps: full}
	begin := []rdb.Element{xentry(1), xinfo(rdb.StreamInfo{LastID: sid(1, 1)})}
	all := append(begin, idmp(50, 60), rdb.Element{Kind: rdb.ElementProducer, Value: []byte("p"), Count: 2}, produced("i", 1), produced("j", 5), end(2, 1))
	wantCommands(t, commandsOf(t, b, rdb.TypeStream, append(slices.Clone(begin), idmp(100, 100), end(0, 0))...), "XADD k 1-1 f v")
	wantLost(t, b)
	wantCommands(t, commandsOf(t, b, rdb.TypeStream, all...), "XADD k 1-1 f v")
	wantLost(t, b, loss{rdb.LossStreamIDMP, 4})
	b.caps.xcfgset, b.caps.xidmprecord = true, true
	wantCommands(t, commandsOf(t, b, rdb.TypeStream, all...), "XADD k 1-1 f v", "XCFGSET k IDMP-DURATION 50 IDMP-MAXSIZE 60", "XIDMPRECORD k p i 1-1")
	wantLost(t, b, loss{rdb.LossStreamIDMP, 2})
}

func TestUnknownElementsOfStreamsAreErrors(t *testing.T) {
	b := &rebuilder{caps: full, emit: func([]byte) error { return nil }}
	if _, err := b.value([]byte("k"), entryOf(rdb.TypeStream), elements(rdb.Element{Kind: rdb.ElementItem})); err == nil || !strings.Contains(err.Error(), "kind item") {
		t.Error(err)
	}
}

// TestEmptyStreams makes streams without entries at every server.
func TestEmptyStreams(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := aim(t, version)
			for _, i := range []rdb.StreamInfo{
				{},
				{LastID: sid(5, 6)},
				{HasHistory: true},
				{HasHistory: true, LastID: sid(5, 6), MaxDeletedID: sid(5, 6), EntriesAdded: 9},
				{HasHistory: true, LastID: sid(1<<64-1, 1<<64-1), EntriesAdded: 1<<63 - 1},
			} {
				g.c.Del(t.Context(), "k")
				if err := g.make(rdb.TypeStream, elements(xinfo(i), xgroup("amber", 0, -1, 0), xconsumer("c", 0))); err != nil {
					t.Fatalf("%+v: %v", i, err)
				}
				wantLost(t, g.b, loss{rdb.LossStreamTimes, 1})
				got, err := g.c.XInfoStreamFull(t.Context(), "k", 0).Result()
				if err != nil || got.Length != 0 || got.LastGeneratedID != i.LastID.String() || got.MaxDeletedEntryID != i.MaxDeletedID.String() ||
					got.EntriesAdded != int64(i.EntriesAdded) || len(got.Groups) != 1 || got.Groups[0].Name != "amber" || len(got.Groups[0].Consumers) != 1 {
					t.Errorf("%+v: %+v (%v)", i, got, err)
				}
			}
		})
	}
}

// TestConsumersWithoutCreateConsumer makes consumers as it is done where XGROUP CREATECONSUMER is missing.
func TestConsumersWithoutCreateConsumer(t *testing.T) {
	for _, version := range testserver.All() {
		g := aim(t, version)
		g.b.caps.createConsumer = false
		err := g.make(rdb.TypeStream, elements(xentry(1), xentry(2), xinfo(rdb.StreamInfo{LastID: sid(2, 1)}),
			xgroup("g", 1, 1, 1), xpending(1, 100, 3), xconsumer("c", 1), xowned(1), xconsumer("d", 0)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := g.c.XInfoStreamFull(t.Context(), "k", 0).Result()
		if err != nil || len(got.Groups) != 1 || len(got.Groups[0].Consumers) != 2 || got.Groups[0].PelCount != 1 || got.Groups[0].LastDeliveredID != "1-1" ||
			got.Groups[0].Pending[0].DeliveryCount != 3 || got.Groups[0].Pending[0].DeliveryTime.UnixMilli() != 100 {
			t.Errorf("%s: %+v (%v)", version, got, err)
		}
	}
}

// TestPendingBeyondWhatIsRemembered makes a group with more pending entries than there is room for: each keeps its owner, those beyond the
// room have another time.
func TestPendingBeyondWhatIsRemembered(t *testing.T) {
	const n = 30000
	all := func(yield func(*rdb.Element, error) bool) {
		more := true
		give := func(e rdb.Element) {
			if more {
				more = yield(&e, nil)
			}
		}
		for i := range uint64(n) {
			give(xentry(i + 1))
		}
		give(xinfo(rdb.StreamInfo{LastID: sid(n, 1)}))
		give(xgroup("g", n, n, n))
		for i := range uint64(n) {
			give(xpending(i+1, int64(i)*1000, int64(i%7)+1))
		}
		for c := range uint64(3) {
			give(xconsumer(fmt.Sprint("c", c), n/3))
			for i := c; i < n; i += 3 {
				give(xowned(i + 1))
			}
		}
	}
	g := aim(t, "redis-8.0")
	g.b.stream.pending.limit, g.b.stream.live.limit = chunkSize, chunkSize
	if err := g.make(rdb.TypeStream, all); err != nil {
		t.Fatal(err)
	}
	lost := g.b.lost[0]
	if len(g.b.lost) != 1 || lost.kind != rdb.LossStreamTimes || lost.count < 5000 || lost.count > n-5000 {
		t.Fatalf("lost %v", g.b.lost)
	}
	exact := 0
	for c := range 3 {
		pending, err := g.c.XPendingExt(t.Context(), &redis.XPendingExtArgs{Stream: "k", Group: "g", Start: "-", End: "+", Count: n, Consumer: fmt.Sprint("c", c)}).Result()
		if err != nil || len(pending) < n/3 {
			t.Fatalf("%d pending (%v)", len(pending), err)
		}
		now := time.Now().UnixMilli()
		for j, p := range pending {
			i := c + 3*j
			if p.ID != fmt.Sprint(i+1, "-1") {
				t.Fatalf("entry %d of consumer %d is %s", j, c, p.ID)
			}
			if p.RetryCount == int64(i%7)+1 && now-p.Idle.Milliseconds()-int64(i)*1000 < 1000 {
				exact++
			}
		}
	}
	if missing := n + 3 - int(lost.count); exact != missing {
		t.Errorf("%d pending entries have their time and count, want %d", exact, missing)
	}
}

// TestIDTable holds the table against a map.
func TestIDTable(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, details := range []bool{false, true} {
		table := &idTable{limit: 1 << 20, details: details}
		for round := range 20 {
			table.clear()
			want := make(map[rdb.StreamID]record)
			var ids []rdb.StreamID
			id := sid(random.Uint64N(10), random.Uint64N(3))
			for range random.IntN(2000) {
				r := record{id: id}
				if details {
					r.delivered, r.count = int64(random.Uint64()), random.Int64()>>random.IntN(63)
				}
				want[id] = r
				ids = append(ids, id)
				table.add(r)
				if random.IntN(2) == 0 {
					id.Seq += 1 + random.Uint64N(1<<random.IntN(20))
				} else {
					id = sid(id.MS+1+random.Uint64N(1<<random.IntN(50)), random.Uint64()>>random.IntN(64))
				}
			}
			if table.n != len(ids) || table.full {
				t.Fatalf("%d records of %d, full %v", table.n, len(ids), table.full)
			}
			check := func(id rdb.StreamID) {
				r, ok := table.find(id)
				if w, there := want[id]; ok != there || ok && r != w {
					t.Fatalf("round %d: %v: %v, %v, want %v, %v", round, id, r, ok, w, there)
				}
			}
			for _, id := range ids {
				check(id)
				check(sid(id.MS, id.Seq+1))
			}
			for range len(ids) {
				id := ids[random.IntN(len(ids))]
				check(id)
				check(sid(id.MS, id.Seq-1))
				check(sid(id.MS+1, id.Seq))
			}
			check(sid(0, 0))
			check(sid(1<<64-1, 1<<64-1))
		}
	}
}

// TestStreamsOfManyPendingEntriesStayInBounds measures what a stream takes whose groups have more than is remembered.
func TestStreamsOfManyPendingEntriesStayInBounds(t *testing.T) {
	const n = 4_000_000
	stream := func() iter.Seq2[*rdb.Element, error] {
		return func(yield func(*rdb.Element, error) bool) {
			fields := [][]byte{[]byte("f"), []byte("v")}
			e := rdb.Element{Kind: rdb.ElementEntry, Fields: fields}
			for i := range uint64(n) {
				e.ID = sid(1_700_000_000_000+i*3, 0)
				yield(&e, nil)
			}
			e = xinfo(rdb.StreamInfo{LastID: e.ID})
			yield(&e, nil)
			e = xgroup("g", n, -1, n)
			yield(&e, nil)
			for i := range uint64(n) {
				e = rdb.Element{Kind: rdb.ElementPending, ID: sid(1_700_000_000_000+i*3, 0), Delivered: 1_700_000_000_000 + int64(i*7919%1_000_000), Count: 1}
				yield(&e, nil)
			}
			e = xconsumer("c", n)
			yield(&e, nil)
			for i := range uint64(n) {
				e = rdb.Element{Kind: rdb.ElementOwned, ID: sid(1_700_000_000_000+i*3, 0)}
				yield(&e, nil)
			}
		}
	}
	b := &rebuilder{caps: full, emit: func([]byte) error { return nil }}
	peak := peakOf(t, func() {
		if _, err := b.value([]byte("k"), entryOf(rdb.TypeStream), stream()); err != nil {
			t.Fatal(err)
		}
	}, b)
	t.Logf("%d commands, lost %v, at most %d bytes of heap", b.commands, b.lost, peak)
	if peak > maxLive+maxPending+8<<20 || b.lost[0].count < n/10 {
		t.Errorf("a stream took %d bytes, and lost %v", peak, b.lost)
	}
	if len(b.stream.live.chunks) > 1 || len(b.stream.pending.chunks) > 1 {
		t.Error("the memory of a large stream is kept")
	}
}
