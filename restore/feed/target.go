package feed

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
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

// settingsOf returns the settings of an engine that matter, and its own names of them.
func settingsOf(engine string) [][2]string {
	if engine == "dragonfly" {
		return [][2]string{{setPassword, setPassword}, {setUser, setUser}, {setDatabases, setDatabases}, {setPort, "announce_port"}}
	}
	var all [][2]string
	for _, name := range []string{setPassword, setUser, setDiskless, setReadOnly, setTLS, setDatabases, setSave, setPort} {
		all = append(all, [2]string{name, name})
	}
	return all
}

// Facts are what was found out about the target, without changing anything.
type facts struct {
	addr    string
	info    resp.Info
	engine  string // "redis", "valkey", "dragonfly"
	version string
	keys    target.Counts
	modules []string // names of those that are loaded
	primary string   // host:port that it replicates from; empty if it is a primary itself

	settings  map[string]string // of settingsOf, those that it told
	noGet     error             // why it told none
	noSet     error             // why settings can't be changed; nil if they can
	noFollow  error             // why REPLICAOF can't be used; nil if it can
	noDB      error             // why the backup's highest database can't be selected; nil if it can
	noDBLevel bool              // noDB is the server's word that there is no such database
	sentinels int               // connections of Sentinels
	latency   time.Duration     // median of a few commands
}

// libraries is the number of function libraries.
func (t *facts) libraries() int64 { return t.info.Int("number_of_libraries") }

// hasData tells whether a full synchronisation would take something away.
func (t *facts) hasData() bool { return t.keys.Total() > 0 || t.libraries() > 0 }

// replicas is the number of the target's own replicas.
func (t *facts) replicas() int64 { return t.info.Int("connected_slaves") }

// look asks the target. highest is the highest database of the backup. The error is that of asking.
func look(ctx context.Context, a *target.Conn, highest int) (*facts, error) {
	info, text, err := a.Info(ctx)
	if err != nil {
		return nil, err
	}
	t := &facts{info: info, keys: target.Keyspace(info), modules: target.Modules(text), settings: map[string]string{}}
	t.engine, t.version = target.Product(info)
	if role := info["role"]; role == "slave" || role == "replica" { // Dragonfly has a setting for which of the two it says
		t.primary = net.JoinHostPort(info["master_host"], info["master_port"])
	}
	if t.engine == "" || target.Mode(t.info) != "standalone" {
		return t, nil // the verdict is clear, and the questions below are for other servers
	}
	for _, names := range settingsOf(t.engine) {
		value, ok, err := a.Setting(ctx, names[1])
		if target.Refused(err) {
			t.noGet = err
			break
		}
		if err != nil {
			return nil, err
		}
		if ok {
			t.settings[names[0]] = value
		}
	}
	// Two commands that are wrong in their arguments, which a server looks at only after the user's rights: an
	// error that isn't about them tells that we may use the command. Nothing is changed by either.
	if _, err = a.Do(ctx, "REPLICAOF", "nowhere.invalid", "not-a-port"); !target.Refused(err) {
		return nil, orUnexpected(err)
	}
	if !wrongPort(err) {
		t.noFollow = err
	}
	if _, err = a.Do(ctx, "CONFIG", "SET", "amber-knows-no-such-setting", "x"); !target.Refused(err) {
		return nil, orUnexpected(err)
	}
	if target.Denied(err) || notAllowed(err) {
		t.noSet = err
	}
	// Selecting a database changes only our own connection.
	_, err = a.Do(ctx, "SELECT", strconv.Itoa(highest))
	if err != nil && !target.Refused(err) {
		return nil, err
	}
	t.noDB = err
	t.noDBLevel = err != nil && strings.Contains(err.Error(), "out of range")
	reply, err := a.Do(ctx, "CLIENT", "LIST", "TYPE", "pubsub")
	if err != nil && !target.Refused(err) {
		return nil, err
	}
	for line := range strings.Lines(reply.Text) {
		if strings.Contains(line, " name=sentinel-") {
			t.sentinels++
		}
	}
	t.latency, err = latency(ctx, a)
	return t, err
}

// latency returns the median time of a few commands.
func latency(ctx context.Context, a *target.Conn) (time.Duration, error) {
	const pings = 5
	var took []time.Duration
	for range pings {
		start := clock.System()
		if _, err := a.Do(ctx, "PING"); err != nil && !target.Refused(err) { // a refusal takes as long
			return 0, err
		}
		took = append(took, clock.Since(start))
	}
	slices.Sort(took)
	return took[pings/2], nil
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
	return !target.Denied(err) && (strings.Contains(text, "invalid master port") || strings.Contains(text, "invalid primary port") ||
		strings.Contains(text, "not an integer") || strings.Contains(text, "port is out of range")) // the last is Dragonfly's
}

func notAllowed(err error) bool { return strings.Contains(strings.ToLower(err.Error()), "not allowed") }
