package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

func TestMainPath(t *testing.T) {
	for _, test := range []struct {
		version, store string
		where          func(*testing.T, ...string) *ctl
	}{
		{"redis-7.0", "directory", newCtl}, {"redis-8.0", "directory", newCtl}, {"valkey-9.1", "directory", newCtl},
		{"valkey-8.1", "S3", newS3Ctl}, {"redis-8.0", "GCS", newGCSCtl}, {"valkey-9.1", "Azure", newAzureCtl},
	} {
		version := test.version
		t.Run(version+" "+test.store, func(t *testing.T) {
			t.Parallel()
			c := test.where(t)
			source, target := testserver.Start(t, version), testserver.Start(t, version)
			testserver.Generate(t, source.Client(t), 500, 1)
			testserver.LoadFunction(t, source.Client(t), "demo")
			want := testserver.Snapshot(t, source.Client(t))

			if out, _ := c.run(t, exitDone, "list", "--json"); out != "[]\n" {
				t.Fatalf("an empty list is %q", out)
			}
			begin := time.Now()
			b := parse[catalog.Backup](t, c, exitDone, "backup", "--from", source.URL(), "--id", "orders", "--name", "before-upgrade",
				"--description", "a \x1b[31mred\x1b[0m text", "--prefer", "exact")
			if b.State != catalog.StateReady || b.Keys != int64(len(want)) || b.Functions != 1 || b.DataStore != "orders" || b.Name != "before-upgrade" {
				t.Fatalf("backup printed %+v", b)
			}

			// What the list promises, by the names in the document.
			out, _ := c.run(t, exitDone, "list", "--json")
			docs := decode[[]map[string]any](t, out)
			if len(docs) != 1 {
				t.Fatalf("list: %s", out)
			}
			for field, want := range map[string]any{"id": string(b.ID), "name": "before-upgrade", "dataStore": "orders", "kind": "manual", "state": "ready",
				"keys": float64(b.Keys), "bytes": float64(b.StoredBytes)} {
				if docs[0][field] != want {
					t.Errorf("list: %s is %v, want %v", field, docs[0][field], want)
				}
			}
			created, err := time.Parse(time.RFC3339, docs[0]["createdAt"].(string))
			if err != nil || created.Before(begin.Add(-time.Second)) || created.After(time.Now()) {
				t.Errorf("list: createdAt is %v (%v)", docs[0]["createdAt"], err)
			}
			if out, _ = c.run(t, exitDone, "list", "--id", "orders"); !strings.Contains(out, string(b.ID)) || !strings.HasPrefix(out, "ID ") {
				t.Errorf("list: %s", out)
			}
			if out, _ = c.run(t, exitDone, "list", "--id", "others", "--json"); out != "[]\n" {
				t.Errorf("list of another data store: %s", out)
			}

			if show := parse[catalog.Backup](t, c, exitDone, "show", "before-upgrade"); show.ID != b.ID || len(show.Parts) != 1 {
				t.Errorf("show: %+v", show)
			}
			out, _ = c.run(t, exitDone, "show", string(b.ID))
			for _, text := range []string{string(b.ID), "orders", "before-upgrade", b.Source.Version, b.Source.Dialect, b.Parts[0].SHA256, "part-0000", "read back", "red"} {
				if !strings.Contains(out, text) {
					t.Errorf("show doesn't tell %q:\n%s", text, out)
				}
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("show hands on control characters: %q", out)
			}

			if v := parse[verified](t, c, exitDone, "verify", "before-upgrade", "--id", "orders"); !v.OK || v.Keys != b.Keys || v.ID != b.ID {
				t.Errorf("verify: %+v", v)
			}
			if v := parse[[]verified](t, c, exitDone, "verify", "--all"); len(v) != 1 || !v[0].OK {
				t.Errorf("verify --all: %+v", v)
			}

			// A target with data is refused, and nothing happens to it.
			if err := target.Client(t).Set(t.Context(), "precious", "value", 0).Err(); err != nil {
				t.Fatal(err)
			}
			out, stderr := c.run(t, exitFailed, "restore", "before-upgrade", "--to", target.URL(), "--json")
			if out != "" || !strings.Contains(stderr, "--replace") {
				t.Errorf("refusing a target with data: %q, %q", out, stderr)
			}
			if got := target.Client(t).Get(t.Context(), "precious").Val(); got != "value" {
				t.Errorf("a refused restore left %q of the target's data", got)
			}
			rep := parse[restore.Report](t, c, exitDone, "restore", "before-upgrade", "--to", target.URL(), "--replace", "--method", "feed")
			if rep.Backup != b.ID || rep.Keys != b.Keys || rep.Method != "feed" || rep.Target != target.Addr {
				t.Errorf("restore: %+v", rep)
			}
			if diff := testserver.Diff(want, testserver.Snapshot(t, target.Client(t))); diff != "" {
				t.Errorf("restored to something else:\n%s", diff)
			}
			if fns := testserver.Functions(t, target.Client(t)); len(fns) != 1 {
				t.Errorf("restored functions: %v", fns)
			}

			if sweep := parse[backup.SweepReport](t, c, exitDone, "sweep"); sweep != (backup.SweepReport{}) {
				t.Errorf("a sweep of a clean store removed %+v", sweep)
			}
			if out, _ := c.run(t, exitDone, "delete", "before-upgrade", "--json"); decode[map[string]any](t, out)["deleted"] != true {
				t.Errorf("delete: %s", out)
			}
			c.run(t, exitFailed, "show", string(b.ID))
			c.onlyBackups(t)
		})
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	c := newCtl(t, "AMBER_STORE=/nowhere/else")
	s := testserver.Start(t, "redis-8.0")
	first := c.backUp(t, s, "--name", "daily")
	id, _ := c.run(t, exitDone, "backup", "--from", s.URL(), "--id", "carts", "--name", "daily", "--quiet")
	second := strings.TrimSuffix(id, "\n")
	if _, ok := catalog.ID(second).Time(); !ok {
		t.Fatalf("backup --quiet prints %q", id)
	}
	_, stderr := c.run(t, exitFailed, "verify", "daily")
	for _, want := range []string{first, second, "--id"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("a name that two backups have: no %q in %q", want, stderr)
		}
	}
	if b := parse[catalog.Backup](t, c, exitDone, "show", "daily", "--id", "carts"); string(b.ID) != second {
		t.Errorf("show daily of carts: %s, want %s", b.ID, second)
	}
	if _, stderr := c.run(t, exitFailed, "delete", "weekly"); !strings.Contains(stderr, `"weekly"`) {
		t.Errorf("a name that no backup has: %s", stderr)
	}
	if got := c.list(t); len(got) != 2 || got[0] != second || got[1] != first {
		t.Errorf("listed %v, want the newest first: %s, %s", got, second, first)
	}

	if out, _ := c.run(t, exitDone, "__complete", "show", second[:4]); !strings.Contains(out, first) || !strings.Contains(out, second) {
		t.Errorf("completion offers %s", out)
	}

	// The store's other spellings: AMBER_STORE, and a path.
	for _, where := range []string{"file://" + c.store, c.store} {
		var out, stderr bytes.Buffer
		env := func(name string) string { return map[string]string{"AMBER_STORE": where}[name] }
		if status := run(t.Context(), []string{"list", "--json"}, nil, &out, &stderr, env); status != exitDone || len(decode[[]listed](t, out.String())) != 2 {
			t.Errorf("AMBER_STORE=%s: %d, %s%s", where, status, out.String(), stderr.String())
		}
	}
}

