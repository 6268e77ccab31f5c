package rdb

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
)

// TestGlobAsServers asks real servers which keys match patterns made of all that is special in them.
func TestGlobAsServers(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := testserver.Start(t, version).Client(t)
			random := rand.New(rand.NewPCG(3, 4))
			text := func(alphabet string, most int) string {
				var b strings.Builder
				for range random.IntN(most + 1) {
					b.WriteByte(alphabet[random.IntN(len(alphabet))])
				}
				return b.String()
			}
			names := make(map[string]bool)
			set := c.Pipeline()
			for range 300 {
				name := text(`abc-]\[^*?`, 4)
				names[name] = true
				set.Set(t.Context(), name, "", 0)
			}
			if _, err := set.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
			patterns := make(map[string]*redis.StringSliceCmd)
			keys := c.Pipeline()
			for range 8000 {
				p := text(`aabc-]\[[^*?`, 8)
				patterns[p] = keys.Keys(t.Context(), p)
			}
			if _, err := keys.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
			matches := 0
			for p, cmd := range patterns {
				for name := range names {
					want := slices.Contains(cmd.Val(), name)
					if got := matchGlob(p, []byte(name)); got != want {
						t.Fatalf("pattern %q, name %q: %v, the server says %v", p, name, got, want)
					}
					if want {
						matches++
					}
				}
			}
			if matches < 10000 {
				t.Errorf("only %d matches", matches)
			}
		})
	}
}
