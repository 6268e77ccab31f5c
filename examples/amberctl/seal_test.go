package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
)

// publicKey makes a key and returns what is public of it.
func publicKey(t *testing.T, args ...string) string {
	t.Helper()
	public, _ := keygen(t, args...)
	return public
}

// keygen makes a key and returns what is public of it, and its file.
func keygen(t *testing.T, args ...string) (public, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), append([]string{"keygen", file}, args...), nil, &stdout, &stderr, noEnv); status != exitDone || stderr.Len() > 0 {
		t.Fatalf("keygen %v: %d, %s", args, status, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), file
}

func TestKeygen(t *testing.T) {
	t.Parallel()
	for kind, test := range map[string]struct {
		args         []string
		public, file string
		json         string
	}{
		"age":    {nil, "age1", "AGE-SECRET-KEY-1", "age"},
		"hybrid": {[]string{"--hybrid"}, "age1pq1", "AGE-SECRET-KEY-PQ-1", "age"},
		"sign":   {[]string{"--sign"}, "", "-----BEGIN PRIVATE KEY-----", "ed25519"},
	} {
		public, file := keygen(t, test.args...)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: the file's mode is %v, %v", kind, info.Mode(), err)
		}
		if !strings.HasPrefix(public, test.public) || !strings.Contains(string(text), test.file) || strings.Contains(public, "SECRET") {
			t.Errorf("%s: the public key is %q", kind, public)
		}
		// A key that is there is never written over.
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), append([]string{"keygen", file}, test.args...), nil, &stdout, &stderr, noEnv); status != exitFailed || stdout.Len() > 0 {
			t.Errorf("%s, again: %d, %s%s", kind, status, stdout.String(), stderr.String())
		}
		if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, text) {
			t.Errorf("%s: the key that was there is another: %v", kind, err)
		}
		c := newCtl(t)
		g := parse[generated](t, c, exitDone, append([]string{"keygen", filepath.Join(t.TempDir(), "new")}, test.args...)...)
		if g.Kind != test.json || !strings.HasPrefix(g.Public, test.public) || g.File == "" {
			t.Errorf("%s: %+v", kind, g)
		}
	}
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{"keygen", filepath.Join(t.TempDir(), "missing", "key")}, nil, &stdout, &stderr, noEnv); status != exitFailed || stdout.Len() > 0 {
		t.Errorf("a directory that doesn't exist: %d, %s", status, stderr.String())
	}
}

