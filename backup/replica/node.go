package replica

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
)

// maxLag is the age in seconds of the last sign of life at which a replica is no longer taken to be in sync. Replicas give
// one each second.
const maxLag = 10

// maxOthers bounds the nodes that are tried before the given one: each may take the whole connect timeout.
const maxOthers = 3

// A node is a server of the group that we are connected to.
type node struct{ *link.Conn }

// advice is what errors say.
var advice = link.Advice{
	Rights: "+info +replconf +psync +sync",
	Unsupported: "the server doesn't let others replicate, as managed services do or rename-command makes it: give the new name if it was " +
		"renamed, use the service's own export, or read the keys one by one (method scan)",
	Cut: "the server's log tells why: its saving child failed (memory, disk, overcommit), it was restarted, the connection was killed, " +
		"or client-output-buffer-limit for replicas was exceeded",
}

// open connects to a server and asks it what it is. Until Release is called on the node, ctx's end closes it.
func (s *Snapshotter) open(ctx context.Context, addr string) (*node, error) {
	conn, err := link.Open(ctx, link.Options{Redis: s.cfg.Options, Addr: addr, Timeout: s.cfg.ConnectTimeout, Advice: advice})
	if err != nil {
		return nil, err
	}
	l := &node{conn}
	if err := s.ask(l); err != nil {
		err = l.Fail("INFO", err)
		l.Close()
		return nil, err
	}
	return l, nil
}

// ask gets the server's INFO, if it may be seen, and refuses what can't be a source.
func (s *Snapshotter) ask(l *node) error {
	seen, why, err := l.AskInfo()
	if err != nil {
		return err
	}
	if !seen {
		// Without it there is only the given server to take, and the manifest tells less.
		s.log.Warn("the server doesn't let us see INFO: its role and version stay unknown", "node", l.Addr, "error", why)
		return nil
	}
	switch {
	case l.Info["redis_mode"] == "sentinel" || l.Info["server_mode"] == "sentinel":
		return l.refuse("this is a Sentinel, which holds no data", "give the address of the primary or a replica that it watches")
	case l.Info["dragonfly_version"] != "":
		return l.refuse("this is Dragonfly "+l.Info["dragonfly_version"]+", which sends no snapshot to replicas of another kind", "use a snapshotter for Dragonfly")
	case l.Info.Int("cluster_enabled") == 1 && !s.cfg.ClusterNode:
		return l.refuse("this is a node of a cluster, which holds only its own slots", "use a snapshotter for clusters, which takes all of them")
	case l.Info.Int("loading") == 1:
		err := errors.New("the server is loading its data")
		hint := "try again when it is done"
		if eta := l.Info["loading_eta_seconds"]; eta != "" {
			hint += ", which it thinks will be in " + eta + " s"
		}
		return &backup.SourceError{Addr: l.Addr, Step: "INFO", Err: link.As(backup.ErrTransient, err), Hint: hint}
	}
	return nil
}

func (l *node) refuse(what, hint string) error {
	return &backup.SourceError{Addr: l.Addr, Step: "INFO", Err: link.As(backup.ErrUnsupported, errors.New(what)), Hint: hint}
}

// source describes the server and the instant for the manifest.
func (l *node) source(sy syncing) catalog.Source {
	src := catalog.Source{
		Role:              l.Role(),
		Address:           l.Addr,
		Method:            "replica",
		ReplicationID:     sy.id,
		ReplicationOffset: sy.offset,
		UsedMemory:        l.Info.Int("used_memory"),
		Time:              sy.instant,
	}
	src.Engine, src.Version = l.Engine()
	switch {
	case src.Role == "replica" || l.Info.Int("connected_slaves") > 0:
		src.Topology = "replicated"
	case src.Role == "primary":
		src.Topology = "standalone"
	}
	return src
}

// others returns the nodes that are preferred to the given one, the best first.
func (s *Snapshotter) others(given *node) []string {
	switch {
	case s.cfg.Prefer == PreferReplica && given.Role() == "primary":
		return given.replicas()
	case s.cfg.Prefer == PreferPrimary && given.Role() == "replica":
		return []string{net.JoinHostPort(given.Info["master_host"], given.Info["master_port"])}
	}
	return nil
}

// replicas returns the addresses of the server's replicas that it thinks are in sync, those with the newest data first.
func (l *node) replicas() []string {
	type candidate struct {
		addr   string
		offset int64
		lag    int64
	}
	var found []candidate
	for i := range l.Info.Int("connected_slaves") {
		attrs := map[string]string{}
		for name, value := range l.Info.Attributes("slave" + strconv.FormatInt(i, 10)) {
			attrs[name] = value
		}
		offset, _ := strconv.ParseInt(attrs["offset"], 10, 64)
		lag, err := strconv.ParseInt(attrs["lag"], 10, 64)
		// A primary of Redis 7.0 calls a replica online before that has acknowledged anything, up to a second after its synchronisation: at offset 0.
		behind := offset == 0 && l.Info.Int("master_repl_offset") > 0
		if attrs["state"] == "online" && err == nil && lag <= maxLag && !behind && attrs["port"] != "" && attrs["port"] != "0" {
			found = append(found, candidate{net.JoinHostPort(attrs["ip"], attrs["port"]), offset, lag})
		}
		if len(attrs) == 0 {
			break // the count is the server's word; the lines are what there is
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.offset, a.offset), cmp.Compare(a.lag, b.lag))
	})
	var addrs []string
	for _, c := range found[:min(len(found), maxOthers)] {
		addrs = append(addrs, c.addr)
	}
	return addrs
}

// inSync returns nil if this node holds the data that the given one does and has the role that is preferred. An announced
// address may lead elsewhere from here, to another server altogether, so nothing but the replication ID is believed.
func (l *node) inSync(given resp.Info, prefer Prefer) error {
	problem := func(what string) error {
		return &backup.SourceError{Addr: l.Addr, Step: "INFO", Err: errors.New(what)}
	}
	id := l.Info["master_replid"]
	switch {
	case id == "" || strings.Trim(id, "0") == "":
		return problem("it doesn't tell its replication ID")
	case id != given["master_replid"]:
		return problem("it belongs to another data store, or is out of sync: its replication ID is not that of the given server")
	case prefer == PreferPrimary && l.Role() != "primary":
		return problem("it is not a primary")
	case prefer == PreferReplica && l.Role() != "replica":
		return problem("it is not a replica")
	case l.Role() == "replica" && (l.Info["master_link_status"] != "up" || l.Info.Int("master_sync_in_progress") != 0):
		return problem("its link to its primary is down, or it is synchronising")
	}
	return nil
}
