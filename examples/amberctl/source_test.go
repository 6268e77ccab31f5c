package main

import (
	"strings"
	"testing"

	"github.com/amberkv/amber/backup/probe"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
)

// The doctor tells how a server can be backed up, a backup does that, and show tells it. No password is told.
func TestSource(t *testing.T) {
	t.Parallel()
	const canary = "CANARY-3e7f-secret"
	c := newCtl(t)
	s := testserver.Start(t, "valkey-8.1")
	testserver.Generate(t, s.Client(t), 100, 1)
	s.AddUser(t, "app", canary, "~*", "&*", "+@all", "-psync")
	url := "redis://app:" + canary + "@" + s.Addr
	run := func(status int, args ...string) (out, stderr string) {
		t.Helper()
		out, stderr = c.run(t, status, args...)
		if strings.Contains(out+stderr, canary) {
			t.Errorf("%v: the password is told: %s%s", args, out, stderr)
		}
		return out, stderr
	}

	doctor := func(status int, args ...string) string {
		t.Helper()
		out, stderr := runAlone(t, status, args...)
		if strings.Contains(out+stderr, canary) {
			t.Errorf("%v: the password is told: %s%s", args, out, stderr)
		}
		return out + stderr
	}
	r := decode[probe.Report](t, doctor(exitDone, "doctor", "--from", url, "--json"))
	if r.Chosen != "scan" || r.User != "app" || r.Method("replica").Usable || len(r.Points) == 0 || r.Address != s.Addr {
		t.Errorf("report %+v", r)
	}
	text := doctor(exitDone, "doctor", "--from", url)
	for _, want := range []string{"METHOD   USABLE       WHY\n", "replica  no           user app may not run PSYNC\n", "scan     yes, chosen  SCAN and DUMP read the keys one by one",
		"\nFor those that can't be used:\n  replica: allow it: ACL SETUSER app +psync +replconf\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the doctor doesn't tell %q:\n%s", want, text)
		}
	}
	if text := doctor(exitDone, "doctor", "--from", s.URL(), "--quiet"); text != "" {
		t.Errorf("--quiet: %s", text)
	}
	s.AddUser(t, "few", canary, "~x:*", "+@all", "-psync", "-bgsave")
	text = doctor(exitFailed, "doctor", "--from", "redis://few:"+canary+"@"+s.Addr)
	if !strings.Contains(text, "no method can take a snapshot: replica: user few may not run PSYNC; save: user few may not run BGSAVE; scan: user few may read some keys only") {
		t.Errorf("nothing works: %s", text)
	}

	out, _ := run(exitDone, "backup", "--from", url, "--id", "orders", "--json")
	b := decode[catalog.Backup](t, out)
	if b.Source.Method != "scan" || !b.Source.Fuzzy || !strings.Contains(b.Source.Reason, "not by replica: user app may not run PSYNC") {
		t.Errorf("backup %+v", b.Source)
	}
	out, _ = run(exitDone, "show", string(b.ID))
	for _, want := range []string{"taken by method scan", "Fuzzy", "100 listed", "Reason", "user app may not run PSYNC"} {
		if !strings.Contains(out, want) {
			t.Errorf("show doesn't tell %q:\n%s", want, out)
		}
	}
	if _, stderr := run(exitFailed, "backup", "--from", url, "--id", "orders", "--method", "replica"); !strings.Contains(stderr, "NOPERM") {
		t.Errorf("a method that is refused: %s", stderr)
	}
	if b := parse[catalog.Backup](t, c, exitDone, "backup", "--from", s.URL(), "--id", "orders", "--method", "save", "--save-store", "file://"+s.Dir); b.Source.Method != "save" {
		t.Errorf("by save: %+v", b.Source)
	}
}

