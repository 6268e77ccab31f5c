package rdb

// A Kind says what an entry is.
type Kind uint8

// The kinds of entries. A database that a stream selects is no entry of its own: see Entry.DB.
const (
	KindKey          Kind = iota + 1 // a key and its value
	KindAux                          // a fact about the stream or the server: Entry.Key and Entry.Value
	KindFunction                     // a library of functions
	KindModuleAux                    // data of a module outside of keys: Entry.Module
	KindResizeDB                     // how many keys the database has: Entry.Keys and Entry.Expires
	KindSlotInfo                     // how many keys a cluster slot has: Entry.Slot, Entry.Keys and Entry.Expires
	KindSlotImport                   // cluster slots on their way to the server (Valkey 9); Entry.Key names the job
	KindHashTemplate                 // field names that several hashes share (Redis 8.10)

	// In what Dragonfly sends to a replica, and in files made of that.
	KindJournal       // a command that was executed meanwhile: Entry.DB and Entry.Txid; its name and arguments are elements
	KindSyncEnd       // all keys were sent; commands may follow
	KindJournalOffset // where the snapshot stands in the journal: Entry.LSN
	KindIndexData     // what a vector index is made of, which servers can make anew from the keys; Entry.Key names it
)

// String returns a short name, such as "key" or "module-aux".
func (k Kind) String() string {
	names := [...]string{"none", "key", "aux", "function", "module-aux", "resizedb", "slot-info", "slot-import", "hash-template",
		"journal", "sync-end", "journal-offset", "index-data"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// An Entry is one thing in a stream: most often a key. It and its slices are borrowed: they hold until the next call of
// Reader.Next, whatever happens to the value meanwhile.
type Entry struct {
	Kind     Kind
	Type     Type   // of a key's value
	Encoding uint8  // the type byte or opcode as in the stream
	DB       int    // the database selected at this point
	Offset   int64  // of the type byte or opcode, in bytes from the start of the stream; of the block or chunk that it is in
	Key      []byte // the name of a key, an aux fact or a slot import
	Value    []byte // of an aux fact

	HasExpiry bool
	ExpireAt  int64 // in Unix milliseconds, if HasExpiry; it may have passed
	Idle      int64 // seconds since the key was last accessed, -1 if the stream doesn't tell
	Freq      int   // logarithmic access frequency of the key, 0 to 255, -1 if the stream doesn't tell

	Module   ModuleID // of a value of TypeModule and of module aux
	Meta     []byte   // what modules attached to the key (Redis 8.6), as it stands before the type byte in a DUMP payload
	Flags    uint32   // Dragonfly's: bit 0 means sticky, bit 1 that Memcache is set
	Memcache uint32   // flags that a memcached client set (Dragonfly)

	// Hints of the server that wrote the stream. They may be wrong.
	Slot, Keys, Expires uint64

	Txid uint64 // of a journal command: those of one transaction have the same
	LSN  uint64 // of a journal offset: the number of the journal entry that comes next
}
