package storecatalog_test

import (
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/retry"
)

// limited is a store that has no exclusive creates and says so.
type limited struct{ *memstore.Store }

func (limited) Capabilities() storage.Capabilities { return storage.Capabilities{} }

// TestLimitedStore: no catalog is kept where its safety has nothing to rest on, also behind a decorator.
func TestLimitedStore(t *testing.T) {
	bad := limited{memstore.New(nil)}
	for _, s := range []storage.Store{bad, retry.New(bad, nil)} {
		if _, err := storecatalog.New(storecatalog.Config{Store: s}); err == nil || !strings.Contains(err.Error(), "exclusive") {
			t.Errorf("%T: %v", s, err)
		}
	}
}
