package command

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// A verdict is one that is being written.
type verdict struct {
	restore.Verdict
	t    *facts
	need restore.Requirements
	user string
}

// judge makes a verdict of what was found out.
func judge(t *facts, need restore.Requirements, cfg *Config) restore.Verdict {
	v := &verdict{t: t, need: need, user: cmp.Or(cfg.Options.Username, "default")}
	v.Holds = max(t.keys.Total()-t.own, 0) + t.libraries
	v.Pass("reachable", "it answers, and is %s %s", cmp.Or(t.engine, "a server"), t.version)
	switch {
	case t.engine == "":
		v.Fail("engine", "it doesn't say which version of Redis, Valkey or Dragonfly it is")
	case srv.Mode(t.info) == "sentinel":
		v.Fail("engine", "it is a Sentinel, which holds no data: give the address of the primary that it watches")
	case t.info.Int("loading") == 1:
		v.Fail("loading", "it is loading its data: try again when it is done")
	case t.primary != "":
		v.Fail("role", "it is a replica of %s, where writes are refused or lost: give the address of that one", t.primary)
	}
	if t.cluster {
		v.cluster()
	}
	if v.Failed() {
		return v.Verdict
	}
	if !t.cluster {
		v.Pass("role", "it is a primary")
	}
	v.replicas()
	v.rights()
	v.dialect()
	v.databases()
	v.modules()
	v.functions()
	v.commands()
	v.holds()
	v.memory()
	v.limits(cfg)
	return v.Verdict
}

func (v *verdict) cluster() {
	t := v.t
	uncovered := t.uncovered()
	switch {
	case len(t.failing) > 0:
		v.Fail("cluster", "primaries of the cluster are down: %s. Wait for a failover, or bring them back", strings.Join(t.failing, ", "))
	case uncovered > 0:
		v.Fail("cluster", "%d of the cluster's %d slots are served by nobody: keys in these can't be written", uncovered, srv.Slots)
	default:
		text := fmt.Sprintf("it is a cluster of %d primaries that serve all slots", len(t.nodes))
		if n := len(t.migrating); n > 0 {
			text += fmt.Sprintf("; %d slots are being moved, which is followed: %s", n, fmt.Sprint(t.migrating[:min(n, 10)]))
		}
		v.Pass("cluster", "%s", text)
	}
}

func (v *verdict) replicas() {
	var n int64
	for _, node := range v.t.nodes {
		n += node.info.Int("connected_slaves")
	}
	if n > 0 {
		v.Pass("replicas", "it has %d replicas, which get every key as it is written", n)
	}
}

// required are the commands without which nothing can be restored; of the others it depends on what is in the backup.
var required = []string{"SET", "GET", "DEL"}

