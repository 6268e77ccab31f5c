package azurestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"gocloud.dev/blob"

	amber "github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
)

// A driver is what is known of Azure beyond gocloud.
type driver struct {
	config Config
	bucket *blob.Bucket
}

// An upload is what a watch sees of one. Azure's library reads a source to its end though a block failed, and tells nobody the time of
// what it committed.
type upload struct {
	cancel context.CancelFunc

	mu      sync.Mutex
	err     error
	modTime time.Time
}

type uploadKey struct{}

// A watch looks at the answers to requests of an upload, after those that were repeated.
type watch struct{}

func (watch) Do(req *policy.Request) (*http.Response, error) {
	resp, err := req.Next()
	u, _ := req.Raw().Context().Value(uploadKey{}).(*upload)
	if u == nil {
		return resp, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = runtime.NewResponseError(resp) // which leaves the answer to be read again
		if u.err == nil {
			u.err = err
		}
		u.cancel()
		return resp, nil
	}
	switch {
	case err != nil && u.err == nil:
		u.err = err
		u.cancel()
	case err == nil && req.Raw().URL.Query().Get("comp") != "block":
		u.modTime, _ = http.ParseTime(resp.Header.Get("Last-Modified"))
	}
	return resp, err
}

// A stopping reader reads nothing more once its context has ended.
type stopping struct {
	ctx context.Context
	io.Reader
}

func (s *stopping) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.Reader.Read(p)
}

// upload writes an object as gocloud does, and ends with the first block that fails.
func (d *driver) upload(ctx context.Context, key string, r io.Reader, o blobstore.Upload) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	u := &upload{cancel: cancel}
	err := d.bucket.Upload(context.WithValue(ctx, uploadKey{}, u), key, &stopping{ctx, r}, &blob.WriterOptions{
		ContentType: "application/octet-stream", IfNotExist: o.IfNotExist, BufferSize: int(o.PartSize), MaxConcurrency: o.Concurrency, Metadata: o.Metadata,
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case err == nil && !u.modTime.IsZero():
		o.Stored(u.modTime)
	case err != nil && u.err != nil && errors.Is(err, context.Canceled):
		return u.err
	}
	return err
}

// pin makes a later read fail unless the object has the same ETag.
func (d *driver) pin(r *blob.Reader) func(as func(any) bool) error {
	var first azblob.DownloadStreamResponse
	if !r.As(&first) || first.ETag == nil {
		return nil
	}
	return func(as func(any) bool) error {
		var o *azblob.DownloadStreamOptions
		if as(&o) {
			o.AccessConditions = &azblob.AccessConditions{ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfMatch: first.ETag}}
		}
		return nil
	}
}

// short is an error of the service in few words.
type short struct {
	text string
	error
}

func (e *short) Error() string { return e.text }
func (e *short) Unwrap() error { return e.error }

func (d *driver) classify(err error) error {
	var login *azidentity.AuthenticationFailedError
	if errors.As(err, &login) {
		return fmt.Errorf("%w: %w", amber.ErrDenied, err)
	}
	var answer *azcore.ResponseError
	if !errors.As(err, &answer) {
		return err
	}
	said := &short{fmt.Sprintf("the service answers %d %s", answer.StatusCode, answer.ErrorCode), err}
	switch bloberror.Code(answer.ErrorCode) {
	case bloberror.ContainerNotFound, bloberror.ContainerBeingDeleted, bloberror.ContainerDisabled:
		return fmt.Errorf("there is no container %s: %w", d.config.Container, said)
	case bloberror.BlobImmutableDueToPolicy, bloberror.LeaseIDMissing:
		return fmt.Errorf("%w: %w", amber.ErrRetained, said)
	case bloberror.InvalidBlockList:
		// Whoever commits a blob drops the blocks of all others who write it.
		return fmt.Errorf("%w: somebody else wrote the object at the same time: %w", amber.ErrTransient, said)
	}
	if answer.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %w", amber.ErrNotFound, said)
	}
	return blobstore.ByStatus(answer.StatusCode, said)
}

// signGet signs a URL with the key of the account.
func (d *driver) signGet(ctx context.Context, key string, ttl time.Duration) (string, error) {
	if d.config.Key == "" {
		return "", fmt.Errorf("%w: URLs are signed with the key of the account, and the credentials are %s", errors.ErrUnsupported, d.config.how())
	}
	return d.bucket.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: ttl})
}

func (d *driver) describe(context.Context) []amber.Fact {
	return []amber.Fact{{Name: "provider", Value: "Azure Blob Storage"}, {Name: "endpoint", Value: d.config.Endpoint},
		{Name: "account", Value: d.config.Account}, {Name: "container", Value: d.config.Container}, {Name: "credentials", Value: d.config.how()}}
}

func (d *driver) advise(err error) string {
	switch {
	case errors.Is(err, amber.ErrDenied):
		return "give the credentials the role Storage Blob Data Contributor on the container " + d.config.Container + ", or use the key of the account"
	case errors.Is(err, amber.ErrRetained):
		return "an immutability policy, legal hold or lease keeps the object: wait until it ends, or change it in the portal"
	case errors.Is(err, errors.ErrUnsupported):
		return "signed URLs need the key of the account: set AZURE_STORAGE_KEY"
	}
	var answer *azcore.ResponseError
	if errors.As(err, &answer) && bloberror.HasCode(err, bloberror.ContainerNotFound) {
		return "make the container, or look whether its name is spelled right: az storage container list"
	}
	return ""
}
