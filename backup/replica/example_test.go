package replica_test

import (
	"context"
	"errors"
	"io"
	"log"
	"os"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
	"github.com/redis/go-redis/v9"
)

// A snapshot of the server that a client is for, into a file. A backup.Runner does this and more: it also proves what it
// stored.
func Example() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer client.Close()
	ctx := context.Background()

	s, err := replica.New(replica.Config{Options: client.Options()})
	if err != nil {
		log.Fatal(err)
	}
	snapshot, err := s.Snapshot(ctx)
	if errors.Is(err, backup.ErrTransient) {
		log.Fatal("try again in a minute: ", err)
	} else if err != nil {
		log.Fatal(err)
	}
	defer snapshot.Close()

	part := snapshot.Parts()[0]
	r, err := snapshot.Open(ctx, part)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	f, err := os.Create(part.Name)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(f, r); err != nil { // nil only if the snapshot is whole
		log.Fatal(err)
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
}
