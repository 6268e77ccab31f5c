package seal

import (
	"fmt"
	"slices"

	"filippo.io/age"
)

// Passphrase is what Names calls a passphrase.
const Passphrase = "passphrase"

func passphrase(r age.Recipient) bool {
	_, ok := r.(*age.ScryptRecipient)
	return ok
}

// Names returns what tells recipients apart, and is no secret: public keys as text, Passphrase for a passphrase, and of recipients that
// have no text the name of their type.
func Names(recipients []age.Recipient) []string {
	var names []string
	for _, r := range recipients {
		text, ok := r.(fmt.Stringer)
		switch {
		case passphrase(r):
			names = append(names, Passphrase)
		case ok:
			names = append(names, text.String())
		default:
			names = append(names, fmt.Sprintf("%T", r))
		}
	}
	return names
}

// MayOpen tells whether one of the identities may open what was sealed for recipients of these names. It is true as well if that isn't known: an
// identity that isn't age's own doesn't say which recipient is its. A passphrase may be another one.
func MayOpen(names []string, identities []age.Identity) bool {
	return slices.ContainsFunc(identities, func(id age.Identity) bool {
		switch id := id.(type) {
		case *age.X25519Identity:
			return slices.Contains(names, id.Recipient().String())
		case *age.HybridIdentity:
			return slices.Contains(names, id.Recipient().String())
		case *age.ScryptIdentity:
			return slices.Contains(names, Passphrase)
		}
		return true
	})
}
