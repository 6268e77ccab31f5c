//go:build !windows

package filestore

import "os"

// syncDir brings the entries of a directory to the disk.
func syncDir(dir *os.File) error { return dir.Sync() }
