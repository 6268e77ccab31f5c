package feed

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// judge makes a verdict of what was found out.
func (l *Loader) judge(t *target, need restore.Requirements) restore.Verdict {
	v := &verdict{}
	b := need.Backup
	v.pass("reachable", "it answers, and is %s %s", cmp.Or(t.engine, "a server"), t.version)
	switch {
	case t.engine == "":
		v.fail("engine", "it doesn't say which version of Redis or Valkey it is")
	case t.engine == "dragonfly":
		v.fail("engine", "it is Dragonfly, which this loader doesn't feed yet: use another one")
	case t.mode() == "sentinel":
		v.fail("engine", "it is a Sentinel, which holds no data: give the address of the primary that it watches")
	case t.mode() == "cluster":
		v.fail("cluster", "it runs in cluster mode, where REPLICAOF is not allowed: use a server without cluster-enabled, or another loader")
	case t.info.Int("loading") == 1:
		v.fail("loading", "it is loading its data: try again when it is done")
	}
	if v.failed() {
		return v.Verdict
	}
	v.part(t, b)
	v.databases(t, b)
	v.modules(t, b)
	v.empty(t, need.Replace)
	v.role(t, need.Replace)
	v.rights(t, l.cfg.Options.Username)
	v.tls(t, l.cfg.TLS != nil, l.cfg.Options.TLSConfig != nil)
	v.memory(t, b)
	v.load(t, b)
	v.persistence(t)
	return v.Verdict
}

// A verdict is one that is being written.
type verdict struct{ restore.Verdict }

func (v *verdict) add(level restore.Level, name, format string, args ...any) {
	v.Points = append(v.Points, restore.Point{Name: name, Level: level, Detail: fmt.Sprintf(format, args...)})
}
func (v *verdict) pass(name, format string, args ...any) { v.add(restore.Pass, name, format, args...) }
func (v *verdict) warn(name, format string, args ...any) { v.add(restore.Warn, name, format, args...) }
func (v *verdict) fail(name, format string, args ...any) { v.add(restore.Fail, name, format, args...) }

func (v *verdict) failed() bool { return v.Err() != nil }

func (v *verdict) part(t *target, b *catalog.Backup) {
	if len(b.Parts) != 1 {
		v.fail("parts", "the backup has %d parts, and this loader can send one: a cluster's backup needs another loader", len(b.Parts))
		return
	}
	v.pass("parts", "the backup is one stream of %d bytes", b.Parts[0].RawSize)
	d, err := rdb.ParseDialect(b.Parts[0].Dialect)
	if err != nil {
		v.fail("rdb-version", "%v", err)
		return
	}
	level, detail := accepts(t.engine, t.version, d)
	v.add(level, "rdb-version", "%s", detail)
}

// highestDB returns the highest database of a backup, or 0.
func highestDB(b *catalog.Backup) (highest int) {
	for _, db := range b.DBs {
		highest = max(highest, db.Index)
	}
	return highest
}

func (v *verdict) databases(t *target, b *catalog.Backup) {
	highest := highestDB(b)
	switch {
	case t.noDBLevel:
		v.fail("databases", "the backup has keys in database %d, and the target has no such database (databases %s): raise the setting and restart it",
			highest, cmp.Or(t.settings[setDatabases], "is not known"))
	case t.noDB != nil:
		v.warn("databases", "whether the target has the backup's database %d can't be seen: %v", highest, t.noDB)
	default:
		v.pass("databases", "the target has the backup's highest database, %d", highest)
	}
}

// moduleOf tells which module has a type. The names of types are those of the modules' sources.
var moduleOf = map[string]string{
	"vectorset": "vectorset",
	"ReJSON-RL": "ReJSON",
	"MBbloom--": "bf", "MBbloomCF": "bf", "CMSk-TYPE": "bf", "TopK-TYPE": "bf", "TDIS-TYPE": "bf", "bloomfltr": "bf",
	"TSDB-TYPE": "timeseries",
	"ft_index0": "search",
	"graphdata": "graph",
}

