package s3store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// owner is a client of the SDK's by itself, to look at a server from outside.
func owner(s *teststore.S3) *s3.Client {
	return s3.New(s3.Options{BaseEndpoint: &s.URL, UsePathStyle: true, Region: teststore.S3Region,
		Credentials: credentials.NewStaticCredentialsProvider(teststore.S3AccessKey, teststore.S3SecretKey, "")})
}

// unfinished returns the unfinished uploads of a bucket.
func unfinished(t testing.TB, s *teststore.S3, bucket string) []types.MultipartUpload {
	t.Helper()
	out, err := owner(s).ListMultipartUploads(context.Background(), &s3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	return out.Uploads
}

// TestParts: an object of several parts is sent in parts of one size, several at the same time, in the memory that Upload says.
func TestParts(t *testing.T) {
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	var now, most atomic.Int32
	var once sync.Once
	three := make(chan struct{})
	record.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Has("partNumber") {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			if n == 3 {
				once.Do(func() { close(three) })
			}
			select {
			case <-three:
			case <-time.After(10 * time.Second):
			}
			time.Sleep(50 * time.Millisecond) // so that a fourth may come, if there is one
			now.Add(-1)
		}
		return false
	}
	cfg := config(server, server.Bucket("parts"))
	cfg.Endpoint, cfg.PartSize, cfg.Concurrency = record.URL, 5<<20, 3
	s := open(t, cfg)
	data := random(1, 5<<20)
	const size = 48<<20 + 1
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	before, peak := stats.HeapAlloc, uint64(0)
	w, err := s.Create(t.Context(), "large", &storage.CreateOptions{SizeHint: size})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for left := size; left > 0; {
		n := min(left, 100_000)
		if _, err := w.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		if left -= n; left%50 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&stats)
			peak = max(peak, stats.HeapAlloc)
		}
	}
	info, err := w.Commit(t.Context())
	if err != nil || info.Size != size {
		t.Fatalf("%+v, %v", info, err)
	}
	sizes := map[int64]int{}
	for _, r := range puts(record.take()) {
		sizes[r.length]++
	}
	if sizes[5<<20] != 9 || sizes[3<<20+1] != 1 || len(sizes) != 2 {
		t.Errorf("the parts are %v", sizes)
	}
	if got := most.Load(); got != 3 {
		t.Errorf("%d parts are sent at the same time, want 3", got)
	}
	// Four parts, and what the proxy in this process holds.
	if used := int64(peak) - int64(before); used > 30<<20 {
		t.Errorf("the upload takes %d MiB of heap", used>>20)
	}
	r, err := s.Open(t.Context(), "large", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); n != size || err != nil {
		t.Errorf("%d bytes are read, %v", n, err)
	}
}

