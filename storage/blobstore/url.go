package blobstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// ErrURL is wrapped by the errors of addresses that name no store, whatever there is in the world: of an unknown kind, with an unknown parameter, with
// a secret in them. An Opener wraps it in such a case.
var ErrURL = errors.New("no store has such an address")

// An Opener opens stores of one kind by their URL. Those of the sub-packages are s3store.Opener, gcsstore.Opener and azurestore.Opener.
type Opener interface {
	// Scheme is that of the URLs, such as "s3".
	Scheme() string
	// OpenURL opens a store. What it doesn't know of the URL is an error. The URL holds no secret: credentials come from where the provider's
	// own tools find them.
	OpenURL(ctx context.Context, u *url.URL) (storage.StoreCloser, error)
}

// OpenURL opens the store that a URL names, with the opener of its scheme. "file:///directory" and a plain path are a filestore, "mem://" is
// a new memstore, and neither needs an opener. The caller closes the store.
func OpenURL(ctx context.Context, where string, openers ...Opener) (storage.StoreCloser, error) {
	open, err := opening(where, openers)
	if err != nil {
		return nil, fmt.Errorf("blobstore: %w: %w", ErrURL, err)
	}
	return open(ctx)
}

// opening returns what opens the store that an address names. What is wrong with one is told without it: there may be a secret in the wrong place.
func opening(where string, openers []Opener) (func(context.Context) (storage.StoreCloser, error), error) {
	if where == "" {
		return nil, errors.New("it is empty; a directory is a store as in file:///var/backups")
	}
	scheme, _, isURL := strings.Cut(where, "://")
	if !isURL {
		return openDirectory(where), nil
	}
	u, err := url.Parse(where)
	switch {
	case err != nil:
		return nil, fmt.Errorf("what begins with %.20q is not a URL; one is scheme://bucket/prefix?name=value", scheme)
	case u.User != nil:
		return nil, fmt.Errorf("a URL of kind %q with a user or password in it: credentials come from the environment or from files, as for the provider's own tools", u.Scheme)
	case u.Fragment != "":
		return nil, fmt.Errorf("a URL of kind %q with a fragment; write # as %%23", u.Scheme)
	}
	switch u.Scheme {
	case "file":
		return openFile(where, u)
	case "mem":
		if u.Host+u.Path+u.RawQuery != "" {
			return nil, errors.New("a store in memory is mem:// and nothing more")
		}
		return func(context.Context) (storage.StoreCloser, error) { return memory{memstore.New(nil)}, nil }, nil
	}
	known := []string{"file", "mem"}
	for _, o := range openers {
		if o.Scheme() == u.Scheme {
			return func(ctx context.Context) (storage.StoreCloser, error) { return o.OpenURL(ctx, u) }, nil
		}
		known = append(known, o.Scheme())
	}
	slices.Sort(known)
	return nil, fmt.Errorf("there is no store of kind %q, only %s", u.Scheme, strings.Join(slices.Compact(known), ", "))
}

// Params returns the query parameters of a store's URL, for an Opener that knows those of these names. Others are an error, as is one that occurs
// twice, and one whose name is that of a secret.
func Params(u *url.URL, known ...string) (map[string]string, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("blobstore: what comes after the ? in the URL of a store of kind %q is not name=value&…", u.Scheme)
	}
	params := make(map[string]string)
	for name, values := range query {
		switch {
		case slices.Contains(known, name) && len(values) == 1:
			params[name] = values[0]
		case slices.Contains(known, name):
			return nil, fmt.Errorf("blobstore: the URL of a store of kind %q has %s %d times", u.Scheme, name, len(values))
		case secret.MatchString(name):
			return nil, fmt.Errorf("blobstore: the URL of a store of kind %q has %.40q in it: secrets come from the environment or from files, as for the provider's own tools", u.Scheme, name)
		default:
			slices.Sort(known)
			return nil, fmt.Errorf("blobstore: the URL of a store of kind %q has an unknown parameter %.40q; it takes %s", u.Scheme, name, strings.Join(known, ", "))
		}
	}
	return params, nil
}

// secret matches names under which others' tools know secrets: also those of a signed URL.
var secret = regexp.MustCompile(`(?i)^(sig|se|sp|sv|st|sr)$|key|secret|token|passw|sas|signature|credential`)

func openFile(where string, u *url.URL) (func(context.Context) (storage.StoreCloser, error), error) {
	switch {
	case u.Host != "" && u.Host != "localhost":
		return nil, fmt.Errorf("file://%s/… names a host; a directory of this machine has three slashes: file:///%s%s", u.Host, u.Host, u.Path)
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("a file URL is nothing but file:// and a path; write ? and # as %3F and %23")
	case u.Path == "" || u.Path == "/":
		return nil, fmt.Errorf("%s names no directory", where)
	}
	return openDirectory(filepath.FromSlash(u.Path)), nil
}

func openDirectory(dir string) func(context.Context) (storage.StoreCloser, error) {
	return func(context.Context) (storage.StoreCloser, error) {
		s, err := filestore.New(dir, nil)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

// A memory is a memstore that is closed.
type memory struct{ *memstore.Store }

func (memory) Close() error { return nil }
