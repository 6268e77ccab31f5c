package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/internal/testserver"
)

const (
	someRDB = "../../rdb/testdata/redis-8.0.2/streams.rdb"
	someSet = "../../rdb/dfs/testdata/dragonfly-1.40/mini"
)

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// writeSet writes Dragonfly's set under a name.
func writeSet(t *testing.T, name string) {
	t.Helper()
	for _, end := range []string{"-0000.dfs", "-0001.dfs", "-summary.dfs"} {
		writeFile(t, name+end, readFile(t, someSet+end))
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	dir := t.TempDir()
	plain := writeFile(t, filepath.Join(dir, "dump.rdb"), readFile(t, someRDB))
	link := filepath.Join(t.TempDir(), "link.rdb")
	if err := os.Symlink(plain, link); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	writeSet(t, filepath.Join(dir, "dump-2026-08-22T11:55:03"))
	writeSet(t, filepath.Join(c.store, "adopted"))
	for name, test := range map[string]struct {
		args []string
		keys int64
	}{
		"path":           {[]string{plain, "--retain", "30d", "--name", "old-host", "--description", "from there"}, 12},
		"link":           {[]string{link}, 12},
		"set":            {[]string{filepath.Join(dir, "dump-2026-08-22T11:55:03-summary.dfs")}, 39},
		"store":          {[]string{"--from-store", "file://" + dir, "dump-2026-08-22T11:55:03-summary.dfs"}, 39},
		"adopted":        {[]string{"--adopt", "adopted-summary.dfs"}, 39},
		"pipe":           {[]string{pipe}, 12},
		"standard-input": {[]string{"-"}, 12},
	} {
		args := append([]string{"import", "--store", c.store, "--id", name, "--json"}, test.args...)
		if name == "pipe" {
			go os.WriteFile(pipe, readFile(t, someRDB), 0) // waits until it is opened
		}
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), args, bytes.NewReader(readFile(t, someRDB)), &stdout, &stderr, noEnv); status != exitDone {
			t.Errorf("%s: %d, %s", name, status, stderr.String())
			continue
		}
		b := decode[catalog.Backup](t, stdout.String())
		if b.Keys != test.keys || b.Kind != catalog.KindImport || b.State != catalog.StateReady || b.Parts[0].Adopted != (name == "adopted") {
			t.Errorf("%s: %+v", name, b)
		}
		if name == "path" {
			if b.Name != "old-host" || b.Description != "from there" || b.Source.File != "dump.rdb" || b.DeleteAfter.Sub(b.CreatedAt) != 30*24*time.Hour {
				t.Errorf("%+v", b)
			}
			if out, _ := c.run(t, exitDone, "show", string(b.ID)); !strings.Contains(out, "Kept until") || !strings.Contains(out, "dump.rdb") {
				t.Errorf("show: %s", out)
			}
		}
		c.run(t, exitDone, "verify", string(b.ID))
		if out, _ := c.run(t, exitDone, "show", string(b.ID)); strings.Contains(out, "(adopted)") != (name == "adopted") {
			t.Errorf("show: %s", out)
		}
	}
	for args, want := range map[string]string{
		filepath.Join(dir, "none.rdb"):                                                            "no such file",
		filepath.Join(dir, "dump-2026-08-22T11:55:03-0000.dfs"):                                   "dump-2026-08-22T11:55:03-summary.dfs",
		writeFile(t, filepath.Join(dir, "cut.rdb"), readFile(t, someRDB)[:1000]):                  "not sound",
		writeFile(t, filepath.Join(dir, "gone-summary.dfs"), readFile(t, someSet+"-summary.dfs")): "gone-0000.dfs",
	} {
		p := c.start(t, program, nil, "import", "--id", "failing", args)
		if status := p.wait(t, patience); status == exitDone || !strings.Contains(p.stderr.String(), want) {
			t.Errorf("%s: %d, %s", args, status, p.stderr.String())
		}
	}
	if got := len(c.list(t)); got != 7 {
		t.Errorf("%d backups are listed", got)
	}
}

