package scan

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/rdb"
	"github.com/redis/go-redis/v9"
)

// Of any names, in any order and as often as may be, each passes once.
func TestSeen(t *testing.T) {
	for _, test := range []struct {
		names, again int
		filter       uint
	}{{0, 0, 0}, {1, 5, 0}, {1000, 100, 0}, {1000, 3000, 9}, {1000, 0, 9}, {20_000, 5000, 0}, {20_000, 50_000, 12}} {
		dir := t.TempDir()
		s := newSeen(dir)
		s.passed.limit, s.put.limit = 1000, 1000 // most goes to the file
		for range 2 {                            // it is used again for the next database
			s.begin(int64(test.names), test.filter)
			r := rand.New(rand.NewPCG(1, uint64(test.names)))
			passed := make([]byte, test.names)
			name := func(i int) []byte { return fmt.Appendf(nil, "name:%d", i) }
			add := func(i int) {
				if ok, err := s.pass(name(i)); err != nil {
					t.Fatal(err)
				} else if ok {
					passed[i]++
				}
			}
			for i := range test.names {
				add(i)
				for range test.again / max(test.names, 1) {
					add(r.IntN(i + 1))
				}
			}
			for range test.again % max(test.names, 1) {
				add(r.IntN(test.names))
			}
			rest, err := s.rest()
			if err != nil {
				t.Fatal(err)
			}
			for {
				n, err := rest()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				var i int
				if _, err := fmt.Sscanf(string(n), "name:%d", &i); err != nil {
					t.Fatal(err)
				}
				passed[i]++
			}
			if i := bytes.IndexFunc(passed, func(r rune) bool { return r != 1 }); i >= 0 {
				t.Errorf("%+v: name %d passed %d times", test, i, passed[i])
			}
			if s.count != int64(test.names) {
				t.Errorf("%+v: %d names", test, s.count)
			}
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
}

// Ten million names, some of them often, take little memory. CAMPAIGN=1 makes it so many.
func TestSeenMemory(t *testing.T) {
	names := 300_000
	if os.Getenv("CAMPAIGN") != "" {
		names = 10_000_000
	}
	s := newSeen(t.TempDir())
	defer s.close()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before := m.HeapInuse
	s.begin(int64(names), 0)
	passed := 0
	for i := range names {
		for k := range 1 + b2i(i%16 == 0) {
			if ok, err := s.pass(fmt.Appendf(nil, "name:%d", i-k*(i/2))); err != nil {
				t.Fatal(err)
			} else if ok {
				passed++
			}
		}
	}
	rest, err := s.rest()
	for err == nil {
		_, err = rest()
		passed++
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	if passed--; passed != names {
		t.Errorf("%d of %d names passed", passed, names)
	}
	if runtime.ReadMemStats(&m); m.HeapInuse > before+48<<20 {
		t.Errorf("%d MiB of heap", (m.HeapInuse-before)>>20)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// special makes a scanner that writes values of a dialect, and returns what it wrote.
func special(t *testing.T, d rdb.Dialect, payload string, expiry int64) []byte {
	t.Helper()
	sc := &scanner{node: &node{Conn: &link.Conn{}, dialect: d}, out: newOutput(), db: database{}}
	sc.out.header(d)
	if err := sc.out.selectDB(sc.db, d); err != nil {
		t.Fatal(err)
	}
	full := append([]byte(payload), byte(d.Version), 0)
	full = append(full, make([]byte, 8)...)
	sum := crc64.Checksum(full[:len(full)-8])
	for i := range 8 {
		full[len(full)-8+i] = byte(sum >> (8 * i))
	}
	if !sc.special(full[0]) {
		t.Fatal("it is nothing special")
	}
	if err := sc.encode([]byte("name"), expiry, full[:len(full)-10], full); err != nil {
		t.Fatal(err)
	}
	go func() {
		sc.out.close(sc.out.finish())
	}()
	var data []byte
	p := make([]byte, 1000)
	for {
		n, err := sc.out.read(p)
		data = append(data, p[:n]...)
		if err == io.EOF {
			return data
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Values that streams have in another form than payloads are written in that. No server here has them: the payloads are made by rdb-format 3.1 and 3.3.13.
func TestSpecialValues(t *testing.T) {
	meta := "\xf3\x01\x01\x02\x03\x04" + "\x02\x05" + "\x05\x02ab" + "\x04" + "12345678" + "\x03" + "1234" + "\x00"
	listpack := func(items ...string) string {
		body := ""
		for _, it := range items {
			if it == "0" {
				body += "\x00\x01" // a number
				continue
			}
			body += string([]byte{0x80 | byte(len(it))}) + it + string([]byte{byte(1 + len(it))})
		}
		lp := string([]byte{byte(6 + len(body) + 1), 0, 0, 0, byte(len(items)), 0}) + body + "\xff"
		return string([]byte{byte(len(lp))}) + lp
	}
	for name, test := range map[string]struct {
		version int
		payload string
		typ     rdb.Type
		want    string
		meta    string
	}{
		"metadata":                   {13, meta + "\x00\x05value", rdb.TypeString, "[value]", meta},
		"template, array":            {15, "\x1f\x01\x02\x01a\x02bb" + "\x01x\x02yy", rdb.TypeHash, "[a=x bb=yy]", ""},
		"template":                   {15, "\x1d\x00" + listpack("a", "bb") + listpack("0", "x", "yy"), rdb.TypeHash, "[a=x bb=yy]", ""},
		"template, with metadata":    {15, meta + "\x1f\x01\x01\x01a" + "\x01x", rdb.TypeHash, "[a=x]", meta},
		"metadata of another family": {14, meta + "\x0b\x0a\x02\x00\x00\x00\x01\x00\x00\x00\x07\x00", rdb.TypeSet, "[7]", meta},
	} {
		for _, expiry := range []int64{-1, 4_000_000_000_000} {
			data := special(t, rdb.Dialect{Family: rdb.Redis, Version: test.version}, test.payload, expiry)
			r := rdb.NewReader(bytes.NewReader(data), nil)
			e, err := r.Next()
			for err == nil && e.Kind != rdb.KindKey {
				e, err = r.Next()
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if string(e.Key) != "name" || e.Type != test.typ || string(e.Meta) != test.meta || test.typ == rdb.TypeHash && e.Encoding != codeHash || e.HasExpiry != (expiry >= 0) || e.HasExpiry && e.ExpireAt != expiry {
				t.Errorf("%s: %+v", name, e)
			}
			elements, err := r.Value(1000)
			var text []string
			for _, el := range elements {
				if test.typ == rdb.TypeHash {
					text = append(text, string(el.Field)+"="+string(el.Value))
				} else {
					text = append(text, string(el.Value))
				}
			}
			if fmt.Sprint(text) != test.want || err != nil {
				t.Errorf("%s: %v (%v), want %s", name, text, err, test.want)
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("%s: behind it: %v", name, err)
			}
		}
	}
	for n := 1; n < len(meta); n++ {
		if _, ok := metaLen([]byte(meta[:n])); ok {
			t.Errorf("metadata of %d bytes are whole", n)
		}
	}
}

func TestNew(t *testing.T) {
	opts := &redis.Options{}
	for want, cfg := range map[string]Config{
		"scan: Config.Options is required: use the options of a redis.Client, or redis.ParseURL": {},
		"scan: Config.Prefer is 7, which is none of the preferences":                             {Options: opts, Prefer: 7},
		"scan: a rate of Config is negative: 0 means no bound":                                   {Options: opts, KeysPerSecond: -1},
		"scan: Config.Batch is -1: it may be 1 to 100000, and 0 means 1000":                      {Options: opts, Batch: -1},
		"scan: a timeout of Config is negative":                                                  {Options: opts, StallTimeout: -1},
	} {
		if _, err := New(cfg); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	s, err := New(Config{Options: opts})
	if err != nil || s.cfg.Batch != DefaultBatch || s.cfg.StallTimeout != DefaultStallTimeout || s.cfg.ConnectTimeout != DefaultConnectTimeout {
		t.Errorf("%+v, %v", s, err)
	}
	if !strings.Contains(replication.Address(opts), ":6379") {
		t.Error("the default address")
	}
}
