package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/azurestore"
	"github.com/amberkv/amber/storage/blobstore/gcsstore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// openers open the stores that are not directories.
func openers() []blobstore.Opener {
	return []blobstore.Opener{s3store.Opener{}, gcsstore.Opener{}, azurestore.Opener{}, azurestore.HTTPSOpener{}}
}

// openStore opens the store that a URL or a path names; the caller closes it. Where it is a directory that is missing, it is made.
func openStore(ctx context.Context, where string) (storage.StoreCloser, error) {
	if strings.HasPrefix(where, "mem:") {
		return nil, usagef("a store in memory ends with this command: name one that keeps what it gets")
	}
	s, err := blobstore.OpenURL(ctx, where, openers()...)
	if errors.Is(err, blobstore.ErrURL) {
		return nil, &usageError{err}
	}
	return s, err
}

// storeDir returns the directory that a path or a file URL means; false if it means none.
func storeDir(where string) (string, bool) {
	if !strings.Contains(where, "://") {
		return where, where != ""
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "file" || u.Host != "" && u.Host != "localhost" || u.Path == "" {
		return "", false
	}
	return filepath.FromSlash(u.Path), true
}

// describeStore is how results name a store: by its URL without what says how it is reached, which may be a secret.
func describeStore(where string) string {
	if dir, ok := storeDir(where); ok {
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
		return "file://" + filepath.ToSlash(dir)
	}
	u, err := url.Parse(where)
	if err != nil {
		scheme, _, _ := strings.Cut(where, "://")
		return scheme + "://…"
	}
	return fmt.Sprintf("%s://%s%s", u.Scheme, u.Host, u.Path)
}
