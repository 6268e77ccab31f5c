package scan_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/rdb"
)

// mixed returns a peer with strings and lists, which answers MGET.
func mixed(info string) *peer {
	p := &peer{payload: map[string]string{}, expiry: 4_000_000_000_000, mget: true, info: info + "role:master\r\nrun_id:abc\r\ndb0:keys=40,expires=40\r\n"}
	for i := range 40 {
		name, payload := fmt.Sprint("key", i), footer(fmt.Sprintf("\x00\x04%04d", i), 10)
		if i%3 == 1 {
			name, payload = fmt.Sprint("list", i), footer(fmt.Sprintf("\x01\x01\x04%04d", i), 10)
		}
		p.names = append(p.names, name)
		p.payload[name] = payload
	}
	return p
}

const redis7 = "redis_version:7.0.15\r\n"

// version makes all payloads be of a version.
func (p *peer) version(v uint16) {
	for name, payload := range p.payload {
		p.payload[name] = footer(payload[:len(payload)-10], v)
	}
}

// byMGET is scanner, with strings asked for as such from the beginning.
func (p *peer) byMGET(t *testing.T) *scan.Snapshotter {
	t.Helper()
	s := p.scanner(t)
	scan.SetTuning(s, scan.Tuning{Group: 4, Strings: true, Pauses: []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}})
	return s
}

// asked counts the commands of a peer, by name.
func (p *peer) asked() map[string]int {
	counts, change := map[string]int{}, p.change
	p.change = func(connection int, args []string) string {
		if len(args) < 2 || args[1] != "amber:probe" {
			counts[args[0]]++
		}
		if change != nil {
			return change(connection, args)
		}
		return ""
	}
	return counts
}

// A string is read by MGET alone, and a list by DUMP, once each; lists are asked for by MGET only until they are known by their names.
func TestStringsByMGET(t *testing.T) {
	p := mixed(redis7)
	counts := p.asked()
	data, src, err := try(t, p.byMGET(t))
	if err != nil {
		t.Fatal(err)
	}
	p.holds(t, data, "redis:10")
	// One DUMP more tells the version.
	if src.Scan.Listed != 40 || counts["DUMP"] != 13+1 || counts["MGET"] < 27/4 || counts["PEXPIRETIME"] < 41 || counts["PEXPIRETIME"] > 40+13 {
		t.Errorf("counts %+v, commands %v", src.Scan, counts)
	}
}

// Where a key may have more than its value, and where MGET isn't allowed, all are read by DUMP.
func TestStringsByDUMP(t *testing.T) {
	for name, change := range map[string]func(p *peer){
		"Dragonfly": func(p *peer) {
			p.info = strings.Replace(p.info, redis7, "redis_version:7.4.0\r\ndragonfly_version:df-v1.40.1\r\n", 1)
			p.version(9)
		},
		"metadata":  func(p *peer) { p.version(13) },
		"not known": func(p *peer) { p.mget = false },
		"not allowed": func(p *peer) {
			p.change = func(_ int, args []string) string {
				if args[0] == "MGET" {
					return "-NOPERM this user has no permissions to run the 'mget' command\r\n"
				}
				return ""
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := mixed(redis7)
			change(p)
			counts := p.asked()
			data, _, err := try(t, p.byMGET(t))
			if err != nil {
				t.Fatal(err)
			}
			dialect := map[string]string{"Dragonfly": "dragonfly:9", "metadata": "redis:13"}[name]
			if dialect == "" {
				dialect = "redis:10"
			}
			p.holds(t, data, dialect)
			if counts["MGET"] != 0 || counts["DUMP"] < 40 {
				t.Errorf("commands %v", counts)
			}
		})
	}
}

// What is a string is learned from names that are like it.
func TestLikelyStrings(t *testing.T) {
	for name, test := range map[string]struct {
		isString func(i int) bool
		name     func(i int) string
		min, max int // how many of a thousand are asked for by MGET
	}{
		"none":           {func(int) bool { return false }, func(i int) string { return fmt.Sprint("key", i) }, 0, 0},
		"all":            {func(int) bool { return true }, func(i int) string { return fmt.Sprint("key", i) }, 950, 1000},
		"by the name":    {func(i int) bool { return i%3 == 0 }, func(i int) string { return fmt.Sprintf("user:%d:%s", i, []string{"token", "tags", "jobs"}[i%3]) }, 300, 334},
		"few of a kind":  {func(i int) bool { return i%5 == 0 }, func(i int) string { return fmt.Sprint("key", i) }, 0, 50},
		"most of a kind": {func(i int) bool { return i%5 > 0 }, func(i int) string { return fmt.Sprint("key", i) }, 900, 1000},
		"after a while":  {func(i int) bool { return i >= 500 }, func(i int) string { return fmt.Sprint("key", i) }, 440, 500},
		"no more":        {func(i int) bool { return i < 500 }, func(i int) string { return fmt.Sprint("key", i) }, 450, 560},
	} {
		t.Run(name, func(t *testing.T) {
			p := &peer{payload: map[string]string{}, expiry: -1, mget: true, info: redis7 + "role:master\r\nrun_id:abc\r\ndb0:keys=1000,expires=0\r\n"}
			byMGET := 0
			for i := range 1000 {
				name := test.name(i)
				p.names = append(p.names, name)
				p.payload[name] = footer(fmt.Sprintf("\x01\x01\x04%04d", i), 10)
				if test.isString(i) {
					p.payload[name] = footer(fmt.Sprintf("\x00\x04%04d", i), 10)
				}
			}
			p.change = func(_ int, args []string) string {
				if args[0] == "MGET" && args[1] != "amber:probe" {
					byMGET += len(args) - 1
				}
				return ""
			}
			data, _, err := try(t, p.scanner(t))
			if err != nil {
				t.Fatal(err)
			}
			p.holds(t, data, "redis:10")
			if byMGET < test.min || byMGET > test.max {
				t.Errorf("%d keys are asked for by MGET", byMGET)
			}
		})
	}
}

