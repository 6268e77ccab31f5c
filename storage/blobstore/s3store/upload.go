package s3store

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage/blobstore"
)

// A driver is what the store does with S3 itself.
type driver struct {
	*client
	cfg    Config
	heeded atomic.Bool // the service heeds If-None-Match
	locks  atomic.Bool // the bucket has object lock, or may not be asked
	// ignored is the error of creates that should be exclusive, once the service was seen to ignore that.
	ignored atomic.Pointer[string]
}

// cleanupTime is how long the end of an upload that failed may take. Sweep ends what it couldn't.
const cleanupTime = 10 * time.Second

const contentType = "application/octet-stream"

// upload writes an object: in one request if it fits into a part, else in parts of the same size, Concurrency of them at the same time. It
// holds a part more than it sends.
//
// It is our own because the transfer manager of the SDK writes to the process's log, leaves uploads behind when it is cancelled, and grows its first
// buffer by copying.
func (d *driver) upload(ctx context.Context, key string, r io.Reader, o blobstore.Upload) error {
	if o.IfNotExist {
		if text := d.ignored.Load(); text != nil {
			return fmt.Errorf("%w: %s", errors.ErrUnsupported, *text)
		}
	}
	if err := d.lockable(ctx); err != nil {
		return err
	}
	if o.Size >= 0 && o.Size <= o.PartSize {
		data, err := io.ReadAll(io.LimitReader(r, o.Size))
		if err != nil {
			return err
		}
		return d.put(ctx, key, data, o)
	}
	first, err := readPart(ctx, r, make([]byte, 0, o.PartSize))
	switch {
	case err == io.EOF:
		return d.put(ctx, key, first, o)
	case err != nil:
		return err
	}
	return d.multipart(ctx, key, first, r, o)
}

// readPart fills buf up to its capacity. The error is io.EOF if r ended before.
func readPart(ctx context.Context, r io.Reader, buf []byte) ([]byte, error) {
	for len(buf) < cap(buf) {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil {
			return buf, err
		}
		if ctx.Err() != nil {
			return buf, context.Cause(ctx)
		}
	}
	return buf, nil
}

// put writes an object in one request.
func (d *driver) put(ctx context.Context, key string, data []byte, o blobstore.Upload) error {
	in := &s3.PutObjectInput{
		Bucket: &d.cfg.Bucket, Key: &key, ContentType: aws.String(contentType), ContentLength: aws.Int64(int64(len(data))),
		Metadata: o.Metadata, StorageClass: types.StorageClass(d.cfg.StorageClass), ServerSideEncryption: types.ServerSideEncryption(d.cfg.SSE), SSEKMSKeyId: optional(d.cfg.KMSKeyID),
		ObjectLockMode: types.ObjectLockMode(d.cfg.ObjectLock), ObjectLockRetainUntilDate: d.retainUntil(),
	}
	switch d.cfg.Checksum {
	case "md5":
		in.ContentMD5 = md5Of(data)
	case "crc32":
		in.ChecksumCRC32 = crc32Of(data)
	}
	if o.IfNotExist {
		in.IfNoneMatch = aws.String("*")
	}
	send := func() error {
		in.Body = bytes.NewReader(data)
		_, err := d.s3.PutObject(ctx, in)
		return err
	}
	if err := send(); err != nil || !o.IfNotExist || d.heeded.Load() {
		return err
	}
	// The object is ours now. A service that heeds If-None-Match refuses to write it again; one that doesn't writes the same bytes.
	switch err := send(); {
	case isPrecondition(err):
		d.heeded.Store(true)
		return nil
	case err != nil:
		return fmt.Errorf("the object was written; whether the service makes creates exclusive couldn't be found out: %w", err)
	default:
		text := "the service ignores If-None-Match: of two creates of the same object both succeeded. Its creates are not exclusive; say so (exclusive=no in a URL), and keep the catalog in a database"
		d.ignored.Store(&text)
		return fmt.Errorf("%w: %s", errors.ErrUnsupported, text)
	}
}

// multipart writes an object of more than a part. first is its first part.
func (d *driver) multipart(ctx context.Context, key string, first []byte, r io.Reader, o blobstore.Upload) (err error) {
	create := &s3.CreateMultipartUploadInput{
		Bucket: &d.cfg.Bucket, Key: &key, ContentType: aws.String(contentType),
		Metadata: o.Metadata, StorageClass: types.StorageClass(d.cfg.StorageClass), ServerSideEncryption: types.ServerSideEncryption(d.cfg.SSE), SSEKMSKeyId: optional(d.cfg.KMSKeyID),
		ObjectLockMode: types.ObjectLockMode(d.cfg.ObjectLock), ObjectLockRetainUntilDate: d.retainUntil(),
	}
	if d.cfg.Checksum == "crc32" {
		create.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	}
	up, err := d.s3.CreateMultipartUpload(ctx, create)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if left := d.abandon(ctx, key, up.UploadId); left != nil {
			err = fmt.Errorf("%w (and its parts are left for a sweep: %v)", err, left)
		}
	}()

	parts, err := d.parts(ctx, key, up.UploadId, first, r, o)
	if err != nil {
		return err
	}
	complete := &s3.CompleteMultipartUploadInput{
		Bucket: &d.cfg.Bucket, Key: &key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}
	if o.IfNotExist {
		complete.IfNoneMatch = aws.String("*")
	}
	_, err = d.s3.CompleteMultipartUpload(ctx, complete)
	return err
}