// A signed URL is told to nobody, however it is given; and without leave nothing inside is reached.
func TestImportURL(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Query().Get("sig"), "CANARY-") {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		if name, ok := strings.CutPrefix(r.URL.Path, "/mini"); ok {
			http.ServeFile(w, r, someSet+name)
			return
		}
		if r.URL.Path != "/dump.rdb" {
			http.Error(w, "there is no such thing for "+r.URL.Query().Get("sig"), http.StatusNotFound)
			return
		}
		http.ServeFile(w, r, someRDB)
	}))
	defer server.Close()
	c := newCtl(t)
	ca := writeFile(t, filepath.Join(t.TempDir(), "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	allowed := []string{"--allow-private", "127.0.0.0/8", "--cacert", ca}
	const sig = "?sig=CANARY-0123456789"
	url := server.URL + "/dump.rdb" + sig
	inFile := "@" + writeFile(t, filepath.Join(t.TempDir(), "url.txt"), []byte(url+"\n"))
	set := "@" + writeFile(t, filepath.Join(t.TempDir(), "urls.txt"), []byte(server.URL+"/mini-summary.dfs?sig=CANARY-1\n\n"+server.URL+"/mini-0000.dfs?sig=CANARY-2\r\n"+server.URL+"/mini-0001.dfs?sig=CANARY-3"))
	for _, test := range []struct {
		args   []string
		stdin  string
		status int
		want   string
	}{
		{append(allowed, url), "", exitDone, "12 keys"},
		{append(allowed, inFile), "", exitDone, "12 keys"},
		{append(allowed, "@-"), url + "\n", exitDone, "12 keys"},
		{append(allowed, set), "", exitDone, "39 keys"},
		{append(allowed, server.URL+"/mini-summary.dfs"+sig), "", exitDone, "39 keys"},
		{append(allowed, server.URL+"/gone.rdb"+sig), "", exitFailed, "404"},
		{append(allowed, "--max-bytes", "1000", url), "", exitFailed, "larger than"},
		{[]string{url}, "", exitFailed, "--allow-private"},
		{[]string{inFile}, "", exitFailed, "--allow-private"},
		{append(allowed, strings.Replace(url, "https", "http", 1)), "", exitFailed, "--allow-http"},
		{[]string{"@" + ca}, "", exitFailed, "holds no URL"},
		{[]string{"@" + ca + ".none"}, "", exitFailed, "no such file"},
		{append(allowed, url, "--nonsense"), "", exitUsage, "--nonsense"},
		{append(allowed, "--adopt", url), "", exitUsage, "KEY"},
		{append(allowed, "--nonsense="+url), "", exitUsage, "--nonsense"},
		{append(allowed, "dump.rdb", url), "", exitUsage, "for a URL"},
	} {
		args := append([]string{"import", "--store", c.store, "--id", "orders", "--verbose"}, test.args...)
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), args, strings.NewReader(test.stdin), &stdout, &stderr, noEnv)
		if all := stdout.String() + stderr.String(); status != test.status || !strings.Contains(all, test.want) || strings.Contains(all, "CANARY") {
			t.Errorf("%v: %d, want %d and %q\n%s", test.args, status, test.status, test.want, all)
		}
	}
	if c.anywhere(t, "CANARY") {
		t.Error("a secret is in the store")
	}
	if got := len(c.list(t)); got != 5 {
		t.Errorf("%d backups are listed", got)
	}
}

