package storecatalog

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// leasePrefix is where leases are. It is no valid name of a data store.
const leasePrefix = "_leases/"

// maxLeaseLen bounds what is read as a lease, in bytes.
const maxLeaseLen = 64 << 10

// leaseFile is a lease as it is stored. Only its holder changes it.
type leaseFile struct {
	Owner    string        `json:"owner"`
	Acquired time.Time     `json:"acquired"`
	Expires  time.Time     `json:"expires"`
	TTL      time.Duration `json:"ttl"` // in nanoseconds
	Released bool          `json:"released"`
	Nonce    string        `json:"nonce"` // makes the bytes of every attempt to acquire different
}

// Acquire takes a lease, as catalog.Leaser says. A holder that is silent loses it Config.ClockSkew after its end, which is the
// time that a *HeldError gives. The name has up to 200 bytes and no slash.
func (c *Catalog) Acquire(ctx context.Context, name string, ttl time.Duration) (catalog.Lease, error) {
	l, err := c.acquire(ctx, name, ttl)
	if err != nil {
		return nil, fmt.Errorf("storecatalog: acquire: %w", err)
	}
	return l, nil
}

func (c *Catalog) acquire(ctx context.Context, name string, ttl time.Duration) (*lease, error) {
	if err := validLease(name, ttl); err != nil {
		return nil, err
	}
	l := &lease{c: c, name: name}
	for range 100 {
		tokens, err := l.tokens(ctx)
		if err != nil {
			return nil, err
		}
		newest := int64(0)
		if len(tokens) > 0 {
			newest = tokens[len(tokens)-1]
			held, err := c.holder(ctx, name, newest, ttl)
			if errors.Is(err, storage.ErrNotFound) {
				continue // cleaned up, so there is a newer one
			}
			if err != nil {
				return nil, err
			}
			if held != nil {
				return nil, held
			}
		}
		now := c.now()
		l.token = newest + 1
		l.file = leaseFile{Owner: c.owner, Acquired: now, Expires: now.Add(ttl), TTL: ttl, Nonce: rand.Text()}
		err = l.store(ctx, true)
		if errors.Is(err, storage.ErrExists) {
			continue // somebody was quicker
		}
		if err != nil {
			return nil, fmt.Errorf("lease %s: %w", name, err)
		}
		// The token we took may be one that was cleaned up long ago, if this process slept since it looked.
		tokens, err = l.tokens(ctx)
		if err != nil {
			return nil, err
		}
		if len(tokens) == 0 || tokens[len(tokens)-1] != l.token {
			if err := c.remove(ctx, l.key(l.token)); err != nil {
				return nil, err
			}
			continue
		}
		// Old tokens mean nothing any more. What can't be removed now is removed with the next lease.
		for _, old := range tokens[:len(tokens)-1] {
			c.remove(ctx, l.key(old))
		}
		return l, nil
	}
	return nil, fmt.Errorf("lease %s: others were quicker a hundred times", name)
}

// validLease says what is wrong with what a lease is asked for by.
func validLease(name string, ttl time.Duration) error {
	if ttl <= 0 {
		return fmt.Errorf("lease %.200q: its time to live, %v, is not positive", name, ttl)
	}
	if err := storage.ValidKey(leasePrefix + name); err != nil || strings.Contains(name, "/") {
		return fmt.Errorf("%.200q can't be the name of a lease: it has a slash or can't be a part of a key", name)
	}
	return nil
}

// holder returns who holds a lease by a token, or nil if nobody does any more.
func (c *Catalog) holder(ctx context.Context, name string, token int64, ttl time.Duration) (*catalog.HeldError, error) {
	key := (&lease{name: name}).key(token)
	info, err := c.store.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	data, err := storage.ReadFile(ctx, c.store, key, maxLeaseLen)
	if err != nil {
		return nil, err
	}
	var f leaseFile
	if err := json.Unmarshal(data, &f); err != nil || f.Expires.IsZero() {
		// Nobody writes such a thing. It must neither be taken for free nor block the name for ever.
		f = leaseFile{Owner: "an unreadable lease (" + key + ")", Expires: info.ModTime.Add(ttl)}
	}
	until := f.Expires.Add(c.skew)
	if f.Released || !c.now().Before(until) {
		return nil, nil
	}
	return &catalog.HeldError{Name: name, Owner: f.Owner, Until: until}, nil
}

