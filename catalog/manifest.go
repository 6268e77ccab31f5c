package catalog

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/amberkv/amber/internal/sealed"
	"github.com/amberkv/amber/storage"
)

// MaxManifestLen is the largest manifest that is written or read, in bytes.
const MaxManifestLen = 8 << 20

// The most that a manifest may tell of recipients. A hybrid one has 1959 bytes.
const (
	maxRecipients   = 1000
	maxRecipientLen = 4096
)

// Prefix returns what the keys of all the backup's objects begin with: "<data store>/<id>/".
func (b *Backup) Prefix() string { return b.DataStore + "/" + string(b.ID) + "/" }

// Encode returns the manifest of b: indented JSON, to be read by people too, whose last field "sha256" is the hash of
// every byte before it, in 64 hexadecimal digits. A manifest of which a bit was changed or the end was cut does not pass
// Decode; who can write manifests can also seal them, so the hash is no signature: see Sign. Format is the current one, but for a
// signed manifest, which keeps its own. The error says what is wrong with b.
func Encode(b *Backup) ([]byte, error) {
	manifest := *b
	if manifest.Signature == nil {
		manifest.Format = Format
	}
	if err := manifest.validate(); err != nil {
		return nil, fmt.Errorf("manifest of backup %q: %w", b.ID, err)
	}
	data, err := sealed.Encode(&manifest, MaxManifestLen)
	if err != nil {
		return nil, fmt.Errorf("manifest of backup %s: %w", b.ID, err)
	}
	return data, nil
}

// Decode reads a manifest that Encode wrote. The error wraps ErrCorrupt and says why the manifest can't be trusted: it was cut or
// changed, holds what no manifest may hold, such as the key of a part outside of the backup's own prefix, or was
// written by a newer Amber.
func Decode(data []byte) (*Backup, error) {
	b, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return b, nil
}

func decode(data []byte) (*Backup, error) {
	b := new(Backup)
	if err := sealed.Decode(data, b, Format, MaxManifestLen); err != nil {
		return nil, err
	}
	return b, b.validate()
}

// validate says what is wrong with b, as far as a manifest can tell by itself.
func (b *Backup) validate() error {
	if b.Format < 1 || b.Format > Format {
		return fmt.Errorf("format %d does not exist", b.Format)
	}
	if _, ok := b.ID.Time(); !ok {
		return fmt.Errorf("the ID %.40q is not one that NewID makes", b.ID)
	}
	if err := ValidName(b.DataStore); err != nil {
		return fmt.Errorf("data store %.40q: %w", b.DataStore, err)
	}
	if err := ValidName(string(b.Kind)); err != nil {
		return fmt.Errorf("kind %.40q: %w", b.Kind, err)
	}
	if b.Name != "" {
		if err := ValidName(b.Name); err != nil {
			return fmt.Errorf("name %.40q: %w", b.Name, err)
		}
	}
	if b.Policy != "" {
		if err := ValidName(b.Policy); err != nil {
			return fmt.Errorf("policy %.40q: %w", b.Policy, err)
		}
	}
	if err := ValidLabels(b.Labels); err != nil {
		return err
	}
	switch b.State {
	case StateRunning, StateReady, StateFailed, StateInterrupted, StateDeleting:
	default:
		return fmt.Errorf("the state %.40q does not exist", b.State)
	}
	if b.State == StateReady && len(b.Parts) == 0 {
		return errors.New("it is ready but has no parts")
	}
	for name, n := range map[string]int64{
		"keys": b.Keys, "expires": b.Expires, "functions": b.Functions, "rawBytes": b.RawBytes, "bytes": b.StoredBytes,
		"token": b.Token, "usedMemory": b.Source.UsedMemory, "commands": b.Commands, "spread": int64(b.Source.Spread),
	} {
		if n < 0 {
			return fmt.Errorf("%s is negative: %d", name, n)
		}
	}
	for _, db := range b.DBs {
		if db.Index < 0 || db.Keys < 0 || db.Expires < 0 {
			return fmt.Errorf("database %d: a number is negative", db.Index)
		}
		for name, n := range db.Types {
			if n < 0 {
				return fmt.Errorf("database %d: the number of %.40q is negative", db.Index, name)
			}
		}
	}
	for _, m := range b.Modules {
		if m.Version < 0 || m.Keys < 0 || m.Aux < 0 {
			return fmt.Errorf("module %.40q: a number is negative", m.Name)
		}
	}
	names, keys := make(map[string]bool), make(map[string]bool)
	for _, p := range b.Parts {
		if err := b.validatePart(p); err != nil {
			return fmt.Errorf("part %.40q: %w", p.Name, err)
		}
		if names[p.Name] || keys[p.Key] {
			return fmt.Errorf("part %q: another part has its name or key", p.Name)
		}
		names[p.Name], keys[p.Key] = true, true
	}
	return b.validateSealing()
}

