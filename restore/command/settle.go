package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// Pauses between tries, which grow.
const (
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
)

// codeOf returns the first word of an error reply; see resp.Error.
func codeOf(text []byte) string {
	word, _, _ := bytes.Cut(text, []byte(" "))
	for _, c := range word {
		if c < 'A' || c > 'Z' {
			return ""
		}
	}
	return string(word)
}

// passing tells whether an error is of a state of the server that passes.
func passing(code string) bool {
	switch code {
	case "LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "BUSY":
		return true
	}
	return false
}

// accepted takes note of an answer that is no error.
func (r *run) accepted(o *op, a reply, command []byte) {
	switch o.kind {
	case opWrite:
		r.tally.add(o)
	case opExists:
		if a.n > 0 {
			r.conflict(o, command)
		}
	case opBuild, opFinish, opDrop:
		o.job.answered(o.kind, a)
	case opReplay:
		r.replayed()
	}
}

// refused deals with an error reply of a node. Its own error ends the restore.
func (r *run) refused(ctx context.Context, n *node, command []byte, o *op, text []byte) error {
	switch o.kind {
	case opSelect:
		return fmt.Errorf("%s: selecting a database: %w", n.addr, resp.Error(bytes.Clone(text)))
	case opBuild, opFinish, opDrop:
		return r.refusedPart(ctx, n, o, string(text))
	case opReplay:
		err := r.refusedCommand(n, command, o, string(text))
		if err == nil {
			r.replayed()
		}
		return err
	}
	if code := codeOf(text); r.commanded.Load() && (passing(code) || code == "MOVED" || code == "ASK" || code == "READONLY") {
		// Commands about the key may be on their way behind it.
		return fmt.Errorf("key %s: %s takes no writes now (%s), and commands behind it may have been executed", r.name(o.db, keyOf(command)), n.addr, text)
	}
	return r.resolve(ctx, n, bytes.Clone(command), o, string(text))
}

// resend sends a command that no connection has answered to the node that has its key.
func (r *run) resend(ctx context.Context, command []byte, o *op) error {
	return r.resolve(ctx, nil, bytes.Clone(command), o, "")
}

// resolve brings a command to its end that a node answered by an error, one at a time and with pauses: it is for what is rare. A nil
// node means that the command is still to be sent.
func (r *run) resolve(ctx context.Context, n *node, command []byte, o *op, text string) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	lost := func() {
		if o.kind == opWrite {
			if !o.again && r.mayReplace() {
				command = withReplace(command)
			}
			o.again = true
		}
	}
	a, text, err := r.persist(ctx, n, keyOf(command), o.db, &command, text, lost)
	switch {
	case err != nil:
		return err
	case text != "":
		return r.verdictOf(ctx, command, o, text)
	}
	r.accepted(o, reply{kind: byte(a.Kind), n: a.Int}, command)
	return nil
}

// ask sends a command about a key to the node that has it, and returns the number that it answers. The caller has r.fix.
func (r *run) ask(ctx context.Context, key []byte, db int, args ...string) (int64, error) {
	command := appendCommand(nil, args...)
	a, text, err := r.persist(ctx, nil, key, int32(db), &command, "", func() {})
	if err == nil && text != "" {
		err = fmt.Errorf("%s: %w", args[0], resp.Error(text))
	}
	return a.Int, err
}

