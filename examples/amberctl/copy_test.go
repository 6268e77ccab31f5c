package main

import (
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
)

// A backup goes into another store under its ID, once; and restores from there.
func TestCopyToStore(t *testing.T) {
	t.Parallel()
	c, other := newCtl(t), newCtl(t)
	s := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, s.Client(t), 50, 5)
	id := c.backUp(t, s, "--name", "first")
	copied := func() string {
		out, _ := c.run(t, exitDone, "copy", "first", "--to-store", "file://"+other.store)
		return out
	}
	if out := copied(); !strings.Contains(out, id+" is copied to file://"+other.store) {
		t.Errorf("it says %s", out)
	}
	if out := copied(); !strings.Contains(out, id+" is in file://"+other.store+" already") {
		t.Errorf("the second time it says %s", out)
	}
	type result struct {
		ID       string
		Existing bool
		Bytes    int64
	}
	if rep := parse[result](t, c, exitDone, "copy", id, "--to-store", other.store); rep.ID != id || !rep.Existing || rep.Bytes == 0 {
		t.Errorf("the report is %+v", rep)
	}
	c.run(t, exitDone, "delete", id)
	other.onlyBackups(t)
	other.restores(t, "first", "redis-8.0", testserver.Snapshot(t, s.Client(t)))
	if _, stderr := c.run(t, exitFailed, "copy", "nothing", "--to-store", other.store); !strings.Contains(stderr, `"nothing"`) {
		t.Errorf("a backup that there is not: %s", stderr)
	}
}
