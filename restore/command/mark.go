package command

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/restore"
)

// Names that are a restore's own. They never count as data.
const (
	reservedPrefix = "amber:"
	markKey        = reservedPrefix + "restoring" // in database 0
	probePrefix    = reservedPrefix + "probe:"
	tempPrefix     = reservedPrefix + "tmp:"
)

// A banner is the mark that shows at the target that a restore is under way, or broke off.
type banner struct {
	Backup   catalog.ID       `json:"backup"`
	Method   string           `json:"method"`
	Conflict restore.Conflict `json:"conflict"`
	Started  time.Time        `json:"started"`
	// Replaying: commands of the backup are executed, or were, which can't be done twice.
	Replaying bool `json:"replaying,omitempty"`
}

// banner returns the mark of a run.
func (r *run) banner() *banner {
	return &banner{Backup: r.backup.ID, Method: "command", Conflict: r.opts.Conflict, Started: r.tally.start.UTC(), Replaying: r.commanded.Load()}
}

func (m *banner) String() string {
	text, _ := json.Marshal(m) // can't fail
	return string(text)
}

// readMark returns the mark of a target, nil if it has none.
func readMark(ctx context.Context, a *srv.Conn) (*banner, error) {
	reply, err := a.Do(ctx, "GET", markKey)
	if err != nil || reply.Kind == 0 {
		return nil, err
	}
	m := &banner{}
	if err := json.Unmarshal([]byte(reply.Text), m); err != nil {
		return &banner{Method: "unknown"}, nil // somebody else's, which is told in the verdict
	}
	return m, nil
}

// carriesOn tells whether a restore goes on with what the target's mark tells of.
func (t *facts) carriesOn(need restore.Requirements) bool {
	m := t.mark
	return m != nil && !m.Replaying && need.Conflict() != restore.Replace && m.Backup == need.Backup.ID && m.Conflict.Merges() == need.Conflict().Merges()
}

// begin clears the target if that is what was asked for, and puts the mark. From here on the target is different from before.
func (r *run) begin(ctx context.Context) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	m := r.banner()
	if r.opts.Conflict == restore.Replace {
		return r.replaceAll(ctx, m)
	}
	if r.opts.Conflict == restore.IntoEmpty && !r.carriesOn {
		if err := r.stillEmpty(ctx); err != nil {
			return err
		}
	}
	if r.facts.mark != nil {
		if err := r.removeTemps(ctx); err != nil {
			return err
		}
	}
	r.changed = true // also if the answer is lost
	if _, err := r.ask(ctx, []byte(markKey), 0, "SET", markKey, m.String()); err != nil {
		r.changed = !srv.Refused(err)
		return fmt.Errorf("setting the mark %s: %w", markKey, err)
	}
	r.marked = true
	return nil
}

// replaceAll lets go of all that the target holds, and puts the mark together with that.
func (r *run) replaceAll(ctx context.Context, m *banner) error {
	marked := r.topo.Load().of([]byte(markKey))
	nodes := r.topo.Load().nodes
	commands := func(n *node) [][]string {
		out := [][]string{{"MULTI"}, {"FLUSHALL", "ASYNC"}}
		if r.facts.libraries > 0 {
			out = append(out, []string{"FUNCTION", "FLUSH"})
		}
		if n == marked {
			out = append(out, []string{"SET", markKey, m.String()})
		}
		return append(out, []string{"EXEC"})
	}
	// The one with the mark first: what is half cleared has to show it.
	for _, n := range append([]*node{marked}, nodes...) {
		if n == marked && r.marked {
			continue
		}
		r.log.Info("the target's data is let go of", "target", n.addr)
		if err := r.patiently(ctx, func() error { return r.exec(ctx, n.addr, commands(n)) }); err != nil {
			return fmt.Errorf("clearing %s: %w", n.addr, err)
		}
		r.flushed = true
		r.marked = r.marked || n == marked
	}
	return nil
}

// exec sends commands that begin with MULTI and end with EXEC.
func (r *run) exec(ctx context.Context, addr string, commands [][]string) error {
	a := r.admin(addr)
	if !r.cluster() || r.manyDBs {
		if _, err := a.Do(ctx, "SELECT", "0"); err != nil {
			return err
		}
	}
	for _, c := range commands {
		if c[0] == "EXEC" {
			r.changed = true
		}
		reply, err := a.Do(ctx, c...)
		if err != nil {
			if c[0] != "EXEC" {
				a.Close() // it may be in the middle of the transaction
			}
			return err
		}
		for _, e := range reply.Elems {
			if e.Kind == resp.Failure {
				return resp.Error(e.Text)
			}
		}
	}
	return nil
}

// stillEmpty looks for data that came between the check and now.
func (r *run) stillEmpty(ctx context.Context) error {
	keys, _, err := r.census(ctx)
	if err != nil {
		return err
	}
	if total := keys.Total(); total > max(r.facts.own, 0) {
		return fmt.Errorf("%w: somebody else wrote to it after it was checked, %d keys", restore.ErrNotEmpty, total)
	}
	return nil
}

// census counts the keys of all primaries, without the mark, and the libraries. The caller has the lock of what is rare.
func (r *run) census(ctx context.Context) (srv.Counts, int64, error) {
	all, libraries := srv.Counts{}, int64(0)
	for _, n := range r.topo.Load().nodes {
		reply, err := r.do(ctx, n.addr, "INFO")
		if err != nil {
			return nil, 0, fmt.Errorf("counting the keys of %s: %w", n.addr, err)
		}
		info := resp.ParseInfo(reply.Text)
		for db, keys := range srv.Keyspace(info) {
			all[db] += keys
		}
		libraries = max(libraries, info.Int("number_of_libraries"))
	}
	has, err := r.ask(ctx, []byte(markKey), 0, "EXISTS", markKey)
	if err != nil {
		return nil, 0, fmt.Errorf("looking for the mark: %w", err)
	}
	all[0] -= has
	return all, libraries, nil
}

// removeTemps removes what a restore that broke off has left under temporary names.
func (r *run) removeTemps(ctx context.Context) error {
	for _, n := range r.topo.Load().nodes {
		for db := range r.dbs() {
			var names []string
			err := r.patiently(ctx, func() (err error) {
				names, err = scan(ctx, r.admin(n.addr), db, r.cluster(), tempPrefix+"*")
				return err
			})
			if err != nil {
				return fmt.Errorf("looking for what an earlier restore has left: %w", err)
			}
			for _, name := range names {
				if !strings.HasPrefix(name, tempPrefix) {
					continue
				}
				if _, err := r.ask(ctx, []byte(name), db, "DEL", name); err != nil {
					return fmt.Errorf("removing %s, which an earlier restore has left: %w", name, err)
				}
			}
		}
	}
	return nil
}

// dbs are the databases that a restore writes to, or may have written to.
func (r *run) dbs() srv.Counts {
	out := srv.Counts{0: 0}
	for _, db := range r.backup.DBs {
		out[db.Index] = db.Keys
	}
	return out
}

// unmark removes the mark.
func (r *run) unmark(ctx context.Context) error {
	if _, err := r.ask(ctx, []byte(markKey), 0, "DEL", markKey); err != nil {
		return fmt.Errorf("removing the mark %s: %w", markKey, err)
	}
	r.marked = false
	return nil
}
