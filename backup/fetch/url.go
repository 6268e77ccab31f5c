package fetch

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// parseURL reads a URL as a person or a program gives it. The errors don't quote it: wherever it is wrong, that may be its secret.
func (p *Policy) parseURL(raw string) (*url.URL, error) {
	if raw == "" {
		return nil, refuse("the URL is empty")
	}
	for _, c := range []byte(raw) {
		if c <= ' ' || c == 0x7f || c == '\\' {
			return nil, refuse("the URL holds a blank, a line break, a backslash or the like; inside a name they are written as %%20, %%5C …")
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, refuse("the URL can't be read; it has to look like https://host/path, and its host must not hold percent signs or others that names don't have")
	}
	if strings.Contains(raw, "#") {
		return nil, refuse("the URL has a fragment, which would not be sent; a # in a name is written as %%23")
	}
	return u, p.checkURL(u)
}

// checkURL returns nil for a URL that may be asked for, as far as that can be told without looking its host up.
func (p *Policy) checkURL(u *url.URL) error {
	switch u.Scheme {
	case "https":
	case "http":
		if !p.AllowHTTP {
			return refuse("the URL is http, which anybody on the way can read and change; use https, or set Policy.AllowHTTP")
		}
	default:
		return refuse("the URL has another scheme than https and http")
	}
	switch {
	case u.User != nil:
		return refuse("the URL holds a user name or password; use a signed URL")
	case u.Opaque != "" || u.Host == "":
		return refuse("the URL has no host")
	}
	host := u.Hostname()
	if port := strings.TrimPrefix(u.Host[strings.LastIndexByte(u.Host, ']')+1:], host); port != "" {
		if n, err := strconv.ParseUint(port[1:], 10, 16); err != nil || n == 0 {
			return refuse("the URL has a port that is none")
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return p.checkAddr(addr)
	}
	return checkName(host)
}

// checkName returns nil for a host's name. What other programs would take for an address is none: 2130706433, 0x7f.1, 127.1.
func checkName(host string) error {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if len(host) > 254 {
		return refuse("the URL's host is no name")
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return refuse("the URL's host is no name")
		}
		for _, c := range []byte(label) {
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return refuse("the URL's host holds other characters than letters, digits, - and _; names in other scripts are written as xn--…")
			}
		}
	}
	last := strings.ToLower(labels[len(labels)-1])
	_, hex := strings.CutPrefix(last, "0x")
	if hex && strings.Trim(last[2:], "0123456789abcdef") == "" || strings.Trim(last, "0123456789") == "" {
		return refuse("the URL's host is a number; an IPv4 address is written with four decimal numbers, like 192.0.2.1")
	}
	return nil
}

// shown returns what of a URL may be told: all but its query, and what would be one had its ? not been escaped.
func shown(u *url.URL) string {
	path := u.EscapedPath()
	if before, _, found := strings.Cut(u.Path, "?"); found {
		path = (&url.URL{Path: before}).EscapedPath() + "…"
	}
	return u.Scheme + "://" + u.Host + path
}
