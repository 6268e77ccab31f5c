package dragonflyflags_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/dragonflyflags"
)

const canary = "CANARY-pass"

// TestFlagFile reads a file as Dragonfly's package has one in /etc, and its command line beside it.
func TestFlagFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dragonfly.flags")
	text := "# Dragonfly of the shop\n" +
		"--pidfile=/var/run/dragonfly/dragonfly.pid\n" +
		"--log_dir=/var/log/dragonfly\n" +
		"\n" +
		"  --dir=s3://acme-backups/dragonfly/staging\n" +
		"--dbfilename=orders-{timestamp}\n" +
		"-snapshot_cron=30 2 * * *\n" +
		"--s3_endpoint=minio:9000\n" +
		"--nos3_use_https\n" +
		"--s3_ec2_metadata\n" +
		"--bind=0.0.0.0\n" +
		"--port=6380\n" +
		"--requirepass=" + canary + "=x \n" +
		"--tls=true\n" +
		"--maxmemory=4gb\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := dragonflyflags.Parse([]string{"./dragonfly", "--port=1", "--flagfile", file, "--maxmemory", "8gb", "--logtostderr", "--port", "6379"}, os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	want := &dragonflyflags.Flags{
		Dir: "s3://acme-backups/dragonfly/staging", DBFilename: "orders-{timestamp}", DFS: true, SnapshotCron: "30 2 * * *",
		S3:   map[string]string{"dir": "s3://acme-backups/dragonfly/staging", "s3_endpoint": "minio:9000", "s3_use_https": "false", "s3_ec2_metadata": "true"},
		Bind: "0.0.0.0", Port: 6379, Password: canary + "=x ", TLS: true, Unknown: []string{"pidfile", "log_dir", "maxmemory", "logtostderr"},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got  %#v\nwant %#v", f, want)
	}
	if !f.OnShutdown() || f.Address() != "127.0.0.1:6379" {
		t.Error(f.OnShutdown(), f.Address())
	}
	policies, err := f.Policies("orders", "Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	if want := []schedule.Policy{{ID: "orders-snapshot_cron", DataStore: "orders", Enabled: true, When: schedule.When{Cron: "30 2 * * *"},
		TimeZone: "Europe/Berlin", BackupName: "orders-{timestamp}"}}; !reflect.DeepEqual(policies, want) {
		t.Errorf("got %+v, want %+v", policies, want)
	}
}

// TestSecret prints the flags in every way there is.
func TestSecret(t *testing.T) {
	f, err := dragonflyflags.Parse([]string{"--requirepass", canary}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(f.Password) != canary {
		t.Fatal("it was not read")
	}
	encoded, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("flags", "all", f, "value", *f, "password", f.Password)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("flags", "all", f, "password", f.Password)
	for _, text := range []string{
		string(encoded), log.String(), fmt.Sprint(f), fmt.Sprintf("%v %+v %#v %s %q %x", f, *f, *f, f.Password, f.Password, f.Password), fmt.Sprintf("%d %T", f.Password, f.Password),
	} {
		if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
			t.Errorf("the password is in %s", text)
		}
	}
	if !strings.Contains(string(encoded), `"requirepass":"(secret)"`) {
		t.Errorf("%s", encoded)
	}
}

func TestPolicies(t *testing.T) {
	for _, test := range []struct {
		args     []string
		name     string // of the policy's backups
		warnings []string
	}{
		{[]string{"--snapshot_cron=*/5 * * * *"}, "dump-{timestamp}", nil},
		{[]string{"--snapshot_cron=@daily", "--dbfilename="}, "", nil},
		{[]string{"--snapshot_cron=0 0 * * *", "--dbfilename=dump-{Y}{m}{d}"}, "dump-{Y}{m}{d}", nil},
		{[]string{"--snapshot_cron=0 */6 * * *", "--dbfilename=dump-{Y}{m}{d}"}, "dump-{Y}{m}{d}-{timestamp}",
			[]string{`dbfilename "dump-{Y}{m}{d}" is the same for several snapshots, and Dragonfly overwrites them: backups are called dump-{Y}{m}{d}-{timestamp}`}},
		{[]string{"--snapshot_cron=0 0 * * *", "--nodf_snapshot_format", "--dbfilename=dump.RDB"}, "dump-{timestamp}",
			[]string{`dbfilename "dump.RDB" is the same for several snapshots, and Dragonfly overwrites them: backups are called dump-{timestamp}`}},
		{[]string{"--snapshot_cron=0 0 * * *", "--dbfilename=my dump"}, "",
			[]string{`dbfilename "my dump" can't name a backup: they have none; names consist of letters, digits, "-", "_" and ".", and begin with a letter`}},
		{[]string{"--save_schedule=*:15"}, "dump-{timestamp}",
			[]string{"save_schedule is deprecated: since 2024 a Dragonfly that has it doesn't start; snapshot_cron has taken its place"}},
		{[]string{"--snapshot_cron=0 0 13 * 5"}, "dump-{timestamp}",
			[]string{"snapshot_cron restricts both the day of the month and that of the week: Dragonfly waits for a day that is both, and the policy, like crontab(5), takes each that is one of them"}},
		{[]string{"--snapshot_cron=0 0 */2 * 5"}, "dump-{timestamp}", nil},
		{[]string{"--dir=/data"}, "", []string{"neither snapshot_cron nor save_schedule is set: Dragonfly saves nothing by itself but when it shuts down"}},
		{[]string{"--snapshot_cron", "", "x"}, "",
			[]string{"argument 3 is no flag", "neither snapshot_cron nor save_schedule is set: Dragonfly saves nothing by itself but when it shuts down"}},
	} {
		f, err := dragonflyflags.Parse(test.args, nil)
		if err != nil {
			t.Errorf("%q: %v", test.args, err)
			continue
		}
		if !slices.Equal(f.Warnings, test.warnings) {
			t.Errorf("%q: warnings\n%q, want\n%q", test.args, f.Warnings, test.warnings)
		}
		policies, err := f.Policies("d", "Asia/Seoul")
		if err != nil {
			t.Errorf("%q: %v", test.args, err)
		}
		if n := min(1, len(f.SnapshotCron+f.SaveSchedule)); len(policies) != n {
			t.Errorf("%q: %+v", test.args, policies)
		} else if n == 1 && policies[0].BackupName != test.name {
			t.Errorf("%q: backups are called %q, want %q", test.args, policies[0].BackupName, test.name)
		}
	}
}

