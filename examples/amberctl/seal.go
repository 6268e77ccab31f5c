package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/storage/seal"
)

// sealFlags say how backups are compressed, encrypted and signed.
type sealFlags struct {
	compress   string
	encryptTo  []string
	passphrase bool
	signKey    string
}

// openFlags say how backups are opened and whose are trusted.
type openFlags struct {
	identities []string
	passphrase bool
	trust      []string
}

const (
	encryptToHelp = "encrypt for an age public key (age1...), or for those in a file (@FILE); repeatable"
	signKeyHelp   = "sign with the Ed25519 key in a PEM file, as 'amberctl keygen --sign' writes it"
)

func (f *sealFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.compress, "compress", seal.Fastest, "none, or a level of zstd: fastest, fast, better or best")
	flags.StringArrayVar(&f.encryptTo, "encrypt-to", nil, encryptToHelp)
	flags.BoolVar(&f.passphrase, "passphrase", false, "encrypt with a passphrase, from $AMBER_PASSPHRASE or a terminal")
	flags.StringVar(&f.signKey, "sign-key", "", signKeyHelp)
}

func (f *openFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.identities, "identity", nil, "file of age identities that open encrypted backups; repeatable ($AMBER_IDENTITY)")
	flags.BoolVar(&f.passphrase, "passphrase", false, "open with a passphrase, from $AMBER_PASSPHRASE or a terminal")
	flags.StringArrayVar(&f.trust, "trust", nil, "refuse backups that aren't signed with this public key, or one of those in a file (@FILE); repeatable")
}

// sealing puts into the configuration what the flags say about making backups.
func (a *app) sealing(f *sealFlags, cfg *amber.Config) error {
	if f.compress == seal.None {
		cfg.Compression = seal.None
	} else {
		cfg.Level = f.compress
	}
	for _, text := range f.encryptTo {
		recipients, err := recipients(text)
		if err != nil {
			return err
		}
		cfg.Recipients = append(cfg.Recipients, recipients...)
	}
	if f.passphrase {
		if len(f.encryptTo) > 0 {
			return usagef("--passphrase and --encrypt-to exclude each other")
		}
		text, err := a.passphrase(true)
		if err != nil {
			return err
		}
		recipient, err := age.NewScryptRecipient(text)
		if err != nil {
			return err
		}
		cfg.Recipients = []age.Recipient{recipient}
	}
	opts := seal.Options{Compression: cfg.Compression, Level: cfg.Level, Recipients: cfg.Recipients}
	if err := opts.Validate(); err != nil {
		return usagef("--compress, --encrypt-to: %w", err)
	}
	if f.signKey == "" {
		return nil
	}
	var err error
	cfg.Signer, err = signingKey(f.signKey)
	return err
}

// opening puts into the configuration what the flags say about reading backups.
func (a *app) opening(f *openFlags, cfg *amber.Config) error {
	files := f.identities
	if env := a.env("AMBER_IDENTITY"); len(files) == 0 && env != "" {
		files = []string{env}
	}
	for _, name := range files {
		if isSecret(name) {
			return usagef("--identity takes a file, not the identity itself: everybody on a machine can see command lines")
		}
		in, err := a.open(name)
		if err != nil {
			return fmt.Errorf("--identity: %w", err)
		}
		ids, err := age.ParseIdentities(in)
		in.Close()
		if err != nil {
			return fmt.Errorf("--identity %s: %w", name, err)
		}
		cfg.Identities = append(cfg.Identities, ids...)
	}
	if f.passphrase {
		text, err := a.passphrase(false)
		if err != nil {
			return err
		}
		id, err := age.NewScryptIdentity(text)
		if err != nil {
			return err
		}
		id.SetMaxWorkFactor(18) // what backup uses; more would be somebody else's, who wants our memory
		cfg.Identities = append(cfg.Identities, id)
	}
	for _, text := range f.trust {
		keys, err := publicKeys(text)
		if err != nil {
			return err
		}
		cfg.Trust = append(cfg.Trust, keys...)
	}
	return nil
}

// isSecret tells whether a word of the command line is an age identity by mistake.
func isSecret(word string) bool { return strings.Contains(strings.ToUpper(word), "AGE-SECRET-KEY-") }

// recipients are those that a value of --encrypt-to means.
func recipients(text string) ([]age.Recipient, error) {
	if isSecret(text) {
		return nil, usagef("--encrypt-to takes a public key (age1...), not an identity, which is secret")
	}
	file, ok := strings.CutPrefix(text, "@")
	if !ok {
		list, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(list) != 1 {
			return nil, usagef("--encrypt-to %.80q is no age public key: write age1..., or @FILE", text)
		}
		return list, nil
	}
	in, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("--encrypt-to: %w", err)
	}
	defer in.Close()
	list, err := age.ParseRecipients(in)
	if err != nil {
		return nil, fmt.Errorf("--encrypt-to %s: %w", text, err)
	}
	return list, nil
}

// publicKeys are those that a value of --trust means.
func publicKeys(text string) ([]ed25519.PublicKey, error) {
	lines := []string{text}
	if file, ok := strings.CutPrefix(text, "@"); ok {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--trust: %w", err)
		}
		lines = strings.Split(string(data), "\n")
	}
	var keys []ed25519.PublicKey
	for i, line := range lines {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, usagef("--trust %.80q: line %d is no public key: 'amberctl keygen --sign' prints one, 44 characters of base64", text, i+1)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, usagef("--trust %.80q: there is no key in it", text)
	}
	return keys, nil
}

// signingKey reads a private key in PEM form (PKCS #8).
func signingKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--sign-key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("--sign-key: %s holds no private key in PEM form: 'amberctl keygen --sign' or 'openssl genpkey -algorithm ed25519' makes one", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("--sign-key: %s holds a private key that can't be read", file) // its error may quote the key
	}
	signer, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("--sign-key: the key in %s is a %T, it has to be an Ed25519 one", file, key)
	}
	return signer, nil
}

// passphrase takes a passphrase from the environment, or asks for it at the terminal: twice if it is a new one.
func (a *app) passphrase(new bool) (string, error) {
	text := a.env("AMBER_PASSPHRASE")
	if text == "" {
		terminal, ok := a.stdin.(*os.File)
		if !ok || !term.IsTerminal(int(terminal.Fd())) {
			return "", usagef("--passphrase: set AMBER_PASSPHRASE, for there is no terminal to ask at")
		}
		ask := func(what string) (string, error) {
			io.WriteString(a.console, what)
			text, err := term.ReadPassword(int(terminal.Fd()))
			io.WriteString(a.console, "\n")
			return string(text), err
		}
		var err error
		if text, err = ask("Passphrase: "); err != nil {
			return "", fmt.Errorf("reading the passphrase: %w", err)
		}
		if new {
			again, err := ask("Once more: ")
			if err != nil {
				return "", fmt.Errorf("reading the passphrase: %w", err)
			}
			if again != text {
				return "", errors.New("the passphrases differ")
			}
		}
	}
	if text == "" {
		return "", errors.New("the passphrase is empty")
	}
	a.console.hide(text)
	return text, nil
}
