package dflymaster

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The states of a session.
type state int

const (
	preparing state = iota // flows may be attached
	syncing                // DFLY SYNC was said
	stable                 // DFLY STARTSTABLE was
	ended                  // one of its connections is closed
)

// A session is one synchronisation.
type session struct {
	m    *Master
	name string

	mu     sync.Mutex
	state  state
	flows  []*attachment
	static sync.WaitGroup // sends what comes before STARTSTABLE
}

// An attachment is the connection of a flow.
type attachment struct {
	p     *peer
	flow  Flow
	token string
	sent  chan struct{} // closed when its static data was sent
}

// replconf answers REPLCONF, which is about the connection that it came on.
func (p *peer) replconf(args []string) []byte {
	if len(args)%2 != 0 || len(args) == 0 {
		return failure("ERR syntax error")
	}
	if len(args) == 2 && is(args, "capa", "dragonfly") {
		return p.begin()
	}
	for pair := range slices.Chunk(args, 2) {
		switch strings.ToLower(pair[0]) {
		case "listening-port", "ip-address", "capa":
		case "client-id":
			if p.session == nil {
				p.violation("CLIENT-ID before capa dragonfly")
			}
		case "client-version":
			if p.session == nil {
				p.violation("CLIENT-VERSION before capa dragonfly, which crashes a master")
				return Hangup
			}
			if _, err := strconv.ParseUint(pair[1], 10, 32); err != nil {
				return failure("ERR value is not an integer or out of range")
			}
		case "ack":
			return failure("ERR syntax error") // on a flow it has no answer
		default:
			return failure("ERR syntax error")
		}
	}
	return ok
}

// begin makes a session.
func (p *peer) begin() []byte {
	if p.cfg.Replica {
		return failure("ERR Replicating a replica is unsupported")
	}
	if p.session != nil {
		p.violation("capa dragonfly twice on a connection, which loses the first session")
	}
	p.mu.Lock()
	p.made++
	s := &session{m: p.Master, name: "SYNC" + strconv.Itoa(p.made), flows: make([]*attachment, len(p.cfg.Flows))}
	p.sessions[s.name] = s
	p.session = s
	id := p.id
	p.mu.Unlock()
	all := []string{"+" + id, "+" + s.name, fmt.Sprintf(":%d", len(p.cfg.Flows)), fmt.Sprintf(":%d", p.cfg.Version), "+" + id}
	all = all[:p.cfg.Elements]
	return fmt.Appendf(nil, "*%d\r\n%s\r\n", len(all), strings.Join(all, "\r\n"))
}

// dfly answers DFLY.
func (p *peer) dfly(args []string) []byte {
	switch {
	case is(args, "FLOW") && len(args) >= 4:
		return p.attach(args[1:])
	case is(args, "SYNC") && len(args) == 2:
		s, why := p.find(args[1])
		if s == nil {
			return why
		}
		return s.sync()
	case is(args, "STARTSTABLE") && len(args) == 2:
		s, why := p.find(args[1])
		if s == nil {
			return why
		}
		return s.startStable()
	case is(args, "REPLICAOFFSET"):
		return fmt.Appendf(nil, "*%d\r\n%s", len(p.cfg.Flows), strings.Repeat(":0\r\n", len(p.cfg.Flows)))
	}
	return failure("ERR syntax error")
}

