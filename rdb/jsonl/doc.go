// Package jsonl writes what is in an RDB stream as JSON Lines: one object a key, to look at, to search and to compare.
//
//	{"db":0,"key":"greeting","type":"string","expire_ms":null,"value":"hello"}
//
// "type" is what the TYPE command answers, "expire_ms" the absolute expiry in Unix milliseconds, also one that has passed. Where the
// stream tells, "freq" (the logarithmic access frequency) or "idle" (seconds) go before "value".
//
// Byte strings are printable ASCII: a backslash is written \\, a byte outside of 0x20 to 0x7e \x and two digits in lower
// case, and that text is then a JSON string, in which JSON doubles each backslash. Two values are the same if and only if
// their text is.
//
//	type         value
//	string       the string
//	list         array of strings, in order
//	set          array of strings, sorted by that text; if members have an expiry (Dragonfly), array of [member, expiry or null]
//	zset         array of [member, score], sorted by score, then by the member's bytes; the score is the text that
//	             Redis since 7.2 and Valkey answer
//	hash         array of [field, value, expiry or null], sorted by the field's text
//	stream       object: entries ([id, [field, value, …]]), length, last-generated-id; since Redis 7.0 max-deleted-entry-id,
//	             entries-added, recorded-first-entry-id; groups: array of {name, last-delivered-id, entries-read, pel, consumers}, in
//	             which pel is an array of [id, consumer, delivery time, deliveries] and consumers of {name, seen-time, active-time,
//	             pel}, this pel of [id, delivery time, deliveries], both sorted by the name's text; since Redis 8.6 idmp-duration, idmp-maxsize, pids-tracked,
//	             iids-tracked, iids-added, iids-duplicates
//	json         the text of the document, as a string (Dragonfly)
//	array        array of [index, element] (Redis 8.8)
//	vectorset    object: card, dim, info, elements ([name, vector, attributes or null], sorted by the name's text); the vector's
//	             numbers are texts of what is stored, which for quantised vectors is near what VEMB answers
//	MBbloom--    object: info (what BF.INFO answers, as far as it is stored: of several filters, only the capacity of the last), error-rate, filters (hashes and data of each)
//	CMSk-TYPE    object: info (as CMS.INFO), counters
//	TopK-TYPE    object: info (as TOPK.INFO), list (item, count, …), counters
//	MBbloomCF    object: info (as CF.INFO), filters (data of each)
//
// A value of any other module has the module's name as type and is an object: module, version (of its encoding) and items:
// numbers, strings, and {"float": text} or {"double": text}. The values of rate limiters and cron jobs are an object
// with the bytes as they are in the stream: raw.
//
// All times are in Unix milliseconds; an active-time of -1 means never. What a stream doesn't tell is null. Members and fields that are past their expiry are
// written all the same: they are in the stream. What a value's order in the stream was can't be seen in sets and hashes, nor how it
// was encoded; so the lines of two streams with the same contents are the same once they are sorted.
//
// Not in the lines: functions, which are no keys, and facts about the server; the names of producers and their ids
// of a stream; the links of a vector set's graph; metadata that modules attached to keys; Dragonfly's flags.
//
// # Memory
//
// Values are streamed. What has to be sorted is held up to Options.MaxHeld, and beyond that sorted in a spool, as are the pending
// entries of a consumer group.
package jsonl
