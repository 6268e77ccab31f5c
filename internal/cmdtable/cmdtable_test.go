package cmdtable

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
)

// examples has each command of the table, with arguments that servers take.
var examples = []string{
	"APPEND k v", "BITFIELD k SET u8 0 1", "DECR k", "DECRBY k 1", "INCR k", "INCRBY k 1", "INCRBYFLOAT k 1", "SETBIT k 1 1", "SETRANGE k 1 v", "PFADD k a", "GETEX k PXAT 99",
	"DELIFEQ k v", "SETNX k v", "GETDEL k", "SET k v PXAT 99", "SETEX k 9 v", "PSETEX k 9 v", "GETSET k v", "LINSERT k BEFORE a b", "LPOP k", "LPUSH k a", "LPUSHX k a",
	"LREM k 1 a", "LSET k 0 a", "LTRIM k 0 1", "RPOP k", "RPUSH k a", "RPUSHX k a", "SADD k a", "SREM k a", "SPOP k 1", "ZREM k a", "ZADD k 1 a", "GEOADD k 1 1 a", "ZINCRBY k 1 a",
	"ZPOPMAX k", "ZPOPMIN k", "ZREMRANGEBYLEX k - +", "ZREMRANGEBYRANK k 0 1", "ZREMRANGEBYSCORE k 0 1", "HSET k f v", "HMSET k f v", "HDEL k f", "HINCRBY k f 1",
	"HINCRBYFLOAT k f 1", "HSETNX k f v", "HEXPIRE k 9 FIELDS 1 f", "HPEXPIRE k 9 FIELDS 1 f", "HEXPIREAT k 9 FIELDS 1 f", "HPEXPIREAT k 9 FIELDS 1 f", "HPERSIST k FIELDS 1 f",
	"HGETDEL k FIELDS 1 f", "HGETEX k PXAT 9 FIELDS 1 f", "HSETEX k PXAT 9 FIELDS 1 f v", "XACK k g 1-1", "XADD k 1-1 f v", "XAUTOCLAIM k g c 0 0", "XCLAIM k g c 0 1-1", "XDEL k 1-1",
	"XSETID k 1-1", "XTRIM k MAXLEN 1", "EXPIRE k 1", "EXPIREAT k 1", "PEXPIRE k 1", "PEXPIREAT k 1", "PERSIST k", "MOVE k 1", "RESTORE k 0 payload REPLACE ABSTTL", "RESTORE-ASKING k 0 payload",
	"XGROUP CREATE k g 0", "XGROUP CREATECONSUMER k g c", "XGROUP SETID k g 0", "XGROUP DELCONSUMER k g c", "XGROUP DESTROY k g",
	"DEL k", "DEL k1 k2 k3", "UNLINK k1 k2", "MSET k1 v k2 v", "MSETNX k1 v k2 v", "MSETEX 2 k1 v k2 v PXAT 99", "PFMERGE k k1 k2", "PFCOUNT k", "BITOP AND k k1 k2", "SDIFFSTORE k k1 k2",
	"SINTERSTORE k k1 k2", "SUNIONSTORE k k1", "SMOVE k1 k2 m", "RPOPLPUSH k1 k2", "LMOVE k1 k2 LEFT RIGHT", "ZDIFFSTORE k 2 k1 k2", "ZINTERSTORE k 2 k1 k2 WEIGHTS 1 2", "ZUNIONSTORE k 1 k1",
	"ZRANGESTORE k k1 0 1", "GEOSEARCHSTORE k k1 FROMMEMBER a BYRADIUS 1 m", "GEORADIUS k1 1 1 1 m STORE k", "GEORADIUS k1 1 1 1 m", "GEORADIUSBYMEMBER k1 a 1 m STOREDIST k", "SORT k1 BY x GET y STORE k",
	"SORT k1", "RENAME k1 k2", "RENAMENX k1 k2", "COPY k1 k2 DB 1", "EVAL script 2 k1 k2 a", "EVALSHA 0000 1 k a", "FCALL f 1 k", "VADD k VALUES 1 1 a", "VREM k a", "VSETATTR k a b",
	"FLUSHALL", "FLUSHDB ASYNC", "SWAPDB 0 1", "FUNCTION FLUSH", "SCRIPT FLUSH", "PING", "PUBLISH c m", "SPUBLISH c m", "SELECT 1", "MULTI", "EXEC",
}

