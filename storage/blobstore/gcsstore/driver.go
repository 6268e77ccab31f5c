package gcsstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/storage"
	"gocloud.dev/blob"
	"google.golang.org/api/googleapi"

	amber "github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
)

// A driver is what is known of Google's storage beyond gocloud.
type driver struct {
	config Config
	creds  *credentials
	bucket *blob.Bucket
}

// upload writes an object as gocloud does. Google's library sends an object piece after piece, each of which it may send again: for a small one it
// needs less memory for that, and in the end it knows the object's time. It would try to begin an upload for ever, or, without IfNotExist, not
// again at all: but the same bytes twice are no other object.
func (d *driver) upload(ctx context.Context, key string, r io.Reader, o blobstore.Upload) error {
	var w *storage.Writer
	var failed atomic.Int32 // attempts since something got through
	again := func(err error) bool { return storage.ShouldRetry(err) && failed.Add(1) < attempts }
	in := &counted{Reader: r}
	err := d.bucket.Upload(ctx, key, in, &blob.WriterOptions{
		ContentType: "application/octet-stream", IfNotExist: o.IfNotExist, BufferSize: int(o.PartSize), Metadata: o.Metadata,
		BeforeWrite: func(as func(any) bool) error {
			var h **storage.ObjectHandle
			if as(&h) {
				*h = (*h).Retryer(storage.WithErrorFunc(again), storage.WithPolicy(storage.RetryAlways))
			}
			if !as(&w) {
				return nil
			}
			w.ProgressFunc = func(int64) { failed.Store(0) }
			if o.Size >= 0 {
				w.ChunkSize = googleapi.MinUploadChunkSize
			}
			return nil
		},
	})
	if err != nil || w == nil || w.Attrs() == nil {
		return err
	}
	stored := w.Attrs()
	if stored.Size != in.n {
		// Of a server that counts a piece twice which was sent again. The object is ours, and nobody shall have it.
		var client *storage.Client
		if d.bucket.As(&client) {
			err = client.Bucket(stored.Bucket).Object(stored.Name).If(storage.Conditions{GenerationMatch: stored.Generation}).Delete(ctx)
		}
		return errors.Join(fmt.Errorf("the service stored %d bytes of an object of %d, which was deleted", stored.Size, in.n), err)
	}
	o.Stored(stored.Updated)
	return nil
}

// A counted reader counts what was read of it.
type counted struct {
	io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// pin makes a later read one of the same generation of the object.
func (d *driver) pin(r *blob.Reader) func(as func(any) bool) error {
	var first *storage.Reader
	if !r.As(&first) || first.Attrs.Generation == 0 {
		return nil
	}
	return func(as func(any) bool) error {
		var h **storage.ObjectHandle
		if as(&h) {
			*h = (*h).Generation(first.Attrs.Generation)
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
	var answer *googleapi.Error
	if !errors.As(err, &answer) {
		if errors.Is(err, storage.ErrBucketNotExist) {
			return d.noBucket()
		}
		return err
	}
	reason := ""
	if len(answer.Errors) > 0 {
		reason = answer.Errors[0].Reason
	}
	said := &short{strings.TrimSpace(fmt.Sprintf("the service answers %d %s %s", answer.Code, reason, answer.Message)), err}
	switch {
	case answer.Code == http.StatusNotFound && strings.Contains(answer.Message+answer.Body, "bucket does not exist"):
		return d.noBucket()
	case answer.Code == http.StatusNotFound:
		return fmt.Errorf("%w: %w", amber.ErrNotFound, said)
	case reason == "retentionPolicyNotMet", reason == "objectUnderActiveHold":
		return fmt.Errorf("%w: %w", amber.ErrRetained, said)
	}
	return blobstore.ByStatus(answer.Code, said)
}

func (d *driver) noBucket() error {
	return fmt.Errorf("there is no bucket %s", d.config.Bucket)
}

// signGet signs a URL with the key of a service account.
func (d *driver) signGet(ctx context.Context, key string, ttl time.Duration) (string, error) {
	if d.creds.key == nil {
		return "", fmt.Errorf("%w: these credentials (%s) have no key to sign URLs with; use the key file of a service account", errors.ErrUnsupported, d.creds.how)
	}
	return d.bucket.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: ttl, BeforeSign: func(as func(any) bool) error {
		var o *storage.SignedURLOptions
		if !as(&o) {
			return nil
		}
		o.Scheme = storage.SigningSchemeV4
		if u, err := url.Parse(d.config.Endpoint); err == nil && u.Host != "" {
			o.Hostname, o.Insecure = u.Host, u.Scheme == "http"
		}
		return nil
	}})
}

func (d *driver) describe(context.Context) []amber.Fact {
	facts := []amber.Fact{{Name: "provider", Value: "Google Cloud Storage"}, {Name: "bucket", Value: d.config.Bucket}, {Name: "credentials", Value: d.creds.how}}
	if d.config.Endpoint != "" {
		facts = append(facts, amber.Fact{Name: "endpoint", Value: d.config.Endpoint})
	}
	return facts
}

func (d *driver) advise(err error) string {
	switch {
	case errors.Is(err, amber.ErrDenied):
		return "grant the credentials the role Storage Object User (roles/storage.objectUser) on the bucket " + d.config.Bucket
	case errors.Is(err, amber.ErrRetained):
		return "the bucket's retention policy or a hold keeps the object: wait until it ends, or change it in the console"
	case errors.Is(err, errors.ErrUnsupported):
		return "signed URLs need the key file of a service account: set GOOGLE_APPLICATION_CREDENTIALS"
	case err != nil && (strings.Contains(err.Error(), "there is no bucket") || strings.Contains(err.Error(), "the bucket does not exist")):
		return "make the bucket, or look whether its name is spelled right: gcloud storage buckets list"
	}
	return ""
}