// runAlone calls the program without a store.
func runAlone(t *testing.T, status int, args ...string) (out, stderr string) {
	t.Helper()
	var stdout, errs lockedBuffer
	if got := run(t.Context(), args, nil, &stdout, &errs, func(string) string { return "" }); got != status {
		t.Errorf("%v: status %d, want %d: %s%s", args, got, status, stdout.String(), errs.String())
	}
	return stdout.String(), errs.String()
}

// What is wrong with the flags of sources is told by these very words.
func TestSourceFlags(t *testing.T) {
	t.Parallel()
	const from = "redis://localhost:1"
	dir := t.TempDir()
	backup := func(args ...string) []string {
		return append([]string{"--store", dir, "backup", "--id", "orders", "--from", from}, args...)
	}
	schedule := func(source string) []string {
		return []string{"--store", dir, "schedule", "run", "--source", source}
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"doctor"}, "--store (or AMBER_STORE) or --from is missing: say what to look at, as in --store file:///var/backups or --from redis://host:6379"},
		{[]string{"doctor", "--store", dir, "--from", from}, "--store and --from are looked at one at a time: leave one of them out"},
		{backup("--method", "psync"), `--method "psync": it can be auto, replica, flows, save or scan`},
		{backup("--method", "save"), "--method save needs --save-store: say where the files appear that the server saves, as in --save-store file:///mnt/redis"},
		{backup("--save-name", "x.rdb"), "--save-name goes with --save-store"},
		{backup("--parallel", "-1"), "--parallel -1: it can't be negative"},
		{backup("--sync-command", "a", "--sync-command", "b"), "--sync-command is there twice: of several names all but one are of nodes, as HOST:PORT=NAME"},
		{backup("--sync-command", "host=b"), `--sync-command "host=b": write NAME, or HOST:PORT=NAME for one node`},
		{backup("--sync-command", "h:1=a", "--sync-command", "h:1=b"), "--sync-command names h:1 twice"},
		{backup("--sync-command", "h:1="), `--sync-command "h:1=": the name is empty`},
		{schedule("orders=" + from + " method=x"), `data store orders: method "x": it can be auto, replica, flows, save or scan`},
		{schedule("orders=" + from + " method=save"), "data store orders: method=save needs save-store=: say where the files appear that the server saves, as in save-store=file:///mnt/redis"},
		{schedule("orders=" + from + " save-name=x.rdb"), "data store orders: save-name= goes with save-store="},
		{schedule("orders=" + from + " method=save save-store=mem:"), "data store orders: save-store: a store in memory ends with this command: name one that keeps what it gets"},
		{schedule("orders=" + from + " method=scan method=scan"), "data store orders: method= is there twice"},
		{schedule("orders=" + from + " prefer=x"), `data store orders: prefer "x": it can be replica, primary or exact`},
		{schedule("orders=" + from + " what"), "data store orders: behind the URL only @FILE can follow, which holds its password, and method=, prefer=, group=, sync-command=, save-store= and save-name="},
	} {
		_, stderr := runAlone(t, exitUsage, test.args...)
		if !strings.Contains(stderr, test.want+"\n") && !strings.Contains(stderr, test.want+". ") {
			t.Errorf("%v: %s\nwant %s", test.args, stderr, test.want)
		}
	}

	// What a line can say.
	file := "/run/secrets/carts"
	a := &app{}
	s := &sources{app: a, flags: &sourceFlags{}, fixed: map[string]sourced{}}
	if err := s.parse("carts=redis://db:1 method=scan prefer=exact group=g sync-command=x sync-command=h:1=y @"+file, "--source", s.fixed); err != nil {
		t.Fatal(err)
	}
	got := s.fixed["carts"]
	if got.server.url != "redis://db:1" || got.server.passwordFile != file || got.take.Method != "scan" || got.prefer != 2 || got.take.Group != "g" || got.take.SyncCommand != "x" ||
		got.take.SyncCommands["h:1"] != "y" {
		t.Errorf("parsed %+v", got)
	}
}
