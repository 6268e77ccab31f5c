package probe

import (
	"strings"

	"github.com/amberkv/amber/internal/resp"
)

// A provider is a managed service, by which signs it is known and what it doesn't let its users do. What a server says of itself by COMMAND INFO and
// ACL DRYRUN is believed before this.
//
// Google's Memorystore shows no sign that could be told from others': it has addresses instead of names, and what it refuses is found out by asking.
type provider struct {
	name   string
	hosts  []string // ends of host names; with a star in it, what has to be in the name before the end
	os     string   // what the field "os" of INFO says
	field  string   // a field of INFO that nobody else has
	advice string   // what is to be had instead of PSYNC, or of Dragonfly's own
}

var providers = []provider{
	{name: "Amazon ElastiCache Serverless", hosts: []string{".serverless.*.cache.amazonaws.com"},
		advice: "export a snapshot of the cache to S3 and import that"},
	// The field is "os:Amazon ElastiCache" in every version. Its support renames PSYNC for single nodes, to a name for each.
	{name: "Amazon ElastiCache", hosts: []string{".cache.amazonaws.com", ".cache.amazonaws.com.cn"}, os: "Amazon ElastiCache",
		advice: "its support gives a renamed PSYNC for each node, which can be given, and a snapshot can be exported to S3 and imported"},
	{name: "Amazon MemoryDB", hosts: []string{".memorydb.*.amazonaws.com"}, os: "Amazon MemoryDB",
		advice: "export a snapshot to S3 and import that"},
	{name: "Azure Cache for Redis", hosts: []string{".redis.cache.windows.net"},
		advice: "its Premium and Enterprise tiers export to a storage account, from which it can be imported"},
	{name: "Azure Managed Redis", hosts: []string{".redis.azure.net", ".redisenterprise.cache.azure.net"},
		advice: "export it to a storage account and import that"},
	{name: "Redis Cloud", hosts: []string{".redislabs.com", ".redis-cloud.com"},
		advice: "let it back up to a bucket and import that"},
	{name: "Redis Enterprise", field: "rlec_version",
		advice: "let it export to a bucket and import that"},
	{name: "Upstash", hosts: []string{".upstash.io"}, field: "upstash_version",
		advice: "its console makes backups of its own"},
	{name: "Dragonfly Cloud", hosts: []string{".dragonflydb.cloud"},
		advice: "its console makes backups of its own"},
}

// findProvider returns the managed service that a server is a part of, by its host name and what its INFO says; nil: none that is known.
func findProvider(host string, info resp.Info) *provider {
	for i := range providers {
		p := &providers[i]
		for _, end := range p.hosts {
			before, end, star := strings.Cut(end, "*")
			switch {
			case !star && strings.HasSuffix(host, before):
				return p
			case star && strings.HasSuffix(host, end) && strings.Contains(strings.TrimSuffix(host, end), before):
				return p
			}
		}
		if p.os != "" && strings.HasPrefix(info["os"], p.os) || p.field != "" && info[p.field] != "" {
			return p
		}
	}
	return nil
}
