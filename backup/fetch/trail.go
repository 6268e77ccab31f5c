package fetch

import (
	"context"
	"html"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// window is how many letters and digits in a row of a secret make a text unfit to be shown.
const window = 8

// maxQuote is how much of a text that somebody else wrote is shown, in bytes.
const maxQuote = 300

// withheld stands for a text that isn't shown.
const withheld = "[withheld, for it quotes the URL]"

// A trail knows the secrets of all URLs that a request came to. Servers and libraries quote URLs, whole, cut, escaped and
// re-ordered; what they write is shown only if nothing of these secrets is in it.
type trail struct {
	mu      sync.Mutex
	secrets map[string]bool // letters and digits only, in lower case
}

type trailKey struct{}

func withTrail(ctx context.Context, t *trail) context.Context {
	return context.WithValue(ctx, trailKey{}, t)
}

// trailOf returns the trail of a request; one that nobody looks at if it has none.
func trailOf(ctx context.Context) *trail {
	if t, ok := ctx.Value(trailKey{}).(*trail); ok {
		return t
	}
	return &trail{}
}

// add takes down the secrets of a URL: its query, user name, password and fragment.
func (t *trail) add(u *url.URL) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.secrets == nil {
		t.secrets = make(map[string]bool)
	}
	note := func(s string) {
		if s = plain(s); len(s) >= 4 {
			t.secrets[s] = true
		}
	}
	_, escaped, _ := strings.Cut(u.Path, "?")
	for _, piece := range strings.FieldsFunc(u.RawQuery+"&"+escaped, func(c rune) bool { return c == '&' || c == ';' }) {
		key, value, _ := strings.Cut(piece, "=")
		note(value)
		if name := strings.ToLower(key); len(key) >= window && !strings.HasPrefix(name, "x-amz-") && !strings.HasPrefix(name, "x-goog-") {
			note(key)
		}
	}
	if u.User != nil {
		note(u.User.String())
	}
	note(u.Fragment)
}

// quote returns a text that somebody else wrote as far as it is fit to be shown, in one line.
func (t *trail) quote(text string) string {
	if t.tells(text) {
		return withheld
	}
	text = strings.Join(strings.FieldsFunc(text, func(c rune) bool { return c <= ' ' || c == 0x7f || !strconv.IsPrint(c) }), " ")
	if len(text) > maxQuote {
		text = strings.ToValidUTF8(text[:maxQuote], "") + "…"
	}
	return text
}

// tells says whether a text holds something of a secret.
func (t *trail) tells(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	flat := plain(text)
	for secret := range t.secrets {
		n := min(window, len(secret))
		for i := 0; i+n <= len(secret); i++ {
			if strings.Contains(flat, secret[i:i+n]) {
				return true
			}
		}
	}
	return false
}

// plain takes the escapes of URLs, HTML and JSON back and leaves letters and digits only, in lower case.
func plain(s string) string {
	for range 3 {
		s = html.UnescapeString(unescape(s))
	}
	return strings.Map(func(c rune) rune {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', c > 0x7f:
			return c
		case 'A' <= c && c <= 'Z':
			return c - 'A' + 'a'
		}
		return -1
	}, s)
}

// unescape takes %41, \x41 and \u0041 for the letter that they stand for; what is no escape stays.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		at, n := i+1, 2
		switch {
		case strings.HasPrefix(s[i:], `\x`):
			at = i + 2
		case strings.HasPrefix(s[i:], `\u`):
			at, n = i+2, 4
		case s[i] != '%':
			n = 0
		}
		if c, err := strconv.ParseUint(s[min(at, len(s)):min(at+n, len(s))], 16, 16); err == nil {
			out.WriteString(string(rune(c)))
			i = at + n - 1
			continue
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
