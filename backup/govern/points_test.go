package govern

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/testserver"
)

// infoOf is the INFO of a real server under load, with some of its fields as given.
func infoOf(t *testing.T, version string, fields ...string) resp.Info {
	t.Helper()
	text, err := os.ReadFile("testdata/" + version + ".info")
	if err != nil {
		t.Fatal(err)
	}
	info := resp.ParseInfo(string(text))
	if info["used_memory"] == "" || info["rdb_last_bgsave_status"] == "" || info["role"] == "" {
		t.Fatalf("%s.info lacks something: %v", version, info)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		info[name] = value
	}
	return info
}

func levels(points []Point) string {
	var out []string
	for _, p := range points {
		if p.Level != Pass {
			out = append(out, p.Name+" "+string(p.Level))
		}
	}
	return strings.Join(out, ", ")
}

func TestPoints(t *testing.T) {
	const mib = 1 << 20
	gib := func(n int) string { return fmt.Sprint(n << 30) }
	type change func(f *facts)
	for _, test := range []struct {
		name   string
		fields []string
		change change
		want   string // of Redis and Valkey
		seen   string // in one of the points
	}{
		{name: "ordinary"},
		{name: "saving", fields: []string{"rdb_bgsave_in_progress:1", "rdb_current_bgsave_time_sec:12"}, want: "fork-running wait", seen: "saving already, for 12 s"},
		{name: "rewriting", fields: []string{"aof_rewrite_in_progress:1"}, want: "fork-running wait", seen: "append-only"},
		{name: "about to rewrite", fields: []string{"aof_rewrite_scheduled:1"}, want: "fork-running wait", seen: "about to"},
		{name: "module", fields: []string{"module_fork_in_progress:1"}, want: "fork-running wait", seen: "module"},
		{name: "loading", fields: []string{"loading:1", "loading_eta_seconds:9"}, want: "fork-running wait", seen: "loading"},
		{name: "loading, scan", fields: []string{"loading:1"}, change: func(f *facts) { f.method = "scan" }, want: "fork-running wait", seen: "loading"},
		{name: "saving, scan", fields: []string{"rdb_bgsave_in_progress:1", "rdb_last_bgsave_status:err"}, change: func(f *facts) { f.method = "scan" }},
		{name: "replica waits", fields: []string{"slave0:ip=10.0.0.1,port=6379,state=wait_bgsave,offset=0,lag=0"}, want: "fork-running wait", seen: "wait_bgsave"},
		{name: "second replica gets it", fields: []string{"slave1:ip=10.0.0.1,port=6379,state=send_bulk,offset=0,lag=0"}, want: "fork-running wait", seen: "send_bulk"},
		{name: "last save failed", fields: []string{"rdb_last_bgsave_status:err"}, want: "last-save fail", seen: "stop-writes-on-bgsave-error"},
		{name: "last save unknown", fields: []string{"rdb_last_bgsave_status:"}, want: "last-save warn"},

		{name: "12 GiB of 16", fields: []string{"used_memory_rss:" + gib(12), "total_system_memory:" + gib(16)}},
		{name: "15.5 GiB of 16, nothing written", fields: []string{"used_memory_rss:" + fmt.Sprint(31<<29), "total_system_memory:" + gib(16)},
			change: func(f *facts) { f.writes = 0 }, want: "memory warn"},
		{name: "12 GiB of 16, the last save took 5", fields: []string{"used_memory_rss:" + gib(12), "total_system_memory:" + gib(16), "rdb_last_cow_size:" + gib(5)},
			want: "memory fail", seen: "took 5.0 GiB"},
		{name: "12 GiB of 16, the last rewrite took 5", fields: []string{"used_memory_rss:" + gib(12), "total_system_memory:" + gib(16), "aof_last_cow_size:" + gib(5)},
			want: "memory fail"},
		{name: "12 GiB of 16, 30 MiB a second", fields: []string{"used_memory_rss:" + gib(12), "used_memory:" + gib(12), "total_system_memory:" + gib(16)},
			change: func(f *facts) { f.writes = 30 * mib }, want: "memory fail", seen: "30.0 MiB a second"},
		{name: "12 GiB of 16, 10 MiB a second", fields: []string{"used_memory_rss:" + gib(12), "used_memory:" + gib(12), "total_system_memory:" + gib(16)},
			change: func(f *facts) { f.writes = 10 * mib }, want: "memory warn"},
		{name: "12 GiB of 16, 10 MiB a second, which takes long", fields: []string{"used_memory_rss:" + gib(12), "used_memory:" + gib(12), "total_system_memory:" + gib(16)},
			change: func(f *facts) { f.writes, f.expected = 10*mib, time.Hour }, want: "memory fail"},
		{name: "12 GiB of 16, 1 MiB a second, read slowly", fields: []string{"used_memory_rss:" + gib(12), "used_memory:" + gib(12), "total_system_memory:" + gib(16)},
			change: func(f *facts) { f.writes, f.limits.BytesPerSecond = 1*mib, 1*mib }, want: "memory fail"},
		{name: "more resident than there is", fields: []string{"used_memory_rss:" + gib(17), "total_system_memory:" + gib(16)}, want: "memory fail", seen: "0 B are free"},
		{name: "container", change: func(f *facts) { f.limits.Memory = 40 * mib }, want: "memory fail", seen: "container"},
		{name: "memory unknown", fields: []string{"total_system_memory:0"}, want: "memory warn"},
		{name: "memory, scan", change: func(f *facts) { f.limits.Memory, f.method = 40*mib, "scan" }},

		{name: "slow fork without a limit", fields: []string{"latest_fork_usec:97000000"}},
		{name: "slow fork", fields: []string{"latest_fork_usec:97000000"}, change: func(f *facts) { f.limits.Fork = time.Second }, want: "fork-time fail", seen: "1m37s"},
		{name: "slow fork of a replica", fields: []string{"latest_fork_usec:97000000", "role:slave"}, change: func(f *facts) { f.limits.Fork = time.Second }},

		{name: "slow", change: func(f *facts) { f.ping, f.limits.Latency = 51*time.Millisecond, 50*time.Millisecond }, want: "latency wait", seen: "51ms"},
		{name: "slow without a limit", change: func(f *facts) { f.ping = time.Minute }},
		{name: "latency unknown", change: func(f *facts) { f.ping = 0 }, want: "latency warn"},

		{name: "buffer isn't filled", change: func(f *facts) { f.writes, f.buffer = 1<<40, bufferLimit{hard: 1} }, fields: []string{"used_memory:1", "used_memory_rss:1"}},
		{name: "buffer of 1 MiB", change: func(f *facts) {
			f.noRDBOnly, f.writes, f.expected, f.buffer = true, 200<<10, 10*time.Second, bufferLimit{hard: mib}
		}, want: "buffer wait", seen: "takes 2.0 MiB"},
		{name: "buffer of 1 MiB, save", change: func(f *facts) {
			f.noRDBOnly, f.writes, f.expected, f.buffer, f.method = true, 200<<10, 10*time.Second, bufferLimit{hard: mib}, "save"
		}},
		{name: "buffer that is soft for long enough", change: func(f *facts) {
			f.noRDBOnly, f.writes, f.expected, f.buffer = true, 1*mib, 100*time.Second, bufferLimit{hard: 256 * mib, soft: 64 * mib, softFor: time.Minute}
		}},
		{name: "buffer that is soft for too short", change: func(f *facts) {
			f.noRDBOnly, f.writes, f.expected, f.buffer = true, 1*mib, 130*time.Second, bufferLimit{hard: 256 * mib, soft: 64 * mib, softFor: time.Minute}
		}, want: "buffer wait"},
		{name: "buffer without a limit", change: func(f *facts) { f.noRDBOnly, f.writes, f.expected = true, 1<<30, time.Second }, want: ""},
		{name: "INFO is not allowed", change: func(f *facts) { f.info = nil }, want: "fork-running warn", seen: "+info"},
	} {
		for _, version := range testserver.All() {
			f := &facts{info: infoOf(t, version, test.fields...), ping: time.Millisecond, writes: 2 * mib}
			f.engine, f.version, _ = strings.Cut(version, "-")
			if test.change != nil {
				test.change(f)
			}
			points := f.points()
			if got := levels(points); got != test.want {
				t.Errorf("%s, %s: %q, want %q: %+v", test.name, version, got, test.want, points)
			}
			if text := fmt.Sprintf("%+v", points); !strings.Contains(text, test.seen) {
				t.Errorf("%s, %s: nothing tells of %q: %s", test.name, version, test.seen, text)
			}
			for _, p := range points {
				if p.Seen == "" || p.Level != Pass && p.Hint == "" {
					t.Errorf("%s, %s: a point lacks words: %+v", test.name, version, p)
				}
			}
		}
	}
}

