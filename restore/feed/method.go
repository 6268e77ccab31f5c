package feed

import (
	"github.com/amberkv/amber/restore"
)

// The values of repl-diskless-load.
const (
	loadDisk  = "disabled"          // spool into a file, then load that; the default
	loadEmpty = "on-empty-db"       // parse what arrives if there are no keys, else as loadDisk
	loadSwap  = "swapdb"            // parse what arrives beside the old data
	loadFlush = "flush-before-load" // let go of the old data, then parse what arrives; Valkey 8.1 and later; Dragonfly always
)

// A method is the way in which the target takes the stream.
type method struct {
	mode string // of repl-diskless-load; loadDisk if not known
	set  bool   // it may be set, and was chosen; else it is what the target has
}

// chooseMethod prefers what keeps the old data until the new one is there and can be interrupted, then what saves memory.
func chooseMethod(t *facts, need restore.Requirements) method {
	if t.engine == "dragonfly" {
		return method{mode: loadFlush}
	}
	has, known := t.settings[setDiskless]
	if t.noSet != nil || !known {
		switch {
		case !known || has == loadEmpty && t.keys.Total() > 0:
			has = loadDisk
		}
		return method{mode: has}
	}
	switch {
	case !t.hasData():
		return method{loadEmpty, true}
	case roomForBoth(t, need):
		return method{loadSwap, true}
	}
	return method{loadDisk, true}
}

// roomForBoth tells whether the target's memory takes the old data and the new one at once.
func roomForBoth(t *facts, need restore.Requirements) bool {
	both := t.info.Int("used_memory") + needed(need)
	if limit := t.info.Int("maxmemory"); limit > 0 && both > limit {
		return false
	}
	// What else runs on the machine isn't known; a fifth of it is left alone.
	total := t.info.Int("total_system_memory")
	return total <= 0 || both <= total/5*4
}

// keeps tells whether the target has its old data until it has the whole of the new one. While it loads a spooled file it
// has neither.
func (m method) keeps() bool { return m.mode != loadFlush }
