// Package aof reads append-only files, in which Redis and Valkey write down every command that changes something, and the manifests that tell which
// of these files make a data store.
//
//	r := aof.NewReader(file, nil)
//	for e, err := range r.Entries() {
//		if err != nil {
//			return err // errors.Is(err, aof.ErrTruncated): it is whole up to r.Whole()
//		}
//		if e.Kind == aof.KindCommand {
//			… e.DB, e.Args …
//		}
//	}
//
// # What the files are
//
// From Redis 7.0 on there is a directory of them (appendonlydir): a base, which is an RDB file or, with aof-use-rdb-preamble no, commands that make
// the keys; increments, which are commands; and a manifest, [Manifest], that names them in their order. Each file begins with database 0 selected.
//
// Redis 6.2 and older have one file. It may begin with an RDB file, which is called its preamble, and commands follow where that ends:
// [Reader.Preamble].
//
// # What the end of a file says
//
// A server that is killed leaves a command, or a transaction (MULTI … EXEC), of which the end is missing. That is normal in the last file of a data store,
// and the server cuts it off when it starts (aof-load-truncated yes, the default): the error wraps [ErrTruncated], and [Reader.Whole]
// tells up to where the file is sound. In any other file it is damage. What no server writes wraps [ErrCorrupt], with its offset.
//
// A length that was damaged so that it goes past the end of the file can't be told from a command that was cut off.
package aof
