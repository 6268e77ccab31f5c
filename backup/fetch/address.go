package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// ErrRefused: the policy doesn't let the URL, or the address behind it, be reached. It says which field of the policy would.
var ErrRefused = errors.New("refused")

// A refusal is the reason why something isn't reached. Its text holds nothing but names, schemes and addresses.
type refusal struct{ why string }

func (r *refusal) Error() string { return "refused: " + r.why }
func (r *refusal) Unwrap() error { return ErrRefused }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// block is a range of addresses where no snapshot of the public Internet is, with what it is. The tables are those of IANA's
// special-purpose registries, RFC 6890 and its successors, and of one cloud that has an address of its own for what others
// keep in 169.254.0.0/16.
type block struct {
	prefix netip.Prefix
	what   string
}

func blocks4() []block {
	return []block{
		{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
		{netip.MustParsePrefix("10.0.0.0/8"), "private"},
		{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
		{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
		{netip.MustParsePrefix("168.63.129.16/32"), "Azure's metadata"},
		{netip.MustParsePrefix("169.254.0.0/16"), "link-local, where clouds keep metadata"},
		{netip.MustParsePrefix("172.16.0.0/12"), "private"},
		{netip.MustParsePrefix("192.0.0.0/24"), "reserved for protocols"},
		{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
		{netip.MustParsePrefix("192.88.99.0/24"), "relays of 6to4"},
		{netip.MustParsePrefix("192.168.0.0/16"), "private"},
		{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},
		{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
		{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
		{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
		{netip.MustParsePrefix("240.0.0.0/4"), "reserved or broadcast"},
	}
}

// blocks6 ends with what is outside of 2000::/3, which alone has been given out.
func blocks6() []block {
	return []block{
		{netip.MustParsePrefix("2001::/23"), "reserved for protocols, such as Teredo"},
		{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
		{netip.MustParsePrefix("2002::/16"), "6to4"},
		{netip.MustParsePrefix("3ffe::/16"), "6bone"},
		{netip.MustParsePrefix("3fff::/20"), "for documentation"},
		{netip.MustParsePrefix("::/128"), "unspecified"},
		{netip.MustParsePrefix("::1/128"), "loopback"},
		{netip.MustParsePrefix("::/96"), "IPv4-compatible"},
		{netip.MustParsePrefix("64:ff9b::/96"), "a translator to IPv4, NAT64"},
		{netip.MustParsePrefix("64:ff9b:1::/48"), "a translator to IPv4, NAT64"},
		{netip.MustParsePrefix("fc00::/7"), "private, ULA"},
		{netip.MustParsePrefix("fe80::/10"), "link-local"},
		{netip.MustParsePrefix("fec0::/10"), "site-local"},
		{netip.MustParsePrefix("ff00::/8"), "multicast"},
		{netip.MustParsePrefix("::/3"), "reserved"},
		{netip.MustParsePrefix("4000::/2"), "reserved"},
		{netip.MustParsePrefix("8000::/1"), "reserved"},
	}
}

// checkAddr returns nil for an address that may be reached.
func (p *Policy) checkAddr(addr netip.Addr) error {
	if addr.Zone() != "" {
		return refuse("the address %s (it has a zone)", addr)
	}
	addr = addr.Unmap()
	all := blocks6()
	if addr.Is4() {
		all = blocks4()
	}
	at := slices.IndexFunc(all, func(b block) bool { return b.prefix.Contains(addr) })
	if at < 0 {
		return nil
	}
	if !slices.ContainsFunc(p.Allow, func(a netip.Prefix) bool { return a.Contains(addr) }) {
		return refuse("the address %s (%s); if it is meant, add it to Policy.Allow", addr, all[at].what)
	}
	// Whoever allows a translator doesn't mean that it may lead back in.
	if inner, ok := embedded(addr); ok {
		return p.checkAddr(inner)
	}
	return nil
}

// embedded returns the IPv4 address to which an IPv6 address leads.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if addr.Is4() {
		return addr, false
	}
	b := addr.As16()
	at := func(i int) (netip.Addr, bool) { return netip.AddrFrom4([4]byte(b[i : i+4])), true }
	switch {
	case netip.MustParsePrefix("::/127").Contains(addr):
		return addr, false
	case netip.MustParsePrefix("::/96").Contains(addr), netip.MustParsePrefix("64:ff9b::/96").Contains(addr):
		return at(12)
	case netip.MustParsePrefix("2002::/16").Contains(addr):
		return at(2)
	case netip.MustParsePrefix("2001::/32").Contains(addr): // Teredo: the client's address, all bits turned
		for i := range b {
			b[i] = ^b[i]
		}
		return at(12)
	}
	return addr, false
}

// control is asked for every socket before it connects, with the address as it was resolved: what a name meant when somebody
// looked before doesn't count.
func (p *Policy) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return refuse("a connection by %s", network)
	}
	if err := p.checkAddr(at.Addr()); err != nil {
		return err
	}
	if p.dialing != nil {
		return p.dialing(at)
	}
	return nil
}
