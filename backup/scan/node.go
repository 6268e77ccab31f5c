package scan

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
)

// maxDatabases bounds how many databases are looked for on a server that doesn't tell.
const maxDatabases = 1 << 14

// footerLen is what a DUMP payload ends with: a version and a checksum.
const footerLen = 2 + crc64.Size

// probeKey is asked for to find out what the user may do. It isn't thought to exist.
const probeKey = "amber:probe"

// advice is what errors say.
var advice = link.Advice{
	Rights: "+scan +dump +mget +pexpiretime +pttl +time +multi +exec +select +info +function|dump +readonly ~*",
	Unsupported: "the server doesn't have, or doesn't allow, what a snapshot key by key takes (SCAN, DUMP, PEXPIRETIME or PTTL, MULTI, SELECT): use the service's own " +
		"export, or another snapshotter",
	Cut: "the server's log tells why: it was restarted, the connection was killed or idle for longer than timeout, or client-output-buffer-limit for normal " +
		"clients was exceeded",
}

// A node is a server that we are connected to, and what a scan has to know of it.
type node struct {
	*link.Conn
	seen      bool // Info is known
	cluster   bool
	dialect   rdb.Dialect
	old       bool // expiries are asked for with PTTL and TIME
	mget      bool // strings may be asked for with MGET
	dbs       []database
	functions []byte // of the stream; nil if there are none, or they can't be had
	unread    string // why functions can't be had
}

// A database is one of those that a server has.
type database struct {
	index   int
	keys    int64 // -1 if unknown
	expires int64 // of these, with an expiry
}

// open connects to a server and asks it what it is. Until Release is called on the node, ctx's end closes it.
func (s *Snapshotter) open(ctx context.Context, addr string) (*node, error) {
	conn, err := link.Open(ctx, link.Options{Redis: s.cfg.Options, Addr: addr, Timeout: s.cfg.ConnectTimeout, Advice: advice})
	if err != nil {
		return nil, err
	}
	n := &node{Conn: conn}
	if err := s.ask(n); err != nil {
		err = n.Fail("INFO", err)
		n.Close()
		return nil, err
	}
	return n, nil
}

// ask gets the server's INFO, if it may be seen, and refuses what can't be a source.
func (s *Snapshotter) ask(n *node) error {
	seen, why, err := n.AskInfo()
	if err != nil {
		return err
	}
	n.seen = seen
	if !seen {
		s.log.Warn("the server doesn't let us see INFO: its role and version stay unknown, and the scan can't go on should the connection break", "node", n.Addr, "error", why)
		return nil
	}
	n.cluster = n.Info.Int("cluster_enabled") == 1
	switch {
	case n.Info["redis_mode"] == "sentinel" || n.Info["server_mode"] == "sentinel":
		return &backup.SourceError{Addr: n.Addr, Step: "INFO", Err: link.As(backup.ErrUnsupported, errors.New("this is a Sentinel, which holds no data")),
			Hint: "give the address of the primary or a replica that it watches"}
	case n.Info.Int("loading") == 1:
		hint := "try again when it is done"
		if eta := n.Info["loading_eta_seconds"]; eta != "" {
			hint += ", which it thinks will be in " + eta + " s"
		}
		return &backup.SourceError{Addr: n.Addr, Step: "INFO", Err: link.As(backup.ErrTransient, errors.New("the server is loading its data")), Hint: hint}
	}
	if n.cluster && n.Role() == "replica" {
		if _, err := n.Command("READONLY"); err != nil {
			return n.Fail("READONLY", err)
		}
	}
	return nil
}

// probe finds out what a scan has to know: what the user may do, which databases there are, and the dialect. It leaves the connection as it was.
func (s *Snapshotter) probe(n *node) error {
	if err := s.tryCommands(n); err != nil {
		return err
	}
	if err := n.listDatabases(); err != nil {
		return err
	}
	version, err := s.getFunctions(n)
	if err == nil && version < 0 {
		version, err = n.anyVersion(s.cfg.ConnectTimeout)
	}
	if err != nil {
		return err
	}
	return n.setDialect(version)
}

