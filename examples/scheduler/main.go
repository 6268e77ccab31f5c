// Scheduler shows a host with two replicas that back up three data stores by policies: run it, kill one of the replicas, and see the other one make
// the backups that are due. It starts three private servers, which it finds on this machine, and two processes of itself; all is in a
// directory that is removed in the end, unless -dir names one.
//
// A policy is due once a minute at most. With -speed the clocks of the replicas go so many times as fast, for who doesn't want to wait; retention then
// deletes nothing, for a clock that doesn't go as the machine counts isn't trusted by it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/retention"
	"github.com/amberkv/amber/schedule"
)

func main() {
	var o options
	flag.StringVar(&o.Dir, "dir", "", "where everything is kept; a temporary directory by default")
	flag.Float64Var(&o.Speed, "speed", 1, "how many times as fast the replicas' clocks go")
	replica := flag.String("replica", "", "be a replica of this name, which the program does in processes of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	logging.Disable() // of go-redis: what goes wrong is in the errors
	var err error
	if *replica != "" {
		err = beReplica(ctx, *replica, os.Stdin, os.Stdout)
	} else {
		err = host(ctx, o, &lines{w: os.Stdout}, os.Getenv)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scheduler:", err)
		os.Exit(1)
	}
}

// options are what a replica has to know. They come by its standard input, for there are passwords in them.
type options struct {
	Dir     string
	Speed   float64
	Since   time.Time // when the clocks began to go faster
	Servers map[string]server
}

// server says how a data store is reached.
type server struct{ Addr, Username, Password string }

func (s server) options() *redis.Options {
	return &redis.Options{Addr: s.Addr, Username: s.Username, Password: s.Password}
}

// policies are three ways to say "every minute".
func policies() []schedule.Policy {
	keep := retention.Rules{Count: 3}
	return []schedule.Policy{
		{ID: "orders-minutely", DataStore: "orders", Enabled: true, When: schedule.When{Every: time.Minute}, Retries: 2, Retention: keep},
		{ID: "carts-minutely", DataStore: "carts", Enabled: true, When: schedule.When{Cron: "* * * * *"}, Retries: 2, Retention: keep},
		{ID: "sessions-minutely", DataStore: "sessions", Enabled: true, When: schedule.When{SaveSchedule: "*:*"}, Retries: 2, Retention: keep},
	}
}

// host starts servers and replicas, and waits for the end.
func host(ctx context.Context, o options, out *lines, env func(string) string) (err error) {
	if o.Speed <= 0 {
		return fmt.Errorf("-speed %v has to be more than 0", o.Speed)
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "amber-scheduler-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.Dir)
	}
	for _, dir := range []string{"servers", "store"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, dir), 0o700); err != nil {
			return err
		}
	}
	o.Since, o.Servers = time.Now(), map[string]server{}
	for _, p := range policies() {
		s, name, err := startServer(ctx, filepath.Join(o.Dir, "servers"), env)
		if err != nil {
			return err
		}
		// Also when the host is interrupted.
		defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx))) }()
		opts := s.Options()
		o.Servers[p.DataStore] = server{opts.Addr, opts.Username, opts.Password}
		if err := fill(ctx, opts); err != nil {
			return err
		}
		out.say("%s runs for data store %s", name, p.DataStore)
	}

	service, done, err := o.service(amber.Events{})
	if err != nil {
		return err
	}
	defer done()
	for _, p := range policies() {
		if _, err := service.SetPolicy(ctx, p); err != nil {
			return err
		}
	}
	var group sync.WaitGroup
	replicas := map[string]*exec.Cmd{}
	defer group.Wait()
	for _, name := range []string{"replica-a", "replica-b"} {
		p, err := startReplica(name, o, out)
		if err != nil {
			return err
		}
		replicas[name] = p
		out.say("%s is process %d: try kill -9 %d", name, p.Process.Pid, p.Process.Pid)
		group.Go(func() {
			err := p.Wait()
			if ctx.Err() == nil {
				out.say("%s is gone (%v): what it had begun the other one takes over, when its lease has ended", name, err)
			}
		})
	}
	<-ctx.Done()
	out.say("the host ends")
	for _, p := range replicas {
		_ = p.Process.Signal(syscall.SIGTERM) // it may be gone
	}
	group.Wait()
	return summary(context.WithoutCancel(ctx), service, replicas, out)
}

// fill writes some keys.
func fill(ctx context.Context, opts *redis.Options) error {
	c := redis.NewClient(opts)
	defer c.Close()
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 1000 {
			p.HSet(ctx, fmt.Sprint("item:", i), "number", i, "square", i*i)
		}
		return nil
	})
	return err
}

// lines writes whole lines of several processes.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, format+"\n", args...)
}

// Write takes what replicas say, who write whole lines.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// summary tells which replica dealt with how many due times, and what is kept.
func summary(ctx context.Context, service *amber.Service, replicas map[string]*exec.Cmd, out *lines) error {
	for _, p := range policies() {
		by := map[string]int{}
		states := map[schedule.RunState]int{}
		for r, err := range service.Runs(ctx, schedule.RunQuery{Policy: p.ID}) {
			if err != nil {
				return err
			}
			states[r.State]++
			if n := len(r.Attempts); r.State == schedule.RunDone && n > 0 {
				for name, p := range replicas { // an owner is a host, a process and something that nobody else has
					if strings.Contains(r.Attempts[n-1].Owner, fmt.Sprintf("/%d/", p.Process.Pid)) {
						by[name]++
					}
				}
			}
		}
		left := 0
		for _, err := range service.List(ctx, catalog.Query{DataStore: p.DataStore}) {
			if err != nil {
				return err
			}
			left++
		}
		out.say("%s: due times %v, done by %v; %d backups are kept", p.DataStore, states, by, left)
	}
	return nil
}