// TestCancel: an upload that is cancelled, dropped or fails leaves no upload behind, and nothing is written to the log.
func TestCancel(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	cfg := config(server, server.Bucket("cancelled"))
	cfg.PartSize = 5 << 20
	data := random(1, 12<<20)
	ways := map[string]func(s storage.Store, cancel context.CancelFunc, w storage.Writer){
		"the context of Create": func(_ storage.Store, cancel context.CancelFunc, w storage.Writer) {
			cancel()
			if _, err := w.Commit(context.Background()); !errors.Is(err, context.Canceled) {
				t.Errorf("Commit: %v", err)
			}
		},
		"the context of Commit": func(_ storage.Store, _ context.CancelFunc, w storage.Writer) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, err := w.Commit(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Commit: %v", err)
			}
		},
		"Abort": func(_ storage.Store, _ context.CancelFunc, w storage.Writer) { w.Abort() },
		"an object that is there": func(s storage.Store, _ context.CancelFunc, w storage.Writer) {
			if err := storage.WriteFile(context.Background(), s, "object", nil, nil); err != nil {
				t.Error(err)
			}
			if _, err := w.Commit(context.Background()); !errors.Is(err, storage.ErrExists) {
				t.Errorf("Commit: %v", err)
			}
			if err := s.Delete(context.Background(), "object"); err != nil {
				t.Error(err)
			}
		},
	}
	for what, end := range ways {
		s := open(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w, err := s.Create(ctx, "object", &storage.CreateOptions{IfNotExist: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if n := len(unfinished(t, server, cfg.Bucket)); n != 1 {
			t.Fatalf("%s: there are %d uploads under way, want 1", what, n)
		}
		end(s, cancel, w)
		w.Abort()
		s.Close() // waits for what still ends
		if left := unfinished(t, server, cfg.Bucket); len(left) != 0 {
			t.Errorf("%s: %d uploads are left", what, len(left))
		}
		if _, err := open(t, cfg).Stat(t.Context(), "object"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: there is an object: %v", what, err)
		}
	}
}

// TestKill: a process that is killed in the middle of an upload leaves nothing visible, and an upload that a sweep ends; others, of other prefixes and
// younger ones, it lets be.
func TestKill(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	bucket := server.Bucket("killed")
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childWork+"=write for ever", childURL+"=s3://"+bucket+"/mine?part_size=5MiB&endpoint="+server.URL,
		"AWS_ACCESS_KEY_ID="+teststore.S3AccessKey, "AWS_SECRET_ACCESS_KEY="+teststore.S3SecretKey)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	parts := func() (n int) {
		for _, up := range unfinished(t, server, bucket) {
			list, err := owner(server).ListParts(t.Context(), &s3.ListPartsInput{Bucket: &bucket, Key: up.Key, UploadId: up.UploadId})
			if err != nil {
				t.Fatal(err)
			}
			n += len(list.Parts)
		}
		return n
	}
	for parts() < 3 {
		if time.Now().After(deadline) {
			t.Fatalf("the child uploads nothing: %s", out.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
	cmd.Process.Kill()
	cmd.Wait()

	for _, key := range []string{"others/object", "mine/young"} { // the prefix ends at its slash
		if _, err := owner(server).CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &bucket, Key: aws.String(key)}); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config(server, bucket)
	cfg.Prefix = "mine"
	s := open(t, cfg)
	for info, err := range s.List(t.Context(), "") {
		t.Errorf("there is %+v, %v", info, err)
	}
	if n, _, err := s.SweepUnfinished(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("a sweep of what is older than an hour ends %d uploads, %v", n, err)
	}
	n, size, err := s.SweepUnfinished(t.Context(), time.Now().Add(time.Hour))
	if n != 2 || size < 15<<20 || err != nil {
		t.Errorf("the sweep ends %d uploads of %d bytes, %v; want 2 of 15 MiB and more", n, size, err)
	}
	if left := unfinished(t, server, bucket); len(left) != 1 || *left[0].Key != "others/object" {
		t.Errorf("there are %d uploads left, want that of others", len(left))
	}
}

func childWrites() {
	ctx := context.Background()
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
	}
	s, err := blobstore.OpenURL(ctx, os.Getenv(childURL), s3store.Opener{})
	fail(err)
	w, err := s.Create(ctx, "object", nil)
	fail(err)
	for {
		_, err := w.Write(random(1, 1<<20))
		fail(err)
		time.Sleep(10 * time.Millisecond)
	}
}

// TestSweepAtWork: an upload that began long ago and has got a part since is let be.
func TestSweepAtWork(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	cfg := config(server, server.Bucket("at-work"))
	up, err := owner(server).CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &cfg.Bucket, Key: aws.String("object")})
	if err != nil {
		t.Fatal(err)
	}
	record := newProxy(t, server)
	cfg.Endpoint = record.URL
	record.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if !r.URL.Query().Has("uploads") {
			return false
		}
		// The server takes the last part for the beginning.
		fmt.Fprintf(w, `<ListMultipartUploadsResult><Upload><Key>object</Key><UploadId>%s</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated></Upload></ListMultipartUploadsResult>`, *up.UploadId)
		return true
	}
	in := &s3.UploadPartInput{Bucket: &cfg.Bucket, Key: aws.String("object"), UploadId: up.UploadId, PartNumber: aws.Int32(1), Body: strings.NewReader("at work")}
	if _, err := owner(server).UploadPart(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	s := open(t, cfg)
	if n, _, err := s.SweepUnfinished(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("%d uploads are ended that a part has just come to, %v", n, err)
	}
	if n, size, err := s.SweepUnfinished(t.Context(), time.Now().Add(time.Hour)); n != 1 || size != 7 || err != nil {
		t.Errorf("%d uploads of %d bytes are ended, %v", n, size, err)
	}
}

