package feed

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// judge makes a verdict of what was found out.
func (l *Loader) judge(t *facts, need restore.Requirements) restore.Verdict {
	v := &verdict{restore.Verdict{Holds: t.keys.Total() + t.libraries()}}
	replace := need.Conflict() == restore.Replace
	v.Pass("reachable", "it answers, and is %s %s", cmp.Or(t.engine, "a server"), t.version)
	switch {
	case t.engine == "":
		v.Fail("engine", "it doesn't say which version of Redis, Valkey or Dragonfly it is")
	case target.Mode(t.info) == "sentinel":
		v.Fail("engine", "it is a Sentinel, which holds no data: give the address of the primary that it watches")
	case target.Mode(t.info) == "cluster":
		v.Fail("cluster", "it runs in cluster mode, where REPLICAOF is not allowed: use a server without cluster-enabled, or another loader")
	case t.info.Int("loading") == 1:
		v.Fail("loading", "it is loading its data: try again when it is done")
	}
	if v.Failed() {
		return v.Verdict
	}
	v.conflict(need.Conflict())
	if v.commands(need); v.Failed() && need.Backup.Commands > 0 {
		return v.Verdict
	}
	v.stream(t, need)
	v.databases(t, need)
	v.modules(t, need)
	v.functions(t, need)
	v.types(t, need)
	v.empty(t, replace)
	v.role(t, replace)
	v.rights(t, l.cfg.Options.Username)
	v.tls(t, l.cfg.TLS != nil, l.cfg.Options.TLSConfig != nil)
	v.memory(t, need)
	v.load(t, need)
	v.persistence(t)
	v.time(t, need)
	return v.Verdict
}

// A verdict is one that is being written.
type verdict struct{ restore.Verdict }

func (v *verdict) conflict(c restore.Conflict) {
	if c.Merges() {
		v.Fail("conflict", "what the target loads replaces all that it holds, so that its keys can't stay: use the loader that writes by commands")
	}
}

// commands refuses a backup with commands that are to be executed on top of its keys: nothing takes them from a primary that sends a snapshot, and a Dragonfly
// ends when it gets a journal so. Who has accepted that they are left out, as a loss of the conversion, gets the keys alone.
func (v *verdict) commands(need restore.Requirements) {
	b := need.Backup
	appended := slices.ContainsFunc(b.Parts, func(p catalog.Part) bool { return p.Dialect == catalog.DialectAOF })
	var accepted []string
	if need.Options != nil {
		accepted = need.Options.Accept
	}
	lossy := slices.Contains(accepted, string(rdb.LossJournal)) || slices.Contains(accepted, "all")
	switch {
	case appended:
		v.Fail("commands", "%d commands of append-only files are to be executed on top of the keys, which a target can't be fed with: use the loader that writes by commands (--method command)", b.Commands)
	case b.Commands > 0 && !lossy:
		v.Fail("commands", "%d commands are to be executed on top of the keys, which a target can't be fed with: use the loader that writes by commands (--method command), or accept %q, which means without them, so that the keys are not of one moment",
			b.Commands, rdb.LossJournal)
	}
}

// stream says in which dialect the target takes the snapshot: as the backup has it if it loads that, else the newest that it loads.
func (v *verdict) stream(t *facts, need restore.Requirements) {
	v.OneStream, v.NoIndexes = true, t.engine == "dragonfly"
	parts := need.Backup.Parts
	var own rdb.Dialect // of all parts; zero if they are in several
	for i, p := range parts {
		d, err := rdb.ParseDialect(p.Dialect)
		if err != nil {
			v.Fail("rdb-version", "part %s: %v", p.Name, err)
			return
		}
		if i == 0 {
			own = d
		} else if own != d {
			own = rdb.Dialect{}
		}
	}
	switch {
	case len(parts) == 0:
		v.Fail("parts", "the backup has no parts")
		return
	case len(parts) > 1 && need.Final:
		v.Fail("parts", "%d streams were given to it, and a target takes one: they have to be joined", len(parts))
		return
	case len(parts) > 1:
		v.Pass("parts", "the backup's %d parts become one stream", len(parts))
	default:
		v.Pass("parts", "the backup is one stream of %d bytes", parts[0].RawSize)
	}
	v.Dialect = own
	level, detail := accepts(t.engine, t.version, own)
	newest := newestFor(t.engine, t.version)
	if own == newest && own == (rdb.Dialect{}) {
		v.Fail("rdb-version", "the parts are in several dialects, and the version of %s %s is not understood: none can be chosen that it surely loads", t.engine, t.version)
		return
	}
	if need.Final || level == restore.Pass || newest == (rdb.Dialect{}) || newest == own {
		v.Add(level, "rdb-version", "%s", detail)
		return
	}
	v.Dialect = newest
	level, detail = accepts(t.engine, t.version, newest)
	v.Add(level, "rdb-version", "%s, and the backup, which is %s, is converted", detail, parts[0].Dialect)
}

