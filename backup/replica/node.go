package replica

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
)

// maxLag is the age in seconds of the last sign of life at which a replica is no longer taken to be in sync. Replicas give
// one each second.
const maxLag = 10

// maxOthers bounds the nodes that are tried before the given one: each may take the whole connect timeout.
const maxOthers = 3

// ask gets the server's INFO, if it may be seen, and refuses what can't be a source.
func (s *Snapshotter) ask(l *link) error {
	reply, err := l.command("INFO")
	var e resp.Error
	switch {
	case err == nil && reply.Kind == resp.Bulk:
		l.info = resp.ParseInfo(reply.Text)
	case err == nil:
		return fmt.Errorf("%w: INFO was not answered with a text", resp.ErrProtocol)
	case errors.As(err, &e) && (e.Code() == "NOPERM" || unknownCommand(err)):
		// Without it there is only the given server to take, and the manifest tells less.
		s.log.Warn("the server doesn't let us see INFO: its role and version stay unknown", "node", l.addr, "error", err)
		l.info = resp.Info{}
		return nil
	default:
		return err
	}
	switch {
	case l.info["redis_mode"] == "sentinel" || l.info["server_mode"] == "sentinel":
		return l.refuse("this is a Sentinel, which holds no data", "give the address of the primary or a replica that it watches")
	case l.info["dragonfly_version"] != "":
		return l.refuse("this is Dragonfly "+l.info["dragonfly_version"]+", which sends no snapshot to replicas of another kind", "use a snapshotter for Dragonfly")
	case l.info.Int("cluster_enabled") == 1:
		return l.refuse("this is a node of a cluster, which holds only its own slots", "cluster mode is not supported yet")
	case l.info.Int("loading") == 1:
		err := errors.New("the server is loading its data")
		hint := "try again when it is done"
		if eta := l.info["loading_eta_seconds"]; eta != "" {
			hint += ", which it thinks will be in " + eta + " s"
		}
		return &Error{Addr: l.addr, Step: "INFO", Err: as(ErrTransient, err), Hint: hint}
	}
	return nil
}

func (l *link) refuse(what, hint string) error {
	return &Error{Addr: l.addr, Step: "INFO", Err: as(ErrUnsupported, errors.New(what)), Hint: hint}
}

// engine and version of the server, or "" if unknown.
func (l *link) engine() (engine, version string) {
	switch {
	case l.info["valkey_version"] != "":
		return "valkey", l.info["valkey_version"]
	case l.info["redis_version"] != "":
		return "redis", l.info["redis_version"]
	}
	return "", ""
}

// role is "primary", "replica" or "" if unknown.
func (l *link) role() string {
	switch l.info["role"] {
	case "master":
		return "primary"
	case "slave":
		return "replica"
	}
	return ""
}

// source describes the server and the instant for the manifest.
func (l *link) source(sy syncing) catalog.Source {
	src := catalog.Source{
		Role:              l.role(),
		Address:           l.addr,
		Method:            "replica",
		ReplicationID:     sy.id,
		ReplicationOffset: sy.offset,
		UsedMemory:        l.info.Int("used_memory"),
	}
	src.Engine, src.Version = l.engine()
	switch {
	case src.Role == "replica" || l.info.Int("connected_slaves") > 0:
		src.Topology = "replicated"
	case src.Role == "primary":
		src.Topology = "standalone"
	}
	return src
}

// others returns the nodes that are preferred to the given one, the best first.
func (s *Snapshotter) others(given *link) []string {
	switch {
	case s.cfg.Prefer == PreferReplica && given.role() == "primary":
		return given.replicas()
	case s.cfg.Prefer == PreferPrimary && given.role() == "replica":
		return []string{net.JoinHostPort(given.info["master_host"], given.info["master_port"])}
	}
	return nil
}

// replicas returns the addresses of the server's replicas that it thinks are in sync, those with the newest data first.
func (l *link) replicas() []string {
	type candidate struct {
		addr   string
		offset int64
		lag    int64
	}
	var found []candidate
	for i := range l.info.Int("connected_slaves") {
		attrs := map[string]string{}
		for name, value := range l.info.Attributes("slave" + strconv.FormatInt(i, 10)) {
			attrs[name] = value
		}
		offset, _ := strconv.ParseInt(attrs["offset"], 10, 64)
		lag, err := strconv.ParseInt(attrs["lag"], 10, 64)
		if attrs["state"] == "online" && err == nil && lag <= maxLag && attrs["port"] != "" && attrs["port"] != "0" {
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
func (l *link) inSync(given resp.Info, prefer Prefer) error {
	problem := func(what string) error {
		return &Error{Addr: l.addr, Step: "INFO", Err: errors.New(what)}
	}
	id := l.info["master_replid"]
	switch {
	case id == "" || strings.Trim(id, "0") == "":
		return problem("it doesn't tell its replication ID")
	case id != given["master_replid"]:
		return problem("it belongs to another data store, or is out of sync: its replication ID is not that of the given server")
	case prefer == PreferPrimary && l.role() != "primary":
		return problem("it is not a primary")
	case prefer == PreferReplica && l.role() != "replica":
		return problem("it is not a replica")
	case l.role() == "replica" && (l.info["master_link_status"] != "up" || l.info.Int("master_sync_in_progress") != 0):
		return problem("its link to its primary is down, or it is synchronising")
	}
	return nil
}
