package rdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// words makes a command; % marks are replaced by values in order.
func words(s string, values ...[]byte) [][]byte {
	var args [][]byte
	for _, w := range strings.Fields(s) {
		if w == "%" {
			args, values = append(args, values[0]), values[1:]
			continue
		}
		args = append(args, []byte(w))
	}
	return args
}

// commandsOf reads a stream with commands: keys as "db:key type expiry", commands as "db>WORDS".
func commandsOf(t *testing.T, data []byte) (got []string) {
	t.Helper()
	r := NewReader(bytes.NewReader(data), &ReaderOptions{Commands: true})
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case KindKey:
			got = append(got, strings.TrimSuffix(fmt.Sprintf("%d:%s %v %d", e.DB, e.Key, e.Type, e.ExpireAt), " 0"))
		case KindJournal:
			s := fmt.Sprintf("%d>", e.DB)
			for el, err := range r.Elements() {
				if err != nil {
					t.Fatal(err)
				}
				s += string(el.Value) + " "
			}
			got = append(got, strings.TrimSpace(s))
		}
	}
	return got
}

// converted converts commands that come from a dialect to another.
func converted(t *testing.T, from, to Dialect, opts ConvertOptions, cmds ...[][]byte) ([]string, *ConvertReport, error) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, to, &WriterOptions{Commands: true})
	if err != nil {
		t.Fatal(err)
	}
	if opts.Commands == nil {
		opts.Commands = &CommandOptions{Flush: true, Now: 1000}
	}
	co := *opts.Commands
	co.From = from
	opts.Commands = &co
	if opts.Policies == nil {
		opts.Policy = DropDetail
	}
	i := 0
	report, err := ConvertCommands(w, func() (*Command, error) {
		if i == len(cmds) {
			return nil, io.EOF
		}
		i++
		return &Command{DB: 2, Offset: int64(i), Args: cmds[i-1]}, nil
	}, &opts)
	if err != nil {
		return nil, report, err
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return commandsOf(t, out.Bytes()), report, nil
}

var (
	redis7    = Dialect{Redis, 10}
	redis8    = Dialect{Redis, 12}
	valkey9   = Dialect{Valkey, 80}
	dragonfly = Dialect{Dragonfly, 9}
)

