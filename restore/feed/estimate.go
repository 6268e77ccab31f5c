package feed

import (
	"time"

	"github.com/amberkv/amber/restore"
)

// What servers load in a second, by what was measured here with Redis 7.0: small keys, and bytes of large ones.
const (
	keysPerSecond  = 500_000
	bytesPerSecond = 180_000_000
)

// needed returns the memory that the data take in the target, by an estimate from every key if there is one, else by what they took
// where they were.
func needed(need restore.Requirements) int64 {
	if need.Memory > 0 {
		return need.Memory
	}
	return max(need.Backup.Source.UsedMemory, need.Backup.RawBytes)
}

// memory compares what is needed with what the target allows itself, and with its machine.
func (v *verdict) memory(t *facts, need restore.Requirements) {
	bytes, limit, policy := needed(need), t.info.Int("maxmemory"), t.info["maxmemory_policy"]
	total := t.info.Int("total_system_memory")
	if s := need.Options; need.Memory == 0 && !need.Final && (picks(s) || s != nil && s.Select.DBs != nil) {
		v.Pass("memory", "how much the selected keys take is seen when the backup is read")
		return
	}
	how := "as it was where the backup comes from"
	if need.Memory > 0 {
		how = "by an estimate from every key, which is within 10 % for Redis, and up to 30 % too high for Valkey and Dragonfly"
	}
	switch {
	case limit > 0 && bytes > limit && t.engine == "dragonfly":
		v.Warn("memory", "the data takes %d bytes, %s, and the target takes no more than %d (maxmemory): the restore fails then, and leaves it without data", bytes, how, limit)
	case limit > 0 && bytes > limit && policy != "noeviction":
		v.Fail("memory", "the data takes %d bytes, %s, and the target would evict keys over %d (maxmemory, policy %s): raise maxmemory or set the policy to noeviction", bytes, how, limit, policy)
	case limit > 0 && bytes > limit:
		v.Warn("memory", "the data takes %d bytes, %s, and the target refuses writes over %d (maxmemory)", bytes, how, limit)
	case total > 0 && bytes > total:
		v.Warn("memory", "the data takes %d bytes, %s, and the target's machine has %d", bytes, how, total)
	default:
		v.Pass("memory", "the data takes %d bytes, %s, and the target may take it", bytes, how)
	}
}

// load says how the target will take the stream.
func (v *verdict) load(t *facts, need restore.Requirements) {
	const unseen = "how much is free there can't be seen by commands"
	spools := false
	switch m := chooseMethod(t, need); {
	case t.engine == "dragonfly" && t.hasData():
		v.Pass("load", "it lets go of its data and then loads while it receives, without its disk: if the restore breaks it is left empty, or with a part")
	case m.mode == loadFlush && t.hasData():
		v.Warn("load", "the target lets go of its data before it knows that it gets the new one (repl-diskless-load %s), and that can't be changed: if the restore breaks it is left empty", m.mode)
	case m.mode == loadSwap:
		v.Pass("load", "it keeps the old data until it has the new one, both in memory")
	case m.mode == loadEmpty || m.mode == loadFlush:
		v.Pass("load", "it loads while it receives, without its disk")
	case t.hasData() && m.set:
		v.Pass("load", "there isn't memory for the old data and the new one: the stream is spooled to the target's disk and replaces its dump.rdb, and the load can't be interrupted")
		spools = true
	default:
		v.Pass("load", "the stream is spooled to the target's disk and replaces its dump.rdb, and the load can't be interrupted")
		spools = true
	}
	if spools {
		v.Pass("disk", "about %d bytes are needed in the target's directory (dir), beside its dump.rdb; %s", need.Backup.RawBytes, unseen)
	}
}

func (v *verdict) persistence(t *facts) {
	switch {
	case t.engine == "dragonfly":
		v.Pass("persistence", "the new data is on its disk after its next save: SAVE, its schedule, or when it is shut down")
	case t.info.Int("aof_enabled") == 1:
		v.Pass("persistence", "its append-only file is rewritten after the load, which takes disk and memory")
	case t.settings[setSave] != "":
		v.Pass("persistence", "the new data is on its disk after its next BGSAVE")
	default:
		v.Pass("persistence", "it doesn't save by itself")
	}
}

// time says how far away the target is, and how long the load may take.
func (v *verdict) time(t *facts, need restore.Requirements) {
	b := need.Backup
	v.Pass("latency", "it answers within %v", t.latency.Round(10*time.Microsecond))
	seconds := max(float64(b.Keys)/keysPerSecond, float64(b.RawBytes)/bytesPerSecond)
	expected := time.Duration(seconds * float64(time.Second)).Round(time.Second / 10)
	v.Pass("time", "loading takes about %v, if the target loads %d keys or %d MB a second, and the network carries as much", expected, keysPerSecond, bytesPerSecond/1_000_000)
}
