//go:build unix

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage"
)

// A ScheduleCampaign lets several processes, each with a Scheduler or a whole Service, share a store, and kills, stops and pauses them at random.
type ScheduleCampaign struct {
	// Store is empty, and nothing else uses it.
	Store storage.Store
	// Process returns a command that runs RunScheduler with the same store. Its environment gets more.
	Process func() *exec.Cmd

	Processes, Policies int
	For                 time.Duration
	Dawdle              time.Duration // how long each step of a backup takes at most
	Harm                time.Duration // how long it takes until the next process is done harm to, on average
}

// A ScheduleCount says how much a campaign did.
type ScheduleCount struct {
	Processes, Kills, Pauses, Stops int
	Changes                         int // of policies
	Looks                           int // at all objects
	Objects                         int // of backups that were seen
	DueCount
	Violations []string
}

func (n ScheduleCount) String() string {
	return fmt.Sprintf("%d processes, %d kills, %d pauses longer than the lease, %d stops; %d due times of policies that were changed %d times: %d done, %d failed, %d skipped, %d missed; "+
		"%d attempts, %d runs taken over, %d backups ready; %d looks at %d objects of backups; %d violations", n.Processes, n.Kills, n.Pauses, n.Stops, n.Due, n.Changes,
		n.Done, n.Failed, n.Skipped, n.Missed, n.Attempts, n.TakenOver, n.Ready, n.Looks, n.Objects, len(n.Violations))
}

// schedulerEnv tells a process what kind of scheduler it is.
const schedulerEnv = "CHAOS_SCHEDULER"

// IsScheduler tells whether this process was started by a campaign and is to call RunScheduler.
func IsScheduler() bool { return os.Getenv(schedulerEnv) != "" }

// RunScheduler is what a process of a campaign does until it is killed or told to stop.
func RunScheduler(ctx context.Context, s storage.Store) error {
	var offset, dawdle time.Duration
	var name string
	var service bool
	if _, err := fmt.Sscan(os.Getenv(schedulerEnv), &name, &service, (*int64)(&offset), (*int64)(&dawdle)); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	w := &ScheduleWorker{Store: s, Name: name, Offset: offset, Dawdle: dawdle, Log: os.Stderr}
	if service {
		s, err := w.Service()
		if err != nil {
			return err
		}
		return s.RunSchedules(ctx)
	}
	scheduler, err := w.Scheduler()
	if err != nil {
		return err
	}
	return scheduler.Run(ctx)
}

// Run runs the campaign.
func (c *ScheduleCampaign) Run(t *testing.T) ScheduleCount {
	t.Helper()
	r := &scheduleRun{ScheduleCampaign: c, t: t, objects: map[string]Object{}}
	// The first minute begins soon.
	lead := 1500 * time.Millisecond
	now := time.Now()
	r.offset = now.Add(lead).Truncate(time.Minute).Add(time.Minute).Sub(now.Add(lead))
	r.setPolicies()
	for range c.Processes {
		r.slots = append(r.slots, &slot{r: r})
	}
	end := time.Now().Add(c.For)
	var watching sync.WaitGroup
	stop := make(chan struct{})
	watching.Go(func() { r.watch(stop) })
	r.harm(end)
	for _, s := range r.slots {
		s.kill()
	}
	close(stop)
	watching.Wait()
	r.settle()
	return r.n
}

// A scheduleRun is a campaign under way.
type scheduleRun struct {
	*ScheduleCampaign
	t        *testing.T
	offset   time.Duration
	policies []*DuePolicy
	own      *schedule.Scheduler
	slots    []*slot
	n        ScheduleCount

	mu      sync.Mutex        // of n.Violations
	objects map[string]Object // of backups, as they were seen first
}

func (r *scheduleRun) wrong(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.n.Violations) < 100 {
		r.n.Violations = append(r.n.Violations, fmt.Sprintf(format, args...))
	}
}

