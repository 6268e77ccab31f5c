package command

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// Facts are what was found out about the target.
type facts struct {
	addr    string
	info    resp.Info // of the node that was asked first
	engine  string    // "redis", "valkey", "dragonfly"
	version string
	primary string // host:port that it replicates from; empty if it is a primary itself, or a cluster

	cluster   bool
	ranges    []srv.SlotRange
	nodes     []nodeFacts // the primaries
	migrating []int       // slots
	failing   []string    // primaries

	keys      srv.Counts // of all primaries
	own       int64      // keys in database 0 that are a restore's own: the mark, temporary names
	libraries int64
	modules   []string // names of those that are loaded
	mark      *banner  // of a restore that is not complete
	noMark    error    // why the mark can't be read

	from       []rdb.Dialect
	types      []rdb.Type
	dialect    rdb.Dialect
	byCommands []rdb.Type
	took       map[encoding]bool
	presumed   string // why what it takes was not tried but taken from its version

	names     map[string]bool // of all commands, in small letters; nil: that isn't known, or doesn't matter
	can       powers
	caps      capabilities
	denied    []denial
	maxBulk   int64 // proto-max-bulk-len
	databases int   // 0: not known
	noDB      error // why the highest database can't be selected
	highest   int
	latency   time.Duration
	expiring  bool
}

// uncovered is how many slots of a cluster nobody serves.
func (t *facts) uncovered() int {
	n := srv.Slots
	for _, r := range t.ranges {
		n -= r.Last - r.First + 1
	}
	return n
}

// nodeFacts are those of one primary.
type nodeFacts struct {
	addr string
	info resp.Info
	keys srv.Counts
}

// powers are what the target's RESTORE takes.
type powers struct {
	restore  bool // at all
	replace  bool
	absTTL   bool // an absolute expiry
	idleTime bool
	freq     bool
}

// A denial is a command that the user may not use, or that the target doesn't have.
type denial struct {
	command string // as people know it
	rule    string // of ACL SETUSER
	why     string
}

// An examiner asks the target.
type examiner struct {
	*Loader
	need    restore.Requirements
	conns   map[string]*srv.Conn
	reached bool
	t       *facts
	tag     string // of a slot that the node has on which things are tried
	n       int
	random  string
}

func (x *examiner) conn(addr string) *srv.Conn {
	if c := x.conns[addr]; c != nil {
		return c
	}
	c := srv.New(x.options(addr), x.cfg.Stall)
	x.conns[addr] = c
	return c
}

func (x *examiner) close() {
	for _, c := range x.conns {
		c.Close()
	}
}

// look asks the target. The error is that of asking.
func (x *examiner) look(ctx context.Context) (*facts, error) {
	a := x.conn(x.target())
	info, text, err := a.Info(ctx)
	x.reached = a.Reached()
	if err != nil {
		return nil, err
	}
	t := &facts{addr: x.target(), info: info, modules: srv.Modules(text), keys: srv.Counts{}, took: make(map[encoding]bool)}
	x.t = t
	t.engine, t.version = srv.Product(info)
	t.cluster = srv.Mode(info) == "cluster"
	if dbs := x.need.Databases(); len(dbs) > 0 {
		t.highest = dbs[len(dbs)-1]
	}
	t.expiring = x.need.Backup.Expires > 0
	if t.engine == "" || srv.Mode(info) == "sentinel" || info.Int("loading") == 1 {
		return t, nil
	}
	if !t.cluster {
		t.nodes = []nodeFacts{{t.addr, info, srv.Keyspace(info)}}
		if info["role"] == "slave" {
			t.primary = net.JoinHostPort(info["master_host"], info["master_port"])
			t.keys = srv.Keyspace(info)
			return t, nil
		}
	} else if err := x.lookAtCluster(ctx, a); err != nil {
		return nil, err
	}
	if len(t.nodes) == 0 || t.cluster && (len(t.failing) > 0 || t.uncovered() > 0) {
		return t, nil // the verdict is clear
	}
	for _, n := range t.nodes {
		for db, keys := range n.keys {
			t.keys[db] += keys
		}
		t.libraries = max(t.libraries, n.info.Int("number_of_libraries"))
	}
	random := make([]byte, 6)
	rand.Read(random) // never fails
	x.random = hex.EncodeToString(random)
	return t, errors.Join(x.ask(ctx))
}