// TestConvertCommands is a table of what becomes of commands.
func TestConvertCommands(t *testing.T) {
	lacks := func(names ...string) *CommandOptions {
		return &CommandOptions{Flush: true, Now: 1000, Has: func(name string) bool { return !slices.Contains(names, name) }}
	}
	match := ConvertOptions{Match: "a*"}
	for _, test := range []struct {
		from, to Dialect
		opts     ConvertOptions
		in       string
		want     string // commands, with commas between
		losses   string
	}{
		{redis7, redis8, ConvertOptions{}, "set k v PXAT 99", "2>set k v PXAT 99", ""},
		{redis7, redis8, ConvertOptions{}, "NOSUCH k", "", "command"},
		{redis7, redis8, ConvertOptions{}, "PUBLISH c m", "", ""},
		{redis7, redis8, ConvertOptions{Commands: lacks("sadd")}, "SADD k m", "", "command"},
		{redis7, redis8, ConvertOptions{}, "FLUSHALL ASYNC", "0>FLUSHALL", ""},
		{redis7, redis8, ConvertOptions{Commands: &CommandOptions{}}, "FLUSHALL", "", "command"},
		{redis7, redis8, ConvertOptions{MapDB: map[int]int{2: 5}}, "FLUSHDB", "5>FLUSHDB", ""},
		{redis7, redis8, ConvertOptions{DBs: []int{1}}, "FLUSHDB", "", ""},
		{redis7, redis8, ConvertOptions{MapDB: map[int]int{2: 5}}, "SWAPDB 2 3", "0>SWAPDB 5 3", ""},
		{redis7, redis8, ConvertOptions{DBs: []int{2}}, "SWAPDB 2 3", "", "command"},
		{redis7, redis8, ConvertOptions{}, "FUNCTION LOAD code", "0>FUNCTION LOAD code", ""},
		{redis7, dragonfly, ConvertOptions{}, "FUNCTION LOAD code", "", "function"},
		{redis7, redis8, ConvertOptions{}, "SCRIPT LOAD code", "", ""},
		{dragonfly, dragonfly, ConvertOptions{}, "SCRIPT LOAD code", "0>SCRIPT LOAD code", ""},
		{dragonfly, dragonfly, ConvertOptions{}, "FT.CREATE i", "0>FT.CREATE i", ""},
		{dragonfly, dragonfly, ConvertOptions{NoIndexes: true}, "FT.CREATE i", "", "search-index"},
		{dragonfly, redis8, ConvertOptions{}, "FT.CREATE i", "", "search-index"},

		// Selection and names.
		{redis7, redis8, ConvertOptions{DBs: []int{1}}, "SET k v", "", ""},
		{redis7, redis8, ConvertOptions{MapDB: map[int]int{2: 0}}, "SET k v", "0>SET k v", ""},
		{redis7, redis8, match, "SET a v", "2>SET a v", ""},
		{redis7, redis8, match, "SET b v", "", ""},
		{redis7, redis8, match, "DEL a b a2", "2>DEL a a2", ""},
		{redis7, redis8, match, "MSET a 1 b 2 a3 3", "2>MSET a 1 a3 3", ""},
		{redis7, redis8, match, "RENAME a b", "2>DEL a", ""},
		{redis7, redis8, match, "RENAME b a", "", "command"},
		{redis7, redis8, match, "RENAME b c", "", ""},
		{redis7, redis8, match, "SMOVE a b m", "2>SREM a m", ""},
		{redis7, redis8, match, "LMOVE a b LEFT RIGHT", "2>LPOP a", ""},
		{redis7, redis8, match, "LMOVE a b RIGHT LEFT", "2>RPOP a", ""},
		{redis7, redis8, match, "RPOPLPUSH a b", "2>RPOP a", ""},
		{redis7, redis8, match, "SUNIONSTORE a b c", "", "command"},
		{redis7, redis8, match, "SUNIONSTORE b a c", "", ""},
		{redis7, redis8, match, "SUNIONSTORE a a1 a2", "2>SUNIONSTORE a a1 a2", ""},
		{redis7, redis8, match, "COPY a b", "", ""},
		{redis7, redis8, match, "COPY b a", "", "command"},
		{redis7, redis8, ConvertOptions{DBs: []int{2}}, "MOVE k 3", "2>DEL k", ""},
		{redis7, redis8, ConvertOptions{DBs: []int{3}}, "MOVE k 3", "", "command"},
		{redis7, redis8, ConvertOptions{MapDB: map[int]int{3: 9}}, "MOVE k 3", "2>MOVE k 9", ""},
		{redis7, redis8, ConvertOptions{MapDB: map[int]int{3: 9}}, "COPY k k2 DB 3 REPLACE", "2>COPY k k2 DB 9 REPLACE", ""},
		{redis7, redis8, ConvertOptions{TrimPrefix: "a:", AddPrefix: "b:"}, "ZUNIONSTORE a:1 2 a:2 a:3", "2>ZUNIONSTORE b:1 2 b:2 b:3", ""},
		{redis7, redis8, ConvertOptions{AddPrefix: "b:"}, "SORT k STORE l", "2>SORT b:k STORE b:l", ""},
		{redis7, redis8, ConvertOptions{AddPrefix: "b:"}, "SORT k BY w_* STORE l", "", "command"},
		{redis7, redis8, ConvertOptions{AddPrefix: "b:"}, "EVAL code 0", "", "command"},
		{redis7, redis8, ConvertOptions{}, "EVAL code 0", "2>EVAL code 0", ""},
		{redis7, redis8, ConvertOptions{AddPrefix: "b:"}, "XGROUP CREATE s g 0", "2>XGROUP CREATE b:s g 0", ""},
		{redis7, redis8, ConvertOptions{Types: []Type{TypeList}}, "RPUSH k a", "2>RPUSH k a", ""},
		{redis7, redis8, ConvertOptions{Types: []Type{TypeList}}, "SADD k a", "", ""},
		{redis7, redis8, ConvertOptions{Types: []Type{TypeList}}, "SET k a", "2>DEL k", ""},
		{redis7, redis8, ConvertOptions{Types: []Type{TypeList}}, "BITOP AND k a b", "2>DEL k", ""},
		{redis7, redis8, ConvertOptions{Types: []Type{TypeList}}, "DEL k", "2>DEL k", ""},
		{redis7, redis8, ConvertOptions{Types: []Type{TypeList}}, "RENAME k l", "", "command"},

		// Expiry.
		{redis7, redis8, ConvertOptions{DropExpiry: true}, "SET k v NX PXAT 99 GET", "2>SET k v NX GET", ""},
		{redis7, redis8, ConvertOptions{DropExpiry: true}, "PEXPIREAT k 99", "", ""},
		{redis7, redis8, ConvertOptions{DropExpiry: true}, "SETEX k 9 v", "2>SET k v", ""},
		{redis7, redis8, ConvertOptions{DropExpiry: true}, "PERSIST k", "2>PERSIST k", ""},
		{redis7, redis8, ConvertOptions{ShiftExpiry: time.Second}, "PEXPIREAT k 99", "2>PEXPIREAT k 1099", ""},
		{redis7, redis8, ConvertOptions{ShiftExpiry: 1500 * time.Millisecond}, "EXPIREAT k 7", "2>EXPIREAT k 9", ""},
		{redis7, redis8, ConvertOptions{}, "SETEX k 9 v", "2>SETEX k 9 v", "relative-ttl"},
		{redis8, redis8, ConvertOptions{}, "HSETEX k FNX PXAT 77 FIELDS 2 f v g w", "2>HSET k f v g w, 2>HPEXPIREAT k 77 FIELDS 2 f g", ""},
		{redis8, redis7, ConvertOptions{}, "HSETEX k EXAT 77 FIELDS 1 f v", "2>HSET k f v", "field-expiry"},
		{redis8, redis8, ConvertOptions{}, "HSETEX k KEEPTTL FIELDS 1 f v", "2>HSETEX k KEEPTTL FIELDS 1 f v", ""},
		{redis8, redis7, ConvertOptions{Commands: lacks("hpexpireat")}, "HPEXPIREAT k 77 FIELDS 1 f", "", "field-expiry"},
		{redis8, valkey9, ConvertOptions{ShiftExpiry: time.Second}, "HSETEX k PXAT 77 FIELDS 1 f v", "2>HSET k f v, 2>HPEXPIREAT k 1077 FIELDS 1 f", ""},
		{redis8, redis8, ConvertOptions{DropExpiry: true}, "HSETEX k PXAT 77 FIELDS 1 f v", "2>HSET k f v", ""},

		// What only Dragonfly has.
		{dragonfly, dragonfly, ConvertOptions{}, "SADDEX k 9 m", "2>SADDEX k 9 m", "relative-ttl"},
		{dragonfly, redis8, ConvertOptions{}, "SADDEX k 9 m", "2>SADD k m", "member-expiry relative-ttl"},
		{dragonfly, redis8, ConvertOptions{}, "SADDEX k KEEPTTL 9 m", "", "command"},
		{dragonfly, redis8, ConvertOptions{}, "HSETEX k 9 f v", "2>HSET k f v, 2>HPEXPIREAT k 10000 FIELDS 1 f", "relative-ttl"},
		{dragonfly, redis7, ConvertOptions{}, "HSETEX k 9 f v", "2>HSET k f v", "field-expiry relative-ttl"},
		{dragonfly, dragonfly, ConvertOptions{}, "HSETEX k 9 f v", "2>HSETEX k 9 f v", "relative-ttl"},
		{dragonfly, dragonfly, ConvertOptions{DropExpiry: true}, "HSETEX k 9 f v", "2>HSET k f v", ""},
		{dragonfly, redis8, ConvertOptions{}, "HSETEX k NX 9 f v", "", "command"},
		{redis8, dragonfly, ConvertOptions{}, "HSETEX k PXAT 77 FIELDS 1 f v", "2>HSET k f v", "field-expiry"},
		{dragonfly, redis8, ConvertOptions{}, "FIELDEXPIRE k 9 f", "", "field-expiry relative-ttl"},
		{dragonfly, redis8, ConvertOptions{}, "HEXPIRE k 9 FIELDS 1 f", "2>HEXPIRE k 9 FIELDS 1 f", "relative-ttl"},
		{dragonfly, redis7, ConvertOptions{}, "HEXPIRE k 9 FIELDS 1 f", "", "field-expiry relative-ttl"},
		{dragonfly, redis8, ConvertOptions{}, "STICK k", "", "flags"},
		{dragonfly, dragonfly, ConvertOptions{}, "STICK k", "2>STICK k", ""},
		{dragonfly, redis8, ConvertOptions{}, "JSON.SET k $ 1", "", "type"},
		{dragonfly, redis8, ConvertOptions{Modules: []string{"ReJSON-RL"}}, "JSON.SET k $ 1", "2>JSON.SET k $ 1", ""},
		{dragonfly, redis8, ConvertOptions{}, "BF.ADD k m", "", "type"},
		{dragonfly, redis8, ConvertOptions{}, "CMS.MERGE a 2 b c", "", "type"},
	} {
		got, report, err := converted(t, test.from, test.to, test.opts, words(test.in))
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		var losses []string
		for _, l := range report.Losses {
			losses = append(losses, string(l.Loss))
		}
		if strings.Join(got, ", ") != test.want || strings.Join(losses, " ") != test.losses {
			t.Errorf("%s from %v to %v: %q with losses %q, want %q with %q", test.in, test.from, test.to, got, losses, test.want, test.losses)
		}
		if int(report.Commands) != len(got) {
			t.Errorf("%s: %d commands are counted", test.in, report.Commands)
		}
	}
}