// validateSealing says what is wrong with what is told of encryption and signature.
func (b *Backup) validateSealing() error {
	if len(b.Recipients) > maxRecipients {
		return fmt.Errorf("it has %d recipients, the limit is %d", len(b.Recipients), maxRecipients)
	}
	for _, r := range b.Recipients {
		if r == "" || len(r) > maxRecipientLen {
			return fmt.Errorf("the recipient %.40q has %d bytes, and may have 1 to %d", r, len(r), maxRecipientLen)
		}
	}
	if s := b.Signature; s != nil && (len(s.Key) != ed25519.PublicKeySize || len(s.Value) != ed25519.SignatureSize) {
		return fmt.Errorf("its signature has %d bytes and the signer's key %d; they have %d and %d in Ed25519",
			len(s.Value), len(s.Key), ed25519.SignatureSize, ed25519.PublicKeySize)
	}
	return nil
}

func (b *Backup) validatePart(p Part) error {
	if err := ValidName(p.Name); err != nil {
		return err
	}
	if err := storage.ValidKey(p.Key); err != nil {
		return err
	}
	if p.Adopted {
		if err := p.validAdopted(b.State); err != nil {
			return err
		}
	} else {
		object, ok := strings.CutPrefix(p.Key, b.Prefix())
		if !ok {
			return fmt.Errorf("its key %q does not begin with %q", p.Key, b.Prefix())
		}
		// Whoever deletes the parts must not delete the manifest.
		if object == "run.json" || strings.HasPrefix(object, "manifest") {
			return fmt.Errorf("its key %q is one of the manifest's", p.Key)
		}
	}
	if p.Size < 0 || p.RawSize < 0 || p.Keys < 0 || p.Commands < 0 {
		return errors.New("a number is negative")
	}
	if p.Shard != nil {
		for _, r := range p.Shard.Slots {
			if r.First < 0 || r.Last < r.First || r.Last > 16383 {
				return fmt.Errorf("its slots %d to %d are none", r.First, r.Last)
			}
		}
	}
	sums := []string{p.SHA256}
	switch encrypted := p.Encryption != ""; {
	case encrypted != (len(b.Recipients) > 0):
		return fmt.Errorf("its encryption is %.40q, and the backup has %d recipients", p.Encryption, len(b.Recipients))
	case !encrypted:
		sums = append(sums, p.RawSHA256)
	case p.RawSHA256 != "":
		return errors.New("it is encrypted, and yet the hash of its raw bytes is told")
	}
	for _, sum := range sums {
		if sum == "" && b.State != StateReady {
			continue // not known before the part is whole
		}
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size || strings.ToLower(sum) != sum {
			return fmt.Errorf("%.80q is not a SHA-256 in hexadecimal", sum)
		}
	}
	return nil
}

// validAdopted says what is wrong with a part that is adopted. Its key may be any that Amber has none of: so the objects that
// are deleted with backups and those that are adopted have nothing in common, whatever a manifest says, and no manifest gives
// away what another backup holds.
func (p *Part) validAdopted(state State) error {
	if Reserved(p.Key) {
		return fmt.Errorf("it is adopted, and its key %q is one that Amber has itself", p.Key)
	}
	if state == StateReady && (p.Compression != "none" || p.Size != p.RawSize || p.SHA256 != p.RawSHA256) {
		return errors.New("it is adopted, and not said to be as its server wrote it")
	}
	return nil
}

// own are what the keys of everything begin with that isn't below a backup's prefix: no name of a data store begins with "_".
var own = []string{"_leases", "_index", "_schedule", "_usage"}

// Reserved tells whether a key belongs to those that Amber has itself: below a backup's prefix, or below "_leases" or another of the places where
// it keeps what isn't a backup, in this store or in one that begins at some directory of it. What has such a key is never adopted.
func Reserved(key string) bool {
	for segment := range strings.SplitSeq(key, "/") {
		if _, isID := ID(segment).Time(); isID || slices.Contains(own, segment) {
			return true
		}
	}
	return false
}
