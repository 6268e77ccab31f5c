package seal_test

import (
	"context"
	"fmt"
	"log"

	"filippo.io/age"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
)

// Of a part that is compressed and encrypted, only what holds a range is read from the store.
func ExampleReaderAt() {
	ctx := context.Background()
	store := memstore.New(nil)
	key, err := age.GenerateX25519Identity()
	if err != nil {
		log.Fatal(err)
	}
	out, err := store.Create(ctx, "part.zst.age", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer out.Abort()
	w, err := seal.NewWriter(out, &seal.Options{Recipients: []age.Recipient{key.Recipient()}})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 1_000_000 {
		fmt.Fprintf(w, "line %07d\n", i)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	if _, err := out.Commit(ctx); err != nil {
		log.Fatal(err)
	}

	r, err := seal.NewReaderAt(storage.NewReaderAt(ctx, store, "part.zst.age"), w.Sum(), []age.Identity{key})
	if err != nil {
		log.Fatal(err)
	}
	line := make([]byte, 12)
	if _, err := r.ReadAt(line, 13*654_321); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, of %d bytes\n", line, r.Size())
	// Output: line 0654321, of 13000000 bytes
}
