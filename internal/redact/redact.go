// Package redact keeps secrets out of texts that others wrote, such as a server's error reply that quotes the command
// it refused.
package redact

import "strings"

// Mask is what stands in a text where a secret was.
const Mask = "***"

// clue is how many bytes of a secret's beginning are enough to be taken for it: whoever quotes a long secret may cut it.
const clue = 6

// String returns text with each secret replaced by Mask, also where only its beginning is there or its line breaks
// became blanks. Empty secrets are ignored.
func String(text string, secrets ...string) string {
	// Whole ones first: secrets may begin alike.
	for _, whole := range []bool{true, false} {
		for _, secret := range secrets {
			if secret != "" {
				text = mask(text, secret, whole)
			}
		}
	}
	return text
}

func mask(text, secret string, whole bool) string {
	flat := flatten(text)
	secret = flatten(secret)
	start := secret
	if !whole {
		start = secret[:min(clue, len(secret))]
	}
	var out strings.Builder
	at := 0
	for {
		i := strings.Index(flat[at:], start)
		if i < 0 {
			break
		}
		out.WriteString(text[at : at+i])
		out.WriteString(Mask)
		at += i + common(flat[at+i:], secret)
	}
	if at == 0 {
		return text
	}
	out.WriteString(text[at:])
	return out.String()
}

// flatten makes line breaks blanks and leaves each byte's place as it is.
func flatten(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }

// common returns how many bytes a and b begin with in common.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
