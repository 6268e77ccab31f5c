package restore

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/catalog"
)

// A Provisioner creates data stores for backups to be restored into. The host has one for its own platform; package localserver
// starts servers on this machine.
type Provisioner interface {
	// Provision creates an empty data store that suits need and returns when it takes connections. It is the caller's until Remove.
	// On an error nothing is left of it.
	Provision(ctx context.Context, need Need) (Provisioned, error)
}

// A Need is what a new data store has to offer for a backup.
type Need struct {
	Backup     *catalog.Backup   // the manifest
	Engine     string            // that the backup came from: "redis", "valkey", "dragonfly"
	Version    string            // of that engine; an older one may not do
	Memory     int64             // that the data takes, in bytes, by an estimate
	Databases  int               // how many there have to be
	Modules    []string          // types of module values in the backup, by their nine characters
	Parameters map[string]string // settings that the caller asks for, such as "maxmemory-policy"
}

// A Provisioned is a data store that was made for a restore.
type Provisioned interface {
	// ID is the host's name for it.
	ID() string
	// Options are how it is reached. The caller doesn't change them.
	Options() *redis.Options
	// Remove removes it with all its data. Removing it again is no error.
	Remove(ctx context.Context) error
}

// NeedOf returns what a new data store has to offer for a backup, by its manifest.
func NeedOf(b *catalog.Backup, parameters map[string]string) Need {
	n := Need{Backup: b, Engine: b.Source.Engine, Version: b.Source.Version, Memory: max(b.Source.UsedMemory, b.RawBytes), Databases: 1, Parameters: parameters}
	for _, db := range b.DBs {
		n.Databases = max(n.Databases, db.Index+1)
	}
	for _, m := range b.Modules {
		n.Modules = append(n.Modules, m.Name)
	}
	return n
}