func split(s string) (args [][]byte) {
	for _, w := range strings.Fields(s) {
		args = append(args, []byte(w))
	}
	return args
}

// TestKeys asks every server where the keys of each command are.
func TestKeys(t *testing.T) {
	asked := map[string]bool{}
	for _, version := range testserver.All() {
		c := testserver.Start(t, version).Client(t)
		for _, example := range examples {
			args := split(example)
			known := Lookup(args[0])
			if known == nil {
				t.Fatalf("%s isn't known", args[0])
			}
			if other := Lookup([]byte(strings.ToLower(string(args[0])))); other != known {
				t.Errorf("%s isn't the same in small letters", args[0])
			}
			keys, written, err := known.Keys(args, nil)
			if err != nil || written > len(keys) {
				t.Errorf("%s: %d of %v, %v", example, written, keys, err)
				continue
			}
			var got []string
			for _, k := range keys {
				got = append(got, string(args[k]))
			}
			slices.Sort(got)
			got = slices.Compact(got)
			words := []any{"COMMAND", "GETKEYS"}
			for _, a := range args {
				words = append(words, string(a))
			}
			want, err := c.Do(t.Context(), words...).StringSlice()
			if err != nil {
				if strings.Contains(err.Error(), "no key arguments") || known.Name == "SPUBLISH" {
					want = nil
				} else if len(args) == 1 {
					want = nil // COMMAND GETKEYS wants an argument
				} else if strings.Contains(err.Error(), "Invalid command specified") {
					continue // it is another server's
				} else {
					t.Errorf("%s: %s: %v", version, example, err)
					continue
				}
			}
			if known.Name == "SPUBLISH" {
				want = nil // a channel goes to a slot as a key does
			}
			slices.Sort(want)
			want = slices.Compact(want)
			asked[string(args[0])] = true
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s has the keys %v, and by the table %v", version, example, want, got)
			}
		}
	}
	for _, example := range examples {
		if name := strings.Fields(example)[0]; !asked[name] && name != "MSETEX" && name != "DELIFEQ" {
			t.Errorf("no server knows %s", name)
		}
	}
}

// TestComplete: every command that changes data and has keys is in the table, but for those that servers write down as others.
func TestComplete(t *testing.T) {
	// They are replaced by what they did: BLPOP by LPOP, XREADGROUP by XCLAIM, MIGRATE by DEL and so on.
	never := []string{"blmove", "blmpop", "blpop", "brpop", "brpoplpush", "bzmpop", "bzpopmax", "bzpopmin", "lmpop", "zmpop", "xreadgroup", "migrate", "pfdebug"}
	for _, version := range testserver.All() {
		c := testserver.Start(t, version).Client(t)
		all, err := c.Do(t.Context(), "COMMAND").Slice()
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range all {
			info := row.([]any)
			name := info[0].(string)
			if !slices.Contains(flags(info[2]), "write") || slices.Contains(never, name) {
				continue
			}
			if Lookup([]byte(name)) == nil {
				t.Errorf("%s has the command %s, which is not in the table", version, name)
			}
		}
	}
	for name := range table {
		if !slices.ContainsFunc(examples, func(e string) bool { return strings.HasPrefix(e+" ", name+" ") }) && !slices.Contains(others, name) {
			t.Errorf("%s has no example", name)
		}
	}
}

// others are commands of servers and modules that aren't there.
var others = []string{"SADDEX", "XACKDEL", "XDELEX", "XNACK", "XCFGSET", "XIDMPRECORD", "FIELDEXPIRE", "STICK", "CL.THROTTLE", "JSON.MSET", "CMS.MERGE", "TDIGEST.MERGE", "TS.MADD",
	"TS.CREATERULE", "TS.DELETERULE", "REPLCONF"}

func flags(v any) (out []string) {
	for _, f := range v.([]any) {
		out = append(out, fmt.Sprint(f))
	}
	return out
}

