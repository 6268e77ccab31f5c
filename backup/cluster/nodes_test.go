package cluster

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
)

const (
	idA = "07c37dfeb235213a872192d90877d0cd55635b91"
	idB = "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1"
	idC = "292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f"
)

// What servers of all ages answer to CLUSTER NODES.
func TestParseNodes(t *testing.T) {
	for _, test := range []struct {
		line, asked, addr string
		slots             string
	}{
		{"127.0.0.1:30001 myself,master - 0 0 1 connected 0-5460", "127.0.0.1:30001", "127.0.0.1:30001", "[{0 5460}]"}, // Redis 3.0
		{":30001@31001 myself,master - 0 0 1 connected 7 9-10", "db.example:30001", "db.example:30001", "[{7 7} {9 10}]"},
		{"10.0.0.1:30001@31001,host.example,tls-port=0,shard-id=x myself,master - 0 0 1 connected", "a:1", "10.0.0.1:30001", "[]"},
		{":30001@31001,host.example myself,master - 0 0 1 connected", "a:1", "host.example:30001", "[]"},
		{"2001:db8::1:30001@31001 myself,master - 0 0 1 connected 16383", "a:1", "[2001:db8::1]:30001", "[{16383 16383}]"},
		{"?:30001@31001 myself,master - 0 0 1 connected", "[::1]:5", "[::1]:30001", "[]"},
	} {
		v, err := parseNodes(idA+" "+test.line+"\n\n", test.asked)
		if err != nil {
			t.Errorf("%s: %v", test.line, err)
			continue
		}
		if v.self.addr != test.addr || fmt.Sprint(v.self.slots) != test.slots || !v.self.isPrimary || v.self.epoch != 1 {
			t.Errorf("%s: %+v, want %s with %s", test.line, v.self, test.addr, test.slots)
		}
	}
	v, err := parseNodes(strings.Join([]string{
		idA + " a:1@2 myself,master - 0 0 5 connected 5-9 0-3 [93->-" + idB + "] [77-<-" + idC + "]",
		idB + " b:1@2 master,fail - 0 0 6 disconnected 4 10-16383",
		idC + " c:1@2 slave " + idB + " 0 0 6 connected",
	}, "\n"), "a:1")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"slot 93 is on its way from " + idA + " at a:1 to " + idB, "slot 77 is on its way from " + idC + " to " + idA + " at a:1"}; !slices.Equal(v.moving, want) {
		t.Errorf("on their way are %q", v.moving)
	}
	if b, c := v.members[idB], v.members[idC]; !b.failed || v.self.failed || c.isPrimary || c.primary != idB || !slices.Equal(v.shard(idB), []string{"b:1", "c:1"}) {
		t.Errorf("%+v, %+v, %v", b, c, v.shard(idB))
	}
	if got := fmt.Sprint(v.owners()); got != fmt.Sprintf("[{{0 3} %s} {{4 4} %s} {{5 9} %s} {{10 16383} %s}]", idA, idB, idA, idB) {
		t.Errorf("owners %s", got)
	}
	// Addresses for clients, where CLUSTER SLOTS has them.
	bulk := func(s string) resp.Reply { return resp.Reply{Kind: resp.Bulk, Text: s} }
	entry := func(host, id string, port int64) resp.Reply {
		return resp.Reply{Kind: resp.Array, Elems: []resp.Reply{bulk(host), {Kind: resp.Integer, Int: port}, bulk(id)}}
	}
	v.addressAs(resp.Reply{Elems: []resp.Reply{{Elems: []resp.Reply{{Int: 0}, {Int: 3}, entry("", idA, 9), entry("?", idB, 9), entry("c.example", idC, 9), {}, entry("x", "nobody", 9)}}, {}}})
	if v.self.addr != "a:9" || v.members[idB].addr != "b:1" || v.members[idC].addr != "c.example:9" {
		t.Errorf("%s, %s, %s", v.self.addr, v.members[idB].addr, v.members[idC].addr)
	}
	for _, bad := range []string{"", "x", idA + " a:1 myself,master - 0 0 1", idA + " a myself,master - 0 0 1 connected", idA + " a:1 myself,master - 0 0 x connected",
		idA + " a:1 myself,master - 0 0 1 connected 5-4", idA + " a:1 myself,master - 0 0 1 connected 16384", idA + " a:1 myself,master - 0 0 1 connected [5->-x",
		idA + " a:1 myself,master - 0 0 1 connected -1", idA + " a:1 master - 0 0 1 connected 5"} {
		if _, err := parseNodes(bad, "a:1"); !errors.Is(err, resp.ErrProtocol) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParseJobs(t *testing.T) {
	bulk := func(words ...string) (r resp.Reply) {
		for _, w := range words {
			r.Elems = append(r.Elems, resp.Reply{Kind: resp.Bulk, Text: w})
		}
		return r
	}
	v := &view{addr: "a:1", jobs: make(map[string]job)}
	v.parseJobs(resp.Reply{Elems: []resp.Reply{
		bulk("name", "one", "operation", "IMPORT", "slot_ranges", "5-9 12-12", "target_node", "B", "source_node", "A", "state", "snapshotting"),
		bulk("id", "two", "slots", "7-7", "source", "A", "dest", "B", "operation", "migrate", "state", "completed"),
		bulk("name", "three", "slot_ranges", "1-1", "state", "cancelled"),
		bulk("state", "x"), {},
	}})
	want := map[string]job{
		"one":   {`slots 5-9 12-12: a migration from A to B is in state "snapshotting" at a:1`, true},
		"two":   {`slots 7-7: a migration from A to B is in state "completed" at a:1`, false},
		"three": {`slots 1-1: a migration from  to  is in state "cancelled" at a:1`, false},
	}
	if !reflect.DeepEqual(v.jobs, want) {
		t.Errorf("%+v", v.jobs)
	}
}

func ranges(n ...int) (out []catalog.SlotRange) {
	for i := 0; i < len(n); i += 2 {
		out = append(out, catalog.SlotRange{First: n[i], Last: n[i+1]})
	}
	return out
}

func TestNames(t *testing.T) {
	for want, r := range map[string][]catalog.SlotRange{
		"slot 5":       ranges(5, 5),
		"slots 5-6":    ranges(5, 6),
		"slots 5, 7-9": ranges(5, 5, 7, 9),
		"slots 0, 2, 4, 6, 8, 10, 12, 14 and 2 more ranges": ranges(0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14, 16, 16, 18, 18),
	} {
		if got := name(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What counts as a move of slots, and what as a failover.
func TestMoved(t *testing.T) {
	shard := func(id string, epoch int64, r ...int) *shardLayout {
		return &shardLayout{id: id, addr: "at-" + id, epoch: epoch, slots: ranges(r...)}
	}
	start := &layout{shards: []*shardLayout{shard("A", 1, 0, 99), shard("B", 2, 100, 16383)}, jobs: map[string]job{"old": {"an old one", false}}}
	for _, test := range []struct {
		what string
		now  []*shardLayout
		jobs map[string]job
		want string
	}{
		{"nothing", []*shardLayout{shard("A", 1, 0, 99), shard("B", 2, 100, 16383)}, map[string]job{"old": {"an old one", false}}, ""},
		{"a failover", []*shardLayout{shard("C", 3, 0, 99), shard("B", 2, 100, 16383)}, nil, ""},
		{"one slot", []*shardLayout{shard("A", 1, 0, 98), shard("B", 3, 99, 16383)}, nil, "slot 99 left A at at-A; slot 99 came to B at at-B"},
		{"a failover and a slot", []*shardLayout{shard("C", 3, 0, 98), shard("B", 4, 99, 16383)}, nil, "slot 99 left A at at-A; slot 99 came to B at at-B"},
		{"all slots to another shard", []*shardLayout{shard("B", 4, 0, 16383)}, nil, "slots 100-16383 came to B at at-B; slots 0-99 came to B at at-B"},
		{"there and back", []*shardLayout{shard("A", 5, 0, 99), shard("B", 2, 100, 16383)}, nil, "A at at-A has another epoch than before with the same slots, as if some had left and come back: 5 instead of 1"},
		{"a migration that ended", []*shardLayout{shard("A", 1, 0, 99), shard("B", 2, 100, 16383)}, map[string]job{"new": {"a new one", false}}, "a new one"},
	} {
		if got := moved(start, &layout{shards: test.now, jobs: test.jobs}); got != test.want {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

// A replica's snapshot that is older than what was known of the slots is not taken.
func TestFresh(t *testing.T) {
	sh := &shard{layout: &shardLayout{replID: "x", offset: 100}}
	for src, stale := range map[[2]any]bool{{"x", 100}: false, {"x", 99}: true, {"y", 5}: false, {"", 0}: false} {
		err := sh.fresh(catalog.Source{ReplicationID: src[0].(string), ReplicationOffset: int64(src[1].(int))})
		if (err != nil) != stale {
			t.Errorf("%v: %v", src, err)
		}
	}
}
