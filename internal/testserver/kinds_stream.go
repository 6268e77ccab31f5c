package testserver

import (
	"fmt"
	"strconv"
)

// entries adds n entries with ascending IDs and returns the IDs. Some have other fields than the first, so that both
// forms of an entry in a node occur; several share a millisecond.
func (g *generator) entries(key string, n int) []string {
	ids := make([]string, n)
	at, seq := g.stamp(), int64(0)
	for i := range n {
		if g.random.IntN(4) == 0 {
			seq++
		} else {
			at, seq = at+1+g.random.Int64N(5000), 0
		}
		ids[i] = fmt.Sprintf("%d-%d", at, seq)
		args := []any{"XADD", key, ids[i], "temperature", g.random.IntN(40), "note", g.text(g.random.IntN(50))}
		if i%7 == 3 {
			args = append(args, "extra", g.noise(10))
		}
		g.do(args...)
	}
	return ids
}

func (g *generator) stream(key string) { g.entries(key, g.n()) }

// streamGroups makes a stream with groups that are behind by different amounts and consumers with pending entries.
func (g *generator) streamGroups(key string) {
	ids := g.entries(key, 3+g.n())
	g.do("XGROUP", "CREATE", key, "from-start", "0")
	g.do("XGROUP", "CREATE", key, "at-end", "$")
	g.do("XGROUP", "CREATE", key, "half", ids[len(ids)/2], "ENTRIESREAD", len(ids)/2+1)
	g.do("XGROUP", "CREATECONSUMER", key, "half", "idle")
	g.pending(key, "half", ids[:len(ids)/2+1])
}

// pending gives some entries to two consumers. XCLAIM is used, because with it the time of delivery can be chosen.
func (g *generator) pending(key, group string, ids []string) {
	for i, id := range ids {
		if i == 0 || g.random.IntN(2) == 0 {
			g.do("XCLAIM", key, group, "consumer-"+strconv.Itoa(i%2), 0, id,
				"TIME", g.stamp(), "RETRYCOUNT", 1+g.random.IntN(9), "FORCE", "JUSTID")
		}
	}
}

// streamDeleted makes a stream from which entries were deleted and trimmed, also ones that are pending still.
func (g *generator) streamDeleted(key string) {
	ids := g.entries(key, 8+g.n())
	g.do("XGROUP", "CREATE", key, "g", "0")
	g.pending(key, "g", ids[:4])
	g.do("XDEL", key, ids[1], ids[len(ids)-1])
	g.do("XTRIM", key, "MAXLEN", len(ids)-3)
}

// streamEmpty makes a stream without entries that remembers what it had.
func (g *generator) streamEmpty(key string) {
	ids := g.entries(key, 2)
	g.do("XDEL", key, ids[0], ids[1])
	g.do("XGROUP", "CREATE", key, "waiting", "$")
}
