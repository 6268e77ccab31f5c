package link

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/resp"
)

// kindError is an error with a kind, whose text is only that of the error: the kind would say it twice.
type kindError struct {
	kind, err error
}

func (e kindError) Error() string   { return e.err.Error() }
func (e kindError) Unwrap() []error { return []error{e.kind, e.err} }

// As gives err a kind.
func As(kind, err error) error { return kindError{kind, err} }

// explainReply finds out what to do about an error reply, and its kind.
func (c *Conn) explainReply(e resp.Error) (hint string, kind error) {
	text := strings.ToLower(e.Error())
	has := func(part string) bool { return strings.Contains(text, part) }
	switch e.Code() {
	case "WRONGPASS":
		return "check the user name and the password", backup.ErrAuth
	case "NOAUTH":
		return "the server wants a password: set Username and Password of the options", backup.ErrAuth
	case "NOPERM":
		return "allow the user what a snapshot needs: ACL SETUSER <user> " + c.advice.Rights, backup.ErrPermission
	case "DENIED":
		return "the server takes no connections from other machines while it is in protected mode: give it a password and a bind address", backup.ErrPermission
	case "LOADING":
		return "the server is loading its data: try again when it is done", backup.ErrTransient
	case "NOMASTERLINK", "MASTERDOWN":
		return "this replica isn't in sync with its primary: try again when it is, or take the snapshot from the primary", backup.ErrTransient
	case "BUSY":
		return "a script or function keeps the server busy: try again when it has ended", backup.ErrTransient
	}
	switch {
	case has("can't sync while not connected"):
		return "this replica isn't in sync with its primary: try again when it is, or take the snapshot from the primary", backup.ErrTransient
	case has("max number of clients"):
		return "the server has as many clients as maxclients allows: try again, or raise it", backup.ErrTransient
	case has("invalid password"), has("invalid username-password"):
		return "check the user name and the password", backup.ErrAuth
	case has("without any password configured"):
		return "the server has no password: leave Password empty, or give the server one with requirepass or an ACL user", backup.ErrAuth
	case has("wrong number of arguments for 'auth'"):
		return "servers before Redis 6 know no users: leave Username empty", backup.ErrAuth
	case has("operation not permitted"):
		return "the server wants a password: set Password of the options", backup.ErrAuth
	case UnknownCommand(e), has("not allowed"), has("not supported"), has("unsupported"):
		return c.advice.Unsupported, backup.ErrUnsupported
	}
	return "", nil
}

// UnknownCommand says whether the server doesn't have the command at all.
func UnknownCommand(err error) bool {
	var e resp.Error
	return errors.As(err, &e) && strings.Contains(strings.ToLower(e.Error()), "unknown command")
}

// explain finds out what to do about any error of a connection, and its kind.
func (c *Conn) explain(err error) (hint string, kind error) {
	secure, first := c.secure, !c.answered // nothing was answered yet
	var reply resp.Error
	var noTLS tls.RecordHeaderError
	var cert *tls.CertificateVerificationError
	var alert tls.AlertError
	var remote *net.OpError
	switch {
	case errors.As(err, &reply):
		return c.explainReply(reply)
	case errors.As(err, &noTLS):
		return "the server doesn't speak TLS on this port: connect without TLS (redis://), or to its tls-port", nil
	case errors.As(err, &cert):
		return "the server's certificate isn't trusted: set RootCAs and ServerName of the options' TLSConfig to what signed it and what it is for", nil
	case errors.As(err, &alert), errors.As(err, &remote) && remote.Op == "remote error":
		return "the server refused our side of TLS: it may want a client certificate (tls-auth-clients), or trust another authority", nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: check the address, and that the server is running", nil
	case errors.Is(err, os.ErrDeadlineExceeded) && secure && first:
		return "check that the port speaks TLS and that no firewall is in between", backup.ErrStalled
	case errors.Is(err, os.ErrDeadlineExceeded) && first:
		return "check the address, that no firewall is in between, and whether the port speaks TLS", backup.ErrStalled
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "the server hangs or the network is cut; a server that is only busy needs a longer timeout", backup.ErrStalled
	case first && !secure && (Cut(err) || errors.Is(err, resp.ErrProtocol)):
		return "if the port speaks TLS, connect with TLS (rediss://, or TLSConfig of the options)", nil
	case first && secure && Cut(err):
		return "it may want a client certificate (tls-auth-clients)", nil
	case Cut(err):
		return c.advice.Cut, nil
	}
	return "", nil
}

// Cut says whether the other end closed or reset the connection.
func Cut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE)
}