// tryCommands tries what is used for every key on one that isn't there.
func (s *Snapshotter) tryCommands(n *node) error {
	try := func(args ...string) (resp.Reply, error) {
		reply, err := n.Command(args...)
		var e resp.Error
		if errors.As(err, &e) && elsewhere(e.Code()) {
			err = nil // the command is allowed
		}
		return reply, err
	}
	n.old = s.tuning.old
	if !n.old {
		if _, err := try("PEXPIRETIME", probeKey); link.UnknownCommand(err) {
			n.old = true
		} else if err != nil {
			return n.Fail("PEXPIRETIME", err)
		}
	}
	if n.old {
		for _, args := range [][]string{{"PTTL", probeKey}, {"TIME"}} {
			if _, err := try(args...); err != nil {
				return n.Fail(args[0], err)
			}
		}
	}
	_, err := try("MGET", probeKey)
	if n.mget = err == nil; err != nil && !link.IsReply(err) {
		return n.Fail("MGET", err)
	}
	for _, args := range [][]string{{"DUMP", probeKey}, {"SCAN", "0", "COUNT", "1"}, {"MULTI"}, {"EXEC"}} {
		if _, err := try(args...); err != nil {
			return n.Fail(args[0], err)
		}
	}
	return nil
}

// elsewhere says whether an error's code tells that a key is another node's.
func elsewhere(code string) bool { return code == "MOVED" || code == "ASK" }

// listDatabases finds the databases with keys. Where that can't be known, it is those that there are.
func (n *node) listDatabases() error {
	if n.seen {
		for field := range n.Info {
			index, err := strconv.Atoi(strings.TrimPrefix(field, "db"))
			if err != nil || !strings.HasPrefix(field, "db") {
				continue
			}
			db := database{index: index, keys: -1}
			for name, value := range n.Info.Attributes(field) {
				count, _ := strconv.ParseInt(value, 10, 64)
				switch name {
				case "keys":
					db.keys = count
				case "expires":
					db.expires = count
				}
			}
			n.dbs = append(n.dbs, db)
		}
		slices.SortFunc(n.dbs, func(a, b database) int { return cmp.Compare(a.index, b.index) })
		return n.trySelect()
	}
	count := maxDatabases
	if reply, err := n.Command("CONFIG", "GET", "databases"); err == nil && len(reply.Elems) == 2 {
		if c, err := strconv.Atoi(reply.Elems[1].Text); err == nil {
			count = c
		}
	} else if err != nil && !link.IsReply(err) {
		return n.Fail("CONFIG GET", err)
	}
	for i := range count {
		if i > 0 {
			_, err := n.Command("SELECT", strconv.Itoa(i))
			var e resp.Error
			if errors.As(err, &e) && e.Code() == "ERR" { // out of range, or not there in a cluster
				break
			}
			if err != nil {
				return n.Fail("SELECT", err)
			}
		}
		n.dbs = append(n.dbs, database{index: i, keys: -1})
	}
	return nil
}

// trySelect finds out whether the databases may be selected, and ends with the first.
func (n *node) trySelect() error {
	for _, db := range slices.Backward(n.dbs) {
		if db.index == 0 && len(n.dbs) == 1 {
			break // that is where we are
		}
		if _, err := n.Command("SELECT", strconv.Itoa(db.index)); err != nil {
			return n.Fail("SELECT", err)
		}
	}
	return nil
}

// maxFunctions bounds the libraries of functions, which are held in memory.
const maxFunctions = 24 << 20

// getFunctions gets the libraries of functions, if it can, and with them the version that payloads of the server have; -1 if it can't.
func (s *Snapshotter) getFunctions(n *node) (version int, err error) {
	w := newWire(n.Conn, s.cfg.ConnectTimeout)
	defer w.release()
	w.command("FUNCTION", "DUMP")
	payload, ok, err := w.text(maxFunctions)
	switch {
	case link.IsReply(err):
		if !link.UnknownCommand(err) && n.Info["dragonfly_version"] == "" {
			n.unread = err.Error()
			s.log.Warn("the server's functions can't be read: they will be missing in the snapshot", "node", n.Addr, "error", err)
		}
		return -1, nil
	case err != nil:
		return 0, n.Fail("FUNCTION DUMP", err)
	case !ok:
		return -1, nil
	}
	if version, err = checkFooter(payload); err != nil {
		return 0, n.Fail("FUNCTION DUMP", err)
	}
	n.functions = payload[:len(payload)-footerLen]
	return version, nil
}

