// Package dragonflyflags reads the flags of a Dragonfly server, as far as they are about its backups and how it is reached, and makes policies
// of them.
//
// [Parse] takes a command line, or a flag file by --flagfile, as the server does. The environment, which Dragonfly reads too (DFLY_dir), it
// leaves alone.
package dragonflyflags

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/amberkv/amber/schedule"
)

// DefaultDBFilename is what dbfilename is if it isn't given.
const DefaultDBFilename = "dump-{timestamp}"

// Flags are those of a Dragonfly server that have to do with backups, with the server's defaults where none were given.
type Flags struct {
	// Dir is where the server keeps its snapshots: a path, s3://, gs://, or https:// of Azure; empty: its working directory.
	Dir string `json:"dir"`
	// DBFilename is the name of these snapshots. If it is empty the server saves nothing when it shuts down, and loads nothing when it starts.
	DBFilename   string `json:"dbfilename"`
	DFS          bool   `json:"df_snapshot_format"` // they are DFS sets; else RDB files
	SnapshotCron string `json:"snapshot_cron,omitempty"`
	SaveSchedule string `json:"save_schedule,omitempty"`
	// S3 are dir and those of s3_endpoint, s3_use_https, s3_sign_payload and s3_ec2_metadata that were given, as s3store.FromDragonfly takes them;
	// nil if Dir isn't s3://.
	S3 map[string]string `json:"s3,omitempty"`

	Bind          string `json:"bind,omitempty"` // empty: all addresses
	Port          int    `json:"port"`
	Password      Secret `json:"requirepass,omitempty"`
	TLS           bool   `json:"tls"`
	TLSCACertFile string `json:"tls_ca_cert_file,omitempty"`

	// Unknown are the names of all other flags, in their order, each once. Their values aren't kept.
	Unknown []string `json:"unknown,omitempty"`
	// Warnings are sentences, without full stops, about what isn't here as it is in Dragonfly.
	Warnings []string `json:"warnings,omitempty"`
}

// A Secret is a password. Whatever prints or encodes it shows only that there is one.
type Secret string

// Format prints "(secret)", or nothing if there is none.
func (s Secret) Format(f fmt.State, _ rune) {
	if s != "" {
		fmt.Fprint(f, "(secret)")
	}
}

// MarshalText returns what Format prints.
func (s Secret) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }

// OnShutdown says whether the server saves a snapshot when it shuts down, and loads one when it starts.
func (f *Flags) OnShutdown() bool { return f.DBFilename != "" }

// Address is where the server is reached from its own machine, as host:port.
func (f *Flags) Address() string {
	host := f.Bind
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, strconv.Itoa(f.Port))
}

// Policies returns a policy that does what snapshot_cron says, and one that does what save_schedule says; those that are given. Their IDs are that
// of the data store with "-snapshot_cron" or "-save_schedule" after it. The one goes by the local time of the server, which is timeZone (empty: UTC); the
// other always by UTC. They begin at once when they are due, and keep all that they make, as Dragonfly does: Window, Retries and Retention are
// the host's to set.
//
// Their backups have the name of DBFilename. Where that would give several the same name, as Dragonfly would write over a file again and again, a
// {timestamp} is put to its end. One that can't name a backup is left out.
func (f *Flags) Policies(dataStore, timeZone string) ([]schedule.Policy, error) {
	var out []schedule.Policy
	if f.SnapshotCron != "" {
		out = append(out, schedule.Policy{ID: dataStore + "-snapshot_cron", When: schedule.When{Cron: f.SnapshotCron}, TimeZone: timeZone})
	}
	if f.SaveSchedule != "" {
		out = append(out, schedule.Policy{ID: dataStore + "-save_schedule", When: schedule.When{SaveSchedule: f.SaveSchedule}})
	}
	for i := range out {
		p := &out[i]
		p.DataStore, p.Enabled = dataStore, true
		if err := p.Validate(schedule.Limits{}); err != nil {
			return nil, fmt.Errorf("dragonflyflags: %w", err)
		}
		for _, p.BackupName = range f.templates() {
			if p.Validate(schedule.Limits{}) == nil {
				break
			}
		}
	}
	return out, nil
}

// templates are names for backups, the best first: that of the flag, with its times of day if they are needed, and none.
func (f *Flags) templates() []string {
	name := f.DBFilename
	if ext := len(name) - len(".rdb"); ext > 0 && strings.EqualFold(name[ext:], ".rdb") {
		name = name[:ext]
	}
	if name == "" {
		return []string{""}
	}
	return []string{name, name + "-{timestamp}", ""}
}

// warn looks at all flags, and says what of them isn't here as it is in Dragonfly.
func (f *Flags) warn() error {
	warn := func(format string, args ...any) { f.Warnings = append(f.Warnings, fmt.Sprintf(format, args...)) }
	for name, when := range map[string]schedule.When{"snapshot_cron": {Cron: f.SnapshotCron}, "save_schedule": {SaveSchedule: f.SaveSchedule}} {
		if when.Cron+when.SaveSchedule == "" {
			continue
		}
		if _, err := (&schedule.Policy{When: when}).Trigger(); err != nil {
			return fmt.Errorf("dragonflyflags: flag %s: %w", name, err)
		}
	}
	policies, err := f.Policies("d", "")
	if err != nil {
		return err
	}
	if len(policies) == 0 {
		warn("neither snapshot_cron nor save_schedule is set: Dragonfly saves nothing by itself but when it shuts down")
	}
	if f.SaveSchedule != "" {
		warn("save_schedule is deprecated: since 2024 a Dragonfly that has it doesn't start; snapshot_cron has taken its place")
	}
	if fields := strings.Fields(f.SnapshotCron); len(fields) == 5 && !strings.ContainsAny(fields[2][:1]+fields[4][:1], "*?") {
		warn("snapshot_cron restricts both the day of the month and that of the week: Dragonfly waits for a day that is both, and the policy, like crontab(5), takes each that is one of them")
	}
	if len(policies) > 0 && f.DBFilename != "" {
		switch template := policies[0].BackupName; {
		case template == "":
			warn("dbfilename %q can't name a backup: they have none; names consist of letters, digits, \"-\", \"_\" and \".\", and begin with a letter", f.DBFilename)
		case template != f.templates()[0]:
			warn("dbfilename %q is the same for several snapshots, and Dragonfly overwrites them: backups are called %s", f.DBFilename, template)
		}
	}
	return nil
}
