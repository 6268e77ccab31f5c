package replica

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/resp"
)

// markLen is the length of the mark that ends a snapshot whose size the server didn't know at its beginning.
const markLen = 40

// syncing is a full synchronisation that has begun: the next bytes are the snapshot's.
type syncing struct {
	id      string // the replication ID; "" with SYNC, as below Redis 2.8, and with a PSYNC that rename-command has given another name
	offset  int64
	size    int64         // of the snapshot; -1 if it ends with the mark
	mark    [markLen]byte //
	instant time.Time     // when the server said that it begins, which is just before it forks
	rdbOnly bool          // the server closes the connection after the snapshot
}

// sync makes the server send a snapshot and returns when it comes.
func (s *Snapshotter) sync(l *node) (syncing, error) {
	sy := syncing{size: -1}
	if err := s.introduce(l, &sy); err != nil {
		return sy, l.Fail("REPLCONF", err)
	}
	step := "PSYNC"
	command, renamed := s.syncCommand(l.Addr)
	if renamed {
		if err := l.checkRenamed(command); err != nil {
			return sy, err
		}
	}
	line, err := l.ask(s, command, "?", "-1")
	switch {
	case err == nil || !link.UnknownCommand(err):
	case renamed:
		return sy, l.noSuchCommand(err)
	default:
		s.log.Info("the server doesn't know PSYNC, trying SYNC", "node", l.Addr)
		step = "SYNC"
		line, err = l.ask(s, "SYNC")
	}
	if err != nil {
		return sy, l.Fail(step, err)
	}
	// A server whose PSYNC was renamed by rename-command goes by the name that it was called by, and takes anything but PSYNC for SYNC.
	if sync := step == "SYNC" || renamed && strings.HasPrefix(line, "$"); !sync {
		if err := sy.parseFullResync(line); err != nil {
			return sy, l.Fail(step, err)
		}
		// From here on the server may have forked for us.
		sy.instant = s.now().UTC()
		step = "wait for the snapshot"
		line, err = l.next(s)
	}
	if err == nil {
		err = sy.parseHeader(line)
	}
	if sy.instant.IsZero() {
		sy.instant = s.now().UTC()
	}
	if err != nil {
		e := l.Fail(step, err).(*backup.SourceError)
		if e.Hint == "" && link.IsReply(err) {
			e.Hint = advice.Cut
		}
		e.Err = link.As(backup.ErrBegun, e.Err)
		return sy, e
	}
	return sy, nil
}

// checkRenamed makes sure that a command that is said to be PSYNC isn't another one, such as SET, which would write to the server. Where the server
// doesn't let us ask it is believed.
func (l *node) checkRenamed(name string) error {
	reply, err := l.Command("COMMAND", "INFO", name)
	switch {
	case link.IsReply(err):
		return nil
	case err != nil:
		return l.Fail("COMMAND INFO", err)
	}
	c, known := link.FindCommand(reply, name)
	switch {
	case !known:
		return nil // nothing that can be made sense of
	case !c.Exists:
		return l.noSuchCommand(resp.Error("ERR unknown command '" + name + "'"))
	case c.Writes || !c.Admin:
		return &backup.SourceError{Addr: l.Addr, Step: "COMMAND INFO", Err: link.As(backup.ErrUnsupported, errors.New("the command that was given as "+
			"the renamed PSYNC is another one")), Hint: "check the name, which may differ from node to node"}
	}
	return nil
}

// noSuchCommand is the error of a server that doesn't know the renamed command.
func (l *node) noSuchCommand(err error) error {
	e := l.Fail("PSYNC", err).(*backup.SourceError)
	e.Hint = "the server doesn't know the command that was given as its renamed PSYNC: check the name, which may differ from node to node"
	return e
}

// introduce tells the server what kind of replica we are. Each answer is waited for: servers refuse PSYNC on a connection
// with answers pending.
func (s *Snapshotter) introduce(l *node, sy *syncing) error {
	replconf := func(args ...string) (ok bool, err error) {
		_, err = l.Command(append([]string{"REPLCONF"}, args...)...)
		var e resp.Error
		switch {
		case err == nil:
			return true, nil
		case errors.As(err, &e) && e.Code() == "ERR":
			return false, nil // it doesn't know the option or, below Redis 2.8, the command
		}
		return false, err
	}
	if ok, err := replconf("capa", "eof", "capa", "psync2"); err != nil || !ok {
		return err
	}
	engine, version := l.Engine()
	if engine != "redis" {
		// Valkey 9 sends a newer server's format only to who says that it is one. Without it a hash with expiring
		// fields makes the synchronisation fail.
		if _, err := replconf("version", "9.0.0"); err != nil {
			return err
		}
	}
	if s.tuning.noRDBOnly || engine == "redis" && older(version, 6, 2) {
		return nil
	}
	var err error
	sy.rdbOnly, err = replconf("rdb-only", "1")
	return err
}

// older says whether a version such as "6.0.16" is below major.minor. One that can't be read isn't.
func older(version string, major, minor int) bool {
	a, rest, _ := strings.Cut(version, ".")
	b, _, _ := strings.Cut(rest, ".")
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && (x < major || x == major && y < minor)
}

// ask sends the command that begins the synchronisation and returns the first line of the answer. An error reply is a
// resp.Error.
func (l *node) ask(s *Snapshotter, args ...string) (string, error) {
	if err := l.Send(args...); err != nil {
		return "", err
	}
	return l.next(s)
}

// next returns the next line that is no keep-alive; a server sends one each second while it prepares the snapshot. An
// error reply is a resp.Error.
func (l *node) next(s *Snapshotter) (string, error) {
	for {
		l.Within(s.cfg.StallTimeout)
		line, err := l.R.ReadLine()
		switch {
		case err != nil:
			return "", err
		case len(line) == 0:
		case line[0] == byte(resp.Failure):
			return "", l.Reply(resp.Error(line[1:]))
		default:
			return string(line), nil
		}
	}
}

// parseFullResync parses "+FULLRESYNC <id> <offset>".
func (sy *syncing) parseFullResync(line string) error {
	words := strings.Fields(line)
	if len(words) != 3 || words[0] != "+FULLRESYNC" {
		return fmt.Errorf("%w: %.60q is not the beginning of a full synchronisation", resp.ErrProtocol, line)
	}
	offset, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil || len(words[1]) != 40 {
		return fmt.Errorf("%w: %.60q lacks the replication ID or offset", resp.ErrProtocol, line)
	}
	sy.id, sy.offset = words[1], offset
	return nil
}

// parseHeader parses "$<size>" or "$EOF:<mark>".
func (sy *syncing) parseHeader(line string) error {
	if mark, ok := strings.CutPrefix(line, "$EOF:"); ok && len(mark) == markLen {
		copy(sy.mark[:], mark)
		return nil
	}
	digits, ok := strings.CutPrefix(line, "$")
	size, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || size <= 0 {
		return fmt.Errorf("%w: %.60q is not the beginning of a snapshot", resp.ErrProtocol, line)
	}
	sy.size = size
	return nil
}

// atEnd says whether received, the last bytes that came, is how a snapshot with a mark ends: the end of an RDB file, which
// is the byte 255 and eight of checksum, and the mark. The mark is the same for all synchronisations of one server process,
// so that values may hold it.
func (sy *syncing) atEnd(received []byte) bool {
	rdbEnd, mark := len(received)-tailLen, len(received)-markLen
	return rdbEnd >= 0 && received[rdbEnd] == 0xff && bytes.Equal(received[mark:], sy.mark[:])
}

// tailLen is the length of what atEnd looks at.
const tailLen = 9 + markLen
