package catalog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Format is the version of the manifest that this package writes. It reads this and all before it.
const Format = 1

// An ID names a backup. IDs sort by the time the backup began and read well: 20261123T221700.123Z-k7f3.
type ID string

// NewID returns an ID for a backup that begins at t. Its four random characters keep apart what begins in the same
// millisecond; a catalog refuses the second of two equal ones.
func NewID(t time.Time) ID {
	const alphabet = "23456789abcdefghjkmnpqrstuvwxyz0" // 32 characters
	var random [4]byte
	rand.Read(random[:]) // never fails
	for i, b := range random {
		random[i] = alphabet[b%32]
	}
	return ID(t.UTC().Format("20060102T150405.000Z") + "-" + string(random[:]))
}

// Time returns when the backup began, by its ID, in UTC, and whether the ID is one that NewID makes.
func (id ID) Time() (time.Time, bool) {
	s := string(id)
	if len(s) != len("20060102T150405.000Z-k7f3") || s[20] != '-' {
		return time.Time{}, false
	}
	for _, c := range []byte(s[21:]) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return time.Time{}, false
		}
	}
	t, err := time.Parse("20060102T150405.000Z", s[:20])
	return t, err == nil
}

// A State says how far a backup is.
type State string

// The states of a backup. Only a ready one can be restored, and only a ready one is listed unless asked otherwise.
const (
	StateRunning     State = "running"     // a run is at work on it, or was when it died
	StateReady       State = "ready"       // every part is committed, read back and verified
	StateFailed      State = "failed"      // its run ended with an error, which Backup.Error tells
	StateInterrupted State = "interrupted" // its run died or lost its lease; it can't be published any more
	StateDeleting    State = "deleting"    // it was deleted, its objects are about to go
)

// A Kind says why a backup was made.
type Kind string

// The kinds of backup.
const (
	KindManual    Kind = "manual"    // somebody asked for it
	KindAutomatic Kind = "automatic" // a policy made it; it is kept as long as that policy says, and dies with its data store
	KindShutdown  Kind = "shutdown"  // made when a host shut down
	KindSafety    Kind = "safety"    // what a target held before a restore replaced it
	KindImport    Kind = "import"    // it was read from a file or a URL
	KindCopy      Kind = "copy"      // it is being copied from another store, or couldn't be; once it is ready it is of its former kind
)

// A Backup is the manifest of one backup. It never holds a secret.
type Backup struct {
	Format      int    `json:"format"` // the version of the manifest: Format
	ID          ID     `json:"id"`
	DataStore   string `json:"dataStore"`      // the host's ID of the data store
	Name        string `json:"name,omitempty"` // what a person calls it
	Description string `json:"description,omitempty"`
	Kind        Kind   `json:"kind"`
	State       State  `json:"state"`
	Error       string `json:"error,omitempty"`  // why it failed
	Spared      bool   `json:"spared,omitempty"` // it failed before its source was asked for a snapshot

	CreatedAt time.Time `json:"createdAt"` // when the run began
	ReadyAt   time.Time `json:"readyAt,omitzero"`
	Timings   Timings   `json:"timings,omitzero"`
	Token     int64     `json:"token,omitempty"` // the fencing token of the run's lease

	// DeleteAfter is when the backup may be deleted, unless it is the last good one of its data store; zero: it is kept for ever, or as
	// long as its policy says.
	DeleteAfter time.Time `json:"deleteAfter,omitzero"`
	DeletedAt   time.Time `json:"deletedAt,omitzero"` // when it was unlisted, if it is being deleted

	// Of an automatic backup: the ID of the policy that made it, and the due time that it was made for.
	Policy  string    `json:"policy,omitempty"`
	DueTime time.Time `json:"dueTime,omitzero"`

	Labels map[string]string `json:"labels,omitempty"` // the host's own; see ValidLabels
	Pinned bool              `json:"pinned,omitempty"` // retention leaves it alone

	Source Source `json:"source,omitzero"`
	Parts  []Part `json:"parts,omitempty"`

	Keys        int64    `json:"keys"`                  // in all parts
	Expires     int64    `json:"expires"`               // keys with an expiry
	FirstExpiry int64    `json:"firstExpiry,omitempty"` // when the first of these expires, in Unix milliseconds; 0 if there is none or it isn't known
	DBs         []DB     `json:"dbs,omitempty"`         // that hold keys, in ascending order
	Functions   int64    `json:"functions"`             // function libraries
	Modules     []Module `json:"modules,omitempty"`     // with values or data of their own in the snapshot
	// Commands are those in the snapshot that are to be executed on top of its keys, in order: of a Dragonfly's journal, or of an append-only file. If there
	// are any, Keys and all other counts are those before.
	Commands    int64 `json:"commands,omitempty"`
	RawBytes    int64 `json:"rawBytes"` // of all parts, as the source sent them
	StoredBytes int64 `json:"bytes"`    // of all parts, as the store keeps them

	Verification Verification `json:"verification,omitzero"`

	// Recipients are those who can open the parts, if they are encrypted: public keys as text, or "passphrase".
	Recipients []string   `json:"recipients,omitempty"`
	Signature  *Signature `json:"signature,omitempty"` // see Sign; nil: it isn't signed
}

