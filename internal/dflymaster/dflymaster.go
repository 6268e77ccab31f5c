// Package dflymaster is a Dragonfly for tests, as far as a replica of it or a prober sees one: it answers as Dragonfly 1.40 was seen
// to, and sends the flows of a full synchronisation that it is given, in the pieces and at the pace that a test wants.
//
//	m := dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(4, 1000)})
//	client := redis.NewClient(m.Options())
//
// It holds its peers to the order of the protocol. What would crash, freeze or confuse a real master is written down as a violation, and fails
// the test when it ends; see Master.Violations for those that a test makes on purpose.
package dflymaster

import (
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/resp"
)

// A Flow is what one shard sends in a full synchronisation. See FlowOf and Keys.
type Flow struct {
	Static []byte // after DFLY SYNC: from REDIS0009 to the record that says that all keys were sent, inclusive
	After  []byte // what follows without being asked for: the journal until STARTSTABLE
	Final  []byte // after DFLY STARTSTABLE: the position in the journal, the end of the stream and its checksum; the token follows
	Token  string // 40 characters; empty: made up for each session
	Stable []byte // what follows the token: the journal as it is
	Keys   int64  // that INFO and DBSIZE count for the shard
}

// Config says what kind of Dragonfly it is. The zero Config is one without data and password, of one shard.
type Config struct {
	Flows    []Flow      // one for each shard; none: one empty shard
	Username string      // the only user, if there is a Password; empty: "default"
	Password string      // that every connection has to give; empty: none
	TLS      *tls.Config // of the listener; nil: no TLS
	ID       string      // 40 hexadecimal digits; empty: made up
	Version  int         // of the protocol that it says; 0: 5, as Dragonfly 1.37 to 1.40 do
	Elements int         // of the answer to REPLCONF capa dragonfly, 3 to 5; 0: 5
	Replica  bool        // it is a replica itself, and refuses to be replicated
	Loading  bool        // it is loading its data
	Info     []string    // lines "field:value" that INFO has besides its own, or instead

	// Send writes bytes of a flow, the answer to DFLY FLOW not among them. Nil: in one piece. See Pieces.
	Send func(flow int, w io.Writer, p []byte) error

	// Answer answers a command itself: with what it returns as it is, or by hanging up if that is Hangup. It returns nil for a command that
	// is to be answered as usual. Nil: all are.
	Answer func(args []string) []byte

	// Stall is how long a write to a flow may wait for its reader while all writes of a real master wait for it, which is during DFLY SYNC
	// and DFLY STARTSTABLE, before that is a violation. 0: 10 s.
	Stall time.Duration
}

// Hangup is an Answer that closes the connection.
var Hangup = []byte{}

// Pieces is a Send that writes pieces of n bytes.
func Pieces(n int) func(int, io.Writer, []byte) error {
	return func(_ int, w io.Writer, p []byte) error {
		for c := range slices.Chunk(p, n) {
			if _, err := w.Write(c); err != nil {
				return err
			}
		}
		return nil
	}
}

// A Master is a listening Dragonfly.
type Master struct {
	cfg      Config
	listener net.Listener
	group    sync.WaitGroup

	mu         sync.Mutex
	id         string
	closed     bool
	conns      map[*peer]bool
	sessions   map[string]*session
	made       int // sessions
	commands   []string
	violations []string
	lenient    bool
}

// Start starts a Master that ends with the test. Violations fail the test then.
func Start(t testing.TB, cfg Config) *Master {
	t.Helper()
	if len(cfg.Flows) == 0 {
		cfg.Flows = Keys(1, 0)
	}
	cfg.Version = cmp.Or(cfg.Version, 5)
	cfg.Elements = cmp.Or(cfg.Elements, 5)
	cfg.Stall = cmp.Or(cfg.Stall, 10*time.Second)
	cfg.Username = cmp.Or(cfg.Username, "default")
	if cfg.Send == nil {
		cfg.Send = func(_ int, w io.Writer, p []byte) error {
			_, err := w.Write(p)
			return err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("dflymaster: %v", err)
	}
	m := &Master{cfg: cfg, listener: l, id: cmp.Or(cfg.ID, token()), conns: map[*peer]bool{}, sessions: map[string]*session{}}
	if cfg.TLS != nil {
		m.listener = tls.NewListener(l, cfg.TLS)
	}
	m.group.Go(m.accept)
	t.Cleanup(func() {
		m.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		if !m.lenient && len(m.violations) > 0 {
			t.Errorf("what a Dragonfly was sent could have harmed it: %s", strings.Join(m.violations, "; "))
		}
	})
	return m
}

// token returns 40 hexadecimal digits.
func token() string {
	var b [20]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Addr returns host:port.
func (m *Master) Addr() string { return m.listener.Addr().String() }

// Options returns those of a client, with the password but without TLS.
func (m *Master) Options() *redis.Options {
	o := &redis.Options{Addr: m.Addr(), Password: m.cfg.Password}
	if m.cfg.Password != "" && m.cfg.Username != "default" {
		o.Username = m.cfg.Username
	}
	return o
}

// ID returns the master's replication ID.
func (m *Master) ID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

// SetID gives it another replication ID, as one that was a replica meanwhile has.
func (m *Master) SetID(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id = id
}

// Connections returns how many are open.
func (m *Master) Connections() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns)
}

// Sessions returns how many synchronisations were begun.
func (m *Master) Sessions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.made
}

// Commands returns all commands that it was sent, arguments separated by a space, without passwords.
func (m *Master) Commands() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.commands)
}

// Violations returns what was done that could have harmed a real master. After that they don't fail the test any more.
func (m *Master) Violations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lenient = true
	return slices.Clone(m.violations)
}

func (m *Master) violation(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.violations = append(m.violations, fmt.Sprintf(format, args...))
}

// Close ends all connections and waits for what goes on on them.
func (m *Master) Close() {
	m.listener.Close()
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.Kick()
	m.group.Wait()
}

// Kick closes all connections, as CLIENT KILL does.
func (m *Master) Kick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.conns {
		p.conn.Close()
	}
}

// KickFlow closes the connections of one flow.
func (m *Master) KickFlow(flow int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.conns {
		if p.flow == flow && p.attached {
			p.conn.Close()
		}
	}
}

func (m *Master) accept() {
	for {
		conn, err := m.listener.Accept()
		if err != nil {
			return
		}
		p := &peer{Master: m, conn: conn, in: resp.NewReader(conn, nil), known: m.cfg.Password == ""}
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			conn.Close()
			return
		}
		m.conns[p] = true
		m.mu.Unlock()
		m.group.Go(p.serve)
	}
}
