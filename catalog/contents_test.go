package catalog

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

// What follows the end of a snapshot is refused, but for what Dragonfly pads its files with.
func TestInspectBehindTheEnd(t *testing.T) {
	for name, wanted := range map[string]error{"redis-7.0.15/zsets.rdb": ErrBadSnapshot, "dragonfly-1.40/mini.rdb": nil} {
		data, err := os.ReadFile("../rdb/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := Inspect(bytes.NewReader(data), nil); err != nil || found.Keys == 0 {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
		if _, err := Inspect(bytes.NewReader(append(data, make([]byte, 100)...)), nil); !errors.Is(err, wanted) {
			t.Errorf("%s and 100 bytes: %v, want %v", name, err, wanted)
		}
	}
}
