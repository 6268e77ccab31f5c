package dragonfly

import (
	"cmp"
	"encoding/binary"
	"fmt"
)

// summary is what makes a DFS set of the flows: a stream without keys that says how many files there are. Flows have no ID in common as the files of a save
// do, and so it has none either. Seen with Dragonfly 1.40: it loads flows with such a summary.
func (sn *snapshot) summary() []byte {
	b := []byte("REDIS0009")
	for _, fact := range [][2]string{
		{"redis-ver", "6.2.11"}, // as Dragonfly's own do
		{"df-ver", cmp.Or(sn.facts.FullName, "df-unknown")},
	} {
		b = appendString(appendString(append(b, 0xfa), fact[0]), fact[1])
	}
	b = appendString(append(b, 0xfa), "shard-count")
	b = append(b, 0xc1) // a number of 16 bits
	b = binary.LittleEndian.AppendUint16(b, uint16(len(sn.spool.queues)))
	return append(b, 0xff, 0, 0, 0, 0, 0, 0, 0, 0)
}

// appendString appends a string of less than 64 bytes as streams have it, and what of a longer one fits.
func appendString(b []byte, s string) []byte {
	s = s[:min(len(s), 63)]
	return fmt.Appendf(append(b, byte(len(s))), "%s", s)
}
