package chaos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// reseal changes a manifest and makes its hash right again.
func reseal(data []byte, old, new string) []byte {
	const field = ",\n  \"sha256\": \""
	body := bytes.Replace(data[:bytes.LastIndex(data, []byte(field))], []byte(old), []byte(new), 1)
	sum := sha256.Sum256(body)
	return append(body, field+hex.EncodeToString(sum[:])+"\"\n}\n"...)
}

// TestLook: whatever is wrong in a store is found, and told for what it is.
func TestLook(t *testing.T) {
	s := newScene(t, time.Now(), Snapshot(100, 300))
	dir := below("orders", s.newer)
	edit := func(name string, f func([]byte) []byte) func(ctx context.Context, m storage.Store) error {
		return func(ctx context.Context, m storage.Store) error {
			data, err := storage.ReadFile(ctx, m, dir+name, 1<<30)
			if err != nil {
				return err
			}
			return storage.WriteFile(ctx, m, dir+name, f(data), nil)
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	change := func(old, new string) func(b []byte) []byte {
		return func(b []byte) []byte {
			if !bytes.Contains(b, []byte(old)) {
				t.Fatalf("the manifest has no %s", old)
			}
			return reseal(b, old, new)
		}
	}
	for name, c := range map[string]struct {
		do   func(ctx context.Context, m storage.Store) error
		want string
	}{
		"nothing":                    {func(context.Context, storage.Store) error { return nil }, ""},
		"a part is gone":             {func(ctx context.Context, m storage.Store) error { return m.Delete(ctx, dir+"part-0000.rdb.zst") }, "is not there"},
		"a part has another bit":     {edit("part-0000.rdb.zst", flip), "of hash"},
		"a part is cut":              {edit("part-0000.rdb.zst", func(b []byte) []byte { return b[:len(b)-1] }), "bytes of hash"},
		"a manifest has another bit": {edit("manifest.json", flip), "its hash is not"},
		"a manifest is cut":          {edit("manifest.json", func(b []byte) []byte { return b[:len(b)-100] }), "it has no hash"},
		"run.json is gone":           {func(ctx context.Context, m storage.Store) error { return m.Delete(ctx, dir+"run.json") }, "has no run.json"},
		"another number of keys":     {edit("manifest.json", change("\"keys\": 100", "\"keys\": 101")), "the manifest says 101"},
		"another raw size":           {edit("manifest.json", change("\"rawBytes\": ", "\"rawBytes\": 1")), "raw ones"},
		"of another data store":      {edit("manifest.json", change("\"orders\"", "\"arders\"")), "it says that it is of"},
		"not verified":               {edit("manifest.json", change("\"readBack\": true", "\"readBack\": false")), "doesn't say that it was verified"},
	} {
		t.Run(name, func(t *testing.T) {
			m := memstore.New(nil)
			if err := s.put(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			before, err := Look(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			if got := before.Ready(); !slices.Equal(got, []string{below("orders", s.oldest), below("orders", s.older), dir, below("carts", s.other)}) {
				t.Errorf("ready are %v", got)
			}
			if err := c.do(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			st, err := Look(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(st.Violations(), "\n")
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("violations are %q, want %q", got, c.want)
			}
			if touched := st.Touched(before, leases); (len(touched) == 0) != (c.want == "") {
				t.Errorf("touched are %v", touched)
			}
			if c.want == "" {
				if got := st.Garbage(); len(got) != 3 { // the dead run's record and part, and the lost part
					t.Errorf("garbage is %v", got)
				}
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	m := memstore.New(nil)
	for key, data := range map[string]string{"orders/CANARY": "", "_leases/x/0000000000000001.json": "{CANARY}", "orders/part": "CANARY"} {
		if err := storage.WriteFile(t.Context(), m, key, []byte(data), nil); err != nil {
			t.Fatal(err)
		}
	}
	st, err := Look(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Secrets([]string{"CANARY", "other"}, nil, errors.New("password CANARY")); len(got) != 3 {
		t.Errorf("secrets are %q, want three", got)
	}
}
