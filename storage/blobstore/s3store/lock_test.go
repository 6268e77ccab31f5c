package s3store_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
)

// lockedBucket makes a bucket with versions and object lock.
func lockedBucket(t *testing.T, s *teststore.S3, name string) string {
	t.Helper()
	if _, err := owner(s).CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	return name
}

// versions returns how many versions and delete markers a bucket has.
func versions(t *testing.T, s *teststore.S3, bucket string) (n, markers int) {
	t.Helper()
	out, err := owner(s).ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Versions), len(out.DeleteMarkers)
}

// TestLock: objects of one piece and of several are locked. Until then a delete is refused as what it is, and so is a create that would be
// exclusive; what was there stays readable. Afterwards a delete removes every version.
func TestLock(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	cfg := config(server, lockedBucket(t, server, "locked"))
	cfg.ObjectLock, cfg.Retain, cfg.PartSize = "GOVERNANCE", time.Hour, 5<<20
	s := open(t, cfg)
	sizes := map[string]int{"small": 8, "large": 6 << 20}
	for key, size := range sizes {
		if err := storage.WriteFile(t.Context(), s, key, random(1, size), nil); err != nil {
			t.Fatal(err)
		}
		out, err := owner(server).HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &cfg.Bucket, Key: &key})
		if err != nil || out.ObjectLockMode != types.ObjectLockModeGovernance || time.Until(aws.ToTime(out.ObjectLockRetainUntilDate)).Round(5*time.Minute) != time.Hour {
			t.Errorf("%s: %v, %v, %v", key, out.ObjectLockMode, out.ObjectLockRetainUntilDate, err)
		}
		err = s.Delete(t.Context(), key)
		if !errors.Is(err, storage.ErrRetained) || errors.Is(err, storage.ErrDenied) || !strings.Contains(s.Advise(err), "until its retention ends") {
			t.Errorf("%s: %v", key, err)
		}
		err = storage.WriteFile(t.Context(), s, key, nil, &storage.CreateOptions{IfNotExist: true})
		if !errors.Is(err, storage.ErrExists) {
			t.Errorf("%s: %v", key, err)
		}
		if info, err := s.Stat(t.Context(), key); err != nil || info.Size != int64(size) {
			t.Errorf("%s: %+v, %v", key, info, err)
		}
	}
	n, markers := versions(t, server, cfg.Bucket)
	if n != 2 || markers != 0 {
		t.Errorf("there are %d versions and %d delete markers, want 2 and 0", n, markers)
	}
	// Replacing one is S3's to allow: it makes a new version, and the old one stays.
	err := storage.WriteFile(t.Context(), s, "small", []byte("another"), nil)
	if err != nil && !errors.Is(err, storage.ErrRetained) {
		t.Error(err)
	}
	t.Logf("replacing a locked object: %v", err)

	if got := facts(s); got["object lock"] != "GOVERNANCE for 1h0m0s" || got["checksum of uploads"] != "md5" {
		t.Errorf("%q", got)
	}
}

// TestLockEnds: once the retention has ended a delete removes the object for good, with all its versions, and no other object.
func TestLockEnds(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	cfg := config(server, lockedBucket(t, server, "unlocked"))
	cfg.ObjectLock, cfg.Retain = "COMPLIANCE", 6*time.Second
	s := open(t, cfg)
	if err := storage.WriteFile(t.Context(), s, "object", []byte("first"), nil); err != nil {
		t.Fatal(err)
	}
	plain := config(server, cfg.Bucket)
	plain.Checksum = "md5"
	for _, key := range []string{"object-of-a-longer-name", "objects/below"} {
		if err := storage.WriteFile(t.Context(), open(t, plain), key, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "object"); !errors.Is(err, storage.ErrRetained) {
		t.Errorf("while it is locked: %v", err)
	}
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := s.Delete(t.Context(), "object")
		if err == nil {
			break
		}
		if !errors.Is(err, storage.ErrRetained) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if n, markers := versions(t, server, cfg.Bucket); n != 2 || markers != 0 {
		t.Errorf("there are %d versions and %d delete markers, want those of the two others and 0", n, markers)
	}
	if err := s.Delete(t.Context(), "object"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("of what is gone: %v", err)
	}
}

// TestLockOlderVersions: with older versions a delete leaves none, and the object never changes to an older one on the way.
func TestLockOlderVersions(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	cfg := config(server, lockedBucket(t, server, "versions"))
	plain := cfg
	plain.Checksum = "crc32"
	for _, text := range []string{"first", "second", "third"} {
		if err := storage.WriteFile(t.Context(), open(t, plain), "object", []byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	if n, markers := versions(t, server, cfg.Bucket); n != 3 || markers != 0 {
		t.Fatalf("there are %d versions and %d markers: the test has not met what it is for", n, markers)
	}
	cfg.Endpoint, cfg.ObjectLock, cfg.Retain = record.URL, "GOVERNANCE", time.Hour
	record.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			out, err := owner(server).GetObject(r.Context(), &s3.GetObjectInput{Bucket: &cfg.Bucket, Key: aws.String("object")})
			if err != nil || *out.ContentLength != int64(len("third")) {
				t.Errorf("before the last version is gone: %v", err)
			}
		}
		return false
	}
	if err := open(t, cfg).Delete(t.Context(), "object"); err != nil {
		t.Error(err)
	}
	if n, markers := versions(t, server, cfg.Bucket); n != 0 || markers != 0 {
		t.Errorf("%d versions and %d delete markers are left", n, markers)
	}
}

// TestLockNeedsBucket: a bucket without object lock refuses locked objects, with advice that says so.
func TestLockNeedsBucket(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	cfg := config(server, server.Bucket("simple"))
	cfg.ObjectLock, cfg.Retain = "GOVERNANCE", time.Hour
	s := open(t, cfg)
	err := storage.WriteFile(t.Context(), s, "object", nil, nil)
	if err == nil || errors.Is(err, storage.ErrTransient) || !strings.Contains(s.Advise(err), "object lock") {
		t.Errorf("%v\n%s", err, s.Advise(err))
	}
}
