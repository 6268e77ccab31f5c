// Package replication plays the primary of one server that was told to replicate from us, and gives it a snapshot as its
// full synchronisation.
//
// A [Primary] answers whoever connects and hands out a [Link] to the one replica that proves to be the expected one; a
// Link sends the snapshot and waits until the replica says that it has loaded it. The protocol is that of Redis 2.8 and
// later and of all versions of Valkey, as observed on their wire, and of Dragonfly as the replica of such a server, as recorded from
// version 1.40: it sends lines instead of arrays, asks for another kind of primary, which we aren't, by "REPLCONF capa dragonfly", and
// checks that nothing comes behind the snapshot, else it ends.
package replication

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
)

// Limits of what is taken from somebody who has not proved anything yet.
const (
	maxHandshakes = 64 // connections that are in their handshake at the same time
	maxCommands   = 32 // of one handshake; servers send about six
	maxRefusals   = 3  // that are described in Refused
)

// A Hello is what a connection told about itself before it asked for the data.
type Hello struct {
	Addr    net.Addr // where it comes from
	Port    int      // on which it says to listen; 0 if it didn't say
	Version string   // of the server; empty if it didn't say
	EOF     bool     // it understands a payload that is ended by a mark instead of being preceded by a length
	ID      string   // the replication ID whose stream it wants to go on with, "?" if none

	Dragonfly bool // it is a Dragonfly
}

// A Primary waits for the one replica that may have the data.
type Primary struct {
	// Listener is where replicas connect. Accept closes it.
	Listener net.Listener
	// Password has to be given by the replica with AUTH before anything else but PING is answered. Empty: none is asked for.
	Password string
	// Admit looks at a replica that asks for the data, and refuses it by an error. Nil admits all with the password.
	Admit func(Hello) error
	// Timeout bounds each handshake and every wait for the connection later on: longest time without a byte from or to
	// the replica. Required.
	Timeout time.Duration
	// Handshake bounds the time of one handshake; 0 means Timeout.
	Handshake time.Duration

	mu       sync.Mutex
	open     map[net.Conn]bool // in their handshake
	refused  int
	refusals []string // the last few
}

// Accept waits for the replica that has the password and that Admit lets in, and returns its link. Everybody else is
// answered until it is clear who they are and then closed, without having got a byte of data. When Accept returns, the
// listener and all other connections are closed: there is only one link in the life of a Primary.
//
// The error is the context's if it ended.
func (p *Primary) Accept(ctx context.Context) (*Link, error) {
	var (
		group  sync.WaitGroup
		winner = make(chan *Link, 1)
		broken = make(chan error, 1)
		done   bool // a winner was taken or Accept is about to return; under p.mu
	)
	p.open = map[net.Conn]bool{}
	group.Go(func() {
		for {
			conn, err := p.Listener.Accept()
			if err != nil {
				broken <- err
				return
			}
			p.mu.Lock()
			full := len(p.open) >= maxHandshakes
			if done || full {
				p.mu.Unlock()
				if full {
					p.refuse(conn, errors.New("too many connections at once"))
				}
				conn.Close()
				continue
			}
			p.open[conn] = true
			p.mu.Unlock()
			group.Go(func() {
				link, err := p.handshake(conn)
				p.mu.Lock()
				delete(p.open, conn)
				won := err == nil && !done
				done = done || won
				p.mu.Unlock()
				if won {
					winner <- link
					return
				}
				if err != nil {
					p.refuse(conn, err)
				}
				conn.Close()
			})
		}
	})

	var link *Link
	var err error
	select {
	case link = <-winner:
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-broken:
		err = fmt.Errorf("listening for the replica: %w", err)
	}
	p.mu.Lock()
	done = true
	for conn := range p.open {
		conn.Close()
	}
	p.mu.Unlock()
	p.Listener.Close()
	group.Wait()
	if link == nil {
		select {
		case late := <-winner: // it won while Accept gave up
			late.Close()
		default:
		}
	}
	return link, err
}

// Refused returns how many connections were closed without having got any data, and describes the last ones.
func (p *Primary) Refused() (n int, last string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused, strings.Join(p.refusals, "; ")
}

func (p *Primary) refuse(conn net.Conn, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused++
	text := fmt.Sprintf("%v: %v", conn.RemoteAddr(), why)
	for _, known := range p.refusals {
		if known == text {
			return
		}
	}
	p.refusals = append(p.refusals, text)
	if len(p.refusals) > maxRefusals {
		p.refusals = p.refusals[1:]
	}
}

// handshake answers a connection until it asks for the data and may have it, or shows to be somebody else.
func (p *Primary) handshake(conn net.Conn) (*Link, error) {
	limit := p.Handshake
	if limit <= 0 {
		limit = p.Timeout
	}
	if err := conn.SetDeadline(clock.System().Add(limit)); err != nil {
		return nil, err
	}
	link := newLink(conn, p.Timeout)
	hello := Hello{Addr: conn.RemoteAddr()}
	trusted := p.Password == ""
	for range maxCommands {
		args, err := link.in.ReadCommand()
		if err != nil {
			return nil, fmt.Errorf("it went away before it asked for the data: %w", err)
		}
		var reply []byte
		var last error // why nothing comes after the reply
		switch command := strings.ToUpper(args[0]); command {
		case "PING": // also without the password, as replicas send it first
			reply = resp.AppendStatus(nil, "PONG")
		case "AUTH":
			given := args[len(args)-1]
			if p.Password != "" && (len(args) < 2 || subtle.ConstantTimeCompare([]byte(given), []byte(p.Password)) != 1) {
				reply, last = resp.AppendError(nil, "WRONGPASS invalid password"), errors.New("it has another password")
				break
			}
			trusted = true
			reply = resp.AppendStatus(nil, "OK")
		case "REPLCONF":
			hello.replconf(args[1:])
			reply = resp.AppendStatus(nil, "OK")
		case "PSYNC", "SYNC":
			switch {
			case !trusted:
				last = errors.New("it asked for the data without the password")
			case command == "PSYNC" && len(args) > 1:
				hello.ID = args[1]
			}
			if last == nil && p.Admit != nil {
				last = p.Admit(hello)
			}
			if last == nil {
				link.hello, link.old, link.moving = hello, command == "SYNC", true
				return link, conn.SetDeadline(time.Time{})
			}
			reply = resp.AppendError(nil, "NOPERM this data is for another server")
		default:
			reply, last = resp.AppendError(nil, "ERR unknown command"), errors.New("it is no replica: it sent a command that replicas don't")
		}
		if _, err := conn.Write(reply); err != nil {
			return nil, fmt.Errorf("it went away before it asked for the data: %w", err)
		}
		if last != nil {
			return nil, last
		}
	}
	return nil, errors.New("it sent too many commands and didn't ask for the data")
}

// replconf takes what a replica tells about itself, in pairs of name and value. What isn't known here is not needed.
func (h *Hello) replconf(args []string) {
	for ; len(args) > 1; args = args[2:] {
		switch strings.ToLower(args[0]) {
		case "listening-port":
			h.Port, _ = strconv.Atoi(args[1])
		case "version":
			h.Version = args[1]
		case "capa":
			h.EOF = h.EOF || strings.EqualFold(args[1], "eof")
			h.Dragonfly = h.Dragonfly || strings.EqualFold(args[1], "dragonfly")
		}
	}
}
