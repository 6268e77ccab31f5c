package restore

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/reading"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/seal"
)

// Config is what a Restorer works with.
type Config struct {
	Store   storage.Store   // holds the parts; required
	Catalog catalog.Catalog // holds the manifests; required
	// Leaser gives leases to those who read, so that no backup is deleted meanwhile, if it is a catalog.Sharer. nil, or a store that can't be written
	// to: backups are read all the same, and may be deleted.
	Leaser   catalog.Leaser
	LeaseTTL time.Duration    // how long a reader that died keeps a backup from being deleted; 0: reading.DefaultTTL; at least 3 seconds
	Logger   *slog.Logger     // nil: discard
	Now      func() time.Time // nil: the machine's clock
	// TempDir is where values are held that have to be encoded anew and are too large for memory; empty: the system's.
	TempDir string
	// Identities open backups that are encrypted. They are secret.
	Identities []age.Identity
	// Trust are the keys whose signatures count. If there are any, a backup that none of them signed is refused.
	Trust []ed25519.PublicKey
}

// A Restorer verifies backups and restores them. It is safe for use by several goroutines.
type Restorer struct {
	store   storage.Store
	catalog catalog.Catalog
	guard   reading.Guard
	log     *slog.Logger
	now     clock.Func
	temp    string
	ids     []age.Identity
	trust   []ed25519.PublicKey
}

// New returns a Restorer. The error says which field of the configuration is missing.
func New(cfg Config) (*Restorer, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("restore: Config.Store is required")
	case cfg.Catalog == nil:
		return nil, errors.New("restore: Config.Catalog is required")
	case cfg.LeaseTTL != 0 && cfg.LeaseTTL < 3*time.Second:
		return nil, fmt.Errorf("restore: Config.LeaseTTL is %v, it has to be at least 3s: a lease is renewed every third of it", cfg.LeaseTTL)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if i := slices.Index(cfg.Identities, nil); i >= 0 {
		return nil, fmt.Errorf("restore: Config.Identities: identity %d is nil", i+1)
	}
	for i, key := range cfg.Trust {
		if len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("restore: Config.Trust: key %d has %d bytes, an Ed25519 key has %d", i+1, len(key), ed25519.PublicKeySize)
		}
	}
	return &Restorer{store: cfg.Store, catalog: cfg.Catalog, log: cfg.Logger, now: clock.Or(cfg.Now), temp: cfg.TempDir,
		guard: reading.Guard{Catalog: cfg.Catalog, Leaser: cfg.Leaser, TTL: cfg.LeaseTTL, Logger: cfg.Logger, Now: cfg.Now},
		ids:   cfg.Identities, trust: cfg.Trust}, nil
}

// A Verification says what proving a backup found.
type Verification struct {
	Backup      *catalog.Backup `json:"backup"`
	Keys        int64           `json:"keys"`
	StoredBytes int64           `json:"bytes"`    // read from the store
	RawBytes    int64           `json:"rawBytes"` // parsed
	// Sealed: the backup is encrypted and no identity was at hand, so that it was not opened. Its stored bytes are those that its run
	// parsed before it encrypted them; whether somebody still has an identity isn't known.
	Sealed   bool          `json:"sealed,omitempty"`
	Duration time.Duration `json:"duration"` // in nanoseconds
}

