package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/backup/fetch"
)

// webFlags say what may be reached by URL.
type webFlags struct {
	allowHTTP    bool
	allowPrivate []string
	caCert       string
}

func (f *webFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.allowHTTP, "allow-http", false, "allow http:// as well")
	flags.StringSliceVar(&f.allowPrivate, "allow-private", nil, "addresses to allow that are not public, such as 10.1.0.0/16")
	flags.StringVar(&f.caCert, "cacert", "", "PEM file of the authorities to trust, for https://; the system's by default")
}

// given tells whether one of them is set.
func (f *webFlags) given() bool { return f.allowHTTP || len(f.allowPrivate) > 0 || f.caCert != "" }

// policy says what may be reached.
func (f *webFlags) policy() (p fetch.Policy, err error) {
	p.AllowHTTP = f.allowHTTP
	for _, text := range f.allowPrivate {
		prefix, err := netip.ParsePrefix(text)
		if addr, aerr := netip.ParseAddr(text); err != nil && aerr == nil {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return p, usagef("--allow-private %q: write addresses as in 10.1.0.0/16", text)
		}
		p.Allow = append(p.Allow, prefix)
	}
	if f.caCert != "" {
		pem, err := os.ReadFile(f.caCert)
		if err != nil {
			return p, fmt.Errorf("--cacert: %w", err)
		}
		p.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		if !p.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return p, fmt.Errorf("--cacert: %s holds no certificate in PEM form", f.caCert)
		}
	}
	return p, nil
}