func TestWritten(t *testing.T) {
	for example, want := range map[string]string{
		"COPY a b": "b a 1", "SORT a STORE b": "b a 1", "SORT a": "a 0", "GEORADIUS a 1 1 1 m STORE x STOREDIST y": "y a 1", "ZUNIONSTORE a 2 b c": "a b c 1", "BITOP AND a b c": "a b c 1",
		"RENAME a b": "a b 2", "LMOVE a b LEFT LEFT": "a b 2", "EVAL s 2 a b c": "a b 2", "MSET a 1 b 2": "a b 2", "JSON.SET a $ 1": "a 1", "JSON.MSET a $ 1 b $ 2": "a b 2", "SADDEX a 9 m": "a 1",
		"BF.ADD a m": "a 1", "CMS.MERGE a 2 b c": "a b c 1", "FT.CREATE idx ON HASH": "0", "XGROUP CREATE a g 0": "a 1",
	} {
		args := split(example)
		keys, written, err := Lookup(args[0]).Keys(args, nil)
		got := ""
		for _, k := range keys {
			got += string(args[k]) + " "
		}
		if got += fmt.Sprint(written); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", example, got, err, want)
		}
	}
	for _, broken := range []string{"DEL", "SET", "MSET a", "MSET a 1 b", "ZUNIONSTORE a 3 b", "ZUNIONSTORE a", "ZUNIONSTORE a x b", "EVAL s 9 a", "EVAL s -1 a", "COPY a", "XGROUP CREATE", "MSETEX 2 a 1 b", "BITOP AND",
		"RENAME a", "ZUNIONSTORE a 99999999999999999999 b", "SORT"} {
		args := split(broken)
		if _, _, err := Lookup(args[0]).Keys(args, nil); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", broken, err)
		}
	}
	if Lookup([]byte("NOSUCH")) != nil || Lookup([]byte(strings.Repeat("x", 1000))) != nil || Lookup(nil) != nil || Lookup([]byte("JSON.")) != nil {
		t.Error("it knows what there isn't")
	}
}

func TestExpiry(t *testing.T) {
	for example, want := range map[string]string{
		"SET k v":                        "no",
		"SET k v PXAT 5":                 "5 1",
		"SET k v NX EX 5":                "5 1000 relative",
		"SET PXAT PXAT PXAT 5":           "5 1",
		"SET k PX":                       "no",
		"SET k v IFEQ EX EXAT 7":         "7 1000",
		"GETEX k EXAT 6":                 "6 1000",
		"MSETEX 1 k PX PXAT 6":           "6 1",
		"PEXPIREAT k 9":                  "9 1",
		"EXPIRE k 9 NX":                  "9 1000 relative",
		"HPEXPIREAT k 9 FIELDS 1 f":      "9 1 field",
		"HEXPIRE k 9 FIELDS 1 f":         "9 1000 relative field",
		"HGETEX k PXAT 9 FIELDS 1 f":     "9 1 field",
		"HGETEX k PERSIST FIELDS 2 PX f": "no",
		"SADDEX k 9 m":                   "9 1000 relative field",
		"SETEX k 9 v":                    "9 1000 relative",
		"PERSIST k":                      "no",
		"EXPIREAT k":                     "no",
		"HSETEX k 9 f v":                 "no",
		"RESTORE k 9 payload ABSTTL":     "no",
	} {
		args := split(example)
		at, ok := Expiry(Lookup(args[0]), args)
		got := "no"
		if ok {
			got = fmt.Sprintf("%s %d", args[at.Arg], at.Unit)
			if at.Relative {
				got += " relative"
			}
			if at.Field {
				got += " field"
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", example, got, want)
		}
	}
}

func TestBlind(t *testing.T) {
	for example, want := range map[string]bool{
		"SET k v": true, "SET k v PXAT 9": true, "SET k v NX": false, "SET k v KEEPTTL": false, "SET k v EX 9": false, "SET k v GET": false, "DEL a b": true, "MSET a b": true, "MSETNX a b": false,
		"INCR a": false, "RPUSH a b": false, "SADD a b": true, "PEXPIREAT a 1": false, "HSET a b c": true, "ZADD a 1 b": false, "RENAME a b": false, "FLUSHALL": false,
	} {
		args := split(example)
		if got := IsBlind(Lookup(args[0]), args); got != want {
			t.Errorf("%s: %v", example, got)
		}
	}
}
