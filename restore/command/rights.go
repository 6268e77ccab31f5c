package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/amberkv/amber/catalog"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// rights tries the commands that a restore needs, each in a way that changes nothing: a server looks at a user's rights before
// it looks at the arguments.
func (x *examiner) rights(ctx context.Context) error {
	name := x.probe()
	other := x.probe()
	puts := x.t.putsOff(x.need.Backup, x.need.Conflict())
	tries := []struct {
		needed bool
		rule   string
		args   []string
	}{
		{true, "+set", []string{"SET", name, "1", "PX", "5000"}},
		{true, "+get", []string{"GET", name}},
		{true, "+del", []string{"DEL", name}},
		{true, "+exists", []string{"EXISTS", name}},
		{true, "+dump", []string{"DUMP", name}},
		{true, "+pexpireat", []string{"PEXPIREAT", name, "1"}},
		{true, "+rename", []string{"RENAME", name, other}},
		{true, "+renamenx", []string{"RENAMENX", name, other}},
		{true, "+scan", []string{"SCAN", "0", "MATCH", name, "COUNT", "1"}},
		{puts, "+pexpiretime", []string{"PEXPIRETIME", name}},
		{puts && x.t.caps.hpexpireat, "+hpexpireat", []string{"HPEXPIREAT", name, "1", "FIELDS", "1", "f"}},
		{puts && x.t.caps.hpexpireat, "+hpexpiretime", []string{"HPEXPIRETIME", name, "FIELDS", "1", "f"}},
		{puts && x.t.caps.hpexpireat, "+hscan", []string{"HSCAN", name, "0", "NOVALUES"}},
		{x.need.Conflict() == restore.Replace, "+flushall", []string{"FLUSHALL", "amber", "amber"}},
		{x.need.Conflict() == restore.Replace && x.t.libraries > 0, "+function|flush", []string{"FUNCTION", "FLUSH", "amber"}},
		{x.need.Conflict() == restore.Replace, "+multi", []string{"MULTI"}},
		{x.need.Conflict() == restore.Replace, "+exec", []string{"EXEC"}},
		{x.need.Backup.Functions > 0, "+function|load", []string{"FUNCTION", "LOAD", "REPLACE", "-"}},
		{x.need.Backup.Functions > 0 && x.need.Conflict().Merges(), "+function|list", []string{"FUNCTION", "LIST", "LIBRARYNAME", "amber"}},
	}
	a := x.first()
	for _, try := range tries {
		if !try.needed {
			continue
		}
		_, err := a.Do(ctx, try.args...)
		if err != nil && !srv.Refused(err) {
			return err
		}
		if srv.Denied(err) || err != nil && strings.Contains(err.Error(), "unknown subcommand") {
			x.t.denied = append(x.t.denied, denial{commandName(try.args), try.rule, err.Error()})
		}
	}
	return nil
}

// commandName returns the words by which people know a command.
func commandName(args []string) string {
	if args[0] == "FUNCTION" || args[0] == "CONFIG" {
		return strings.Join(args[:2], " ")
	}
	return args[0]
}

// restores tries what the target's RESTORE takes, and chooses the dialect.
func (x *examiner) restores(ctx context.Context) error {
	t := x.t
	if err := x.contents(); err != nil {
		return err
	}
	all, err := samples()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(t.denied, func(d denial) bool { return d.command == "DEL" }) {
		return nil // what is tried couldn't be removed, and without DEL there is no restore
	}
	a := x.first()
	simple := all[encoding{}] // a string
	_, err = x.restore(ctx, a, "5000", simple)
	switch {
	case srv.Code(err) == "OOM":
		x.presume()
	case err != nil && !srv.Refused(err):
		return err
	case err != nil:
		t.denied = append(t.denied, denial{"RESTORE", "+restore", err.Error()})
	default:
		t.can.restore = true
		if err := x.tryOptions(ctx, a, simple); err != nil {
			return err
		}
	}
	if t.can.restore && t.presumed == "" {
		for _, e := range needed(t.engine, t.from, t.types) {
			s, ok := all[e]
			if !ok {
				continue
			}
			if t.took[e], err = x.restore(ctx, a, "5000", s); err != nil && !srv.Refused(err) {
				return err
			}
		}
	}
	takes := func(e encoding) bool { return t.took[e] || e.code == codeModule && t.can.restore }
	makes := func(e encoding) bool { return !e.expiring() || t.caps.hpexpireat || t.caps.hexpire }
	t.dialect, t.byCommands = choose(t.engine, t.from, t.types, takes, makes)
	return nil
}

