package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	store := "--store=" + t.TempDir()
	from := "--from=redis://127.0.0.1:1"
	somebody, hybrid := publicKey(t), publicKey(t, "--hybrid")
	for _, test := range []struct {
		args []string
		want string // in the error
	}{
		{nil, "command is missing"},
		{[]string{"bakup"}, `"backup"`},
		{[]string{"rdb"}, "command is missing"},
		{[]string{"rdb", "verfy"}, `"verify"`},
		{[]string{"list", "--jsn", store}, "--jsn"},
		{[]string{"list", "x", store}, `"x"`},
		{[]string{"list"}, "AMBER_STORE"},
		{[]string{"list", "--store", "ftp://host"}, `"ftp"`},
		{[]string{"list", "--store", "mem://"}, "memory"},
		{[]string{"list", "--store", "s3://"}, "bucket"},
		{[]string{"list", "--store", "s3://bucket?endpont=host"}, "endpont"},
		{[]string{"list", "--store", "s3://bucket?secret_key=CANARY"}, "environment"},
		{[]string{"list", "--store", "s3://a:CANARY@bucket"}, "environment"},
		{[]string{"list", "--store", "gs://bucket?project=x"}, "project"},
		{[]string{"list", "--store", "azblob://"}, "container"},
		{[]string{"list", "--store", "file://host/path"}, "file:///"},
		{[]string{"list", "--store", "file:///"}, "no directory"},
		{[]string{"list", "--store", "file:///a?b"}, "%3F"},
		{[]string{"list", "--id", "a/b", store}, "--id"},
		{[]string{"backup", store, "--id", "a"}, "--from"},
		{[]string{"backup", store, from}, "--id"},
		{[]string{"backup", store, from, "--id", ".."}, "--id"},
		{[]string{"backup", store, from, "--id", "a", "--name", "b c"}, "--name"},
		{[]string{"backup", store, from, "--id", "a", "--description", strings.Repeat("x", 1001)}, "--description"},
		{[]string{"backup", store, from, "--id", "a", "--prefer", "none"}, "--prefer"},
		{[]string{"backup", store, from, "--id", "a", "--lease-ttl", "1s"}, "--lease-ttl"},
		{[]string{"backup", store, from, "--id", "a", "--lease-ttl", "x"}, "--lease-ttl"},
		{[]string{"backup", store, from, "--id", "a", "--cacert", "f"}, "rediss://"},
		{[]string{"backup", store, from, "--id", "a", "extra"}, `"extra"`},
		{[]string{"backup", store, "--from", "127.0.0.1:6379", "--id", "a"}, "redis://"},
		{[]string{"backup", store, "--from", "http://127.0.0.1", "--id", "a"}, "redis://"},
		{[]string{"backup", store, "--from", "redis://127.0.0.1/3", "--id", "a"}, "all databases"},
		{[]string{"backup", store, "--from", "rediss://127.0.0.1", "--id", "a", "--cert", "f"}, "--key"},
		{[]string{"backup", store, "--from", "redis://:CANARY-0@127.0.0.1", "--id", "a", "--password-file", "f"}, "--password-file"},
		{[]string{"backup", store, from, "--id", "a", "--retain", "soon"}, "--retain"},
		{[]string{"import", store, "--id", "a"}, "SOURCE"},
		{[]string{"import", store, "dump.rdb"}, "--id"},
		{[]string{"import", store, "--id", "..", "dump.rdb"}, "--id"},
		{[]string{"import", store, "--id", "a", "--name", "b c", "dump.rdb"}, "--name"},
		{[]string{"import", store, "--id", "a", "--description", strings.Repeat("x", 1001), "dump.rdb"}, "--description"},
		{[]string{"import", store, "--id", "a", "--lease-ttl", "1s", "dump.rdb"}, "--lease-ttl"},
		{[]string{"import", store, "--id", "a", "--retain", "-1d", "dump.rdb"}, "--retain"},
		{[]string{"import", store, "--id", "a", "--retain", "0d", "dump.rdb"}, "--retain"},
		{[]string{"import", store, "--id", "a", "--retain", "99999d", "dump.rdb"}, "--retain"},
		{[]string{"import", store, "--id", "a", "dump.rdb", "other.rdb"}, "2 arguments"},
		{[]string{"import", store, "--id", "a", "/tmp"}, "import --list /tmp"},
		{[]string{"import", store, "--id", "a", "s3://bucket/dump.rdb"}, "--from-store"},
		{[]string{"import", store, "--id", "a", "--adopt", "--from-store", "file:///x", "dump.rdb"}, "exclude"},
		{[]string{"import", store, "--id", "a", "--adopt", "https://example.com/dump.rdb"}, "KEY"},
		{[]string{"import", store, "--id", "a", "--from-store", "file:///", "dump.rdb"}, "no directory"},
		{[]string{"import", store, "--id", "a", "--allow-http", "dump.rdb"}, "for a URL"},
		{[]string{"import", store, "--id", "a", "--allow-private", "here", "https://example.com/dump.rdb"}, "--allow-private"},
		{[]string{"import", store, "--id", "a", "--max-bytes", "-1", "https://example.com/dump.rdb"}, "--max-bytes"},
		{[]string{"import", store, "--id", "a", "--dbfilename", "dump", "dump.rdb"}, "--list"},
		{[]string{"import", store, "--id", "a", "--adopt", "--encrypt-to", somebody, "dump.rdb"}, "encrypted"},
		{[]string{"import", store, "--id", "a", "--compress", "lz4", "/dev/null"}, `"lz4"`},
		{[]string{"import", store, "--list"}, "directory"},
		{[]string{"import", store, "--list", "--id", "a", "/tmp"}, "--id"},
		{[]string{"import", store, "--list", "/tmp", "/var"}, "2 arguments"},
		{[]string{"backup", store, from, "--id", "a", "--compress", "19"}, `"19"`},
		{[]string{"backup", store, from, "--id", "a", "--encrypt-to", "age1nobody"}, "age1nobody"},
		{[]string{"backup", store, from, "--id", "a", "--encrypt-to", "AGE-SECRET-KEY-CANARY"}, "secret"},
		{[]string{"backup", store, from, "--id", "a", "--passphrase"}, "AMBER_PASSPHRASE"},
		{[]string{"backup", store, from, "--id", "a", "--passphrase", "--encrypt-to", somebody}, "exclude"},
		{[]string{"backup", store, from, "--id", "a", "--encrypt-to", somebody, "--encrypt-to", hybrid}, "post-quantum"},
		{[]string{"verify", store, "a", "--identity", "AGE-SECRET-KEY-CANARY"}, "--identity"},
		{[]string{"verify", store, "a", "--trust", "AAAA"}, "--trust"},
		{[]string{"verify", store, "a", "--passphrase"}, "AMBER_PASSPHRASE"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--encrypt-to", somebody}, "--replace"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--max-syncs", "1/1h"}, "--replace"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--replace", "--max-syncs", "often"}, "often"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--replace", "--no-safety-backup", "--sign-key", "f"}, "--sign-key"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--identity", "age-secret-key-CANARY"}, "--identity"},
		{[]string{"usage", store, "--id", "a/b"}, "--id"},
		{[]string{"usage", store, "--from", "yesterday"}, "--from"},
		{[]string{"usage", store, "--until", "2026-13"}, "--until"},
		{[]string{"usage", store, "--from", "2026-12", "--until", "2026-11"}, "--from 2026-12 is after --until 2026-11"},
		{[]string{"keygen"}, "FILE"},
		{[]string{"keygen", "f", "--sign", "--hybrid"}, "exclude"},
		{[]string{"show", store}, "BACKUP"},
		{[]string{"show", store, "a", "b"}, `"b"`},
		{[]string{"verify", store}, "--all"},
		{[]string{"verify", store, "a", "--all"}, "not both"},
		{[]string{"delete", store}, "BACKUP"},
		{[]string{"restore", store, "a"}, "--to"},
		{[]string{"restore", store, "--to", "redis://127.0.0.1:1"}, "BACKUP"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--method", "magic"}, "--method"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--merge", "some"}, "--merge"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--merge", "skip", "--replace"}, "exclude"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--expiry", "never"}, "--expiry"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--compare", "few"}, "--compare"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--db", "-1"}, "--db"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--type", "table"}, "--type"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--map-db", "1"}, "--map-db"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--rename-prefix", "user"}, "--rename-prefix"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--rename-prefix", "="}, "--rename-prefix"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--dialect", "redis:11"}, "--file"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--file", "dump.rdb"}, "--to"},
		{[]string{"restore", store, "a", "--file", "dump.rdb", "--dialect", "mysql:8"}, "--dialect"},
		{[]string{"restore", store, "a", "--file", "dump.rdb", "--shards", "3"}, "--shards"},
		{[]string{"restore", store, "a", "--file", "dump.rdb", "--merge", "skip"}, "--merge"},
		{[]string{"restore", store, "a", "--file", "a.b", "--dialect", "dfs"}, "--file"},
		{[]string{"restore", store, "latest", "--to", "redis://127.0.0.1:1"}, "--id"},
		{[]string{"restore", store, "latest", "--id", "a", "--to", "redis://127.0.0.1:1", "--replace"}, "empty"},
		{[]string{"restore", store, "a", "--to", "redis://127.0.0.1:1", "--listen-cert", "f"}, "--listen-key"},
		{[]string{"export", store, "a"}, "--to"},
		{[]string{"export", store, "--to", "f"}, "BACKUP"},
		{[]string{"export", store, "a", "--to", "f", "--dialect", "mysql:8"}, "--dialect"},
		{[]string{"export", store, "a", "--to", "f", "--shards", "2"}, "--dialect dfs"},
		{[]string{"export", store, "a", "--to", "f", "--dialect", "dfs", "--shards", "0"}, "--shards"},
		{[]string{"export", store, "a", "--to", "f", "--sign", "-1s"}, "--sign"},
		{[]string{"export", store, "a", "--to", "f", "--allow-http"}, "for a URL"},
		{[]string{"export", store, "a", "--to", "f", "--header", "a: b"}, "--header"},
		{[]string{"export", store, "a", "--to", "https://example.com/x", "--header", "CANARY"}, "--header"},
		{[]string{"export", store, "a", "--to", "https://example.com/x", "--replace"}, "--replace"},
		{[]string{"export", store, "a", "--to", "https://example.com/x", "--dialect", "dfs"}, "dfs"},
		{[]string{"export", store, "a", "--to", "-"}, "standard output"},
		{[]string{"export", store, "a", "--to", "file:///exports/"}, "no key"},
		{[]string{"export", store, "a", "--to", "ftp://x/y"}, "--to"},
		{[]string{"export", store, "a", "--to", "f", "--expiry", "never"}, "--expiry"},
		{[]string{"copy", store, "a"}, "--to-store"},
		{[]string{"copy", store, "--to-store", "b"}, "BACKUP"},
		{[]string{"copy", store, "a", "--to-store", "ftp://x"}, "--to-store"},
		{[]string{"copy", store, "a", "--to-store", "b", "--lease-ttl", "1s"}, "--lease-ttl"},
		{[]string{"copy", "a", "--to-store", "b"}, "AMBER_STORE"},
		{[]string{"sweep", store, "--grace", "1s"}, "--grace"},
		{[]string{"sweep", store, "--grace", "-1h"}, "--grace"},
		{[]string{"doctor"}, "AMBER_STORE"},
		{[]string{"doctor", store, "x"}, `"x"`},
		{[]string{"doctor", store, "--large", "0"}, "--large"},
		{[]string{"doctor", store, "--objects", "-1"}, "--objects"},
		{[]string{"doctor", store, "--timeout", "0s"}, "--timeout"},
		{[]string{"policy"}, "command is missing"},
		{[]string{"policy", "set", store}, "POLICY"},
		{[]string{"policy", "set", store, "a"}, "nothing is given"},
		{[]string{"policy", "set", store, "a/b", "--cron", "@daily"}, "POLICY"},
		{[]string{"policy", "set", store, "a", "--cron", "@daily"}, "--id"},
		{[]string{"policy", "set", store, "a", "--id", "a/b"}, "--id"},
		{[]string{"policy", "set", store, "a", "--id", "a"}, "when"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--cron", "0 0 0 * * *"}, "cron"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--cron", "@daily", "--every", "1h"}, "exclude"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--daily", "02:30", "--hours", "3"}, "exclude"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--daily", "25:00"}, "25:00"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--daily", "23:30,00:15", "--window", "1h"}, "00:15"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--days", "someday"}, "--days"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--days", "mo"}, "--days"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--hours", "24"}, "--hours"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--hours", "2", "--minute", "60"}, "60"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "30s"}, "1m"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--time-zone", "Europe/Nowhere"}, "Europe/Nowhere"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--retries", "11"}, "10"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--window", "2h"}, "window"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--keep-days", "36526"}, "36525"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--keep-count", "-1"}, "-1"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--fall-percent", "101"}, "101"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--catch-up", "all"}, "all"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--backup-name", "dump"}, "{timestamp}"},
		{[]string{"policy", "set", store, "a", "--id", "a", "--every", "1h", "--label", "gold"}, "--label"},
		{[]string{"policy", "get", store}, "POLICY"},
		{[]string{"policy", "list", store, "--id", "a/b"}, "--id"},
		{[]string{"policy", "remove", store, "a", "b"}, `"b"`},
		{[]string{"policy", "explain"}, "POLICY"},
		{[]string{"policy", "explain", "--daily", "02:30", "-n", "0"}, "-n"},
		{[]string{"policy", "explain", "--daily", "02:30", "--every", "1h"}, "exclude"},
		{[]string{"runs", store, "--state", "broken"}, "--state"},
		{[]string{"runs", store, "--from", "yesterday"}, "--from"},
		{[]string{"runs", store, "--id", "a/b"}, "--id"},
		{[]string{"runs", store, "--limit", "-1"}, "--limit"},
		{[]string{"schedule"}, "command is missing"},
		{[]string{"schedule", "run", store}, "--source"},
		{[]string{"schedule", "run", "--source", "a=redis://127.0.0.1:1"}, "AMBER_STORE"},
		{[]string{"schedule", "run", store, "--source", "redis://:CANARY@127.0.0.1:1"}, "ID=URL"},
		{[]string{"schedule", "run", store, "--source", "a/b=redis://127.0.0.1:1"}, "a/b"},
		{[]string{"schedule", "run", store, "--source", "a="}, "URL"},
		{[]string{"schedule", "run", store, "--source", "a=http://127.0.0.1:1"}, "redis://"},
		{[]string{"schedule", "run", store, "--source", "a=redis://127.0.0.1:1 CANARY"}, "@FILE"},
		{[]string{"schedule", "run", store, "--source", "a=redis://127.0.0.1:1", "--source", "a=redis://127.0.0.1:2"}, "twice"},
		{[]string{"schedule", "run", store, "--source", "a=redis://127.0.0.1:1", "--prefer", "none"}, "--prefer"},
		{[]string{"schedule", "run", store, "--source", "a=redis://127.0.0.1:1", "--grace", "-1s"}, "--grace"},
		{[]string{"schedule", "run", store, "--source", "a=redis://127.0.0.1:1", "--workers", "0"}, "--workers"},
		{[]string{"schedule", "run", store, "--source", "a=redis://127.0.0.1:1", "--lease-ttl", "1s"}, "--lease-ttl"},
		{[]string{"schedule", "run", store, "--source", "a=redis://127.0.0.1:1", "--tidy-every", "1s"}, "--tidy-every"},
		{[]string{"schedule", "run", store, "--source", "a=redis://127.0.0.1:1", "--id", "a"}, "--flagfile"},
		{[]string{"schedule", "run", store, "--flagfile", "/dev/null"}, "--id"},
		{[]string{"schedule", "run", store, "--flagfile", "/dev/null", "--id", "b", "--source", "a=redis://127.0.0.1:1"}, "same data store"},
		{[]string{"schedule", "run", store, "--flagfile", "/dev/null", "--sources", "f"}, "one server"},
		{[]string{"rdb", "verify"}, "FILE"},
		{[]string{"rdb", "stat"}, "FILE"},
		{[]string{"rdb", "stat", "a", "b"}, `"b"`},
		{[]string{"rdb", "stat", "a", "--top", "-1"}, "--top"},
		{[]string{"rdb", "stat", "a", "--depth", "0"}, "--depth"},
		{[]string{"rdb", "stat", "a", "--separator", ""}, "--separator"},
		{[]string{"rdb", "json"}, "FILE"},
		{[]string{"rdb", "json", "a", "b"}, `"b"`},
		{[]string{"rdb", "get", "a"}, "KEY"},
		{[]string{"rdb", "get", "a", "k", "--db", "-1"}, "--db"},
		{[]string{"rdb", "get", "a", "k", "--raw", "--dump"}, "not both"},
		{[]string{"rdb", "get", "a", "k", "--raw"}, "--json"},
		{[]string{"rdb", "get", "a", `k\y`, "--escaped"}, "--escaped"},
		{[]string{"rdb", "convert", "a"}, "OUT"},
		{[]string{"rdb", "convert", "a", "b"}, "--to"},
		{[]string{"rdb", "convert", "a", "b", "--to", "redis:99"}, "redis:99"},
		{[]string{"rdb", "convert", "a", "b", "--to", "redis:5"}, "redis:5"},
		{[]string{"rdb", "convert", "a", "b", "--to", "redis:12", "--on-loss", "cry"}, "--on-loss"},
		{[]string{"rdb", "convert", "a", "b", "--to", "redis:12", "--type", "table"}, "--type"},
		{[]string{"rdb", "convert", "a", "b", "--to", "redis:12", "--db", "-1"}, "--db"},
		{[]string{"rdb", "convert", "a", "b", "--to", "redis:12", "--map-db", "1"}, "--map-db"},
		{[]string{"rdb", "convert", "a", "b", "--to", "redis:12", "--compress", "lz4"}, "--compress"},
		{[]string{"rdb", "convert", "a", "b", "--to", "redis:12", "--shards", "2"}, "--shards"},
		{[]string{"rdb", "convert", "a", "-", "--to", "dfs"}, "-"},
		{[]string{"rdb", "convert", "a", "b", "--to", "dfs", "--force"}, "--force"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), append(test.args, "--json"), nil, &stdout, &stderr, noEnv)
		if status != exitUsage || stdout.Len() > 0 || !strings.Contains(stderr.String(), test.want) || !strings.Contains(stderr.String(), "--help") {
			t.Errorf("amberctl %v: %d, want %d and %q\n%s%s", test.args, status, exitUsage, test.want, stdout.String(), stderr.String())
		}
		if strings.Contains(stderr.String(), "CANARY") {
			t.Errorf("amberctl %v tells a secret: %s", test.args, stderr.String())
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"--version"}, {"help"}, {"backup", "--help"}, {"doctor", "--help"}, {"policy", "set", "--help"}, {"policy", "explain", "--help"}, {"runs", "--help"}, {"schedule", "run", "--help"}, {"rdb", "verify", "-h"}, {"completion", "bash"}} {
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), args, nil, &stdout, &stderr, noEnv); status != exitDone || stdout.Len() == 0 || stderr.Len() > 0 {
			t.Errorf("amberctl %v: %d\n%s%s", args, status, stdout.String(), stderr.String())
		}
	}
}

