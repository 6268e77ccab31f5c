package target

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/internal/resp"
)

// Counts are the keys of each database that has any.
type Counts map[int]int64

// Total returns the keys of all databases.
func (c Counts) Total() (n int64) {
	for _, keys := range c {
		n += keys
	}
	return n
}

// Mode returns "standalone", "cluster" or "sentinel".
func Mode(info resp.Info) string {
	for _, field := range []string{"server_mode", "redis_mode"} {
		if mode := info[field]; mode != "" && mode != "standalone" {
			return mode
		}
	}
	if info.Int("cluster_enabled") == 1 {
		return "cluster"
	}
	return "standalone"
}

// Product returns a server's engine, "redis", "valkey" or "dragonfly", and its version; empty if it tells neither.
func Product(info resp.Info) (engine, version string) {
	for _, engine := range []string{"dragonfly", "valkey", "redis"} { // the first two tell a redis_version as well
		if version := strings.TrimPrefix(info[engine+"_version"], "df-v"); version != "" {
			return engine, version
		}
	}
	return "", ""
}

// Keyspace reads the counts from INFO.
func Keyspace(info resp.Info) Counts {
	c := Counts{}
	for field := range info {
		digits, ok := strings.CutPrefix(field, "db")
		if !ok {
			continue
		}
		db, err := strconv.Atoi(digits)
		if err != nil {
			continue
		}
		for name, value := range info.Attributes(field) {
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && name == "keys" && n > 0 {
				c[db] = n
			}
		}
	}
	return c
}

// Modules reads the names of the modules that are loaded from INFO's text, where each has a line of the same field.
func Modules(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		attrs, ok := strings.CutPrefix(line, "module:name=")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSpace(attrs), ",")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Differ describes how the keys that a server has differ from those that it should have, or returns "".
func Differ(want, got Counts) string {
	dbs := map[int]bool{}
	for db := range want {
		dbs[db] = true
	}
	for db := range got {
		dbs[db] = true
	}
	var all []int
	for db := range dbs {
		if want[db] != got[db] {
			all = append(all, db)
		}
	}
	slices.Sort(all)
	var text []string
	for _, db := range all {
		text = append(text, fmt.Sprintf("database %d has %d keys instead of %d", db, got[db], want[db]))
		if len(text) == 3 && len(all) > 3 {
			text = append(text, fmt.Sprintf("and %d more", len(all)-3))
			break
		}
	}
	return strings.Join(text, ", ")
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

// ModuleOf tells which module has a type of module values, and whether that is known.
func ModuleOf(typ string) (module string, known bool) {
	module, known = moduleOf[typ]
	return module, known
}

// ModuleTypes returns the types of module values that a server with these modules has, as far as they are known, in ascending order; it
// isn't nil. strangers are those of the modules whose types are not known.
func ModuleTypes(modules []string) (types, strangers []string) {
	types = []string{}
	known := map[string]bool{"lua": true} // Valkey's script engine, which has no type
	for typ, module := range moduleOf {
		known[module] = true
		if slices.Contains(modules, module) {
			types = append(types, typ)
		}
	}
	slices.Sort(types)
	for _, name := range modules {
		if !known[name] {
			strangers = append(strangers, name)
		}
	}
	return types, strangers
}

// ReadsVectorSets tells whether a server is sure to read the vector sets that another one has written: the format has changed between
// releases of Redis, without a sign in the stream, and a server only reads that of its own release and of older ones. A writer that isn't
// known is not sure.
func ReadsVectorSets(engine, version, writerEngine, writerVersion string) bool {
	var has, wrote [3]int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &has[0], &has[1], &has[2]); n < 3 {
		return false
	}
	if n, _ := fmt.Sscanf(writerVersion, "%d.%d.%d", &wrote[0], &wrote[1], &wrote[2]); n < 3 {
		return false
	}
	return engine == writerEngine && slices.Compare(has[:], wrote[:]) >= 0
}