// contents finds out what the backup holds. Of a snapshot that comes straight from its source nothing is known: it may hold whatever its
// family has, and of types those that every server has.
func (x *examiner) contents() error {
	t, b := x.t, x.need.Backup
	for _, p := range b.Parts {
		if p.Dialect == "" || p.Dialect == catalog.DialectAOF { // whose commands have no encodings
			continue
		}
		d, err := rdb.ParseDialect(p.Dialect)
		if err != nil {
			return fmt.Errorf("part %s: %w", p.Name, err)
		}
		if !slices.Contains(t.from, d) {
			t.from = append(t.from, d)
		}
	}
	// The newest first: in it everything has a place.
	slices.SortStableFunc(t.from, func(a, b rdb.Dialect) int { return b.Version - a.Version })
	if len(t.from) == 0 {
		t.from = presumedDialects(b.Source)
	}
	known := len(b.DBs) > 0 && b.Commands == 0 // which may have values of any type
	for typ := rdb.TypeNone + 1; typ <= rdb.TypeCuckoo; typ++ {
		for _, db := range b.DBs {
			if db.Types[typ.String()] > 0 && !slices.Contains(t.types, typ) {
				t.types = append(t.types, typ)
			}
			known = known && (db.Types != nil || db.Keys == 0)
		}
	}
	if !known {
		t.types = []rdb.Type{rdb.TypeString, rdb.TypeList, rdb.TypeSet, rdb.TypeZSet, rdb.TypeHash, rdb.TypeStream}
	}
	return nil
}

// presumedDialects returns the newest dialects that a source may send, the likely one first.
func presumedDialects(s catalog.Source) []rdb.Dialect {
	redis, valkey, dragonfly := rdb.Dialect{Family: rdb.Redis, Version: 15}, rdb.Dialect{Family: rdb.Valkey, Version: 80}, rdb.Dialect{Family: rdb.Dragonfly, Version: 9}
	switch s.Engine {
	case "redis":
		return []rdb.Dialect{redis}
	case "valkey":
		return []rdb.Dialect{valkey, redis} // before Valkey 9 it sends Redis's
	case "dragonfly":
		return []rdb.Dialect{dragonfly}
	}
	return []rdb.Dialect{redis, valkey, dragonfly}
}

// restore tries a sample, and tells whether the target took it for what it is. An error that isn't the target's answer is of
// the connection.
func (x *examiner) restore(ctx context.Context, a *srv.Conn, ttl string, s sample, options ...string) (bool, error) {
	name := x.probe()
	_, err := a.Do(ctx, append([]string{"RESTORE", name, ttl, string(s.payload)}, options...)...)
	if err != nil {
		return false, err
	}
	took := true
	if s.read != nil {
		reply, err := a.Do(ctx, append([]string{s.read[0], name}, s.read[1:]...)...)
		if err != nil && !srv.Refused(err) {
			return false, err
		}
		took = srv.Denied(err) || err == nil && reply.Text == s.want
	}
	if _, err := a.Do(ctx, "DEL", name); err != nil && !srv.Refused(err) {
		return false, err
	}
	return took, nil
}

// tryOptions tries the options of RESTORE.
func (x *examiner) tryOptions(ctx context.Context, a *srv.Conn, s sample) error {
	c := &x.t.can
	soon := "5000"
	at := ""
	if reply, err := a.Do(ctx, "TIME"); err == nil && len(reply.Elems) == 2 {
		at = reply.Elems[0].Text + "999" // this second, or the next: it is gone at once, or soon
	} else if err != nil && !srv.Refused(err) {
		return err
	}
	for _, o := range []struct {
		can     *bool
		ttl     string
		options []string
	}{
		{&c.replace, soon, []string{"REPLACE"}},
		{&c.absTTL, at, []string{"ABSTTL"}},
		{&c.idleTime, soon, []string{"IDLETIME", "1"}},
		{&c.freq, soon, []string{"FREQ", "1"}},
	} {
		ttl := o.ttl
		if ttl == "" {
			ttl = "32503680000000" // the year 3000: its clock isn't told
		}
		s := sample{payload: s.payload}
		took, err := x.restore(ctx, a, ttl, s, o.options...)
		if err != nil && !srv.Refused(err) {
			return err
		}
		*o.can = took
	}
	return nil
}

// presume takes for granted what servers of the version take, where nothing can be tried for lack of memory.
func (x *examiner) presume() {
	t := x.t
	t.presumed = "it has no memory left to try it"
	major, minor := 0, 0
	fmt.Sscanf(t.version, "%d.%d", &major, &minor)
	at := func(m, n int) bool { return major > m || major == m && minor >= n }
	d := rdb.Dialect{Family: rdb.Redis, Version: 9}
	switch {
	case t.engine == "valkey" && at(9, 0):
		d = rdb.Dialect{Family: rdb.Valkey, Version: 80}
	case t.engine == "valkey":
		d.Version = 11
	case t.engine == "redis" && at(7, 4):
		d.Version = 12
	case t.engine == "redis" && at(7, 2):
		d.Version = 11
	case t.engine == "redis" && at(7, 0):
		d.Version = 10
	}
	t.can = powers{true, true, at(5, 0), at(5, 0), at(5, 0)}
	for _, typ := range t.types {
		for _, f := range t.from {
			for _, code := range d.Encodings(typ, f) {
				t.took[encodingOf(d, code)] = true
			}
		}
	}
}