// Source says where a snapshot came from and when it was taken.
type Source struct {
	Engine            string `json:"engine,omitempty"`            // "redis", "valkey", "dragonfly"
	Version           string `json:"version,omitempty"`           // of the server, such as "8.0.2"
	Dialect           string `json:"dialect,omitempty"`           // of the stream, such as "redis:12" or "valkey:80"
	Topology          string `json:"topology,omitempty"`          // "standalone", "replicated", "sentinel" or "cluster"
	Address           string `json:"address,omitempty"`           // host:port that sent the snapshot
	Role              string `json:"role,omitempty"`              // of that server: "primary" or "replica"
	Method            string `json:"method,omitempty"`            // how it was taken: "replica", "dumpfile", "flows", "scan", …
	ReplicationID     string `json:"replicationId,omitempty"`     // 40 hexadecimal digits
	ReplicationOffset int64  `json:"replicationOffset,omitempty"` // of the snapshot's instant
	UsedMemory        int64  `json:"usedMemory,omitempty"`        // of the server, in bytes

	// Of a snapshot of files: the name of the file that was read.
	File string `json:"file,omitempty"`
	// Time is the snapshot's instant, or when the server wrote the file, as far as that is known; of a snapshot of shards that of the first.
	Time time.Time `json:"time,omitzero"`
	// Spread is how much later the instant of the last shard is, in nanoseconds: the shards are consistent one by one.
	Spread time.Duration `json:"spread,omitempty"`
	// Fuzzy: keys were read one by one while others wrote, so each is as it was at some instant, and all together are of none.
	Fuzzy bool `json:"fuzzy,omitempty"`
	// Scan counts what happened to keys while they were read one by one.
	Scan *Scan `json:"scan,omitempty"`
	// Cost is what the snapshot took of its source.
	Cost *Cost `json:"cost,omitempty"`
	// Reason says why the snapshot was taken by this Method, where that was chosen and not asked for.
	Reason string `json:"reason,omitempty"`
}

// A Shard says where a part came from that holds some of the data store's keys.
type Shard struct {
	ID                string      `json:"id,omitempty"`      // a cluster's name of the node, or a Dragonfly's number of the shard
	Address           string      `json:"address,omitempty"` // host:port that sent it
	Role              string      `json:"role,omitempty"`    // of that server: "primary" or "replica"
	Slots             []SlotRange `json:"slots,omitempty"`   // that a cluster's shard had, in ascending order
	ReplicationID     string      `json:"replicationId,omitempty"`
	ReplicationOffset int64       `json:"replicationOffset,omitempty"` // of the part's instant; of a Dragonfly's flow the position in its journal
	Time              time.Time   `json:"time,omitzero"`               // the part's instant
	Attempts          int         `json:"attempts,omitempty"`          // how often it was begun, if more than once
}

// A SlotRange is a range of a cluster's hash slots, from First to Last inclusive.
type SlotRange struct {
	First int `json:"first"`
	Last  int `json:"last"`
}

// Scan counts what happened to keys that were read one by one.
type Scan struct {
	Listed  int64 `json:"listed"`            // names that the server gave, without those that it gave twice
	Gone    int64 `json:"gone,omitempty"`    // that were deleted, or renamed, after they were listed and before they were read
	Expired int64 `json:"expired,omitempty"` // of those that were gone: that had a time to live, which was over
	Changed int64 `json:"changed,omitempty"` // that had another type than when they were first looked at
	Moved   int64 `json:"moved,omitempty"`   // that had gone to another node of the cluster, where they were read
}

// Cost is what a snapshot took of its source. What isn't known is zero.
type Cost struct {
	Fork          time.Duration `json:"fork,omitempty"`          // that the server stood still to fork, in nanoseconds
	CopyOnWrite   int64         `json:"copyOnWrite,omitempty"`   // memory that it took meanwhile for what was written, in bytes
	Bytes         int64         `json:"bytes,omitempty"`         // that it sent
	Duration      time.Duration `json:"duration,omitempty"`      // from asking for the snapshot to its last byte
	Waited        time.Duration `json:"waited,omitempty"`        // before the server was asked, for it to be ready
	Slowed        time.Duration `json:"slowed,omitempty"`        // in which nothing was read, to spare it
	LatencyBefore time.Duration `json:"latencyBefore,omitempty"` // the 99th percentile of PING before
	LatencyDuring time.Duration `json:"latencyDuring,omitempty"` // and meanwhile
}

