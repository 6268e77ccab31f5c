package flows

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/dflymaster"
)

type nowhere struct{}

func (nowhere) Append([]byte) error { return nil }
func (nowhere) Valid(int64)         {}

// TestOrder takes all steps, and each of them once more: a step that was taken does nothing and sends nothing.
func TestOrder(t *testing.T) {
	m := dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(3, 10)})
	o := Options{Redis: m.Options(), Connect: 10 * time.Second, Stall: 10 * time.Second, Now: time.Now}
	greeted, err := Greet(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	session, err := greeted.Announce()
	if err != nil {
		t.Fatal(err)
	}
	attached, err := session.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	syncing, err := attached.Sync(t.Context(), []Sink{nowhere{}, nowhere{}, nowhere{}})
	if err != nil {
		t.Fatal(err)
	}
	if n := syncing.Keys(t.Context()); n != 30 {
		t.Errorf("%d keys", n)
	}
	static, err := syncing.Static(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cut, err := static.Cut(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(m.Commands(), "\n")
	var again [6]error
	_, again[0] = greeted.Announce()
	_, again[1] = session.Attach(t.Context())
	_, again[2] = attached.Sync(t.Context(), nil)
	_, again[3] = syncing.Static(t.Context())
	_, again[4] = static.Cut(t.Context())
	if n := syncing.Keys(t.Context()); n != -1 {
		t.Errorf("a step that was taken counts %d keys", n)
	}
	for _, s := range []*step{&greeted.step, &session.step, &attached.step, &syncing.step, &static.step} {
		s.Close()
	}
	if now := strings.Join(m.Commands(), "\n"); now != said {
		t.Errorf("steps that were taken said something: %s", strings.TrimPrefix(now, said))
	}
	ends, err := cut.Ends(t.Context())
	if err != nil || len(ends) != 3 || ends[0].Keys != 10 || ends[0].LSN != 1 || ends[0].Size == 0 {
		t.Errorf("%+v, %v", ends, err)
	}
	_, again[5] = cut.Ends(t.Context())
	for i, err := range again {
		if !errors.Is(err, errUsed) {
			t.Errorf("step %d once more: %v", i, err)
		}
	}
}

// TestTooFewSinks sends nothing.
func TestTooFewSinks(t *testing.T) {
	m := dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(2, 1)})
	greeted, err := Greet(t.Context(), Options{Redis: m.Options(), Connect: 10 * time.Second, Stall: 10 * time.Second, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	session, err := greeted.Announce()
	if err != nil {
		t.Fatal(err)
	}
	attached, err := session.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attached.Sync(t.Context(), []Sink{nowhere{}}); err == nil || strings.Contains(strings.Join(m.Commands(), "\n"), "DFLY SYNC") {
		t.Errorf("%v, %q", err, m.Commands())
	}
}
