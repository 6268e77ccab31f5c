package azurestore_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/azurestore"
	"github.com/amberkv/amber/storage/storetest"
)

func open(t *testing.T, config azurestore.Config) *blobstore.Store {
	t.Helper()
	s, err := azurestore.New(t.Context(), config)
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

// makeContainer makes a container and returns what opens it.
func makeContainer(t *testing.T, server *teststore.Server, name string) azurestore.Config {
	t.Helper()
	config := azurestore.Config{Account: teststore.AzureAccount, Key: teststore.AzureKey, Container: name, Endpoint: server.URL + "/" + teststore.AzureAccount}
	cred, err := container.NewSharedKeyCredential(config.Account, config.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(config.Endpoint+"/"+name, cred, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return config
}

func TestStore(t *testing.T) {
	start := sync.OnceValue(func() azurestore.Config { // in the parent of all processes only
		return makeContainer(t, teststore.StartAzure(t), "suite")
	})
	var n atomic.Int32
	where := make(map[storage.Store]string)
	storetest.Run(t, func(t *testing.T) storage.Store {
		config := start()
		config.Prefix = fmt.Sprintf("suite/%d", n.Add(1))
		s := open(t, config)
		where[s] = config.Endpoint + " " + config.Prefix
		return s
	}, &storetest.Options{
		Locate: func(s storage.Store) string { return where[s] },
		Reopen: func(location string) (storage.Store, error) {
			endpoint, prefix, _ := strings.Cut(location, " ")
			return azurestore.New(t.Context(), azurestore.Config{Account: teststore.AzureAccount, Key: teststore.AzureKey, Container: "suite", Prefix: prefix, Endpoint: endpoint})
		},
		Objects: 1100, // which is two pages
		Slow:    os.Getenv("CAMPAIGN") == "",
	})
}
