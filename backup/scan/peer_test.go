package scan_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
	"github.com/redis/go-redis/v9"
)

// A peer answers as a server does that holds payloads, by their names.
type peer struct {
	info    string
	names   []string
	payload map[string]string
	expiry  int64 // of each key; -1 for none
	mget    bool  // MGET is known

	// change may answer a command in another way: then it returns the answer. It is called by one connection at a time.
	change func(connection int, args []string) string
	// limit is after how many bytes of answers the first connections are cut; 0: they aren't.
	limit, cuts int

	mu    sync.Mutex
	conns int
}

const unknown = "-ERR unknown command\r\n"

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

// start serves until the test ends.
func (p *peer) start(t *testing.T) *redis.Options {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ended := false
	open := map[net.Conn]bool{}
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		ended = true
		for conn := range open {
			conn.Close() // one that the scan has left would be waited for without end
		}
		p.mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns++
			n := p.conns
			if ended {
				conn.Close()
			}
			open[conn] = true
			p.mu.Unlock()
			wg.Go(func() {
				p.serve(n, conn)
				p.mu.Lock()
				defer p.mu.Unlock()
				conn.Close()
				delete(open, conn)
			})
		}
	})
	return &redis.Options{Addr: l.Addr().String()}
}

func (p *peer) serve(connection int, conn net.Conn) {
	in := resp.NewReader(conn, nil)
	out := bufio.NewWriter(conn)
	var queue []string
	multi := false
	sent := 0
	for {
		args, err := in.ReadCommand()
		if err != nil {
			return
		}
		p.mu.Lock()
		answer := p.answer(connection, args)
		cut, limit := connection <= p.cuts, p.limit
		p.mu.Unlock()
		switch command := strings.ToUpper(args[0]); {
		case command == "MULTI":
			multi, queue = true, nil
		case command == "EXEC":
			answer = fmt.Sprintf("*%d\r\n%s", len(queue), strings.Join(queue, ""))
			multi = false
		case multi:
			queue = append(queue, answer)
			answer = "+QUEUED\r\n"
		}
		if cut && sent+len(answer) > limit {
			out.WriteString(answer[:limit-sent])
			out.Flush()
			return
		}
		sent += len(answer)
		out.WriteString(answer)
		if in.Buffered() == 0 && out.Flush() != nil {
			return
		}
	}
}

func (p *peer) answer(connection int, args []string) string {
	if p.change != nil {
		if answer := p.change(connection, args); answer != "" {
			return answer
		}
	}
	switch strings.ToUpper(args[0]) {
	case "INFO":
		return bulk(p.info)
	case "MULTI", "SELECT":
		return "+OK\r\n"
	case "TIME":
		return "*2\r\n$10\r\n1700000000\r\n$6\r\n500000\r\n"
	case "SCAN":
		from, _ := strconv.Atoi(args[1])
		to := min(from+7, len(p.names))
		cursor := strconv.Itoa(to)
		if to == len(p.names) {
			cursor = "0"
		}
		answer := fmt.Sprintf("*2\r\n%s*%d\r\n", bulk(cursor), to-from)
		for _, name := range p.names[from:to] {
			answer += bulk(name)
		}
		return answer
	case "PEXPIRETIME", "PTTL":
		if _, ok := p.payload[args[1]]; !ok {
			return ":-2\r\n"
		}
		return fmt.Sprintf(":%d\r\n", p.expiry)
	case "DUMP":
		if payload, ok := p.payload[args[1]]; ok {
			return bulk(payload)
		}
		return "$-1\r\n"
	case "MGET":
		if p.mget {
			answer := fmt.Sprintf("*%d\r\n", len(args)-1)
			for _, name := range args[1:] {
				if value, ok := stringOf(p.payload[name]); ok {
					answer += bulk(value)
				} else {
					answer += "$-1\r\n"
				}
			}
			return answer
		}
	}
	return unknown
}

// stringOf returns the string that a payload holds, if it is one.
func stringOf(payload string) (string, bool) {
	if payload == "" || payload[0] != 0 {
		return "", false
	}
	body := payload[1 : len(payload)-10]
	if body[0] == 0x80 {
		return body[5:], true
	}
	return body[1:], true
}

