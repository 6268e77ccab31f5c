package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
)

// The append-only files of a server that runs are imported, shown, proved, copied, encrypted or not, and restored by the start of a server; nothing else takes them, and
// says what does.
func TestAppendOnly(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "valkey-9.1", "--appendonly", "yes")
	client := s.Client(t)
	testserver.Generate(t, client, 60, 1)
	if err := client.BgRewriteAOF(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(t.Context(), "later", "yes", 0).Err(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.Dir, "appendonlydir")
	testserver.Eventually(t, patience, "the rewrite is over, and what it replaced is gone", func() error {
		bases, err := filepath.Glob(filepath.Join(dir, "*.base.*"))
		if info := client.Info(t.Context(), "persistence").Val(); err == nil && (len(bases) != 1 || !strings.Contains(info, "aof_rewrite_in_progress:0") || !strings.Contains(info, "aof_rewrite_scheduled:0")) {
			err = fmt.Errorf("%v, %s", bases, info)
		}
		return err
	})
	if out, _ := c.run(t, exitDone, "import", "--list", s.Dir); !strings.Contains(out, "appendonlydir/appendonly.aof.manifest") || !strings.Contains(out, "aof") || strings.Contains(out, "aof-base") {
		t.Error(out)
	}
	var b catalog.Backup
	for i, source := range [][]string{{dir}, {filepath.Join(dir, "appendonly.aof.manifest")}, {"--from-store", "file://" + s.Dir, "appendonlydir/appendonly.aof.manifest"}} {
		out, _ := c.run(t, exitDone, append([]string{"import", "--id", "orders", "--json"}, source...)...)
		b = decode[catalog.Backup](t, out)
		if b.Source.Method != "aof" || b.Commands == 0 || b.Parts[len(b.Parts)-1].Dialect != catalog.DialectAOF {
			t.Errorf("%d: %+v", i, b)
		}
	}
	if out, _ := c.run(t, exitDone, "import", "--id", "carts", dir); !regexp.MustCompile(` is ready: \S+ keys? and \S+ commands?, `).MatchString(out) {
		t.Error(out)
	}
	id := string(b.ID)
	c.run(t, exitDone, "verify", id)
	if out, _ := c.run(t, exitDone, "show", id); !strings.Contains(out, "aof") || !regexp.MustCompile(`(?m)^Commands +[0-9,]*[1-9]`).MatchString(out) {
		t.Error(out)
	}
	// Nothing is written where it can't be.
	file := filepath.Join(t.TempDir(), "dump.rdb")
	for _, args := range [][]string{{"restore", id, "--file", file}, {"export", id, "--to", file}} {
		if _, stderr := c.run(t, exitFailed, args...); !strings.Contains(stderr, "append-only") {
			t.Errorf("%q: %s", args, stderr)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was written")
	}
	for args, want := range map[string]string{
		"--appendonly x --file y": "exclude each other", "--appendonly x --to redis://y": "exclude each other", "--file x --appendfilename y": "is for --appendonly",
	} {
		if _, stderr := c.run(t, exitUsage, append([]string{"restore", id}, strings.Fields(args)...)...); !strings.Contains(stderr, want) {
			t.Errorf("%s: %s", args, stderr)
		}
	}
	to := t.TempDir()
	args := []string{"restore", id, "--appendonly", filepath.Join(to, "aof"), "--appendfilename", "my.aof"}
	if out, _ := c.run(t, exitDone, args...); !strings.Contains(out, " on top of these") {
		t.Errorf("it says %s", out)
	}
	if _, stderr := c.run(t, exitFailed, args...); !strings.Contains(stderr, "my.aof.manifest already") {
		t.Error(stderr)
	}
	c.run(t, exitDone, append(args, "--replace")...)
	got := testserver.StartIn(t, "valkey-9.1", to, "--appendonly", "yes", "--appenddirname", "aof", "--appendfilename", "my.aof").Client(t)
	if got.Get(t.Context(), "later").Val() != "yes" || got.DBSize(t.Context()).Val() != client.DBSize(t.Context()).Val() {
		t.Errorf("%d keys of %d", got.DBSize(t.Context()).Val(), client.DBSize(t.Context()).Val())
	}
	if _, stderr := c.run(t, exitUsage, "import", "--id", "orders", t.TempDir()); !strings.Contains(stderr, "without append-only files") {
		t.Error(stderr)
	}
}
