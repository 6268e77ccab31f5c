package filestore_test

import (
	"fmt"
	"sync"
	"testing"
)

// TestCreateWhilePruned: those who create beneath directories that others prune all the time don't notice. MkdirAll of os.Root says that a
// directory exists, as an error, if it goes away right after.
func TestCreateWhilePruned(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	var workers sync.WaitGroup
	for i := range 8 {
		workers.Go(func() {
			for range 600 {
				w, err := s.Create(t.Context(), fmt.Sprintf("busy/deep/er/%d", i), nil)
				if err == nil {
					err = w.Abort()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
}
