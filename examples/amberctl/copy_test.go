package main

import (
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
)

// A backup goes into another store under its ID, once; and restores from there.
func TestCopyToStore(t *testing.T) {
	for name, where := range map[string][2]func(*testing.T, ...string) *ctl{
		"directory to directory": {newCtl, newCtl}, "directory to S3": {newCtl, newS3Ctl}, "S3 to GCS": {newS3Ctl, newGCSCtl}, "GCS to Azure": {newGCSCtl, newAzureCtl},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := where[0](t)
			testCopy(t, c, where[1](t, c.env...))
		})
	}
}

func testCopy(t *testing.T, c, other *ctl) {
	c.env = other.env
	name := describeStore(other.url)
	s := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, s.Client(t), 50, 5)
	id := c.backUp(t, s, "--name", "first")
	copied := func() string {
		out, _ := c.run(t, exitDone, "copy", "first", "--to-store", other.url)
		return out
	}
	if out := copied(); !strings.Contains(out, id+" is copied to "+name) {
		t.Errorf("it says %s", out)
	}
	if out := copied(); !strings.Contains(out, id+" is in "+name+" already") {
		t.Errorf("the second time it says %s", out)
	}
	type result struct {
		ID       string
		Existing bool
		Bytes    int64
	}
	if rep := parse[result](t, c, exitDone, "copy", id, "--to-store", other.url); rep.ID != id || !rep.Existing || rep.Bytes == 0 {
		t.Errorf("the report is %+v", rep)
	}
	c.run(t, exitDone, "delete", id)
	other.onlyBackups(t)
	other.restores(t, "first", "redis-8.0", testserver.Snapshot(t, s.Client(t)))
	if _, stderr := c.run(t, exitFailed, "copy", "nothing", "--to-store", other.url); !strings.Contains(stderr, `"nothing"`) {
		t.Errorf("a backup that there is not: %s", stderr)
	}
}
