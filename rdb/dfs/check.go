package dfs

import (
	"context"

	"github.com/amberkv/amber/rdb"
)

// Check checks the streams of all files as rdb.Check does, and that no key is in two of them: Dragonfly loads such a set,
// and which of the two values it has then is a matter of luck. The name of the file is put before an error that is about one
// alone.
func (s *Set) Check(ctx context.Context, opts *rdb.ReaderOptions, how *rdb.CheckOptions) error {
	c := rdb.NewChecker(how)
	err := s.Read(ctx, 1, opts, func(_ string, r *rdb.Reader) error { return c.Check(r) })
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}
