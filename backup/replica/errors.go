package replica

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/amberkv/amber/internal/resp"
)

// Kinds of errors that a program may want to tell apart. Each *Error wraps at most one.
var (
	// ErrTransient: the server can't send a snapshot now but will be able to: it is loading, it has no link to its
	// primary yet, or it has too many clients. Try again in a while, not in a tight loop.
	ErrTransient = errors.New("server can't send a snapshot yet")
	// ErrAuth: the server refused the user name and password, or wants some.
	ErrAuth = errors.New("authentication failed")
	// ErrPermission: the user is not allowed what a snapshot needs.
	ErrPermission = errors.New("permission denied")
	// ErrUnsupported: the server doesn't send snapshots to replicas, or this one would not be all of the data.
	ErrUnsupported = errors.New("server doesn't support snapshots by replication")
	// ErrStalled: the server sent nothing for too long.
	ErrStalled = errors.New("server is silent")
)

// errBegun is wrapped by errors that came after the server had begun a full synchronisation: another attempt would make
// another node fork too.
var errBegun = errors.New("after the synchronisation began")

// An Error tells what failed while a snapshot was taken, where, and what to do. It never holds a password.
type Error struct {
	Addr string // host:port of the server it happened with
	Step string // what was being done, such as "authenticate" or "PSYNC"
	Err  error  // what happened; it wraps ErrTransient, ErrAuth and so on where one fits, or the context's error
	Hint string // what to do, or where to look; may be empty
}

// Error tells all of it in one line.
func (e *Error) Error() string {
	text := "snapshot of " + e.Addr + ": " + e.Step + ": " + e.Err.Error()
	if e.Hint != "" {
		text += ": " + e.Hint
	}
	return text
}

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

// kindError is an error with a kind, whose text is only that of the error: the kind would say it twice.
type kindError struct {
	kind, err error
}

func (e kindError) Error() string   { return e.err.Error() }
func (e kindError) Unwrap() []error { return []error{e.kind, e.err} }

// as gives err a kind.
func as(kind, err error) error { return kindError{kind, err} }

const hintACL = "allow the user what a snapshot needs: ACL SETUSER <user> +info +replconf +psync +sync"

// explainReply finds out what to do about an error reply, and its kind.
func explainReply(e resp.Error) (hint string, kind error) {
	text := strings.ToLower(e.Error())
	has := func(part string) bool { return strings.Contains(text, part) }
	switch e.Code() {
	case "WRONGPASS":
		return "check the user name and the password", ErrAuth
	case "NOAUTH":
		return "the server wants a password: set Username and Password of the options", ErrAuth
	case "NOPERM":
		return hintACL, ErrPermission
	case "DENIED":
		return "the server takes no connections from other machines while it is in protected mode: give it a password and a bind address", ErrPermission
	case "LOADING":
		return "the server is loading its data: try again when it is done", ErrTransient
	case "NOMASTERLINK", "MASTERDOWN":
		return "this replica isn't in sync with its primary: try again when it is, or take the snapshot from the primary", ErrTransient
	case "BUSY":
		return "a script or function keeps the server busy: try again when it has ended", ErrTransient
	}
	switch {
	case has("can't sync while not connected"):
		return "this replica isn't in sync with its primary: try again when it is, or take the snapshot from the primary", ErrTransient
	case has("max number of clients"):
		return "the server has as many clients as maxclients allows: try again, or raise it", ErrTransient
	case has("invalid password"), has("invalid username-password"):
		return "check the user name and the password", ErrAuth
	case has("without any password configured"):
		return "the server has no password: leave Password empty, or give the server one with requirepass or an ACL user", ErrAuth
	case has("wrong number of arguments for 'auth'"):
		return "servers before Redis 6 know no users: leave Username empty", ErrAuth
	case has("operation not permitted"):
		return "the server wants a password: set Password of the options", ErrAuth
	case unknownCommand(e), has("not allowed"), has("not supported"), has("unsupported"):
		return "the server doesn't let others replicate, as managed services do or rename-command makes it: use the service's own export, or another snapshotter", ErrUnsupported
	}
	return "", nil
}

// unknownCommand says whether the server doesn't have the command at all.
func unknownCommand(err error) bool {
	var e resp.Error
	return errors.As(err, &e) && strings.Contains(strings.ToLower(e.Error()), "unknown command")
}

// explain finds out what to do about any error of a connection, and its kind. First says that the server has not
// answered anything yet.
func explain(err error, secure, first bool) (hint string, kind error) {
	var reply resp.Error
	var noTLS tls.RecordHeaderError
	var cert *tls.CertificateVerificationError
	var alert tls.AlertError
	var remote *net.OpError
	switch {
	case errors.As(err, &reply):
		return explainReply(reply)
	case errors.As(err, &noTLS):
		return "the server doesn't speak TLS on this port: connect without TLS (redis://), or to its tls-port", nil
	case errors.As(err, &cert):
		return "the server's certificate isn't trusted: set RootCAs and ServerName of the options' TLSConfig to what signed it and what it is for", nil
	case errors.As(err, &alert), errors.As(err, &remote) && remote.Op == "remote error":
		return "the server refused our side of TLS: it may want a client certificate (tls-auth-clients), or trust another authority", nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: check the address, and that the server is running", nil
	case errors.Is(err, os.ErrDeadlineExceeded) && secure && first:
		return "check that the port speaks TLS and that no firewall is in between", ErrStalled
	case errors.Is(err, os.ErrDeadlineExceeded) && first:
		return "check the address, that no firewall is in between, and whether the port speaks TLS", ErrStalled
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "the server hangs or the network is cut; a server that is only busy needs a longer timeout", ErrStalled
	case first && !secure && (cut(err) || errors.Is(err, resp.ErrProtocol)):
		return "if the port speaks TLS, connect with TLS (rediss://, or TLSConfig of the options)", nil
	case first && secure && cut(err):
		return "it may want a client certificate (tls-auth-clients)", nil
	case cut(err):
		return hintCut, nil
	}
	return "", nil
}

// cut says whether the other end closed or reset the connection.
func cut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE)
}

const hintCut = "the server's log tells why: its saving child failed (memory, disk, overcommit), it was restarted, the connection was killed, or client-output-buffer-limit for replicas was exceeded"
