// Package azurestore opens containers of Azure Blob Storage as stores.
package azurestore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"gocloud.dev/blob/azureblob"

	"github.com/amberkv/amber/storage/blobstore"
)

// A Config says where a container is and who asks for it. Of Key, SAS and Credential at most one is given; without any it is
// Azure's default credential: the environment (AZURE_CLIENT_ID and its like), workload identity, managed identity, or the login of az.
type Config struct {
	Account   string // name of the storage account
	Container string
	Prefix    string // before every key; see blobstore.Options

	Key        string                 // of the account, as the portal gives it
	SAS        string                 // a shared access signature: sv=…&sig=…
	Credential azcore.TokenCredential // the host's own
	// Anonymous asks without credentials, for a container that everybody may read.
	Anonymous bool

	// Endpoint is the URL of the account's blob service. Empty: https://<account>.blob.core.windows.net. That of an Azurite ends in the account, as
	// http://127.0.0.1:10000/devstoreaccount1 does.
	Endpoint string
}

// A block of an object, and how many the service takes.
const (
	partSize = 8 << 20
	maxParts = 50_000
)

// New opens a container. The caller closes the store. That the container exists, and may be used, is not checked.
//
// The service keeps the blocks of uploads that were not committed, unseen, for a week, and has no way to remove them before.
func New(ctx context.Context, config Config) (*blobstore.Store, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	d := &driver{config: config}
	client, err := config.client(&container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry:           policy.RetryOptions{MaxRetries: 3, RetryDelay: 200 * time.Millisecond, MaxRetryDelay: 3 * time.Second},
		PerCallPolicies: []policy.Policy{watch{}},
	}})
	if err != nil {
		return nil, err
	}
	if d.bucket, err = azureblob.OpenBucket(ctx, client, nil); err != nil {
		return nil, fmt.Errorf("azurestore: %w", err)
	}
	return blobstore.New(d.bucket, &blobstore.Options{
		Prefix: config.Prefix, Exclusive: true, Ordered: true, PartSize: partSize, MaxParts: maxParts,
		Driver: blobstore.Driver{Upload: d.upload, Pin: d.pin, Classify: d.classify, SignGet: d.signGet, Describe: d.describe, Advise: d.advise},
	})
}

func (c *Config) check() error {
	if c.Container == "" {
		return errors.New("azurestore: Config.Container is empty")
	}
	if c.Account == "" && (c.Endpoint == "" || c.Key != "") {
		return errors.New("azurestore: Config.Account is empty; it is the name of the storage account")
	}
	given := 0
	for _, g := range []bool{c.Key != "", c.SAS != "", c.Credential != nil, c.Anonymous} {
		if g {
			given++
		}
	}
	if given > 1 {
		return errors.New("azurestore: of Config's Key, SAS, Credential and Anonymous only one can be")
	}
	if c.Endpoint == "" {
		c.Endpoint = "https://" + c.Account + ".blob.core.windows.net"
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return errors.New("azurestore: Config.Endpoint is not the URL of a blob service, as https://account.blob.core.windows.net is; a shared access signature goes to Config.SAS")
	}
	return nil
}

func (c *Config) client(opts *container.ClientOptions) (*container.Client, error) {
	where := strings.TrimSuffix(c.Endpoint, "/") + "/" + url.PathEscape(c.Container)
	switch {
	case c.Key != "":
		cred, err := container.NewSharedKeyCredential(c.Account, c.Key)
		if err != nil {
			return nil, errors.New("azurestore: Config.Key is not the key of an account: it is not base64")
		}
		return container.NewClientWithSharedKeyCredential(where, cred, opts)
	case c.SAS != "":
		return container.NewClientWithNoCredential(where+"?"+strings.TrimPrefix(c.SAS, "?"), opts)
	case c.Anonymous:
		return container.NewClientWithNoCredential(where, opts)
	}
	cred := c.Credential
	if cred == nil {
		var err error
		if cred, err = azidentity.NewDefaultAzureCredential(nil); err != nil {
			return nil, fmt.Errorf("azurestore: Azure's default credential: %w", err)
		}
	}
	return container.NewClient(where, cred, opts)
}

// how says to people what the credentials are.
func (c *Config) how() string {
	switch {
	case c.Key != "":
		return "account key"
	case c.SAS != "":
		return "shared access signature"
	case c.Anonymous:
		return "none"
	case c.Credential != nil:
		return "the host's own"
	}
	return "Azure's default"
}