// checkFooter returns the version of a whole payload.
func checkFooter(p []byte) (version int, err error) {
	if len(p) < footerLen {
		return 0, fmt.Errorf("%w: a payload of %d bytes", resp.ErrProtocol, len(p))
	}
	at := len(p) - crc64.Size
	if binary.LittleEndian.Uint64(p[at:]) != crc64.Checksum(p[:at]) {
		return 0, errors.New("the checksum of a payload is wrong")
	}
	return int(binary.LittleEndian.Uint16(p[at-2:])), nil
}

// anyVersion finds out the version that payloads have, by that of any key; -1 if there are none.
func (n *node) anyVersion(timeout time.Duration) (version int, err error) {
	w := newWire(n.Conn, timeout)
	defer w.release()
	version = -1
	several := len(n.dbs) > 1 || len(n.dbs) == 1 && n.dbs[0].index != 0
	for _, db := range n.dbs {
		if several {
			if err := w.do("SELECT", strconv.Itoa(db.index)); err != nil {
				return 0, n.Fail("SELECT", err)
			}
		}
		for cursor := "0"; version < 0; {
			var page page
			w.command("SCAN", cursor, "COUNT", "10")
			if cursor, err = page.receive(w); err != nil {
				return 0, n.Fail("SCAN", err)
			}
			for i := 0; i < page.len() && version < 0; i++ {
				w.command("DUMP", string(page.name(i)))
				if version, err = w.version(); err != nil && !link.IsReply(err) {
					return 0, n.Fail("DUMP", err)
				}
			}
			if cursor == "0" {
				break
			}
		}
	}
	if several {
		if err := w.do("SELECT", strconv.Itoa(n.dbs[0].index)); err != nil {
			return 0, n.Fail("SELECT", err)
		}
	}
	return version, nil
}

// version reads the reply to DUMP and returns the version in it, -1 if there is no such key.
func (w *wire) version() (int, error) {
	n, err := w.want(resp.Bulk)
	if err != nil || n < 0 {
		return -1, err
	}
	if n < footerLen {
		return -1, w.bad("a DUMP payload without a footer")
	}
	if err := w.skip(n - footerLen); err != nil {
		return -1, err
	}
	b, err := w.peek(footerLen)
	if err != nil {
		return -1, err
	}
	version := int(binary.LittleEndian.Uint16(b))
	w.r += footerLen
	return version, w.end()
}

// setDialect finds the dialect of a stream that payloads of a version can be part of.
func (n *node) setDialect(version int) error {
	engine, _ := n.Engine()
	if version < 0 { // there is nothing that could be in the wrong dialect
		if version = 10; n.old {
			version = 9
		}
	}
	name := "redis:" + strconv.Itoa(version)
	switch {
	case engine == "dragonfly":
		name = "dragonfly:" + strconv.Itoa(version)
	case version >= 80:
		name = "valkey:" + strconv.Itoa(version)
	}
	d, err := rdb.ParseDialect(name)
	if err != nil || d.Family == rdb.Redis && d.Version < 7 {
		return &backup.SourceError{Addr: n.Addr, Step: "DUMP", Err: link.As(backup.ErrUnsupported, fmt.Errorf("the server writes values of version %d, which is none that is known", version)),
			Hint: "the server is newer than this program, or older than Redis 3.2"}
	}
	n.dialect = d
	n.mget = n.mget && plainStrings(d)
	return nil
}

// source describes the server for the manifest.
func (n *node) source() catalog.Source {
	src := catalog.Source{Role: n.Role(), Address: n.Addr, Method: "scan", UsedMemory: n.Info.Int("used_memory"), Fuzzy: true}
	src.Engine, src.Version = n.Engine()
	src.Topology = n.Topology()
	if n.cluster {
		src.Topology = "cluster"
	}
	return src
}

// sameData tells whether a node, to which we connected again, is what it was before. The same process goes on where it was asked to; another process with the
// same data has its keys in another order.
func (n *node) sameData(before resp.Info) (sameProcess bool, err error) {
	if !n.seen {
		return false, errors.New("the connection broke, and without INFO nobody knows whether the server is still the same")
	}
	if id := n.Info["run_id"]; id != "" && id == before["run_id"] {
		return true, nil
	}
	id, was := n.Info["master_replid"], before["master_replid"]
	if was != "" && strings.Trim(was, "0") != "" && (id == was || n.Info["master_replid2"] == was) {
		return false, nil
	}
	return false, errors.New("the connection broke, and the server that answers now is another process with other data, by its replication ID")
}
