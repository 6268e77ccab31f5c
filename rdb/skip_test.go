package rdb

import (
	"bytes"
	"testing"
)

// sameString holds the quick way over a string against the careful one.
func sameString(t *testing.T, b []byte) {
	t.Helper()
	if len(b) < stringHead {
		return
	}
	size, saved := stringSize(b)
	// The careful way consumes at most 2^31 bytes more than there are.
	r := newReader(bytes.NewReader(b), nil, 64)
	ok := r.skipAnyString()
	switch {
	case size == 0 && ok && (b[0] < 0x80 || b[0] == 0x80 && len(b) < 1<<30):
		t.Errorf("% x: the quick way doesn't know a string of %d bytes", b[:stringHead], r.offset())
	case size < 0, size > 0 && size <= len(b) && (!ok || r.offset() != int64(size)):
		t.Errorf("% x: %d bytes, but %d by the careful way (%v)", b[:stringHead], size, r.offset(), r.err)
	case size > 0 && size <= len(b) && r.watch.saved != int64(saved):
		t.Errorf("% x: compression saves %d bytes, but %d by the careful way", b[:stringHead], saved, r.watch.saved)
	case size > len(b) && ok:
		t.Errorf("% x: %d bytes, but %d by the careful way", b[:stringHead], size, r.offset())
	}
}

// TestStringSize goes through every first byte, and through lengths and plausible and impossible ones of what is compressed.
func TestStringSize(t *testing.T) {
	tail := make([]byte, 70000)
	for first := range 256 {
		for _, second := range []byte{0, 1, 2, 0x3f, 0x40, 0x41, 0x7f, 0x80, 0x81, 0xC0, 0xFF} {
			for _, third := range []byte{0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xFF} {
				for _, fourth := range []byte{0, 1, 0x58, 0x59, 0xFF} {
					for _, fifth := range []byte{0, 0xFF} {
						sameString(t, append([]byte{byte(first), second, third, fourth, fifth}, tail[:70]...))
					}
				}
			}
		}
	}
	sameString(t, append([]byte{0x80, 0, 0, 0xFF, 0xFF}, tail...))
	size := func(b []byte) int { n, _ := stringSize(b); return n }
	if b := append([]byte{stringLZF, 3, 0x41, 8}, tail[:10]...); size(b) != 4+3 {
		t.Errorf("3 bytes that expand to 264: %d", size(b))
	}
	if b := append([]byte{stringLZF, 3, 0x41, 9}, tail[:10]...); size(b) != 0 {
		t.Errorf("3 bytes that can't expand to 265: %d", size(b))
	}
}

func FuzzStringSize(f *testing.F) {
	f.Add([]byte("\x03abc, and more"))
	f.Add([]byte("\x40\x03abc, and more"))
	f.Add([]byte("\x80\x00\x00\x00\x03abc, and more"))
	f.Add([]byte("\xc3\x04\x40\x80\x00a\xe0\x75, and more"))
	f.Fuzz(sameString)
}