func (v *verdict) databases(t *facts, need restore.Requirements) {
	highest := highestDB(need)
	has, _ := strconv.Atoi(t.settings[setDatabases])
	switch {
	case t.noDB != nil && !t.noDBLevel && has > highest:
		v.Pass("databases", "the target has %d databases, and the highest that is written to is %d", has, highest)
	case t.noDBLevel && !need.Final && picks(need.Options):
		v.Pass("databases", "the target has no database %d; whether a key is selected that goes there is seen when the backup is read", highest)
	case t.noDBLevel:
		v.Fail("databases", "there are keys for database %d, and the target has no such database (databases %s): raise the setting and restart it, or restore that one into another",
			highest, cmp.Or(t.settings[setDatabases], "is not known"))
	case t.noDB != nil:
		v.Warn("databases", "whether the target has database %d, which has keys, can't be seen: %v", highest, t.noDB)
	default:
		v.Pass("databases", "the target has database %d, the highest that is written to", highest)
	}
}

// picks tells whether keys are selected by more than their database.
func picks(opts *restore.Options) bool {
	return opts != nil && (opts.Select.Match != "" || opts.Select.Types != nil || opts.Select.TrimPrefix != "")
}

// highestDB returns the highest database that is written to, or 0.
func highestDB(need restore.Requirements) int {
	if dbs := need.Databases(); len(dbs) > 0 {
		return dbs[len(dbs)-1]
	}
	return 0
}

// moduleTypes returns the types of module values that the target takes, and those of its modules whose types are not known.
func (t *facts) moduleTypes() (types, strangers []string) {
	if t.engine == "dragonfly" {
		return []string{"ReJSON-RL"}, nil // it becomes its own JSON; what it calls modules are no such
	}
	return target.ModuleTypes(t.modules)
}

// modules looks at the types of module values. A server ends when it meets one that it lacks; before the conversion that is no
// failure, for the conversion leaves out what isn't listed.
func (v *verdict) modules(t *facts, need restore.Requirements) {
	b := need.Backup
	types, strangers := t.moduleTypes()
	v.Modules = types
	lacks := func(name, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if need.Final {
			v.Fail("modules", "there is data of %s, %s: it would end when it meets them", name, text)
			return
		}
		v.Pass("modules", "the backup has data of %s, %s: they can only be left out", name, text)
	}
	if s := need.Options; len(b.Modules) > 0 && !need.Final && s != nil && s.Select.Types != nil && !slices.Contains(s.Select.Types, rdb.TypeModule.String()) {
		v.Pass("modules", "no values of modules are selected")
		return
	}
	for _, m := range b.Modules {
		module, known := target.ModuleOf(m.Name)
		switch {
		case slices.Contains(v.Modules, m.Name):
			// The type's own format has changed between releases of the server without a sign in the stream.
			if module == "vectorset" && !target.ReadsVectorSets(t.engine, t.version, b.Source.Engine, b.Source.Version) {
				v.Modules = slices.DeleteFunc(slices.Clone(v.Modules), func(name string) bool { return name == m.Name })
				lacks("the module vectorset", "written by %s, and the target, %s, may not read those of a newer release",
					strings.TrimSpace(cmp.Or(b.Source.Engine, "a server that is not known")+" "+b.Source.Version), t.version)
				continue
			}
			v.Pass("modules", "the target has the type %s", m.Name)
		case known:
			lacks("the module "+module, "type %s, which the target hasn't loaded", m.Name)
		case len(strangers) == 0:
			lacks("a module's type "+m.Name, "and the target has no module that it may be of")
		default:
			v.Warn("modules", "the backup has data of a module's type %q, which is not known here: make sure that one of the target's modules, %s, has it. Else the target would end when it meets them",
				m.Name, strings.Join(strangers, ", "))
			v.Modules = append(v.Modules, m.Name)
		}
	}
}

func (v *verdict) functions(t *facts, need restore.Requirements) {
	if need.Backup.Functions == 0 {
		return
	}
	// Valkey 9 has its script engine in a module that may be left out.
	major, ok := parseVersion(t.version)
	switch {
	case ok && t.engine == "valkey" && major.major >= 9 && !slices.Contains(t.modules, "lua"):
		v.Fail("modules", "the backup has function libraries, and the target hasn't loaded the module lua that runs them")
	case t.engine == "dragonfly" && need.Final:
		v.Fail("functions", "there are function libraries in it, on which Dragonfly fails: they have to be left out")
	case t.engine == "dragonfly":
		v.Pass("functions", "the backup has %d function libraries, and Dragonfly has no functions: they can only be left out", need.Backup.Functions)
	}
}

// youngTypes are those of Dragonfly's types that not all of its versions read which read the rest.
var youngTypes = map[string]version{"bloom": {1, 35}, "cms": {1, 38}, "topk": {1, 38}, "cuckoo": {1, 40}}

