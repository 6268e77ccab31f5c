package command

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// What a server takes decides about the dialect, type by type.
func TestChoose(t *testing.T) {
	redis := func(v int) rdb.Dialect { return rdb.Dialect{Family: rdb.Redis, Version: v} }
	valkey := rdb.Dialect{Family: rdb.Valkey, Version: 80}
	dragonfly := rdb.Dialect{Family: rdb.Dragonfly, Version: 9}
	// What servers were seen to take.
	shared := func(last uint8) func(encoding) bool {
		return func(e encoding) bool { return e.family == "" && e.code <= last }
	}
	redis8 := func(e encoding) bool {
		return shared(21)(e) || e.family == rdb.Redis && (e.code == 24 || e.code == 25)
	}
	valkey9 := func(e encoding) bool { return shared(21)(e) || e.family == rdb.Valkey && e.code == 22 }
	nothing := func(encoding) bool { return false }
	all := []rdb.Type{rdb.TypeString, rdb.TypeList, rdb.TypeSet, rdb.TypeZSet, rdb.TypeHash, rdb.TypeStream}
	for _, c := range []struct {
		name       string
		from       []rdb.Dialect
		types      []rdb.Type
		takes      func(encoding) bool
		to         rdb.Dialect
		byCommands []rdb.Type
	}{
		{"its own", []rdb.Dialect{redis(10)}, all, shared(19), redis(10), nil},
		{"an older one's", []rdb.Dialect{redis(9)}, all, redis8, redis(9), nil},
		{"down to Redis 7.0", []rdb.Dialect{redis(12)}, all, shared(19), redis(10), nil},
		{"down to Redis 6", []rdb.Dialect{redis(11)}, all, shared(15), redis(9), nil},
		{"Valkey 9 into Redis 8", []rdb.Dialect{valkey}, all, redis8, redis(15), nil},
		{"Redis 8 into Valkey 9", []rdb.Dialect{redis(12)}, all, valkey9, valkey, nil},
		{"Redis 8 into Valkey 8", []rdb.Dialect{redis(12)}, all, shared(21), redis(11), nil},
		{"Valkey 9 without hashes into Redis 8", []rdb.Dialect{valkey}, all[:4], redis8, valkey, nil},
		{"Dragonfly into Redis 8", []rdb.Dialect{dragonfly}, all, redis8, redis(15), nil},
		{"two dialects", []rdb.Dialect{redis(12), redis(11)}, all, redis8, redis(12), nil},
		{"no streams", []rdb.Dialect{redis(11)}, all, func(e encoding) bool { return shared(21)(e) && e.code != 15 && e.code != 19 && e.code != 21 },
			redis(11), []rdb.Type{rdb.TypeStream}},
		{"nothing", []rdb.Dialect{redis(12)}, all, nothing, redis(12), all},
		{"an empty backup", []rdb.Dialect{redis(12)}, nil, nothing, redis(12), nil},
		{"what next to no backup has", []rdb.Dialect{redis(12)}, all, func(e encoding) bool { return redis8(e) && !e.rare() }, redis(12), nil},
		{"arrays, which only RESTORE makes", []rdb.Dialect{redis(14)}, []rdb.Type{rdb.TypeString, rdb.TypeArray},
			func(e encoding) bool { return e.code == 28 || e.family == "" }, redis(14), nil},
	} {
		to, byCommands := choose("redis", c.from, c.types, c.takes, func(encoding) bool { return true })
		if to != c.to || !slices.Equal(byCommands, c.byCommands) {
			t.Errorf("%s: %v and %v by commands, want %v and %v", c.name, to, byCommands, c.to, c.byCommands)
		}
	}
}

// Every server takes the samples of the encodings that it writes itself, and none of a family that isn't its own.
func TestSamplesAreTaken(t *testing.T) {
	all, err := samples()
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			s := testserver.Start(t, version)
			l := loader(t, s.Options(), nil)
			x := &examiner{Loader: l, conns: map[string]*srv.Conn{}, t: &facts{nodes: []nodeFacts{{addr: s.Addr}}}, random: "x"}
			defer x.close()
			var took []string
			for e, sample := range all {
				ok, err := x.restore(t.Context(), x.first(), "5000", sample)
				if err != nil && !srv.Refused(err) {
					t.Fatal(err)
				}
				if ok {
					took = append(took, fmt.Sprintf("%s%02d", e.family, e.code))
				}
				own := map[string]bool{"redis-8.0": e.family == rdb.Redis && (e.code == 24 || e.code == 25), "valkey-9.1": e.family == rdb.Valkey}[version]
				last := map[string]uint8{"redis-7.0": 19, "redis-8.0": 21, "valkey-8.1": 21, "valkey-9.1": 21}[version]
				if want := own || e.family == "" && e.code <= last; ok != want && !e.rare() {
					t.Errorf("encoding %v: taken is %v: %v", e, ok, err)
				}
			}
			slices.Sort(took)
			t.Logf("taken: %s", strings.Join(took, " "))
			if left := testserver.Snapshot(t, s.Client(t)); len(left) > 0 {
				t.Errorf("trying has left %v", left)
			}
		})
	}
}

