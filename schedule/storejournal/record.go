package storejournal

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/sealed"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage"
)

// format is the version of the records that are written. Tombstones are the same in all of them: a listing knows them by their length.
const format = 1

// maxLen is the largest record that is written or read, in bytes.
const maxLen = 256 << 10

// tombstoneLen is how many bytes a tombstone has: always the same, and less than any other record.
const tombstoneLen = 158

// A record is an object of the journal: a policy, a run, or the tombstone of one.
type record struct {
	Format  int              `json:"format"`
	Nonce   string           `json:"nonce"` // makes the bytes of every attempt to write different
	Policy  *schedule.Policy `json:"policy,omitempty"`
	Run     *schedule.Run    `json:"run,omitempty"`
	Deleted bool             `json:"deleted,omitempty"`
}

// encode returns the bytes of a record.
func encode(rec *record) ([]byte, error) {
	out := *rec
	out.Format, out.Nonce = format, rand.Text()
	return sealed.Encode(&out, maxLen)
}

// decode reads a record. The error wraps schedule.ErrCorrupt.
func decode(data []byte) (*record, error) {
	rec := new(record)
	if err := sealed.Decode(data, rec, format, maxLen); err != nil {
		return nil, fmt.Errorf("%w: %w", schedule.ErrCorrupt, err)
	}
	if rec.Format < 1 {
		return nil, fmt.Errorf("%w: format %d does not exist", schedule.ErrCorrupt, rec.Format)
	}
	return rec, nil
}

// versionName is the last segment of a record's key. Its digits make names sort as numbers do.
func versionName(n int) string { return fmt.Sprintf("%08d.json", n) }

func parseVersion(name string) (n int, ok bool) {
	n, err := strconv.Atoi(strings.TrimSuffix(name, ".json"))
	return n, err == nil && n > 0 && versionName(n) == name // only the one spelling
}

// versions are what a listing tells of a policy or a run.
type versions struct {
	all     []version // in ascending order
	highest int       // 0 if there is none
	size    int64     // of the highest, in bytes
	created time.Time // the highest, by the store's clock
}

// A version is an object that was listed.
type version struct {
	n         int
	created   time.Time
	tombstone bool // it is as long as one
}

func (v *versions) add(n int, info storage.Info) {
	v.all = append(v.all, version{n, info.ModTime, info.Size == tombstoneLen})
	if n > v.highest {
		v.highest, v.size, v.created = n, info.Size, info.ModTime
	}
}

func (v versions) has(n int) bool {
	return slices.ContainsFunc(v.all, func(one version) bool { return one.n == n })
}

// deleted tells whether there is nothing but a tombstone, or nothing at all.
func (v versions) deleted() bool { return v.highest == 0 || v.size == tombstoneLen }

func (v versions) revision() schedule.Revision {
	if v.highest == 0 {
		return ""
	}
	return schedule.Revision(strconv.Itoa(v.highest))
}