// policy returns the policy of a number: half of the data stores have two, some windows spread the starts, some are due less often.
func (r *scheduleRun) policy(i int) *schedule.Policy {
	p := &schedule.Policy{ID: fmt.Sprintf("p%02d", i), DataStore: fmt.Sprintf("ds%02d", i%(max(1, r.Policies*2/3))), Enabled: true, Retries: 3,
		Labels: map[string]string{"change": strconv.Itoa(r.n.Changes)}}
	switch i % 4 {
	case 0:
		p.When.Cron = "* * * * *"
	case 1:
		p.When.Every = time.Minute
		p.Window = time.Minute
	case 2:
		p.When.SaveSchedule = "*:*"
	case 3:
		p.When.Cron = "*/2 * * * *"
		p.Window = 2 * time.Minute
	}
	return p
}

func (r *scheduleRun) setPolicies() {
	var err error
	if r.own, err = (&ScheduleWorker{Store: r.Store, Name: "supervisor", Offset: r.offset}).Scheduler(); err != nil {
		r.t.Fatal(err)
	}
	for i := range r.Policies {
		p, err := r.own.Set(r.t.Context(), *r.policy(i))
		if err != nil {
			r.t.Fatal(err)
		}
		minutes := 1
		if i%4 == 3 {
			minutes = 2
		}
		r.policies = append(r.policies, &DuePolicy{ID: p.ID, DataStore: p.DataStore, Minutes: minutes, Since: p.ChangedAt})
	}
}

// harm does harm to the processes until end, and changes what doesn't matter in policies.
func (r *scheduleRun) harm(end time.Time) {
	for _, s := range r.slots {
		s.start()
	}
	for time.Now().Before(end) {
		time.Sleep(rand.N(2*r.Harm) + 1)
		s := r.slots[rand.IntN(len(r.slots))]
		switch s.revive(); rand.IntN(10) {
		case 0, 1, 2, 3:
			s.kill()
		case 4, 5, 6, 7:
			s.pause()
		case 8:
			s.term()
		case 9:
			r.n.Changes++
			if _, err := r.own.Set(r.t.Context(), *r.policy(rand.IntN(r.Policies))); err != nil && !errors.Is(err, schedule.ErrConflict) {
				r.wrong("changing a policy: %v", err)
			}
		}
		for _, s := range r.slots {
			s.revive()
		}
	}
}

// A slot has one process after the other.
type slot struct {
	r    *scheduleRun
	cmd  *exec.Cmd
	exit chan error
	log  *bytes.Buffer

	until time.Time // when it goes on, or starts anew; zero: it is at work
	asked bool      // to stop
}

func (s *slot) start() {
	r := s.r
	r.n.Processes++
	s.cmd = r.Process()
	s.cmd.Env = append(s.cmd.Environ(), fmt.Sprintf("%s=s%d %t %d %d", schedulerEnv, r.n.Processes, r.n.Processes%2 == 0, r.offset, r.Dawdle))
	s.log = &bytes.Buffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	s.exit = make(chan error, 1)
	go func(cmd *exec.Cmd, exit chan error) { exit <- cmd.Wait() }(s.cmd, s.exit)
	s.until, s.asked = time.Time{}, false
}

// gone waits for the end of the process, and judges how it ended.
func (s *slot) gone(killed bool) {
	err := <-s.exit
	var exit *exec.ExitError
	var by syscall.Signal
	if errors.As(err, &exit) {
		by = exit.Sys().(syscall.WaitStatus).Signal()
	}
	// One that was told to stop when it had hardly begun to live didn't hear of it.
	asIs := killed && by == syscall.SIGKILL || s.asked && by == syscall.SIGTERM
	if out := s.log.String(); err != nil && !asIs || strings.Contains(out, "panic") || strings.Contains(out, "DATA RACE") {
		s.r.wrong("a process has ended by itself: %v\n%s", err, out)
	}
	s.cmd = nil
}

func (s *slot) kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	s.gone(true)
	s.r.n.Kills++
	s.until = time.Now().Add(rand.N(3 * time.Second))
}