// Verify proves a backup from the store alone: every stored byte is read and hashed, every part decompressed, parsed to
// its end and held against its checksum, and what is in it counted and compared with the manifest. progress may be nil; it is
// called now and then, from one goroutine at a time.
//
// Of a backup that is encrypted, a Restorer without identities proves the stored bytes alone, and says so: Verification.Sealed.
//
// The error wraps ErrNotVerified if the backup isn't what its manifest says or isn't ready, and catalog.ErrNotTrusted beside that
// if no trusted key has signed it; seal.ErrNoIdentity if it is encrypted and none of the identities opens it, which says nothing
// against the backup; catalog.ErrNotFound if there is none, catalog.ErrCorrupt if the manifest itself can't be trusted, and storage.ErrNotFound beside
// ErrNotVerified if a part is missing. Other errors are those of the store: the backup may be good.
func (r *Restorer) Verify(ctx context.Context, id catalog.ID, progress func(Progress)) (v *Verification, err error) {
	ctx, end := r.hold(ctx, id)
	defer func() { err = end(err) }()
	b, err := r.ready(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(b.Recipients) > 0 && len(r.ids) == 0 {
		start := r.now()
		v, err := r.verifyHashes(ctx, b, progress)
		if err != nil {
			return nil, err
		}
		v.Sealed, v.Duration = true, r.now().Sub(start)
		return v, nil
	}
	if err := r.mayOpen(b); err != nil {
		return nil, err
	}
	return r.verify(ctx, b, progress)
}

// mayOpen returns an error if it is known, without reading anything, that the identities don't open a backup.
func (r *Restorer) mayOpen(b *catalog.Backup) error {
	if len(b.Recipients) == 0 || seal.MayOpen(b.Recipients, r.ids) {
		return nil
	}
	return r.noIdentity(b, fmt.Errorf("%w: %d were given", seal.ErrNoIdentity, len(r.ids)))
}

// noIdentity adds to an error that no identity opens a backup who could.
func (r *Restorer) noIdentity(b *catalog.Backup, err error) error {
	if !errors.Is(err, seal.ErrNoIdentity) {
		return err
	}
	const shown = 10
	names := strings.Join(b.Recipients[:min(len(b.Recipients), shown)], ", ")
	if more := len(b.Recipients) - shown; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Errorf("%w; backup %s is encrypted for %s: give the identity of one of these", err, b.ID, names)
}

// opens proves that the identities open every part, by its beginning.
func (r *Restorer) opens(ctx context.Context, b *catalog.Backup) error {
	if len(b.Recipients) == 0 {
		return nil
	}
	for _, p := range b.Parts {
		in, err := r.again(ctx, p)
		if err != nil {
			return partError(b, p, err)
		}
		_, err = in.Read(make([]byte, 1))
		in.Close()
		if err != nil && err != io.EOF {
			return partError(b, p, notVerified(r.noIdentity(b, err)))
		}
	}
	return nil
}

// hold keeps a backup from being deleted until end is called, which says in an error if it was deleted all the same: that is a backup that
// doesn't verify, unless the target was touched.
func (r *Restorer) hold(ctx context.Context, id catalog.ID) (held context.Context, end func(err error) error) {
	held, done := r.guard.Hold(ctx, id)
	return held, func(err error) error {
		var partial *PartialError
		if errors.As(err, &partial) {
			partial.Err = done(partial.Err)
			return err
		}
		if err = done(err); errors.Is(err, reading.ErrDeleted) && !errors.Is(err, ErrNotVerified) {
			err = fmt.Errorf("%w: %w", ErrNotVerified, err)
		}
		return err
	}
}

// ready returns the manifest of a backup that can be restored.
func (r *Restorer) ready(ctx context.Context, id catalog.ID) (*catalog.Backup, error) {
	b, _, err := r.catalog.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if b.State != catalog.StateReady {
		return nil, fmt.Errorf("%w: backup %s is %s, not ready", ErrNotVerified, id, b.State)
	}
	if len(b.Parts) == 0 {
		return nil, fmt.Errorf("%w: backup %s has no parts", ErrNotVerified, id)
	}
	if len(r.trust) > 0 {
		if err := catalog.CheckSignature(b, r.trust); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotVerified, err)
		}
	}
	return b, nil
}

// progressInterval is how often a verification reports.
const progressInterval = 200 * time.Millisecond

// verifyHashes holds the stored bytes of every part against the manifest.
func (r *Restorer) verifyHashes(ctx context.Context, b *catalog.Backup, progress func(Progress)) (*Verification, error) {
	var stored atomic.Int64
	defer clock.Every(progressInterval, func() {
		report(progress, Progress{Stage: StageVerify, Bytes: stored.Load(), Total: b.StoredBytes})
	})()
	for _, p := range b.Parts {
		object, err := r.object(ctx, p)
		if err == nil {
			err = notVerified(seal.Check(&counter{object, &stored}, Sum(p)))
			object.Close()
		}
		if err != nil {
			return nil, partError(b, p, err)
		}
	}
	return &Verification{Backup: b, Keys: b.Keys, StoredBytes: b.StoredBytes}, nil
}

