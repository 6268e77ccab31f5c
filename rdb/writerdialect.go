package rdb

import (
	"fmt"
	"math"
)

// The functions of this file say what streams of a dialect have a place for. Sources: rdb-format 1.3 and 3, dfs-format 2.5
// and 3.

// writable tells whether there is a Writer for the dialect.
func (d Dialect) writable() bool { return d.known() && (d.Family != Redis || d.Version >= 6) }

// magic returns what streams of the dialect begin with.
func (d Dialect) magic() []byte {
	if d.Family == Valkey {
		return fmt.Appendf(nil, "VALKEY%03d", d.Version)
	}
	return fmt.Appendf(nil, "REDIS%04d", d.Version)
}

// encodings returns what type bytes mean in streams that are written in the dialect.
func (d Dialect) encodings() *[256]encoding {
	switch {
	case d.Family == Valkey:
		return valkeyEncodings
	case d.Family == Redis && d.Version > maxDragonfly:
		return redisEncodings
	}
	return redisOldEncodings
}

// has tells whether a type byte means the same to servers that load the dialect as it does in streams of the given encodings.
//
// Values that use hash templates are left out: a server can load them, but not without the stream's template records.
func (d Dialect) has(from *[256]encoding, code uint8) bool {
	e := &from[code]
	if e.frame == frameNone || e.frame == frameTemplated || e.frame == frameTemplatedArr || e.since == 0 {
		return false
	}
	_, shared := sharedTypes[code]
	switch d.Family {
	case Valkey:
		return shared || from == valkeyEncodings
	case Dragonfly:
		switch {
		case code == 1 || code == 7 || code == 9 || code == 10 || code == 20:
			// 20 is its old JSON in a stream that says REDIS0009; of modules, see Convert.
			return false
		case shared:
			return true
		}
		return from == redisOldEncodings && code >= 30 && code <= 37
	}
	if !shared && (from == valkeyEncodings || from == redisOldEncodings && code >= 30 && code <= 37 || e.typ == TypeCron) {
		return false
	}
	return int(e.since) <= d.Version
}

// functions tells whether there are function libraries.
func (d Dialect) functions() bool { return d.Version >= 10 }

// keyMeta tells whether keys have metadata of modules.
func (d Dialect) keyMeta() bool { return d.Family == Redis && d.Version >= 13 }

// streamLevel returns which of the five layouts of streams is the newest, 0 if there are no streams.
func (d Dialect) streamLevel() int {
	switch {
	case d.Family != Redis || d.Version == 11 || d.Version == 12:
		return 3
	case d.Version < 9:
		return 0
	case d.Version == 9:
		return 1
	case d.Version == 10:
		return 2
	case d.Version == 13:
		return 4
	}
	return 5
}

// streamCode returns the type byte of a layout of streams.
func streamCode(level int) uint8 {
	return [...]uint8{codeStream1, codeStream2, codeStream3, codeStream4, codeStream5}[level-1]
}

// elementCode returns the encoding in which values of a type are written element by element, and whether it has a place for
// expiries of the elements' own, if that is asked for. There have to be such values in the dialect.
func (d Dialect) elementCode(t Type, expiry bool) (code uint8, expires bool) {
	switch t {
	case TypeList:
		if d.Family == Dragonfly {
			return codeQuicklist2, false
		}
		return codeList, false
	case TypeSet:
		if expiry && d.Family == Dragonfly {
			return codeExpireSet, true
		}
		return codeSet, false
	case TypeZSet:
		if d.Version < 8 {
			return codeZSetText, false
		}
		return codeZSet, false
	case TypeHash:
		if expiry {
			return d.expiryHash()
		}
		return codeHash, false
	case TypeStream:
		return streamCode(d.streamLevel()), false
	case TypeJSON:
		return codeJSON, false
	}
	return codeString, false
}

// lastExpiry returns the latest expiry of a field or member that servers of the dialect load, in Unix milliseconds.
func (d Dialect) lastExpiry() int64 {
	switch d.Family {
	case Redis:
		return maxFieldTTL
	case Dragonfly:
		return (math.MaxUint32 + dragonflyEpoch) * 1000 // seconds in 32 bits
	}
	return math.MaxInt64
}

// expiryHash returns the encoding of hashes whose fields expire; that of others if there is none.
func (d Dialect) expiryHash() (code uint8, ok bool) {
	switch {
	case d.Family == Valkey:
		return codeValkeyHash, true
	case d.Family == Dragonfly:
		return codeExpireHash, true
	case d.Version >= 12:
		return codeRedisHash, true
	}
	return codeHash, false
}