// pause stops the process for longer than its leases last.
func (s *slot) pause() {
	if s.cmd == nil || !s.until.IsZero() {
		return
	}
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		s.r.wrong("a process has ended by itself: %s", s.log)
		return
	}
	s.r.n.Pauses++
	s.until = time.Now().Add(leaseTTL + clockSkew + rand.N(4*time.Second))
}

// stopWithin is how long a process may take to stop, on a busy machine.
const stopWithin = 20 * time.Second

// term lets the process stop as a host does.
func (s *slot) term() {
	if s.cmd == nil || !s.until.IsZero() {
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.r.n.Stops++
	s.asked = true
	s.until = time.Now().Add(stopWithin)
}

// revive lets a process go on, or starts another one, when its time has come; and notices one that has ended.
func (s *slot) revive() {
	if s.cmd != nil {
		select {
		case err := <-s.exit:
			s.exit <- err
			if asked := s.asked; asked {
				s.gone(false)
			} else {
				s.r.wrong("a process has ended by itself: %v\n%s", err, s.log)
				s.cmd = nil
			}
		default:
		}
	}
	if s.until.IsZero() || time.Now().Before(s.until) && !(s.asked && s.cmd == nil) {
		return
	}
	switch {
	case s.cmd == nil:
		s.start()
	case s.asked:
		s.r.wrong("a process was told to stop and goes on for more than %v:\n%s", stopWithin, s.log)
		s.kill()
	default:
		s.cmd.Process.Signal(syscall.SIGCONT)
		s.until = time.Time{}
	}
}

// watch looks at the objects of backups while others are at work: none is ever changed.
func (r *scheduleRun) watch(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
		}
		if err := r.see(r.t.Context()); err != nil {
			r.wrong("looking at the store: %v", err)
		}
	}
}

// ofBackup tells whether a key is below a backup's prefix.
func ofBackup(key string) bool {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return false
	}
	_, is := catalog.ID(parts[1]).Time()
	return is
}

func (r *scheduleRun) see(ctx context.Context) error {
	r.n.Looks++
	for info, err := range r.Store.List(ctx, "ds") {
		if err != nil {
			return err
		}
		if !ofBackup(info.Key) {
			continue
		}
		if was, known := r.objects[info.Key]; known {
			if was.Size != info.Size || !was.ModTime.Equal(info.ModTime) {
				r.wrong("%s was written again: it had %d bytes at %v, and has %d at %v", info.Key, was.Size, was.ModTime, info.Size, info.ModTime)
			}
			continue
		}
		data, err := storage.ReadFile(ctx, r.Store, info.Key, 1<<20)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		r.objects[info.Key] = objectOf(info, data)
	}
	return nil
}

// settle lets one scheduler end what the others have left, and judges what there is then.
func (r *scheduleRun) settle() {
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	until := time.Now().Add(r.offset)
	// By its clock every window is over, and every lease: those who had them are dead.
	last, err := (&ScheduleWorker{Store: r.Store, Name: "last", Offset: r.offset + 5*time.Minute}).Scheduler()
	if err != nil {
		r.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { last.Run(ctx) })
	var found []string
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(300 * time.Millisecond) {
		st, err := Look(ctx, r.Store)
		if err != nil && time.Now().Before(deadline) {
			continue // something was changed or removed while it was looked at
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if r.n.DueCount, found = st.JudgeSchedule(r.policies, until); len(found) == 0 || time.Now().After(deadline) {
			break
		}
	}
	cancel()
	running.Wait()
	for _, why := range found {
		r.wrong("%s", why)
	}
	st, err := Look(r.t.Context(), r.Store)
	if err != nil {
		r.t.Fatal(err)
	}
	r.compare(st)
	r.n.Objects = len(r.objects)
}

// compare holds the objects of backups against what they were when they were seen first.
func (r *scheduleRun) compare(st *State) {
	for key, was := range r.objects {
		if now, there := st.Objects[key]; there && (now.SHA256 != was.SHA256 || !now.ModTime.Equal(was.ModTime)) {
			r.wrong("%s was changed", key)
		}
	}
}
