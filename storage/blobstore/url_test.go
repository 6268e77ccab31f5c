package blobstore_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/azurestore"
	"github.com/amberkv/amber/storage/blobstore/gcsstore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

func openers() []blobstore.Opener {
	return []blobstore.Opener{s3store.Opener{}, gcsstore.Opener{}, azurestore.Opener{}, azurestore.HTTPSOpener{}}
}

// TestOpenURLRefuses: an address that can't be one is an ErrURL that says what is wrong, and doesn't tell what may be a secret.
func TestOpenURLRefuses(t *testing.T) {
	for where, want := range map[string]string{
		"":                                 "empty",
		"ftp://host":                       "azblob, file, gs, https, mem, s3",
		"s3://a b/%zz?CANARY":              "not a URL",
		"s3://user:CANARY@bucket":          "environment",
		"gs://CANARY@bucket":               "environment",
		"s3://bucket#CANARY":               "%23",
		"s3:///prefix":                     "bucket",
		"s3://bucket?endpont=x":            "endpoint",
		"s3://bucket?secret_key=CANARY":    "environment",
		"s3://bucket?path_style=perhaps":   "path_style",
		"gs:///prefix":                     "bucket",
		"gs://bucket?token=CANARY":         "environment",
		"gs://bucket?anonymous=perhaps":    "anonymous",
		"gs://bucket?endpoint=a&endpoint=": "2 times",
		"azblob://?account=a":              "container",
		"azblob://c?account=a&sig=CANARY":  "environment",
		"https://example.com/c":            "blob.core",
		"https://a.blob.core.windows.net/": "container",
		"https://a.blob.core.windows.net/c?sv=CANARY&sig=CANARY": "environment",
		"file://host/path": "file:///host/path",
		"file:///":         "no directory",
		"file:///a?b":      "%3F",
		"mem://name":       "mem://",
	} {
		s, err := blobstore.OpenURL(t.Context(), where, openers()...)
		if s != nil || !errors.Is(err, blobstore.ErrURL) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an ErrURL with %q", where, err, want)
		} else if strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: the error tells what may be a secret: %v", where, err)
		}
	}
}

func TestOpenURL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a?b#c")
	for i, where := range []string{dir, "file://" + strings.NewReplacer("?", "%3F", "#", "%23").Replace(dir), "mem://"} {
		s, err := blobstore.OpenURL(t.Context(), where, openers()...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(t.Context(), "a"); (err == nil) != (i == 1) { // the second is the directory of the first
			t.Errorf("%s: %v", where, err)
		}
		if err := storage.WriteFile(t.Context(), s, "a", nil, nil); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	// A directory that can't be made is no wrong address.
	if _, err := blobstore.OpenURL(t.Context(), "file:///dev/null/a"); err == nil || errors.Is(err, blobstore.ErrURL) {
		t.Errorf("a directory below a file: %v", err)
	}
}
