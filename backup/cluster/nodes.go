package cluster

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
)

// slots is the number of hash slots of a cluster.
const slots = 16384

// A member is a node of the cluster as another, or itself, sees it.
type member struct {
	id      string // 40 hexadecimal digits
	addr    string // host:port, as clients are told it
	primary string // the id of the primary of a replica
	epoch   int64  // of its configuration: it grows when it gets slots, or is promoted
	slots   []catalog.SlotRange

	isPrimary, failed, mine bool
}

// A view is what one node says of its cluster.
type view struct {
	addr    string // that was asked
	self    *member
	members map[string]*member
	moving  []string // of its own slots, as sentences: those that are on their way by CLUSTER SETSLOT
	jobs    map[string]job

	replID string // of its replication, and how far it is
	offset int64
}

// A job is a migration of slots that a server does by itself: Valkey's since 9.0 and Redis' since 8.4.
type job struct {
	text   string
	active bool
}

// parseNodes reads the answer to CLUSTER NODES of the node at addr. The lines are "<id> <ip:port@cport,hostname,…> <flags> <primary> <ping> <pong>
// <epoch> <link> <slot> …", where a slot is "5", "5-9" or, at the node that is asked, "[5->-id]" and "[5-<-id]" for slots that leave and come.
func parseNodes(text, addr string) (*view, error) {
	v := &view{addr: addr, members: make(map[string]*member)}
	bad := func(what, line string) error {
		return fmt.Errorf("%w: CLUSTER NODES has %s in %.120q", resp.ErrProtocol, what, strings.TrimSpace(line))
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 8 {
			return nil, bad("too few words", line)
		}
		m := &member{id: f[0]}
		address, host, _ := strings.Cut(f[1], ",")
		address, _, _ = strings.Cut(address, "@")
		host, _, _ = strings.Cut(host, ",")
		colon := strings.LastIndexByte(address, ':')
		if colon < 0 {
			return nil, bad("no port", line)
		}
		if ip := address[:colon]; ip != "" {
			host = ip
		}
		m.addr = at(host, address[colon+1:], addr)
		for flag := range strings.SplitSeq(f[2], ",") {
			switch flag {
			case "myself":
				m.mine = true
			case "master":
				m.isPrimary = true
			case "fail":
				m.failed = true
			}
		}
		if f[3] != "-" {
			m.primary = f[3]
		}
		var err error
		if m.epoch, err = strconv.ParseInt(f[6], 10, 64); err != nil {
			return nil, bad("no epoch", line)
		}
		for _, word := range f[8:] {
			if inner, ok := strings.CutPrefix(word, "["); ok {
				if inner, ok = strings.CutSuffix(inner, "]"); !ok {
					return nil, bad("half a slot", line)
				}
				if slot, to, ok := strings.Cut(inner, "->-"); ok {
					v.moving = append(v.moving, fmt.Sprintf("slot %s is on its way from %s at %s to %s", slot, m.id, addr, to))
				} else if slot, from, ok := strings.Cut(inner, "-<-"); ok {
					v.moving = append(v.moving, fmt.Sprintf("slot %s is on its way from %s to %s at %s", slot, from, m.id, addr))
				}
				continue
			}
			r, ok := parseRange(word)
			if !ok {
				return nil, bad("an odd slot", line)
			}
			m.slots = append(m.slots, r)
		}
		slices.SortFunc(m.slots, byFirst)
		v.members[m.id] = m
		if m.mine {
			v.self = m
		}
	}
	if v.self == nil {
		return nil, fmt.Errorf("%w: CLUSTER NODES doesn't tell which node answers", resp.ErrProtocol)
	}
	return v, nil
}

func byFirst(a, b catalog.SlotRange) int { return cmp.Compare(a.First, b.First) }

// at makes the address of a node from what a node at another address says.
func at(host, port, asked string) string {
	if host == "" || host == "?" {
		if h, _, err := net.SplitHostPort(asked); err == nil {
			host = h
		}
	}
	return net.JoinHostPort(host, port)
}

// parseRange reads "5" or "5-9".
func parseRange(word string) (r catalog.SlotRange, ok bool) {
	a, b, both := strings.Cut(word, "-")
	if !both {
		b = a
	}
	var err1, err2 error
	r.First, err1 = strconv.Atoi(a)
	r.Last, err2 = strconv.Atoi(b)
	return r, err1 == nil && err2 == nil && 0 <= r.First && r.First <= r.Last && r.Last < slots
}

