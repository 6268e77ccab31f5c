package filestore

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestWaitCancelled: a sync that hangs, as on a disk that doesn't answer, doesn't hold up a caller whose context ends;
// what it needs is cleaned up when it ends, and Close waits for that.
func TestWaitCancelled(t *testing.T) {
	s, err := New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	disk := make(chan struct{})
	var order []string
	time.AfterFunc(10*time.Millisecond, cancel)
	begin := time.Now()
	finished, err := s.wait(ctx, func() error {
		<-disk
		order = append(order, "sync")
		return nil
	}, func() { order = append(order, "cleaned up") })
	if finished || !errors.Is(err, context.Canceled) {
		t.Errorf("wait returns %v, %v", finished, err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("wait returned after %v", took)
	}
	time.AfterFunc(10*time.Millisecond, func() { close(disk) })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if len(order) != 2 || order[0] != "sync" || order[1] != "cleaned up" {
		t.Errorf("when Close returned there had happened %q", order)
	}
}
