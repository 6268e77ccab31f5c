package feed

import (
	"cmp"
	"fmt"
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
	b := need.Backup
	v.Pass("reachable", "it answers, and is %s %s", cmp.Or(t.engine, "a server"), t.version)
	switch {
	case t.engine == "":
		v.Fail("engine", "it doesn't say which version of Redis or Valkey it is")
	case t.engine == "dragonfly":
		v.Fail("engine", "it is Dragonfly, which this loader doesn't feed yet: use another one")
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
	v.part(t, b)
	v.databases(t, b)
	v.modules(t, b)
	v.empty(t, need.Conflict() == restore.Replace)
	v.role(t, need.Conflict() == restore.Replace)
	v.rights(t, l.cfg.Options.Username)
	v.tls(t, l.cfg.TLS != nil, l.cfg.Options.TLSConfig != nil)
	v.memory(t, b)
	v.load(t, b)
	v.persistence(t)
	return v.Verdict
}

// A verdict is one that is being written.
type verdict struct{ restore.Verdict }

func (v *verdict) part(t *facts, b *catalog.Backup) {
	if len(b.Parts) != 1 {
		v.Fail("parts", "the backup has %d parts, and this loader can send one: a cluster's backup needs another loader", len(b.Parts))
		return
	}
	v.Pass("parts", "the backup is one stream of %d bytes", b.Parts[0].RawSize)
	d, err := rdb.ParseDialect(b.Parts[0].Dialect)
	if err != nil {
		v.Fail("rdb-version", "%v", err)
		return
	}
	level, detail := accepts(t.engine, t.version, d)
	v.Add(level, "rdb-version", "%s", detail)
}

// highestDB returns the highest database of a backup, or 0.
func highestDB(b *catalog.Backup) (highest int) {
	for _, db := range b.DBs {
		highest = max(highest, db.Index)
	}
	return highest
}

func (v *verdict) databases(t *facts, b *catalog.Backup) {
	highest := highestDB(b)
	has, _ := strconv.Atoi(t.settings[setDatabases])
	switch {
	case t.noDB != nil && !t.noDBLevel && has > highest:
		v.Pass("databases", "the target has %d databases, and the backup's highest is %d", has, highest)
	case t.noDBLevel:
		v.Fail("databases", "the backup has keys in database %d, and the target has no such database (databases %s): raise the setting and restart it",
			highest, cmp.Or(t.settings[setDatabases], "is not known"))
	case t.noDB != nil:
		v.Warn("databases", "whether the target has the backup's database %d can't be seen: %v", highest, t.noDB)
	default:
		v.Pass("databases", "the target has the backup's highest database, %d", highest)
	}
}

func (v *verdict) modules(t *facts, b *catalog.Backup) {
	for _, m := range b.Modules {
		module, known := target.ModuleOf(m.Name)
		switch {
		case !known && len(t.modules) == 0:
			v.Fail("modules", "the backup has data of a module's type %q, and the target has no modules: it would end when it meets them. Load the module there first", m.Name)
			continue
		case !known:
			v.Warn("modules", "the backup has data of a module's type %q, which is not known here: make sure that one of the target's modules, %s, has it. Else the target would end when it meets them",
				m.Name, strings.Join(t.modules, ", "))
			continue
		case !slices.Contains(t.modules, module):
			v.Fail("modules", "the backup has data of the module %s (type %q), which the target hasn't loaded: it would end when it meets them", module, m.Name)
			continue
		}
		// The type's own format has changed between releases of the server without a sign in the stream.
		if module == "vectorset" && t.engine == b.Source.Engine && olderRelease(t.version, b.Source.Version) {
			v.Fail("modules", "the backup has vector sets of %s %s, which the target, %s, may not read and would end by: use a target of that release or a newer one",
				b.Source.Engine, b.Source.Version, t.version)
			continue
		}
		v.Pass("modules", "the target has the module %s", module)
	}
	// Valkey 9 has its script engine in a module that may be left out.
	if major, ok := parseVersion(t.version); ok && b.Functions > 0 && t.engine == "valkey" && major.major >= 9 && !slices.Contains(t.modules, "lua") {
		v.Fail("modules", "the backup has function libraries, and the target hasn't loaded the module lua that runs them")
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

// needs estimates the memory that the backup takes once it is loaded.
func needs(b *catalog.Backup) int64 { return max(b.Source.UsedMemory, b.RawBytes) }

func (v *verdict) memory(t *facts, b *catalog.Backup) {
	need, limit, policy := needs(b), t.info.Int("maxmemory"), t.info["maxmemory_policy"]
	total := t.info.Int("total_system_memory")
	switch {
	case limit > 0 && need > limit && policy != "noeviction":
		v.Fail("memory", "the data took %d bytes where it was, and the target would evict keys over %d (maxmemory, policy %s): raise maxmemory or set the policy to noeviction", need, limit, policy)
	case limit > 0 && need > limit:
		v.Warn("memory", "the data took %d bytes where it was, and the target refuses writes over %d (maxmemory)", need, limit)
	case total > 0 && need > total:
		v.Warn("memory", "the data took %d bytes where it was, and the target's machine has %d", need, total)
	default:
		v.Pass("memory", "the data took %d bytes where it was, and the target may take it", need)
	}
}

// load says how the target will take the stream.
func (v *verdict) load(t *facts, b *catalog.Backup) {
	switch m := chooseMethod(t, b); {
	case m.mode == loadFlush && t.hasData():
		v.Warn("load", "the target lets go of its data before it knows that it gets the new one (repl-diskless-load %s), and that can't be changed: if the restore breaks it is left empty", m.mode)
	case m.mode == loadSwap:
		v.Pass("load", "it keeps the old data until it has the new one, both in memory")
	case m.mode == loadEmpty || m.mode == loadFlush:
		v.Pass("load", "it loads while it receives, without its disk")
	case t.hasData() && m.set:
		v.Pass("load", "there isn't memory for the old data and the new one: the stream is spooled to the target's disk and replaces its dump.rdb, and the load can't be interrupted")
	default:
		v.Pass("load", "the stream is spooled to the target's disk and replaces its dump.rdb, and the load can't be interrupted")
	}
}

func (v *verdict) persistence(t *facts) {
	switch {
	case t.info.Int("aof_enabled") == 1:
		v.Pass("persistence", "its append-only file is rewritten after the load, which takes disk and memory")
	case t.settings[setSave] != "":
		v.Pass("persistence", "the new data is on its disk after its next BGSAVE")
	default:
		v.Pass("persistence", "it doesn't save by itself")
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
