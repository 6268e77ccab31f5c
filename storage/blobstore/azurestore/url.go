package azurestore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	amber "github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
)

// Opener opens URLs of the form azblob://container/prefix?account=…&endpoint=…, for blobstore.OpenURL. The credentials come from the environment, under the
// names of Azure's own tools: AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING; else they are Azure's default
// credential. AZURE_STORAGE_ACCOUNT, or the connection string, names the account if the URL doesn't.
type Opener struct{}

// Scheme returns "azblob".
func (Opener) Scheme() string { return "azblob" }

// OpenURL opens a container; see New.
func (Opener) OpenURL(ctx context.Context, u *url.URL) (amber.StoreCloser, error) {
	return open(ctx, u, false)
}

// HTTPSOpener opens URLs of the form https://<account>.blob.core.windows.net/<container>/prefix, which is how Dragonfly writes them. Otherwise it does as
// Opener does.
type HTTPSOpener struct{}

// Scheme returns "https".
func (HTTPSOpener) Scheme() string { return "https" }

// OpenURL opens a container; see New.
func (HTTPSOpener) OpenURL(ctx context.Context, u *url.URL) (amber.StoreCloser, error) {
	return open(ctx, u, true)
}

func open(ctx context.Context, u *url.URL, isHTTPS bool) (amber.StoreCloser, error) {
	config, err := parse(u, isHTTPS, os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", blobstore.ErrURL, err)
	}
	s, err := New(ctx, config)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func parse(u *url.URL, isHTTPS bool, getenv func(string) string) (Config, error) {
	var config Config
	if isHTTPS {
		if _, err := blobstore.Params(u); err != nil {
			return Config{}, err
		}
		account, domain, _ := strings.Cut(u.Host, ".")
		// Microsoft's only: others would be sent what the environment has for it.
		if !slices.Contains([]string{"blob.core.windows.net", "blob.core.usgovcloudapi.net", "blob.core.chinacloudapi.cn"}, domain) {
			return Config{}, fmt.Errorf("azurestore: https://%s/… is no container; it is https://<account>.blob.core.windows.net/<container>/prefix", u.Host)
		}
		config.Account, config.Endpoint = account, "https://"+u.Host
		config.Container, config.Prefix, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
	} else {
		params, err := blobstore.Params(u, "account", "anonymous", "endpoint")
		if err != nil {
			return Config{}, err
		}
		config = Config{Account: params["account"], Endpoint: params["endpoint"], Container: u.Host, Prefix: strings.Trim(u.Path, "/")}
		if a, ok := params["anonymous"]; ok {
			if a != "true" && a != "false" {
				return Config{}, errors.New("azurestore: the URL's anonymous is neither true nor false")
			}
			config.Anonymous = a == "true"
		}
	}
	if config.Container == "" {
		return Config{}, errors.New("azurestore: the URL names no container; it is azblob://container/prefix")
	}
	connection := fields(getenv("AZURE_STORAGE_CONNECTION_STRING"))
	first := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	// What the URL says of the account counts, and a key is for its own account only.
	own := first(getenv("AZURE_STORAGE_ACCOUNT"), connection["AccountName"])
	if config.Account == "" {
		config.Account = own
	}
	if config.Endpoint == "" && config.Account == own {
		config.Endpoint = connection["BlobEndpoint"]
		if suffix := connection["EndpointSuffix"]; config.Endpoint == "" && suffix != "" {
			config.Endpoint = first(connection["DefaultEndpointsProtocol"], "https") + "://" + config.Account + ".blob." + suffix
		}
	}
	if config.Account == "" {
		return Config{}, errors.New("azurestore: nothing names the storage account: set AZURE_STORAGE_ACCOUNT, or write azblob://container/prefix?account=name")
	}
	if config.Anonymous || own != "" && config.Account != own {
		return config, nil
	}
	if config.Key = first(getenv("AZURE_STORAGE_KEY"), connection["AccountKey"]); config.Key == "" {
		config.SAS = first(getenv("AZURE_STORAGE_SAS_TOKEN"), connection["SharedAccessSignature"])
		if config.SAS != "" && u.Query().Has("endpoint") {
			// It would be sent there as it is; of a key only signatures are.
			return Config{}, errors.New("azurestore: a shared access signature from the environment is for the account's own endpoint, not for one that a URL names; name it by AZURE_STORAGE_CONNECTION_STRING")
		}
	}
	return config, nil
}

// fields returns the name=value pairs of a connection string.
func fields(connection string) map[string]string {
	m := make(map[string]string)
	for pair := range strings.SplitSeq(connection, ";") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			m[strings.TrimSpace(name)] = value
		}
	}
	return m
}
