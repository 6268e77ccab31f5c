package blobstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/azurestore"
	"github.com/amberkv/amber/storage/blobstore/gcsstore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// A cloud is a bucket on a real server, and a way to it that can be harmed.
type cloud struct {
	name   string
	server *teststore.Server
	proxy  *teststore.Proxy
	direct *blobstore.Store
	*blobstore.Store
}

// part is the size of a part of an upload, of all clouds.
const part = 8 << 20

// TestClouds runs every scenario on every cloud, each below a prefix of its own.
func TestClouds(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) (*teststore.Server, opener){
		"s3": func(t *testing.T) (*teststore.Server, opener) {
			s := teststore.StartS3(t)
			s.Bucket("bucket")
			return s.Server, openS3
		},
		"gcs": func(t *testing.T) (*teststore.Server, opener) {
			s := teststore.StartGCS(t)
			s.Bucket("bucket")
			return s.Server, openGCS
		},
		"azure": func(t *testing.T) (*teststore.Server, opener) {
			s := teststore.StartAzure(t)
			if _, err := azureContainer(t, s.URL).Create(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			return s, openAzure
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, open := start(t)
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) { s.run(t, newCloud(t, name, server, s.name, open)) })
			}
		})
	}
}

// An opener opens the bucket of a server at an endpoint.
type opener func(endpoint, prefix string) (*blobstore.Store, error)

func openS3(endpoint, prefix string) (*blobstore.Store, error) {
	return s3store.New(context.Background(), s3store.Config{Bucket: "bucket", Prefix: prefix, Endpoint: endpoint, Exclusive: "yes",
		AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey})
}

func openGCS(endpoint, prefix string) (*blobstore.Store, error) {
	return gcsstore.New(context.Background(), gcsstore.Config{Bucket: "bucket", Prefix: prefix, Endpoint: endpoint})
}

func openAzure(endpoint, prefix string) (*blobstore.Store, error) {
	return azurestore.New(context.Background(), azurestore.Config{Container: "bucket", Prefix: prefix, Account: teststore.AzureAccount, Key: teststore.AzureKey,
		Endpoint: endpoint + "/" + teststore.AzureAccount})
}

func newCloud(t *testing.T, name string, server *teststore.Server, prefix string, open opener) *cloud {
	t.Helper()
	c := &cloud{name: name, server: server, proxy: teststore.StartProxy(t, server.Addr)}
	for endpoint, s := range map[string]**blobstore.Store{server.URL: &c.direct, c.proxy.URL: &c.Store} {
		opened, err := open(endpoint, prefix)
		if err != nil {
			t.Fatal(err)
		}
		*s = opened
	}
	t.Cleanup(func() {
		c.proxy.Heal()
		if err := errors.Join(c.Close(), c.direct.Close()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func azureContainer(t *testing.T, url string) *container.Client {
	t.Helper()
	cred, err := container.NewSharedKeyCredential(teststore.AzureAccount, teststore.AzureKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(url+"/"+teststore.AzureAccount+"/bucket", cred, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// only checks, past the proxy, that there are these objects and nothing else, and no unfinished upload.
func (c *cloud) only(t *testing.T, when string, want map[string][]byte) {
	t.Helper()
	c.finished(t, when)
	only(t, c.direct, when, want)
}

// finished checks, past the proxy, that there is no unfinished upload.
func (c *cloud) finished(t *testing.T, when string) {
	t.Helper()
	// What is cleaned up in the background has its time.
	var removed int
	for range 300 {
		var err error
		if removed, err = countUnfinished(c); err != nil {
			t.Fatal(err)
		}
		if removed == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if removed != 0 {
		t.Errorf("%s: %d unfinished uploads are left", when, removed)
	}
}

// countUnfinished counts the unfinished uploads of S3. Google keeps none that anybody could see, and Azure drops its own after a week.
func countUnfinished(c *cloud) (int, error) {
	if c.name != "s3" {
		return 0, nil
	}
	n := 0 // the files of its parts, seen from outside
	err := fs.WalkDir(os.DirFS(filepath.Join(c.server.Dir, "data", "bucket")), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(name, "multipart") && d.Type().IsRegular() {
			n++
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		return err
	})
	return n, err
}

// only checks that a store has these objects and nothing else.
func only(t *testing.T, s storage.Store, when string, want map[string][]byte) {
	t.Helper()
	n := 0
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		n++
		if _, ok := want[info.Key]; !ok {
			t.Errorf("%s: there is %s with %d bytes", when, info.Key, info.Size)
		}
	}
	if n < len(want) {
		t.Errorf("%s: %d objects are listed, want %d", when, n, len(want))
	}
	for key, data := range want {
		if got := get(t, s, key); !bytes.Equal(got, data) {
			t.Errorf("%s: %s has %d bytes, want the %d that it had", when, key, len(got), len(data))
		}
	}
}

func put(t *testing.T, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := storage.WriteFile(t.Context(), s, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s storage.Store, key string) []byte {
	t.Helper()
	data, err := storage.ReadFile(t.Context(), s, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func read(ctx context.Context, s storage.Store, key string, off, n int64) ([]byte, error) {
	r, err := s.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func pattern(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}).Read(data)
	return data
}

// within fails a test that hangs. The second that the contract gives has some company, for a machine that is busy.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}
