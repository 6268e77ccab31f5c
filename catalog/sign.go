package catalog

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// ErrNotTrusted: a manifest has no signature, or none of somebody who is trusted, or was changed since.
var ErrNotTrusted = errors.New("manifest has no signature that is trusted")

// A Signature is that of a manifest, by Ed25519.
type Signature struct {
	Key   []byte `json:"key"`   // the signer's public key, 32 bytes, in base64
	Value []byte `json:"value"` // 64 bytes, in base64
}

// Sign signs a manifest, in place of the signature that it has. The signature is over everything else that the manifest says, so it is made last;
// and since the manifest has the hash of every part, it holds for these, too. It says that who has the key made this backup, which encryption
// doesn't: for a public key anybody can encrypt.
//
// It holds for as long as nothing of the manifest is changed: in every store that the backup is copied to, but not in a later state. A backup that is
// deleted loses it.
//
// The signer is an ed25519.PrivateKey, or one whose key is elsewhere, which is given 79 bytes to sign and no hash.
func Sign(b *Backup, signer crypto.Signer) error {
	key, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("signing the manifest of %s: the key is a %T, it has to be an Ed25519 one", b.ID, signer.Public())
	}
	text, err := signed(b)
	if err != nil {
		return err
	}
	value, err := signer.Sign(rand.Reader, text, crypto.Hash(0))
	if err != nil {
		return fmt.Errorf("signing the manifest of %s: %w", b.ID, err)
	}
	// A signer that isn't in this process may be another than it says.
	if !ed25519.Verify(key, text, value) {
		return fmt.Errorf("signing the manifest of %s: the signature is not one of the signer's key", b.ID)
	}
	b.Signature = &Signature{Key: slices.Clone(key), Value: value}
	return nil
}

// CheckSignature returns nil if the manifest was signed with one of the trusted keys, and nothing of it was changed since. The error wraps
// ErrNotTrusted and says which of these it is.
func CheckSignature(b *Backup, trusted []ed25519.PublicKey) error {
	if b.Signature == nil {
		return fmt.Errorf("backup %s: %w: it is not signed", b.ID, ErrNotTrusted)
	}
	key := ed25519.PublicKey(b.Signature.Key)
	if !slices.ContainsFunc(trusted, func(t ed25519.PublicKey) bool { return len(t) == ed25519.PublicKeySize && t.Equal(key) }) {
		return fmt.Errorf("backup %s: %w: it is signed with %s, which is not among the %d trusted keys", b.ID, ErrNotTrusted,
			base64.StdEncoding.EncodeToString(key), len(trusted))
	}
	text, err := signed(b)
	if err != nil {
		return err
	}
	if !ed25519.Verify(key, text, b.Signature.Value) {
		return fmt.Errorf("backup %s: %w: it was changed after it was signed", b.ID, ErrNotTrusted)
	}
	return nil
}

// signed returns what is signed of a manifest: a line that says what it is about, and the SHA-256 of the canonical encoding. That
// is the JSON that this package writes of all fields but the signature, without space.
//
// Fields that are added to a manifest have to be left out of its JSON where they are empty: a manifest that was signed
// before they existed is then encoded as it was, and its signature holds.
func signed(b *Backup) ([]byte, error) {
	manifest := *b
	manifest.Signature = nil
	first, err := compact(&manifest)
	if err != nil {
		return nil, err
	}
	// What is read back from a store may be encoded otherwise than what was written: text that isn't UTF-8, times of other zones. After one
	// time it stays the same.
	var again Backup
	if err := json.Unmarshal(first, &again); err != nil {
		return nil, fmt.Errorf("manifest of backup %s: %w", b.ID, err)
	}
	canonical, err := compact(&again)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(canonical)
	return []byte("amber manifest\n" + hex.EncodeToString(sum[:])), nil
}

func compact(b *Backup) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(b); err != nil {
		return nil, fmt.Errorf("manifest of backup %s: %w", b.ID, err)
	}
	return buf.Bytes(), nil
}
