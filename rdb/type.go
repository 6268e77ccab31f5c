package rdb

// A Type is what a value is to commands, however it is encoded.
type Type uint8

// The types of values.
const (
	TypeNone   Type = iota // of an entry that is no key
	TypeString             // also bitmaps and HyperLogLogs
	TypeList
	TypeSet
	TypeZSet // also geo indexes
	TypeHash
	TypeStream
	TypeModule // see Entry.Module
	TypeArray  // Redis 8.8
	TypeRate   // a GCRA rate limiter of Redis 8.10
	TypeCron   // KeyDB
	TypeJSON   // Dragonfly's own; the JSON module's is TypeModule
	TypeBloom  // Dragonfly, as all that follow
	TypeCMS
	TypeTopK
	TypeCuckoo

	typeCount = iota
)

var typeNames = [typeCount]string{
	"none", "string", "list", "set", "zset", "hash", "stream", "module", "array", "gcra", "cron",
	"json", "bloom", "cms", "topk", "cuckoo",
}

// String returns the name of the type, as the TYPE command gives it where there is one: "string", "list", "set",
// "zset", "hash", "stream", "module" and so on.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return "unknown"
}

// A ModuleID names the type of a module's values: nine characters and the version of their encoding.
type ModuleID uint64

// Name returns the nine characters, such as "vectorset" or "ReJSON-RL".
func (id ModuleID) Name() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var name [9]byte
	for i := range name {
		name[i] = alphabet[id>>(64-6*(i+1))&63]
	}
	return string(name[:])
}

// Version returns the version of the encoding, 0 to 1023.
func (id ModuleID) Version() int { return int(id & 1023) }

// A frame says how the bytes of a value follow each other, which is all that it takes to skip or copy it. Values of
// one frame may mean very different things.
type frame uint8

const (
	frameNone         frame = iota // nothing is left to read
	frameString                    // one string
	frameStrings                   // n, n strings
	framePairs                     // n, n times two strings
	frameTriples                   // n, n times three strings
	frameZSet                      // n, n × (string, ASCII double)
	frameZSet2                     // n, n × (string, 8 bytes)
	frameQuicklist2                // n, n × (length, string)
	frameHashTTL                   // int64, n, n × (length, string, string)
	frameHashTTLPre                // n, n × (length, string, string)
	frameHash2                     // n, n × (string, string, 8 bytes)
	framePackedTTL                 // int64, string
	frameStream1                   // the five layouts of streams, in order: each adds to the one before
	frameStream2                   //
	frameStream3                   //
	frameStream4                   //
	frameStream5                   //
	frameModule                    // length, module items
	frameArray                     // 3.3.12
	frameTemplated                 // template fields, string
	frameTemplatedArr              // template fields, as many strings
	frameTemplateRef               // length, n, n strings
	frameLength                    // one length
	frameCron                      // KeyDB
	frameBloom                     // Dragonfly's, each filter one string
	frameBloom2                    // Dragonfly's, each filter in pieces
	frameCMS                       //
	frameTopK                      //
	frameCuckoo                    //
	frameModuleItems               // of a MODULE_AUX, after its header
	frameTemplate                  // of a HASH_TEMPLATE, after its id: template fields
	frameSlotRanges                // of a SLOT_IMPORT, after its name: n, n × (length, length)
	frameJournal                   // arguments of a command in the journal
)

// An encoding is what a type byte stands for.
type encoding struct {
	typ   Type
	frame frame
	since uint8 // the RDB version that introduced it, for the footer of a DUMP payload; 0: it has no payload
}

// minFooter is the lowest version that a footer states: that of the first server that had RESTORE. A footer is an upper
// bound, which every later server accepts (rdb-format: DUMP and RESTORE).
const minFooter = 6

// The type bytes of each family; those from 200 on are opcodes. Numbers 22 and 23, and those from 29 to 37, mean
// different things in different families.
var (
	redisEncodings    = encodings(redisTypes, redisNewTypes)
	redisOldEncodings = encodings(redisTypes, dragonflyTypes)
	valkeyEncodings   = encodings(valkeyTypes)
)

func encodings(sets ...map[uint8]encoding) *[256]encoding {
	t := new([256]encoding)
	for _, set := range append([]map[uint8]encoding{sharedTypes}, sets...) {
		for b, e := range set {
			t[b] = e
		}
	}
	return t
}

// sharedTypes mean the same in every family. Sources: rdb-format 3.2. Type 6, of which only release candidates of
// Redis 4.0 ever wrote, can't be framed without the module; 8 never existed.
var sharedTypes = map[uint8]encoding{
	0:  {TypeString, frameString, 1},
	1:  {TypeList, frameStrings, 1},
	2:  {TypeSet, frameStrings, 1},
	3:  {TypeZSet, frameZSet, 1},
	4:  {TypeHash, framePairs, 1},
	5:  {TypeZSet, frameZSet2, 8},
	7:  {TypeModule, frameModule, 8},
	9:  {TypeHash, frameString, 1},    // zipmap
	10: {TypeList, frameString, 2},    // ziplist
	11: {TypeSet, frameString, 2},     // intset
	12: {TypeZSet, frameString, 2},    // ziplist
	13: {TypeHash, frameString, 4},    // ziplist
	14: {TypeList, frameStrings, 7},   // quicklist of ziplists
	15: {TypeStream, frameStream1, 9}, //
	16: {TypeHash, frameString, 10},   // listpack
	17: {TypeZSet, frameString, 10},   // listpack
	18: {TypeList, frameQuicklist2, 10},
	19: {TypeStream, frameStream2, 10},
	20: {TypeSet, frameString, 11}, // listpack; JSON in what Dragonfly before 1.7 wrote, which nothing in the stream tells
	21: {TypeStream, frameStream3, 11},
}

var redisTypes = map[uint8]encoding{
	22: {TypeHash, frameHashTTLPre, 12}, // 7.4 release candidates
	23: {TypeHash, frameString, 12},     // the same
	24: {TypeHash, frameHashTTL, 12},
	25: {TypeHash, framePackedTTL, 12},
	26: {TypeStream, frameStream4, 13},
	27: {TypeStream, frameStream5, 14},
	28: {TypeArray, frameArray, 14},
	29: {TypeHash, frameTemplated, 15},
	64: {TypeCron, frameCron, 9}, // KeyDB
}

var redisNewTypes = map[uint8]encoding{
	30: {TypeHash, frameString, 0},
	31: {TypeHash, frameTemplatedArr, 15},
	32: {TypeHash, frameTemplateRef, 0},
	33: {TypeRate, frameLength, 15},
}

// dragonflyTypes are in streams that say REDIS0009 and need no Dragonfly before: see maxDragonfly.
var dragonflyTypes = map[uint8]encoding{
	30: {TypeJSON, frameString, 9},
	31: {TypeHash, frameTriples, 9},
	32: {TypeSet, framePairs, 9},
	33: {TypeBloom, frameBloom, 9},
	34: {TypeBloom, frameBloom2, 9},
	35: {TypeCMS, frameCMS, 9},
	36: {TypeTopK, frameTopK, 9},
	37: {TypeCuckoo, frameCuckoo, 9},
}

var valkeyTypes = map[uint8]encoding{
	22: {TypeHash, frameHash2, 80},
}

// The opcodes, as in rdb-format 3.1.
const (
	opSyncEnd        = 200 // Dragonfly, up to 224
	opZstd           = 201
	opLZ4            = 202
	opJournal        = 210
	opJournalOffset  = 211
	opDragonflyMask  = 220
	opVectorIndex    = 222
	opDocIndex       = 223
	opChunk          = 224
	opHashTemplate   = 242 // Redis
	opKeyMeta        = 243 // Redis
	opSlotImport     = 243 // Valkey
	opSlotInfo       = 244
	opFunction       = 245
	opFunctionPreGA  = 246
	opModuleAux      = 247
	opIdle           = 248
	opFreq           = 249
	opAux            = 250
	opResizeDB       = 251
	opExpireMillis   = 252
	opExpireSeconds  = 253
	opSelectDB       = 254
	opEOF            = 255
	firstDragonflyOp = 200
	lastDragonflyOp  = 224
)
