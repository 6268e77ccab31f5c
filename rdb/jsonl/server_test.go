package jsonl

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
)

// TestScoresAsServersAnswer compares the text of numbers with what servers answer.
func TestScoresAsServersAnswer(t *testing.T) {
	scores := []float64{0, 1, -1, 1.5, 0.1, 1e7, 1e8, 1e15, 1e17, 1e18, 4e18, 1 << 62, 1<<62 + 1024, -1 << 62, -1<<62 - 1024, 5e18, 9e18, 1e19, 1e20,
		1e21, 1e22, 1.5e300, 1e-5, 1e-6, 1e-7, 1e-8, 1.25e-7, 1.25e-3, 1234567.125e-10, 123456789.5, 5e-324, math.MaxFloat64, math.Inf(1), math.Inf(-1), 0.30000000000000004, 1e4 + 0.5,
		99999.00001, 0.0001234567891234567, 0.001234567891234567, 12345678912345.678, 1 << 53, 1<<53 + 2, math.Pi * 1e200, 1.7e-200}
	r := rand.New(rand.NewPCG(7, 8))
	for range 3000 {
		scores = append(scores, math.Float64frombits(r.Uint64()), r.NormFloat64(), float64(r.Int64()), float64(r.IntN(1e6))/1000, r.NormFloat64()*math.Pow(10, float64(r.IntN(40)-20)))
	}
	scores = append(scores, math.Copysign(0, -1)) // small sorted sets have no negative zero
	for _, version := range []string{"redis-8.0", "valkey-8.1", "valkey-9.1"} {
		client := testserver.Start(t, version).Client(t)
		pipe := client.Pipeline()
		for i, f := range scores {
			if f == f {
				pipe.Do(t.Context(), "ZADD", "z", strconv.FormatFloat(f, 'g', 17, 64), i)
			}
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The client would make numbers of them.
		list, err := client.Do(t.Context(), "EVAL", "return redis.call('ZRANGE', 'z', 0, -1, 'WITHSCORES')", 0).StringSlice()
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(list); i += 2 {
			n, err := strconv.Atoi(list[i])
			if err != nil {
				t.Fatal(err)
			}
			if got := string(appendDouble(nil, scores[n])); got != list[i+1] {
				t.Errorf("%s: %v is %q, the server says %q", version, scores[n], got, list[i+1])
			}
		}
	}
}
