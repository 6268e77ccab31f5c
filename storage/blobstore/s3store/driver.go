package s3store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	"gocloud.dev/blob"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// delete removes an object. With object lock, versions are what is locked: a plain delete would hide the object, keep its bytes, and never
// be refused. So all its versions are deleted, the newest last, that it doesn't give way to an older one.
func (d *driver) delete(ctx context.Context, key string) error {
	if _, err := d.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &d.cfg.Bucket, Key: &key}); err != nil {
		return err
	}
	if d.cfg.ObjectLock == "" {
		return d.deleteVersion(ctx, key, nil)
	}
	type version struct {
		id   *string
		time time.Time
	}
	var all []version
	pages := s3.NewListObjectVersionsPaginator(d.s3, &s3.ListObjectVersionsInput{Bucket: &d.cfg.Bucket, Prefix: &key})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("listing the versions: %w", err)
		}
		for _, v := range page.Versions {
			if aws.ToString(v.Key) == key {
				all = append(all, version{v.VersionId, aws.ToTime(v.LastModified)})
			}
		}
		for _, m := range page.DeleteMarkers {
			if aws.ToString(m.Key) == key {
				all = append(all, version{m.VersionId, aws.ToTime(m.LastModified)})
			}
		}
		// Keys come in their order, so that those of longer names with this prefix needn't be read to their end.
		if n := len(page.Versions); n > 0 && aws.ToString(page.Versions[n-1].Key) > key {
			break
		}
	}
	// They are listed newest first.
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b version) int { return a.time.Compare(b.time) })
	for _, v := range all {
		if err := d.deleteVersion(ctx, key, v.id); err != nil {
			return err
		}
	}
	return nil
}

// deleteVersion deletes a version of an object, or with a nil id the object.
func (d *driver) deleteVersion(ctx context.Context, key string, id *string) error {
	_, err := d.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &d.cfg.Bucket, Key: &key, VersionId: id})
	if err == nil || !errors.Is(d.classify(err), storage.ErrDenied) {
		return err
	}
	// Not every service says why it denies a delete.
	out, headErr := d.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &d.cfg.Bucket, Key: &key, VersionId: id})
	if headErr != nil {
		return err
	}
	switch until := aws.ToTime(out.ObjectLockRetainUntilDate); {
	case out.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn:
		return fmt.Errorf("%w, by a legal hold: %w", storage.ErrRetained, err)
	case until.After(clock.System()):
		return fmt.Errorf("%w until %s (%s): %w", storage.ErrRetained, until.UTC().Format(time.RFC3339), strings.ToLower(string(out.ObjectLockMode)), err)
	}
	return err
}

// pin makes later reads fail if the object is another by then.
func (d *driver) pin(r *blob.Reader) func(as func(any) bool) error {
	var out s3.GetObjectOutput
	if !r.As(&out) || out.ETag == nil {
		return nil
	}
	return func(as func(any) bool) error {
		var in *s3.GetObjectInput
		if !as(&in) {
			return errors.New("s3store: this is no read of S3")
		}
		in.IfMatch = out.ETag
		return nil
	}
}

// sweep ends the uploads below prefix that nothing was written to since before.
func (d *driver) sweep(ctx context.Context, prefix string, before time.Time) (objects int, bytes int64, err error) {
	// From page to page by the key alone: versitygw doesn't know its own marker of an upload, and others may not once that upload has ended. Of
	// several uploads of one key at the end of a page the rest is left to the next sweep.
	for marker, more := (*string)(nil), true; more; {
		page, err := d.s3.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &d.cfg.Bucket, Prefix: optional(prefix), KeyMarker: marker})
		if err != nil {
			return objects, bytes, fmt.Errorf("listing unfinished uploads: %w", err)
		}
		for _, up := range page.Uploads {
			if !strings.HasPrefix(aws.ToString(up.Key), prefix) || !aws.ToTime(up.Initiated).Before(before) {
				continue
			}
			size, last, err := d.unfinished(ctx, up)
			if err == nil && last.Before(before) {
				_, err = d.s3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &d.cfg.Bucket, Key: up.Key, UploadId: up.UploadId})
				if err == nil {
					objects, bytes = objects+1, bytes+size
				}
			}
			if err != nil && !isCode(err, "NoSuchUpload") { // then it has ended meanwhile
				return objects, bytes, fmt.Errorf("ending the upload of %s: %w", aws.ToString(up.Key), err)
			}
		}
		more = aws.ToBool(page.IsTruncated) && aws.ToString(page.NextKeyMarker) > aws.ToString(marker)
		marker = page.NextKeyMarker
	}
	return objects, bytes, nil
}

// unfinished returns the size of an unfinished upload, and when its last part came.
func (d *driver) unfinished(ctx context.Context, up types.MultipartUpload) (size int64, last time.Time, err error) {
	last = aws.ToTime(up.Initiated)
	pages := s3.NewListPartsPaginator(d.s3, &s3.ListPartsInput{Bucket: &d.cfg.Bucket, Key: up.Key, UploadId: up.UploadId})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return 0, last, err
		}
		for _, p := range page.Parts {
			size += aws.ToInt64(p.Size)
			if t := aws.ToTime(p.LastModified); t.After(last) {
				last = t
			}
		}
	}
	return size, last, nil
}

// maxSignedLife is the longest that a signature of version 4 may hold.
const maxSignedLife = 7 * 24 * time.Hour

// signGet returns a URL that reads an object until ttl has passed, or until the credentials expire that it is signed with.
func (d *driver) signGet(ctx context.Context, key string, ttl time.Duration) (string, error) {
	if ttl < time.Second || ttl > maxSignedLife {
		return "", fmt.Errorf("a URL can be signed for a second to %d days, not for %v", maxSignedLife/(24*time.Hour), ttl)
	}
	req, err := s3.NewPresignClient(d.s3, s3.WithPresignExpires(ttl)).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &d.cfg.Bucket, Key: &key})
	if err != nil {
		return "", err
	}
	return req.URL, nil
}

// tellWhy makes HeadObject tell why it fails. The answer to HEAD has no words: it is 404 for a bucket that doesn't exist too, and a store that
// isn't there must not look like an empty one; and one number stands for all reasons that a request can be refused for. A list of one
// object has the words. What isn't there is asked for once only if the bucket is.
func (c *client) tellWhy(stack *middleware.Stack) error {
	if stack.ID() != "HeadObject" {
		return nil
	}
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("tellWhy", func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
		out, meta, err := next.HandleInitialize(ctx, in)
		missing := isStatus(err, http.StatusNotFound)
		switch {
		case err == nil:
			c.seen.Store(true)
			return out, meta, nil
		case missing && c.seen.Load(), !missing && !isStatus(err, http.StatusBadRequest) && !isStatus(err, http.StatusForbidden) && !isStatus(err, http.StatusMovedPermanently):
			return out, meta, err
		}
		_, why := c.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: in.Parameters.(*s3.HeadObjectInput).Bucket, MaxKeys: aws.Int32(1)})
		switch {
		case why == nil:
			c.seen.Store(true)
		case !isCode(why, "AccessDenied"): // that is for the list
			err = why
		}
		return out, meta, err
	}), middleware.Before)
}
