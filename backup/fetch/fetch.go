// Package fetch takes a snapshot that lies somewhere as a file, by its URL, and sends one to a URL. An import is a backup whose
// snapshotter is this one.
//
// A URL may come from somebody who should not get to what the host can reach, and often is a secret itself, for it is
// signed. So a [Policy] says what may be reached, and of a URL only scheme, host and path are ever told.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/rdb/dfs"
)

// DefaultMaxBytes is how large a snapshot may be: 1 TiB. It holds off a body without an end, and leaves room for the largest data stores.
const DefaultMaxBytes = 1 << 40

// Config says what to fetch.
type Config struct {
	// URL is that of an RDB file, or, if its path ends in -summary.dfs, of the summary of a DFS set. The set's other files are
	// beside it and take the same query. It is required.
	URL string
	// More are the URLs of the shards of a DFS set where each is signed by itself. They are in the order of their numbers,
	// and URL may then have any path.
	More []string
	// MaxBytes bounds the snapshot, all its parts together. 0: DefaultMaxBytes.
	MaxBytes int64
	// Policy says what may be reached. The zero value: https and public addresses.
	Policy Policy
	// Logger is told of transfers that were cut and go on. Nil discards that.
	Logger *slog.Logger
}

// A Snapshotter takes the snapshot that lies at a URL. It is safe for use by several goroutines.
type Snapshotter struct {
	cfg    Config
	policy *Policy
	log    *slog.Logger
	http   *http.Client
	main   *object
	more   []*object // the shards of a DFS set; nil: they are found by what the summary says
	set    bool
	tuning tuning
}

// tuning is what only tests change.
type tuning struct {
	tries       int           // of a request, or of going on without getting ahead
	least, most time.Duration // between them
	patience    time.Duration // with a server that asks to be left alone; for longer than that the schedule is the better place to wait
}

func defaultTuning() tuning {
	return tuning{tries: 5, least: 500 * time.Millisecond, most: 15 * time.Second, patience: 30 * time.Second}
}

// New returns a Snapshotter. It connects to nothing. The error wraps ErrRefused if the policy doesn't allow the URL, and never quotes a URL.
func New(cfg Config) (*Snapshotter, error) {
	if cfg.MaxBytes < 0 {
		return nil, errors.New("fetch: Config.MaxBytes is negative")
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	policy, err := cfg.Policy.filled()
	if err != nil {
		return nil, err
	}
	s := &Snapshotter{cfg: cfg, policy: policy, log: cfg.Logger, http: policy.client(), tuning: defaultTuning()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	u, err := policy.parseURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("fetch: Config.URL: %w", err)
	}
	name := path.Base(u.EscapedPath())
	s.set = dfs.IsSummary(name) || len(cfg.More) > 0
	switch {
	case !s.set && strings.HasSuffix(strings.ToLower(u.Path), ".dfs"):
		return nil, errors.New("fetch: Config.URL is one file of a DFS set: give that of its summary, which ends in -summary.dfs")
	case !s.set:
		name = "dump.rdb"
	case !dfs.IsSummary(name):
		name = "dump-summary.dfs"
	}
	s.main = s.object(name, u)
	for i, raw := range cfg.More {
		u, err := policy.parseURL(raw)
		if err != nil {
			return nil, fmt.Errorf("fetch: Config.More[%d]: %w", i, err)
		}
		s.more = append(s.more, s.object(shardName(name, i), u))
	}
	return s, nil
}

func shardName(summary string, n int) string {
	return fmt.Sprintf("%s-%04d.dfs", strings.TrimSuffix(summary, "-summary.dfs"), n)
}

// Snapshot asks for the file, and returns when its first bytes have come and look like a snapshot's. Of a DFS set it reads the summary and
// the first facts of each shard, and holds them against each other. The error is an *Error, or a *dfs.SetError, or one of package rdb.
func (s *Snapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	sn := &snapshot{from: s}
	sn.ctx, sn.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	sn.left.Store(s.cfg.MaxBytes)
	open := sn.openFile
	if s.set {
		open = sn.openSet
	}
	if err := open(ctx); err != nil {
		sn.Close()
		return nil, err
	}
	return sn, nil
}

// object is a file at a URL.
type object struct {
	from *Snapshotter
	name string // as a part
	url  *url.URL
}

func (s *Snapshotter) object(name string, u *url.URL) *object {
	return &object{from: s, name: name, url: u}
}

// get asks for the object from a byte on, as long as it is the one that is known. Whatever the server's answer, it is the caller's.
func (o *object) get(ctx context.Context, t *trail, off int64, known identity) (*http.Response, error) {
	req, err := http.NewRequestWithContext(withTrail(ctx, t), http.MethodGet, o.url.String(), nil)
	if err != nil {
		return nil, explain(o.url, t, err)
	}
	req.Header.Set("User-Agent", "amber")
	req.Header.Set("Accept-Encoding", "identity")
	if off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
		req.Header.Set("If-Range", known.validator())
	}
	again, err := retryablehttp.FromRequest(req)
	if err != nil {
		return nil, explain(o.url, t, err)
	}
	tuning := o.from.tuning
	client := &retryablehttp.Client{
		HTTPClient:   o.from.http, // and no Logger, which would be told the query
		RetryMax:     tuning.tries - 1,
		Backoff:      func(_, _ time.Duration, try int, resp *http.Response) time.Duration { return tuning.backoff(try, resp) },
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
		CheckRetry: func(ctx context.Context, resp *http.Response, err error) (bool, error) {
			if ctx.Err() != nil {
				return false, nil
			}
			if err != nil {
				return transient(err), nil
			}
			return tuning.again(resp), nil
		},
	}
	resp, err := client.Do(again)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, explain(o.url, t, err)
	}
	return resp, nil
}