func TestCorruption(t *testing.T) {
	for name, where := range map[string]func(*testing.T, ...string) *ctl{"directory": newCtl, "S3": newS3Ctl} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testCorruption(t, where(t))
		})
	}
}

func testCorruption(t *testing.T, c *ctl) {
	source, target := testserver.Start(t, "redis-8.0"), testserver.Start(t, "redis-8.0")
	testserver.Generate(t, source.Client(t), 200, 2)
	testserver.Generate(t, target.Client(t), 50, 3)
	before := testserver.Snapshot(t, target.Client(t))
	good := c.backUp(t, source)
	bad := parse[catalog.Backup](t, c, exitDone, "show", c.backUp(t, source))

	part := filepath.Join(c.store, filepath.FromSlash(bad.Parts[0].Key))
	data, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(data)
	changed := bytes.Clone(data)
	changed[len(changed)/2] ^= 1
	for what, data := range map[string][]byte{"one bit changed": changed, "cut": data[:len(data)-1], "empty": nil} {
		if err := os.WriteFile(part, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, stderr := c.run(t, exitFailed, "verify", string(bad.ID))
		if !strings.Contains(stderr, string(bad.ID)) || !strings.Contains(stderr, "part-0000") {
			t.Errorf("%s: verify says %q", what, stderr)
		}
		_, stderr = c.run(t, exitFailed, "restore", string(bad.ID), "--to", target.URL(), "--replace")
		if !strings.Contains(stderr, "does not verify") {
			t.Errorf("%s: restore says %q", what, stderr)
		}
	}
	if v := parse[verified](t, c, exitFailed, "verify", string(bad.ID)); v.OK || v.Error == "" || v.ID != bad.ID {
		t.Errorf("verify: %+v", v)
	}
	all := parse[[]verified](t, c, exitFailed, "verify", "--all")
	if len(all) != 2 || all[0].OK || !all[1].OK || string(all[1].ID) != good {
		t.Errorf("verify --all: %+v", all)
	}
	if diff := testserver.Diff(before, testserver.Snapshot(t, target.Client(t))); diff != "" {
		t.Errorf("a backup that doesn't verify touched the target:\n%s", diff)
	}
	if err := os.WriteFile(part, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(t, exitDone, "verify", "--all", "--quiet")

	// A manifest that can't be read is told, and hides nothing else.
	manifest := filepath.Join(filepath.Dir(part), "manifest.json")
	if data, err = os.ReadFile(manifest); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if list := parse[[]listed](t, c, exitFailed, "list"); len(list) != 1 || string(list[0].ID) != good {
		t.Errorf("list beside a corrupt manifest: %+v", list)
	}
	for _, args := range [][]string{{"verify", "--all"}, {"show", string(bad.ID)}, {"verify", string(bad.ID)}, {"restore", string(bad.ID), "--to", target.URL()}} {
		if _, stderr := c.run(t, exitFailed, args...); !strings.Contains(stderr, "manifest is corrupt") {
			t.Errorf("%v of a corrupt manifest: %s", args, stderr)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	source := testserver.StartTLS(t, "valkey-9.1", "--tls-auth-clients", "yes")
	target := testserver.StartTLS(t, "valkey-9.1", "--tls-replication", "yes")
	testserver.Generate(t, source.Client(t), 100, 4)

	_, stderr := c.run(t, exitFailed, "backup", "--from", source.URL(), "--id", "orders")
	if !strings.Contains(stderr, "certificate") {
		t.Errorf("a server that nobody vouches for: %s", stderr)
	}
	c.run(t, exitFailed, "backup", "--from", source.URL(), "--id", "orders", "--cacert", source.TLS.CAFile) // it asks for our certificate
	c.run(t, exitFailed, "backup", "--from", source.URL(), "--id", "orders", "--cacert", target.TLS.CAFile, "--cert", source.TLS.CertFile, "--key", source.TLS.KeyFile)
	c.run(t, exitDone, "backup", "--from", source.URL(), "--id", "orders", "--name", "tls", "--cacert", source.TLS.CAFile,
		"--cert", source.TLS.CertFile, "--key", source.TLS.KeyFile)
	c.run(t, exitDone, "restore", "tls", "--to", target.URL(), "--cacert", target.TLS.CAFile,
		"--listen-cert", target.TLS.CertFile, "--listen-key", target.TLS.KeyFile)
	if diff := testserver.Diff(testserver.Snapshot(t, source.Client(t)), testserver.Snapshot(t, target.Client(t))); diff != "" {
		t.Error(diff)
	}
}

func TestRDB(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, s.Client(t), 300, 5)
	testserver.LoadFunction(t, s.Client(t), "demo")
	if err := s.Client(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	keys := int64(len(testserver.Snapshot(t, s.Client(t))))
	dump := filepath.Join(s.Dir, "dump.rdb")
	data, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}

	files := parse[[]rdbFile](t, c, exitDone, "rdb", "verify", dump, dump)
	if len(files) != 2 || !files[1].OK || files[1].Keys != keys || files[1].Bytes != int64(len(data)) || files[1].Dialect != "redis:12" || files[1].Checksum != "crc64" {
		t.Errorf("rdb verify: %+v", files)
	}
	stat := parse[rdbStat](t, c, exitDone, "rdb", "stat", dump)
	types := int64(0)
	for _, db := range stat.DBs {
		for _, n := range db.Types {
			types += n
		}
	}
	if stat.Keys != keys || types != keys || stat.Functions != 1 || stat.Aux["redis-ver"] == "" || len(stat.DBs) < 2 {
		t.Errorf("rdb stat: %+v", stat)
	}
	if out, _ := c.run(t, exitDone, "rdb", "stat", dump); !strings.Contains(out, "redis:12") || !strings.Contains(out, "stream") {
		t.Errorf("rdb stat: %s", out)
	}

	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	changed := bytes.Clone(data)
	changed[len(changed)/2] ^= 1
	for _, bad := range []string{
		file("changed", changed), file("cut", data[:len(data)/2]), file("short", data[:len(data)-1]), file("more", append(bytes.Clone(data), 0)),
	} {
		_, stderr := c.run(t, exitFailed, "rdb", "verify", bad)
		if !strings.Contains(stderr, bad) || !strings.Contains(stderr, "byte") {
			t.Errorf("rdb verify %s doesn't tell where: %s", bad, stderr)
		}
		files := parse[[]rdbFile](t, c, exitFailed, "rdb", "verify", bad, dump)
		if len(files) != 2 || files[0].OK || files[0].Error == "" || !files[1].OK {
			t.Errorf("rdb verify %s and a good file: %+v", bad, files)
		}
		if out, _ := c.run(t, exitFailed, "rdb", "stat", bad, "--json"); out != "" {
			t.Errorf("rdb stat %s printed %s", bad, out)
		}
	}
	c.run(t, exitFailed, "rdb", "verify", file("empty", nil))
	c.run(t, exitFailed, "rdb", "verify", filepath.Join(dir, "missing"))
	c.run(t, exitFailed, "rdb", "verify", dir)

	var out, stderr bytes.Buffer
	if status := run(t.Context(), []string{"rdb", "stat", "-", "--json"}, bytes.NewReader(data), &out, &stderr, noEnv); status != exitDone {
		t.Errorf("standard input: %d, %s", status, stderr.String())
	}
	if err := json.Unmarshal(out.Bytes(), &stat); err != nil || stat.Keys != keys {
		t.Errorf("standard input: %v, %s", err, out.String())
	}
}

// noEnv is an empty environment.
func noEnv(string) string { return "" }
