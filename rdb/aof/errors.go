package aof

import (
	"errors"
	"fmt"
	"io"
)

// Errors of this package, each wrapped by a type that says more. Test for them with errors.Is.
var (
	// ErrCorrupt: the bytes are not what any server writes. See CorruptError and ManifestError.
	ErrCorrupt = errors.New("corrupt append-only file")
	// ErrTruncated: the file ends in the middle of a command or of a transaction. See TruncatedError.
	ErrTruncated = errors.New("append-only file is cut off")
)

// A CorruptError says where and why an append-only file is wrong. It wraps ErrCorrupt.
type CorruptError struct {
	Offset int64 // in bytes from the start of the file
	Why    string
	Err    error // what lies beneath, such as package rdb's error about the preamble; may be nil
}

// Error names the offset and the reason.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("aof: corrupt at byte %d: %s", e.Offset, e.Why)
}

// Unwrap returns ErrCorrupt and Err.
func (e *CorruptError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}

// A TruncatedError says that a file ends in the middle of a command or of a transaction. It wraps ErrTruncated and io.ErrUnexpectedEOF.
type TruncatedError struct {
	Whole  int64 // up to where the file is sound, in bytes: a server would cut it there
	Size   int64 // of the file, in bytes
	Within string
}

// Error names both offsets.
func (e *TruncatedError) Error() string {
	return fmt.Sprintf("aof: the file ends at byte %d in the middle of %s, and is whole up to byte %d", e.Size, e.Within, e.Whole)
}

// Unwrap returns ErrTruncated and io.ErrUnexpectedEOF.
func (e *TruncatedError) Unwrap() []error { return []error{ErrTruncated, io.ErrUnexpectedEOF} }
