package blobstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
)

// TestUnfinished: a writer that ends before its end leaves nothing with the drivers that publish what came before an error.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files, err := fileblob.OpenBucket(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, bucket := range map[string]*blob.Bucket{"mem": memblob.OpenBucket(nil), "file": files} {
		s := open(t, bucket, nil)
		want := map[string][]byte{"old": []byte("old")}
		put(t, s, "old", want["old"])
		for _, size := range unfinished {
			data := pattern(size)
			for _, key := range []string{"old", "new"} {
				for _, cancelled := range []bool{false, true} {
					ctx, cancel := context.WithCancel(t.Context())
					w, err := s.Create(ctx, key, nil)
					if err == nil {
						_, err = w.Write(data)
					}
					if err != nil {
						t.Fatal(err)
					}
					if cancelled {
						cancel()
						if _, err := w.Commit(t.Context()); !errors.Is(err, context.Canceled) {
							t.Errorf("%s: Commit after a cancellation: %v", name, err)
						}
					}
					w.Abort()
					cancel()
					only(t, s, fmt.Sprintf("%s, %d bytes of %s, cancelled %v", name, size, key, cancelled), want)
				}
			}
		}
	}
}

// upload returns a store whose driver writes by f.
func uploader(t *testing.T, opts blobstore.Options, f func(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error) *blobstore.Store {
	bucket := memblob.OpenBucket(nil)
	opts.Exclusive = true
	opts.Driver.Upload = func(ctx context.Context, key string, r io.Reader, o blobstore.Upload) error {
		return f(ctx, bucket, key, r, o)
	}
	return open(t, bucket, &opts)
}

// plainly writes as a driver does that has no way of its own.
func plainly(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error {
	return bucket.Upload(ctx, key, r, &blob.WriterOptions{ContentType: "application/octet-stream", IfNotExist: o.IfNotExist, Metadata: o.Metadata})
}

// TestAbortIsNoEnd: a driver that reads what is dropped never comes to its end, and has a cancelled context when it hears of an error.
func TestAbortIsNoEnd(t *testing.T) {
	for _, how := range []string{"Abort", "cancelled", "cancelled at Commit"} {
		heard := make(chan error, 1)
		s := uploader(t, blobstore.Options{}, func(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error {
			for p := make([]byte, 32<<10); ; {
				if _, err := r.Read(p); err != nil {
					heard <- errors.Join(err, ctx.Err())
					if ctx.Err() == nil {
						t.Errorf("%s: %v comes before the end of the context", how, err)
					}
					return err
				}
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w, err := s.Create(ctx, "object", nil)
		if err == nil {
			_, err = w.Write(pattern(1 << 20))
		}
		if err != nil {
			t.Fatal(err)
		}
		switch how {
		case "cancelled":
			cancel()
		case "cancelled at Commit":
			commit, cancel := context.WithCancel(t.Context())
			cancel()
			w.Commit(commit)
		}
		w.Abort()
		if err := <-heard; errors.Is(err, io.EOF) {
			t.Errorf("%s: the driver hears %v", how, err)
		}
	}
}

// TestParts: parts grow with what the caller expects, and fewer are sent at the same time where that takes too much memory.
func TestParts(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, test := range []struct {
		opts        blobstore.Options
		hint        int64
		part        int64
		concurrency int
	}{
		{blobstore.Options{}, 0, 8 * mib, 3},
		{blobstore.Options{}, 50 * gib, 8 * mib, 3},
		{blobstore.Options{}, 80000 * mib, 10 * mib, 3}, // an eighth more than that has room
		{blobstore.Options{}, 100 * gib, 12 * mib, 3},
		{blobstore.Options{}, 120 * gib, 14 * mib, 2},
		{blobstore.Options{}, 180 * gib, 21 * mib, 1},
		{blobstore.Options{}, 1 << 40, 118 * mib, 1},
		{blobstore.Options{MaxParts: 50_000}, 100 * gib, 8 * mib, 3},
		{blobstore.Options{PartSize: 64 * mib, Memory: 1 << 30, Concurrency: 9}, 0, 64 * mib, 9},
		{blobstore.Options{PartSize: 64 * mib, Concurrency: 9}, 0, 64 * mib, 1},
	} {
		var got blobstore.Upload
		s := uploader(t, test.opts, func(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error {
			got = o
			return plainly(ctx, bucket, key, r, o)
		})
		if err := storage.WriteFile(t.Context(), s, "object", []byte("x"), &storage.CreateOptions{SizeHint: test.hint}); err != nil {
			t.Fatal(err)
		}
		if got.PartSize != test.part || got.Concurrency != test.concurrency {
			t.Errorf("%+v, %d GiB: %d parts of %d MiB at the same time, want %d of %d", test.opts, test.hint>>30, got.Concurrency, got.PartSize>>20, test.concurrency, test.part>>20)
		}
		if room := got.PartSize * int64(got.MaxParts); room < test.hint {
			t.Errorf("%+v, %d bytes: there is room for %d only", test.opts, test.hint, room)
		}
		if got.Size != 1 {
			t.Errorf("the size of a small object is %d, want 1", got.Size)
		}
	}
}

// TestOutgrown: an object that has no room in the parts there can be fails with the first byte too many, and says what to do.
func TestOutgrown(t *testing.T) {
	const mib = 1 << 20
	s := open(t, memblob.OpenBucket(nil), &blobstore.Options{PartSize: mib, MaxParts: 3})
	w, err := s.Create(t.Context(), "object", nil)
	if err == nil {
		_, err = w.Write(make([]byte, 3*mib))
	}
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write([]byte("x")); n != 0 || err == nil || !strings.Contains(err.Error(), "SizeHint") {
		t.Errorf("Write of one byte more returned %d, %v", n, err)
	}
	if _, err := w.Commit(t.Context()); !errors.Is(err, storage.ErrAborted) {
		t.Errorf("Commit after it: %v", err)
	}
	only(t, s, "after an object that was too large", nil)
	if err := storage.WriteFile(t.Context(), s, "object", make([]byte, 4*mib), &storage.CreateOptions{SizeHint: 4 * mib}); err != nil {
		t.Errorf("with a hint: %v", err)
	}
}

// TestProviderFails: whatever a provider does to an upload, the writer has an error for it.
func TestProviderFails(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		data := pattern(size)
		for name, c := range map[string]struct {
			upload func(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error
			want   error // nil: any
			there  bool
		}{
			"panics": {func(context.Context, *blob.Bucket, string, io.Reader, blobstore.Upload) error { panic("provider") }, nil, false},
			"fails at once": {func(context.Context, *blob.Bucket, string, io.Reader, blobstore.Upload) error {
				return &net.OpError{Op: "dial", Err: errors.New("refused")}
			}, storage.ErrTransient, false},
			"fails at the end": {func(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error {
				io.Copy(io.Discard, r)
				return blobstore.ByStatus(403, errors.New("no"))
			}, storage.ErrDenied, false},
			"loses to another": {func(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error {
				io.Copy(io.Discard, r)
				bucket.WriteAll(ctx, key, data, nil)
				return errors.New("invalid blocks")
			}, storage.ErrExists, true},
			"stores less": {func(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error {
				all, err := io.ReadAll(r)
				return errors.Join(err, bucket.WriteAll(ctx, key, all[1:], &blob.WriterOptions{Metadata: o.Metadata}))
			}, nil, true},
		} {
			s := uploader(t, blobstore.Options{}, c.upload)
			err := storage.WriteFile(t.Context(), s, "object", data, onlyNew)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("a provider that %s with %d bytes: %v, want %v", name, size, err, c.want)
			}
			if _, err := s.Stat(t.Context(), "object"); (err == nil) != c.there {
				t.Errorf("a provider that %s with %d bytes: Stat returns %v", name, size, err)
			}
		}
		// And a success that is told as a failure is one: the object says whose it is.
		s := uploader(t, blobstore.Options{}, func(ctx context.Context, bucket *blob.Bucket, key string, r io.Reader, o blobstore.Upload) error {
			return errors.Join(plainly(ctx, bucket, key, r, o), io.ErrUnexpectedEOF)
		})
		if err := storage.WriteFile(t.Context(), s, "object", data, onlyNew); err != nil {
			t.Errorf("an upload of %d bytes whose answer was lost: %v", size, err)
		}
	}
}

// TestProviderHangs: a provider that heeds nothing doesn't keep a caller, and Close waits for it.
func TestProviderHangs(t *testing.T) {
	release := make(chan struct{})
	bucket := memblob.OpenBucket(nil)
	s, err := blobstore.New(bucket, &blobstore.Options{Driver: blobstore.Driver{Upload: func(context.Context, string, io.Reader, blobstore.Upload) error {
		<-release
		return errors.New("at last")
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{10, 1 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		within(t, "a write", func() {
			if err := storage.WriteFile(ctx, s, "object", pattern(size), nil); !errors.Is(err, context.Canceled) {
				t.Errorf("%d bytes: %v", size, err)
			}
		})
	}
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		t.Errorf("Close didn't wait for uploads: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// TestErrorsTellNoSecret: an error says what happened and keeps what is behind the ? of a URL to itself, and remains what it was.
func TestErrorsTellNoSecret(t *testing.T) {
	cause := &url.Error{Op: "Put", URL: "https://account.example/c/b?sv=1&sig=CANARY%2B1", Err: &net.OpError{Op: "dial", Err: errors.New("refused\r\n---\nby https://x/?token=CANARY")}}
	s := uploader(t, blobstore.Options{}, func(context.Context, *blob.Bucket, string, io.Reader, blobstore.Upload) error { return cause })
	err := storage.WriteFile(t.Context(), s, "object", []byte("x"), nil)
	if !errors.Is(err, storage.ErrTransient) || !errors.Is(err, cause) {
		t.Errorf("the error has lost what it was: %v", err)
	}
	if text := err.Error(); strings.Contains(text, "CANARY") || strings.ContainsAny(text, "\r\n") || !strings.Contains(text, "account.example/c/b") {
		t.Errorf("the error says %q", text)
	}
}

// TestForeignObjects: what others keep in the bucket under names that aren't ours is neither listed nor in the way.
func TestForeignObjects(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		bucket := memblob.OpenBucket(nil)
		for _, key := range []string{"p/", "p/.hidden", "p//x", "p/a/", "p/a/../b", "p\\x", "q/other", "p/" + strings.Repeat("x", 201), "pp/x"} {
			if err := bucket.WriteAll(t.Context(), key, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		s := open(t, bucket, &blobstore.Options{Prefix: "p", Ordered: ordered})
		put(t, s, "a/b", []byte("ours"))
		only(t, s, "beside others", map[string][]byte{"a/b": []byte("ours")})
		if ok, err := bucket.Exists(t.Context(), "p/a/b"); !ok || err != nil {
			t.Errorf("the object is not below the prefix: %v", err)
		}
	}
}

// A strange bucket lists these pages of keys.
type strange struct {
	driver.Bucket
	pages [][]string
}

func (s *strange) ListPaged(_ context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	i := len(opts.PageToken) // of a byte for each page
	p := &driver.ListPage{}
	for _, key := range s.pages[i] {
		p.Objects = append(p.Objects, &driver.ListObject{Key: key})
	}
	if i+1 < len(s.pages) {
		p.NextPageToken = append(opts.PageToken, 'x')
	}
	return p, nil
}

func (*strange) Close() error                       { return nil }
func (*strange) ErrorCode(error) gcerrors.ErrorCode { return gcerrors.Unknown }

// TestOrder: within a page keys are sorted; a bucket that doesn't list in the order that it was said to have is found out between pages, and more
// than can be sorted is an error.
func TestOrder(t *testing.T) {
	thousand := make([]string, 1000)
	for i := range thousand {
		thousand[i] = fmt.Sprintf("b/%03d", 999-i)
	}
	list := func(ordered bool, pages ...[]string) (keys []string, err error) {
		s := open(t, blob.NewBucket(&strange{pages: pages}), &blobstore.Options{Ordered: ordered})
		for info, err := range s.List(t.Context(), "") {
			if err != nil {
				return keys, err
			}
			keys = append(keys, info.Key)
		}
		return keys, nil
	}
	for _, ordered := range []bool{true, false} {
		keys, err := list(ordered, thousand, []string{"c", "d"})
		if err != nil || len(keys) != 1002 || !slices.IsSorted(keys) {
			t.Errorf("ordered %v: %d objects, %v", ordered, len(keys), err)
		}
	}
	if keys, err := list(true, thousand, []string{"a", "d"}); err == nil || !strings.Contains(err.Error(), "Ordered") || !slices.IsSorted(keys) {
		t.Errorf("out of order: %d objects, %v", len(keys), err)
	}
	if keys, err := list(false, thousand, []string{"a", "d"}); err != nil || len(keys) != 1002 || !slices.IsSorted(keys) {
		t.Errorf("out of order, as it is known: %d objects, %v", len(keys), err)
	}
	if keys, err := list(false, slices.Repeat(thousand, 132), []string{"z"}); err == nil || len(keys) != 0 {
		t.Errorf("too many to sort: %d objects, %v", len(keys), err)
	}
}

func TestNew(t *testing.T) {
	if _, err := blobstore.New(nil, nil); err == nil {
		t.Error("no bucket is no error")
	}
	for _, opts := range []blobstore.Options{{Prefix: "/"}, {Prefix: "a//b"}, {Prefix: ".."}, {PartSize: -1}, {MaxParts: -1}, {Concurrency: -1}, {Memory: -1}} {
		if _, err := blobstore.New(memblob.OpenBucket(nil), &opts); err == nil {
			t.Errorf("%+v is no error", opts)
		}
	}
}

// TestSignGet: a bucket without signed URLs says so.
func TestSignGet(t *testing.T) {
	s := open(t, memblob.OpenBucket(nil), nil)
	if got, err := storage.SignGet(t.Context(), s, "object", time.Minute); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%q, %v", got, err)
	}
}
