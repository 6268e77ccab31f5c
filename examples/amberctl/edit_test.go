package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
)

// TestEditCommands: a backup gets labels as it is made, is pinned and edited, shows that, and restores as before.
func TestEditCommands(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "redis-7.0")
	s.Client(t).Set(t.Context(), "k", "v", 0)
	key := filepath.Join(t.TempDir(), "sign.pem")
	public, _ := c.run(t, exitDone, "keygen", "--sign", key)
	id := c.backUp(t, s, "--name", "before-upgrade", "--label", "team=payments", "--label", "env=eu", "--sign-key", key)

	// A second one can't have the name.
	_, errs := c.run(t, exitFailed, "backup", "--from", s.URL(), "--id", "orders", "--name", "before-upgrade")
	if !strings.Contains(errs, id) || !strings.Contains(errs, "name") {
		t.Errorf("a name that is taken: %s", errs)
	}
	if _, errs := c.run(t, exitFailed, "pin", "before-upgrade"); !strings.Contains(errs, "signed") || !strings.Contains(errs, strings.TrimSpace(public)) {
		t.Errorf("pin without the key: %s", errs)
	}
	c.run(t, exitDone, "pin", "before-upgrade", "--sign-key", key)
	c.run(t, exitDone, "edit", id, "--sign-key", key, "--description", "old", "--label", "team=b", "--remove-label", "env", "--retain", "30d")
	b := parse[catalog.Backup](t, c, exitDone, "show", id, "--json")
	if !b.Pinned || b.Description != "old" || len(b.Labels) != 1 || b.Labels["team"] != "b" || b.DeleteAfter.Sub(b.CreatedAt).Hours() != 30*24 {
		t.Errorf("after an edit it is %+v", b)
	}
	if out, _ := c.run(t, exitDone, "show", id); !strings.Contains(out, "team=b") || !strings.Contains(out, "Pinned") || !strings.Contains(out, "Kept until") {
		t.Errorf("show prints %s", out)
	}
	if out, _ := c.run(t, exitDone, "unpin", id, "--sign-key", key); !strings.Contains(out, "not pinned") {
		t.Errorf("unpin prints %s", out)
	}
	c.run(t, exitDone, "edit", id, "--sign-key", key, "--retain", "forever", "--description", "")
	if b := parse[catalog.Backup](t, c, exitDone, "show", id, "--json"); b.Pinned || b.Description != "" || !b.DeleteAfter.IsZero() {
		t.Errorf("after another edit it is %+v", b)
	}
	c.run(t, exitDone, "verify", id, "--trust", strings.TrimSpace(public))

	for _, args := range [][]string{{"edit", id}, {"edit", id, "--label", "x"}, {"edit", id, "--retain", "12h"}, {"edit", id, "--retain", "36501d"},
		{"edit", id, "--label", "a=b", "--remove-label", "a"}, {"edit", id, "--remove-label", "a b"}, {"pin"}, {"datastore"}, {"datastore", "delete", "a/b"}} {
		c.run(t, exitUsage, args...)
	}

	// What was made by hand outlives its data store.
	rep := parse[amber.DeleteDatastoreReport](t, c, exitDone, "datastore", "delete", "orders", "--json")
	if len(rep.Backups) != 1 || rep.Backups[0].Deleted || !strings.Contains(rep.Backups[0].Reason, "manual") {
		t.Errorf("datastore delete: %+v", rep)
	}
}

// TestReadOnlyDirectory: a directory that nobody may write to is restored from.
func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s, target := testserver.Start(t, "redis-7.0"), testserver.Start(t, "redis-7.0")
	s.Client(t).Set(t.Context(), "k", "v", 0)
	id := c.backUp(t, s)
	// Where everything may be written, as for root, a file in the place of the directory of leases keeps them out.
	if err := os.RemoveAll(filepath.Join(c.store, "_leases")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.store, "_leases"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.store, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(c.store, 0o700)
	_, errs := c.run(t, exitDone, "verify", id)
	if !strings.Contains(errs, "without a lease") {
		t.Errorf("verify says %s", errs)
	}
	c.run(t, exitDone, "restore", id, "--to", target.URL())
	if v, err := target.Client(t).Get(t.Context(), "k").Result(); err != nil || v != "v" {
		t.Errorf("the target has %q, %v", v, err)
	}
}