func (v *verdict) modules(t *target, b *catalog.Backup) {
	for _, m := range b.Modules {
		module, known := moduleOf[m.Name]
		switch {
		case !known && len(t.modules) == 0:
			v.fail("modules", "the backup has data of a module's type %q, and the target has no modules: it would end when it meets them. Load the module there first", m.Name)
			continue
		case !known:
			v.warn("modules", "the backup has data of a module's type %q, which is not known here: make sure that one of the target's modules, %s, has it. Else the target would end when it meets them",
				m.Name, strings.Join(t.modules, ", "))
			continue
		case !slices.Contains(t.modules, module):
			v.fail("modules", "the backup has data of the module %s (type %q), which the target hasn't loaded: it would end when it meets them", module, m.Name)
			continue
		}
		// The type's own format has changed between releases of the server without a sign in the stream.
		if module == "vectorset" && t.engine == b.Source.Engine && olderRelease(t.version, b.Source.Version) {
			v.fail("modules", "the backup has vector sets of %s %s, which the target, %s, may not read and would end by: use a target of that release or a newer one",
				b.Source.Engine, b.Source.Version, t.version)
			continue
		}
		v.pass("modules", "the target has the module %s", module)
	}
	// Valkey 9 has its script engine in a module that may be left out.
	if major, ok := parseVersion(t.version); ok && b.Functions > 0 && t.engine == "valkey" && major.major >= 9 && !slices.Contains(t.modules, "lua") {
		v.fail("modules", "the backup has function libraries, and the target hasn't loaded the module lua that runs them")
	}
}

// olderRelease compares all three numbers of two versions, and says false if it can't.
func olderRelease(a, b string) bool {
	var x, y [3]int
	if n, _ := fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2]); n < 3 {
		return false
	}
	if n, _ := fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2]); n < 3 {
		return false
	}
	return slices.Compare(x[:], y[:]) < 0
}

func (v *verdict) empty(t *target, replace bool) {
	holds := fmt.Sprintf("it holds %d keys in %d databases", t.keys.total(), len(t.keys))
	if n := t.libraries(); n > 0 {
		holds += fmt.Sprintf(" and %d function libraries, which a restore replaces as well", n)
	}
	switch {
	case !t.hasData():
		v.pass("empty", "it holds no keys and no functions")
	case replace:
		v.warn("empty", "%s: all of it is let go of", holds)
	default:
		v.fail("empty", "%s: use an empty target, or say that its data is to be replaced", holds)
	}
}

func (v *verdict) role(t *target, replace bool) {
	switch {
	case t.primary != "" && !replace:
		v.fail("role", "it is a replica of %s: give the address of the primary, or say Replace to detach this one. If that was a restore that didn't live to its end: REPLICAOF NO ONE", t.primary)
	case t.info.Int("master_sync_in_progress") == 1 && t.info["master_link_status"] != "up":
		v.fail("role", "it is a replica of %s and just gets that one's data, be it another restore: wait until it has, or make it stop by REPLICAOF NO ONE", t.primary)
	case t.primary != "":
		v.warn("role", "it is a replica of %s, and will be detached and stay a primary", t.primary)
	default:
		v.pass("role", "it is a primary")
	}
	if n := t.replicas(); n > 0 {
		v.warn("replicas", "it has %d replicas, which lose their connection and then copy the new data from it", n)
	}
	if t.sentinels > 0 {
		v.warn("sentinel", "%d connections of Sentinels are open: a Sentinel makes it a replica of its own choice again during the restore. Take the target out of their care for so long", t.sentinels)
	}
}

func (v *verdict) rights(t *target, user string) {
	user = cmp.Or(user, "default")
	switch {
	case t.noFollow == nil:
		v.pass("rights", "REPLICAOF may be used")
	case code(t.noFollow) == "NOPERM":
		v.fail("rights", "user %s may not use REPLICAOF: ACL SETUSER %s +replicaof +info +config|get +config|set", user, user)
	default:
		v.fail("rights", "REPLICAOF can't be used, as on a managed service or with a renamed command: use another loader (%v)", t.noFollow)
	}
	switch {
	case t.noSet == nil && t.noGet == nil:
		v.pass("settings", "settings may be changed and put back")
	case code(t.noSet) == "NOPERM" || t.noSet == nil && code(t.noGet) == "NOPERM":
		v.warn("settings", "user %s may not see and change settings, so that the target is known by its address and replication ID only, and loads in the way that it is set to: ACL SETUSER %s +config|get +config|set", user, user)
	default:
		v.warn("settings", "settings can't be changed, so that the target is known by its address and replication ID only, and loads in the way that it is set to (%v)",
			cmp.Or(t.noSet, t.noGet))
	}
}

