package dflymaster

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"

	"github.com/amberkv/amber/internal/lz4frame"
)

// The opcodes that flows are made of besides keys, as in Dragonfly's format.
const (
	opSyncEnd       = 0xc8
	opLZ4           = 0xca
	opJournal       = 0xd2
	opJournalOffset = 0xd3
	opAux           = 0xfa
	opSelectDB      = 0xfe
	opEOF           = 0xff
)

// SyncEnd is the record that ends the static part of a flow.
func SyncEnd() []byte { return append([]byte{opSyncEnd}, make([]byte, 8)...) }

// End is what a flow ends with, before its token: its position in the journal, the end of the stream and eight zeros.
func End(lsn uint64) []byte {
	b := binary.LittleEndian.AppendUint64([]byte{opJournalOffset}, lsn)
	return append(append(b, opEOF), make([]byte, 8)...)
}

// FlowOf makes a flow of a shard's file, which ends with its byte 255 and the eight behind that: padding is the caller's to remove. What says
// to which set of files it belongs is left out, for flows don't.
func FlowOf(shard []byte, keys int64) Flow {
	static := slices.Clone(shard[:len(shard)-9])
	const id = "snapshot-id" // the first fact in a file: a name, and 32 digits
	if head := fmt.Appendf([]byte{opAux, byte(len(id))}, "%s%c", id, 32); len(static) > 9+len(head)+32 && string(static[9:9+len(head)]) == string(head) {
		static = slices.Delete(static, 9, 9+len(head)+32)
	}
	return Flow{Static: append(static, SyncEnd()...), Final: End(1), Keys: keys}
}

// Keys makes the flows of so many shards, with so many keys each, of database 0: "key:<shard>:<number>", strings.
func Keys(shards, each int) []Flow {
	var out []Flow
	for i := range shards {
		b := Head(i, shards)
		for k := range each {
			b = append(b, 0)
			b = String(b, fmt.Sprintf("key:%d:%d", i, k))
			b = String(b, fmt.Sprintf("value %d of shard %d", k, i))
		}
		out = append(out, FlowOf(append(b, End(0)[9:]...), int64(each)))
	}
	return out
}

// Head is how the stream of a shard begins, up to and including the choice of database 0.
func Head(shard, shards int) []byte {
	b := []byte("REDIS0009")
	aux := func(name, value string) {
		b = append(b, opAux)
		b = String(String(b, name), value)
	}
	aux("redis-ver", "6.2.11")
	aux("df-ver", "df-v1.40.0")
	aux("redis-bits", "64")
	aux("ctime", "1795476591")
	aux("used-mem", "6104198")
	aux("aof-preamble", "0")
	if shard == 0 {
		aux("shard-count", strconv.Itoa(shards))
		aux("table-mem", "4096")
	}
	aux("shard-id", strconv.Itoa(shard))
	return append(b, opSelectDB, 0)
}

// Journal is a record of a command that was executed meanwhile. The first of args is its name.
func Journal(db int, txid uint64, args ...string) []byte {
	total := 0
	for _, a := range args {
		total += len(a)
	}
	entry := length(length([]byte{6}, uint64(db)), 10)
	entry = length(length(entry, txid), 1)
	entry = length(length(entry, uint64(len(args))), uint64(total))
	for _, a := range args {
		entry = append(length(entry, uint64(len(a))), a...)
	}
	return append(length(length([]byte{opJournal}, 1), uint64(len(entry))), entry...)
}

// Block puts whole records into a compressed block.
func Block(records []byte) []byte {
	var e lz4frame.Encoder
	frame := e.Append(nil, records)
	return append(length([]byte{opLZ4}, uint64(len(frame))), frame...)
}

// String appends a string as streams have it.
func String(b []byte, s string) []byte { return append(length(b, uint64(len(s))), s...) }

// length appends a length.
func length(b []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(n)|1<<14)
	case bits.Len64(n) <= 32:
		return binary.BigEndian.AppendUint32(append(b, 0x80), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0x81), n)
}
