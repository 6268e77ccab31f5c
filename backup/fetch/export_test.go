package fetch

import (
	"net/netip"
	"time"
)

// Quick makes the pauses of a snapshotter short.
func Quick(s *Snapshotter) *Snapshotter {
	s.tuning = quick
	return s
}

var quick = tuning{tries: 5, least: time.Millisecond, most: 4 * time.Millisecond, patience: time.Second}

// QuickPut makes the pauses of a Put short.
func QuickPut(o PutOptions) *PutOptions {
	o.tuning = &quick
	return &o
}

// PutOnce makes a Put try once.
func PutOnce(o PutOptions) *PutOptions {
	o.tuning = &tuning{tries: 1}
	return &o
}

// Dialing returns the policy with a look at what it would connect to; an error keeps it from that.
func (p Policy) Dialing(f func(netip.AddrPort) error) Policy {
	p.dialing = f
	return p
}

// ParseURL is parseURL of a policy with its defaults.
func ParseURL(p Policy, raw string) (host string, err error) {
	f, err := p.filled()
	if err != nil {
		return "", err
	}
	u, err := f.parseURL(raw)
	if err != nil {
		return "", err
	}
	return u.Hostname(), nil
}

// CheckAddr is checkAddr of a policy.
func CheckAddr(p Policy, a netip.Addr) error { return p.checkAddr(a) }