func code(err error) string {
	var e resp.Error
	errors.As(err, &e)
	return e.Code()
}

func (v *verdict) tls(t *target, listens, dials bool) {
	replicates, known := t.settings[setTLS]
	switch {
	case t.noGet != nil && (listens || dials):
		v.warn("tls", "whether the target replicates by TLS (tls-replication) can't be seen; Config.TLS has to be set if it does, and only then")
	case replicates == "yes" && !listens:
		v.fail("tls", "the target replicates by TLS (tls-replication yes): set Config.TLS, with a certificate that the target's CA vouches for")
	case replicates != "yes" && known && listens, !known && t.noGet == nil && listens:
		v.fail("tls", "Config.TLS is set, and the target replicates without TLS: CONFIG SET tls-replication yes there, or leave Config.TLS out")
	case listens:
		v.pass("tls", "the target replicates by TLS")
	case dials:
		v.warn("tls", "the target is reached by TLS but replicates without it (tls-replication no): the data and its one-time password go unencrypted")
	default:
		v.pass("tls", "no TLS is used")
	}
}

// needs estimates the memory that the backup takes once it is loaded.
func needs(b *catalog.Backup) int64 { return max(b.Source.UsedMemory, b.RawBytes) }

func (v *verdict) memory(t *target, b *catalog.Backup) {
	need, limit, policy := needs(b), t.info.Int("maxmemory"), t.info["maxmemory_policy"]
	total := t.info.Int("total_system_memory")
	switch {
	case limit > 0 && need > limit && policy != "noeviction":
		v.fail("memory", "the data took %d bytes where it was, and the target would evict keys over %d (maxmemory, policy %s): raise maxmemory or set the policy to noeviction", need, limit, policy)
	case limit > 0 && need > limit:
		v.warn("memory", "the data took %d bytes where it was, and the target refuses writes over %d (maxmemory)", need, limit)
	case total > 0 && need > total:
		v.warn("memory", "the data took %d bytes where it was, and the target's machine has %d", need, total)
	default:
		v.pass("memory", "the data took %d bytes where it was, and the target may take it", need)
	}
}

// load says how the target will take the stream.
func (v *verdict) load(t *target, b *catalog.Backup) {
	switch m := chooseMethod(t, b); {
	case m.mode == loadFlush && t.hasData():
		v.warn("load", "the target lets go of its data before it knows that it gets the new one (repl-diskless-load %s), and that can't be changed: if the restore breaks it is left empty", m.mode)
	case m.mode == loadSwap:
		v.pass("load", "it keeps the old data until it has the new one, both in memory")
	case m.mode == loadEmpty || m.mode == loadFlush:
		v.pass("load", "it loads while it receives, without its disk")
	case t.hasData() && m.set:
		v.warn("load", "there isn't memory for the old data and the new one: the stream is spooled to the target's disk and replaces its dump.rdb, and the load can't be interrupted")
	default:
		v.warn("load", "the stream is spooled to the target's disk and replaces its dump.rdb, and the load can't be interrupted")
	}
}

func (v *verdict) persistence(t *target) {
	switch {
	case t.info.Int("aof_enabled") == 1:
		v.warn("persistence", "its append-only file is rewritten after the load, which takes disk and memory")
	case t.settings[setSave] != "":
		v.pass("persistence", "the new data is on its disk after its next BGSAVE")
	default:
		v.pass("persistence", "it doesn't save by itself")
	}
}

func unreachable(err error) string {
	switch code(err) {
	case "WRONGPASS", "NOAUTH":
		return fmt.Sprintf("it doesn't let us in: give the right user name and password (%v)", err)
	case "NOPERM":
		return fmt.Sprintf("it doesn't tell what it is: ACL SETUSER the user +info +replicaof +config|get +config|set (%v)", err)
	}
	return fmt.Sprintf("it can't be asked: %v", err)
}
