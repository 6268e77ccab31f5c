package dflymaster

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/amberkv/amber/internal/resp"
)

// A peer is one connection.
type peer struct {
	*Master
	conn  net.Conn
	in    *resp.Reader
	write sync.Mutex // of conn

	known    bool     // it has given its password
	session  *session // of the control connection; nil: capa dragonfly wasn't said
	attached bool     // it is a flow
	flow     int      // its number
}

// serve answers commands until the connection ends.
func (p *peer) serve() {
	defer p.leave()
	for {
		args, err := p.in.ReadCommand()
		if err != nil {
			return
		}
		p.note(args)
		if p.attached {
			if len(args) != 3 || !is(args, "REPLCONF", "ACK") {
				p.violation("flow %d was sent %q, and takes nothing but REPLCONF ACK", p.flow, first(args))
			}
			continue
		}
		if is(args, "DFLY", "FLOW") && p.in.Buffered() > 0 {
			p.violation("something was sent behind DFLY FLOW before its answer")
		}
		var reply []byte
		if p.cfg.Answer != nil {
			reply = p.cfg.Answer(args)
		}
		if reply == nil {
			reply = p.answer(args)
		}
		if len(reply) == 0 {
			return
		}
		p.write.Lock()
		_, err = p.conn.Write(reply)
		p.write.Unlock()
		if err != nil {
			return
		}
	}
}

// leave ends the connection, and with it the whole session, as a real master does.
func (p *peer) leave() {
	p.conn.Close()
	p.mu.Lock()
	delete(p.conns, p)
	s := p.session
	p.mu.Unlock()
	if s != nil {
		s.end()
	}
}

func (p *peer) note(args []string) {
	if len(args) > 0 && strings.EqualFold(args[0], "AUTH") {
		args = []string{"AUTH", "(password)"}
	}
	if len(args) > 0 && strings.EqualFold(args[0], "HELLO") {
		args = args[:1] // it may have one too
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commands = append(p.commands, strings.Join(args, " "))
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// is tells whether a command begins with these words.
func is(args []string, words ...string) bool {
	return len(args) >= len(words) && slices.EqualFunc(args[:len(words)], words, strings.EqualFold)
}

var ok = []byte("+OK\r\n")

func failure(format string, args ...any) []byte {
	return resp.AppendError(nil, fmt.Sprintf(format, args...))
}

func bulk(text string) []byte { return fmt.Appendf(nil, "$%d\r\n%s\r\n", len(text), text) }

// answer answers as Dragonfly 1.40 does.
func (p *peer) answer(args []string) []byte {
	command := strings.ToUpper(first(args))
	if command == "AUTH" {
		return p.auth(args)
	}
	if command == "HELLO" {
		return failure("NOPROTO unsupported protocol version")
	}
	if !p.known {
		return failure("NOAUTH Authentication required.")
	}
	if p.cfg.Loading && command == "DFLY" {
		return failure("LOADING Dragonfly is loading the dataset in memory")
	}
	switch command {
	case "PING":
		return []byte("+PONG\r\n")
	case "INFO":
		return bulk(p.info(args[1:]))
	case "DBSIZE":
		return fmt.Appendf(nil, ":%d\r\n", p.keys())
	case "COMMAND":
		return commandInfo(args)
	case "CLIENT", "SELECT":
		return ok
	case "ACL":
		if is(args, "ACL", "WHOAMI") {
			return bulk("User is " + p.cfg.Username)
		}
		return failure("ERR Unknown subcommand or wrong number of arguments for '%s'. Try ACL HELP.", strings.ToUpper(strings.Join(args[1:min(len(args), 2)], "")))
	case "REPLCONF":
		return p.replconf(args[1:])
	case "DFLY":
		return p.dfly(args[1:])
	}
	return failure("ERR unknown command `%s`", command)
}

func (p *peer) auth(args []string) []byte {
	user, password := "default", args[len(args)-1]
	if len(args) == 3 {
		user = args[1]
	}
	switch {
	case p.cfg.Password == "":
		return failure("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
	case user != p.cfg.Username || password != p.cfg.Password:
		return failure("WRONGPASS invalid username-password pair or user is disabled.")
	}
	p.known = true
	return ok
}

func (p *peer) keys() (n int64) {
	for _, f := range p.cfg.Flows {
		n += f.Keys
	}
	return n
}

// info is the INFO of a Dragonfly 1.40, as far as anybody here asks.
func (p *peer) info(sections []string) string {
	role, loading := "role:master", "loading:0"
	if p.cfg.Replica {
		role = "role:slave\r\nmaster_host:10.1.2.3\r\nmaster_port:6379\r\nmaster_link_status:up"
	}
	if p.cfg.Loading {
		loading = "loading:1"
	}
	all := []struct{ name, text string }{
		{"Server", "redis_version:7.4.0\r\ndragonfly_version:df-v1.40.0\r\nredis_mode:standalone\r\narch_bits:64\r\nos:Linux 6.1.0 x86_64\r\nthread_count:" + strconv.Itoa(len(p.cfg.Flows))},
		{"Memory", "used_memory:6104198\r\nmaxmemory:4294967296"},
		{"Persistence", "current_snapshot_perc:0\r\nsaving:0\r\n" + loading},
		{"Replication", role + "\r\nconnected_slaves:0\r\nmaster_replid:" + p.ID()},
		{"Cluster", "cluster_enabled:0"},
		{"Keyspace", fmt.Sprintf("db0:keys=%d,expires=0,avg_ttl=-1", p.keys())},
	}
	var out strings.Builder
	for _, s := range all {
		if len(sections) > 0 && !slices.ContainsFunc(sections, func(want string) bool { return strings.EqualFold(want, s.name) || strings.EqualFold(want, "all") }) {
			continue
		}
		fmt.Fprintf(&out, "# %s\r\n%s\r\n", s.name, s.text)
		out.WriteString("\r\n")
	}
	for _, line := range p.cfg.Info { // of several lines of a field the last counts
		out.WriteString(line + "\r\n")
	}
	return out.String()
}

// commandInfo answers COMMAND INFO: with nothing for a command that isn't there.
func commandInfo(args []string) []byte {
	if !is(args, "COMMAND", "INFO") {
		return failure("ERR Unknown subcommand or wrong number of arguments for '%s'. Try COMMAND HELP.", strings.Join(args[1:min(len(args), 2)], ""))
	}
	there := []string{"AUTH", "PING", "INFO", "DBSIZE", "COMMAND", "CLIENT", "SELECT", "ACL", "REPLCONF", "DFLY", "SCAN", "DUMP", "MULTI", "EXEC", "TIME", "RESTORE", "SAVE", "BGSAVE", "PEXPIRETIME", "TYPE", "TTL", "PTTL"}
	out := fmt.Appendf(nil, "*%d\r\n", len(args)-2)
	for _, name := range args[2:] {
		if !slices.Contains(there, strings.ToUpper(name)) {
			out = append(out, "*-1\r\n"...)
			continue
		}
		out = fmt.Appendf(out, "*6\r\n$%d\r\n%s\r\n:-1\r\n*1\r\n+admin\r\n:0\r\n:0\r\n:0\r\n", len(name), strings.ToUpper(name))
	}
	return out
}
