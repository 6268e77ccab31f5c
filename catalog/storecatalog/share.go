package storecatalog

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// unreadableFor is how long an object counts as a shared lease that can't be read as one, from when it was written.
const unreadableFor = time.Hour

// Share takes a shared lease, as catalog.Sharer says. Each is an object of its own, which Release removes. One whose holder is silent counts until
// Config.ClockSkew after its end, and is removed by whoever lists it then. Names are as those of Acquire.
func (c *Catalog) Share(ctx context.Context, name string, ttl time.Duration) (catalog.Lease, error) {
	if err := validLease(name, ttl); err != nil {
		return nil, fmt.Errorf("storecatalog: share: %w", err)
	}
	now := c.now()
	nonce := rand.Text()
	l := &share{c: c, name: name, key: sharePrefix(name) + strings.ToLower(nonce) + ".json",
		file: leaseFile{Owner: c.owner, Acquired: now, Expires: now.Add(ttl), TTL: ttl, Nonce: nonce}}
	err := l.store(ctx, l.file)
	if err == nil && !c.now().Before(l.file.Expires) {
		// Somebody may have looked in the meantime and found that it had ended.
		err = fmt.Errorf("%w: it ended while it was written", catalog.ErrLeaseLost)
	}
	if err != nil {
		c.remove(ctx, l.key) // it may be there; what can't be removed now ends by itself
		return nil, fmt.Errorf("storecatalog: share: lease %s: %w", name, err)
	}
	return l, nil
}

// sharePrefix begins the keys of a name's shared leases. They are beside those of the exclusive ones, whose names are numbers.
func sharePrefix(name string) string { return leasePrefix + name + "/shared-" }

// Sharers tells who has shared leases of a name, as catalog.Sharer says.
func (c *Catalog) Sharers(ctx context.Context, name string) ([]catalog.HeldError, error) {
	held, err := c.sharers(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("storecatalog: sharers of lease %.200q: %w", name, err)
	}
	return held, nil
}

func (c *Catalog) sharers(ctx context.Context, name string) (held []catalog.HeldError, err error) {
	if err := validLease(name, 1); err != nil {
		return nil, err
	}
	var shares []storage.Info
	for info, err := range c.store.List(ctx, sharePrefix(name)) {
		if err != nil {
			return nil, err
		}
		shares = append(shares, info)
	}
	for _, info := range shares {
		var f leaseFile
		if info.Size <= maxLeaseLen {
			data, err := storage.ReadFile(ctx, c.store, info.Key, maxLeaseLen)
			if errors.Is(err, storage.ErrNotFound) {
				continue // it was released
			}
			if err != nil {
				return nil, err
			}
			if err := json.Unmarshal(data, &f); err != nil {
				f = leaseFile{}
			}
		}
		if f.Expires.IsZero() { // nobody writes such a thing
			f = leaseFile{Owner: "an unreadable lease (" + info.Key + ")", Expires: info.ModTime.Add(unreadableFor)}
		}
		until := f.Expires.Add(c.skew)
		if !c.now().Before(until) {
			// Its holder can't have renewed it since we looked: for that it would have to be quicker than its end.
			c.remove(ctx, info.Key) // what stays is removed by the next who looks
			continue
		}
		held = append(held, catalog.HeldError{Name: name, Owner: f.Owner, Until: until})
	}
	slices.SortFunc(held, func(a, b catalog.HeldError) int { return a.Until.Compare(b.Until) })
	return held, nil
}

// A share is a shared lease that this process has.
type share struct {
	c         *Catalog
	name, key string

	mu   sync.Mutex
	file leaseFile // as last stored
	lost error     // why it is not held any more; nil while it is
}

// Token returns 0: shared leases have no order.
func (l *share) Token() int64 { return 0 }

// store writes the lease, over what this process has written of it before.
func (l *share) store(ctx context.Context, f leaseFile) error {
	data, err := json.MarshalIndent(&f, "", "  ")
	if err != nil {
		return err // the clock is past the year 9999
	}
	return storage.WriteFile(ctx, l.c.store, l.key, append(data, '\n'), nil)
}

// lose takes down why the lease is not held any more.
func (l *share) lose(why string) error {
	l.lost = fmt.Errorf("storecatalog: lease %s: %w: %s", l.name, catalog.ErrLeaseLost, why)
	return l.lost
}

// Renew prolongs the lease, as catalog.Lease says.
func (l *share) Renew(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	if err := l.ended(); err != nil {
		return err
	}
	// Somebody whose clock is ahead may have taken it for ended.
	_, err := l.c.store.Stat(ctx, l.key)
	if errors.Is(err, storage.ErrNotFound) {
		if err := l.ended(); err != nil {
			return err // it has, while we asked
		}
		return l.lose("it was removed by another process, whose clock is ahead")
	}
	renewed := l.file
	renewed.Expires = l.c.now().Add(l.file.TTL)
	if err == nil {
		err = l.store(ctx, renewed)
	}
	if err != nil {
		return fmt.Errorf("storecatalog: renewing lease %s: %w", l.name, err)
	}
	// If writing took until after the former end, somebody may have removed the lease before it was there anew.
	if err := l.ended(); err != nil {
		l.c.remove(ctx, l.key)
		return err
	}
	l.file = renewed
	return nil
}

// ended finds out whether the lease has lasted too long.
func (l *share) ended() error {
	if l.c.now().Before(l.file.Expires) {
		return nil
	}
	return l.lose(fmt.Sprintf("it ended at %s and was not renewed in time", l.file.Expires.UTC().Format(time.RFC3339)))
}

// Release ends the lease, as catalog.Lease says, and removes its object, which is this process's alone.
func (l *share) Release(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.c.remove(ctx, l.key); err != nil {
		return fmt.Errorf("storecatalog: releasing lease %s: %w", l.name, err)
	}
	if l.lost == nil {
		l.lose("it was released")
	}
	return nil
}
