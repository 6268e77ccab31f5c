package cmdtable

// Types of values, as TYPE names them.
const (
	str    = "string"
	list   = "list"
	set    = "set"
	zset   = "zset"
	hash   = "hash"
	stream = "stream"
	json   = "json"
)

// table has the commands by their names.
var table = rows()

// families are those of modules, whose commands nearly all have one key, the first argument.
var families = []struct {
	prefix  string
	command *Command
}{
	{"JSON.", &Command{Name: "JSON.*", Type: json, first: 1, last: 1, step: 1}},
	{"FT.", &Command{Name: "FT.*", Kind: Index}},
	{"_FT.", &Command{Name: "_FT.*", Kind: Index}},
	{"BF.", &Command{Name: "BF.*", first: 1, last: 1, step: 1}},
	{"CF.", &Command{Name: "CF.*", first: 1, last: 1, step: 1}},
	{"CMS.", &Command{Name: "CMS.*", first: 1, last: 1, step: 1}},
	{"TOPK.", &Command{Name: "TOPK.*", first: 1, last: 1, step: 1}},
	{"TDIGEST.", &Command{Name: "TDIGEST.*", first: 1, last: 1, step: 1}},
	{"TS.", &Command{Name: "TS.*", first: 1, last: 1, step: 1}},
}

// rows makes the table. Sources: COMMAND INFO of Redis 8.0 and Valkey 9.1, which the tests ask again; for Dragonfly's own dfs-format 6.6.
func rows() map[string]*Command {
	t := make(map[string]*Command, 160)
	add := func(c Command, names ...string) {
		for _, name := range names {
			row := c
			row.Name = name
			t[name] = &row
		}
	}
	one := func(typ string, blind bool, names ...string) {
		add(Command{Type: typ, Blind: blind, first: 1, last: 1, step: 1}, names...)
	}
	// One key, the first argument. SET is blind unless it has conditions: see IsBlind.
	one(str, false, "APPEND", "BITFIELD", "DECR", "DECRBY", "INCR", "INCRBY", "INCRBYFLOAT", "SETBIT", "SETRANGE", "PFADD", "GETEX", "DELIFEQ",
		"SETNX", "GETDEL")
	add(Command{Type: str, Overwrites: true, Blind: true, first: 1, last: 1, step: 1}, "SET", "SETEX", "PSETEX", "GETSET")
	one(list, false, "LINSERT", "LPOP", "LPUSH", "LPUSHX", "LREM", "LSET", "LTRIM", "RPOP", "RPUSH", "RPUSHX")
	one(set, true, "SADD", "SREM")
	one(set, false, "SPOP", "SADDEX")
	one(zset, true, "ZREM")
	one(zset, false, "ZADD", "GEOADD", "ZINCRBY", "ZPOPMAX", "ZPOPMIN", "ZREMRANGEBYLEX", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE")
	one(hash, true, "HSET", "HMSET", "HDEL")
	one(hash, false, "HINCRBY", "HINCRBYFLOAT", "HSETNX", "HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT", "HPERSIST", "HGETDEL", "HGETEX", "HSETEX")
	one(stream, false, "XACK", "XACKDEL", "XADD", "XAUTOCLAIM", "XCLAIM", "XDEL", "XDELEX", "XSETID", "XTRIM", "XNACK", "XCFGSET", "XIDMPRECORD")
	one("", false, "EXPIRE", "EXPIREAT", "PEXPIRE", "PEXPIREAT", "PERSIST", "FIELDEXPIRE", "STICK", "CL.THROTTLE", "VADD", "VREM", "VSETATTR", "MOVE")
	add(Command{Kind: Restore, Overwrites: true, first: 1, last: 1, step: 1}, "RESTORE", "RESTORE-ASKING")
	add(Command{Type: stream, find: fixed(1, 2)}, "XGROUP")

	// Several keys.
	add(Command{Kind: Each, Blind: true, first: 1, last: -1, step: 1}, "DEL", "UNLINK")
	add(Command{Kind: Each, Type: str, Overwrites: true, Blind: true, first: 1, last: -1, step: 2}, "MSET", "MSETNX")
	add(Command{Kind: Each, Type: json, first: 1, last: -1, step: 3}, "JSON.MSET")
	add(Command{Type: str, Overwrites: true, find: msetex}, "MSETEX")
	add(Command{Type: str, first: 1, last: -1, step: 1, written: 1}, "PFMERGE", "PFCOUNT")
	add(Command{Type: str, Overwrites: true, first: 2, last: -1, step: 1, written: 1}, "BITOP")
	add(Command{Type: set, Overwrites: true, first: 1, last: -1, step: 1, written: 1}, "SDIFFSTORE", "SINTERSTORE", "SUNIONSTORE")
	add(Command{Type: set, first: 1, last: 2, step: 1}, "SMOVE")
	add(Command{Type: list, first: 1, last: 2, step: 1}, "RPOPLPUSH", "LMOVE")
	add(Command{Type: zset, Overwrites: true, Mixes: true, find: counted(1, 2)}, "ZDIFFSTORE", "ZINTERSTORE", "ZUNIONSTORE")
	add(Command{Type: zset, Overwrites: true, first: 1, last: 2, step: 1, written: 1}, "ZRANGESTORE", "GEOSEARCHSTORE")
	add(Command{Type: zset, Overwrites: true, find: storing(5, "STORE", "STOREDIST")}, "GEORADIUS", "GEORADIUSBYMEMBER")
	add(Command{Type: list, Overwrites: true, Mixes: true, find: storing(2, "STORE")}, "SORT")
	add(Command{Overwrites: true, Mixes: true, first: 1, last: 2, step: 1}, "RENAME", "RENAMENX")
	add(Command{Overwrites: true, Mixes: true, find: fixed(1, 2, 1)}, "COPY")
	add(Command{Mixes: true, find: counted(-1, 2)}, "EVAL", "EVALSHA", "FCALL")
	add(Command{Type: str, find: counted(1, 2)}, "CMS.MERGE", "TDIGEST.MERGE")
	add(Command{Kind: Each, first: 1, last: -1, step: 3}, "TS.MADD")
	add(Command{first: 1, last: 2, step: 1}, "TS.CREATERULE", "TS.DELETERULE")

	// No keys.
	add(Command{Kind: Flush}, "FLUSHALL", "FLUSHDB")
	add(Command{Kind: Swap}, "SWAPDB")
	add(Command{Kind: Function}, "FUNCTION")
	add(Command{Kind: Script}, "SCRIPT")
	add(Command{Kind: Nothing}, "PING", "PUBLISH", "SPUBLISH", "SELECT", "MULTI", "EXEC", "REPLCONF")
	for _, name := range []string{"CMS.MERGE", "TDIGEST.MERGE"} {
		t[name].Type = ""
	}
	return t
}
