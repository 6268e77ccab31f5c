package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/amberkv/amber/internal/cmdtable"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
)

// A stream may have commands among its keys, which are executed on top of those before them. What matters is the order of all that is about one key. So
// with the first command a barrier is drawn: all keys before it are written, over as many connections as there are. From there on everything that a node
// gets goes over one of its connections, commands and keys alike, and a server executes what comes over one connection in its order. What takes several
// commands to be made under a temporary name is waited for before anything else is done about its key.
//
// Commands can't be executed twice. So a connection that breaks ends the restore, unless all that had no answer comes to the same when it is
// executed once more from its beginning; and a restore that broke off in the middle can't be carried on, which its mark says.

// errCommands ends a pass that is about the keys before the first command.
var errCommands = errors.New("commands begin here")

// command executes an entry of the stream that is a command.
func (f *feeder) command(e *rdb.Entry) error {
	if f.ask || f.only != nil {
		return errCommands
	}
	if !f.ordered {
		if err := f.beginCommands(); err != nil {
			return err
		}
	}
	offset := int64(e.Txid) // see rdb.Writer.WriteCommand
	args, err := f.arguments()
	if err != nil {
		return err
	}
	if len(args) == 0 || len(args[0]) == 0 {
		return fmt.Errorf("a command without a name, at byte %d", offset)
	}
	o := op{kind: opReplay, db: int32(e.DB), offset: offset}
	known := cmdtable.Lookup(args[0])
	if known == nil {
		return fmt.Errorf("command %.40q, at byte %d: which keys it has isn't known, so that it can't be executed", args[0], offset)
	}
	if f.keys, _, err = known.Keys(args, f.keys[:0]); err != nil {
		return fmt.Errorf("command at byte %d: %w", offset, err)
	}
	o.blind = cmdtable.IsBlind(known, args)
	switch known.Kind {
	case cmdtable.Nothing:
		return nil
	case cmdtable.Flush, cmdtable.Swap, cmdtable.Function:
		return f.everywhere(known, args, e.DB, offset)
	}
	if len(f.building) > 0 {
		for _, k := range f.keys {
			if f.building[jobKey(e.DB, args[k])] {
				if err := f.flush(); err != nil {
					return err
				}
				break
			}
		}
	}
	f.r.park(known, e.DB, args)
	if !f.r.cluster() || len(f.keys) == 1 {
		return f.emitCommand(args, o)
	}
	return f.spread(known, args, o)
}

// arguments reads the words of a command.
func (f *feeder) arguments() ([][]byte, error) {
	f.words = f.words[:0]
	f.ends = f.ends[:0]
	more := false
	for el, err := range f.in.Elements() {
		if err != nil {
			return nil, err
		}
		f.words = append(f.words, el.Value...)
		if more = el.More; !more {
			f.ends = append(f.ends, len(f.words))
		}
	}
	if more {
		return nil, io.ErrUnexpectedEOF
	}
	f.args = f.args[:0]
	start := 0
	for _, end := range f.ends {
		f.args = append(f.args, f.words[start:end:end])
		start = end
	}
	if cap(f.words) > maxKeptBytes {
		f.words = nil // what is lent goes on until the next command
	}
	return f.args, nil
}

// beginCommands draws the barrier.
func (f *feeder) beginCommands() error {
	if err := f.flush(); err != nil {
		return err
	}
	r := f.r
	r.mu.Lock()
	n := len(r.redo)
	r.mu.Unlock()
	if n > 0 {
		// What could not be written has to be there before a command is executed on it.
		if err := r.redoAll(newFeeder(f.ctx, r)); err != nil {
			return err
		}
	}
	if err := r.markCommands(f.ctx); err != nil {
		return err
	}
	f.ordered = true
	f.building = make(map[string]bool)
	return nil
}