// Timings are the lengths of a run's stages, in nanoseconds.
type Timings struct {
	Wait     time.Duration `json:"wait"`     // from asking the source until its first byte
	Transfer time.Duration `json:"transfer"` // from the first byte until every part was committed
	ReadBack time.Duration `json:"readBack"` // reading every part again
	Total    time.Duration `json:"total"`
}

// A Part is one stream of a snapshot, kept as one object.
type Part struct {
	Name        string `json:"name"`                 // such as "part-0000.rdb.zst", unique in the backup
	Key         string `json:"key"`                  // of the object in the store: below the backup's prefix, unless it is adopted
	Dialect     string `json:"dialect"`              // such as "redis:12"
	Compression string `json:"compression"`          // "zstd" or "none"
	Encryption  string `json:"encryption,omitempty"` // "age", or empty
	Size        int64  `json:"size"`                 // in bytes, as stored
	SHA256      string `json:"sha256"`               // of the stored bytes, in hexadecimal
	RawSize     int64  `json:"rawSize"`              // in bytes, as the source sent them
	// RawSHA256 is of the bytes the source sent. It is empty if they are encrypted: else who reads the store would know which backups hold
	// the same, and could try what they hold.
	RawSHA256 string `json:"rawSha256,omitempty"`
	Keys      int64  `json:"keys"`
	Commands  int64  `json:"commands,omitempty"` // see Backup.Commands
	Shard     *Shard `json:"shard,omitempty"`    // where it came from, if the parts come from several

	// Adopted: the object is not the backup's own but what a server wrote into the store itself. It stays as it is, whatever becomes of the
	// backup; and who changes it takes it from the backup, which doesn't verify any more then.
	Adopted bool `json:"adopted,omitempty"`
}

// DB counts the keys of one database.
type DB struct {
	Index   int              `json:"index"`
	Keys    int64            `json:"keys"`
	Expires int64            `json:"expires"` // keys with an expiry
	Types   map[string]int64 `json:"types"`   // keys by type: "string", "list", "set", "zset", "hash", "stream", …
}

// A Module is a server module whose values or data are in a snapshot.
type Module struct {
	Name    string `json:"name"`    // nine characters, as in the stream
	Version int    `json:"version"` // its encoding version
	Keys    int64  `json:"keys"`    // values of this module's type
	Aux     int64  `json:"aux"`     // data of the module outside of keys
}

// Verification says how a backup was proved.
type Verification struct {
	Structure bool      `json:"structure"` // every part was parsed to its end
	Checksum  string    `json:"checksum"`  // "crc64" if the stream's own was right, "absent" if the source wrote none
	ReadBack  bool      `json:"readBack"`  // every part was read again from the store, and its hash was equal
	At        time.Time `json:"at,omitzero"`
}

// MaxNameLen is the longest name of a data store or backup, in bytes.
const MaxNameLen = 100

// ValidName returns nil for a string that can name a data store or a backup: 1 to MaxNameLen letters, digits, "-", "_"
// and ".", of which the first is a letter or digit.
func ValidName(s string) error {
	if s == "" {
		return errors.New("it is empty")
	}
	if len(s) > MaxNameLen {
		return fmt.Errorf("it has %d characters, the limit is %d", len(s), MaxNameLen)
	}
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_' && c != '.') {
			return fmt.Errorf("character %d, %q, is not allowed: letters, digits, \"-\", \"_\" and \".\" are, and it begins with a letter or digit", i+1, c)
		}
	}
	return nil
}

// ValidBackupName returns nil for a string that can be given to a backup as its name: what ValidName says, with a letter at its beginning.
func ValidBackupName(s string) error {
	if err := ValidName(s); err != nil {
		return err
	}
	if s[0] >= '0' && s[0] <= '9' {
		return fmt.Errorf("character 1, %q, is not allowed: the name of a backup begins with a letter", s[0])
	}
	return nil
}

// The limits of labels: how many there may be, and how long a value may be, in bytes.
const (
	MaxLabels   = 64
	MaxLabelLen = 200
)

// ValidLabels returns nil for labels that a backup can have: up to MaxLabels, with keys as ValidName says and values of up to MaxLabelLen bytes
// of printable text in UTF-8. A value may be empty.
func ValidLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("there are %d labels, the limit is %d", len(labels), MaxLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if err := ValidName(key); err != nil {
			return fmt.Errorf("label %.40q: its key: %w", key, err)
		}
		value := labels[key]
		if len(value) > MaxLabelLen {
			return fmt.Errorf("label %s: its value has %d bytes, the limit is %d", key, len(value), MaxLabelLen)
		}
		if !utf8.ValidString(value) || strings.ContainsFunc(value, func(c rune) bool { return !unicode.IsPrint(c) }) {
			return fmt.Errorf("label %s: its value %.40q has something in it that can't be printed", key, value)
		}
	}
	return nil
}
