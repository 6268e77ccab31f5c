package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Slots is the number of hash slots of a cluster.
const Slots = 16384

// Slot returns the slot of a key: CRC16 (XMODEM) of what is between its first "{" and the next "}", or of all of it if there is
// nothing between. The facts are from the cluster specification of Redis.
func Slot(key []byte) int {
	if i := bytes.IndexByte(key, '{'); i >= 0 {
		if n := bytes.IndexByte(key[i+1:], '}'); n > 0 {
			key = key[i+1 : i+1+n]
		}
	}
	var crc uint16
	for _, c := range key {
		// The polynomial is x^16 + x^12 + x^5 + 1: eight steps of the division at once.
		x := crc>>8 ^ uint16(c)
		x ^= x >> 4
		crc = crc<<8 ^ x<<12 ^ x<<5 ^ x
	}
	return int(crc) % Slots
}

// A SlotRange is slots that follow each other and are served by one primary.
type SlotRange struct {
	First, Last int
	Addr        string // host:port of the primary
}

// SlotRanges returns who serves which slots of the cluster that the server is a node of. A node that doesn't tell its host is at the host that
// we are connected to.
func (c *Conn) SlotRanges(ctx context.Context) ([]SlotRange, error) {
	reply, err := c.Do(ctx, "CLUSTER", "SLOTS")
	if err != nil {
		return nil, err
	}
	var out []SlotRange
	for _, e := range reply.Elems {
		if len(e.Elems) < 3 || len(e.Elems[2].Elems) < 2 {
			return nil, errors.New("CLUSTER SLOTS: the answer has a range without a primary")
		}
		r := SlotRange{First: int(e.Elems[0].Int), Last: int(e.Elems[1].Int)}
		if r.First < 0 || r.First > r.Last || r.Last >= Slots {
			return nil, fmt.Errorf("CLUSTER SLOTS: the answer has a range from %d to %d", r.First, r.Last)
		}
		node := e.Elems[2].Elems
		r.Addr = c.nodeAddr(node[0].Text, strconv.FormatInt(node[1].Int, 10))
		out = append(out, r)
	}
	return out, nil
}

// nodeAddr returns the address of a node of the cluster as clients take it from what a server answers.
func (c *Conn) nodeAddr(host, port string) string {
	if host == "" || host == "?" {
		if remote := c.Remote(); remote != nil {
			if h, _, err := net.SplitHostPort(remote.String()); err == nil {
				host = h
			}
		}
	}
	return net.JoinHostPort(host, port)
}

// Redirected tells from an error reply whether it is a redirection of a cluster, and to which node: by "MOVED 3999 127.0.0.1:6381" or "ASK …".
func (c *Conn) Redirected(text string) (addr string, slot int, ask, ok bool) {
	var kind string
	if n, err := fmt.Sscanf(text, "%s %d %s", &kind, &slot, &addr); n != 3 || err != nil || kind != "MOVED" && kind != "ASK" {
		return "", 0, false, false
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || slot < 0 || slot >= Slots {
		return "", 0, false, false
	}
	return c.nodeAddr(host, port), slot, kind == "ASK", true
}