// A lease is one that this process has acquired.
type lease struct {
	c     *Catalog
	name  string
	token int64

	mu   sync.Mutex
	file leaseFile // as last stored
	lost error     // why it is not held any more; nil while it is
}

func (l *lease) key(token int64) string {
	return fmt.Sprintf("%s%s/%016d.json", leasePrefix, l.name, token)
}

// store writes the lease, either as a new one or over this process's own.
func (l *lease) store(ctx context.Context, exclusive bool) error {
	data, err := json.MarshalIndent(&l.file, "", "  ")
	if err != nil {
		return err // the clock is past the year 9999
	}
	data = append(data, '\n')
	if exclusive {
		return createOnce(ctx, l.c.store, l.key(l.token), data)
	}
	return storage.WriteFile(ctx, l.c.store, l.key(l.token), data, nil)
}

// tokens lists the tokens of the lease's name, in ascending order.
func (l *lease) tokens(ctx context.Context) ([]int64, error) {
	prefix := leasePrefix + l.name + "/"
	var tokens []int64
	for info, err := range l.c.store.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("lease %s: %w", l.name, err)
		}
		digits := strings.TrimSuffix(strings.TrimPrefix(info.Key, prefix), ".json")
		token, err := strconv.ParseInt(digits, 10, 64)
		if err == nil && token > 0 && l.key(token) == info.Key {
			tokens = append(tokens, token)
		}
	}
	return tokens, nil
}

// Token returns the fencing token.
func (l *lease) Token() int64 { return l.token }

// Renew prolongs the lease, as catalog.Lease says.
func (l *lease) Renew(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	if err := l.check(ctx); err != nil {
		return err
	}
	before := l.file
	l.file.Expires = l.c.now().Add(l.file.TTL)
	if err := l.store(ctx, false); err != nil {
		l.file = before // whether it was stored or not, nothing can be built on it
		return fmt.Errorf("storecatalog: renewing lease %s: %w", l.name, err)
	}
	// If writing took so long that the former end has passed meanwhile, somebody may have taken the lease for ended.
	renewed := l.file
	l.file = before
	if err := l.check(ctx); err != nil {
		return err
	}
	l.file = renewed
	return nil
}

// check finds out whether the lease is lost: by its end, or because somebody else has a higher token.
func (l *lease) check(ctx context.Context) error {
	lose := func(why string) error {
		l.lost = fmt.Errorf("storecatalog: lease %s: %w: %s", l.name, catalog.ErrLeaseLost, why)
		return l.lost
	}
	if now := l.c.now(); !now.Before(l.file.Expires) {
		return lose(fmt.Sprintf("it ended at %s and was not renewed in time", l.file.Expires.UTC().Format(time.RFC3339)))
	}
	tokens, err := l.tokens(ctx)
	if err != nil {
		return fmt.Errorf("storecatalog: %w", err)
	}
	if len(tokens) == 0 || tokens[len(tokens)-1] != l.token {
		return lose("another process has taken it")
	}
	return nil
}

// Release ends the lease, as catalog.Lease says. Its object stays, so that the next token is higher.
func (l *lease) Release(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return nil
	}
	if err := l.check(ctx); err != nil {
		if errors.Is(err, catalog.ErrLeaseLost) {
			return nil
		}
		return err
	}
	l.file.Released = true
	if err := l.store(ctx, false); err != nil {
		l.file.Released = false
		return fmt.Errorf("storecatalog: releasing lease %s: %w", l.name, err)
	}
	l.lost = fmt.Errorf("storecatalog: lease %s: %w: it was released", l.name, catalog.ErrLeaseLost)
	return nil
}
