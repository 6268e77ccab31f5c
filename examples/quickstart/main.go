// Quickstart shows Amber at work on a real server: it fills the server, backs it up over the network into a directory,
// wipes it, restores it, and proves key by key that nothing is different.
//
// Without more it starts a private server that it finds on this machine. If REDIS_URL is set it backs up that server, which
// it never wipes, and restores into a private one; only a server that is empty gets keys, which are removed in the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	logging.Disable() // of go-redis: what goes wrong is in the errors
	if err := demo(ctx, os.Stdout, os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "\nquickstart:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, out io.Writer, env func(string) string) (err error) {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	dir, err := os.MkdirTemp("", "amber-quickstart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stop := func(s *server) { err = errors.Join(err, s.stop(ctx)) }

	// Where the data are, and where they are put back.
	var from *redis.Options
	private := env("REDIS_URL") == ""
	if private {
		s, err := startServer(ctx, dir, restore.Need{}, env)
		if err != nil {
			return err
		}
		defer stop(s)
		from = s.Options()
		say("1. Started %s, private and empty, at %s.", s.name, from.Addr)
	} else if from, err = redis.ParseURL(env("REDIS_URL")); err != nil {
		return errors.New("REDIS_URL is not a server's URL: redis://[user[:password]@]host[:port]") // the parser's error may quote the password
	} else {
		say("1. Using the server at %s, which is read and never wiped.", from.Addr)
	}
	source := redis.NewClient(from)
	defer source.Close()
	keys, err := countKeys(ctx, source)
	if err != nil {
		return fmt.Errorf("looking at %s: %w", from.Addr, err)
	}

	start := time.Now()
	if keys > 0 {
		say("2. It holds %d keys already, so nothing is written to it.", keys)
	} else {
		if !private {
			defer func() { err = errors.Join(err, unfill(ctx, source)) }()
		}
		if keys, err = fill(ctx, source); err != nil {
			return fmt.Errorf("filling %s: %w", from.Addr, err)
		}
		say("2. Filled it with %d keys %s: strings, lists, sets, sorted sets, hashes, streams; one in four expires.", keys, since(start))
	}
	before, err := read(ctx, source)
	if err != nil {
		return fmt.Errorf("reading %s: %w", from.Addr, err)
	}

	store := filepath.Join(dir, "backups")
	service, err := open(store)
	if err != nil {
		return err
	}
	b, err := backUp(ctx, service, from)
	if err != nil {
		return err
	}
	say("3. Backed it up over the network in %s: %s of snapshot, %s stored.", took(b.Timings.Total), size(b.RawBytes), size(b.StoredBytes))
	show(say, b, store)
	proof, err := service.Verify(ctx, b.ID, nil)
	if err != nil {
		return err
	}
	say("4. Proved it once more, from the directory alone, in %s: %d keys, every checksum right.", took(proof.Duration), proof.Keys)

	to := from
	if private {
		if err := source.FlushAll(ctx).Err(); err != nil {
			return err
		}
		left, err := countKeys(ctx, source)
		if err != nil {
			return err
		}
		say("5. Wiped the server: %d keys.", left)
	} else {
		after, err := read(ctx, source)
		if err != nil {
			return err
		}
		if d := differences(before, after); len(d) > 0 {
			return fmt.Errorf("the backup is good, but somebody wrote to %s meanwhile, so there is nothing to compare it with: %s",
				from.Addr, strings.Join(d, "; "))
		}
		s, err := startServer(ctx, dir, restore.NeedOf(b, nil), env)
		if err != nil {
			return fmt.Errorf("the backup is good, but there is no private server to restore it into: %w", err)
		}
		defer stop(s)
		to = s.Options()
		say("5. Started %s, private and empty, at %s.", s.name, to.Addr)
	}

	rep, err := putBack(ctx, service, b.ID, to)
	if err != nil {
		return err
	}
	say("6. Restored it: verified in %s, loaded in %s, %d keys.", took(rep.Verify), took(rep.Load), rep.Keys)
	target := redis.NewClient(to)
	defer target.Close()
	after, err := read(ctx, target)
	if err != nil {
		return fmt.Errorf("reading %s: %w", to.Addr, err)
	}
	if d := differences(before, after); len(d) > 0 {
		return fmt.Errorf("the restored data differ: %s", strings.Join(d, "; "))
	}
	only := ""
	if n := moduleValues(b); n > 0 {
		only = fmt.Sprintf(" (%d values of modules by type and expiry)", n)
	}
	say("7. Compared all %d keys by type, value and expiry%s: identical.\n   before  %s\n   after   %s", len(after), only, digest(before), digest(after))
	say("\nAll of it was done by these lines:\n\n%s", indent(mainPath()))
	return nil
}

// moduleValues counts the values that no general command reads.
func moduleValues(b *catalog.Backup) (n int64) {
	for _, db := range b.DBs {
		n += db.Types["module"]
	}
	return n
}

// show tells what is in a backup.
func show(say func(string, ...any), b *catalog.Backup, store string) {
	say("   backup    %s", b.ID)
	say("   source    %s %s, %s, by one connection, no disk", b.Source.Engine, b.Source.Version, b.Source.Dialect)
	for _, db := range b.DBs {
		say("   inside    db %d: %d keys, %d with an expiry (%s)", db.Index, db.Keys, db.Expires, types(db.Types))
	}
	say("   proved    parsed to its end, checksum %s, read back from the store", b.Verification.Checksum)
	for _, p := range b.Parts {
		say("   kept in   %s", filepath.Join(store, filepath.FromSlash(p.Key)))
	}
}
