package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/restore"
)

func (a *app) restoreCommand() *cobra.Command {
	var (
		to                 serverFlags
		id, method         string
		q                  amber.RestoreRequest
		listenCert, lisKey string
		replace            bool
	)
	cmd := &cobra.Command{
		Use:   "restore BACKUP --to URL",
		Short: "Put a backup into a server",
		Long: `Put a backup into a server. The whole backup is proved before the server is touched; a server that holds data is
refused unless --replace is given; in the end the keys are counted and compared.

With --method feed, the only one so far, the server replicates from amberctl for the time of the restore, so it has to
reach this machine: --listen and --advertise say how, where that is not evident.` + backupArg + fmt.Sprintf(passwordHelp, "AMBER_TO_PASSWORD"),
		Example:           "  amberctl --store file:///var/backups restore before-upgrade --to redis://host:6380 --replace",
		Args:              takes(1, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			if method != "feed" {
				return usagef("--method %q: it can be feed", method)
			}
			if err := checkID(id); err != nil {
				return err
			}
			var err error
			if q.To, err = a.options(&to); err != nil {
				return err
			}
			if replace {
				q.Conflict = restore.Replace
			}
			if q.TLS, err = listenerTLS(listenCert, lisKey, to.caCert); err != nil {
				return err
			}
			svc, done, err := a.service(amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			if q.Backup, err = find(cmd.Context(), svc, args[0], id); err != nil {
				return explain(cmd.Context(), err, "the target was not touched")
			}
			var stop func()
			q.Progress, stop = a.progress("restore of " + string(q.Backup))
			rep, err := svc.Restore(cmd.Context(), q)
			stop()
			if err != nil {
				return explain(cmd.Context(), err, "the target was not touched")
			}
			for _, warning := range rep.Warnings {
				fmt.Fprintln(a.console, "amberctl: warning: "+clean(warning))
			}
			return a.print(rep, func(w io.Writer) {
				if a.quiet {
					return
				}
				fmt.Fprintf(w, "%s is restored into %s: %s, %s; proved in %s, loaded in %s\n", rep.Backup, rep.Target, plural(rep.Keys, "key"),
					size(rep.Bytes), took(rep.Verify), tookFor(rep.Load, rep.Bytes))
			})
		},
	}
	to.add(cmd, "to", "the server that takes the data")
	flags := cmd.Flags()
	flags.StringVar(&id, "id", "", "the data store, if BACKUP is a name")
	flags.BoolVar(&replace, "replace", false, "let go of all data that the server holds")
	flags.StringVar(&method, "method", "feed", "how the data goes into the server")
	flags.StringVar(&q.Listen, "listen", "", "host:port to listen on for the server; any free port of all interfaces by default")
	flags.StringVar(&q.Advertise, "advertise", "", "host or host:port under which the server reaches this machine; found out by default")
	flags.StringVar(&listenCert, "listen-cert", "", "PEM file of this machine's certificate, for a server that replicates over TLS")
	flags.StringVar(&lisKey, "listen-key", "", "PEM file of that certificate's key")
	return cmd
}

// listenerTLS is how a target that replicates over TLS is answered; nil if nothing is said about it.
func listenerTLS(cert, key, caCert string) (*tls.Config, error) {
	pair, err := keyPair("--listen-cert", cert, "--listen-key", key)
	if pair == nil || err != nil {
		return nil, err
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12}
	if caCert != "" { // the target's certificate, if it shows one, has to be by the authority that its clients trust
		pem, err := os.ReadFile(caCert)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("--cacert holds no certificate in PEM form")
		}
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return cfg, nil
}