// payloadOf makes a DUMP payload of a string.
func payloadOf(t *testing.T, d Dialect, typ Type, els ...Element) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.WriteEntry(&Entry{Kind: KindKey, Key: []byte("k"), Type: typ, Idle: -1, Freq: -1}, Shape{Len: uint64(len(els)), Expiry: els[0].ExpireAt != 0})
	for i := range els {
		w.WriteElement(&els[i])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&out, nil)
	for {
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == KindKey {
			p, err := r.AppendRaw(nil, -1)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
}

// TestConvertRestore: RESTORE becomes a key, with all that is done to keys.
func TestConvertRestore(t *testing.T) {
	text := payloadOf(t, redis7, TypeString, Element{Kind: ElementBytes, Value: []byte("hello")})
	brief := payloadOf(t, dragonfly, TypeSet, Element{Kind: ElementMember, Value: []byte("m"), ExpireAt: 4102444800000})
	for _, test := range []struct {
		from, to Dialect
		opts     ConvertOptions
		cmd      [][]byte
		want     string
		losses   string
	}{
		{redis7, redis8, ConvertOptions{}, words("RESTORE k 99 % ABSTTL REPLACE", text), "2>DEL k, 2:k string 99", ""},
		{redis7, redis8, ConvertOptions{}, words("RESTORE k 0 %", text), "2>DEL k, 2:k string", ""},
		{redis7, redis8, ConvertOptions{}, words("RESTORE k 99 %", text), "2>DEL k, 2:k string 1099", "relative-ttl"},
		{redis7, redis8, ConvertOptions{DropExpiry: true}, words("RESTORE k 99 % ABSTTL", text), "2>DEL k, 2:k string", ""},
		{redis7, valkey9, ConvertOptions{MapDB: map[int]int{2: 1}, AddPrefix: "x:"}, words("RESTORE k 0 %", text), "1>DEL x:k, 1:x:k string", ""},
		{redis7, redis8, ConvertOptions{Match: "a*"}, words("RESTORE k 0 %", text), "", ""},
		{redis7, redis8, ConvertOptions{Types: []Type{TypeSet}}, words("RESTORE k 0 %", text), "2>DEL k", ""},
		{dragonfly, redis8, ConvertOptions{}, words("RESTORE k 0 % REPLACE ABSTTL STICK", brief), "2>DEL k, 2:k set", "flags member-expiry"},
		{dragonfly, dragonfly, ConvertOptions{}, words("RESTORE k 0 % REPLACE ABSTTL STICK", brief), "2>DEL k, 2:k set", ""},
	} {
		got, report, err := converted(t, test.from, test.to, test.opts, test.cmd)
		if err != nil {
			t.Errorf("%q: %v", test.cmd, err)
			continue
		}
		var losses []string
		for _, l := range report.Losses {
			losses = append(losses, string(l.Loss))
		}
		if strings.Join(got, ", ") != test.want || strings.Join(losses, " ") != test.losses {
			t.Errorf("%q from %v to %v: %q with losses %q, want %q with %q", test.cmd[:3], test.from, test.to, got, losses, test.want, test.losses)
		}
	}
	text[1] ^= 1
	if _, _, err := converted(t, redis7, redis8, ConvertOptions{}, words("RESTORE k 0 %", text)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a broken payload: %v", err)
	}
}

// TestConvertCommandFails: policies hold for commands, too, and what can't be is an error that tells where.
func TestConvertCommandFails(t *testing.T) {
	var loss *LossError
	_, _, err := converted(t, redis7, redis8, ConvertOptions{Policies: map[Loss]Policy{}}, words("SET k v"), words("RENAME a b"), words("NOSUCH x"))
	if !errors.As(err, &loss) || loss.Loss != LossCommand || loss.Offset != 3 || !strings.Contains(err.Error(), "NOSUCH") {
		t.Errorf("an unknown command: %v", err)
	}
	var corrupt *CorruptError
	if _, _, err := converted(t, redis7, redis8, ConvertOptions{}, words("SET")); !errors.As(err, &corrupt) || corrupt.Offset != 1 {
		t.Errorf("a command without its arguments: %v", err)
	}
	if _, err := ConvertCommands(nil, nil, nil); err == nil {
		t.Error("no options are no error")
	}
	w, _ := NewWriter(io.Discard, redis8, nil)
	if err := w.WriteCommand(&Command{Args: words("DEL k")}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a writer without WriterOptions.Commands: %v", err)
	}
}

// TestConvertJournal: the commands of a Dragonfly's stream stay where they are among its keys, in a stream of every dialect; a reader that isn't told
// of them refuses it, or takes it for Dragonfly's.
func TestConvertJournal(t *testing.T) {
	for _, to := range []Dialect{redis7, redis8, {Redis, 15}, valkey9, dragonfly} {
		var out bytes.Buffer
		w, err := NewWriter(&out, to, &WriterOptions{Commands: true, Compression: CompressLZF})
		if err != nil {
			t.Fatal(err)
		}
		long := strings.Repeat("long", 40<<10)
		entry := build("").len(journalSelect, 4, journalCommand, 7, 1, 3, uint64(4+len(long))).str("SET", "k", long).b
		stream := journalStream()
		stream = append(stream[:len(stream)-9:len(stream)-9], build("").bytes(opJournal, 1).str(string(entry)).bytes(opEOF).u64(0).b...)
		report, err := Convert(w, NewReader(bytes.NewReader(stream), nil), &ConvertOptions{Commands: &CommandOptions{Flush: true}})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got := commandsOf(t, out.Bytes())
		want := []string{"2:key string", "0>SET key val", "0>SET key val", "3>DEL kk", "2:in a block string", "0>SET key val", "4>SET k"}
		last := len(got) - 1
		if last < 0 || strings.ReplaceAll(got[last], " ", "") != "4>SETk"+long {
			t.Fatalf("%v: the long command isn't there", to)
		}
		if got[last] = "4>SET k"; !slices.Equal(got, want) || report.Commands != 5 || report.Keys != 2 {
			t.Errorf("%v: %q, %+v", to, got, report)
		}
		r := NewReader(&out, nil)
		for err = nil; err == nil; {
			_, err = r.Next()
		}
		if old := to.Version <= 12; old && (err != io.EOF || r.Dialect().Family != Dragonfly) || !old && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v, without being told: %v, %v", to, err, r.Dialect())
		}
	}
}