// A connection that is cut after any byte of an answer is made again, and nothing is lost or there twice.
func TestCutStrings(t *testing.T) {
	p := mixed(redis7)
	p.change = func(_ int, args []string) string {
		// The first key tells the version, before it is known how keys may be read.
		if args[0] == "DUMP" && args[1] != "key0" && args[1] != "amber:probe" && p.payload[args[1]][0] == 0 {
			t.Errorf("the string %s is asked for by DUMP", args[1])
		}
		return ""
	}
	s := p.byMGET(t)
	failed, passed := 0, 0
	for limit := 1; limit < 5000; limit += 11 {
		p.mu.Lock()
		p.cuts, p.limit = p.conns+1, limit
		p.mu.Unlock()
		data, src, err := try(t, s)
		if errors.Is(err, backup.ErrStalled) {
			t.Fatalf("cut after %d bytes: %v", limit, err) // each of the others would stand still for as long
		}
		if err != nil {
			failed++ // before the scan began
			continue
		}
		passed++
		p.holds(t, data, "redis:10")
		if src.Scan.Gone != 0 || src.Scan.Moved != 0 || src.Scan.Listed != 40 {
			t.Errorf("cut after %d bytes: counts %+v", limit, src.Scan)
		}
	}
	if failed == 0 || passed < 300 {
		t.Errorf("%d failed and %d passed", failed, passed)
	}
}

// What a server answers to MGET in another way than is wanted.
func TestAnswersToMGET(t *testing.T) {
	once := func(command, key, answer string) func(int, []string) string {
		left := 1
		return func(_ int, args []string) string {
			if args[0] == command && args[1] == key && left > 0 {
				left--
				return answer
			}
			return ""
		}
	}
	for name, test := range map[string]struct {
		change func(int, []string) string
		gone   string // a key that is not there
		moved  string
		want   string // of the error
	}{
		"an error for all":  {change: once("MGET", "key0", "-TRYAGAIN Multiple keys request during rehashing of slot\r\n")},
		"moved":             {change: once("MGET", "key0", "-MOVED 3 127.0.0.1:1\r\n")},
		"the expiry of one": {change: once("PEXPIRETIME", "key2", "-BUSY Redis is busy running a script.\r\n")},
		"of one that moved": {change: once("PEXPIRETIME", "key2", "-MOVED 3 127.0.0.1:1\r\n"), moved: "key2"},
		"no time to live":   {change: once("PEXPIRETIME", "key2", ":-2\r\n")},
		"gone":              {gone: "key2"},
		"too few":           {change: once("MGET", "key0", "*1\r\n$1\r\nx\r\n"), want: "an answer to MGET with 1 elements"},
		"an array within":   {change: once("MGET", "key0", "*4\r\n*0\r\n$1\r\nx\r\n$1\r\nx\r\n$1\r\nx\r\n"), want: "a reply of kind"},
		"not allowed":       {change: once("MGET", "key0", "*4\r\n-NOPERM no\r\n$1\r\nx\r\n$1\r\nx\r\n$1\r\nx\r\n"), want: "NOPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			p := mixed(redis7)
			p.change = test.change
			delete(p.payload, test.gone)
			data, src, err := try(t, p.byMGET(t))
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			delete(p.payload, test.moved)
			p.holds(t, data, "redis:10")
			keys(t, data, func(e *rdb.Entry, _ string) {
				if e.ExpireAt != p.expiry {
					t.Errorf("%s expires at %d", e.Key, e.ExpireAt)
				}
			})
			if (src.Scan.Gone == 1) != (test.gone != "") || (src.Scan.Moved == 1) != (test.moved != "") || src.Scan.Listed != 40 {
				t.Errorf("counts %+v", src.Scan)
			}
		})
	}
}
