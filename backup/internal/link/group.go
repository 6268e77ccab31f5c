package link

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/resp"
)

// MaxLag is the age in seconds of the last sign of life at which a replica is no longer taken to be in sync. Replicas give
// one each second.
const MaxLag = 10

// maxOthers bounds the nodes that are tried before the given one: each may take the whole connect timeout.
const maxOthers = 3

// Topology is "replicated" or "standalone", by the server's INFO, or "" if that isn't known. Of a cluster's node it tells what its shard is.
func (c *Conn) Topology() string {
	switch role := c.Role(); {
	case role == "replica" || c.Info.Int("connected_slaves") > 0:
		return "replicated"
	case role == "primary":
		return "standalone"
	}
	return ""
}

// Replicas returns the addresses of the server's replicas that it thinks are in sync, at most three, those with the newest data first.
func (c *Conn) Replicas() []string {
	type candidate struct {
		addr        string
		offset, lag int64
	}
	var found []candidate
	for i := range c.Info.Int("connected_slaves") {
		attrs := map[string]string{}
		for name, value := range c.Info.Attributes("slave" + strconv.FormatInt(i, 10)) {
			attrs[name] = value
		}
		offset, _ := strconv.ParseInt(attrs["offset"], 10, 64)
		lag, err := strconv.ParseInt(attrs["lag"], 10, 64)
		// A primary of Redis 7.0 calls a replica online before that has acknowledged anything, up to a second after its synchronisation: at offset 0.
		behind := offset == 0 && c.Info.Int("master_repl_offset") > 0
		if attrs["state"] == "online" && err == nil && lag <= MaxLag && !behind && attrs["port"] != "" && attrs["port"] != "0" {
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
	for _, one := range found[:min(len(found), maxOthers)] {
		addrs = append(addrs, one.addr)
	}
	return addrs
}

// InSync returns nil if this server holds the data that another one does, by its INFO, and has a role; "": any. An announced address may lead elsewhere
// from here, to another server altogether, so nothing but the replication ID is believed.
func (c *Conn) InSync(given resp.Info, role string) error {
	problem := func(what string) error {
		return &backup.SourceError{Addr: c.Addr, Step: "INFO", Err: errors.New(what)}
	}
	id := c.Info["master_replid"]
	switch {
	case id == "" || strings.Trim(id, "0") == "":
		return problem("it doesn't tell its replication ID")
	case id != given["master_replid"]:
		return problem("it belongs to another data store, or is out of sync: its replication ID is not that of the given server")
	case role != "" && c.Role() != role:
		return problem("it is not a " + role)
	case c.Role() == "replica" && (c.Info["master_link_status"] != "up" || c.Info.Int("master_sync_in_progress") != 0):
		return problem("its link to its primary is down, or it is synchronising")
	}
	return nil
}