// A result that could not be written is a failure.
func TestResultNotWritten(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	for _, args := range [][]string{{"list", "--json"}, {"sweep"}, {"--version"}} {
		var stderr bytes.Buffer
		if status := run(t.Context(), append([]string{"--store", store}, args...), nil, fullDisk{}, &stderr, noEnv); status != exitFailed || !strings.Contains(stderr.String(), "disk is full") {
			t.Errorf("amberctl %v: %d, %s", args, status, stderr.String())
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("disk is full") }

// No password is in anything that the program writes, however it got it and whatever went wrong.
func TestSecrets(t *testing.T) {
	t.Parallel()
	const secret = "CANARY-4711/#?%"
	const encoded = "CANARY-4711%2F%23%3F%25"
	source := testserver.Start(t, "redis-8.0", "--requirepass", secret)
	target := testserver.Start(t, "redis-8.0", "--requirepass", secret)
	source.AddUser(t, "amber", "CANARY-user", "+info", "+replconf", "+psync", "+sync", "+hello", "+client", "+role")
	testserver.Generate(t, source.Client(t), 50, 6)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	from := func(user, password string) string { return "redis://" + user + ":" + password + "@" + source.Addr }
	plain := "redis://" + source.Addr
	to := "redis://" + target.Addr

	c := newCtl(t)
	for _, test := range []struct {
		status int
		env    []string
		args   []string
	}{
		{exitDone, nil, []string{"backup", "--id", "a", "--name", "first", "--from", from("", encoded)}},
		{exitDone, nil, []string{"backup", "--id", "a", "--from", from("amber", "CANARY-user")}},
		{exitDone, nil, []string{"backup", "--id", "a", "--from", plain, "--password-file", file}},
		{exitDone, []string{"AMBER_PASSWORD=" + secret}, []string{"backup", "--id", "a", "--from", plain}},
		{exitDone, []string{"AMBER_PASSWORD=CANARY-wrong", "AMBER_FROM_PASSWORD=" + secret}, []string{"backup", "--id", "a", "--from", plain}},
		{exitDone, []string{"AMBER_PASSWORD=CANARY-user"}, []string{"backup", "--id", "a", "--from", "redis://amber@" + source.Addr}},
		{exitDone, []string{"AMBER_PASSWORD=CANARY-wrong", "AMBER_TO_PASSWORD=" + secret}, []string{"restore", "first", "--to", to}},
		{exitFailed, nil, []string{"backup", "--id", "a", "--from", from("", "CANARY-wrong")}},
		{exitFailed, nil, []string{"backup", "--id", "a", "--from", from("CANARY-nobody", "CANARY-wrong")}},
		{exitFailed, []string{"AMBER_TO_PASSWORD=" + secret}, []string{"backup", "--id", "a", "--from", plain}},
		{exitFailed, []string{"AMBER_PASSWORD=CANARY-wrong"}, []string{"restore", "first", "--to", to}},
		{exitFailed, nil, []string{"backup", "--id", "a", "--from", "redis://:CANARY-9@127.0.0.1:1"}},
		{exitFailed, nil, []string{"backup", "--id", "a", "--from", "rediss://:CANARY-9@127.0.0.1:1"}},
		{exitFailed, nil, []string{"backup", "--id", "a", "--from", plain, "--password-file", filepath.Dir(file)}},
		{exitUsage, nil, []string{"backup", "--id", "a", "--from", from("", secret)}}, // not encoded
		{exitUsage, nil, []string{"backup", "--id", "a", "--from", "redis://:CANARY-1?CANARY-2@host"}},
		{exitUsage, nil, []string{"backup", "--id", "a", "--from", "redis://user:12/CANARY-2@host"}},
		{exitUsage, nil, []string{"backup", "--id", "a", "--from", "redis://host?CANARY-2=1"}},
		{exitUsage, nil, []string{"backup", "--id", "a", from("", "CANARY-9")}},
		{exitUsage, nil, []string{from("", "CANARY-9")}},
		{exitUsage, nil, []string{"--from=" + from("", "CANARY-9")}},
	} {
		p := c.start(t, program, test.env, append(test.args, "--verbose")...)
		if status := p.wait(t, patience); status != test.status {
			t.Errorf("%v %v: exit status %d, want %d\n%s", test.env, test.args, status, test.status, p.stderr.String())
		}
		for _, out := range []string{p.stdout.String(), p.stderr.String()} {
			if strings.Contains(strings.ReplaceAll(out, "CANARY-nobody", ""), "CANARY") {
				t.Errorf("%v %v tells a secret: %s", test.env, test.args, out)
			}
		}
	}
	if c.anywhere(t, "CANARY") {
		t.Error("a secret is in the store")
	}
	if diff := testserver.Diff(testserver.Snapshot(t, source.Client(t)), testserver.Snapshot(t, target.Client(t))); diff != "" {
		t.Error(diff)
	}

	var stdout, stderr bytes.Buffer // a password from standard input
	status := run(t.Context(), []string{"backup", "--store", c.store, "--id", "a", "--from", plain, "--password-file", "-"}, strings.NewReader(secret), &stdout, &stderr, noEnv)
	if status != exitDone {
		t.Errorf("--password-file -: %d, %s", status, stderr.String())
	}
}

// A store is named without what may be a secret of its URL.
func TestDescribeStore(t *testing.T) {
	for where, want := range map[string]string{
		"/var/backups":         "file:///var/backups",
		"file:///var/b%3Fups":  "file:///var/b?ups",
		"file:///a?sig=CANARY": "file:///a",
		"s3://bucket":          "s3://bucket",
		"s3://bucket/a/b?endpoint=http://CANARY:CANARY@host:9000&region=x#CANARY": "s3://bucket/a/b",
		"gs://CANARY:CANARY@bucket/a":   "gs://bucket/a",
		"azblob://container/%zz?CANARY": "azblob://…",
	} {
		if got := describeStore(where); got != want {
			t.Errorf("%s is called %s, want %s", where, got, want)
		}
	}
}

func TestFormat(t *testing.T) {
	for want, got := range map[string]string{
		"0 B": size(0), "1023 B": size(1023), "1.0 KiB": size(1024), "1.0 MiB": size(1<<20 - 1), "375.0 MiB": size(375 << 20), "8192.0 PiB": size(1<<63 - 1),
		"0": count(0), "999": count(999), "1,000": count(1000), "12,345,678": count(12345678), "-1,234": count(-1234),
		"1 key": plural(1, "key"), "0 keys": plural(0, "key"),
		"1.23s": took(1234567890), "12ms": took(12345678), "1m1s": took(61 * time.Second), "1s (1.0 MiB/s)": tookFor(time.Second, 1<<20),
		"list 5, hash 2, set 2": byType(map[string]int64{"set": 2, "hash": 2, "list": 5}),
		"a b":                   clean("a\x1bb"),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
