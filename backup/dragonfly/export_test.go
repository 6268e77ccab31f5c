package dragonfly

import "github.com/amberkv/amber/backup"

// Spooled returns how many bytes of a snapshot are in the spool.
func Spooled(sn backup.Snapshot) int64 { return sn.(*snapshot).spool.used.Load() }

// SetMemory sets how many bytes the flows of a snapshot may have in memory, in all.
func (s *Snapshotter) SetMemory(n int64) { s.memory = n }
