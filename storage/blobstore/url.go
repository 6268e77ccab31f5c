package blobstore

import (
	"context"
	"fmt"
	"net/url"

	"github.com/amberkv/amber/storage"
)

// An Opener opens stores of one kind by their URL. Those of the sub-packages are s3store.Opener, gcsstore.Opener and azurestore.Opener.
type Opener interface {
	// Scheme is that of the URLs, such as "s3".
	Scheme() string
	// OpenURL opens a store. What it doesn't know of the URL is an error. The URL holds no secret: credentials come from where the provider's
	// own tools find them.
	OpenURL(ctx context.Context, u *url.URL) (storage.StoreCloser, error)
}

// OpenURL opens the store that a URL names, with the opener of its scheme; "file" and "mem" need none. The caller closes it.
func OpenURL(ctx context.Context, where string, openers ...Opener) (storage.StoreCloser, error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, fmt.Errorf("blobstore: not a URL: %w", err)
	}
	for _, o := range openers {
		if o.Scheme() == u.Scheme {
			return o.OpenURL(ctx, u)
		}
	}
	return nil, fmt.Errorf("blobstore: there is no store of kind %q", u.Scheme)
}