// emitCommand adds a command to what goes to the node of its first key.
func (f *feeder) emitCommand(args [][]byte, o op) error {
	var key []byte
	if len(f.keys) > 0 {
		key = args[f.keys[0]]
	}
	l := f.linkFor(key)
	c, err := f.chunk(l, int(o.db))
	if err != nil {
		return err
	}
	size := 16
	for _, a := range args {
		size += len(a) + 24
	}
	if len(c.buf) > c.from && len(c.buf)+size > f.r.depot.size {
		if err := f.send(l); err != nil {
			return err
		}
		if c, err = f.chunk(l, int(o.db)); err != nil {
			return err
		}
	}
	f.r.depot.room(c, size)
	b := appendCount(c.buf, '*', len(args))
	for _, a := range args {
		b = appendBytes(b, a)
	}
	c.buf = b
	c.add(o)
	return nil
}

// spread executes a command with several keys, or none, in a cluster.
func (f *feeder) spread(known *cmdtable.Command, args [][]byte, o op) error {
	slots := map[int]bool{}
	for _, k := range f.keys {
		slots[srv.Slot(args[k])] = true
	}
	switch {
	case len(slots) == 1:
		return f.emitCommand(args, o)
	case known.Kind != cmdtable.Each:
		return fmt.Errorf("command %s of key %s, at byte %d: its keys are in %d slots of the cluster, and it takes one: restore into a server without cluster mode",
			known.Name, f.r.name(o.db, firstKey(args, f.keys)), o.offset, len(slots))
	}
	step := known.Step()
	name := args[0]
	if known.Name == "MSETNX" { // which was executed, so that none of its keys was there
		name = []byte("MSET")
	}
	f.keys = append(f.keys[:0], 1)
	for i := 1; i+step <= len(args); i += step {
		if err := f.emitCommand(append([][]byte{name}, args[i:i+step]...), o); err != nil {
			return err
		}
	}
	return nil
}

func firstKey(args [][]byte, keys []int) []byte {
	if len(keys) == 0 {
		return nil
	}
	return args[keys[0]]
}

// everywhere executes a command that is for all primaries, when everything before it is done.
func (f *feeder) everywhere(known *cmdtable.Command, args [][]byte, db int, offset int64) error {
	if err := f.flush(); err != nil {
		return err
	}
	r := f.r
	r.fix.Lock()
	defer r.fix.Unlock()
	r.touch()
	var err error
	switch known.Kind {
	case cmdtable.Function:
		err = r.replayFunction(f.ctx, args)
	case cmdtable.Swap:
		err = r.replaySwap(f.ctx, args)
	default:
		err = r.replayFlush(f.ctx, known.Name, db)
	}
	if err != nil {
		return fmt.Errorf("command %s, at byte %d: %w", known.Name, offset, err)
	}
	r.tally.commands.Add(1)
	return nil
}

