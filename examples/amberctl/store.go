package main

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
	"github.com/amberkv/amber/storage/filestore"
)

// openers open the stores that are not directories.
func openers() []blobstore.Opener { return []blobstore.Opener{s3store.Opener{}} }

// openStore opens the store that a URL or a path names; the caller closes it. Where it wants a directory that is missing, it is made.
func openStore(ctx context.Context, where string) (storage.StoreCloser, error) {
	scheme, _, isURL := strings.Cut(where, "://")
	if !isURL || scheme == "file" {
		dir, err := storeDir(where)
		if err != nil {
			return nil, err
		}
		return filestore.New(dir, nil)
	}
	kinds := []string{"file"}
	for _, o := range openers() {
		kinds = append(kinds, o.Scheme())
		if o.Scheme() != scheme {
			continue
		}
		// What is wrong with a URL is told without the URL: somebody may have written a secret into it.
		u, err := url.Parse(where)
		switch {
		case err != nil:
			return nil, usagef("a store's address that begins with %s:// is not a URL", scheme)
		case u.User != nil:
			return nil, usagef("%s is not where a store's credentials belong: they are taken from where the provider's own tools find them", describeStore(where))
		}
		return o.OpenURL(ctx, u)
	}
	return nil, usagef("there is no store of kind %q, only %s", scheme, strings.Join(kinds, ", "))
}

// storeDir returns the directory that a path or a file URL means.
func storeDir(where string) (string, error) {
	if where == "" {
		return "", usagef("a store's address is empty: write file:///directory, or a directory's path")
	}
	if !strings.Contains(where, "://") {
		return where, nil
	}
	u, err := url.Parse(where)
	if err != nil {
		return "", usagef("the address of a store is not a URL: %w", err)
	}
	switch {
	case u.Host != "" && u.Host != "localhost":
		return "", usagef("file://%s/… names a host; a directory of this machine has three slashes: file:///%s%s", u.Host, u.Host, u.Path)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return "", usagef("a file URL is nothing but file:// and a path; write ? and # as %%3F and %%23")
	case u.Path == "" || u.Path == "/":
		return "", usagef("%s names no directory", where)
	}
	return filepath.FromSlash(u.Path), nil
}

// describeStore is how results name a store: by its URL without what says how it is reached, which may be a secret.
func describeStore(where string) string {
	scheme, _, isURL := strings.Cut(where, "://")
	if isURL && scheme != "file" {
		u, err := url.Parse(where)
		if err != nil {
			return scheme + "://…"
		}
		return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	}
	dir, err := storeDir(where)
	if err != nil {
		return "file://…" // which nobody has opened
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return fmt.Sprintf("file://%s", filepath.ToSlash(dir))
}
