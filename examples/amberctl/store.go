package main

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/amberkv/amber/storage/filestore"
)

// openStore opens the store that --store or AMBER_STORE names.
func openStore(where string) (*filestore.Store, error) {
	dir, err := storeDir(where)
	if err != nil {
		return nil, err
	}
	return filestore.New(dir, nil)
}

// storeDir returns the directory that a store's URL or path means.
func storeDir(where string) (string, error) {
	if where == "" {
		return "", usagef("--store (or AMBER_STORE) is missing: say where the backups are, as in --store file:///var/backups")
	}
	scheme, _, isURL := strings.Cut(where, "://")
	if !isURL {
		return where, nil
	}
	if scheme != "file" {
		return "", usagef("--store: there is no store of kind %q, only file:///directory", scheme)
	}
	u, err := url.Parse(where)
	if err != nil {
		return "", usagef("--store: not a URL: %w", err)
	}
	switch {
	case u.Host != "" && u.Host != "localhost":
		return "", usagef("--store: file://%s/… names a host; a directory of this machine has three slashes: file:///%s%s",
			u.Host, u.Host, u.Path)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return "", usagef("--store: a file URL is nothing but file:// and a path; write ? and # as %%3F and %%23")
	case u.Path == "" || u.Path == "/":
		return "", usagef("--store: %s names no directory", where)
	}
	return filepath.FromSlash(u.Path), nil
}

// describeStore is how results name a store.
func describeStore(where string) string {
	dir, err := storeDir(where)
	if err != nil {
		return where
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return fmt.Sprintf("file://%s", filepath.ToSlash(dir))
}
