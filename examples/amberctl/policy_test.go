package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage/filestore"
)

// A policy is created with what is given, and changed in that alone.
func TestPolicy(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	if out, _ := c.run(t, exitDone, "policy", "list", "--json"); out != "[]\n" {
		t.Errorf("an empty list is %q", out)
	}
	if _, stderr := c.run(t, exitUsage, "policy", "set", "nightly", "--daily", "02:30"); !strings.Contains(stderr, "--id") {
		t.Errorf("a new policy without a data store: %s", stderr)
	}
	change := parse[amber.PolicyChange](t, c, exitDone, "policy", "set", "nightly", "--id", "orders", "--daily", "02:30,14:30", "--time-zone", "Europe/Berlin",
		"--window", "2h", "--retries", "3", "--catch-up", "none", "--keep-days", "14", "--keep-weekly", "4", "--backup-name", "orders-{timestamp}",
		"--label", "tier=gold", "--label", "team=shop")
	p := change.Policy
	if p.ID != "nightly" || p.DataStore != "orders" || !p.Enabled || !slices.Equal(p.When.Daily, []string{"02:30", "14:30"}) || p.TimeZone != "Europe/Berlin" ||
		p.Window != 2*time.Hour || p.Retries != 3 || p.CatchUp != schedule.CatchUpNone || p.Retention.Days != 14 || p.Retention.Weekly != 4 ||
		p.BackupName != "orders-{timestamp}" || len(p.Labels) != 2 || p.CreatedAt.IsZero() {
		t.Fatalf("the policy is %+v", p)
	}
	// Each change is of what is given and nothing else.
	for _, test := range []struct {
		args   []string
		change func(p *schedule.Policy)
	}{
		{[]string{"--retries", "5"}, func(p *schedule.Policy) { p.Retries = 5 }},
		{[]string{"--keep-weekly", "0", "--keep-count", "7"}, func(p *schedule.Policy) { p.Retention.Weekly, p.Retention.Count = 0, 7 }},
		{[]string{"--disabled"}, func(p *schedule.Policy) { p.Enabled = false }},
		{[]string{"--disabled=false", "--window", "1h"}, func(p *schedule.Policy) { p.Enabled, p.Window = true, time.Hour }},
		{[]string{"--label", "tier=lead", "--no-label", "team"}, func(p *schedule.Policy) { p.Labels = map[string]string{"tier": "lead"} }},
		{[]string{"--cron", "15 3 * * 1-5"}, func(p *schedule.Policy) { p.When = schedule.When{Cron: "15 3 * * 1-5"} }},
		{[]string{"--days", "sat,sun", "--hours", "4,16"}, func(p *schedule.Policy) {
			p.When = schedule.When{Weekly: &schedule.Weekly{Days: []time.Weekday{6, 0}, Hours: []int{4, 16}}}
		}},
		{[]string{"--minute", "20"}, func(p *schedule.Policy) { p.When.Weekly.Minute = 20 }},
		{[]string{"--hours", "every"}, func(p *schedule.Policy) { p.When.Weekly.Hours = nil }},
		{[]string{"--every", "6h"}, func(p *schedule.Policy) { p.When = schedule.When{Every: 6 * time.Hour} }},
		{[]string{"--save-schedule", "*:15"}, func(p *schedule.Policy) { p.When = schedule.When{SaveSchedule: "*:15"} }},
		{[]string{"--fall-percent", "-1", "--time-zone", ""}, func(p *schedule.Policy) { p.Retention.FallPercent, p.TimeZone = -1, "" }},
	} {
		want := *p
		test.change(&want)
		p = parse[amber.PolicyChange](t, c, exitDone, append([]string{"policy", "set", "nightly"}, test.args...)...).Policy
		want.ChangedAt = p.ChangedAt
		if text(t, p) != text(t, &want) {
			t.Errorf("%v made it\n%s\nwant\n%s", test.args, text(t, p), text(t, &want))
		}
		if got := parse[schedule.Policy](t, c, exitDone, "policy", "get", "nightly"); text(t, &got) != text(t, p) {
			t.Errorf("after %v there is %+v", test.args, got)
		}
	}
	if accepted := parse[amber.PolicyChange](t, c, exitDone, "policy", "set", "nightly", "--accept-fall").Policy.Retention.FallAccepted; time.Since(accepted) > time.Minute {
		t.Errorf("a fall is accepted at %v", accepted)
	}

	c.run(t, exitDone, "policy", "set", "weekly", "--id", "carts", "--cron", "@weekly")
	for args, want := range map[string][]string{"": {"nightly", "weekly"}, "orders": {"nightly"}, "users": {}} {
		got := []string{}
		for _, p := range parse[[]schedule.Policy](t, c, exitDone, "policy", "list", "--id", args) {
			got = append(got, p.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("policies of %q: %v, want %v", args, got, want)
		}
	}
	out, _ := c.run(t, exitDone, "policy", "list")
	for _, text := range []string{"nightly", "save_schedule *:15", "14 days", "carts", "cron @weekly", "all"} {
		if !strings.Contains(out, text) {
			t.Errorf("the list doesn't tell %q:\n%s", text, out)
		}
	}
	if out, _ = c.run(t, exitDone, "policy", "get", "nightly"); !strings.Contains(out, "tier=lead") || !strings.Contains(out, "enabled") {
		t.Errorf("it shows %s", out)
	}

	// What is wrong is refused whole.
	before := parse[schedule.Policy](t, c, exitDone, "policy", "get", "nightly")
	if _, stderr := c.run(t, exitUsage, "policy", "set", "nightly", "--retries", "11", "--keep-days", "36526"); !strings.Contains(stderr, "11") || !strings.Contains(stderr, "36525") {
		t.Errorf("what is wrong: %s", stderr)
	}
	if after := parse[schedule.Policy](t, c, exitDone, "policy", "get", "nightly"); text(t, &after) != text(t, &before) {
		t.Errorf("what was refused changed the policy to %+v", after)
	}
	if out, _ := c.run(t, exitDone, "policy", "remove", "weekly", "--json"); decode[map[string]any](t, out)["removed"] != true {
		t.Errorf("remove: %s", out)
	}
	for _, args := range [][]string{{"policy", "get", "weekly"}, {"policy", "remove", "weekly"}, {"policy", "explain", "weekly"}} {
		if _, stderr := c.run(t, exitFailed, args...); !strings.Contains(stderr, "policy list") {
			t.Errorf("%v: %s", args, stderr)
		}
	}
	if out, _ := c.run(t, exitDone, "__complete", "policy", "get", "ni"); !strings.Contains(out, "nightly") {
		t.Errorf("completion offers %s", out)
	}
}

func text(t *testing.T, p *schedule.Policy) string {
	t.Helper()
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPolicyExplain(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	type explained struct {
		Policy   schedule.Policy
		Warnings []string
		Next     []schedule.Explanation
	}
	// Without a policy, and without a store.
	e := parse[explained](t, &ctl{url: ""}, exitDone, "policy", "explain", "--daily", "02:30", "--time-zone", "Europe/Berlin", "--window", "1h", "-n", "400")
	if len(e.Next) != 400 || !slices.ContainsFunc(e.Next, func(x schedule.Explanation) bool { return len(x.Notes) > 0 }) {
		t.Errorf("a year has %d due times, and none of them is changed by the setting of clocks: %+v", len(e.Next), e.Next[:1])
	}
	c.run(t, exitDone, "policy", "set", "nightly", "--id", "orders", "--daily", "02:30")
	out, _ := c.run(t, exitDone, "policy", "explain", "nightly", "-n", "3")
	if strings.Count(out, "02:30") < 4 || !strings.Contains(out, "UTC") || strings.Count(out, "\n") < 4 {
		t.Errorf("it says %s", out)
	}
	// With flags it is as it would be, and stays what it is.
	if e := parse[explained](t, c, exitDone, "policy", "explain", "nightly", "--cron", "* * * * *"); len(e.Next) != 5 || len(e.Warnings) == 0 || e.Policy.ID != "nightly" {
		t.Errorf("it says %+v", e)
	}
	if p := parse[schedule.Policy](t, c, exitDone, "policy", "get", "nightly"); len(p.When.Daily) != 1 {
		t.Errorf("explaining changed the policy to %+v", p)
	}
	if _, stderr := c.run(t, exitUsage, "policy", "explain", "--cron", "0 30 2 * * *"); !strings.Contains(stderr, "5") {
		t.Errorf("six fields: %s", stderr)
	}
}

// overdue puts a policy into the store that became due a few minutes ago, while nothing ran, and is not again for some minutes.
func (c *ctl) overdue(t *testing.T, p schedule.Policy) {
	t.Helper()
	now, every := time.Now().UTC(), 5*time.Minute
	since := func() time.Duration { return time.Duration(now.Unix()%int64(every/time.Second)) * time.Second }
	for since() < time.Minute || every-since() < 3*time.Minute {
		every += time.Minute
	}
	store, err := filestore.New(c.store, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	journal, err := storejournal.New(storejournal.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	p.Enabled, p.When = true, schedule.When{Every: every}
	p.ChangedAt = now.Add(-since() - 2*time.Second)
	if _, err := journal.PutPolicy(t.Context(), &p, ""); err != nil {
		t.Fatal(err)
	}
}

// runs returns what became of due times.
func (c *ctl) runs(t *testing.T, args ...string) []schedule.Run {
	t.Helper()
	return parse[[]schedule.Run](t, c, exitDone, append([]string{"runs"}, args...)...)
}

// The daemon makes the backups that are due, tells of them, and ends in good order; what it did is told afterwards.
func TestScheduleRun(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	orders, carts := testserver.Start(t, crashVersion), testserver.Start(t, crashVersion, "--requirepass", "CANARY-carts")
	for _, s := range []*testserver.Server{orders, carts} {
		testserver.Generate(t, s.Client(t), 50, 1)
	}
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "password"), filepath.Join(dir, "sources")
	if err := os.WriteFile(secret, []byte("CANARY-carts\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("# the shop's\n\ncarts=redis://"+carts.Addr+" @"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"orders", "carts", "lost"} {
		c.overdue(t, schedule.Policy{ID: id + "-policy", DataStore: id})
	}
	p := c.start(t, program, nil, "schedule", "run", "--source", "orders="+orders.URL()+" method=save save-store=file://"+orders.Dir, "--sources", file, "--on-shutdown",
		"--tidy-every", "1m")
	testserver.Eventually(t, patience, "something became of all due times", func() error {
		if out := p.stdout.String(); strings.Count(out, "\n") < 3 {
			return errors.New(out + p.stderr.String())
		}
		return nil
	})
	p.signalTwice(t)
	if status := p.wait(t, patience); status != exitDone {
		t.Fatalf("exit status %d\n%s", status, p.stderr.String())
	}
	out, stderr := p.stdout.String(), p.stderr.String()
	for _, text := range []string{"orders by orders-policy: done, 20", "carts by carts-policy: done, 20", "lost by lost-policy: failed", "--source lost=URL",
		"orders shutdown: ready", "carts shutdown: ready"} {
		if !strings.Contains(out, text) {
			t.Errorf("it doesn't say %q:\n%s", text, out)
		}
	}
	if !strings.Contains(stderr, "running schedules") || !strings.Contains(stderr, "signal") || strings.Contains(out+stderr, "CANARY") {
		t.Errorf("it says %s", stderr)
	}

	for id, want := range map[string]schedule.RunState{"orders": schedule.RunDone, "carts": schedule.RunDone, "lost": schedule.RunFailed} {
		runs := c.runs(t, "--id", id)
		if len(runs) < 1 || runs[len(runs)-1].State != want {
			t.Errorf("runs of %s: %+v", id, runs)
		}
	}
	if runs := c.runs(t, "--state", "failed", "--policy", "lost-policy", "--limit", "1"); len(runs) != 1 || !strings.Contains(runs[0].Attempts[0].Error, "lost") {
		t.Errorf("failed runs: %+v", runs)
	}
	if runs := c.runs(t, "--from", "2999-01-01"); len(runs) != 0 {
		t.Errorf("runs of the future: %+v", runs)
	}
	table, _ := c.run(t, exitDone, "runs")
	if !strings.Contains(table, "carts-policy") || !strings.Contains(table, "failed") || !strings.HasPrefix(table, "DUE (UTC)") {
		t.Errorf("the table is %s", table)
	}
	kinds := map[string]int{}
	for _, b := range parse[[]listed](t, c, exitDone, "list") {
		kinds[b.DataStore+" "+string(b.Kind)]++
		shown := parse[catalog.Backup](t, c, exitDone, "show", string(b.ID))
		if want := map[string]string{"orders": "save", "carts": "replica"}[b.DataStore]; shown.Source.Method != want {
			t.Errorf("a backup of %s was taken by method %s, not %s", b.DataStore, shown.Source.Method, want)
		}
	}
	if kinds["orders automatic"] < 1 || kinds["carts automatic"] < 1 || kinds["orders shutdown"] != 1 || kinds["carts shutdown"] != 1 {
		t.Errorf("the backups are %v", kinds)
	}
	c.run(t, exitDone, "verify", "--all")
}

// signalTwice sends two signals that come at the same moment, as timeout(1) sends them to the process and to its group. The process is stopped until both
// are there, however long that takes; two of the same would be one then.
func (p *process) signalTwice(t *testing.T) {
	t.Helper()
	send := func(signal syscall.Signal) {
		if err := p.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	send(syscall.SIGSTOP)
	testserver.Eventually(t, patience, "it is stopped", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		if err == nil && !strings.Contains(string(stat), ") T ") {
			err = errors.New(string(stat))
		}
		return err
	})
	send(syscall.SIGTERM)
	send(syscall.SIGINT)
	send(syscall.SIGCONT)
}

// A daemon that is killed in the midst of a backup is taken over within the lease time: there is one backup of the due time, and nothing is left over.
func TestScheduleRunTakenOver(t *testing.T) {
	t.Parallel()
	c, s, quick := newCtl(t), slowServer(t, 20*time.Second), slowServer(t, 0)
	c.overdue(t, schedule.Policy{ID: "orders-policy", DataStore: "orders"})
	run := func(from *testserver.Server, more ...string) *process {
		return c.start(t, program, nil, append([]string{"schedule", "run", "--source", "orders=" + from.URL(), "--lease-ttl", "3s"}, more...)...)
	}
	dead := run(s)
	testserver.Eventually(t, patience, "a backup has begun, and its run says which", func() error {
		states, runs := c.states(t), c.runs(t)
		if states[catalog.StateRunning] != 1 || len(runs) != 1 || len(runs[0].Attempts) != 1 || runs[0].Attempts[0].Backup == "" {
			return fmt.Errorf("%v %+v %s", states, runs, dead.stderr.String())
		}
		return nil
	})
	if err := dead.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	dead.wait(t, patience)
	due := c.runs(t)[0]
	if due.State != schedule.RunRunning || len(due.Attempts) != 1 || due.Attempts[0].Backup == "" {
		t.Fatalf("after the kill the run is %+v", due)
	}
	other := run(quick, "--json", "--on-shutdown=false")
	testserver.Eventually(t, patience, "the other one takes over", func() error {
		if !strings.Contains(other.stdout.String(), "\n") {
			return errors.New(other.stderr.String())
		}
		return nil
	})
	line, _, _ := strings.Cut(other.stdout.String(), "\n")
	r := decode[schedule.Run](t, line)
	if !r.Due.Equal(due.Due) || r.State != schedule.RunDone || len(r.Attempts) != 2 || r.Backup == due.Attempts[0].Backup {
		t.Errorf("the run is %+v", r)
	}
	if took := r.EndedAt.Sub(r.Attempts[1].BeganAt); took > 25*time.Second {
		t.Errorf("taking over took %v", took)
	}
	if err := other.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := other.wait(t, patience); status != exitDone {
		t.Errorf("exit status %d: %s", status, other.stderr.String())
	}
	of := 0
	for _, id := range c.list(t) {
		if b := parse[catalog.Backup](t, c, exitDone, "show", id); b.DueTime.Equal(due.Due) {
			of++
		}
	}
	if of != 1 {
		t.Errorf("the due time has %d backups", of)
	}
}

// The second signal ends all at once, in the midst of a backup that the first one left its time.
func TestScheduleRunTwoSignals(t *testing.T) {
	t.Parallel()
	c, s := newCtl(t), slowServer(t, 20*time.Second)
	c.overdue(t, schedule.Policy{ID: "orders-policy", DataStore: "orders"})
	p := c.start(t, program, nil, "schedule", "run", "--source", "orders="+s.URL(), "--grace", "10m")
	testserver.Eventually(t, patience, "a backup has begun", func() error {
		if states := c.states(t); states[catalog.StateRunning] != 1 {
			return fmt.Errorf("%v %s", states, p.stderr.String())
		}
		return nil
	})
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
		t.Fatalf("it ended at the first signal: %v %s", p.ProcessState, p.stderr.String())
	case <-time.After(500 * time.Millisecond):
	}
	for over := false; !over; { // on a busy machine it may hear of the first one so late that the next one is none
		if err := p.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		select {
		case <-p.done:
			over = true
		case <-time.After(500 * time.Millisecond):
		}
	}
	if p.wait(t, patience); p.ProcessState.Success() {
		t.Error("it says that all is well")
	}

	// Without grace the first one stops the backup, and what it stored is taken back. The due time is left to a later start.
	c = newCtl(t)
	c.overdue(t, schedule.Policy{ID: "orders-policy", DataStore: "orders"})
	p = c.start(t, program, nil, "schedule", "run", "--source", "orders="+s.URL(), "--grace", "0s")
	testserver.Eventually(t, patience, "a backup has begun", func() error {
		if states := c.states(t); states[catalog.StateRunning] != 1 {
			return fmt.Errorf("%v %s", states, p.stderr.String())
		}
		return nil
	})
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(t, patience); status != exitDone {
		t.Errorf("exit status %d: %s", status, p.stderr.String())
	}
	// That the attempt was stopped is recorded if there is time for it: package schedule holds that.
	if runs := c.runs(t); len(runs) != 1 || runs[0].State != schedule.RunRunning || len(runs[0].Attempts) != 1 {
		t.Errorf("the runs are %+v", runs)
	}
	if states := c.states(t); states[catalog.StateRunning] != 0 || states[catalog.StateReady] != 0 {
		t.Errorf("the backups are %v", states)
	}
}

// A Dragonfly server's flag file says when backups are made, how they are called, where they are, and whether there is one at the end.
func TestScheduleRunFlagFile(t *testing.T) {
	t.Parallel()
	s := testserver.Start(t, crashVersion, "--requirepass", "CANARY-dragonfly")
	testserver.Generate(t, s.Client(t), 50, 1)
	for _, test := range []struct {
		name, filename string
		atEnd          string // what the name of the backup at the end has to be like; empty: there is none
	}{
		{"the default", "", `^dump-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d$`},
		{"a name", "--dbfilename=shop-{Y}{m}{d}", `^shop-\d{8}(-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)?$`},
		{"none", "--dbfilename=", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c := &ctl{store: filepath.Join(dir, "snapshots"), url: filepath.Join(dir, "snapshots")}
			flags := filepath.Join(dir, "dragonfly.flags")
			port := s.Addr[strings.LastIndexByte(s.Addr, ':')+1:]
			write := func(lines ...string) {
				t.Helper()
				if err := os.WriteFile(flags, []byte(strings.Join(filled(lines...), "\n")+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			daemon := func(args ...string) (stderr string) {
				t.Helper()
				// --store isn't given: dir says where.
				p := (&ctl{url: ""}).start(t, program, nil, append([]string{"schedule", "run", "--flagfile", flags, "--id", "shop"}, args...)...)
				testserver.Eventually(t, patience, "it runs", func() error {
					if !strings.Contains(p.stderr.String(), "running schedules") {
						return errors.New(p.stderr.String())
					}
					return nil
				})
				if err := p.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if status := p.wait(t, patience); status != exitDone {
					t.Fatalf("exit status %d: %s", status, p.stderr.String())
				}
				return p.stderr.String() + p.stdout.String()
			}
			write("--port="+port, "--bind=127.0.0.1", "--requirepass=CANARY-dragonfly", "--dir="+c.store, test.filename, "--snapshot_cron=30 2 * * *")
			said := daemon()
			if strings.Contains(said, "CANARY") || !strings.Contains(said, "--time-zone") {
				t.Errorf("it says %s", said)
			}
			p := parse[schedule.Policy](t, c, exitDone, "policy", "get", "shop-snapshot_cron")
			if p.When.Cron != "30 2 * * *" || !p.Enabled || p.DataStore != "shop" {
				t.Errorf("the policy is %+v", p)
			}
			var names []string
			for _, b := range parse[[]listed](t, c, exitDone, "list") {
				if b.Kind == catalog.KindShutdown {
					names = append(names, b.Name)
				}
			}
			if test.atEnd == "" && len(names) != 0 || test.atEnd != "" && (len(names) != 1 || !regexp.MustCompile(test.atEnd).MatchString(names[0])) {
				t.Errorf("at the end there were made %q", names)
			}

			// What was set beside the flags stays, what they say is changed, and what they don't say any more ends.
			c.run(t, exitDone, "policy", "set", "shop-snapshot_cron", "--keep-days", "7", "--retries", "2")
			write("--port="+port, "--requirepass=CANARY-dragonfly", "--dir="+c.store, "--dbfilename=", "--snapshot_cron=15 * * * *")
			daemon("--time-zone", "Europe/Berlin")
			p = parse[schedule.Policy](t, c, exitDone, "policy", "get", "shop-snapshot_cron")
			if p.When.Cron != "15 * * * *" || p.TimeZone != "Europe/Berlin" || p.Retention.Days != 7 || p.Retries != 2 {
				t.Errorf("the policy is %+v", p)
			}
			write("--port="+port, "--requirepass=CANARY-dragonfly", "--dir="+c.store, "--dbfilename=", "--save_schedule=*:45")
			daemon()
			if p := parse[schedule.Policy](t, c, exitDone, "policy", "get", "shop-snapshot_cron"); p.Enabled {
				t.Errorf("a policy whose flag isn't there any more is %+v", p)
			}
			if p := parse[schedule.Policy](t, c, exitDone, "policy", "get", "shop-save_schedule"); !p.Enabled || p.When.SaveSchedule != "*:45" {
				t.Errorf("the policy is %+v", p)
			}
		})
	}
}
