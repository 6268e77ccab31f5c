package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	d := parse[examined](t, c, exitDone, "doctor", "--large", "1", "--objects", "20")
	if !d.OK || d.Store != "file://"+c.store || len(with(d.Diagnosis, "ok")) != len(d.Findings) || !slices.Contains(with(d.Diagnosis, "ok"), "list pages") {
		t.Errorf("the doctor finds %+v", d)
	}
	out, stderr := c.run(t, exitDone, "doctor", "--large", "1")
	for _, text := range []string{"CHECK ", "exclusive race ", "signed URL "} {
		if !strings.Contains(out, text) {
			t.Errorf("the table has no %q:\n%s", text, out)
		}
	}
	if strings.Contains(out, "What to change") || strings.Contains(out, c.store) || stderr != "" {
		t.Errorf("a store that is well: %s%s", out, stderr)
	}
	if out, _ = c.run(t, exitDone, "doctor", "--large", "1", "--verbose"); !strings.HasPrefix(out, "store  file://"+c.store+"\n") {
		t.Errorf("--verbose: %s", out)
	}
	if out, _ = c.run(t, exitDone, "doctor", "--large", "1", "--quiet"); out != "" {
		t.Errorf("--quiet: %s", out)
	}
	if left := c.objects(t); len(left) > 0 {
		t.Errorf("the doctor left %v", left)
	}

	// Somebody's file is where the doctor's directory ought to be.
	if err := os.WriteFile(filepath.Join(c.store, "_doctor"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if d := parse[examined](t, c, exitFailed, "doctor"); d.OK || with(d.Diagnosis, "fail")[0] != "put" || d.Findings[0].Advice == "" {
		t.Errorf("a store that nothing can be put in: %+v", d)
	}
	out, stderr = c.run(t, exitFailed, "doctor", "--quiet")
	if !strings.Contains(out, "FAILED") || !strings.Contains(out, "What to change:\n  put: ") || !strings.Contains(out, "file://"+c.store) {
		t.Errorf("a store that nothing can be put in: %s", out)
	}
	if !strings.Contains(stderr, "checks of file://"+c.store+" failed: put") {
		t.Errorf("a store that nothing can be put in: %s", stderr)
	}
}
