package main

import (
	"context"
	_ "embed"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/filestore"
)

//go:embed mainpath.go
var source string

// mainPath returns the code below the next line, for showing it.
func mainPath() string {
	_, code, _ := strings.Cut(source, "\n// ---\n\n")
	return strings.ReplaceAll(code, "\t", "    ")
}

// ---

func open(dir string) (*amber.Service, error) {
	store, err := filestore.New(dir, nil)
	if err != nil {
		return nil, err
	}
	return amber.New(amber.Config{Store: store})
}

func backUp(ctx context.Context, service *amber.Service, server *redis.Options) (*catalog.Backup, error) {
	return service.Backup(ctx, amber.BackupRequest{DataStore: "demo", Name: "quickstart", From: server})
}

func putBack(ctx context.Context, service *amber.Service, id catalog.ID, server *redis.Options) (*restore.Report, error) {
	return service.Restore(ctx, amber.RestoreRequest{Backup: id, To: server})
}