// persist sends a command until the node that has the key takes it, or refuses it for good, which text tells. It waits for what
// passes. A node and a text say what was answered already; lost is called when it isn't known any more whether the command was executed.
// The caller has r.fix.
func (r *run) persist(ctx context.Context, n *node, key []byte, db int32, command *[]byte, text string, lost func()) (resp.Reply, string, error) {
	begin, pause := clock.System(), firstPause
	wait := func(why error) error {
		if clock.Since(begin) > r.cfg.Stall {
			return fmt.Errorf("key %s: for %v nothing but: %w", r.name(db, key), r.cfg.Stall, why)
		}
		if clock.Sleep(ctx, pause) != nil {
			return context.Cause(ctx)
		}
		pause = min(2*pause, longestPause)
		return nil
	}
	for {
		at, asking := "", false
		code := codeOf([]byte(text))
		switch {
		case text == "":
		case code == "MOVED":
			if n == nil || r.topo.Load().of(key) == n { // else it was asked meanwhile
				if err := r.refreshLocked(ctx); err != nil {
					if err := wait(err); err != nil {
						return resp.Reply{}, "", err
					}
				}
			}
			if addr, _, _, ok := r.admin(r.topo.Load().of(key).addr).Redirected(text); ok && clock.Since(begin) > 0 && n != nil {
				at = addr // the cluster's nodes don't learn of it all at once
			}
		case code == "ASK":
			addr, _, _, ok := r.admin(r.topo.Load().of(key).addr).Redirected(text)
			if !ok {
				return resp.Reply{}, text, nil
			}
			at, asking = addr, true
		case passing(code) || code == "READONLY" && r.cluster() || r.freeing(ctx, code):
			if err := wait(errors.New(text)); err != nil {
				return resp.Reply{}, "", err
			}
			if r.cluster() {
				r.refreshLocked(ctx) // what doesn't help is said by the next answer
			}
		default:
			return resp.Reply{}, text, nil
		}
		if at == "" {
			at = r.topo.Load().of(key).addr
		}
		a, err := r.one(ctx, at, asking, int(db), *command)
		var refused resp.Error
		switch {
		case err == nil:
			return a, "", nil
		case errors.As(err, &refused):
			if n != nil && code == "MOVED" {
				n = nil
			}
			text = string(refused)
		case errors.Is(err, resp.ErrProtocol): // such as a value that is too large to be looked at
			return resp.Reply{}, "", err
		default:
			if err := wait(err); err != nil {
				return resp.Reply{}, "", err
			}
			if r.cluster() {
				r.refreshLocked(ctx)
			}
			lost()
			n, text = nil, ""
		}
	}
}

// one sends a command to a node and waits for the answer.
func (r *run) one(ctx context.Context, addr string, asking bool, db int, command []byte) (resp.Reply, error) {
	a := r.admin(addr)
	if !r.cluster() || r.manyDBs {
		if _, err := a.Do(ctx, "SELECT", itoa(db)); err != nil {
			return resp.Reply{}, err
		}
	}
	if asking {
		if _, err := a.Do(ctx, "ASKING"); err != nil {
			return resp.Reply{}, err
		}
	}
	return a.Do(ctx, splitCommand(command)...)
}

// freeing tells whether a server is out of memory only because it is still letting go of what it held before.
func (r *run) freeing(ctx context.Context, code string) bool {
	if code != "OOM" || !r.flushed {
		return false
	}
	for _, n := range r.topo.Load().nodes {
		info, _, err := r.admin(n.addr).Info(ctx)
		if err == nil && info.Int("lazyfree_pending_objects") > 0 {
			return true
		}
	}
	return false
}

// verdictOf decides about a key that the target refuses for good.
func (r *run) verdictOf(ctx context.Context, command []byte, o *op, text string) error {
	key := keyOf(command)
	switch code := codeOf([]byte(text)); {
	case code == "BUSYKEY" && o.kind == opWrite:
		if o.again || r.carriesOn && r.opts.Conflict == restore.MergeFail {
			same, err := r.same(ctx, command, o)
			if err != nil {
				return err
			}
			if same {
				r.tally.add(o)
				return nil
			}
		}
		r.exists(o, command)
		return nil
	case code == "OOM":
		return r.outOfMemory(ctx, text)
	case code == "READONLY":
		return fmt.Errorf("the target became a replica, or was one, and takes no writes: give the address of the primary (%s)", text)
	case code == "NOPERM", strings.Contains(strings.ToLower(text), "unknown command"), code == "NOAUTH", code == "MISCONF", code == "NOREPLICAS":
		return fmt.Errorf("key %s: the target refuses to write: %s", r.name(o.db, key), text)
	default:
		return r.failKey(o.db, key, text)
	}
}

// outOfMemory says what a target without room is set to.
func (r *run) outOfMemory(ctx context.Context, text string) error {
	limit, policy, used := "", "", int64(0)
	for _, n := range r.topo.Load().nodes {
		if info, _, err := r.admin(n.addr).Info(ctx); err == nil && info.Int("maxmemory") > 0 {
			limit, policy = info["maxmemory"], info["maxmemory_policy"]
			used = info.Int("used_memory")
		}
	}
	return fmt.Errorf("the target has no room left: it uses %d bytes, with maxmemory %s and the policy %s. Raise maxmemory and restore again (%s)", used, limit, policy, text)
}

