package dumpfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/redis/go-redis/v9"
)

func TestNewSave(t *testing.T) {
	good := dumpfile.SaveConfig{Options: &redis.Options{}, Store: memory()}
	for want, change := range map[string]func(*dumpfile.SaveConfig){
		"": func(*dumpfile.SaveConfig) {},
		"dumpfile: SaveConfig.Options is required: use the options of a redis.Client, or redis.ParseURL": func(c *dumpfile.SaveConfig) { c.Options = nil },
		"dumpfile: SaveConfig.Store is required":                                                         func(c *dumpfile.SaveConfig) { c.Store = nil },
		"dumpfile: a timeout of SaveConfig is negative":                                                  func(c *dumpfile.SaveConfig) { c.StallTimeout = -1 },
		`dumpfile: SaveConfig.Prefix: "data" doesn't end in a slash`:                                     func(c *dumpfile.SaveConfig) { c.Prefix = "data" },
		`dumpfile: SaveConfig.Prefix: invalid object key "../x": a segment begins`:                       func(c *dumpfile.SaveConfig) { c.Prefix = "../x/" },
		`dumpfile: SaveConfig.Name: invalid object key "/etc/passwd": it has an empty`:                   func(c *dumpfile.SaveConfig) { c.Name = "/etc/passwd" },
		`dumpfile: SaveConfig.Format is "AOF": it is DF or RDB`:                                          func(c *dumpfile.SaveConfig) { c.Format = "aof" },
		"dumpfile: SaveConfig.Location: it has a user, a query or a fragment":                            func(c *dumpfile.SaveConfig) { c.Location = "s3://key:" + canary + "@bucket/p" },
		"dumpfile: SaveConfig.Location: it has a user, a query or a fragment: a":                         func(c *dumpfile.SaveConfig) { c.Location = "https://a.blob.core.windows.net/c?sig=" + canary },
		"dumpfile: SaveConfig.Location: it names no bucket":                                              func(c *dumpfile.SaveConfig) { c.Location = "s3:bucket" },
		`dumpfile: SaveConfig.Location: "https://example.org": it begins with s3://, gs://`:              func(c *dumpfile.SaveConfig) { c.Location = "https://example.org/" + canary },
	} {
		cfg := good
		change(&cfg)
		_, err := dumpfile.NewSave(cfg)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%v, want %s", err, want)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Error("the error holds a secret")
		}
	}
	for _, location := range []string{"s3://bucket", "s3://bucket/a/b", "gs://bucket/p", "https://account.blob.core.windows.net/c/p"} {
		cfg := good
		cfg.Location = location
		if _, err := dumpfile.NewSave(cfg); err != nil {
			t.Errorf("%s: %v", location, err)
		}
	}
}

// An old is a Redis 6.0 by its answers, which counts no saves and doesn't tell the time. What it saves is a file with the given ctime.
type old struct {
	*dragon
	saves     int
	last      time.Time
	inSave    int // so many looks show it saving
	rewriting int
	replies   []string // to BGSAVE, one after the other; then it begins
	scheduled bool
}

func startOld(t *testing.T) *old {
	o := &old{dragon: startDragon(t), last: time.Now().Add(-time.Hour)}
	o.answers = func(line string) string {
		switch {
		case line == "INFO":
			saving, rewriting := 0, 0
			if o.inSave > 0 {
				saving = 1
				if o.inSave--; o.inSave == 0 {
					o.save()
				}
			}
			if o.rewriting > 0 {
				rewriting = 1
				if o.rewriting--; o.rewriting == 0 && o.scheduled {
					o.inSave = 3
				}
			}
			return bulk(fmt.Sprintf("redis_version:6.0.16\r\nrun_id:1\r\nrole:master\r\nrdb_bgsave_in_progress:%d\r\nrdb_last_save_time:%d\r\nrdb_last_bgsave_status:ok\r\n"+
				"rdb_last_bgsave_time_sec:0\r\naof_rewrite_in_progress:%d\r\nlatest_fork_usec:100\r\ndb0:keys=1,expires=0\r\ntotal_commands_processed:%d\r\n",
				saving, o.last.Unix(), rewriting, o.executed))
		case strings.HasPrefix(line, "CONFIG GET dbfilename"):
			return "*2\r\n" + bulk("dbfilename") + bulk("dump.rdb")
		case strings.HasPrefix(line, "BGSAVE"):
			if len(o.replies) > 0 {
				reply := o.replies[0]
				o.replies = o.replies[1:]
				return reply
			}
			if strings.Contains(line, "SCHEDULE") && o.rewriting > 0 {
				o.scheduled = true
				return "+Background saving scheduled\r\n"
			}
			o.inSave = 3
			return "+Background saving started\r\n"
		}
		return ""
	}
	return o
}