func (v *verdict) rights() {
	t := v.t
	conflict := v.need.Conflict()
	puts := t.putsOff(v.need.Backup, conflict)
	pieces := len(t.byCommands) > 0 || !t.can.restore || puts && t.caps.hpexpireat
	var missing, rules []string
	for _, d := range t.denied {
		needed := slices.Contains(required, d.command)
		switch d.command {
		case "RESTORE":
			continue // plain commands do
		case "PEXPIREAT", "RENAME", "RENAMENX":
			needed = pieces || puts && d.command == "PEXPIREAT"
		case "EXISTS":
			needed = conflict == restore.MergeFail
		case "DUMP":
			needed = conflict == restore.MergeFail || conflict == restore.MergeSkip
		case "SCAN":
			needed = puts || t.mark != nil && conflict != restore.Replace
		case "FUNCTION LOAD":
			v.Fail("functions", "the backup has %d function libraries, and they can't be loaded (%s): ACL SETUSER %s %s", v.need.Backup.Functions, d.why, v.user, d.rule)
			continue
		case "PEXPIRETIME", "HPEXPIREAT", "HPEXPIRETIME", "HSCAN":
			needed = puts
		case "FLUSHALL", "FUNCTION FLUSH", "MULTI", "EXEC", "FUNCTION LIST":
			needed = true
		}
		if !needed {
			continue
		}
		missing = append(missing, d.command)
		rule := d.rule
		if strings.Contains(d.why, "key") {
			rule = "~" + reservedPrefix + "*"
		}
		if !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	if len(missing) > 0 {
		v.Fail("rights", "user %s may not use %s, or the target doesn't have it: ACL SETUSER %s %s", v.user, strings.Join(missing, ", "), v.user, strings.Join(rules, " "))
		return
	}
	v.Pass("rights", "user %s may use all commands that are needed", v.user)
}

func (v *verdict) dialect() {
	t := v.t
	v.Dialect = t.dialect
	var names []string
	for _, typ := range t.byCommands {
		names = append(names, typ.String())
		if !commandable(typ) && typ != rdb.TypeModule {
			v.Warn("types", "no command of the target makes values of type %s: these keys fail", typ)
		}
	}
	switch {
	case !t.can.restore:
		why := "RESTORE can't be used"
		for _, d := range t.denied {
			if d.command == "RESTORE" {
				why += " (" + d.why + ")"
			}
		}
		v.Pass("dialect", "%s: everything is written by plain commands, which takes longer", why)
		switch {
		case slices.Contains(t.types, rdb.TypeModule) && v.need.Final:
			v.Fail("modules", "there are values of modules, which only RESTORE can write: ACL SETUSER %s +restore", v.user)
		case slices.Contains(t.types, rdb.TypeModule):
			v.Pass("modules", "the backup has values of modules, which only RESTORE can write, so that they can only be left out: ACL SETUSER %s +restore", v.user)
		}
	case t.presumed != "":
		v.Pass("dialect", "its RESTORE takes %s, by its version: %s", t.dialect, t.presumed)
	case len(names) > 0:
		v.Pass("dialect", "its RESTORE takes %s, which was tried; of these types it doesn't, and they are written by plain commands: %s", t.dialect, strings.Join(names, ", "))
	default:
		v.Pass("dialect", "its RESTORE takes every encoding that %s has of the backup's types, which was tried", t.dialect)
	}
}

func (v *verdict) databases() {
	t := v.t
	switch {
	case t.highest == 0:
		v.Pass("databases", "all keys are in database 0")
	case t.noDB != nil && t.cluster:
		v.Fail("databases", "the backup has keys in database %d, and this cluster has database 0 only: choose one database, or map one to 0 (%v)", t.highest, t.noDB)
	case t.noDB != nil:
		v.Fail("databases", "the backup has keys in database %d, and the target doesn't have it (databases %d): map it to another, or raise the setting and restart the target (%v)",
			t.highest, t.databases, t.noDB)
	default:
		v.Pass("databases", "the target has the backup's highest database, %d", t.highest)
	}
}

// vectorSet is the type of vector sets.
const vectorSet = "vectorset"

func (v *verdict) modules() {
	t := v.t
	src := v.need.Backup.Source
	types, strangers := srv.ModuleTypes(t.modules)
	switch {
	case !t.can.restore:
		types = []string{}
	case !srv.ReadsVectorSets(t.engine, t.version, src.Engine, src.Version):
		types = slices.DeleteFunc(types, func(typ string) bool { return typ == vectorSet })
	}
	v.Modules = types
	for _, m := range v.need.Backup.Modules {
		module, known := srv.ModuleOf(m.Name)
		switch {
		case !t.can.restore: // see dialect
		case m.Name == vectorSet && slices.Contains(t.modules, module) && !slices.Contains(types, vectorSet):
			v.Pass("modules", "the backup has vector sets, written by %s, and the target, %s, may not read those of a newer release: they can only be left out",
				strings.TrimSpace(cmp.Or(src.Engine, "a server that is not known")+" "+src.Version), t.version)
		case slices.Contains(types, m.Name):
			v.Pass("modules", "the target has the module %s", module)
		case !known && len(strangers) > 0:
			v.Modules = append(v.Modules, m.Name)
			v.Warn("modules", "the backup has data of a module's type %q, which is not known here: if none of the target's modules %s has it, these keys fail",
				m.Name, strings.Join(strangers, ", "))
		}
	}
}

func (v *verdict) functions() {
	b := v.need.Backup
	if b.Functions == 0 {
		return
	}
	if d := v.t.dialect; d.Version < 10 {
		v.Pass("functions", "the target has no functions: see what is lost")
		return
	}
	v.Pass("functions", "the backup has %d function libraries, which are loaded into every primary", b.Functions)
}

// commands looks at what the backup has to be executed on top of its keys.
func (v *verdict) commands() {
	t, b := v.t, v.need.Backup
	// What commands do to keys of the target's own, or to those that are left alone, isn't what they did.
	v.Replays = !v.need.Conflict().Merges()
	if t.names != nil {
		v.Has = func(name string) bool { return t.names[name] }
	}
	switch {
	case b.Commands == 0:
	case !v.Replays && v.need.Final:
		v.Fail("commands", "there are %d commands to be executed on top of the keys, which can't be merged with what a target holds: restore into an empty target, or replace", b.Commands)
	case !v.Replays:
	case len(t.migrating) > 0:
		v.Fail("commands", "there are %d commands to be executed on top of the keys, for which no slots may be moved meanwhile: wait until the cluster is at rest", b.Commands)
	case t.names == nil && v.need.Final:
		v.Pass("commands", "%d commands are executed; whether the target has all of them can't be asked", b.Commands)
	}
}

func (v *verdict) holds() {
	t := v.t
	m := t.mark
	holds := fmt.Sprintf("it holds %d keys", max(t.keys.Total()-t.own, 0))
	if t.libraries > 0 {
		holds += fmt.Sprintf(" and %d function libraries", t.libraries)
	}
	conflict := v.need.Conflict()
	carriesOn := t.carriesOn(v.need)
	switch {
	case m == nil:
	case conflict == restore.Replace:
		v.Pass("unfinished", "a restore of backup %s, begun at %s, was not completed here: it is replaced", m.Backup, m.Started.Format(time.RFC3339))
	case m.Replaying:
		v.Fail("unfinished", "a restore of backup %s, begun at %s, broke off here while commands of the backup were executed. They can't be executed twice: replace all data",
			m.Backup, m.Started.Format(time.RFC3339))
	case carriesOn:
		v.Pass("unfinished", "a restore of this backup, begun at %s, was not completed here: this one carries on", m.Started.Format(time.RFC3339))
	default:
		v.Fail("unfinished", "a restore of backup %s (conflict %q, key %s), begun at %s, was not completed here: complete it, replace all data, or, if it doesn't matter any more, DEL %s",
			m.Backup, m.Conflict, markKey, m.Started.Format(time.RFC3339), markKey)
	}
	if conflict == restore.MergeFail && once(v.need.Backup) {
		v.Fail("conflict", "a snapshot that is read once can't be held against the target's keys before it is written: choose to skip or to overwrite those of the same name")
	}
	switch {
	case v.Holds == 0:
		v.Pass("empty", "it holds no keys and no functions")
	case conflict == restore.Replace:
		v.Pass("empty", "%s: all of it is let go of", holds)
	case conflict.Merges():
		v.Pass("empty", "%s: they stay, but for what the policy %q says of keys of the same name", holds, conflict)
	case carriesOn:
		v.Pass("empty", "%s, of a restore that this one carries on", holds)
	default:
		v.Fail("empty", "%s: use an empty target, or say that its data is to be replaced or merged with", holds)
	}
}

// needs estimates the memory that the backup takes once it is loaded, and says how that is known and by which part it may be less.
func needs(need restore.Requirements, engine string) (bytes int64, how string, off float64) {
	b := need.Backup
	switch {
	case need.Memory > 0 && engine == "redis":
		return need.Memory, "by an estimate from every key, which is within 10 % for Redis", 0.1
	case need.Memory > 0:
		return need.Memory, "by an estimate from every key, which is up to 30 % too high for Valkey and Dragonfly", 0.3
	case b.Source.UsedMemory > b.RawBytes && !need.Final:
		return b.Source.UsedMemory, "where the backup comes from, with all that isn't data", 0.3
	}
	return b.RawBytes, "at least, by its size", 0
}

// picks tells whether only some keys are restored.
func picks(o *restore.Options) bool {
	return o != nil && (o.Select.DBs != nil || o.Select.Match != "" || o.Select.Types != nil || o.Select.TrimPrefix != "")
}

func (v *verdict) memory() {
	t := v.t
	if v.need.Memory == 0 && !v.need.Final && picks(v.need.Options) {
		v.Pass("memory", "how much the selected keys take is seen when the backup is read")
		return
	}
	need, how, off := needs(v.need, t.engine)
	var limit, used int64
	policy := ""
	for _, n := range t.nodes {
		limit += n.info.Int("maxmemory")
		used += n.info.Int("used_memory")
		policy = n.info["maxmemory_policy"]
	}
	if v.need.Conflict() == restore.Replace || v.Holds == 0 || t.carriesOn(v.need) {
		used = 0
	}
	text := fmt.Sprintf("the data takes %d bytes (%s)", need, how)
	level := restore.Warn // by the estimate's error it may fit
	if need-int64(float64(need)*off)+used > limit {
		level = restore.Fail
	}
	switch {
	case limit == 0:
		v.Pass("memory", "%s, and the target has no limit (maxmemory 0)", text)
	case need+used <= limit:
		v.Pass("memory", "%s, and the target has room for %d more (maxmemory, policy %s)", text, limit-used, policy)
	case policy == "noeviction":
		v.Add(level, "memory", "%s, and the target has room for %d more, and refuses writes then (maxmemory %d, policy noeviction): raise maxmemory", text, max(limit-used, 0), limit)
	default:
		v.Add(level, "memory", "%s, and the target has room for %d more, and would evict keys that were just restored (maxmemory %d, policy %s): raise maxmemory", text, max(limit-used, 0), limit, policy)
	}
}

func (v *verdict) limits(cfg *Config) {
	t := v.t
	v.Pass("value-size", "values of more than %d bytes go in pieces; the target takes no argument and no string of more than %d (proto-max-bulk-len)",
		min(int64(cfg.MaxValue), t.maxBulk), t.maxBulk)
	v.Pass("latency", "it answers within %v", t.latency.Round(10*time.Microsecond))
	v.Pass("time", "about %v, by 100,000 keys or 40 MB a second and node, whichever takes longer", expected(v.need.Backup, len(t.nodes)))
}

// expected is how long a restore takes, by figures of one server on the same machine.
func expected(b *catalog.Backup, nodes int) time.Duration {
	seconds := max(float64(b.Keys)/1e5, float64(b.RawBytes)/40e6) / float64(max(nodes, 1))
	return time.Duration(seconds * float64(time.Second)).Round(time.Second)
}