// exists deals with a key that the target has already.
func (r *run) exists(o *op, command []byte) {
	switch r.opts.Conflict {
	case restore.MergeSkip:
		r.tally.skipped.Add(1)
	case restore.MergeFail:
		r.stop(fmt.Errorf("the target has the key %s, which it hadn't before the restore began: somebody else writes to it", r.name(o.db, keyOf(command))))
	default:
		r.stop(fmt.Errorf("the target has the key %s although it was empty: somebody else writes to it, or the backup has the key twice", r.name(o.db, keyOf(command))))
	}
}

// conflict takes note of a key that both have, before anything is written.
func (r *run) conflict(o *op, command []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conflicts++
	if len(r.both) < maxNamed {
		r.both = append(r.both, r.name(o.db, keyOf(command)))
	}
}

// maxNamed is how many keys an error names, and how many may fail before the restore ends.
const maxNamed = 10

// failKey takes note of a key that the target doesn't take. The error ends the restore, when they become many.
func (r *run) failKey(db int32, key []byte, why string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failed) < maxNamed {
		r.failed = append(r.failed, r.name(db, key)+": "+why)
	}
	r.log.Warn("the target doesn't take a key", "target", r.facts.addr, "db", db, "why", why)
	if len(r.failed) == maxNamed {
		return fmt.Errorf("the target doesn't take %d keys, the first of them %s", maxNamed, r.failed[0])
	}
	return nil
}

// name is a key's name for people.
func (r *run) name(db int32, key []byte) string {
	if len(key) > 128 {
		return fmt.Sprintf("%d/%s…", db, key[:128])
	}
	return fmt.Sprintf("%d/%s", db, key)
}

// same tells whether the key that the target has is what the command would write: the value is restored under a temporary name, and
// the server's own DUMPs are compared.
func (r *run) same(ctx context.Context, command []byte, o *op) (bool, error) {
	args := splitCommand(command)
	if len(args) < 4 || args[0] != "RESTORE" {
		return false, nil
	}
	key := args[1]
	temp := string(r.appendTemp(nil, []byte(key)))
	args[1], args[2] = temp, "60000"
	args = []string{"RESTORE", temp, "60000", args[3]}
	lost := false // perhaps it is there already
	put := appendCommand(nil, args...)
	a, text, err := r.persist(ctx, nil, []byte(key), o.db, &put, "", func() { lost = true })
	defer r.ask(ctx, []byte(key), int(o.db), "DEL", temp)
	var dumps [2]string
	for i, name := range []string{temp, key} {
		if err != nil || text != "" && !(lost && codeOf([]byte(text)) == "BUSYKEY") {
			break
		}
		dump := appendCommand(nil, "DUMP", name)
		a, text, err = r.persist(ctx, nil, []byte(key), o.db, &dump, "", func() {})
		dumps[i] = a.Text
	}
	if err == nil && text != "" {
		err = resp.Error(text)
	}
	if err != nil {
		return false, fmt.Errorf("comparing key %s: %w", r.name(o.db, []byte(key)), err)
	}
	if o.typ == rdb.TypeModule && len(dumps[0]) == len(dumps[1]) {
		return true, nil // Redis lists the elements of a vector set in another order each time
	}
	return sameDumps(dumps[0], dumps[1]), nil
}

// keyOf returns the key of a command, which is its second word.
func keyOf(command []byte) []byte {
	_, rest := cutWord(skipLine(command))
	key, _ := cutWord(rest)
	return key
}

func skipLine(b []byte) []byte {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[i+1:]
	}
	return nil
}

// cutWord returns the next argument of a command of our own, and what is behind it.
func cutWord(b []byte) (word, rest []byte) {
	n, i := 0, 1
	for ; i < len(b) && b[i] != '\r'; i++ {
		n = n*10 + int(b[i]-'0')
	}
	if i += 2; i+n+2 > len(b) {
		return nil, nil
	}
	return b[i : i+n], b[i+n+2:]
}

// splitCommand returns the arguments of a command of our own.
func splitCommand(b []byte) []string {
	var out []string
	for rest := skipLine(b); len(rest) > 0; {
		var word []byte
		word, rest = cutWord(rest)
		out = append(out, string(word))
	}
	return out
}
