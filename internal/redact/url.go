package redact

import "regexp"

// What of a URL may be a secret: who logs in, and the query, which may be signed. A password may have anything but what ends a URL in a text.
var (
	login = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/"'<>]*@`)
	query = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s?"'<>]*\?)[^\s"'<>]+`)
)

// URLs returns text without the logins and queries of the URLs in it.
func URLs(text string) string {
	text = login.ReplaceAllString(text, "${1}"+Mask+"@")
	return query.ReplaceAllString(text, "${1}"+Mask)
}