// dragonfly returns a peer that answers as Dragonfly did.
func dragonfly(t *testing.T) *peer {
	t.Helper()
	file, err := os.ReadFile("testdata/dragonfly-1.40/dump-payloads.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{payload: map[string]string{}, expiry: -1}
	for line := range bytes.Lines(file) {
		var key struct {
			Key  string
			Dump string `json:"dump_b64"`
		}
		if err := json.Unmarshal(line, &key); err != nil {
			t.Fatal(err)
		}
		payload, err := base64.StdEncoding.DecodeString(key.Dump)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := p.payload[key.Key]; ok { // of another database
			key.Key += " once more"
		}
		p.names = append(p.names, key.Key)
		p.payload[key.Key] = string(payload)
	}
	p.info = fmt.Sprintf("redis_version:7.4.0\r\ndragonfly_version:df-v1.40.1\r\nrole:master\r\nrun_id:abc\r\nused_memory:1000000\r\ndb0:keys=%d,expires=0\r\n", len(p.names))
	return p
}

// scanner returns a Snapshotter of a peer.
func (p *peer) scanner(t *testing.T) *scan.Snapshotter {
	t.Helper()
	s, err := scan.New(scan.Config{Options: p.start(t), TempDir: t.TempDir(), Batch: 5, StallTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	scan.SetTuning(s, scan.Tuning{Group: 3, Pauses: []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}})
	return s
}

// values returns the values of a stream as they are in payloads, without a footer.
func values(t *testing.T, data []byte) (map[string]string, string) {
	t.Helper()
	r := rdb.NewReader(bytes.NewReader(data), nil)
	there := map[string]string{}
	for {
		e, err := r.Next()
		if err == io.EOF {
			return there, r.Dialect().String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		name := string(e.Key)
		payload, err := r.AppendRaw(nil, -1)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if _, ok := there[name]; ok {
			t.Errorf("%q is there twice", name)
		}
		there[name] = string(payload[:len(payload)-10])
	}
}

// holds fails the test unless a stream has the peer's keys and no others.
func (p *peer) holds(t *testing.T, data []byte, dialect string) {
	t.Helper()
	there, is := values(t, data)
	if is != dialect || len(there) != len(p.payload) {
		t.Errorf("there are %d keys in dialect %s, not %d in %s", len(there), is, len(p.payload), dialect)
	}
	for name, payload := range p.payload {
		if there[name] != payload[:len(payload)-10] {
			t.Errorf("%q is %q, not %q", name, there[name], payload[:len(payload)-10])
		}
	}
}

func TestDragonfly(t *testing.T) {
	for name, old := range map[string]bool{"PEXPIRETIME": false, "PTTL": true} {
		t.Run(name, func(t *testing.T) {
			p := dragonfly(t)
			if old {
				p.change = func(_ int, args []string) string {
					if args[0] == "PEXPIRETIME" {
						return unknown
					}
					return ""
				}
				p.expiry = 250
			}
			data, src, err := try(t, p.scanner(t))
			if err != nil {
				t.Fatal(err)
			}
			p.holds(t, data, "dragonfly:9")
			if err := rdb.Check(rdb.NewReader(read(data), nil), nil); err != nil {
				t.Error(err)
			}
			if src.Engine != "dragonfly" || src.Version != "1.40.1" || src.Method != "scan" || src.Scan.Listed != int64(len(p.names)) {
				t.Errorf("source %+v, %+v", src, src.Scan)
			}
			keys(t, data, func(e *rdb.Entry, _ string) {
				if e.HasExpiry != old || old && e.ExpireAt != 1_700_000_000_750 {
					t.Errorf("%s expires: %v at %d", e.Key, e.HasExpiry, e.ExpireAt)
				}
			})
		})
	}
}

// A connection that is cut after any byte is made again, and nothing is lost or there twice.
func TestCuts(t *testing.T) {
	whole := dragonfly(t)
	whole.names = whole.names[:12]
	for name := range whole.payload {
		if len(whole.payload[name]) > 100 || !contains(whole.names, name) {
			delete(whole.payload, name)
		}
	}
	whole.names = nil
	for name := range whole.payload {
		whole.names = append(whole.names, name)
	}
	whole.info = "redis_version:7.4.0\r\ndragonfly_version:df-v1.40.1\r\nrole:master\r\nrun_id:abc\r\ndb0:keys=9,expires=0\r\n"
	s := whole.scanner(t)
	failed, passed := 0, 0
	for limit := 1; limit < 3000; limit += 7 {
		whole.mu.Lock()
		whole.cuts, whole.limit = whole.conns+1, limit
		whole.mu.Unlock()
		data, _, err := try(t, s)
		if errors.Is(err, backup.ErrStalled) {
			t.Fatalf("cut after %d bytes: %v", limit, err) // each of the others would stand still for as long
		}
		if err != nil {
			failed++ // before the scan began
			continue
		}
		passed++
		whole.holds(t, data, "dragonfly:9")
	}
	if failed == 0 || passed < 200 {
		t.Errorf("%d failed and %d passed", failed, passed)
	}
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// footer makes a payload.
func footer(body string, version uint16) string {
	b := binary.LittleEndian.AppendUint16([]byte(body), version)
	return string(binary.LittleEndian.AppendUint64(b, crc64.Checksum(b)))
}

// What is wrong with a value makes the scan fail, and what isn't there is counted.
func TestAnswers(t *testing.T) {
	long := "\x00\x80\x00\x04\x00\x00" + strings.Repeat("v", 256<<10)
	for name, test := range map[string]struct {
		payload string
		answer  string // to the DUMP of the third key
		want    string // of the error
		kind    error
	}{
		"right":                  {payload: footer("\x00\x01x", 10)},
		"wrong checksum":         {payload: footer("\x00\x01x", 10)[:12] + "x", want: "checksum of the value of a key is wrong"},
		"wrong checksum, large":  {payload: strings.Replace(footer(long, 10), "vvv", "vwv", 1), want: "checksum of the value of a key is wrong"},
		"another version":        {payload: footer("\x00\x01x", 11), want: "of version 11 after others of version 10"},
		"another version, large": {payload: footer(long, 11), want: "of version 11 after others of version 10"},
		"large":                  {payload: footer(long, 10)},
		"too short":              {payload: "\x00\x01x", want: "payload of 3 bytes"},
		"memory":                 {answer: "-OOM command not allowed when used memory > 'maxmemory'.\r\n", want: "OOM"},
		"forbidden":              {answer: "-NOPERM No permissions to access a key\r\n", want: "may not read all keys", kind: backup.ErrPermission},
		"elsewhere":              {answer: "-MOVED 3 127.0.0.1:1\r\n"},
		"gone":                   {answer: "$-1\r\n"},
		"no bulk":                {answer: ":3\r\n", want: "a reply of kind", kind: resp.ErrProtocol},
		"no reply":               {answer: "?\r\n", want: "a reply can't begin with", kind: resp.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			p := &peer{names: []string{"a", "b", "c", "d"}, payload: map[string]string{}, expiry: 4_000_000_000_000,
				info: "redis_version:7.0.15\r\nrole:master\r\nrun_id:abc\r\ndb0:keys=4,expires=4\r\n"}
			for _, n := range p.names {
				p.payload[n] = footer("\x00\x01"+n, 10)
			}
			if test.payload != "" {
				p.payload["c"] = test.payload
			}
			p.change = func(_ int, args []string) string {
				if args[0] == "DUMP" && args[1] == "c" {
					return test.answer
				}
				return ""
			}
			data, src, err := try(t, p.scanner(t))
			if test.want != "" {
				var e *backup.SourceError
				if err == nil || !strings.Contains(err.Error(), test.want) || !errors.As(err, &e) || test.kind != nil && !errors.Is(err, test.kind) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if test.answer != "" {
				delete(p.payload, "c")
			}
			p.holds(t, data, "redis:10")
			if gone := name == "gone"; (src.Scan.Gone == 1) != gone || (src.Scan.Moved == 1) != (name == "elsewhere") || src.Scan.Listed != 4 {
				t.Errorf("counts %+v", src.Scan)
			}
		})
	}
}

// A server that is loading or busy for a while is waited for.
func TestBusyServer(t *testing.T) {
	p := &peer{names: []string{"a", "b"}, payload: map[string]string{"a": footer("\x00\x01a", 10), "b": footer("\x00\x01b", 10)}, expiry: -1,
		info: "redis_version:7.0.15\r\nrole:master\r\nrun_id:abc\r\ndb0:keys=2,expires=0\r\n"}
	busy := map[string]int{"SCAN": 2, "DUMP": 3}
	p.change = func(_ int, args []string) string {
		if n := busy[args[0]]; n > 0 && (len(args) < 2 || args[1] != "amber:probe") && args[len(args)-1] != "1" && args[len(args)-1] != "10" {
			busy[args[0]]--
			return "-BUSY Redis is busy running a script.\r\n"
		}
		return ""
	}
	data, _, err := try(t, p.scanner(t))
	if err != nil {
		t.Fatal(err)
	}
	p.holds(t, data, "redis:10")
	if busy["SCAN"]+busy["DUMP"] != 0 {
		t.Errorf("left %v", busy)
	}
}

// What a connection's loss hides of a key's type is counted when the key is read again.
func TestProcessChanges(t *testing.T) {
	for name, test := range map[string]struct {
		info string // of the server behind the second connection
		want string
	}{
		"same process":             {"run_id:abc\r\nmaster_replid:" + strings.Repeat("a", 40) + "\r\n", ""},
		"a replica of it":          {"run_id:def\r\nmaster_replid:" + strings.Repeat("a", 40) + "\r\n", ""},
		"a replica, promoted":      {"run_id:def\r\nmaster_replid:" + strings.Repeat("b", 40) + "\r\nmaster_replid2:" + strings.Repeat("a", 40) + "\r\n", ""},
		"a server with other data": {"run_id:def\r\nmaster_replid:" + strings.Repeat("b", 40) + "\r\nmaster_replid2:" + strings.Repeat("0", 40) + "\r\n", "another process with other data"},
	} {
		t.Run(name, func(t *testing.T) {
			const rest = "redis_version:7.0.15\r\nrole:master\r\ndb0:keys=60,expires=0\r\n"
			p := &peer{payload: map[string]string{}, expiry: -1, info: rest + "run_id:abc\r\nmaster_replid:" + strings.Repeat("a", 40) + "\r\n"}
			for i := range 60 {
				n := fmt.Sprint("key", i)
				p.names = append(p.names, n)
				p.payload[n] = footer("\x00\x04"+fmt.Sprintf("%04d", i), 10)
			}
			p.cuts, p.limit = 1, 2500
			var cursors []string
			p.change = func(connection int, args []string) string {
				if connection > 1 && args[0] == "INFO" {
					return bulk(rest + test.info)
				}
				if connection > 1 && args[0] == "SCAN" {
					cursors = append(cursors, args[1])
				}
				return ""
			}
			data, src, err := try(t, p.scanner(t))
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			p.holds(t, data, "redis:10")
			if src.Scan.Listed != 60 || len(cursors) == 0 || (cursors[0] == "0") != (name != "same process") {
				t.Errorf("counts %+v, cursors %q", src.Scan, cursors)
			}
		})
	}
}

// A value that was cut off before any of it was handed on is read again; that it has another type then is counted.
func TestCutValue(t *testing.T) {
	value := footer("\x00\x80\x00\x01\x86\xa0"+strings.Repeat("v", 100_000), 10)
	list := footer("\x01\x01\x80\x00\x01\x86\x9e"+strings.Repeat("l", 99_998), 10)
	for name, second := range map[string]string{"same type": value, "another type": list} {
		p := &peer{names: []string{"a", "b"}, payload: map[string]string{"a": footer("\x00\x01a", 10), "b": second}, expiry: -1,
			info: "redis_version:7.0.15\r\nrole:master\r\nrun_id:abc\r\ndb0:keys=2,expires=0\r\n", cuts: 1, limit: 250_000}
		// The version is found out with the first key there is.
		p.change = func(connection int, args []string) string {
			if connection == 1 && args[0] == "DUMP" && args[1] == "b" {
				p.limit = 50_000
				return bulk(value)
			}
			return ""
		}
		data, src, err := try(t, p.scanner(t))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p.holds(t, data, "redis:10")
		if src.Scan.Listed != 2 || (src.Scan.Changed == 1) != (name == "another type") {
			t.Errorf("%s: counts %+v", name, src.Scan)
		}
	}
}