// abandon ends an upload, in time of its own because ctx may be what ended. The service may have all of a part and still be putting it in its
// place, upon which some have the upload back; so it is looked twice whether it is gone.
func (d *driver) abandon(ctx context.Context, key string, id *string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	for gone := 0; ; {
		_, err := d.s3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &d.cfg.Bucket, Key: &key, UploadId: id})
		if isCode(err, "NoSuchUpload") {
			if gone++; gone == 2 {
				return nil
			}
		} else {
			gone = 0
		}
		if clock.Sleep(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}

// parts sends the parts of an upload.
func (d *driver) parts(ctx context.Context, key string, id *string, first []byte, r io.Reader, o blobstore.Upload) ([]types.CompletedPart, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Concurrency)
	var (
		mu    sync.Mutex
		parts []types.CompletedPart
	)
	free := make(chan []byte, o.Concurrency+1)
	for range o.Concurrency {
		free <- nil // made when it is needed
	}
	send := func(n int32, data []byte) {
		g.Go(func() error {
			defer func() { free <- data }()
			in := &s3.UploadPartInput{Bucket: &d.cfg.Bucket, Key: &key, UploadId: id, PartNumber: &n, Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data)))}
			switch d.cfg.Checksum {
			case "md5":
				in.ContentMD5 = md5Of(data)
			case "crc32":
				in.ChecksumCRC32 = crc32Of(data)
			}
			out, err := d.s3.UploadPart(ctx, in)
			if err != nil {
				return fmt.Errorf("part %d: %w", n, err)
			}
			mu.Lock()
			defer mu.Unlock()
			parts = append(parts, types.CompletedPart{PartNumber: &n, ETag: out.ETag, ChecksumCRC32: in.ChecksumCRC32})
			return nil
		})
	}
	n := int32(1)
	send(n, first)
	var failed error // here, not in a part
	for ended := false; !ended && failed == nil && ctx.Err() == nil; {
		var data []byte
		select {
		case data = <-free:
		case <-ctx.Done():
			continue
		}
		if data == nil {
			data = make([]byte, 0, o.PartSize)
		}
		var err error
		data, err = readPart(ctx, r, data[:0])
		ended = err == io.EOF
		switch {
		case err != nil && !ended:
			failed = err
		case len(data) == 0:
		case int(n) == o.MaxParts:
			failed = fmt.Errorf("the object is larger than the %d parts of %d bytes that an upload may have; give a size hint, or larger parts", o.MaxParts, o.PartSize)
		default:
			n++
			send(n, data)
		}
	}
	if failed == nil {
		failed = ctx.Err() // of a part too, which is then what Wait returns
	}
	if failed != nil {
		g.Go(func() error { return failed }) // and the parts at work end
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(parts, func(a, b types.CompletedPart) int { return int(*a.PartNumber) - int(*b.PartNumber) })
	return parts, nil
}

// isPrecondition says whether the service refused a request because of its If-None-Match.
func isPrecondition(err error) bool {
	var r *smithyhttp.ResponseError
	return errors.As(err, &r) && r.HTTPStatusCode() == http.StatusPreconditionFailed
}

// lockable fails if objects should be locked and the bucket can't. Some services take a locked object into any bucket, and don't lock it.
func (d *driver) lockable(ctx context.Context) error {
	if d.cfg.ObjectLock == "" || d.locks.Load() {
		return nil
	}
	out, err := d.s3.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &d.cfg.Bucket})
	switch {
	case err == nil && out.ObjectLockConfiguration != nil && out.ObjectLockConfiguration.ObjectLockEnabled == types.ObjectLockEnabledEnabled:
	case err == nil, isCode(err, "ObjectLockConfigurationNotFoundError"):
		return fmt.Errorf("%w: %s", errNoLock, d.cfg.Bucket)
	case isStatus(err, http.StatusForbidden): // these credentials may not ask
	default:
		return err
	}
	d.locks.Store(true)
	return nil
}

var errNoLock = errors.New("objects should be locked, and the bucket has no object lock")

func (d *driver) retainUntil() *time.Time {
	if d.cfg.ObjectLock == "" {
		return nil
	}
	t := clock.System().Add(d.cfg.Retain).UTC()
	return &t
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func md5Of(data []byte) *string {
	sum := md5.Sum(data)
	return aws.String(base64.StdEncoding.EncodeToString(sum[:]))
}

func crc32Of(data []byte) *string {
	return aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(data))))
}
