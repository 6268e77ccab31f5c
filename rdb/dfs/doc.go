// Package dfs reads and writes the snapshots that Dragonfly makes by default: sets of files, NAME-summary.dfs and one
// NAME-0000.dfs … for each shard, each of them a stream that package rdb reads.
//
//	set, err := dfs.Open(os.DirFS(dir), "dump-summary.dfs")
//	if err != nil {
//		return err // says which files are missing, or belong to another snapshot
//	}
//	err = set.Read(ctx, 4, nil, func(file string, r *rdb.Reader) error {
//		for e, err := range r.Entries() {
//			…
//		}
//	})
//
// Dragonfly itself loads a set of which a file is missing, or is of another snapshot, as if nothing were wrong, without the keys
// in it (seen with 1.40: DFLY LOAD answers OK). [Open] therefore holds the set against what its summary says: how many shards there
// are, and which snapshot they are of. Sets of Dragonfly before 1.32 say neither; of those, Open can only see gaps in the
// numbers: [Set.Counted] tells.
//
// What follows the end of a stream in a file is ignored: Dragonfly pads files to 4 KiB with whatever was in its buffer.
package dfs
