package seal_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/amberkv/amber/storage/seal"
)

// zeroes gives zeros, and counts them.
type zeroes struct{ n, limit int64 }

func (c *zeroes) Read(p []byte) (int, error) {
	if c.limit >= 0 && c.n >= c.limit {
		return 0, io.EOF
	}
	clear(p)
	n := int64(len(p))
	if c.limit >= 0 {
		n = min(n, c.limit-c.n)
	}
	c.n += n
	return int(n), nil
}

// TestCheckReads: whatever comes at once, all of it is hashed, and of an object without an end little more is read than there should be.
func TestCheckReads(t *testing.T) {
	const size = 3<<20 + 5
	zeros := make([]byte, size)
	raw := sha256.Sum256(zeros)
	sum := seal.Sum{Size: size, SHA256: hex.EncodeToString(raw[:])}
	for name, c := range map[string]struct {
		src  io.Reader
		want error
	}{
		"as it comes":        {&zeroes{0, size}, nil},
		"half of it":         {iotest.HalfReader(&zeroes{0, size}), nil},
		"the end with bytes": {iotest.DataErrReader(&zeroes{0, size}), nil},
		"cut":                {&zeroes{0, size - 1}, seal.ErrMismatch},
		"too long":           {&zeroes{0, size + 1}, seal.ErrMismatch},
		"timeout":            {iotest.TimeoutReader(&zeroes{0, size}), iotest.ErrTimeout},
		"nothing":            {iotest.ErrReader(nil), io.ErrNoProgress},
	} {
		if err := seal.Check(c.src, sum); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	endless := &zeroes{0, -1}
	if err := seal.Check(endless, sum); !errors.Is(err, seal.ErrMismatch) || endless.n > size+2<<20 {
		t.Errorf("an endless object: %v after %d bytes", err, endless.n)
	}
}
