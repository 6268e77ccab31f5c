package blobstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"syscall"

	"gocloud.dev/gcerrors"

	"github.com/amberkv/amber/storage"
)

// check returns the error that an operation on key ends with before it begins.
func check(ctx context.Context, op, key string) error {
	if err := storage.ValidKey(key); err != nil {
		return fmt.Errorf("blobstore: %s: %w", op, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("blobstore: %s %s: %w", op, key, err)
	}
	return nil
}

// wrap says what an error is about, and of what nature it is. Of a context that has ended it is the context's, since providers
// return what they like then.
func (s *Store) wrap(ctx context.Context, op, key string, err error) error {
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("blobstore: %s %s: %w", op, key, ended)
	}
	return fmt.Errorf("blobstore: %s %s: %w", op, key, s.natureOf(op, err))
}

// natureOf is nature, but for operations that need no object: what they don't find is the bucket, and that is no storage.ErrNotFound.
func (s *Store) natureOf(op string, err error) error {
	nature := s.nature(err)
	if needsObject := op != "list" && op != "write" && op != "commit" && op != "sweep"; !needsObject && errors.Is(nature, storage.ErrNotFound) {
		return fmt.Errorf("the bucket does not exist: %w", &said{err})
	}
	return nature
}

// nature wraps a provider's error in that of package storage which says of what nature it is.
func (s *Store) nature(err error) error {
	if s.opts.Driver.Classify != nil {
		if c := s.opts.Driver.Classify(err); !same(c, err) {
			return &said{c}
		}
	}
	var dns *net.DNSError
	var connection *net.OpError
	var timeout net.Error
	var request *url.Error // that got no answer which could be read
	var certificate *tls.CertificateVerificationError
	is := func(nature error) error { return fmt.Errorf("%w: %w", nature, &said{err}) }
	code := gcerrors.Code(err)
	switch {
	case errors.Is(err, storage.ErrAborted):
		return &said{err}
	// A name that doesn't resolve is no object that doesn't exist, as some drivers have it.
	case errors.As(err, &certificate):
		return &said{err}
	case errors.As(err, &dns), errors.As(err, &request), errors.As(err, &connection), errors.As(err, &timeout) && timeout.Timeout(),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPIPE),
		code == gcerrors.ResourceExhausted, code == gcerrors.DeadlineExceeded:
		return is(storage.ErrTransient)
	case code == gcerrors.NotFound, errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENOTEMPTY): // a directory is no object, and below a file there is none
		return is(storage.ErrNotFound)
	case code == gcerrors.PermissionDenied:
		return is(storage.ErrDenied)
	}
	return &said{err}
}

// same says whether two errors are one and the same.
func same(a, b error) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && (a == nil || reflect.TypeOf(a).Comparable() && a == b)
}

// ByStatus wraps an error in that of package storage which the HTTP status of the answer tells: ErrDenied for 401 and 403,
// ErrTransient for 408, 429 and from 500 on. For others it returns the error as it is. It is for a Driver's Classify.
func ByStatus(status int, err error) error {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fmt.Errorf("%w: %w", storage.ErrDenied, err)
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
		return fmt.Errorf("%w: %w", storage.ErrTransient, err)
	}
	return err
}

// A said error is another's, in one line of bearable length and without the queries of URLs: they may be signed.
type said struct{ error }

var (
	query  = regexp.MustCompile(`(://[^\s"'?]*\?)[^\s"']+`)
	blanks = regexp.MustCompile(`[\s-]*[\r\n][\s-]*`)
)

const longest = 600 // bytes of an error's text

func (e *said) Error() string {
	text := query.ReplaceAllString(e.error.Error(), "${1}***")
	text = strings.TrimSpace(blanks.ReplaceAllString(text, "; "))
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}

func (e *said) Unwrap() error { return e.error }
