package command_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/redis/go-redis/v9"
)

// TestExpiryThatWasPutOff: a key that was to expire long since, and was given longer to live by a command, is there; one that wasn't is not. Commands that
// compare the expiry that they give with the one that is there find the one of then.
func TestExpiryThatWasPutOff(t *testing.T) {
	past := time.Now().Add(-time.Hour).UnixMilli()
	soon := time.Now().Add(time.Hour).UnixMilli()
	file := commandsPart(words("SELECT 0"),
		words(fmt.Sprintf("SET kept a PXAT %d", past)), words("PERSIST kept"),
		words(fmt.Sprintf("SET longer a PXAT %d", past)), words(fmt.Sprintf("PEXPIREAT longer %d", soon)),
		words(fmt.Sprintf("SET gone a PXAT %d", past)),
		words(fmt.Sprintf("SET seconds a EXAT %d", past/1000)), words(fmt.Sprintf("EXPIREAT seconds %d", soon/1000)),
		words(fmt.Sprintf("SET greater a PXAT %d", soon)), words("PEXPIREAT greater 4102444800000 GT"),
		words("SET less a PXAT 4102444800000"), words(fmt.Sprintf("EXPIREAT less %d LT", soon/1000)), words(fmt.Sprintf("PEXPIREAT less %d LT", soon)),
		words("RPUSH list a"), words(fmt.Sprintf("EXPIREAT list %d", past/1000)),
		words(fmt.Sprintf("SET later a PXAT %d", 4102444800000)), words("GETEX seconds PERSIST"), words(fmt.Sprintf("GETEX seconds PXAT %d", soon)))
	stream := flow(t, fmt.Sprintf("+kept a %d", past), fmt.Sprintf("+longer a %d", past), fmt.Sprintf("+gone a %d", past), "PERSIST kept", fmt.Sprintf("PEXPIREAT longer %d", soon),
		fmt.Sprintf("SET seconds a PXAT %d", soon), "SET later a PXAT 4102444800000", fmt.Sprintf("SET greater a PXAT %d", soon), "PEXPIREAT greater 4102444800000 GT",
		"SET less a PXAT 4102444800000", fmt.Sprintf("PEXPIREAT less %d LT", soon/1000*1000))
	for _, data := range [][]byte{file, stream} {
		b := keep(t, data)
		for i, version := range testserver.All() {
			target := testserver.Start(t, version)
			c := target.Client(t)
			opts := target.Options()
			if i%2 == 1 { // plain commands do, too
				target.AddUser(t, "restorer", "CANARY-7", "~*", "&*", "+@all", "-restore")
				opts.Username, opts.Password = "restorer", "CANARY-7"
			}
			if _, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, opts, nil), nil); err != nil {
				t.Fatal(err)
			}
			for key, want := range map[string]int64{"kept": -1, "longer": soon, "gone": -2, "seconds": soon, "list": -2, "later": 4102444800000, "greater": 4102444800000, "less": soon / 1000 * 1000} {
				if got, err := c.Do(t.Context(), "PEXPIRETIME", key).Int64(); got != want || err != nil {
					t.Errorf("%s: %s expires at %d, want %d (%v)", version, key, got, want, err)
				}
			}
		}
	}
}

// TestFieldExpiryThatWasPutOff: fields of hashes that were to expire long since, in the base of an append-only file or by its commands, and were given
// longer to live by a later command, are there, and those that weren't are not. Some of the hashes are small, others have thousands of fields.
func TestFieldExpiryThatWasPutOff(t *testing.T) {
	t.Parallel()
	for i, version := range []string{"redis-8.0", "valkey-9.1"} {
		for ttl := time.Second; ; ttl *= 2 {
			files, due, want := prolonged(t, version, ttl)
			if files == nil {
				if ttl > time.Minute {
					t.Fatalf("%s: the commands take longer than %v", version, ttl)
				}
				continue // the fields were gone before they were given longer to live
			}
			testserver.Eventually(t, 2*ttl+time.Second, "the first expiry has passed", func() error {
				if time.Now().Before(due) {
					return fmt.Errorf("it is at %v", due)
				}
				return nil
			})
			b := keep(t, files...)
			for _, to := range []string{version, []string{"valkey-9.1", "redis-8.0"}[i]} {
				target := testserver.Start(t, to)
				rep, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, target.Options(), nil), nil)
				if err != nil {
					t.Fatalf("%s into %s: %v", version, to, err)
				}
				if len(rep.Losses) != 1 || rep.Losses[0].Name != "field-expiry" || !slices.Equal(rep.Losses[0].Keys, []string{"0/far"}) {
					t.Errorf("%s into %s: it loses %+v", version, to, rep.Losses)
				}
				c := target.Client(t)
				got := hashes(t, c)
				if !maps.EqualFunc(got, want, maps.Equal[map[string]string, map[string]string]) {
					for name := range want {
						if !maps.Equal(got[name], want[name]) {
							t.Errorf("%s into %s: hash %s has %d fields, want %d: %.300v; want %.300v", version, to, name, len(got[name]), len(want[name]), got[name], want[name])
						}
					}
					t.Errorf("%s into %s: it has the hashes %v, want %v", version, to, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
				}
			}
			break
		}
	}
}