// TestSweepPages: a sweep comes through more uploads than a page has, and lets be those of others that a server lists unasked.
func TestSweepPages(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	record.change = func(r *http.Request) {
		if q := r.URL.Query(); q.Has("uploads") && r.Method == http.MethodGet {
			q.Set("max-uploads", "2")
			q.Del("prefix")
			r.URL.RawQuery = q.Encode()
			signAnew(r, "", time.Now())
		}
	}
	cfg := config(server, server.Bucket("pages"))
	cfg.Endpoint, cfg.Prefix = record.URL, "p"
	for i := range 5 {
		if _, err := owner(server).CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &cfg.Bucket, Key: aws.String(fmt.Sprint("p/", i))}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := owner(server).CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &cfg.Bucket, Key: aws.String("another/object")}); err != nil {
		t.Fatal(err)
	}
	if n, _, err := open(t, cfg).SweepUnfinished(t.Context(), time.Now().Add(time.Hour)); n != 5 || err != nil {
		t.Errorf("%d uploads are ended, %v", n, err)
	}
	if left := unfinished(t, server, cfg.Bucket); len(left) != 1 {
		t.Errorf("%d are left", len(left))
	}
}

// TestPin: reading an object goes on after a cut if it is the same, and fails if it was replaced meanwhile by one of the same size.
func TestPin(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	cfg := config(server, server.Bucket("pinned"))
	data := random(1, 3<<20)
	if err := storage.WriteFile(t.Context(), open(t, cfg), "object", data, nil); err != nil {
		t.Fatal(err)
	}
	cfg.Endpoint = record.URL
	s := open(t, cfg)
	for _, replaced := range []bool{false, true} {
		var gets atomic.Int32
		record.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || gets.Add(1) > 1 {
				return false
			}
			// The first answer breaks off.
			out, err := owner(server).GetObject(r.Context(), &s3.GetObjectInput{Bucket: &cfg.Bucket, Key: aws.String("object")})
			if err != nil {
				panic(err)
			}
			defer out.Body.Close()
			for name, v := range map[string]string{"ETag": *out.ETag, "Content-Length": fmt.Sprint(*out.ContentLength), "Last-Modified": out.LastModified.Format(http.TimeFormat)} {
				w.Header().Set(name, v)
			}
			io.CopyN(w, out.Body, 1<<20)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		r, err := s.Open(t.Context(), "object", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1<<19)
		if _, err := io.ReadFull(r, got); err != nil {
			t.Fatal(err)
		}
		if replaced {
			if err := storage.WriteFile(t.Context(), s, "object", random(2, 3<<20), nil); err != nil {
				t.Fatal(err)
			}
		}
		rest, err := io.ReadAll(r)
		r.Close()
		if !replaced && (err != nil || !bytes.Equal(append(got, rest...), data)) {
			t.Errorf("%d bytes are read, %v", len(got)+len(rest), err)
		}
		if replaced && (err == nil || !strings.Contains(err.Error(), "replaced")) {
			t.Errorf("of a replaced object %d bytes are read, %v", len(got)+len(rest), err)
		}
		pinned := 0
		for _, q := range record.take() {
			if q.header.Get("If-Match") != "" {
				pinned++
			}
		}
		if pinned == 0 {
			t.Error("no read is pinned")
		}
	}
}
