//go:build linux && (amd64 || arm64)

package filestore

import (
	"os"
	"syscall"
)

// startWriteback asks the kernel to begin writing n bytes from off to the disk, and doesn't wait. It promises nothing, so
// its error means nothing either: the sync that counts comes later.
func startWriteback(f *os.File, off, n int64) {
	const syncFileRangeWrite = 2 // SYNC_FILE_RANGE_WRITE, see sync_file_range(2)
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	c.Control(func(fd uintptr) { syscall.SyncFileRange(int(fd), off, n, syncFileRangeWrite) })
}
