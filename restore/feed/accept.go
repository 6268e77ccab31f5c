package feed

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// A generation is a span of versions of one product, and the dialects that it loads.
type generation struct {
	from   version
	redis  int // highest version of the redis family
	valkey int // of the valkey family; 0: none
}

// Which server loads what, oldest first. From the servers' sources, and from trying: see the tests.
var (
	redisGenerations = []generation{
		{version{0, 0}, 2, 0}, {version{2, 6}, 6, 0}, {version{3, 2}, 7, 0}, {version{4, 0}, 8, 0}, {version{5, 0}, 9, 0},
		{version{7, 0}, 10, 0}, {version{7, 2}, 11, 0}, {version{7, 4}, 12, 0}, {version{8, 6}, 13, 0}, {version{8, 8}, 14, 0},
		{version{8, 10}, 15, 0},
	}
	valkeyGenerations = []generation{{version{7, 2}, 11, 0}, {version{9, 0}, 11, 80}}
	// The newest versions that were looked at. A newer one loads what they do, and perhaps more.
	newestRedis     = version{8, 10}
	newestValkey    = version{9, 1}
	newestDragonfly = version{1, 40}
	// The first that reads all encodings that a conversion to Dragonfly's dialect writes for what Redis has, the last of them streams'.
	oldestDragonfly = version{1, 26}
)

// dragonfly is the one dialect that Dragonfly is fed.
var dragonfly = rdb.Dialect{Family: rdb.Dragonfly, Version: 9}

// A version is a server's major and minor version.
type version struct{ major, minor int }

func parseVersion(s string) (v version, ok bool) {
	parts := strings.SplitN(s, ".", 3)
	if len(parts) < 2 {
		return v, false
	}
	var err1, err2 error
	v.major, err1 = strconv.Atoi(parts[0])
	v.minor, err2 = strconv.Atoi(parts[1])
	return v, err1 == nil && err2 == nil
}

func (v version) less(w version) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

// generationOf returns what the newest server loads that isn't newer than v.
func generationOf(engine string, v version) (g generation, newest version) {
	generations, newest := redisGenerations, newestRedis
	if engine == "valkey" {
		generations, newest = valkeyGenerations, newestValkey
	}
	g = generations[0]
	for _, next := range generations {
		if !v.less(next.from) {
			g = next
		}
	}
	return g, newest
}

// newestFor returns the newest dialect that is known to be loaded by a server; the zero one if that is not known of its version.
func newestFor(engine, versionText string) rdb.Dialect {
	if engine == "dragonfly" {
		return dragonfly
	}
	v, ok := parseVersion(versionText)
	if !ok {
		return rdb.Dialect{}
	}
	g, _ := generationOf(engine, v)
	if g.valkey > 0 {
		return rdb.Dialect{Family: rdb.Valkey, Version: g.valkey}
	}
	return rdb.Dialect{Family: rdb.Redis, Version: g.redis}
}

// accepts tells whether a server loads a dialect, and why.
func accepts(engine, versionText string, d rdb.Dialect) (restore.Level, string) {
	server := engine + " " + versionText
	v, ok := parseVersion(versionText)
	if !ok {
		return restore.Warn, fmt.Sprintf("the version of %s is not understood; whether it loads %s is not known", server, d)
	}
	var good bool
	var takes string
	var newest version
	if engine == "dragonfly" {
		good, takes, newest = d == dragonfly, dragonfly.String(), newestDragonfly
		if v.less(oldestDragonfly) {
			return restore.Fail, fmt.Sprintf("%s doesn't read all that %s may hold, such as streams: use version %d.%d or a newer one", server, d, oldestDragonfly.major, oldestDragonfly.minor)
		}
	} else {
		var g generation
		g, newest = generationOf(engine, v)
		good = d.Family == rdb.Redis && d.Version <= g.redis || d.Family == rdb.Valkey && d.Version == g.valkey
		takes = "redis:1 to redis:" + strconv.Itoa(g.redis)
		if g.valkey > 0 {
			takes += " and valkey:" + strconv.Itoa(g.valkey)
		}
	}
	switch {
	case newest.less(v) && good:
		return restore.Warn, fmt.Sprintf("%s is newer than the servers that were tried; those before it load %s", server, d)
	case newest.less(v):
		return restore.Warn, fmt.Sprintf("%s is newer than the servers that were tried; whether it loads %s is not known, and a server that doesn't may lose its data or end", server, d)
	case good:
		return restore.Pass, fmt.Sprintf("%s loads %s", server, d)
	}
	return restore.Fail, fmt.Sprintf("%s loads %s, and this is %s", server, takes, d)
}