// addressAs takes the addresses from the answer to CLUSTER SLOTS, which has them as clients are meant to use them: a host name where that is preferred,
// and the port that speaks TLS to who does. Servers below 4.0 don't tell ids there.
func (v *view) addressAs(reply resp.Reply) {
	for _, r := range reply.Elems {
		for _, n := range r.Elems[min(2, len(r.Elems)):] {
			if len(n.Elems) < 3 {
				continue
			}
			m, host := v.members[n.Elems[2].Text], n.Elems[0].Text
			if m == nil || n.Elems[1].Int <= 0 || host == "?" { // a host name that is preferred and isn't known
				continue
			}
			m.addr = at(host, strconv.FormatInt(n.Elems[1].Int, 10), v.addr)
		}
	}
}

// parseJobs reads the answer to CLUSTER GETSLOTMIGRATIONS of Valkey or CLUSTER MIGRATION STATUS of Redis: a list of lists of names and values.
func (v *view) parseJobs(reply resp.Reply) {
	for _, e := range reply.Elems {
		f := make(map[string]string)
		for i := 0; i+1 < len(e.Elems); i += 2 {
			f[e.Elems[i].Text] = e.Elems[i+1].Text
		}
		name, ranges := cmp.Or(f["name"], f["id"]), cmp.Or(f["slot_ranges"], f["slots"])
		if name == "" {
			continue
		}
		from, to := cmp.Or(f["source_node"], f["source"]), cmp.Or(f["target_node"], f["dest"])
		j := job{text: fmt.Sprintf("slots %s: a migration from %s to %s is in state %q at %s", ranges, from, to, f["state"], v.addr)}
		switch f["state"] {
		case "success", "failed", "cancelled", "canceled", "completed":
		default:
			j.active = true
		}
		v.jobs[name] = j
	}
}

// An owned range of slots is one primary's; those with the id "" are nobody's.
type owned struct {
	catalog.SlotRange
	id string
}

// owners lists who has which slots, in ascending order and without gaps.
func (v *view) owners() []owned {
	var all []owned
	for _, m := range v.members {
		if m.isPrimary {
			for _, r := range m.slots {
				all = append(all, owned{r, m.id})
			}
		}
	}
	slices.SortFunc(all, func(a, b owned) int { return cmp.Or(byFirst(a.SlotRange, b.SlotRange), cmp.Compare(a.id, b.id)) })
	var out []owned
	next := 0
	add := func(first, last int, id string) {
		if n := len(out); n > 0 && out[n-1].id == id {
			out[n-1].Last = last
		} else if first <= last {
			out = append(out, owned{catalog.SlotRange{First: first, Last: last}, id})
		}
		next = last + 1
	}
	for _, o := range all {
		if o.First > next {
			add(next, o.First-1, "")
		}
		if o.Last >= next { // two that have the same one disagree with others, which is found then
			add(max(next, o.First), o.Last, o.id)
		}
	}
	if next < slots {
		add(next, slots-1, "")
	}
	return out
}

// of returns the slots of a primary in what owners returned.
func of(list []owned, id string) (out []catalog.SlotRange) {
	for _, o := range list {
		if o.id == id {
			out = append(out, o.SlotRange)
		}
	}
	return out
}

// differ returns the slots that have another owner in b than in a.
func differ(a, b []owned) []catalog.SlotRange {
	var out []catalog.SlotRange
	for i, j, next := 0, 0, 0; i < len(a) && j < len(b); {
		last := min(a[i].Last, b[j].Last)
		if a[i].id != b[j].id {
			if n := len(out); n > 0 && out[n-1].Last == next-1 {
				out[n-1].Last = last
			} else {
				out = append(out, catalog.SlotRange{First: next, Last: last})
			}
		}
		next = last + 1
		if a[i].Last == last {
			i++
		}
		if b[j].Last == last {
			j++
		}
	}
	return out
}

// maxNamed is how many ranges of slots, and how many sentences, are named in an error.
const maxNamed = 8

// name names slots: "slot 5", or "slots 5-9, 12 and 3 more ranges".
func name(ranges []catalog.SlotRange) string {
	var words []string
	for i, r := range ranges {
		if i == maxNamed {
			words[i-1] += fmt.Sprintf(" and %d more ranges", len(ranges)-i)
			break
		}
		if r.First == r.Last {
			words = append(words, strconv.Itoa(r.First))
		} else {
			words = append(words, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	if len(ranges) == 1 && ranges[0].First == ranges[0].Last {
		return "slot " + words[0]
	}
	return "slots " + strings.Join(words, ", ")
}
