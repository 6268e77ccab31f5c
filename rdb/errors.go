package rdb

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of this package, each wrapped by a type that says more. Test for them with errors.Is.
var (
	// ErrCorrupt: the stream is not what any server writes. See CorruptError.
	ErrCorrupt = errors.New("corrupt RDB")
	// ErrUnsupported: the stream, or what was asked of it, is beyond this package. See UnsupportedError and
	// VersionError.
	ErrUnsupported = errors.New("unsupported RDB")
	// ErrTooLarge: something is larger than the caller allows. See TooLargeError.
	ErrTooLarge = errors.New("larger than the limit")
	// ErrNoValue: the reader is not at an entry whose value is still to be read.
	ErrNoValue = errors.New("rdb: no value to read: it was read already, or Next was not called or failed")
)

// A CorruptError says where and why a stream is wrong. It wraps ErrCorrupt and, if the stream ended too early,
// io.ErrUnexpectedEOF as well.
type CorruptError struct {
	Offset int64  // in bytes from the start of the stream, at or shortly after what is wrong
	Key    string // of the entry that is wrong, empty if it has none or it wasn't read yet
	DB     int    // of that key
	Why    string
	Err    error // what lies beneath; may be nil
}

// Error names the offset, the key and the reason.
func (e *CorruptError) Error() string {
	return "rdb: corrupt at byte " + fmt.Sprint(e.Offset) + ofKey(e.Key, e.DB) + ": " + e.Why
}

// Unwrap returns ErrCorrupt and Err.
func (e *CorruptError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}

// An UnsupportedError says what this package can't read, or can't turn into a DUMP payload. It wraps ErrUnsupported.
type UnsupportedError struct {
	Offset int64  // in bytes from the start of the stream, of what is not supported
	Key    string // of the entry, empty if it has none or it wasn't read yet
	DB     int    // of that key
	What   string
}

// Error names the offset, the key and what is not supported.
func (e *UnsupportedError) Error() string {
	return "rdb: unsupported at byte " + fmt.Sprint(e.Offset) + ofKey(e.Key, e.DB) + ": " + e.What
}

// Unwrap returns ErrUnsupported.
func (e *UnsupportedError) Unwrap() error { return ErrUnsupported }

// A VersionError is a stream of a version that this package doesn't know. It wraps ErrUnsupported.
type VersionError struct {
	Dialect Dialect // as the stream's first nine bytes give it
}

// Error names the version and those that are known.
func (e *VersionError) Error() string {
	known := fmt.Sprintf("0001 to %04d", maxRedis)
	if e.Dialect.Family == Valkey {
		known = fmt.Sprintf("%03d", valkeyVersion)
	}
	return fmt.Sprintf("rdb: unsupported: %s stream of version %d, known are %s; a newer Amber may read it",
		strings.ToUpper(string(e.Dialect.Family)), e.Dialect.Version, known)
}

// Unwrap returns ErrUnsupported.
func (e *VersionError) Unwrap() error { return ErrUnsupported }

// A TooLargeError is something that is larger than the caller allows. It wraps ErrTooLarge.
type TooLargeError struct {
	Offset int64  // in bytes from the start of the stream
	Key    string // of the entry, empty if it has none or it wasn't read yet
	DB     int    // of that key
	What   string // such as "key name" or "value"
	Size   uint64 // in bytes, as far as known; at least what the stream claims or what was read
	Limit  int64  // in bytes
}

// Error names what is too large, its size and the limit.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("rdb: at byte %d%s: %s of %d bytes is larger than the limit of %d", e.Offset, ofKey(e.Key, e.DB), e.What, e.Size, e.Limit)
}

// Unwrap returns ErrTooLarge.
func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

// shownKey is how much of a key name an error keeps: enough to find it, whatever the stream says.
const shownKey = 128

func ofKey(key string, db int) string {
	switch {
	case key == "":
		return ""
	case len(key) > shownKey:
		return fmt.Sprintf(" (db %d, key %q…)", db, key[:shownKey])
	}
	return fmt.Sprintf(" (db %d, key %q)", db, key)
}
