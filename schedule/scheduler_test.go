package schedule

import (
	"testing"
	"testing/synctest"
	"time"
)

func hourly(id string) Policy {
	return Policy{ID: id, DataStore: "ds-" + id, Enabled: true, When: When{Cron: "0 * * * *"}}
}

func TestOneDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start("a", nil)
		if _, err := n.s.Set(t.Context(), hourly("p")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24*time.Hour + 5*time.Minute)
		n.end()
		if got := w.story("p"); len(got) != 24 || got[23] != "02T00:00 done" {
			t.Fatalf("%q", got)
		}
	})
}