func TestImportList(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "dump.rdb"), readFile(t, someRDB))
	writeFile(t, filepath.Join(dir, "cut.rdb"), readFile(t, someRDB)[:1000])
	writeFile(t, filepath.Join(dir, "temp-17.rdb"), nil)
	writeSet(t, filepath.Join(dir, "dump-2026-08-22T11:55:03"))
	writeSet(t, filepath.Join(dir, "gone"))
	if err := os.Remove(filepath.Join(dir, "gone-0000.dfs")); err != nil {
		t.Fatal(err)
	}
	out, _ := c.run(t, exitDone, "import", "--list", dir)
	for _, want := range []string{"NAME", "dump.rdb", "redis 8.0.2", "loaded", "not complete: it doesn't end", "dump-2026-08-22T11:55:03-summary.dfs", "dragonfly", "missing are gone-0000.dfs", "being written"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	found := parse[[]dumpfile.Dump](t, c, exitDone, "import", "--list", "--from-store", "file://"+dir, "gone", "--dbfilename", "gone")
	if len(found) != 1 || found[0].Name != "gone-summary.dfs" || found[0].Complete || !found[0].AtStart || !strings.Contains(found[0].Problem, "gone-0000.dfs") {
		t.Errorf("%+v", found)
	}
	if out, _ := c.run(t, exitDone, "import", "--list", t.TempDir(), "--json"); out != "[]\n" {
		t.Errorf("of nothing: %q", out)
	}
	none := filepath.Join(dir, "none")
	c.run(t, exitFailed, "import", "--list", none)
	if _, err := os.Stat(none); err == nil {
		t.Error("a directory that was looked at was made")
	}
}

func TestRetention(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "30d": 720 * time.Hour, "12h": 12 * time.Hour, "90m": 90 * time.Minute, "36600d": 36600 * 24 * time.Hour} {
		if got, err := keepFor(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	t.Parallel()
	c := newCtl(t)
	plain := writeFile(t, filepath.Join(t.TempDir(), "dump.rdb"), readFile(t, someRDB))
	for _, retain := range []string{"1ms", "1ms", "1h"} {
		c.run(t, exitDone, "import", "--id", "orders", "--retain", retain, plain)
	}
	time.Sleep(10 * time.Millisecond)
	if rep := parse[backup.PruneReport](t, c, exitDone, "prune"); rep.Deleted != 2 {
		t.Errorf("%+v", rep)
	}
	if got := len(c.list(t)); got != 1 {
		t.Errorf("%d are left", got)
	}
}

// What is adopted is left alone by everything, at whatever point that is killed.
func TestCrashAdopting(t *testing.T) {
	t.Parallel()
	data := readFile(t, someRDB)
	for _, place := range []string{crashpoint.BackupLeased, crashpoint.BackupRegistered, crashpoint.BackupSnapshot, crashpoint.BackupFirstByte,
		crashpoint.AdoptParsed, crashpoint.BackupReadBack, crashpoint.BackupPublished, crashpoint.DeleteMarked, crashpoint.DeleteNoted, crashpoint.DeleteObjects, crashpoint.SweepMarked} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			c := newCtl(t)
			file := writeFile(t, filepath.Join(c.store, "dump.rdb"), data)
			adopt := []string{"import", "--id", "orders", "--adopt", "dump.rdb", "--lease-ttl", "3s"}
			crash := func(at string, args ...string) bool {
				t.Helper()
				p := c.start(t, program, []string{"AMBER_CRASHPOINT=" + at}, args...)
				p.wait(t, patience)
				if !bytes.Equal(readFile(t, file), data) {
					t.Fatalf("%v, killed at %s, has changed the file", args, at)
				}
				return p.killed()
			}
			switch operation, _, _ := strings.Cut(place, "-"); operation {
			case "delete":
				b := parse[catalog.Backup](t, c, exitDone, adopt...)
				if !crash(place, "delete", string(b.ID)) {
					t.Fatal("it did not die")
				}
			case "sweep":
				if !crash(crashpoint.AdoptParsed, adopt...) {
					t.Fatal("it did not die")
				}
				testserver.Eventually(t, patience, "a sweep dies", func() error {
					if !crash(place, "sweep", "--grace", "0") {
						time.Sleep(500 * time.Millisecond)
						return context.DeadlineExceeded
					}
					return nil
				})
			default:
				if !crash(place, adopt...) {
					t.Fatal("it did not die")
				}
			}
			listed := c.list(t)
			if (len(listed) == 1) != (place == crashpoint.BackupPublished) {
				t.Errorf("listed: %v", listed)
			}
			testserver.Eventually(t, patience, "a sweep finds nothing more to do", func() error {
				c.run(t, exitDone, "sweep", "--grace", "0")
				if states := c.states(t); len(states) > len(listed) {
					time.Sleep(500 * time.Millisecond)
					return context.DeadlineExceeded
				}
				return nil
			})
			for _, id := range listed {
				c.run(t, exitDone, "verify", id)
				c.run(t, exitDone, "delete", id)
			}
			if !bytes.Equal(readFile(t, file), data) {
				t.Error("the file has changed")
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			c.onlyBackups(t)
		})
	}
}