// prolonged returns an append-only directory in which fields that expire after ttl are given longer to live, the time at which they would have expired, and the
// hashes as they are once that has passed. It returns nil if the server took longer.
func prolonged(t *testing.T, version string, ttl time.Duration) (files [][]byte, due time.Time, want map[string]map[string]string) {
	t.Helper()
	s := testserver.Start(t, version, "--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
	c := s.Client(t)
	do := func(line string, more ...any) {
		t.Helper()
		if err := c.Do(t.Context(), append(words(line), more...)...).Err(); err != nil && time.Now().Before(due) {
			t.Fatal(line, err)
		}
	}
	var many, pairs []any
	for n := range 3000 {
		many = append(many, fmt.Sprint("f", n))
		pairs = append(pairs, fmt.Sprint("f", n), n)
	}
	due = time.Now().Add(ttl)
	at, later, never := due.UnixMilli(), due.Add(time.Hour).UnixMilli(), int64(4102444800000)
	do("HSET small kept a longer b counter 41 gone d stays e")
	do(fmt.Sprintf("HPEXPIREAT small %d FIELDS 4 kept longer counter gone", at))
	do("HSET moved kept a gone b")
	do(fmt.Sprintf("HPEXPIREAT moved %d FIELDS 2 kept gone", at))
	do("HSET vanishes a b")
	do(fmt.Sprintf("HPEXPIREAT vanishes %d FIELDS 1 a", at))
	do("HSET lasting a b")
	do(fmt.Sprintf("HPEXPIREAT lasting %d FIELDS 1 a", never))
	do("HSET far a b")
	do(fmt.Sprintf("HPEXPIREAT far %d FIELDS 1 a", int64(1<<45+5)))
	var long []any // names
	for n := range 900 {
		long = append(long, fmt.Sprint("f", n, strings.Repeat("x", 20_000)), n)
	}
	do("HSET long", long...)
	do(fmt.Sprintf("HPEXPIREAT long %d FIELDS 1", later), long[0])
	for n := range 250 {
		do(fmt.Sprintf("HSET one:%d a b c d", n))
		do(fmt.Sprintf("HPEXPIREAT one:%d %d FIELDS 2 a c", n, at))
	}
	do("HSET large", pairs...)
	do(fmt.Sprintf("HPEXPIREAT large %d FIELDS 3000", at), many...)
	rewrite(t, c)
	do("HPERSIST small FIELDS 1 kept")
	do(fmt.Sprintf("HPEXPIREAT small %d GT FIELDS 1 longer", later))
	do("HINCRBY small counter 1")
	do("HPERSIST small FIELDS 1 counter")
	do("HPERSIST moved FIELDS 1 kept")
	do("RENAME moved {elsewhere}")
	do(fmt.Sprintf("HPEXPIREAT lasting %d LT FIELDS 1 a", later))
	for n := range 250 {
		do(fmt.Sprintf("HPEXPIREAT one:%d %d FIELDS 1 a", n, later))
	}
	do("HPERSIST large FIELDS 1000", many[:1000]...)
	do(fmt.Sprintf("HPEXPIREAT large %d FIELDS 1000", later/1000*1000), many[1000:2000]...)
	do("HSET after x y z w")
	do(fmt.Sprintf("HEXPIREAT after %d FIELDS 2 x z", at/1000+1)) // in whole seconds
	do("HPERSIST after FIELDS 1 x")
	if time.Now().After(due) {
		return nil, due, nil
	}
	do("SET end 1")
	files = appended(t, s)
	due = due.Add(time.Second)
	want = map[string]map[string]string{
		"small":       {"kept": "a -1", "longer": fmt.Sprint("b ", later), "counter": "42 -1", "stays": "e -1"},
		"{elsewhere}": {"kept": "a -1"},
		"lasting":     {"a": fmt.Sprint("b ", later)},
		"far":         {"a": fmt.Sprint("b ", int64(1<<45-1))},
		"large":       {},
		"after":       {"x": "y -1"},
	}
	want["long"] = map[string]string{long[0].(string): fmt.Sprint("0 ", later)}
	for n := 2; n < len(long); n += 2 {
		want["long"][long[n].(string)] = fmt.Sprint(long[n+1], " -1")
	}
	for n := range 250 {
		want[fmt.Sprint("one:", n)] = map[string]string{"a": fmt.Sprint("b ", later)}
	}
	for n := range 2000 {
		expires := int64(-1)
		if n >= 1000 {
			expires = later / 1000 * 1000
		}
		want["large"][fmt.Sprint("f", n)] = fmt.Sprint(n, " ", expires)
	}
	return files, due, want
}

// hashes returns all hashes of a server, with the value of each field and when it expires.
func hashes(t *testing.T, c *redis.Client) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	names, err := c.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if c.Type(t.Context(), name).Val() != "hash" {
			continue
		}
		values, err := c.HGetAll(t.Context(), name).Result()
		if err != nil {
			t.Fatal(err)
		}
		out[name] = map[string]string{}
		for field, value := range values {
			at, err := c.HPExpireTime(t.Context(), name, field).Result()
			if err != nil || len(at) != 1 {
				t.Fatal(at, err)
			}
			out[name][field] = fmt.Sprint(value, " ", at[0])
		}
	}
	return out
}

