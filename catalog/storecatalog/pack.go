package storecatalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/sealed"
	"github.com/amberkv/amber/storage"
)

// Stays that ended in a month that is over are packed, many into one object, so that what was deleted years ago doesn't make each listing of the
// store longer:
//
//	_usage/_packed/<yyyy-mm>.<number>    what follows "_usage/<yyyy-mm>/" in their keys
//
// A pack is never changed. It is there before the keys of its stays go; so who lists the keys first, and looks for packs after that, misses none, and
// what is found in both is the same by its key.
const packedPrefix = ownPrefix + "packed/"

const (
	packAfter = 48 * time.Hour // of the month's end: until then deletions that were cut short may still be finished
	minPack   = 16             // stays that make it worth while
	maxPack   = 20_000
)

// pack is what a pack holds.
type pack struct {
	Format int      `json:"format"`
	Month  string   `json:"month"`
	Stays  []string `json:"stays"`
}

func packKey(month string, n int) string { return fmt.Sprintf("%s%s.%04d", packedPrefix, month, n) }

// parsePack takes the key of a pack apart.
func parsePack(key string) (month string, n int, ok bool) {
	month, number, _ := strings.Cut(strings.TrimPrefix(key, packedPrefix), ".")
	n, err := strconv.Atoi(number)
	if _, merr := time.Parse(monthLayout, month); err != nil || merr != nil || n < 1 {
		return "", 0, false
	}
	return month, n, packKey(month, n) == key
}

// packed returns the keys of the stays that are packed for a month, in order, and the highest number of a pack. A pack that can't be trusted is told to
// corrupt, and left out.
func (c *Catalog) packed(ctx context.Context, month string, corrupt func(error) error) (keys []string, highest int, err error) {
	for info, err := range c.store.List(ctx, packedPrefix+month+".") {
		if err != nil {
			return nil, 0, err
		}
		_, n, ok := parsePack(info.Key)
		if !ok {
			continue // remarks tells of it
		}
		highest = max(highest, n)
		data, err := storage.ReadFile(ctx, c.store, info.Key, catalog.MaxManifestLen)
		if err != nil {
			return nil, 0, err
		}
		var p pack
		if err = sealed.Decode(data, &p, 1, catalog.MaxManifestLen); err == nil && p.Month != month {
			err = fmt.Errorf("it is that of %s", p.Month)
		}
		if err != nil {
			if err := corrupt(fmt.Errorf("%w: %s: %w", catalog.ErrCorrupt, info.Key, err)); err != nil {
				return nil, 0, err
			}
			continue
		}
		for _, s := range p.Stays {
			keys = append(keys, usagePrefix+month+"/"+s)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys), highest, nil
}

// loose returns the keys of a month's stays that aren't packed, and what is beside them.
func (c *Catalog) loose(ctx context.Context, month string) (keys []string, err error) {
	for info, err := range c.store.List(ctx, usagePrefix+month+"/") {
		if err != nil {
			return nil, err
		}
		keys = append(keys, info.Key)
	}
	return keys, nil
}

// ofMonth returns the keys of all stays that ended in a month, in order, and what is beside them.
func (c *Catalog) ofMonth(ctx context.Context, month string, corrupt func(error) error) ([]string, error) {
	keys, err := c.loose(ctx, month)
	if err != nil {
		return nil, err
	}
	packed, _, err := c.packed(ctx, month, corrupt)
	if err != nil {
		return nil, err
	}
	if len(packed) > 0 {
		keys = append(keys, packed...)
		slices.Sort(keys)
		keys = slices.Compact(keys)
	}
	return keys, nil
}

// Tidy packs what the ledger has of months that are over. It changes nothing that Stays gives. It may be cut short at any time, and several may be
// at it.
func (c *Catalog) Tidy(ctx context.Context) error {
	months, err := c.remarks(ctx, map[catalog.ID][]time.Time{}, nil)
	if err != nil {
		return fmt.Errorf("storecatalog: tidy: %w", err)
	}
	for _, month := range months {
		began, err := time.Parse(monthLayout, month)
		if err != nil || c.now().Before(began.AddDate(0, 1, 0).Add(packAfter)) {
			continue
		}
		if err := c.pack(ctx, month); err != nil {
			return fmt.Errorf("storecatalog: tidy: packing the ledger of %s: %w", month, err)
		}
	}
	return nil
}

// pack packs the stays of a month.
func (c *Catalog) pack(ctx context.Context, month string) error {
	for {
		// Packs come before keys here: if another one makes a pack of the same keys after that, it takes the number.
		packed, n, err := c.packed(ctx, month, func(err error) error { return err })
		if err != nil {
			return err
		}
		keys, err := c.loose(ctx, month)
		if err != nil {
			return err
		}
		var rest []string
		for _, key := range keys {
			if _, ok := parseStay(key); !ok {
				continue
			}
			if _, ok := slices.BinarySearch(packed, key); !ok {
				rest = append(rest, key)
			} else if err := c.remove(ctx, key); err != nil { // what one that was cut short has left
				return err
			}
		}
		if len(rest) < minPack {
			return nil
		}
		rest = rest[:min(len(rest), maxPack)]
		done, err := c.packThese(ctx, month, n+1, rest)
		if err != nil || !done {
			return err
		}
	}
}

// packThese puts stays into a pack, and removes their keys. done is false if somebody else has made a pack of that number.
func (c *Catalog) packThese(ctx context.Context, month string, n int, keys []string) (done bool, err error) {
	p := pack{Format: 1, Month: month}
	for _, key := range keys {
		p.Stays = append(p.Stays, strings.TrimPrefix(key, usagePrefix+month+"/"))
	}
	data, err := sealed.Encode(p, catalog.MaxManifestLen)
	if err != nil {
		return false, err
	}
	switch err := createOnce(ctx, c.store, packKey(month, n), data); {
	case errors.Is(err, storage.ErrExists):
		return false, nil
	case err != nil:
		return false, err
	}
	// The keys are all that is known of these stays: they go when the pack has been read again.
	there, err := storage.ReadFile(ctx, c.store, packKey(month, n), catalog.MaxManifestLen)
	if err == nil && !bytes.Equal(there, data) {
		err = fmt.Errorf("%w: %s is not what was written", catalog.ErrCorrupt, packKey(month, n))
	}
	if err != nil {
		return false, err
	}
	for _, key := range keys {
		if err := c.remove(ctx, key); err != nil {
			return false, err
		}
	}
	return true, nil
}
