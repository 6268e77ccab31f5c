package schedule

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// An attempt that may not be made yet is made when it may, and costs none of the retries; if that is after the window's end there is none.
func TestLater(t *testing.T) {
	base := Policy{ID: "p", DataStore: "ds", Enabled: true, When: When{Daily: []string{"01:00"}}}
	for _, c := range []struct {
		name    string
		window  time.Duration
		retries int
		want    string
		plan    func(d Due, n int, now time.Time) error
		began   []time.Duration // of calls of the Job, after the first
		reason  string
	}{
		{name: "once", window: 0, want: "01T01:00 done 2 attempts", plan: func(_ Due, n int, now time.Time) error {
			if n == 1 {
				return &LaterError{now.Add(7 * time.Minute), errors.New("not yet")}
			}
			return nil
		}, began: []time.Duration{7 * time.Minute}},
		{name: "too late", window: 0, want: "01T01:00 failed 1 attempts", plan: func(_ Due, n int, now time.Time) error {
			return &LaterError{now.Add(15 * time.Minute), errors.New("not yet")}
		}, reason: "the next backup may begin at "},
		{name: "a clock behind", window: 0, want: "01T01:00 done 2 attempts", plan: func(_ Due, n int, now time.Time) error {
			if n < 4 {
				return &LaterError{now.Add(-time.Hour), errors.New("not yet")}
			}
			return nil
		}, began: []time.Duration{30 * time.Second, time.Minute, 90 * time.Second}},
		{name: "between failures", window: 0, retries: 2, want: "01T01:00 failed 4 attempts", plan: func(_ Due, n int, now time.Time) error {
			if n == 2 {
				return fmt.Errorf("wrapped: %w", &LaterError{now.Add(5 * time.Minute), errors.New("not yet")})
			}
			return errors.New("broken")
		}, began: []time.Duration{30 * time.Second, 5*time.Minute + 30*time.Second, 6*time.Minute + 30*time.Second}, reason: "retries are 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				var calls []time.Time
				w.plan = func(d Due) (time.Duration, error) {
					calls = append(calls, time.Now())
					return 0, c.plan(d, len(calls), time.Now())
				}
				n := w.start("a", nil)
				p := base
				p.Window, p.Retries = c.window, c.retries
				n.set(p)
				time.Sleep(23 * time.Hour)
				n.end()
				w.expect("p", c.want)
				r := w.last("p")
				if !strings.Contains(r.Reason, c.reason) || c.reason != "" && r.Reason == "" {
					t.Errorf("the reason is %q, want %q", r.Reason, c.reason)
				}
				var began []time.Duration
				for _, at := range calls[1:] {
					began = append(began, at.Sub(calls[0]))
				}
				if fmt.Sprint(began) != fmt.Sprint(c.began) {
					t.Errorf("calls came after %v, want %v", began, c.began)
				}
			})
		})
	}
}
