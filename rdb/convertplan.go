package rdb

import "slices"

// plan returns how values of an encoding are converted, from a stream of dialect src, whose type bytes mean what from says.
func (o *ConvertOptions) plan(src Dialect, from *[256]encoding, to Dialect, code uint8) plan {
	e := &from[code]
	has := to.has(from, code)
	if has && to.Version < 8 && src.Version >= 8 {
		// Lengths of 64 bits are newer than the type.
		has = false
	}
	switch {
	case e.typ == TypeModule:
		return planModule
	case has && !(o.changesExpiry() && expiring(from, code)):
		return planCopy
	}
	switch e.typ {
	case TypeString, TypeSet, TypeZSet, TypeHash:
		return planElements
	case TypeList:
		if to.Family == Redis && to.Version >= 7 && (code == codeQuicklist || code == codeQuicklist2) {
			return planList
		}
		return planElements
	case TypeStream:
		if to.streamLevel() > 0 {
			return planStream
		}
	case TypeJSON:
		if slices.Contains(o.Modules, rejson.Name()) && to.Version >= 8 {
			return planJSON
		}
	}
	return planLose
}

// changesExpiry tells whether values don't keep the expiries that they carry.
func (o *ConvertOptions) changesExpiry() bool {
	return o.DropExpiry || o.ShiftExpiry.Milliseconds() != 0
}

// expiring tells whether fields or members of values of an encoding expire on their own.
func expiring(from *[256]encoding, code uint8) bool {
	switch from[code].frame {
	case frameHash2, frameHashTTL, frameHashTTLPre, framePackedTTL, frameTriples:
		return true
	case framePairs:
		return from[code].typ == TypeSet
	}
	return code == 23 // packed, by release candidates of Redis 7.4
}

// latestExpiry is as far as an expiry is shifted: servers that add something to it mustn't overflow either.
const latestExpiry = 1 << 62

// shift adds ShiftExpiry to an expiry.
func (o *ConvertOptions) shift(at int64) int64 {
	by := o.ShiftExpiry.Milliseconds()
	switch {
	case by == 0:
		return at
	case by > 0 && at > latestExpiry-by:
		return max(at, latestExpiry)
	case by < 0 && at < 1-by:
		return 1 // 0 and -1 mean that there is none
	}
	return max(at+by, 1)
}

// expire gives the key of an entry its expiry in the target, and tells whether it is left out for it.
func (o *ConvertOptions) expire(h *Entry) bool {
	if o.DropExpiry {
		h.HasExpiry, h.ExpireAt = false, 0
		return false
	}
	h.ExpireAt = o.shift(h.ExpireAt)
	return o.ExpiredAt != 0 && h.ExpireAt <= o.ExpiredAt && o.Commands == nil // a command may have given it longer to live
}

// Encodings returns the type bytes, in ascending order, that values of a type may have in a stream of dialect d that Convert makes
// of one of dialect from, whatever its options: those of values that pass untouched, and those of values that are encoded anew, with and without
// expiries of hash fields and set members. A server that loads one value of each loads all of them. It is nil if there can
// be no such values, or if d can't be written.
//
// Of TypeModule, it says whether the dialect has values of modules, not whether the module passes: see ConvertOptions.Modules.
// Dragonfly's JSON counts as TypeModule where it becomes the module's. What a stream says before anything in it is Dragonfly's own is
// not enough for from: see Reader.Dialect. Encodings that are newer than what their stream says, which no server writes, don't count.
func (d Dialect) Encodings(t Type, from Dialect) []uint8 {
	if !d.writable() || !from.known() && from.Family != Dragonfly { // whatever version a made-up stream says
		return nil
	}
	var there [256]bool
	table := from.encodings()
	anew := func(code uint8) {
		c, _ := d.elementCode(t, false)
		there[c] = true
		if expiring(table, code) {
			c, _ = d.elementCode(t, true)
			there[c] = true
		}
	}
	for i := range table {
		code := uint8(i)
		if table[code].typ != t || !from.writes(code) {
			continue
		}
		switch new(ConvertOptions).plan(from, table, d, code) {
		case planCopy:
			there[code] = true
			if expiring(table, code) {
				anew(code) // with another expiry
			}
		case planElements:
			anew(code)
		case planList:
			there[codeQuicklist] = true
		case planStream:
			there[streamCode(d.streamLevel())] = true
		case planModule:
			there[code] = int(table[code].since) <= d.Version
		}
	}
	var out []uint8
	for code, ok := range there {
		if ok {
			out = append(out, uint8(code))
		}
	}
	return out
}

// writes tells whether streams of the dialect may have values of an encoding.
func (d Dialect) writes(code uint8) bool {
	table := d.encodings()
	_, shared := sharedTypes[code]
	_, dragonflys := dragonflyTypes[code]
	switch {
	case table[code].frame == frameNone:
		return false
	case d.Family == Valkey:
		return true
	case d.Family == Dragonfly:
		return shared || dragonflys
	}
	return int(table[code].since) <= d.Version && !(dragonflys && table == redisOldEncodings)
}
