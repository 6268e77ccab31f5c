package fetch

import (
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"
)

// TestQuote: however the secret is escaped or cut, a text with it isn't shown; a text without it is.
func TestQuote(t *testing.T) {
	const secret = "CANARY/zQ7x+W4pLm2vK9=="
	var tr trail
	u, err := url.Parse("https://h/a%3Ftoken=HIDDENzq81Xb?X-Amz-Signature=" + url.QueryEscape(secret) + "&X-Amz-Expires=60&lonelyTOKENkey&k=ab12#FRAGMENTsecret")
	if err != nil {
		t.Fatal(err)
	}
	tr.add(u)
	u, _ = url.Parse("https://USERNAMEsecret:PASSWORDsecret@h/?a=REDIRECTEDsecret;b=SEMICOLONsecret")
	tr.add(u)
	every := func(format string) string {
		var s strings.Builder
		for _, c := range []byte(secret) {
			fmt.Fprintf(&s, format, c)
		}
		return s.String()
	}
	quoted, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"plain": secret, "lower": strings.ToLower(secret), "upper": strings.ToUpper(secret), "escaped": url.QueryEscape(secret), "escaped twice": url.QueryEscape(url.QueryEscape(secret)),
		"escaped thrice": url.QueryEscape(url.QueryEscape(url.QueryEscape(secret))), "in a path": url.PathEscape(secret), "HTML": html.EscapeString(secret), "JSON": string(quoted),
		"all %": every("%%%02x"), "all % in capitals": every("%%%02X"), "all % twice": every("%%25%02x"), "all \\x": every(`\x%02x`), "all \\u": every(`\u%04x`), "all &#": every("&#%d;"), "all &#x": every("&#x%x;"),
		"over lines": strings.Join(strings.Split(secret, ""), "\n"), "with blanks": strings.Join(strings.Split(secret, ""), " "), "a piece": secret[8:18], "its beginning": secret[:9], "its end": secret[11:],
		"the other's": "x REDIRECTEDsecret", "behind a ;": "SEMICOLONsecret", "a key": "lonelytokenkey", "short": "k is ab12!", "user": "usernameSECRET", "password": "PASSWORDsecret", "fragment": "FRAGMENTsecret", "with its ? escaped": "HIDDENzq81Xb",
	} {
		if got := tr.quote("before " + text + " after"); got != withheld {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, text := range []string{"Request has expired", "X-Amz-Expires must be less than a week", "dial tcp 192.0.2.1:443: connect: connection refused", "%", "100%", `\u`, `\x4`, "&#", "CANARY"} {
		if got := tr.quote(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got := tr.quote("a\r\n\tb\x00\x1b[31mc" + strings.Repeat("ü", 300)); strings.ContainsAny(got, "\r\n\t\x00\x1b") || len(got) > maxQuote+3 || !strings.HasSuffix(got, "ü…") {
		t.Errorf("%q", got)
	}
	if got := shown(must(url.Parse("https://h:8/a%2Fb%3ftoken=HIDDENzq81Xb?q"))); got != "https://h:8/a/b…" {
		t.Error(got)
	}
	if got := shown(must(url.Parse("https://h:8/a%2Fb%20c?q"))); got != "https://h:8/a%2Fb%20c" {
		t.Error(got)
	}
}

func must(u *url.URL, err error) *url.URL {
	if err != nil {
		panic(err)
	}
	return u
}
