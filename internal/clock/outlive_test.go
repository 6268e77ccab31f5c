package clock

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestOutlive(t *testing.T) {
	for _, c := range []struct {
		name string
		gone time.Duration // when the caller goes; 0: before; -1: never
		want time.Duration // when the context ends
	}{{"he waits", -1, 10 * time.Second}, {"he has gone", 0, time.Second}, {"he goes meanwhile", 3 * time.Second, 4 * time.Second}, {"he goes late", 9500 * time.Millisecond, 10 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			type key struct{}
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
			defer cancel()
			switch {
			case c.gone == 0:
				cancel()
			case c.gone > 0:
				time.AfterFunc(c.gone, cancel)
			}
			start := time.Now()
			out, end := Outlive(ctx, 10*time.Second, time.Second)
			if out.Err() != nil || out.Value(key{}) != "kept" {
				t.Errorf("%s: it begins with %v and the value %v", c.name, out.Err(), out.Value(key{}))
			}
			<-out.Done()
			if took := time.Since(start); took != c.want {
				t.Errorf("%s: it ends after %v, want %v", c.name, took, c.want)
			}
			end()
			// One that has ended by itself does so whoever still is there.
			out, end = Outlive(t.Context(), 10*time.Second, time.Second)
			end()
			if out.Err() == nil {
				t.Errorf("%s: it goes on after its end", c.name)
			}
		})
	}
}