// save writes the file.
func (o *old) save() {
	o.saves++
	o.last = time.Now()
	data := fmt.Sprintf("REDIS0009\xfa\x09redis-ver\x066.0.16\xfa\x05ctime\xc2%s\xfe\x00\x00\x03key\x05value\xff\x00\x00\x00\x00\x00\x00\x00\x00",
		[]byte{byte(o.last.Unix()), byte(o.last.Unix() >> 8), byte(o.last.Unix() >> 16), byte(o.last.Unix() >> 24)})
	file := filepath.Join(o.dir, "dump.rdb")
	o.check(os.WriteFile(file+".tmp", []byte(data), 0o600))
	o.check(os.Rename(file+".tmp", file))
}

// What servers answer to BGSAVE that aren't here: older ones, and those that can't fork.
func TestSaveReplies(t *testing.T) {
	for name, test := range map[string]struct {
		replies   []string
		rewriting int
		want      []string // the commands
		kind      error
		text      string // of the error; empty: it succeeds
	}{
		"started":        {nil, 0, []string{"BGSAVE"}, nil, ""},
		"in progress":    {[]string{"-ERR Background save already in progress\r\n", "-ERR Background save already in progress\r\n"}, 0, []string{"BGSAVE", "BGSAVE", "BGSAVE"}, nil, ""},
		"rewriting":      {nil, 4, []string{"BGSAVE SCHEDULE"}, nil, ""},
		"rewriting, too": {[]string{"-ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.\r\n"}, 0, []string{"BGSAVE", "BGSAVE SCHEDULE"}, nil, ""},
		"Redis 2.8":      {[]string{"-ERR Can't BGSAVE while AOF log rewriting is in progress\r\n"}, 0, []string{"BGSAVE", "BGSAVE"}, nil, ""},
		"can't fork":     {[]string{"-ERR\r\n"}, 0, []string{"BGSAVE"}, nil, "vm.overcommit_memory"},
		"anything":       {[]string{"-ERR " + canary + "\r\n"}, 0, []string{"BGSAVE"}, nil, "***"},
		"managed":        {[]string{"-ERR unknown command 'BGSAVE'\r\n"}, 0, []string{"BGSAVE"}, backup.ErrUnsupported, "managed services"},
		"cut":            {[]string{"cut"}, 0, []string{"BGSAVE"}, nil, "restarted"},
	} {
		t.Run(name, func(t *testing.T) {
			o := startOld(t)
			o.replies, o.rewriting = test.replies, test.rewriting
			s, _ := saverOfDragon(t, o.dragon, func(c *dumpfile.SaveConfig) { c.VisibleTimeout = 10 * time.Second })
			sn, err := s.Snapshot(t.Context())
			if test.text != "" {
				fails(t, name, err, test.kind, test.text)
			} else if err != nil {
				t.Fatal(err)
			} else if _, src := drain(t, sn); src.Engine != "redis" || src.Version != "6.0.16" || src.Time.Unix() != o.last.Unix() || src.Time.Nanosecond() != 0 {
				t.Errorf("source %+v, it saved at %v", src, o.last)
			}
			if got := o.asked("BGSAVE"); strings.Join(got, ", ") != strings.Join(test.want, ", ") {
				t.Errorf("asked for %q, want %q", got, test.want)
			}
		})
	}
}

// A save that others end is none.
func TestSaveEndedByOthers(t *testing.T) {
	for _, version := range testserver.All()[2:] { // BGSAVE CANCEL is Valkey's
		srv := testserver.Start(t, version)
		slow(t, srv, 200, 20_000)
		time.Sleep(1100 * time.Millisecond) // the server tells times in seconds
		s, _ := saverOf(t, srv, nil)
		result := inBackground(t.Context(), s)
		saveChild(t, srv)
		do(t, srv, "BGSAVE", "CANCEL")
		_, err := result()
		fails(t, version, err, backup.ErrTransient, "BGSAVE CANCEL")
	}
}
