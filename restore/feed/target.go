package feed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/internal/resp"
)

// The settings of the target that matter. Servers without one of them don't tell it.
const (
	setPassword  = "masterauth"         // what it sends to its primary
	setUser      = "masteruser"         //
	setDiskless  = "repl-diskless-load" // since Redis 6.0
	setReadOnly  = "replica-read-only"  //
	setTLS       = "tls-replication"    // absent if built without TLS
	setDatabases = "databases"
	setSave      = "save"
	setPort      = "replica-announce-port"
)

var settingsOfInterest = []string{setPassword, setUser, setDiskless, setReadOnly, setTLS, setDatabases, setSave, setPort}

// counts are the keys of each database that has any.
type counts map[int]int64

func (c counts) total() (n int64) {
	for _, keys := range c {
		n += keys
	}
	return n
}

// A target is what was found out about the target, without changing anything.
type target struct {
	addr    string
	info    resp.Info
	engine  string // "redis", "valkey", "dragonfly"
	version string
	keys    counts
	modules []string // names of those that are loaded
	primary string   // host:port that it replicates from; empty if it is a primary itself

	settings  map[string]string // of settingsOfInterest, those that it told
	noGet     error             // why it told none
	noSet     error             // why settings can't be changed; nil if they can
	noFollow  error             // why REPLICAOF can't be used; nil if it can
	noDB      error             // why the backup's highest database can't be selected; nil if it can
	noDBLevel bool              // noDB is the server's word that there is no such database
	sentinels int               // connections of Sentinels
}

// libraries is the number of function libraries.
func (t *target) libraries() int64 { return t.info.Int("number_of_libraries") }

// hasData tells whether a full synchronisation would take something away.
func (t *target) hasData() bool { return t.keys.total() > 0 || t.libraries() > 0 }

// replicas is the number of the target's own replicas.
func (t *target) replicas() int64 { return t.info.Int("connected_slaves") }

// look asks the target. highest is the highest database of the backup. The error is that of asking.
func look(ctx context.Context, a *admin, highest int) (*target, error) {
	info, text, err := a.info(ctx)
	if err != nil {
		return nil, err
	}
	t := &target{info: info, keys: keyspace(info), modules: modules(text), settings: map[string]string{}}
	t.engine, t.version = product(info)
	if info["role"] == "slave" {
		t.primary = net.JoinHostPort(info["master_host"], info["master_port"])
	}
	if t.engine == "" || t.engine == "dragonfly" || t.mode() != "standalone" {
		return t, nil // the verdict is clear, and the questions below are for other servers
	}
	for _, name := range settingsOfInterest {
		value, ok, err := a.setting(ctx, name)
		if refused(err) {
			t.noGet = err
			break
		}
		if err != nil {
			return nil, err
		}
		if ok {
			t.settings[name] = value
		}
	}
	// Two commands that are wrong in their arguments, which a server looks at only after the user's rights: an
	// error that isn't about them tells that we may use the command. Nothing is changed by either.
	if _, err = a.do(ctx, "REPLICAOF", "nowhere.invalid", "not-a-port"); !refused(err) {
		return nil, orUnexpected(err)
	}
	if !wrongPort(err) {
		t.noFollow = err
	}
	if _, err = a.do(ctx, "CONFIG", "SET", "amber-knows-no-such-setting", "x"); !refused(err) {
		return nil, orUnexpected(err)
	}
	if denied(err) || notAllowed(err) {
		t.noSet = err
	}
	// Selecting a database changes only our own connection.
	_, err = a.do(ctx, "SELECT", strconv.Itoa(highest))
	if err != nil && !refused(err) {
		return nil, err
	}
	t.noDB = err
	t.noDBLevel = err != nil && strings.Contains(err.Error(), "out of range")
	reply, err := a.do(ctx, "CLIENT", "LIST", "TYPE", "pubsub")
	if err != nil && !refused(err) {
		return nil, err
	}
	for line := range strings.Lines(reply.Text) {
		if strings.Contains(line, " name=sentinel-") {
			t.sentinels++
		}
	}
	return t, nil
}

// mode is "standalone", "cluster" or "sentinel".
func (t *target) mode() string {
	for _, field := range []string{"server_mode", "redis_mode"} {
		if mode := t.info[field]; mode != "" && mode != "standalone" {
			return mode
		}
	}
	if t.info.Int("cluster_enabled") == 1 {
		return "cluster"
	}
	return "standalone"
}

func product(info resp.Info) (engine, version string) {
	for _, engine := range []string{"dragonfly", "valkey", "redis"} { // the first two tell a redis_version as well
		if version := strings.TrimPrefix(info[engine+"_version"], "df-v"); version != "" {
			return engine, version
		}
	}
	return "", ""
}

// keyspace reads the counts from INFO.
func keyspace(info resp.Info) counts {
	c := counts{}
	for field := range info {
		digits, ok := strings.CutPrefix(field, "db")
		if !ok {
			continue
		}
		db, err := strconv.Atoi(digits)
		if err != nil {
			continue
		}
		for name, value := range info.Attributes(field) {
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && name == "keys" && n > 0 {
				c[db] = n
			}
		}
	}
	return c
}

// modules reads the names from INFO's text, where each has a line of the same field.
func modules(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		attrs, ok := strings.CutPrefix(line, "module:name=")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSpace(attrs), ",")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// refused tells whether err is the target's answer, and not that there was none.
func refused(err error) bool {
	var e resp.Error
	return errors.As(err, &e)
}

// orUnexpected is for a command that can't succeed.
func orUnexpected(err error) error {
	if err == nil {
		err = errors.New("the target took a command whose arguments are wrong; it is not a server that is known here")
	}
	return err
}

func wrongPort(err error) bool {
	text := strings.ToLower(err.Error())
	return !denied(err) && (strings.Contains(text, "invalid master port") || strings.Contains(text, "invalid primary port") ||
		strings.Contains(text, "not an integer"))
}

func notAllowed(err error) bool { return strings.Contains(strings.ToLower(err.Error()), "not allowed") }

// differ describes how the keys in a target differ from those of a backup, or returns "".
func differ(want, got counts) string {
	dbs := map[int]bool{}
	for db := range want {
		dbs[db] = true
	}
	for db := range got {
		dbs[db] = true
	}
	var all []int
	for db := range dbs {
		if want[db] != got[db] {
			all = append(all, db)
		}
	}
	slices.Sort(all)
	var text []string
	for _, db := range all {
		text = append(text, fmt.Sprintf("database %d has %d keys instead of %d", db, got[db], want[db]))
		if len(text) == 3 && len(all) > 3 {
			text = append(text, fmt.Sprintf("and %d more", len(all)-3))
			break
		}
	}
	return strings.Join(text, ", ")
}