type counter struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// verify parses every part and compares what is in it with the manifest.
func (r *Restorer) verify(ctx context.Context, b *catalog.Backup, progress func(Progress)) (*Verification, error) {
	start := r.now()
	v := &Verification{Backup: b}
	var stored, keys atomic.Int64
	defer clock.Every(progressInterval, func() {
		report(progress, Progress{Stage: StageVerify, Bytes: stored.Load(), Total: b.StoredBytes, Keys: keys.Load()})
	})()

	var all catalog.Contents
	for _, p := range b.Parts {
		found, err := r.inspect(ctx, p, &stored, &keys)
		if err != nil {
			return nil, partError(b, p, r.noIdentity(b, err))
		}
		if found.Dialect != p.Dialect {
			return nil, fmt.Errorf("%w: backup %s, part %s: it is %s, the manifest says %s", ErrNotVerified, b.ID, p.Name, found.Dialect, p.Dialect)
		}
		v.StoredBytes += p.Size
		v.RawBytes += p.RawSize
		all.Add(found)
	}
	if why := all.Differs(b); why != "" {
		return nil, fmt.Errorf("%w: backup %s: %s", ErrNotVerified, b.ID, why)
	}
	v.Keys, v.Duration = all.Keys, r.now().Sub(start)
	return v, nil
}

// inspect reads one part to its end and says what is in it.
func (r *Restorer) inspect(ctx context.Context, p catalog.Part, stored, keys *atomic.Int64) (catalog.Contents, error) {
	in, err := r.open(ctx, p)
	if err != nil {
		return catalog.Contents{}, err
	}
	defer in.Close()
	base := stored.Load()
	found, err := catalog.Inspect(&meter{in: in, base: base, stored: stored}, keys)
	if err != nil {
		return found, notVerified(err)
	}
	stored.Store(base + p.Size)
	return found, nil
}

// meter tells how many stored bytes of a part were read.
type meter struct {
	in     *partReader
	base   int64
	stored *atomic.Int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.in.Read(p)
	m.stored.Store(m.base + m.in.Stored())
	return n, err
}

// open opens a part for reading its raw bytes, and proves both these and the stored ones.
func (r *Restorer) open(ctx context.Context, p catalog.Part) (*partReader, error) {
	return r.openAs(ctx, p, Sum(p))
}

// partError names a part in an error, and says whom to ask if it isn't Amber's own.
func partError(b *catalog.Backup, p catalog.Part, err error) error {
	if p.Adopted && errors.Is(err, ErrNotVerified) {
		return fmt.Errorf("backup %s, part %s: %w; it was adopted, not stored: whoever keeps %s has changed or removed it", b.ID, p.Name, err, p.Key)
	}
	return fmt.Errorf("backup %s, part %s: %w", b.ID, p.Name, err)
}

// again opens a part whose stored bytes were proved before: the raw ones prove that they are still the same. Of an encrypted part the stored
// ones do once more.
func (r *Restorer) again(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	sum := Sum(p)
	if sum.RawSHA256 != "" {
		sum.SHA256 = ""
	}
	in, err := r.openAs(ctx, p, sum)
	if err != nil {
		return nil, err
	}
	return in, nil
}

func (r *Restorer) openAs(ctx context.Context, p catalog.Part, sum seal.Sum) (*partReader, error) {
	ctx, cancel := context.WithCancel(ctx)
	object, err := r.object(ctx, p)
	if err != nil {
		cancel()
		return nil, err
	}
	sealed, err := seal.NewReader(object, sum, r.ids)
	if err != nil {
		cancel()
		object.Close()
		return nil, err
	}
	return &partReader{Reader: sealed, object: object, cancel: cancel}, nil
}

// openPart is open for those who only read.
func (r *Restorer) openPart(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	in, err := r.open(ctx, p)
	if err != nil {
		return nil, err
	}
	return in, nil
}

// object opens the stored bytes of a part.
func (r *Restorer) object(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	object, err := r.store.Open(ctx, p.Key, 0, -1)
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrNotVerified, err)
	}
	return object, err
}

// Sum returns what the manifest knows of a part's bytes.
func Sum(p catalog.Part) seal.Sum {
	return seal.Sum{Compression: p.Compression, Encryption: p.Encryption, Size: p.Size, SHA256: p.SHA256, RawSize: p.RawSize, RawSHA256: p.RawSHA256}
}

type partReader struct {
	*seal.Reader
	object io.Closer
	cancel context.CancelFunc
}

func (r *partReader) Close() error {
	r.cancel() // ends a read of the decompressor's goroutine that waits for the store
	r.Reader.Close()
	return r.object.Close()
}

// notVerified marks the errors that mean a bad backup, and leaves those of a store that couldn't be read.
func notVerified(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, seal.ErrMismatch) || errors.Is(err, catalog.ErrBadSnapshot) {
		return fmt.Errorf("%w: %w", ErrNotVerified, err)
	}
	return err
}

func report(f func(Progress), p Progress) {
	if f != nil {
		f(p)
	}
}
