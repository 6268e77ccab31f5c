package command

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/amberkv/amber/internal/cmdtable"
	"github.com/amberkv/amber/internal/resp"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
)

// A key that was to expire, or a field of a hash, may have been given longer to live by a later command. When that is executed it has to be there, though
// its first expiry has passed long since. And a command may compare the expiry that it gives with the one that is there (GT, LT), which servers write down
// as it was said. So all expiries are put off by the same time while commands are executed, and brought back in the end.

// parkBy is what is added to the expiries of keys, in milliseconds: more than anybody means.
const parkBy = 1 << 52

// parked returns the time at which a key expires while commands are executed, of that at which it is to.
func (r *run) parked(at int64) int64 {
	if !r.parks {
		return at
	}
	r.anyParked.Store(true)
	return parkBy + min(max(at, 1), math.MaxInt64-parkBy)
}

// park puts off the expiry that a command gives its key, or fields of it.
func (r *run) park(known *cmdtable.Command, db int, args [][]byte) {
	if !r.parks {
		return
	}
	t, ok := cmdtable.Expiry(known, args)
	if !ok || t.Relative || t.Field && !r.parksFields {
		return
	}
	n, err := strconv.ParseInt(string(args[t.Arg]), 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/t.Unit {
		return
	}
	n *= t.Unit
	at := n
	if t.Field {
		var exact bool
		if at, exact = r.parkedField(n); !exact {
			r.loseOf(db, args[1], rdb.LossFieldExpiry)
		}
	} else {
		at = r.parked(n)
	}
	args[t.Arg] = strconv.AppendInt(nil, at, 10)
	if t.Unit == 1000 { // seconds: the same in milliseconds
		switch known.Name {
		case "EXPIREAT":
			args[0] = []byte("PEXPIREAT")
		case "HEXPIREAT":
			args[0] = []byte("HPEXPIREAT")
		default:
			args[t.Arg-1] = []byte("PXAT")
		}
	}
}

// parkFieldBy is what is added to expiries of fields, in milliseconds. It is the half of what HPEXPIREAT takes, and more than a thousand years.
const parkFieldBy = (latestFieldExpiry + 1) / 2

// parkedField returns the time at which a field expires while commands are executed, of that at which it is to. If it is not exact, what will be brought back is
// the latest time that can be put off, on 12 December 3084.
func (r *run) parkedField(at int64) (parked int64, exact bool) {
	r.anyFieldParked.Store(true)
	return parkFieldBy + min(max(at, 1), parkFieldBy-1), at < parkFieldBy
}

// unpark gives the keys and fields their expiry back that was put off. Those whose time has passed go.
func (r *run) unpark(ctx context.Context) error {
	keys, fields := r.anyParked.Load(), r.anyFieldParked.Load()
	if !keys && !fields {
		return nil
	}
	for _, n := range r.topo.Load().nodes {
		reply, err := r.do(ctx, n.addr, "INFO")
		if err != nil {
			return fmt.Errorf("asking %s which databases it has: %w", n.addr, err)
		}
		for db := range srv.Keyspace(resp.ParseInfo(reply.Text)) {
			if fields { // before keys go
				if err := r.eachName(ctx, n.addr, db, r.unparkFields, "TYPE", "hash"); err != nil {
					return fmt.Errorf("giving the fields of hashes of database %d their expiry: %w", db, err)
				}
			}
			if keys {
				if err := r.eachName(ctx, n.addr, db, r.unparkKeys); err != nil {
					return fmt.Errorf("giving the keys of database %d their expiry: %w", db, err)
				}
			}
		}
	}
	return nil
}

// eachName calls f with the names of a node's keys in a database, some hundreds at a time. A name may come again, also after an error that passes.
func (r *run) eachName(ctx context.Context, addr string, db int, f func(ctx context.Context, addr string, names []string) error, options ...string) error {
	a := r.admin(addr)
	for cursor := "0"; ; {
		if err := r.patiently(ctx, func() error {
			if !r.cluster() || r.manyDBs {
				if _, err := a.Do(ctx, "SELECT", itoa(db)); err != nil {
					return err
				}
			}
			reply, err := a.Do(ctx, append([]string{"SCAN", cursor, "COUNT", itoa(scannedKeys)}, options...)...)
			if err != nil {
				return err
			}
			if len(reply.Elems) != 2 {
				return errors.New("SCAN: the answer has no cursor")
			}
			if err := f(ctx, addr, texts(reply.Elems[1])); err != nil {
				return err
			}
			cursor = reply.Elems[0].Text
			return nil
		}); err != nil {
			return err
		}
		if cursor == "0" {
			return nil
		}
	}
}

// unparkKeys brings the expiries of keys back.
func (r *run) unparkKeys(ctx context.Context, addr string, names []string) error {
	var ask, set batch
	for _, name := range names {
		ask.add("PEXPIRETIME", name)
	}
	times, err := r.batch(ctx, addr, ask)
	if err != nil {
		return err
	}
	for i, at := range times {
		if at.Int > parkBy {
			set.add("PEXPIREAT", names[i], itoa(at.Int-parkBy))
		}
	}
	_, err = r.batch(ctx, addr, set)
	return err
}

// How many names of keys, and of fields of a hash, are asked for at once, about: so few that an answer is no longer than a message may be (see package resp) where names have
// tens of thousands of bytes.
const (
	scannedKeys   = 500
	scannedFields = 100
)

// unparkFields brings the expiries of fields of hashes back.
func (r *run) unparkFields(ctx context.Context, addr string, names []string) error {
	cursors := make([]string, len(names))
	for i := range cursors {
		cursors[i] = "0"
	}
	for len(names) > 0 {
		// Of large hashes some fields at once; of packed ones, which are small, all.
		now := min(len(names), 100)
		var scan, ask, set batch
		for i, name := range names[:now] {
			scan.add("HSCAN", name, cursors[i], "COUNT", itoa(scannedFields), "NOVALUES")
		}
		scans, err := r.batch(ctx, addr, scan)
		if err != nil {
			return err
		}
		var hashes []string
		var fields [][]string
		var moreNames, moreCursors []string
		for i, reply := range scans {
			if len(reply.Elems) != 2 {
				return errors.New("HSCAN: the answer has no cursor")
			}
			if cursor := reply.Elems[0].Text; cursor != "0" {
				moreNames, moreCursors = append(moreNames, names[i]), append(moreCursors, cursor)
			}
			if some := texts(reply.Elems[1]); len(some) > 0 {
				hashes, fields = append(hashes, names[i]), append(fields, some)
				ask.add(fieldsCommand("HPEXPIRETIME", names[i], "", some)...)
			}
		}
		times, err := r.batch(ctx, addr, ask)
		if err != nil {
			return err
		}
		for i, reply := range times {
			due := make(map[int64][]string)
			for k, at := range reply.Elems {
				if at.Int > parkFieldBy && at.Int <= latestFieldExpiry && k < len(fields[i]) {
					due[at.Int-parkFieldBy] = append(due[at.Int-parkFieldBy], fields[i][k])
				}
			}
			for at, some := range due {
				set.add(fieldsCommand("HPEXPIREAT", hashes[i], itoa(at), some)...)
			}
		}
		if _, err := r.batch(ctx, addr, set); err != nil {
			return err
		}
		names, cursors = append(moreNames, names[now:]...), append(moreCursors, cursors[now:]...)
	}
	return nil
}

// fieldsCommand returns a command about fields of a hash.
func fieldsCommand(name, key, at string, fields []string) []string {
	args := []string{name, key}
	if at != "" {
		args = append(args, at)
	}
	return append(append(args, "FIELDS", itoa(len(fields))), fields...)
}

func texts(list resp.Reply) []string {
	out := make([]string, len(list.Elems))
	for i, e := range list.Elems {
		out[i] = e.Text
	}
	return out
}

// A batch is commands that are sent at once.
type batch struct {
	commands []byte
	n        int
}

func (b *batch) add(args ...string) {
	b.commands = appendCommand(b.commands, args...)
	b.n++
}

// batch sends commands at once and returns what they answer.
func (r *run) batch(ctx context.Context, addr string, b batch) ([]resp.Reply, error) {
	if b.n == 0 {
		return nil, nil
	}
	out := make([]resp.Reply, 0, b.n)
	err := r.admin(addr).Exchange(ctx, r.cfg.Stall, b.commands, func(in *resp.Reader) error {
		for range b.n {
			reply, err := in.ReadReply()
			if err != nil {
				return err
			}
			out = append(out, reply)
		}
		return nil
	})
	return out, err
}