// A temporary name has the slot of its key, whatever braces that has.
func TestTemporaryNames(t *testing.T) {
	t.Parallel()
	cluster := testserver.StartCluster(t, "valkey-9.1", 1, 0)
	c := cluster.Nodes()[0].Client(t)
	r := &run{tagger: &tagger{}, nonce: "abc"}
	for _, key := range []string{"a", "", "{}", "{}{a}", "x{tag}y", "x{tag", "x}tag{", "{{tag}}", "x{" + strings.Repeat("t", 100) + "}", "\x00\xff{\x00}", "user:1000", "}{", strings.Repeat("k", 1000)} {
		temp := r.appendTemp(nil, []byte(key))
		want, err := c.ClusterKeySlot(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.ClusterKeySlot(t.Context(), string(temp)).Result()
		if err != nil {
			t.Fatal(err)
		}
		if got != want || len(temp) > 100 {
			t.Errorf("%.40q has slot %d, and %q has %d", key, want, temp, got)
		}
	}
	for slot := range srv.Slots {
		if tag := r.tagger.appendDigits(nil, slot); srv.Slot(tag) != slot {
			t.Fatalf("the tag %s has slot %d instead of %d", tag, srv.Slot(tag), slot)
		}
	}
}

// Replies are read right however they are cut, and in step.
func TestReplies(t *testing.T) {
	stream := "+OK\r\n+QUEUED\r\n-ERR what ever\r\n:12\r\n$-1\r\n*-1\r\n$5\r\na\r\nbc\r\n*3\r\n:1\r\n$2\r\nxy\r\n*1\r\n+OK\r\n+OK\r\n$0\r\n\r\n*0\r\n:-7\r\n"
	want := []string{"+ OK", "+ QUEUED", "- ERR what ever", ": 12", "\x00 0", "\x00 0", "$ 5", "* 3", "+ OK", "$ 0", "* 0", ": -7"}
	for name, src := range map[string]io.Reader{
		"at once": strings.NewReader(stream), "byte by byte": iotest.OneByteReader(strings.NewReader(stream)), "by halves": iotest.HalfReader(strings.NewReader(stream)),
	} {
		in := newReplies(src, nil)
		for i, w := range want {
			a, err := in.next()
			if err != nil {
				t.Fatalf("%s: reply %d: %v", name, i, err)
			}
			got := string(a.kind) + " " + string(a.text)
			if a.text == nil {
				got = fmt.Sprintf("%c %d", a.kind, a.n)
			}
			if got != w {
				t.Errorf("%s: reply %d is %q instead of %q", name, i, got, w)
			}
		}
		if _, err := in.next(); err != io.ErrUnexpectedEOF {
			t.Errorf("%s: behind the last: %v", name, err)
		}
	}
	for _, bad := range []string{"?\r\n", "\r\n", ":x\r\n", "$x\r\n", "*1\r\n?\r\n", "+" + strings.Repeat("x", 100_000), strings.Repeat("*1\r\n", 100)} {
		if a, err := newReplies(strings.NewReader(bad), nil).next(); err == nil {
			t.Errorf("%.20q is read as %+v", bad, a)
		}
	}
}

// Commands of our own are taken apart again.
func TestCommandsTakenApart(t *testing.T) {
	for _, args := range [][]string{{"RESTORE", "key", "0", "pay\r\nload"}, {"EXISTS", ""}, {"DEL", strings.Repeat("k", 1000)}} {
		command := appendCommand(nil, args...)
		if got := splitCommand(command); !slices.Equal(got, args) {
			t.Errorf("%q became %q", args, got)
		}
		if key := keyOf(command); string(key) != args[1] {
			t.Errorf("the key of %q is %q", args, key)
		}
	}
	command := appendCommand(nil, "RESTORE", "key", "0", "payload")
	if again := withReplace(command); !bytes.Equal(again, appendCommand(nil, "RESTORE", "key", "0", "payload", "REPLACE")) {
		t.Errorf("with REPLACE it is %q", again)
	}
}