// TestZones: cron goes by the server's clock, save_schedule by UTC.
func TestZones(t *testing.T) {
	f, err := dragonflyflags.Parse([]string{"--snapshot_cron=0 12 * * *", "--save_schedule=12:00", "--bind=::", "--port=7000"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	policies, err := f.Policies("d", "Asia/Seoul")
	if err != nil || len(policies) != 2 || f.Address() != "[::1]:7000" {
		t.Fatal(policies, err, f.Address())
	}
	for i, want := range []string{"2026-11-27T03:00:00Z", "2026-11-27T12:00:00Z"} {
		trigger, err := policies[i].Trigger()
		if err != nil {
			t.Fatal(err)
		}
		if got := trigger.Next(time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)).Format(time.RFC3339); got != want {
			t.Errorf("%s is due %s, want %s", policies[i].ID, got, want)
		}
	}
	if _, err := f.Policies("d", "Seoul"); err == nil || !strings.Contains(err.Error(), `timeZone "Seoul"`) {
		t.Error(err)
	}
	if _, err := f.Policies(strings.Repeat("d", 90), ""); err == nil || !strings.Contains(err.Error(), "it has 104 characters, the limit is 100") {
		t.Error(err)
	}
}

func TestParseErrors(t *testing.T) {
	files := map[string]string{
		"quotes":   "--snapshot_cron=\"0 2 * * *\"\n",
		"password": "--port=1\nrequirepass " + canary,
		"space":    "--requirepass " + canary,
		"alone":    "--dir\n--port=6379",
		"end":      "--\n",
		"crlf":     "--dir=/data\r\n--port=6379\r\n",
		"again":    "--flagfile=again",
		"none":     "",
		"large":    strings.Repeat("#\n", 1<<20),
		"two":      "# one\n\n--tls=maybe",
	}
	read := func(name string) ([]byte, error) {
		if text, ok := files[name]; ok {
			return []byte(text), nil
		}
		return nil, errors.New("no such file")
	}
	for _, test := range []struct {
		arg, want string
	}{
		{"--flagfile=quotes", `argument 1: flag file quotes, line 1: flag snapshot_cron: could it be that quotes were put in the flag file? There is no shell that would take them off`},
		{"--flagfile=password", `argument 1: flag file password, line 2: it is neither a flag, which begins with "--", nor a comment, which begins with "#"`},
		{"--flagfile=space", `argument 1: flag file space, line 1: flag requirepass: there is no "=" between it and its value, as Dragonfly wants it in a file`},
		{"--flagfile=alone", `argument 1: flag file alone, line 1: flag dir has no value: in a file it is on the same line, after a "="`},
		{"--flagfile=end", `argument 1: flag file end, line 1: it is neither a flag, which begins with "--", nor a comment, which begins with "#"`},
		{"--flagfile=crlf", `argument 1: flag file crlf, line 1: flag dir: "/data\r" begins or ends with white space, which Dragonfly takes for a part of it`},
		{"--flagfile=again", "flag files are in each other more than 8 times"},
		{"--flagfile=large", `argument 1: flag file "large": it has 2097152 bytes, the limit is 1048576`},
		{"--flagfile=two", `argument 1: flag file two, line 3: flag tls: "maybe" is neither true nor false`},
		{"--flagfile=none" + strings.Repeat(",none", 100), `argument 1: there are more than 100 flag files`},
		{"--flagfile=gone", `argument 1: flag file "gone": no such file`},
		{"--flagfile", `argument 1: flag flagfile has no value`},
		{"--dir", `argument 1: flag dir has no value`},
		{"--nodir", `argument 1: flag nodir: only flags that are true or false have a "no" in front`},
		{"--noport", `argument 1: flag noport: only flags that are true or false have a "no" in front`},
		{"--notls=true", `argument 1: flag notls can't have a value: it says "no" already`},
		{"--tls=", `argument 1: flag tls: "" is neither true nor false`},
		{"--port=0", `argument 1: flag port: "0" is no port that a server can be reached at: these are 1 to 65535`},
		{"--port=65536", `argument 1: flag port: "65536" is no port that a server can be reached at: these are 1 to 65535`},
		{"--requirepass=" + canary + strings.Repeat("x", 4096), `argument 1: flag requirepass: it has 4107 bytes, the limit is 4096`},
		{"--dbfilename=a/b", `flag dbfilename "a/b": it has a directory in it: that goes into dir`},
		{"--dbfilename=dump.rdb", `flag dbfilename "dump.rdb": with df_snapshot_format it may have no extension, and .rdb is one`},
		{"--snapshot_cron=0 2 * *", `flag snapshot_cron: when.cron "0 2 * *": it has 4 fields, it must have 5: minute, hour, day of the month, month, day of the week`},
		{"--save_schedule=25:00", `flag save_schedule: when.saveSchedule "25:00": no time from 00:00 to 23:59 is like that, so it would never be due`},
	} {
		_, err := dragonflyflags.Parse([]string{test.arg}, read)
		switch {
		case err == nil:
			t.Errorf("%.100s is taken", test.arg)
		case !strings.HasPrefix(err.Error(), "dragonflyflags: ") || !strings.HasSuffix(err.Error(), test.want):
			t.Errorf("%.100s: %v\nwant %s", test.arg, err, test.want)
		case strings.Contains(err.Error(), canary):
			t.Errorf("the password is in %v", err)
		}
	}
	if _, err := dragonflyflags.Parse([]string{"--df_snapshot_format=no", "--dbfilename=dump.bak"}, nil); err == nil || !strings.HasSuffix(err.Error(), "its extension can only be .rdb, not .bak") {
		t.Error(err)
	}
}

// FuzzParse gives it files of any content.
func FuzzParse(f *testing.F) {
	f.Add("--dir=/x\n--snapshot_cron=* * * * *\n--flagfile=other\n-\n--no\n--=\n--nono")
	f.Add("--save_schedule=?*:**\n--dbfilename={Y}{m}{d}.\n--nodf_snapshot_format")
	f.Add("- \n-- =\n-\t")
	f.Fuzz(func(t *testing.T, text string) {
		flags, err := dragonflyflags.Parse([]string{"--flagfile=f"}, func(string) ([]byte, error) { return []byte(text), nil })
		if err != nil {
			return
		}
		policies, err := flags.Policies("d", "")
		if err != nil {
			t.Fatalf("what was taken makes no policy: %v", err)
		}
		for _, p := range policies {
			if err := p.Validate(schedule.Limits{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