// A Dragonfly doesn't fork, whatever the method is called.
func TestPointsOfDragonfly(t *testing.T) {
	for _, method := range []string{"flows", "scan", ""} {
		f := &facts{info: infoOf(t, "dragonfly-1.40", "rdb_bgsave_in_progress:1", "rdb_last_bgsave_status:err"), engine: "dragonfly", version: "1.40.2", method: method, ping: time.Millisecond}
		if got := levels(f.points()); got != "" {
			t.Errorf("method %q: %s", method, got)
		}
		f.info["loading"] = "1"
		if got := levels(f.points()); got != "fork-running wait" {
			t.Errorf("method %q, loading: %s", method, got)
		}
	}
}

// Only Redis before 6.2 keeps for a replica that wants the snapshot alone what is written meanwhile.
func TestBuffered(t *testing.T) {
	for _, test := range []struct {
		engine, version, method string
		want                    bool
	}{
		{"redis", "2.8.24", "replica", true}, {"redis", "6.0.16", "", true}, {"redis", "6.2.0", "replica", false}, {"redis", "7.0.15", "replica", false},
		{"redis", "6.0.16", "save", false}, {"redis", "6.0.16", "scan", false}, {"valkey", "8.1.1", "replica", false}, {"", "", "replica", false},
		{"redis", "unstable", "replica", false}, {"dragonfly", "1.40", "flows", false},
	} {
		f := &facts{engine: test.engine, version: test.version, method: test.method}
		if got := f.buffered(); got != test.want {
			t.Errorf("%s %s by %q: %v", test.engine, test.version, test.method, got)
		}
	}
}

