package memstore_test

import (
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storage.Store { return memstore.New(nil) }, &storetest.Options{InProcess: true})
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)
	s := memstore.New(&memstore.Options{Now: func() time.Time { return now }})
	if err := storage.WriteFile(t.Context(), s, "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Stat(t.Context(), "a"); err != nil || !info.ModTime.Equal(now) {
		t.Errorf("an object that was committed at %v has the time %v, %v", now, info.ModTime, err)
	}
}
