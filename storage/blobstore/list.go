package blobstore

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/amberkv/amber/storage"
)

const (
	page = 1000    // objects, the most that S3 gives at once
	most = 1 << 17 // objects that a list which must be sorted may have
)

// List gives the objects under a prefix, as storage.Store says. Objects of others whose names aren't valid keys are not listed.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		fail := func(err error) { yield(storage.Info{}, s.wrap(ctx, "list", fmt.Sprintf("%.100q", prefix), err)) }
		ask, possible := listable(prefix)
		size := page
		if !s.opts.Ordered {
			// In one piece: a bucket that isn't in order may lose objects between two.
			size = most
		}
		last := ""
		for token := blob.FirstPageToken; possible && len(token) > 0; {
			objects, next, err := s.bucket.ListPage(ctx, token, size, &blob.ListOptions{Prefix: s.opts.Prefix + ask})
			// fileblob gives up when a file is deleted that it is about to list.
			for again := 0; gcerrors.Code(err) == gcerrors.NotFound && !s.opts.Ordered && again < 20; again++ {
				objects, next, err = s.bucket.ListPage(ctx, token, size, &blob.ListOptions{Prefix: s.opts.Prefix + ask})
			}
			if err != nil {
				fail(err)
				return
			}
			token = next
			if !s.opts.Ordered && len(token) > 0 {
				fail(fmt.Errorf("there are more than %d objects, and this bucket doesn't list in order", most))
				return
			}
			var infos []storage.Info
			for _, o := range objects {
				key, ours := strings.CutPrefix(o.Key, s.opts.Prefix)
				if ours && !o.IsDir && strings.HasPrefix(key, prefix) && storage.ValidKey(key) == nil {
					infos = append(infos, storage.Info{Key: key, Size: o.Size, ModTime: o.ModTime})
				}
			}
			// Drivers escape some characters, so that the provider has such a key in another place.
			slices.SortFunc(infos, func(a, b storage.Info) int { return strings.Compare(a.Key, b.Key) })
			for _, info := range infos {
				if ctx.Err() != nil {
					fail(ctx.Err())
					return
				}
				if last != "" && info.Key < last {
					fail(fmt.Errorf("the bucket lists %q after %q, which is not the order that Options.Ordered says", info.Key, last))
					return
				}
				if info.Key != last && !yield(info, nil) {
					return
				}
				last = info.Key
			}
		}
		if ctx.Err() != nil {
			fail(ctx.Err())
		}
	}
}

// listable returns what to ask the provider for so that all objects are listed whose keys begin with prefix: it takes no half
// characters. If no valid key can begin so there are none.
func listable(prefix string) (ask string, possible bool) {
	ask = prefix
	if len(prefix) > storage.MaxKeyLen {
		return "", false
	}
	for i := 0; i < utf8.UTFMax && ask != "" && !utf8.ValidString(ask); i++ {
		ask = ask[:len(ask)-1]
	}
	if half := prefix[len(ask):]; half != "" && utf8.FullRuneInString(half) {
		return "", false
	}
	return ask, ask == "" || storage.ValidKey(ask) == nil || storage.ValidKey(ask+"x") == nil
}
