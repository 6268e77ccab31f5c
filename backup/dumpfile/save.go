package dumpfile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// saveMethod is what catalog.Source.Method says of these snapshots.
const saveMethod = "save"

// Defaults of a SaveConfig.
const (
	DefaultSaveTimeout    = time.Hour
	DefaultVisibleTimeout = 30 * time.Second
	DefaultConnectTimeout = 10 * time.Second
	DefaultStallTimeout   = 2 * time.Minute
)

// ErrElsewhere: the server saved, and the store doesn't show what it wrote. It is not the server's directory, or not yet up to date.
var ErrElsewhere = errors.New("store doesn't show what the server saved")

// A SaveConfig says which server is asked to write a dump, and where that can be read.
type SaveConfig struct {
	// Options are those of the client that the host already has; see replica.Config. They name the very server that saves: give a replica to spare
	// its primary. They are required, and neither changed nor copied.
	Options *redis.Options
	// Store shows the directory that the server writes into: a filestore.Store in that directory, or in where it is mounted; or the bucket of
	// Location. Of a Dragonfly's files it has to be able to delete. Required.
	Store storage.Store
	// Prefix is where in Store that directory is, such as "data/": empty or ending in a slash.
	Prefix string

	// Name is the key in Store of the file that a Redis or Valkey writes. Empty: Prefix and what CONFIG GET dbfilename says. It is needed where
	// the user isn't allowed CONFIG GET. A Dragonfly is given a name that nobody else has, and refuses this field.
	Name string
	// Forkless asks for BGSAVE FORKLESS, which spares the server the fork. A server that doesn't have it is asked for BGSAVE. It is a
	// proposal that Valkey took in August 2026: no release up to 9.1 has it, and of the answer nothing is known but that others call
	// it a syntax error, which begins nothing.
	Forkless bool

	// Format is what a Dragonfly writes: "DF", its own set of files, or "RDB", one file, which lacks search indexes. Empty: "DF".
	Format string
	// Location is the bucket that a Dragonfly is told to write into: s3://bucket/prefix, gs://bucket/prefix or
	// https://ACCOUNT.blob.core.windows.net/container/prefix, for which it needs credentials of its own: a Dragonfly that finds none, or was built
	// without that cloud, ends its process. Empty: the directory of its flag --dir, which may be in a bucket, too.
	Location string

	// SaveTimeout bounds the waiting for a save, that of others which is under way included. 0 means DefaultSaveTimeout.
	SaveTimeout time.Duration
	// VisibleTimeout bounds the waiting for the saved file to be seen in Store: network file systems remember for a while that there was none.
	// 0 means DefaultVisibleTimeout.
	VisibleTimeout time.Duration
	// ConnectTimeout bounds the connecting and the first answers. 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// StallTimeout bounds the wait for each later answer; a server that forks gives none meanwhile. 0 means DefaultStallTimeout.
	StallTimeout time.Duration

	// Logger is told what is waited for and what is odd. Nil discards that.
	Logger *slog.Logger
	// Now tells the time; nil means that of this machine.
	Now func() time.Time
}

// A SaveSnapshotter takes snapshots by asking one server to save. It keeps no connection between them. It is safe for concurrent use, but a
// server makes one save after the other.
//
// # Redis and Valkey
//
// BGSAVE is sent, or BGSAVE SCHEDULE while the append-only file is rewritten, once no other save is under way: that is the only fork. The save's end is read from INFO
// (rdb_bgsave_in_progress, rdb_saves, rdb_last_bgsave_status); the server has to be the same process in the same role until then. The file is opened at once, and has to be
// another one than before, of a time (its ctime) between the request and the end of the last save. The file is the server's own and stays.
//
// Where somebody else's save has ended before the file was opened, the snapshot may be that later one, which began after ours was asked for: then
// Source.Time is the file's own, to the second. Otherwise Time is when the fork was, by our clock, to the milliseconds that the answer took.
// Before Redis 7.0 the server doesn't count its saves, so that a save of others in between can't be excluded, and Time is the file's own.
//
// A scheduled save happens even if its snapshot is cancelled, and so does one that has begun.
//
// ReplicationID and ReplicationOffset are those that the file says it is of. A server that never had a replica doesn't tell them.
//
// # Dragonfly
//
// BGSAVE is sent, or SAVE to a server that can't tell how far it is, with a name that nobody else has (amber-save-, the time and 16 random digits), and
// exactly the files of that name are taken: the set has to be whole and of one snapshot ID. They are removed when the Snapshot is closed. When Snapshot
// fails or is cancelled they are removed as soon as the server has finished, in the background: call Close before the end of the process, which
// ends that and names what may be left. Files of a process that was killed stay: remove what is called amber-save-…, a day old, by hand. Source.Time
// is when the save was asked for. What role a Dragonfly has in a cluster it doesn't say: of one that has only some of the slots these are the snapshot.
//
// # Keys
//
// The keys in the file are counted and compared with INFO just before and just after the save began. Let a and b be the sums of all databases at these two
// moments, e the keys with an expiry, and c the commands that the server executed between: fewer keys than min(a, b) − e − c fail the
// backup (backup.Counted). e is there since keys that are past their time may be counted or not; c since clients may add and delete
// meanwhile. What many clients do in these milliseconds may still outweigh it in the unlucky case that they delete keys by the hundred per command and put them back:
// then the backup fails without need. More keys than there were are no loss and are logged.
type SaveSnapshotter struct {
	cfg SaveConfig
	log *slog.Logger
	now clock.Func

	late   sync.WaitGroup // cleaning that goes on after its caller has returned
	mu     sync.Mutex
	closed bool
	ends   map[string]context.CancelFunc // of the cleaning, by the name of what may be left
	left   []string                      // what was given up
}

