package replica

import (
	"context"
	"errors"
	"net"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
)

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
	src.Topology = l.Topology()
	return src
}

// others returns the nodes that are preferred to the given one, the best first.
func (s *Snapshotter) others(given *node) []string {
	switch {
	case s.cfg.Prefer == PreferReplica && given.Role() == "primary":
		return given.Replicas()
	case s.cfg.Prefer == PreferPrimary && given.Role() == "replica":
		return []string{net.JoinHostPort(given.Info["master_host"], given.Info["master_port"])}
	}
	return nil
}
