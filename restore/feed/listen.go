package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/amberkv/amber/internal/replication"
)

// listen opens the port that the target connects to.
func (r *run) listen(ctx context.Context) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", r.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for the target: %w", err)
	}
	if r.cfg.TLS != nil {
		listener = tls.NewListener(listener, r.cfg.TLS)
	}
	return listener, nil
}

// advertised returns what the target is told to connect to.
func (r *run) advertised(listener net.Listener) (host, port string, err error) {
	listenHost, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return "", "", fmt.Errorf("the listener's address: %w", err)
	}
	if host = r.cfg.Advertise; host != "" {
		if h, p, err := net.SplitHostPort(host); err == nil {
			return h, p, nil
		}
		return host, port, nil
	}
	if ip, err := netip.ParseAddr(listenHost); err == nil && !ip.IsUnspecified() {
		return listenHost, port, nil
	}
	ip, ok := ipOf(r.admin.Local())
	if !ok {
		return "", "", errors.New("the connection to the target doesn't tell under which address it can reach us: set Config.Advertise")
	}
	return ip.String(), port, nil
}

// ipOf returns the IP address of one end of a connection, if it has one.
func ipOf(addr net.Addr) (netip.Addr, bool) {
	if addr == nil {
		return netip.Addr{}, false
	}
	ap, err := netip.ParseAddrPort(addr.String())
	return ap.Addr().Unmap(), err == nil
}

// admit decides by what is known of the target whether a replica without a password is it.
func (r *run) admit(h replication.Hello) error {
	target, ok1 := ipOf(r.admin.Remote())
	from, ok2 := ipOf(h.Addr)
	if !ok1 || !ok2 || target.WithZone("") != from.WithZone("") {
		return errors.New("it doesn't come from the target's address")
	}
	port := r.target.info["tcp_port"]
	if announced := r.target.settings[setPort]; announced != "" && announced != "0" {
		port = announced
	}
	// A target that replicates by TLS tells its TLS port, which INFO doesn't.
	if r.cfg.TLS == nil && port != strconv.Itoa(h.Port) {
		return fmt.Errorf("it listens on port %d, and the target on %s", h.Port, port)
	}
	if h.Dragonfly != (r.target.engine == "dragonfly") {
		return errors.New("it is another product than the target")
	}
	if h.Dragonfly {
		// It tells no ID of its own. One that says "?" has not got data from a primary before, in this life as a replica.
		if h.ID != "?" {
			return errors.New("it was replicating from somebody else")
		}
		return nil
	}
	// A server asks its new primary to go on from where it was itself, so it tells its own replication ID, which is
	// random and known to those only that may ask it. A replica that has never reached its primary has none to tell.
	if h.ID != r.target.info["master_replid"] && !(h.ID == "?" && r.target.primary != "") {
		return errors.New("it doesn't know the target's replication ID")
	}
	return nil
}
