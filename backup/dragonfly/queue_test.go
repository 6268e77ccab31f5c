package dragonfly

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// TestQueue appends and takes at the same time, with little memory or none, so that files are read while they are written to.
func TestQueue(t *testing.T) {
	for _, pieces := range []int{0, 2} {
		s := newSpool(t.TempDir(), 1<<30, 0, 1)
		s.file = 100_000
		q := s.queues[0]
		q.memory = pieces
		want := make([]byte, 8<<20)
		rand.NewChaCha8([32]byte{9}).Read(want)
		rnd := rand.New(rand.NewPCG(1, uint64(pieces)))
		failed := make(chan error, 1)
		go func() {
			var err error
			for rest := want; len(rest) > 0 && err == nil; {
				n := min(1+rnd.IntN(1500), len(rest))
				err = q.Append(rest[:n])
				rest = rest[n:]
				q.Valid(int64(len(want) - len(rest)))
			}
			failed <- err
		}()
		var got []byte
		b := make([]byte, 4000)
		for len(got) < len(want) {
			n, err := q.take(b, func() error {
				select {
				case err := <-failed:
					failed <- err
					if err == nil && q.read == int64(len(want)) {
						err = io.EOF
					}
					return err
				default:
					return nil
				}
			})
			if err != nil {
				t.Fatalf("%d pieces in memory: %v after %d bytes", pieces, err, len(got))
			}
			got = append(got, b[:n]...)
		}
		if err := <-failed; err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d pieces in memory: %v, other bytes came out than went in", pieces, err)
		}
		s.close()
		if used := s.used.Load(); used != 0 {
			t.Errorf("%d bytes are in use after the end", used)
		}
	}
}
