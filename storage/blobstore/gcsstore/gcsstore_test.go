package gcsstore_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/gcsstore"
	"github.com/amberkv/amber/storage/storetest"
)

func open(t *testing.T, config gcsstore.Config) *blobstore.Store {
	t.Helper()
	s, err := gcsstore.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	start := sync.OnceValue(func() *teststore.GCS { // in the parent of all processes only
		server := teststore.StartGCS(t)
		server.Bucket("suite")
		return server
	})
	var n atomic.Int32
	where := make(map[storage.Store]string)
	storetest.Run(t, func(t *testing.T) storage.Store {
		server := start()
		prefix := fmt.Sprintf("suite/%d", n.Add(1))
		s := open(t, gcsstore.Config{Bucket: "suite", Prefix: prefix, Endpoint: server.URL})
		where[s] = server.URL + " " + prefix
		return s
	}, &storetest.Options{
		Locate: func(s storage.Store) string { return where[s] },
		Reopen: func(location string) (storage.Store, error) {
			url, prefix, _ := strings.Cut(location, " ")
			return gcsstore.New(t.Context(), gcsstore.Config{Bucket: "suite", Prefix: prefix, Endpoint: url})
		},
		Objects: 1100, // which is two pages
		Slow:    os.Getenv("CAMPAIGN") == "",
	})
}