func (v *verdict) types(t *facts, need restore.Requirements) {
	has, ok := parseVersion(t.version)
	if t.engine != "dragonfly" || !ok {
		return
	}
	since := map[string]version{}
	for _, db := range need.Backup.DBs {
		for name, n := range db.Types {
			if v, young := youngTypes[name]; young && n > 0 && has.less(v) {
				since[name] = v
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(since)) {
		v.Fail("types", "there are keys of type %s, which Dragonfly reads since version %d.%d, and the target is %s: it would not load what follows",
			name, since[name].major, since[name].minor, t.version)
	}
}

func (v *verdict) empty(t *facts, replace bool) {
	holds := fmt.Sprintf("it holds %d keys in %d databases", t.keys.Total(), len(t.keys))
	if n := t.libraries(); n > 0 {
		holds += fmt.Sprintf(" and %d function libraries, which a restore replaces as well", n)
	}
	switch {
	case !t.hasData():
		v.Pass("empty", "it holds no keys and no functions")
	case replace:
		v.Pass("empty", "%s: all of it is let go of", holds)
	default:
		v.Fail("empty", "%s: use an empty target, or say that its data is to be replaced", holds)
	}
}

func (v *verdict) role(t *facts, replace bool) {
	switch {
	case t.primary != "" && !replace:
		v.Fail("role", "it is a replica of %s: give the address of the primary, or say Replace to detach this one. If that was a restore that didn't live to its end: REPLICAOF NO ONE", t.primary)
	case t.info.Int("master_sync_in_progress") == 1 && t.info["master_link_status"] != "up":
		v.Fail("role", "it is a replica of %s and just gets that one's data, be it another restore: wait until it has, or make it stop by REPLICAOF NO ONE", t.primary)
	case t.primary != "":
		v.Pass("role", "it is a replica of %s, and will be detached and stay a primary", t.primary)
	default:
		v.Pass("role", "it is a primary")
	}
	if n := t.replicas(); n > 0 {
		v.Pass("replicas", "it has %d replicas, which lose their connection and then copy the new data from it", n)
	}
	if t.sentinels > 0 {
		v.Warn("sentinel", "%d connections of Sentinels are open: a Sentinel makes it a replica of its own choice again during the restore. Take the target out of their care for so long", t.sentinels)
	}
}

func (v *verdict) rights(t *facts, user string) {
	user = cmp.Or(user, "default")
	switch {
	case t.noFollow == nil:
		v.Pass("rights", "REPLICAOF may be used")
	case target.Code(t.noFollow) == "NOPERM":
		v.Fail("rights", "user %s may not use REPLICAOF: ACL SETUSER %s +replicaof +info +config|get +config|set", user, user)
	default:
		v.Fail("rights", "REPLICAOF can't be used, as on a managed service or with a renamed command: use another loader (%v)", t.noFollow)
	}
	switch {
	case t.noSet == nil && t.noGet == nil:
		v.Pass("settings", "settings may be changed and put back")
	case target.Code(t.noSet) == "NOPERM" || t.noSet == nil && target.Code(t.noGet) == "NOPERM":
		v.Pass("settings", "user %s may not see and change settings, so that the target is known by its address and replication ID only, and loads in the way that it is set to: ACL SETUSER %s +config|get +config|set", user, user)
	default:
		v.Pass("settings", "settings can't be changed, so that the target is known by its address and replication ID only, and loads in the way that it is set to (%v)",
			cmp.Or(t.noSet, t.noGet))
	}
}

func (v *verdict) tls(t *facts, listens, dials bool) {
	replicates, known := t.settings[setTLS]
	switch {
	case t.engine == "dragonfly" && listens:
		v.Pass("tls", "Config.TLS is set: the target has to replicate by TLS (--tls_replication), which can't be seen")
	case t.engine == "dragonfly" && dials:
		v.Warn("tls", "the target is reached by TLS, and whether it replicates by it (--tls_replication) can't be seen; Config.TLS has to be set if it does, and else the data goes unencrypted")
	case t.noGet != nil && (listens || dials):
		v.Warn("tls", "whether the target replicates by TLS (tls-replication) can't be seen; Config.TLS has to be set if it does, and only then")
	case replicates == "yes" && !listens:
		v.Fail("tls", "the target replicates by TLS (tls-replication yes): set Config.TLS, with a certificate that the target's CA vouches for")
	case replicates != "yes" && known && listens, !known && t.noGet == nil && listens:
		v.Fail("tls", "Config.TLS is set, and the target replicates without TLS: CONFIG SET tls-replication yes there, or leave Config.TLS out")
	case listens:
		v.Pass("tls", "the target replicates by TLS")
	case dials:
		v.Warn("tls", "the target is reached by TLS but replicates without it (tls-replication no): the data and its one-time password go unencrypted")
	default:
		v.Pass("tls", "no TLS is used")
	}
}

func unreachable(err error) string {
	switch target.Code(err) {
	case "WRONGPASS", "NOAUTH":
		return fmt.Sprintf("it doesn't let us in: give the right user name and password (%v)", err)
	case "NOPERM":
		return fmt.Sprintf("it doesn't tell what it is: ACL SETUSER the user +info +replicaof +config|get +config|set (%v)", err)
	}
	return fmt.Sprintf("it can't be asked: %v", err)
}
