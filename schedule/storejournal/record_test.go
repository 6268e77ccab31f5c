package storejournal

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/sealed"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage"
)

// TestTombstoneLength: a tombstone has a length of its own, by which a listing knows it.
func TestTombstoneLength(t *testing.T) {
	for range 100 {
		data, err := encode(&record{Deleted: true})
		if err != nil || len(data) != tombstoneLen {
			t.Fatalf("a tombstone has %d bytes, not %d: %v", len(data), tombstoneLen, err)
		}
	}
	for _, rec := range []*record{{Policy: &schedule.Policy{}}, {Run: &schedule.Run{}}} {
		if data, err := encode(rec); err != nil || len(data) <= tombstoneLen {
			t.Errorf("the smallest record has %d bytes, a tombstone %d: %v", len(data), tombstoneLen, err)
		}
	}
}

// TestRecordIsChecked: no bit of a record can change, and no byte be missing, without an error; nor can there be what this version doesn't know.
func TestRecordIsChecked(t *testing.T) {
	data, err := encode(&record{Policy: &schedule.Policy{ID: "nightly", DataStore: "orders", When: schedule.When{Cron: "0 3 * * *"}}})
	if err != nil {
		t.Fatal(err)
	}
	if rec, err := decode(data); err != nil || rec.Policy.When.Cron != "0 3 * * *" {
		t.Fatalf("decode gives %+v, %v", rec, err)
	}
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= 1 << (i % 8)
		for _, bad := range [][]byte{changed, data[:i]} {
			if _, err := decode(bad); !errors.Is(err, schedule.ErrCorrupt) {
				t.Fatalf("byte %d: decode gives %v", i, err)
			}
		}
	}
	for want, doc := range map[string]any{
		"newer Amber":    map[string]any{"format": format + 1, "nonce": "x", "policy": 7},
		"unknown field":  map[string]any{"format": format, "nonce": "x", "policies": 7},
		"does not exist": map[string]any{"format": 0, "nonce": "x"},
	} {
		data, err := sealed.Encode(doc, maxLen)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(data); !errors.Is(err, schedule.ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("decode gives %v, want %q in it", err, want)
		}
	}
	if _, err := encode(&record{Run: &schedule.Run{Reason: strings.Repeat("x", maxLen)}}); err == nil {
		t.Error("a record of more than the limit is written")
	}
	if _, err := decode(append(bytes.Repeat([]byte(" "), maxLen), data...)); !errors.Is(err, schedule.ErrCorrupt) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("decode of more than the limit gives %v", err)
	}
	if !json.Valid(data) {
		t.Error("a record is no JSON")
	}
}

// TestKeys: keys are such as every store takes, go there and back, have one spelling, and sort runs from the latest on; and nothing takes them for
// a backup's.
func TestKeys(t *testing.T) {
	longest := strings.Repeat("p", catalog.MaxNameLen)
	var keys []string
	for _, due := range []time.Time{time.Unix(0, 0), time.Unix(1, 0), time.Unix(1795804800, 0), time.Unix(1795804801, 0), time.Unix(9999999999, 0), time.Unix(10000000000, 0), time.Unix(lastSecond, 0)} {
		dir, err := runDir(longest, due)
		if err != nil {
			t.Fatal(err)
		}
		key := dir + versionName(12)
		keys = append(keys, key)
		policy, got, n, ok := parseRunKey(key)
		if storage.ValidKey(key) != nil || !ok || policy != longest || !got.Equal(due) || n != 12 || !catalog.Reserved(key) {
			t.Errorf("%s: %v, %s, %v, %d", key, ok, policy, got, n)
		}
	}
	if !slices.IsSortedFunc(keys, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("the latest due times don't come first in %q", keys)
	}
	for _, due := range []time.Time{{}, time.Unix(-1, 0), time.Unix(1, 1), time.Unix(lastSecond+1, 0)} {
		if dir, err := runDir("p", due); err == nil {
			t.Errorf("%v: %s", due, dir)
		}
	}
	for _, key := range []string{
		"_schedule/policies/p", "_schedule/policies/p/1.json", "_schedule/policies/p/00000000.json", "_schedule/policies/p/+0000001.json", "_schedule/policies/p/00000001.txt",
		"_schedule/policies/-p/00000001.json", "_schedule/policies/p/x/00000001.json", "schedule/policies/p/00000001.json", "x/_schedule/policies/p/00000001.json",
	} {
		if id, n, ok := parsePolicyKey(key); ok {
			t.Errorf("%s is taken for policy %s, %d", key, id, n)
		}
	}
	for _, key := range []string{
		"_schedule/runs/p/251606495999-20261128T080000Z", "_schedule/runs/p/251606495999-20261128T080000Z/1.json", "_schedule/runs/p/251606495998-20261128T080000Z/00000001.json",
		"_schedule/runs/p/251606495999/00000001.json", "_schedule/runs/.p/251606495999-20261128T080000Z/00000001.json", "_schedule/policies/p/00000001.json",
	} {
		if policy, due, n, ok := parseRunKey(key); ok {
			t.Errorf("%s is taken for a run of %s, %v, %d", key, policy, due, n)
		}
	}
	if id, n, ok := parsePolicyKey("_schedule/policies/a-b.c/00000123.json"); !ok || id != "a-b.c" || n != 123 {
		t.Errorf("%v, %s, %d", ok, id, n)
	}
}