// TestPuttingOff: who may not use what it takes to bring expiries back is told before anything is written; a field that is to expire after 3084 expires
// then, which is reported.
func TestPuttingOff(t *testing.T) {
	t.Parallel()
	// Where fields don't expire, too.
	old := testserver.Start(t, "redis-7.0")
	old.AddUser(t, "restorer", "CANARY-7", "~*", "&*", "+@all", "-pexpireat")
	opts := old.Options()
	opts.Username, opts.Password = "restorer", "CANARY-7"
	b := keep(t, commandsPart(words("SELECT 0"), words("SET a 1")))
	if _, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, opts, nil), nil); !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), "+pexpireat") {
		t.Errorf("without the right to pexpireat: %v", err)
	}
	s := testserver.Start(t, "redis-8.0")
	c := s.Client(t)
	b = keep(t, commandsPart(words("SELECT 0"), words("HSET h a 1 b 2"), words(fmt.Sprintf("HPEXPIREAT h %d FIELDS 1 a", 1<<45+5)), words(fmt.Sprintf("HPEXPIREAT h %d FIELDS 1 b", 1<<45-1)),
		words("HSET seconds a 1 b 2"), words("HEXPIREAT seconds 1 FIELDS 2 a b"), words("HPERSIST seconds FIELDS 1 a"),
		words("SET gone old"), words("PEXPIREAT gone -5"), words("SETNX gone new")))
	for _, rule := range []string{"pexpiretime", "hpexpiretime", "hpexpireat", "hscan", "pexpireat", "scan", "renamenx"} {
		s.AddUser(t, "restorer", "CANARY-7", "~*", "&*", "+@all", "-"+rule)
		opts := s.Options()
		opts.Username, opts.Password = "restorer", "CANARY-7"
		if _, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, opts, nil), nil); !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), "+"+rule) {
			t.Errorf("without the right to %s: %v", rule, err)
		}
		if got := testserver.Snapshot(t, c); len(got) > 0 {
			t.Errorf("without the right to %s the target was touched: %v", rule, got)
		}
	}
	rep, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, s.Options(), nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Losses) != 1 || rep.Losses[0].Name != "field-expiry" || rep.Losses[0].Count != 1 || !slices.Equal(rep.Losses[0].Keys, []string{"0/h"}) {
		t.Errorf("the losses are %+v", rep.Losses)
	}
	last := fmt.Sprint(1<<45 - 1)
	if got := hashes(t, c); len(got) != 2 || !maps.Equal(got["h"], map[string]string{"a": "1 " + last, "b": "2 " + last}) || !maps.Equal(got["seconds"], map[string]string{"a": "1 -1"}) {
		t.Errorf("it holds the hashes %v", got)
	}
	if got := c.Get(t.Context(), "gone").Val(); got != "new" { // what expires before 1970 is deleted at once
		t.Errorf("a key that was created after another had gone is %q", got)
	}
}

// TestMergedExpiry: where keys are merged with what a target holds, so that no command is executed, every key expires when it is to. Of a Dragonfly's flows that come
// straight from there nobody knows before whether there are commands in them.
func TestMergedExpiry(t *testing.T) {
	t.Parallel()
	soon := time.Now().Add(time.Hour).UnixMilli()
	l := &live{backup: &catalog.Backup{Format: catalog.Format, ID: "20261127T221700.123Z-k7f3", Parts: []catalog.Part{{Name: "a"}},
		Source: catalog.Source{Engine: "dragonfly", Method: "flows"}},
		data: map[string][]byte{"a": flow(t, fmt.Sprintf("+soon a %d", soon), "+later a 4102444800000", "+stays a")}}
	for _, conflict := range []restore.Conflict{restore.IntoEmpty, restore.Replace, restore.MergeOverwrite, restore.MergeSkip} {
		target := testserver.Start(t, "valkey-8.1")
		c := target.Client(t)
		own := int64(-2)
		if conflict.Merges() {
			own = -1
			if err := c.Set(t.Context(), "own", "1", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := restore.Copy(t.Context(), l, loaderFor(t, target.Options(), nil), &restore.Options{Conflict: conflict, Accept: []string{"journal"}}, restore.CopyConfig{TempDir: t.TempDir()}); err != nil {
			t.Errorf("%q: %v", conflict, err)
		}
		for key, want := range map[string]int64{"soon": soon, "later": 4102444800000, "stays": -1, "own": own} {
			if got, err := c.Do(t.Context(), "PEXPIRETIME", key).Int64(); got != want || err != nil {
				t.Errorf("%q: %s expires at %d, want %d (%v)", conflict, key, got, want, err)
			}
		}
	}
}
