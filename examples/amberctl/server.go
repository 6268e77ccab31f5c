package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
)

// serverFlags say how to reach a server.
type serverFlags struct {
	flag         string // "from" or "to"
	url          string
	passwordFile string
	caCert       string
	cert, key    string
}

func (f *serverFlags) add(cmd *cobra.Command, flag, what string) {
	f.addURL(cmd, flag, what, "; required")
}

// addOptional is add for a server that needn't be given.
func (f *serverFlags) addOptional(cmd *cobra.Command, flag, what string) {
	f.addURL(cmd, flag, what, "")
}

func (f *serverFlags) addURL(cmd *cobra.Command, flag, what, more string) {
	f.flag = flag
	flags := cmd.Flags()
	flags.StringVar(&f.url, flag, "", what+": redis://[user[:password]@]host[:port], or rediss:// for TLS"+more)
	flags.StringVar(&f.passwordFile, "password-file", "", "file that holds the server's password; - means standard input")
	f.addTLS(cmd)
}

// addTLS adds what is needed to reach a server by TLS.
func (f *serverFlags) addTLS(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.caCert, "cacert", "", "PEM file of the authorities to trust, for rediss://; the system's by default")
	flags.StringVar(&f.cert, "cert", "", "PEM file of the certificate to show to the server, for rediss://")
	flags.StringVar(&f.key, "key", "", "PEM file of the certificate's key")
}

// passwordHelp tells in a command's help where a password can come from.
const passwordHelp = `

The server's password is taken from its URL, from --password-file, or from %s or AMBER_PASSWORD.
Everybody on a machine can see command lines: prefer the file or the environment.`

// options returns how to reach the server. What is wrong with the command line is told without any part of the URL, for any part of
// it may be the password's when its special characters were not encoded.
func (a *app) options(f *serverFlags) (*redis.Options, error) {
	if f.url == "" {
		return nil, usagef("--%s is missing: give the server's URL, as in --%s redis://host:6379", f.flag, f.flag)
	}
	wrong := usagef("--%s is not a server's URL: write redis://[user[:password]@]host[:port], or rediss:// for TLS, "+
		"with the special characters of user and password percent-encoded, "+
		"or give the password by --password-file or AMBER_PASSWORD", f.flag)
	u, err := url.Parse(f.url)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Host == "" {
		return nil, wrong
	}
	opts, err := redis.ParseURL(f.url)
	if err != nil {
		return nil, wrong
	}
	if opts.DB != 0 {
		return nil, usagef("--%s names a database, but backups are of all databases: leave the number out", f.flag)
	}
	if err := a.password(f, opts); err != nil {
		return nil, err
	}
	if opts.TLSConfig == nil {
		if f.caCert != "" || f.cert != "" || f.key != "" {
			return nil, usagef("--cacert, --cert and --key are for TLS: write rediss:// in --%s", f.flag)
		}
		return opts, nil
	}
	return opts, f.tls(opts.TLSConfig)
}

func (a *app) password(f *serverFlags, opts *redis.Options) error {
	switch {
	case opts.Password != "" && f.passwordFile != "":
		return usagef("--%s holds a password and --password-file is given too: leave one of them out", f.flag)
	case opts.Password != "":
	case f.passwordFile != "":
		in, err := a.open(f.passwordFile)
		if err != nil {
			return fmt.Errorf("--password-file: %w", err)
		}
		defer in.Close()
		text, err := io.ReadAll(io.LimitReader(in, 64<<10))
		if err != nil {
			return fmt.Errorf("--password-file: %w", err)
		}
		opts.Password = string(bytes.TrimRight(text, "\r\n"))
		if opts.Password == "" {
			return fmt.Errorf("--password-file %s holds no password", f.passwordFile)
		}
	default:
		opts.Password = a.env("AMBER_" + strings.ToUpper(f.flag) + "_PASSWORD")
		if opts.Password == "" {
			opts.Password = a.env("AMBER_PASSWORD")
		}
	}
	a.console.hide(opts.Password)
	return nil
}

// tls adds what the flags say to the configuration that the URL made.
func (f *serverFlags) tls(cfg *tls.Config) error {
	if f.caCert != "" {
		pem, err := os.ReadFile(f.caCert)
		if err != nil {
			return fmt.Errorf("--cacert: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--cacert: %s holds no certificate in PEM form", f.caCert)
		}
	}
	cert, err := keyPair("--cert", f.cert, "--key", f.key)
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	return err
}

// keyPair reads a certificate and its key; none if neither is given.
func keyPair(certFlag, cert, keyFlag, key string) (*tls.Certificate, error) {
	switch {
	case cert == "" && key == "":
		return nil, nil
	case cert == "" || key == "":
		return nil, usagef("%s and %s go together", certFlag, keyFlag)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", certFlag, keyFlag, err)
	}
	return &pair, nil
}

// open opens a file for reading; - is standard input.
func (a *app) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(a.stdin), nil
	}
	return os.Open(name)
}

// secretsOf returns what may be passwords in arguments that look like URLs, however badly they are written.
func secretsOf(args []string) []string {
	var secrets []string
	for _, arg := range args {
		if i := strings.Index(strings.ToLower(arg), "http"); i >= 0 && strings.Contains(arg[i:], "://") {
			secrets = append(secrets, secretsOfURL(arg[i:])...)
		}
		if isSecret(arg) {
			secrets = append(secrets, arg[strings.Index(strings.ToUpper(arg), "AGE-SECRET-KEY-"):])
		}
		_, rest, ok := strings.Cut(arg, "://")
		at := strings.LastIndexByte(rest, '@')
		if !ok || at < 0 {
			continue
		}
		_, secret, ok := strings.Cut(rest[:at], ":")
		if !ok || secret == "" {
			continue
		}
		secrets = append(secrets, secret)
		if plain, err := url.PathUnescape(secret); err == nil {
			secrets = append(secrets, plain)
		}
	}
	return secrets
}
