package backup

import "errors"

// Kinds of errors of a source that a program may want to tell apart. Each *SourceError wraps at most one.
var (
	// ErrTransient: the server can't send a snapshot now but will be able to: it is loading, it has no link to its
	// primary yet, or it has too many clients. Try again in a while, not in a tight loop.
	ErrTransient = errors.New("server can't send a snapshot yet")
	// ErrAuth: the server refused the user name and password, or wants some.
	ErrAuth = errors.New("authentication failed")
	// ErrPermission: the user is not allowed what a snapshot needs.
	ErrPermission = errors.New("permission denied")
	// ErrUnsupported: the server doesn't give snapshots in the way that was asked for, or this one would not be all of the data.
	ErrUnsupported = errors.New("server doesn't support this kind of snapshot")
	// ErrStalled: the server sent nothing for too long.
	ErrStalled = errors.New("server is silent")
)

// ErrBegun is wrapped, beside a kind, by errors that came after a server had begun the costly part of a snapshot, such as forking for a full
// synchronisation: another attempt would make it, or another server, do that once more.
var ErrBegun = errors.New("after the snapshot was begun")

// A SourceError tells what failed while a snapshot was taken, where, and what to do. It never holds a password.
type SourceError struct {
	Addr string // host:port of the server it happened with
	Step string // what was being done, such as "authenticate" or "PSYNC"
	Err  error  // what happened; it wraps ErrTransient, ErrAuth and so on where one fits, or the context's error
	Hint string // what to do, or where to look; may be empty
}

// Error tells all of it in one line.
func (e *SourceError) Error() string {
	text := "snapshot of " + e.Addr + ": " + e.Step + ": " + e.Err.Error()
	if e.Hint != "" {
		text += ": " + e.Hint
	}
	return text
}

// Unwrap returns what happened.
func (e *SourceError) Unwrap() error { return e.Err }
