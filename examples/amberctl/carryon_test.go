package main

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/restore"
)

// A restore by command that was killed shows at the target, and the same restore over it ends it, however often it is killed. Another backup is
// refused there.
func TestKilledRestoreCarriesOn(t *testing.T) {
	t.Parallel()
	c, s := newCtl(t), testserver.Start(t, "valkey-9.1")
	small := testserver.Start(t, "valkey-9.1")
	set(t, small, "a", "1")
	other := c.backUp(t, small)
	testserver.Generate(t, s.Client(t), 3000, 10)
	id := c.backUp(t, s)
	want := testserver.Snapshot(t, s.Client(t))

	for _, how := range [][]string{nil, {"--merge", "skip"}, {"--merge", "overwrite"}, {"--merge", "fail"}, {"--replace", "--no-safety-backup"}} {
		target := testserver.Start(t, "valkey-9.1")
		client := target.Client(t)
		if how != nil {
			set(t, target, "of its own", "x")
		}
		// So slow that no restore ends before it is killed.
		proxy := teststore.StartProxy(t, target.Addr)
		proxy.Slow(2 << 20)
		to := "redis://" + proxy.Addr
		args := append([]string{"restore", id, "--to", to, "--method", "command"}, how...)
		// In the middle of its writing, and then whenever, which may be before it writes.
		enough := 1 + rand.Int64N(1000)
		twice := func() bool {
			p := c.start(t, program, nil, args...)
			p.waitFor(func() bool {
				return (how == nil || how[0] != "--replace" || client.Exists(t.Context(), "of its own").Val() == 0) && client.DBSize(t.Context()).Val() > enough
			})
			if !p.kills(t) {
				return false
			}
			proxy.Reset() // what it had sent and is still on its way
			p = c.start(t, program, nil, args...)
			time.Sleep(rand.N(60 * time.Millisecond))
			if !p.kills(t) {
				return false
			}
			proxy.Reset()
			return true
		}
		for tries := 1; !twice(); tries++ { // it has ended before it was killed, for this test had to wait for a busy machine
			if tries == 20 {
				t.Fatalf("%v: it ends before it is killed", how)
			}
			if err := errors.Join(client.FlushAll(t.Context()).Err(), client.FunctionFlush(t.Context()).Err()); err != nil {
				t.Fatal(err)
			}
			if how != nil {
				set(t, target, "of its own", "x")
			}
		}
		proxy.Heal()
		if _, stderr := c.run(t, exitFailed, "restore", other, "--to", to, "--method", "command", "--merge", "skip"); !strings.Contains(stderr, id) {
			t.Errorf("%v: another backup over it: %s", how, stderr)
		}
		rep := parse[restore.Report](t, c, exitDone, append(args, "--compare", "all")...)
		got := testserver.Snapshot(t, client)
		if how != nil && how[0] == "--merge" {
			if got["0/of its own"] == "" {
				t.Errorf("%v: the target's own key is gone", how)
			}
			delete(got, "0/of its own")
		}
		for key := range got {
			if strings.HasPrefix(key, "0/amber:probe:") { // of one that was killed just then; it expires within seconds
				delete(got, key)
			}
		}
		if diff := testserver.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", how, diff)
		}
		if rep.Keys+rep.Skipped != int64(len(want)) {
			t.Errorf("%v: the report is %+v, the backup has %d keys", how, rep, len(want))
		}
	}
}

// waitFor waits until something is so, or the process has ended.
func (p *process) waitFor(so func() bool) {
	for !so() {
		select {
		case <-p.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// kills kills the process. False means that it had done its work before.
func (p *process) kills(t *testing.T) bool {
	t.Helper()
	p.Process.Kill()
	status := p.wait(t, patience)
	if !p.killed() && status != exitDone {
		t.Fatalf("exit status %d: %s", status, p.stderr.String())
	}
	return p.killed()
}
