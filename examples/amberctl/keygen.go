package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
	"github.com/spf13/cobra"
)

// generated is what "keygen --json" says of a key.
type generated struct {
	File   string `json:"file"`   // that holds the secret
	Kind   string `json:"kind"`   // "age" or "ed25519"
	Public string `json:"public"` // for --encrypt-to, or for --trust
}

func (a *app) keygenCommand() *cobra.Command {
	var sign, hybrid bool
	cmd := &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make a key to encrypt or sign backups",
		Long: `Make a key, write its secret to a new file that only you can read, and print what is public of it.

Backups are encrypted for the public key with "backup --encrypt-to KEY"; "restore --identity FILE" opens them. Keep FILE where the machine
that makes backups can't read it, and a copy: without it nobody can open what was encrypted for it alone.

With --sign it is a key to sign with, by "backup --sign-key FILE"; "restore --trust KEY" then refuses all backups that aren't signed.`,
		Example: `  amberctl keygen orders.key
  amberctl keygen --sign signing.pem`,
		Args: takes(1, 1, "FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			if sign && hybrid {
				return usagef("--sign and --hybrid exclude each other")
			}
			g, secret, err := newKey(args[0], sign, hybrid)
			if err != nil {
				return err
			}
			if err := writeSecret(args[0], secret); err != nil {
				return err
			}
			return a.print(g, func(w io.Writer) { fmt.Fprintln(w, g.Public) })
		},
	}
	cmd.Flags().BoolVar(&sign, "sign", false, "a key to sign with, of Ed25519, in PEM form")
	cmd.Flags().BoolVar(&hybrid, "hybrid", false, "a key that is safe from quantum computers as well; its public key has 1959 characters")
	return cmd
}

// newKey makes a key, and the text of the file that holds it.
func newKey(file string, sign, hybrid bool) (generated, string, error) {
	g := generated{File: file, Kind: "age"}
	var identity string
	switch {
	case sign:
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return g, "", err
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			return g, "", err
		}
		g.Kind, g.Public = "ed25519", base64.StdEncoding.EncodeToString(public)
		return g, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
	case hybrid:
		key, err := age.GenerateHybridIdentity()
		if err != nil {
			return g, "", err
		}
		identity, g.Public = key.String(), key.Recipient().String()
	default:
		key, err := age.GenerateX25519Identity()
		if err != nil {
			return g, "", err
		}
		identity, g.Public = key.String(), key.Recipient().String()
	}
	return g, fmt.Sprintf("# public key: %s\n%s\n", g.Public, identity), nil
}

// writeSecret writes a file that only its owner can read, and that must not exist.
func writeSecret(file, text string) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("the key's file, which has to be a new one: %w", err)
	}
	defer func() {
		if err != nil { // half a key is none
			os.Remove(file)
		}
	}()
	if _, err = f.WriteString(text); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