// A bucket that a server writes itself: what lies in it is listed, by the rule of buckets, imported and adopted.
func TestImportFromBucket(t *testing.T) {
	t.Parallel()
	c := newS3Ctl(t)
	if err := os.MkdirAll(c.store, 0o700); err != nil {
		t.Fatal(err)
	}
	const older, newer, last = "dump-2026-08-23T11:55:03", "dump-2026-08-22T11:55:03", "dump-older"
	for i, name := range []string{older, newer, last} {
		writeSet(t, filepath.Join(c.store, name))
		for _, end := range []string{"-0000.dfs", "-0001.dfs", "-summary.dfs"} {
			at := time.Now().Add(time.Duration(i-10) * time.Minute)
			if err := os.Chtimes(filepath.Join(c.store, name+end), at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	found := parse[[]dumpfile.Dump](t, c, exitDone, "import", "--list", "--from-store", c.url)
	if len(found) != 3 || found[0].Name != last+"-summary.dfs" || found[0].AtStart || !found[1].AtStart || !found[1].Complete || found[1].Name != newer+"-summary.dfs" {
		t.Fatalf("%+v", found)
	}
	copied := parse[catalog.Backup](t, c, exitDone, "import", "--id", "copied", "--from-store", c.url, newer+"-summary.dfs")
	adopted := parse[catalog.Backup](t, c, exitDone, "import", "--id", "adopted", "--adopt", newer+"-summary.dfs")
	if copied.Keys != 39 || adopted.Keys != 39 || copied.Parts[0].Adopted || !adopted.Parts[2].Adopted || adopted.Parts[2].Key != newer+"-summary.dfs" {
		t.Errorf("%+v\n%+v", copied, adopted)
	}
	c.run(t, exitDone, "verify", "--all")
	if again := parse[[]dumpfile.Dump](t, c, exitDone, "import", "--list", "--from-store", c.url); len(again) != 3 {
		t.Errorf("with Amber's own backups beside them: %+v", again)
	}
	writeFile(t, filepath.Join(c.store, newer+"-0001.dfs"), readFile(t, someSet+"-0000.dfs"))
	if _, stderr := c.run(t, exitFailed, "verify", string(adopted.ID)); !strings.Contains(stderr, "adopted") {
		t.Errorf("after the server wrote a shard anew: %s", stderr)
	}
	if _, stderr := c.run(t, exitFailed, "import", "--id", "foreign", "--adopt", newer+"-summary.dfs"); !strings.Contains(stderr, newer+"-0001.dfs holds shard 0") {
		t.Errorf("of a set that isn't whole: %s", stderr)
	}
	c.run(t, exitDone, "delete", string(adopted.ID))
	c.run(t, exitDone, "sweep", "--grace", "0")
	for _, end := range []string{"-0000.dfs", "-0001.dfs", "-summary.dfs"} {
		if _, err := os.Stat(filepath.Join(c.store, newer+end)); err != nil {
			t.Error(err)
		}
	}
	c.run(t, exitDone, "verify", string(copied.ID))
}