// replayFlush removes all keys, of all databases or one. The mark that goes with them comes back in the same step. The caller has r.fix.
func (r *run) replayFlush(ctx context.Context, name string, db int) error {
	at := r.topo.Load().of([]byte(markKey))
	for _, n := range r.topo.Load().nodes {
		err := r.patiently(ctx, func() error {
			if name == "FLUSHDB" && db != 0 {
				_, err := r.one(ctx, n.addr, false, db, appendCommand(nil, name))
				return err
			}
			commands := [][]string{{"MULTI"}, {name}}
			if n == at {
				commands = append(commands, []string{"SET", markKey, r.banner().String()})
			}
			return r.exec(ctx, n.addr, append(commands, []string{"EXEC"}))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replaySwap swaps two databases, and brings the mark back to where it was. The caller has r.fix.
func (r *run) replaySwap(ctx context.Context, args [][]byte) error {
	if r.cluster() || len(args) != 3 {
		return errors.New("a cluster has no databases to swap")
	}
	a, b := string(args[1]), string(args[2])
	commands := [][]string{{"MULTI"}, {"SWAPDB", a, b}}
	if other := a; a != b && (a == "0" || b == "0") {
		if a == "0" {
			other = b
		}
		commands = append(commands, []string{"SET", markKey, r.banner().String()}, []string{"SELECT", other}, []string{"DEL", markKey}, []string{"SELECT", "0"})
	}
	// If the answer is lost it isn't known whether it was executed.
	return r.exec(ctx, r.topo.Load().nodes[0].addr, append(commands, []string{"EXEC"}))
}

// replayFunction changes the libraries of every primary. The caller has r.fix.
func (r *run) replayFunction(ctx context.Context, args [][]byte) error {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = string(a)
	}
	for _, n := range r.topo.Load().nodes {
		if _, err := r.admin(n.addr).Do(ctx, words...); err != nil {
			return err
		}
	}
	if len(words) > 1 && strings.EqualFold(words[1], "LOAD") {
		r.tried = append(r.tried, libraryName(args[len(args)-1]))
	}
	return nil
}

// replayed takes note of a command that was executed.
func (r *run) replayed() { r.tally.commands.Add(1) }

// refusedCommand says what an error reply to a command means: it was executed where the backup comes from, so that none is expected.
func (r *run) refusedCommand(n *node, command []byte, o *op, text string) error {
	what := r.describe(command, o)
	if strings.HasPrefix(strings.ToUpper(what), "FT.") && strings.Contains(strings.ToLower(text), "exists") {
		return nil // each shard of a Dragonfly tells of every index
	}
	switch code := codeOf([]byte(text)); {
	case code == "MOVED", code == "ASK", code == "TRYAGAIN", code == "CLUSTERDOWN":
		return fmt.Errorf("%s: the cluster's slots moved while commands were executed, whose order is lost with that (%s): restore again when it is at rest", what, text)
	case code == "OOM":
		return fmt.Errorf("%s: the target has no room left (%s): raise its maxmemory", what, text)
	case passing(code), code == "READONLY", code == "MISCONF", code == "NOREPLICAS":
		return fmt.Errorf("%s: %s takes no writes now (%s), and those behind it may have been executed", what, n.addr, text)
	case code == "NOPERM", strings.Contains(strings.ToLower(text), "unknown command"):
		return fmt.Errorf("%s: the target refuses to execute it: %s", what, text)
	}
	return fmt.Errorf("%s: the target answers %s; where the backup comes from it was executed: what it works on isn't what it was there. Did somebody else write to the target?", what, text)
}

// describe names a command in an error: without its values, which may be secret.
func (r *run) describe(command []byte, o *op) string {
	args := splitCommand(command)
	if len(args) == 0 {
		return fmt.Sprintf("command at byte %d", o.offset)
	}
	raw := make([][]byte, len(args))
	for i, a := range args {
		raw[i] = []byte(a)
	}
	name := strings.ToUpper(args[0])
	if known := cmdtable.Lookup(raw[0]); known != nil {
		if keys, _, err := known.Keys(raw, nil); err == nil && len(keys) > 0 {
			return fmt.Sprintf("%s of key %s, at byte %d of the commands' source", name, r.name(o.db, raw[keys[0]]), o.offset)
		}
	}
	return fmt.Sprintf("%s in database %d, at byte %d of the commands' source", name, o.db, o.offset)
}

// doubtful is the error of commands of which it isn't known whether they were executed, when a connection broke; nil if there are none, or if it doesn't
// matter.
func (r *run) doubtful(n *node, chunks []*chunk) error {
	unanswered := 0
	first := ""
	for _, c := range chunks {
		for i := c.done; i < len(c.ops); i++ {
			o := &c.ops[i]
			if o.kind != opReplay {
				continue
			}
			unanswered++
			if !o.blind && first == "" {
				first = r.describe(c.command(i), o)
			}
		}
	}
	if first == "" {
		return nil
	}
	return fmt.Errorf("the connection to %s broke while %d commands had no answer, the first that can't be executed twice: %s: whether they were executed isn't known", n.addr, unanswered, first)
}

// markCommands says in the mark that commands are being executed from now on.
func (r *run) markCommands(ctx context.Context) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	r.commanded.Store(true)
	if _, err := r.ask(ctx, []byte(markKey), 0, "SET", markKey, r.banner().String()); err != nil {
		return fmt.Errorf("setting the mark %s: %w", markKey, err)
	}
	return nil
}
