package command

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
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
	return m != nil && need.Conflict() != restore.Replace && m.Backup == need.Backup.ID && m.Conflict.Merges() == need.Conflict().Merges()
}

// markAt returns the node that has the mark.
func (r *run) markAt() *srv.Conn { return r.admin(r.topo.Load().of([]byte(markKey)).addr) }

// begin clears the target if that is what was asked for, and puts the mark. From here on the target is different from before.
func (r *run) begin(ctx context.Context) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	m := &banner{Backup: r.backup.ID, Method: "command", Conflict: r.opts.Conflict, Started: r.tally.start.UTC()}
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
	if err := r.selectFirst(ctx, r.markAt()); err != nil {
		return err
	}
	if _, err := r.markAt().Do(ctx, "SET", markKey, m.String()); err != nil {
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
		a := r.admin(n.addr)
		if err := r.selectFirst(ctx, a); err != nil {
			return err
		}
		r.log.Info("the target's data is let go of", "target", n.addr)
		for _, c := range commands(n) {
			if c[0] == "EXEC" {
				r.changed = true
			}
			reply, err := a.Do(ctx, c...)
			if err != nil {
				return fmt.Errorf("clearing %s: %w", n.addr, err)
			}
			for _, e := range reply.Elems {
				if e.Kind == '-' {
					return fmt.Errorf("clearing %s: %s", n.addr, e.Text)
				}
			}
		}
		r.flushed = true
		r.marked = r.marked || n == marked
	}
	return nil
}

// selectFirst selects database 0, on a connection that may have another.
func (r *run) selectFirst(ctx context.Context, a *srv.Conn) error {
	if r.cluster() && !r.manyDBs {
		return nil
	}
	_, err := a.Do(ctx, "SELECT", "0")
	return err
}

// stillEmpty looks for data that came between the check and now.
func (r *run) stillEmpty(ctx context.Context) error {
	keys, _, err := r.census(ctx)
	if err != nil {
		return err
	}
	if total := keys.Total(); total > r.facts.own {
		return fmt.Errorf("%w: somebody else wrote to it after it was checked, %d keys", restore.ErrNotEmpty, total)
	}
	return nil
}

// census counts the keys of all primaries, and the libraries. The caller has the lock of what is rare.
func (r *run) census(ctx context.Context) (srv.Counts, int64, error) {
	all, libraries := srv.Counts{}, int64(0)
	for _, n := range r.topo.Load().nodes {
		info, _, err := r.admin(n.addr).Info(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("counting the keys of %s: %w", n.addr, err)
		}
		for db, keys := range srv.Keyspace(info) {
			all[db] += keys
		}
		libraries = max(libraries, info.Int("number_of_libraries"))
	}
	return all, libraries, nil
}

// removeTemps removes what a restore that broke off has left under temporary names.
func (r *run) removeTemps(ctx context.Context) error {
	for _, n := range r.topo.Load().nodes {
		a := r.admin(n.addr)
		for db := range r.dbs() {
			names, err := scan(ctx, a, db, r.cluster(), tempPrefix+"*")
			if err != nil {
				return fmt.Errorf("looking for what an earlier restore has left: %w", err)
			}
			for _, name := range names {
				if !strings.HasPrefix(name, tempPrefix) {
					continue
				}
				if _, err := r.one(ctx, n.addr, false, db, appendCommand(nil, "DEL", name)); err != nil {
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
	a := r.markAt()
	if err := r.selectFirst(ctx, a); err != nil {
		return err
	}
	_, err := a.Do(ctx, "DEL", markKey)
	if err == nil {
		r.marked = false
		return nil
	}
	return fmt.Errorf("removing the mark %s: %w", markKey, err)
}