// NewSave returns a SaveSnapshotter. It doesn't connect. The error says what is wrong with the configuration.
func NewSave(cfg SaveConfig) (*SaveSnapshotter, error) {
	bad := func(format string, args ...any) error { return fmt.Errorf("dumpfile: SaveConfig."+format, args...) }
	switch {
	case cfg.Options == nil:
		return nil, bad("Options is required: use the options of a redis.Client, or redis.ParseURL")
	case cfg.Store == nil:
		return nil, bad("Store is required")
	case cfg.SaveTimeout < 0 || cfg.VisibleTimeout < 0 || cfg.ConnectTimeout < 0 || cfg.StallTimeout < 0:
		return nil, errors.New("dumpfile: a timeout of SaveConfig is negative")
	}
	if cfg.Prefix != "" {
		if err := storage.ValidKey(strings.TrimSuffix(cfg.Prefix, "/")); err != nil {
			return nil, bad("Prefix: %w", err)
		}
		if !strings.HasSuffix(cfg.Prefix, "/") {
			return nil, bad("Prefix: %q doesn't end in a slash", cfg.Prefix)
		}
	}
	if cfg.Name != "" {
		if err := storage.ValidKey(cfg.Name); err != nil {
			return nil, bad("Name: %w", err)
		}
	}
	switch cfg.Format = strings.ToUpper(cfg.Format); cfg.Format {
	case "":
		cfg.Format = "DF"
	case "DF", "RDB":
	default:
		return nil, bad("Format is %q: it is DF or RDB", cfg.Format)
	}
	if cfg.Location != "" {
		if err := validLocation(cfg.Location); err != nil {
			return nil, bad("Location: %w", err)
		}
	}
	or := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	or(&cfg.SaveTimeout, DefaultSaveTimeout)
	or(&cfg.VisibleTimeout, DefaultVisibleTimeout)
	or(&cfg.ConnectTimeout, DefaultConnectTimeout)
	or(&cfg.StallTimeout, DefaultStallTimeout)
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &SaveSnapshotter{cfg: cfg, log: log, now: clock.Or(cfg.Now), ends: map[string]context.CancelFunc{}}, nil
}

// validLocation accepts what a Dragonfly takes for a bucket. Anything else would be taken for a name, and a query may be a secret.
func validLocation(location string) error {
	u, err := url.Parse(location)
	switch {
	case err != nil:
		return errors.New("it is no URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("it has a user, a query or a fragment: a Dragonfly has its credentials from its own environment")
	case u.Host == "" || strings.ContainsAny(location, " \t\r\n"):
		return errors.New("it names no bucket")
	case u.Scheme == "s3" || u.Scheme == "gs":
		return nil
	case u.Scheme == "https" && strings.HasSuffix(u.Host, ".blob.core.windows.net"):
		return nil
	}
	return fmt.Errorf("%q: it begins with s3://, gs:// or https://ACCOUNT.blob.core.windows.net/", u.Scheme+"://"+u.Host)
}

// Snapshot makes the server save and returns when it has. The error is a *backup.SourceError where the server is to blame, and wraps
// ErrElsewhere if the saved file isn't found, ErrChanged if something else came between. Nothing is retried: at most one save is begun.
func (s *SaveSnapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	w := &saving{SaveSnapshotter: s, again: maxReconnects, deadline: clock.System().Add(s.cfg.SaveTimeout)}
	defer w.disconnect()
	sn, err := w.take(ctx)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, err
	}
	return sn, nil
}

func (w *saving) take(ctx context.Context) (*saved, error) {
	if err := w.connect(ctx); err != nil {
		return nil, err
	}
	if err := w.check(); err != nil {
		return nil, err
	}
	if w.dragonfly() {
		return w.saveSet(ctx)
	}
	return w.saveFile(ctx)
}

// Close ends what goes on after calls of Snapshot that failed or were cancelled, and waits for that. The error names files of a Dragonfly that may be
// left, or will be. Snapshots that were returned are closed by themselves, before.
func (s *SaveSnapshotter) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, end := range s.ends {
		end()
	}
	s.mu.Unlock()
	s.late.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.left) == 0 {
		return nil
	}
	return fmt.Errorf("dumpfile: the server may leave these files: %s", strings.Join(s.left, ", "))
}

// key is that of a file in the server's directory.
func (s *SaveSnapshotter) key(file string) string { return s.cfg.Prefix + path.Base(file) }