// ask tries what the target takes.
func (x *examiner) ask(ctx context.Context) error {
	for _, f := range []func(context.Context) error{x.settings, x.marks, x.commands, x.rights, x.restores, x.latency} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// lookAtCluster finds the primaries and asks each.
func (x *examiner) lookAtCluster(ctx context.Context, a *srv.Conn) error {
	t := x.t
	var err error
	if t.ranges, err = a.SlotRanges(ctx); err != nil {
		return err
	}
	nodes, err := a.Do(ctx, "CLUSTER", "NODES")
	if err != nil && !srv.Refused(err) {
		return err
	}
	t.failing = failing(nodes.Text)
	for _, r := range t.ranges {
		if slices.ContainsFunc(t.nodes, func(n nodeFacts) bool { return n.addr == r.Addr }) {
			continue
		}
		c := x.conn(r.Addr)
		info, _, err := c.Info(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			t.failing = append(t.failing, fmt.Sprintf("%s (%v)", r.Addr, err))
			continue
		}
		t.nodes = append(t.nodes, nodeFacts{r.Addr, info, srv.Keyspace(info)})
		if own, err := c.Do(ctx, "CLUSTER", "NODES"); err == nil {
			t.migrating = append(t.migrating, migrating(own.Text)...)
		}
	}
	slices.Sort(t.migrating)
	t.migrating = slices.Compact(t.migrating)
	return nil
}

// settings asks for what limits a restore.
func (x *examiner) settings(ctx context.Context) error {
	t, a := x.t, x.first()
	for name, n := range map[string]*int64{"proto-max-bulk-len": &t.maxBulk} {
		value, ok, err := a.Setting(ctx, name)
		if err != nil && !srv.Refused(err) {
			return err
		}
		if ok {
			*n, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	if t.maxBulk <= 0 {
		t.maxBulk = 512 << 20 // the default of all servers
	}
	t.caps.maxArg = t.maxBulk
	name := "databases"
	if t.cluster {
		t.databases, name = 1, "cluster-databases"
	}
	value, ok, err := a.Setting(ctx, name)
	if err != nil && !srv.Refused(err) {
		return err
	}
	if n, err := strconv.Atoi(value); ok && err == nil {
		t.databases = n
	}
	if t.highest > 0 {
		// It changes only our own connection.
		if _, err := a.Do(ctx, "SELECT", itoa(t.highest)); srv.Refused(err) {
			t.noDB = err
		} else if err != nil {
			return err
		}
		if _, err := a.Do(ctx, "SELECT", "0"); err != nil && !srv.Refused(err) {
			return err
		}
	}
	return nil
}

// first is the node on which things are tried, with a slot of its own in a cluster.
func (x *examiner) first() *srv.Conn {
	n := x.t.nodes[0]
	if x.t.cluster && x.tag == "" {
		for _, r := range x.t.ranges {
			if r.Addr == n.addr {
				slot := r.First
				for slot < r.Last && slices.Contains(x.t.migrating, slot) {
					slot++
				}
				x.tag = "{" + string(new(tagger).appendDigits(nil, slot)) + "}"
				break
			}
		}
	}
	return x.conn(n.addr)
}

// probe returns a new name to try something with.
func (x *examiner) probe() string {
	x.n++
	return x.probeName(x.n)
}

func (x *examiner) probeName(n int) string {
	return fmt.Sprintf("%s%s:%d%s", probePrefix, x.random, n, x.tag)
}

// clean removes what was being tried when looking ended before its end. What can't be removed vanishes within seconds.
func (x *examiner) clean(ctx context.Context) {
	if x.n == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAnswers)
	defer cancel()
	args := []string{"DEL"}
	for n := range x.n {
		args = append(args, x.probeName(n+1))
	}
	x.first().Do(ctx, args...)
}

// marks looks for what an earlier restore has left.
func (x *examiner) marks(ctx context.Context) error {
	t := x.t
	at := t.nodes[0].addr
	for _, r := range t.ranges {
		if slot := srv.Slot([]byte(markKey)); r.First <= slot && slot <= r.Last {
			at = r.Addr
		}
	}
	m, err := readMark(ctx, x.conn(at))
	if err != nil && !srv.Refused(err) {
		return err
	}
	t.mark, t.noMark = m, err
	if m != nil {
		t.own++
	}
	// What is left of a restore is little, so that it matters only where next to nothing else is. With the mark of the same backup
	// nobody counts.
	if total := t.keys.Total(); total == 0 || total > 10000 {
		return nil
	}
	for _, n := range t.nodes {
		for db := range n.keys {
			names, err := scan(ctx, x.conn(n.addr), db, t.cluster, reservedPrefix+"*")
			if err != nil && !srv.Refused(err) {
				return err
			}
			for _, name := range names {
				if strings.HasPrefix(name, tempPrefix) || strings.HasPrefix(name, probePrefix) {
					t.own++
				}
			}
		}
	}
	return nil
}

// scan returns the keys of a database of a node that match a pattern.
func scan(ctx context.Context, a *srv.Conn, db int, cluster bool, pattern string) ([]string, error) {
	if !cluster || db != 0 {
		if _, err := a.Do(ctx, "SELECT", itoa(db)); err != nil {
			return nil, err
		}
		defer a.Do(ctx, "SELECT", "0")
	}
	var out []string
	for cursor := "0"; ; {
		reply, err := a.Do(ctx, "SCAN", cursor, "MATCH", pattern, "COUNT", "5000")
		if err != nil {
			return nil, err
		}
		if len(reply.Elems) != 2 {
			return nil, errors.New("SCAN: the answer has no cursor")
		}
		for _, e := range reply.Elems[1].Elems {
			out = append(out, e.Text)
		}
		if cursor = reply.Elems[0].Text; cursor == "0" {
			return out, nil
		}
	}
}

// commands finds out which commands the target has that make values.
func (x *examiner) commands(ctx context.Context) error {
	t, a := x.t, x.first()
	c := &t.caps
	has := map[string]*bool{
		"HSET": &c.hset, "HPEXPIREAT": &c.hpexpireat, "HEXPIRE": &c.hexpire, "SADDEX": &c.saddex, "JSON.SET": &c.json, "XADD": &c.stream,
		"XCFGSET": &c.xcfgset, "XIDMPRECORD": &c.xidmprecord, "PEXPIRETIME": &c.pexpiretime,
	}
	for name, ok := range has {
		// A command without arguments changes nothing, and the complaint tells whether it is known. COMMAND INFO isn't always allowed.
		_, err := a.Do(ctx, name)
		if err != nil && !srv.Refused(err) {
			return err
		}
		*ok = err == nil || !strings.Contains(strings.ToLower(err.Error()), "unknown command")
	}
	if reply, err := a.Do(ctx, "COMMAND", "INFO", "XSETID"); err == nil && len(reply.Elems) == 1 && len(reply.Elems[0].Elems) > 1 {
		c.xsetidFull = reply.Elems[0].Elems[1].Int < 0 // it takes options since Redis 7.0
	} else if err != nil && !srv.Refused(err) {
		return err
	}
	help, err := a.Do(ctx, "XGROUP", "HELP")
	if err != nil && !srv.Refused(err) {
		return err
	}
	for _, line := range help.Elems {
		c.createConsumer = c.createConsumer || strings.Contains(line.Text, "CREATECONSUMER")
		c.entriesRead = c.entriesRead || strings.Contains(line.Text, "ENTRIESREAD")
	}
	return x.list(ctx)
}

// list asks for the names of all commands, if the backup may have any to execute.
func (x *examiner) list(ctx context.Context) error {
	if !mayReplay(x.need.Backup) {
		return nil
	}
	reply, err := x.first().Do(ctx, "COMMAND", "LIST")
	if srv.Refused(err) {
		reply, err = x.first().Do(ctx, "COMMAND") // before Redis 7.0, and Dragonfly
	}
	if err != nil && !srv.Refused(err) {
		return err
	}
	for _, e := range reply.Elems {
		name := e.Text
		if len(e.Elems) > 0 {
			name = e.Elems[0].Text
		}
		if x.t.names == nil {
			x.t.names = make(map[string]bool)
		}
		x.t.names[strings.ToLower(name)] = true
	}
	return nil
}

// mayReplay tells whether a backup has commands, or may have, that are to be executed on top of its keys.
func mayReplay(b *catalog.Backup) bool {
	return b.Commands > 0 || once(b) && b.Source.Engine == "dragonfly"
}

// putsOff tells whether expiries are put off while the commands of a backup are executed: see park.go. Where keys are merged none is.
func (t *facts) putsOff(b *catalog.Backup, conflict restore.Conflict) bool {
	return mayReplay(b) && !conflict.Merges() && t.caps.pexpiretime && t.engine != "dragonfly"
}

// latency measures how long the target takes to answer.
func (x *examiner) latency(ctx context.Context) error {
	a := x.first()
	var times []time.Duration
	for range 5 {
		begin := clock.System()
		if _, err := a.Do(ctx, "PING"); err != nil && !srv.Refused(err) {
			return err
		}
		times = append(times, clock.Since(begin))
	}
	slices.Sort(times)
	x.t.latency = times[len(times)/2]
	return nil
}

func itoa[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }
