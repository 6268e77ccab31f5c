// Migrate copies a live data store into another one, of whatever engine and version, without landing on a disk: it takes a snapshot of
// the source as a replica does, converts it on the way into what the target takes, and sends it by commands, to a single
// server or a cluster.
//
//	migrate --from redis://old:6379 --to redis://new:6379
//
// What it found out about the target before is printed as a table; --check ends there. Passwords that shouldn't be on a command line
// come from FROM_PASSWORD and TO_PASSWORD.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/restore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	logging.Disable() // of go-redis: what goes wrong is in the errors
	err := migrate(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "migrate:", err)
		os.Exit(1)
	}
}

// migrate is the program without its process.
func migrate(ctx context.Context, args []string, out, progress io.Writer, env func(string) string) error {
	q, check, err := request(args, progress, env)
	if err != nil {
		return err
	}
	verdict, err := amber.CheckCopy(ctx, q)
	if err != nil {
		return err
	}
	show(out, verdict)
	if err := verdict.Err(&restore.Options{Accept: q.Accept}); err != nil || check {
		return err
	}
	q.Progress = lines(progress)
	start := time.Now()
	rep, err := amber.Copy(ctx, q)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d keys and %d function libraries are copied into %s in %s", rep.Keys, rep.Functions, rep.Target, time.Since(start).Round(time.Millisecond))
	if rep.Proof.Compared > 0 {
		fmt.Fprintf(out, ", counted, and the values of %d compared", rep.Proof.Compared)
	}
	fmt.Fprintln(out)
	for _, part := range []struct {
		n    int64
		text string
	}{{rep.Filtered, "not selected"}, {rep.Expired, "expired"}, {rep.Skipped, "left alone, the target had them"}, {rep.Converted, "encoded anew for the target"}} {
		if part.n > 0 {
			fmt.Fprintf(out, "  %d keys: %s\n", part.n, part.text)
		}
	}
	if c := rep.Source.Cost; c != nil && c.Fork > 0 {
		fmt.Fprintf(out, "  the source stood still for %s to fork, and its child copied %.1f MB\n", c.Fork.Round(time.Microsecond), float64(c.CopyOnWrite)/1e6)
	}
	for _, l := range rep.Losses {
		fmt.Fprintf(out, "  lost: %s of %d, such as %s\n", l.Name, l.Count, strings.Join(l.Keys, ", "))
	}
	for _, warning := range rep.Warnings {
		fmt.Fprintln(progress, "migrate: warning:", warning)
	}
	return nil
}

// request reads the command line.
func request(args []string, usage io.Writer, env func(string) string) (q amber.CopyRequest, check bool, err error) {
	flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
	flags.SetOutput(usage)
	from := flags.String("from", "", "the server to copy: redis://[user[:password]@]host[:port], or rediss:// for TLS")
	to := flags.String("to", "", "the server that takes the data, or any node of a cluster")
	replace := flags.Bool("replace", false, "let go of all data that the target holds; there is no backup of it")
	merge := flags.String("merge", "", "keep what the target holds; of keys that both have: skip, overwrite or fail")
	accept := flags.String("accept", "", "warnings that don't stop the copy, by their names with commas, or all")
	ignore := flags.String("ignore-limit", "", "what may be said against a snapshot of the source and doesn't stop the copy, by its name with commas: fork-running, memory, buffer, last-save")
	flags.StringVar(&q.Select.Match, "match", "", "only keys whose names match a pattern, as the KEYS command has it")
	flags.BoolVar(&check, "check", false, "only look at the target")
	if err := flags.Parse(args); err != nil {
		return q, false, err
	}
	if flags.NArg() > 0 {
		return q, false, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if q.From, err = server("from", *from, env("FROM_PASSWORD")); err != nil {
		return q, false, err
	}
	if q.To, err = server("to", *to, env("TO_PASSWORD")); err != nil {
		return q, false, err
	}
	if *accept != "" {
		q.Accept = strings.Split(*accept, ",")
	}
	if *ignore != "" {
		q.SourceLimits = &govern.Limits{Ignore: strings.Split(*ignore, ",")}
	}
	switch {
	case *replace && *merge != "":
		return q, false, errors.New("--replace and --merge exclude each other")
	case *replace:
		q.Conflict = restore.Replace
	case *merge != "" && !restore.Conflict(*merge).Merges():
		return q, false, fmt.Errorf("--merge %q: skip, overwrite or fail", *merge)
	default:
		q.Conflict = restore.Conflict(*merge)
	}
	return q, check, nil
}

// server reads a server's URL. No part of it is told in an error: it may be the password's.
func server(name, text, password string) (*redis.Options, error) {
	if text == "" {
		return nil, fmt.Errorf("--%s is missing", name)
	}
	opts, err := redis.ParseURL(text)
	if err != nil {
		return nil, fmt.Errorf("--%s is not a server's URL: redis://[user[:password]@]host[:port]", name)
	}
	if opts.DB != 0 {
		return nil, fmt.Errorf("--%s names a database, but all are copied: leave the number out", name)
	}
	if opts.Password == "" {
		opts.Password = password
	}
	return opts, nil
}

// show prints what was found out about the target.
func show(out io.Writer, v restore.Verdict) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range v.Points {
		fmt.Fprintf(t, "%s\t%s\t%s\n", p.Level, p.Name, p.Detail)
	}
	t.Flush()
}

// lines tells how far the copy is, every second.
func lines(out io.Writer) func(amber.Progress) {
	var last time.Time
	return func(p amber.Progress) {
		if time.Since(last) < time.Second {
			return
		}
		last = time.Now()
		fmt.Fprintf(out, "%s: %d keys, %.1f MB, %.1f MB/s\n", p.Stage, p.Keys, float64(p.Bytes)/1e6, p.Rate/1e6)
	}
}
