package fetch

import (
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// Kinds of errors that a program may want to tell apart, beside ErrRefused. Each *Error wraps at most one.
var (
	// ErrStatus: the server answered with a status that means no; Error.Status has it.
	ErrStatus = errors.New("the server refused")
	// ErrChanged: the object is not the one any more that was begun to be read.
	ErrChanged = errors.New("the object was changed meanwhile")
	// ErrTooLarge: there is more than Config.MaxBytes.
	ErrTooLarge = errors.New("larger than allowed")
	// ErrNotSnapshot: what is at the URL is something else than a snapshot.
	ErrNotSnapshot = errors.New("that is no snapshot")
	// ErrCut: the transfer ended early and could not be continued, or its end can't be told.
	ErrCut = errors.New("the transfer is not whole")
)

// An Error tells what failed, where, and what to do. It never holds a URL's query.
type Error struct {
	URL    string // scheme://host/path
	Status int    // of the server's answer; 0 if there was none, or it wasn't the reason
	Err    error  // what happened; it wraps one of this package's errors where one fits, or the context's
	Hint   string // what to do, or where to look; may be empty
}

// Error tells all of it in one line.
func (e *Error) Error() string {
	text := "fetch: " + e.URL + ": " + e.Err.Error()
	if e.Hint != "" {
		text += ": " + e.Hint
	}
	return text
}

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

// opaque is an error of which only the text is kept.
type opaque string

func (o opaque) Error() string { return string(o) }

// explain makes an error of the http package one that may be shown.
func explain(u *url.URL, t *trail, err error) error {
	var done *Error
	if errors.As(err, &done) {
		return done
	}
	for e := (*url.Error)(nil); errors.As(err, &e); {
		err = e.Err // its text and its fields hold the URL
	}
	out := &Error{URL: shown(u), Err: err}
	var why *refusal
	var remote *net.OpError
	var cert *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var dns *net.DNSError
	switch {
	case errors.As(err, &why):
		out.Err = why // without what net and http say around it
		return out
	case errors.As(err, &cert):
		out.Hint = "the server's certificate isn't trusted: set RootCAs of Policy.TLS to what signed it, or check the host's name"
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		out.Hint = "the server doesn't speak TLS at this port"
	case errors.As(err, &remote) && remote.Op == "remote error":
		out.Hint = "the server refused our side of TLS: it may want a client certificate, see Policy.TLS"
	case errors.As(err, &dns) && dns.IsNotFound:
		out.Hint = "check the host's name"
	case errors.Is(err, io.EOF):
		out.Hint = "the server closed the connection without an answer: check host and port, and whether they want https"
	case errors.Is(err, syscall.ECONNREFUSED):
		out.Hint = "nothing listens there: check host and port"
	}
	if text := err.Error(); len(text) > maxQuote || t.quote(text) != text {
		out.Err = opaque(t.quote(text))
	}
	return out
}

// transient says whether an error of the http package may be gone at the next try.
func transient(err error) bool {
	var cert *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var remote *net.OpError
	var dns *net.DNSError
	switch {
	case errors.Is(err, ErrRefused), errors.As(err, &cert), errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch),
		errors.As(err, &remote) && remote.Op == "remote error": // the server doesn't like our side of TLS
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	return true
}

// transientStatus says whether a server that answers so may answer otherwise soon.
func transientStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter returns how long the server wants to be left alone; 0 if it doesn't say.
func retryAfter(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(clock.System()), 0)
	}
	return 0
}

// backoff returns how long to wait before the try after the given one, which is counted from 0; resp may be nil.
func (t tuning) backoff(try int, resp *http.Response) time.Duration {
	if resp != nil {
		if d := retryAfter(resp); d > 0 {
			return min(d, t.patience)
		}
	}
	return min(t.least<<min(try, 10), t.most)
}

// again says whether a request is to be sent again after an answer.
func (t tuning) again(resp *http.Response) bool {
	return transientStatus(resp.StatusCode) && retryAfter(resp) <= t.patience
}

// refusedBy makes an error of an answer that means no, and closes it. sending says that it was to a PUT.
func refusedBy(u *url.URL, t *trail, resp *http.Response, sending bool) error {
	defer resp.Body.Close()
	text := "the server answered " + strconv.Itoa(resp.StatusCode)
	if name := http.StatusText(resp.StatusCode); name != "" {
		text += " " + name
	}
	if said := complaint(t, resp); said != "" {
		text += ", " + said
	}
	out := &Error{URL: shown(u), Status: resp.StatusCode, Err: statusError{opaque(text)}, Hint: statusHint(resp.StatusCode, u.RawQuery != "", sending)}
	if d := retryAfter(resp); d > 0 && transientStatus(resp.StatusCode) {
		out.Hint = fmt.Sprintf("the server asks to be left alone for %v", d.Round(time.Second))
	}
	return out
}

// statusError is an ErrStatus that has a text of its own.
type statusError struct{ error }

func (e statusError) Unwrap() []error { return []error{ErrStatus, e.error} }

func statusHint(code int, signed, sending bool) string {
	switch {
	case code == http.StatusUnauthorized:
		return "the server wants credentials: use a signed URL"
	case code == http.StatusForbidden && signed:
		if sending {
			return "the signed URL has probably expired, or was not signed for PUT or not with the headers that were sent: make a new one"
		}
		return "the signed URL has probably expired, or was not signed for GET: make a new one"
	case code == http.StatusForbidden:
		return "the object isn't public: use a signed URL"
	case code == http.StatusNotFound, code == http.StatusGone:
		return "nothing is there: check the path"
	case code == http.StatusRequestEntityTooLarge:
		return "the server doesn't take an object of this size in one PUT"
	case code == http.StatusBadRequest && signed:
		return "check that the URL was copied whole; the server may want headers that the URL was signed with"
	case code == http.StatusRequestedRangeNotSatisfiable:
		return "the object is shorter than it was"
	case transientStatus(code):
		return "it may be well again later"
	}
	return ""
}

// complaintLimit is how much of the body of an answer that means no is read.
const complaintLimit = 16 << 10

// complaint returns what the body of an answer says: the code and message of S3, Google and Azure, or a short text.
func complaint(t *trail, resp *http.Response) string {
	body, err := io.ReadAll(io.LimitReader(resp.Body, complaintLimit))
	if err != nil && len(body) == 0 {
		return ""
	}
	kind := resp.Header.Get("Content-Type")
	var parsed struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	var object struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	switch {
	case xml.Unmarshal(body, &parsed) == nil && parsed.Code+parsed.Message != "":
	case json.Unmarshal(body, &object) == nil && object.Error.Message != "":
		parsed.Message = object.Error.Message
	case strings.HasPrefix(kind, "text/plain"):
		parsed.Message = string(body)
	}
	var said []string
	for _, s := range []string{parsed.Code, parsed.Message} {
		if s = t.quote(s); s != "" {
			said = append(said, s)
		}
	}
	return strings.Join(said, ": ")
}
