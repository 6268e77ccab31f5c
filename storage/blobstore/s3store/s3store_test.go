package s3store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
	"github.com/amberkv/amber/storage/storetest"
)

// A child process of these tests is told what to do by its environment.
const (
	childWork = "S3STORE_CHILD_WORK"
	childURL  = "S3STORE_CHILD_URL"
)

func TestMain(m *testing.M) {
	if os.Getenv(childWork) == "write for ever" {
		childWrites()
	}
	// Nothing of the machine's own configuration of AWS has a part in the tests.
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "AWS_") {
			os.Unsetenv(name)
		}
	}
	os.Setenv("AWS_CONFIG_FILE", os.DevNull)
	os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	os.Exit(m.Run())
}

// config is a Config of a bucket on a real server.
func config(s *teststore.S3, bucket string) s3store.Config {
	return s3store.Config{Bucket: bucket, Endpoint: s.URL, AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey}
}

// open opens a store, and closes it at the end of the test.
func open(t testing.TB, cfg s3store.Config) *blobstore.Store {
	t.Helper()
	s, err := s3store.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	if os.Getenv("STORETEST_CHILD_TEST") != "" { // the parent has the server
		storetest.Run(t, nil, &storetest.Options{Reopen: reopen})
		return
	}
	t.Parallel()
	server := teststore.StartS3(t)
	var n atomic.Int32
	where := map[storage.Store]string{}
	storetest.Run(t, func(t *testing.T) storage.Store {
		cfg := config(server, server.Bucket(fmt.Sprintf("bucket-%d", n.Add(1))))
		cfg.Prefix = "some/prefix"
		s := open(t, cfg)
		where[s] = cfg.Endpoint + " " + cfg.Bucket
		return s
	}, &storetest.Options{Locate: func(s storage.Store) string { return where[s] }, Reopen: reopen, Objects: 1050, Slow: os.Getenv("CAMPAIGN") == ""})
}

func reopen(location string) (storage.Store, error) {
	endpoint, bucket, _ := strings.Cut(location, " ")
	return s3store.New(context.Background(), s3store.Config{Bucket: bucket, Prefix: "some/prefix", Endpoint: endpoint,
		AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey})
}

// write makes a file.
func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
