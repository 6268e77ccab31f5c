package restore

import (
	"bytes"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// BenchmarkCompareAll compares a million keys, strings or of every kind, with a server that has them.
func BenchmarkCompareAll(b *testing.B) {
	for _, version := range testserver.All() {
		for name, fill := range map[string]func(s *testserver.Server) []byte{
			"strings": func(s *testserver.Server) []byte {
				data := manyStrings(b, 1_000_000, func(i int) int { return 20 + i%100 })
				reload(b, s, data)
				return data
			},
			"mixed": func(s *testserver.Server) []byte {
				testserver.Generate(b, s.Client(b), 200_000, 5)
				return saved(b, s)
			},
		} {
			b.Run(version+"/"+name, func(b *testing.B) {
				s := testserver.Start(b, version)
				data := fill(s)
				b.SetBytes(int64(len(data)))
				keys, begin, cpu := int64(0), time.Now(), cpuTime(b)
				for b.Loop() {
					c := newComparer(s.Options())
					res, err := compareAll(b.Context(), c, rdb.NewReader(bytes.NewReader(data), nil), nil, nil)
					c.close()
					if err != nil || res.different > 0 {
						b.Fatal(err, res)
					}
					keys += res.compared
				}
				b.ReportMetric(float64(keys)/time.Since(begin).Seconds(), "keys/s")
				b.ReportMetric(float64(cpuTime(b)-cpu)/float64(keys), "cpu-ns/key")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// cpuTime returns the CPU time that this process has taken, which what else runs on the machine doesn't change.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