// TestSealed goes through everything that the command line says about encryption and signatures.
func TestSealed(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	source, target := testserver.Start(t, "redis-8.0"), testserver.Start(t, "redis-8.0")
	testserver.Generate(t, source.Client(t), 100, 3)
	source.Client(t).Set(t.Context(), "CANARY-key", "CANARY-value", 0)
	want := testserver.Snapshot(t, source.Client(t))
	one, oneFile := keygen(t)
	two, twoFile := keygen(t)
	_, otherFile := keygen(t)
	signed, signFile := keygen(t, "--sign")
	unknown, _ := keygen(t, "--sign")
	list := filepath.Join(t.TempDir(), "recipients")
	if err := os.WriteFile(list, []byte("# who may\n"+two+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	trusted := filepath.Join(t.TempDir(), "trusted")
	if err := os.WriteFile(trusted, []byte("# us\n"+unknown+"\n\n"+signed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	b := parse[catalog.Backup](t, c, exitDone, "backup", "--from", source.URL(), "--id", "orders", "--encrypt-to", one, "--encrypt-to", "@"+list,
		"--compress", "better", "--sign-key", signFile)
	id := string(b.ID)
	if len(b.Recipients) != 2 || b.Parts[0].Encryption != "age" || b.Signature == nil {
		t.Errorf("the backup is %+v", b)
	}
	if c.anywhere(t, "CANARY") || c.anywhere(t, "AGE-SECRET-KEY") {
		t.Error("the store tells")
	}
	if out, _ := c.run(t, exitDone, "show", id); !strings.Contains(out, one) || !strings.Contains(out, two) || !strings.Contains(out, signed) {
		t.Errorf("show: %s", out)
	}

	// Verifying.
	if v := parse[verified](t, c, exitDone, "verify", id); !v.OK || !v.Sealed || v.RawBytes != 0 || v.Bytes != b.StoredBytes {
		t.Errorf("without identity: %+v", v)
	}
	if out, _ := c.run(t, exitDone, "verify", "--all"); !strings.Contains(out, "ok, not opened") {
		t.Errorf("without identity: %s", out)
	}
	for _, file := range []string{oneFile, twoFile} {
		if v := parse[verified](t, c, exitDone, "verify", id, "--identity", otherFile, "--identity", file, "--trust", signed); !v.OK || v.Sealed || v.RawBytes != b.RawBytes {
			t.Errorf("with %s: %+v", file, v)
		}
	}
	if v := parse[verified](t, c, exitFailed, "verify", id, "--identity", otherFile); v.OK || !strings.Contains(v.Error, one) || !strings.Contains(v.Error, "--identity") {
		t.Errorf("with another identity: %+v", v)
	}
	if v := parse[verified](t, c, exitFailed, "verify", id, "--trust", unknown); v.OK || !strings.Contains(v.Error, signed) {
		t.Errorf("another key is trusted: %+v", v)
	}

	// Restoring. A refusal leaves the target empty.
	for what, args := range map[string][]string{
		"no identity":       nil,
		"another identity":  {"--identity", otherFile},
		"another signature": {"--identity", oneFile, "--trust", unknown},
	} {
		_, stderr := c.run(t, exitFailed, append([]string{"restore", id, "--to", target.URL()}, args...)...)
		if n := target.Client(t).DBSize(t.Context()).Val(); n != 0 {
			t.Errorf("%s: the target has %d keys\n%s", what, n, stderr)
		}
	}
	c.run(t, exitDone, "restore", id, "--to", target.URL(), "--identity", twoFile, "--trust", "@"+trusted)
	if diff := testserver.Diff(want, testserver.Snapshot(t, target.Client(t))); diff != "" {
		t.Error(diff)
	}
	// What the target holds is not to be in the store as it is.
	if _, stderr := c.run(t, exitFailed, "restore", id, "--to", target.URL(), "--identity", twoFile, "--replace"); !strings.Contains(stderr, "not touched") {
		t.Errorf("--replace without --encrypt-to: %s", stderr)
	}
	t.Run("environment", func(t *testing.T) {
		p := c.start(t, program, []string{"AMBER_IDENTITY=" + oneFile}, "restore", id, "--to", target.URL(), "--replace", "--encrypt-to", one, "--sign-key", signFile)
		if status := p.wait(t, patience); status != exitDone {
			t.Errorf("%d, %s", status, p.stderr.String())
		}
	})
	// So is what is imported.
	dump := filepath.Join(t.TempDir(), "dump.rdb")
	c.run(t, exitDone, "restore", id, "--identity", oneFile, "--file", dump)
	imported := parse[catalog.Backup](t, c, exitDone, "import", "--id", "copies", dump, "--encrypt-to", one, "--sign-key", signFile)
	if len(imported.Recipients) != 1 || imported.Signature == nil || imported.Keys != b.Keys {
		t.Errorf("imported: %+v", imported)
	}
	if v := parse[[]verified](t, c, exitDone, "verify", "--all", "--identity", oneFile, "--trust", signed); len(v) != 3 || !v[0].OK || v[0].Sealed {
		t.Errorf("the backup and that of what the target held: %+v", v)
	}
	if diff := testserver.Diff(want, testserver.Snapshot(t, target.Client(t))); diff != "" {
		t.Error(diff)
	}
	if c.anywhere(t, "CANARY") || c.anywhere(t, "AGE-SECRET-KEY") {
		t.Error("the store tells")
	}
}

// TestPassphrase: a passphrase comes from the environment, and is nowhere else.
func TestPassphrase(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	source, target := testserver.Start(t, "redis-8.0"), testserver.Start(t, "redis-8.0")
	source.Client(t).Set(t.Context(), "CANARY-key", "CANARY-value", 0)
	const secret = "AMBER_PASSPHRASE=CANARY pass phrase"
	for _, test := range []struct {
		status int
		env    string
		args   []string
	}{
		{exitDone, secret, []string{"backup", "--from", source.URL(), "--id", "orders", "--name", "first", "--passphrase", "--compress", "none"}},
		{exitFailed, secret, []string{"restore", "first", "--to", target.URL()}},
		{exitUsage, "", []string{"restore", "first", "--to", target.URL(), "--passphrase"}},
		{exitDone, secret, []string{"restore", "first", "--to", target.URL(), "--passphrase", "--verbose"}},
	} {
		p := c.start(t, program, []string{test.env}, test.args...)
		if status := p.wait(t, patience); status != test.status {
			t.Errorf("%v: %d, want %d\n%s", test.args, status, test.status, p.stderr.String())
		}
		if strings.Contains(p.stdout.String()+p.stderr.String(), "CANARY") {
			t.Errorf("%v tells a secret: %s%s", test.args, p.stdout.String(), p.stderr.String())
		}
		if n := target.Client(t).DBSize(t.Context()).Val(); (n == 1) != (test.status == exitDone && test.args[0] == "restore") {
			t.Errorf("%v: the target has %d keys", test.args, n)
		}
	}
	if c.anywhere(t, "CANARY") {
		t.Error("the store tells")
	}
	if show := parse[catalog.Backup](t, c, exitDone, "show", "first"); len(show.Recipients) != 1 || show.Recipients[0] != "passphrase" {
		t.Errorf("show: %+v", show.Recipients)
	}
}