// find finds a session by its name.
func (p *peer) find(name string) (s *session, why []byte) {
	if !strings.HasPrefix(name, "SYNC") {
		return nil, failure("ERR bad sync id")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s = p.sessions[name]; s == nil {
		return nil, failure("ERR syncid not found")
	}
	return s, nil
}

// attach makes the connection a flow.
func (p *peer) attach(args []string) []byte {
	if p.session != nil {
		p.violation("DFLY FLOW on the control connection")
	}
	if args[0] != p.ID() {
		return failure("ERR bad master id")
	}
	s, why := p.find(args[1])
	if s == nil {
		return why
	}
	n, err := strconv.Atoi(args[2])
	if err != nil || n < 0 || n >= len(s.flows) {
		return failure("ERR value is not an integer or out of range")
	}
	if len(args) > 3 {
		p.violation("DFLY FLOW asks for a partial synchronisation")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == ended {
		return failure("ERR syncid not found")
	}
	if s.state != preparing {
		p.violation("DFLY FLOW after the session was prepared")
		return failure("ERR invalid state")
	}
	if s.flows[n] != nil {
		p.violation("flow %d is attached twice", n)
		return failure("ERR invalid state")
	}
	a := &attachment{p: p, flow: p.cfg.Flows[n], token: p.cfg.Flows[n].Token, sent: make(chan struct{})}
	if a.token == "" {
		a.token = token()
	}
	s.flows[n] = a
	p.mu.Lock()
	p.attached, p.flow, p.session = true, n, s
	p.mu.Unlock()
	return fmt.Appendf(nil, "*2\r\n+FULL\r\n+%s\r\n", a.token)
}

// sync begins to send. It answers when every flow has had its first bytes, as a real master does, which holds up all its clients until then.
func (s *session) sync() []byte {
	s.mu.Lock()
	if s.state == ended {
		s.mu.Unlock()
		return failure("ERR syncid not found")
	}
	if s.state != preparing {
		s.mu.Unlock()
		s.m.violation("DFLY SYNC in a session that is past that")
		return failure("ERR invalid state")
	}
	if slices.Contains(s.flows, nil) {
		s.mu.Unlock()
		s.m.violation("DFLY SYNC before all flows were attached")
		return failure("ERR invalid state")
	}
	s.state = syncing
	s.mu.Unlock()
	const head = 9
	if err := s.promptly("SYNC", func(a *attachment) []byte { return a.flow.Static[:min(head, len(a.flow.Static))] }); err != nil {
		s.end()
		return Hangup
	}
	// A connection may have been closed meanwhile: who ends the session waits for what was begun before, and after that nothing is.
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == ended {
		return Hangup
	}
	for _, a := range s.flows {
		s.static.Go(func() {
			rest := a.flow.Static[min(head, len(a.flow.Static)):]
			if a.sendTo(&marker{a.p.conn, len(rest), a.sent}, rest) != nil {
				return
			}
			if len(a.flow.After) > 0 {
				a.send(a.flow.After) // what fails shows at the connection's other end
			}
		})
	}
	return ok
}

// startStable ends the streams of all flows at the same instant.
func (s *session) startStable() []byte {
	s.mu.Lock()
	was := s.state
	s.mu.Unlock()
	switch was {
	case preparing:
		if !slices.Contains(s.flows, nil) {
			s.m.violation("DFLY STARTSTABLE without DFLY SYNC, which crashes a master")
			return Hangup
		}
		s.m.violation("DFLY STARTSTABLE before all flows were attached")
		return failure("ERR invalid state")
	case syncing:
	case ended:
		return failure("ERR syncid not found")
	default:
		s.m.violation("DFLY STARTSTABLE in a session that is past that")
		return failure("ERR invalid state")
	}
	for i, a := range s.flows {
		select {
		case <-a.sent:
		default:
			s.m.violation("DFLY STARTSTABLE before flow %d had sent its static data", i)
		}
	}
	s.static.Wait()
	s.mu.Lock()
	if s.state != syncing {
		s.mu.Unlock()
		return failure("ERR invalid state")
	}
	s.state = stable
	s.mu.Unlock()
	if err := s.promptly("STARTSTABLE", func(a *attachment) []byte {
		return slices.Concat(a.flow.Final, []byte(a.token), a.flow.Stable)
	}); err != nil {
		s.end()
		return Hangup
	}
	return ok
}

// promptly sends something to all flows, while a real master's clients have to wait.
func (s *session) promptly(command string, what func(a *attachment) []byte) error {
	var group errgroup.Group
	for i, a := range s.flows {
		group.Go(func() error {
			alarm := time.AfterFunc(s.m.cfg.Stall, func() {
				s.m.violation("flow %d wasn't read during DFLY %s, for which all of a master's clients wait", i, command)
				a.p.conn.Close()
			})
			defer alarm.Stop()
			return a.send(what(a))
		})
	}
	return group.Wait()
}

// end ends the session and closes its connections.
func (s *session) end() {
	s.mu.Lock()
	was := s.state
	s.state = ended
	flows := slices.Clone(s.flows)
	s.mu.Unlock()
	if was == ended {
		return
	}
	s.m.mu.Lock()
	delete(s.m.sessions, s.name)
	for p := range s.m.conns {
		if p.session == s {
			p.conn.Close()
		}
	}
	s.m.mu.Unlock()
	for _, a := range flows {
		if a != nil {
			a.p.conn.Close()
		}
	}
	s.static.Wait()
}

// send writes bytes of the flow.
func (a *attachment) send(p []byte) error { return a.sendTo(a.p.conn, p) }

func (a *attachment) sendTo(w io.Writer, p []byte) error {
	a.p.write.Lock()
	defer a.p.write.Unlock()
	return a.p.cfg.Send(a.p.flow, w, p)
}

// A marker closes a channel when its last byte is about to be written: who reads that may be quicker than who wrote it.
type marker struct {
	w    io.Writer
	left int
	sent chan struct{}
}

// Unwrap returns what writes without counting: a Send that sends more than it was given writes there what is not the end.
func (m *marker) Unwrap() io.Writer { return m.w }

func (m *marker) Write(p []byte) (int, error) {
	if m.left > 0 {
		if m.left -= len(p); m.left <= 0 {
			close(m.sent)
		}
	}
	return m.w.Write(p)
}