func TestParseBuffer(t *testing.T) {
	for text, want := range map[string]string{
		"normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60": "{268435456 67108864 60000000000 false} true",
		"normal 0 0 0 replica 1048576 0 0 pubsub 33554432 8388608 60":         "{1048576 0 0 false} true",
		"normal 0 0 0 slave 0 0 0":                                            "{0 0 0 false} true",
		"normal 0 0 0 pubsub 33554432 8388608 60":                             "{0 0 0 false} false",
		"normal 0 0 0 slave 1 2":                                              "{0 0 0 false} false",
		"normal 0 0 0 slave -1 2 3":                                           "{0 0 0 false} false",
		"normal 0 0 0 slave 1 2 99999999999999":                               "{0 0 0 false} false",
		"normal 0 0 0 slave 256mb 64mb 60":                                    "{0 0 0 false} false",
		"":                                                                    "{0 0 0 false} false",
	} {
		b, ok := parseBuffer(text)
		if got := fmt.Sprint(b, ok); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestPercentile(t *testing.T) {
	var d []time.Duration
	for i := range 200 {
		d = append(d, time.Duration(200-i))
	}
	for n, want := range map[int]time.Duration{0: 0, 1: 200, 2: 200, 100: 199, 200: 198} {
		if got := p99(d[:n]); got != want {
			t.Errorf("of %d: %d, want %d", n, got, want)
		}
	}
}
