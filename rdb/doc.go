// Package rdb reads and writes the snapshots of Redis, Valkey and Dragonfly: RDB streams, as they are in files and in the full
// synchronisation of replicas, and converts between their dialects.
//
// A [Reader] has the shape of archive/tar's. Next goes to the next [Entry], most often a key. The value behind it is
// skipped by the next Next, or read at one of three levels: raw, as the DUMP payload that RESTORE takes, untouched (AppendRaw,
// WriteRaw); element by element, whatever the encoding and the size (Elements); or, if it is small, whole (Value). Reading to io.EOF proves the stream: its
// structure to the last byte, and its checksum. [Reader.Stats] tells what was in it.
//
// What each key takes can be watched meanwhile, at any level (Reader.Observe); package inspect makes a report of it.
//
//	r := rdb.NewReader(f, nil)
//	for e, err := range r.Entries() {
//		if err != nil {
//			return err // says at which byte, in which key, and why
//		}
//		if e.Kind == rdb.KindKey {
//			fmt.Printf("%d %s %q\n", e.DB, e.Type, e.Key)
//		}
//	}
//
// A [Writer] writes a stream of one dialect, entry by entry and element by element. [Convert] reads one stream and writes what is in it as
// another dialect: values pass untouched where the target knows their encoding, and what it can't express follows a [Policy].
// [Check] decodes every value and holds it against what servers insist on.
//
// # Dialects
//
// The first nine bytes of a stream name its [Dialect]. The version only says which server wrote it: every type that is
// known is read in streams of every version of its family. The same number can mean different things in different
// families, so that nothing is looked up by number alone.
//
//	stream      dialect       written by                       adds
//	REDIS0001   redis:1       Redis before 2.4                 plain types, expiry in seconds
//	REDIS0002   redis:2       Redis 2.4                        ziplist, intset
//	REDIS0006   redis:6       Redis 2.6 to 3.0                 expiry in milliseconds (3), checksum (5)
//	REDIS0007   redis:7       Redis 3.2                        quicklist, aux facts
//	REDIS0008   redis:8       Redis 4.0                        binary scores, module values
//	REDIS0009   redis:9       Redis 5.0 to 6.2, KeyDB          streams, frequency and idle time, module aux
//	REDIS0010   redis:10      Redis 7.0                        listpacks, functions
//	REDIS0011   redis:11      Redis 7.2, Valkey 7.2 to 8.1     listpacks of sets
//	REDIS0012   redis:12      Redis 7.4 to 8.4                 expiry of hash fields, slot info
//	REDIS0013   redis:13      Redis 8.6                        metadata of keys
//	REDIS0014   redis:14      Redis 8.8                        arrays
//	REDIS0015   redis:15      Redis 8.10                       hash templates
//	VALKEY080   valkey:80     Valkey 9.0 and 9.1               its own expiry of hash fields, slot import
//	REDIS0009   dragonfly:9   Dragonfly, by SAVE RDB           JSON, filters, expiry of set members
//
// What Redis 8.8 and 8.10 and KeyDB add is known from descriptions, not from streams of these servers. Valkey 9.2's streams and
// envelope, and what release candidates alone ever wrote and no release loads, give an
// error that wraps [ErrUnsupported]. Nothing is guessed: an unknown byte is such an error, too, with its offset.
//
// Dragonfly's own snapshots, DFS, are sets of such streams: see package dfs. In these, and in what Dragonfly sends to a replica, records
// come in compressed blocks, large values in pieces with anything between them, and commands in a journal. The reader
// undoes the first two: entries come in the order in which they begin, whole. What lies between the pieces of a value is held
// meanwhile, see [ReaderOptions]. Commands of the journal are entries of their own.
//
// Without elements the reader walks the frame of every value. It doesn't look into the packed blobs (ziplists, listpacks, intsets) that
// most small values are made of, nor expand compressed strings other than names. [Reader.Elements] does.
//
// # Security
//
// A stream may come from anybody. Any bytes give entries or an error; they never make a reader panic or loop. Its
// memory is a few buffers of 128 KiB, one block of at most 4 MiB before and after expanding, the longest key name, and some counters, of which the number is limited: values pass through the buffers, whatever
// their size, and no length in a stream is the size of an allocation before as many bytes have arrived. A
// compressed name is refused unless its block can expand to the length that it claims, at most 88 times its own;
// [ReaderOptions] limit what names may take. Time is proportional to the bytes read.
//
// A right checksum proves that nothing was changed by accident. It doesn't prove who wrote the stream.
package rdb
