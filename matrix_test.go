package amber_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// A column of the matrix is a target and a method.
type column struct {
	name      string
	method    amber.Method
	options   *redis.Options
	contents  func(t *testing.T) map[string]string
	functions func(t *testing.T) []map[string]string // of each node
	oneDB     bool
	plain     bool // without RESTORE
	turn      int  // it takes the sources whose number leaves this one of its turns
	turns     int
}

// takes says whether the matrix has a cell of this column for a source.
func (to *column) takes(source int) bool {
	return source%to.turns == to.turn || os.Getenv("CAMPAIGN") != ""
}

// A cell says what came of one source in one target.
type cell struct{ keys, converted, lost, less, expired int64 }

func (c cell) String() string {
	s := fmt.Sprintf("%d / %d / %d", c.keys, c.converted, c.lost)
	if c.less > 0 {
		s += fmt.Sprintf("+%d", c.less)
	}
	return s
}

func (c *cell) add(o cell) {
	c.keys += o.keys
	c.converted += o.converted
	c.lost += o.lost
	c.less += o.less
	c.expired += o.expired
}

// columns starts the targets.
func columns(t *testing.T) (out []*column) {
	t.Helper()
	for i, version := range testserver.All() {
		for j, method := range []amber.Method{amber.MethodFeed, amber.MethodCommand} {
			s := testserver.Start(t, version, "--databases", "1000")
			c := s.Client(t)
			out = append(out, &column{version + " " + string(method), method, s.Options(),
				func(t *testing.T) map[string]string { return testserver.Snapshot(t, c) },
				func(t *testing.T) []map[string]string { return []map[string]string{testserver.Functions(t, c)} }, false, false, (i + j) % 3, 3})
		}
		// A user who may not use RESTORE, as on some managed services, has everything made by plain commands.
		s := testserver.Start(t, version, "--databases", "1000")
		s.AddUser(t, "plain", "CANARY-plain", "~*", "+@all", "-restore")
		c := s.Client(t)
		o := s.Options()
		o.Username, o.Password = "plain", "CANARY-plain"
		out = append(out, &column{version + " plain", amber.MethodCommand, o,
			func(t *testing.T) map[string]string { return testserver.Snapshot(t, c) },
			func(t *testing.T) []map[string]string { return []map[string]string{testserver.Functions(t, c)} }, false, true, (i + 2) % 3, 3})
	}
	for i, version := range []string{"redis-8.0", "valkey-9.1"} {
		cluster := testserver.StartCluster(t, version, 3, 0)
		var clients []*redis.Client
		for _, s := range cluster.Primaries() {
			clients = append(clients, s.Client(t))
		}
		out = append(out, &column{version + " cluster", amber.MethodCommand, cluster.Primaries()[0].Options(),
			func(t *testing.T) map[string]string { return cluster.Contents(t) },
			func(t *testing.T) (all []map[string]string) {
				for _, c := range clients {
					all = append(all, testserver.Functions(t, c))
				}
				return all
			}, true, false, i, 2})
	}
	return out
}

// Everything goes everywhere: every directory of fixtures and every live server into every server by feed, by command and by plain commands
// alone, and into clusters. What
// a target holds then is read by commands, and is what a server holds that loaded the source itself, or what the source's own server said;
// but for what the report says is lost, and for no key more or less. The table has, for each source and target, the keys that are there, those of
// them that were encoded anew, and those that the target can't hold; behind a plus sign those that are there without some detail.
//
// By default each source goes into every version once and in every way, and into one of the clusters; with CAMPAIGN=1 into all.
func TestMatrix(t *testing.T) {
	service := newService(t)
	dirs := []string{"rdb/testdata", "rdb/dfs/testdata"}
	if *matrixFixtures != "" {
		dirs = []string{*matrixFixtures}
	}
	sources := append(fixtureSources(t, service, dirs...), liveSources(t, service)...)
	targets := columns(t)
	var mu sync.Mutex
	cells := make(map[string]map[string]cell)
	t.Run("into", func(t *testing.T) {
		for _, to := range targets {
			t.Run(to.name, func(t *testing.T) {
				t.Parallel()
				for i, from := range sources {
					if !to.takes(i) {
						continue
					}
					t.Run(from.name, func(t *testing.T) {
						var sum cell
						for _, b := range from.backups {
							sum.add(to.restore(t, service, b))
						}
						mu.Lock()
						defer mu.Unlock()
						if cells[from.name] == nil {
							cells[from.name] = make(map[string]cell)
						}
						cells[from.name][to.name] = sum
					})
				}
			})
		}
	})
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "keys / converted / lost")
	for _, to := range targets {
		fmt.Fprint(w, "\t", to.name)
	}
	for i, from := range sources {
		fmt.Fprint(w, "\n", from.name)
		for _, to := range targets {
			if !to.takes(i) {
				fmt.Fprint(w, "\t")
				continue
			}
			c, ok := cells[from.name][to.name]
			if !ok {
				t.Errorf("%s into %s didn't run", from.name, to.name)
			}
			fmt.Fprint(w, "\t", c)
		}
	}
	fmt.Fprintln(w)
	w.Flush()
	t.Logf("%d sources, %d targets\n%s", len(sources), len(targets), &table)
}

// restore puts a backup into the target, in the place of what is there, and compares.
func (to *column) restore(t *testing.T, service *amber.Service, b *sourceBackup) cell {
	t.Helper()
	if !to.oneDB || len(b.DBs) == 0 || len(b.DBs) == 1 && b.DBs[0].Index == 0 {
		var expired int64
		for _, n := range b.expired {
			expired += n
		}
		return to.restoreOf(t, service, b, restore.Selection{}, maps.Clone(b.contents), expired)
	}
	// A cluster has one database: each of the backup's gets there by itself.
	var sum cell
	for _, db := range b.DBs {
		sum.add(to.restoreOf(t, service, b, restore.Selection{DBs: []int{db.Index}, MapDB: map[int]int{db.Index: 0}}, b.of(db.Index), b.expired[db.Index]))
	}
	if all := sum.keys + sum.expired + sum.lost; all != b.Keys {
		t.Errorf("%d keys of %d are accounted for", all, b.Keys)
	}
	return sum
}

func (to *column) restoreOf(t *testing.T, service *amber.Service, b *sourceBackup, sel restore.Selection, want map[string]string, expired int64) cell {
	t.Helper()
	q := amber.RestoreRequest{Backup: b.ID, To: to.options, Method: to.method, Listen: "127.0.0.1:0", Conflict: restore.Replace, Select: sel,
		NoSafetyBackup: true, Compare: restore.CompareAll}
	if to.method == amber.MethodCommand {
		q.Listen = ""
	}
	plan, err := service.PlanRestore(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	losing := false
	for _, p := range plan.Verdict.Points {
		if p.Level == restore.Warn {
			q.Accept = append(q.Accept, p.Name)
			losing = losing || slices.ContainsFunc(plan.Report.Losses, func(l restore.LossReport) bool { return l.Name == p.Name })
		}
	}
	if losing {
		// Nothing is lost without consent.
		without := q
		without.Accept = nil
		if _, err := service.Restore(t.Context(), without); !errors.Is(err, restore.ErrNotAccepted) {
			t.Errorf("without consent to losses: %v", err)
		}
	}
	rep, err := service.Restore(t.Context(), q)
	if err != nil {
		t.Errorf("%d parts, %d keys: %v", len(b.Parts), b.Keys, err)
		return cell{}
	}
	got := to.contents(t)
	if b.blur {
		want, got = blurred(want), blurred(got)
	}
	c := cell{converted: rep.Converted}
	var skipped int64
	reference := maps.Clone(want)
	for _, l := range rep.Losses {
		if l.Name == "search-index" || l.Name == "journal" { // which are no keys
			continue
		}
		n := testserver.Lose(want, l.Name)
		if l.Skipped > 0 && n != l.Skipped || strings.HasSuffix(l.Name, "expiry") && n != l.Count {
			t.Errorf("%d keys lose something by the report, %d of them all, as %s, and %d do", l.Count, l.Skipped, l.Name, n)
		}
		skipped += l.Skipped
		if l.Skipped > 0 {
			c.lost += n
		} else {
			c.less += n
		}
		for key := range reference {
			if _, ok := want[key]; !ok && sel.MapDB == nil && len(l.Keys) < 10 && l.Skipped > 0 && !slices.Contains(l.Keys, key) {
				t.Errorf("%q is lost, and the report has %q", key, l.Keys)
			}
		}
		reference = maps.Clone(want)
	}
	var owing int64 // streams that lose pending entries
	if to.plain {
		var more int64
		want, owing = plainly(want)
		if got, more = plainly(got); more > 0 {
			t.Errorf("%d streams of the target have pending entries without an entry", more)
		}
		lost := slices.IndexFunc(rep.Losses, func(l restore.LossReport) bool { return l.Name == "stream-pending" })
		if owing > 0 && (lost < 0 || rep.Losses[lost].Count != owing) || owing == 0 && lost >= 0 {
			t.Errorf("%d streams lose pending entries, and the report says %+v", owing, rep.Losses)
		}
		c.less += owing
	}
	if diff := testserver.Diff(want, got); diff != "" {
		t.Errorf("%d parts of dialect %s, as %s: %s", len(b.Parts), b.Parts[0].Dialect, rep.Dialect, diff)
	}
	if sum := rep.Keys + rep.Expired + rep.Filtered + skipped; sum != b.Keys || rep.Keys != int64(len(want)) || rep.Expired != expired || rep.Skipped != 0 || rep.Converted > rep.Keys {
		t.Errorf("the backup has %d keys, %d of them expired; the target has %d; the report accounts for %d: %+v", b.Keys, expired, len(got), sum, rep)
	}
	for _, functions := range to.functions(t) {
		if !maps.Equal(functions, b.functions) || rep.Functions != int64(len(functions)) {
			t.Errorf("the libraries are %q, and %d by the report, want %q", functions, rep.Functions, b.functions)
		}
	}
	if gone := rep.Proof.Expired + rep.Proof.Changed; rep.Proof.Compared != rep.Keys || gone != owing {
		t.Errorf("of %d keys %d were compared, and %d had gone", rep.Keys, rep.Proof.Compared, gone)
	}
	c.keys, c.expired = rep.Keys, rep.Expired
	return c
}

// plainly takes from contents what plain commands can't make, and what the report says of it: when consumers were seen, the sign of zero in
// small sorted sets, what an empty stream remembers of its first entry, and pending entries whose entry was deleted. It tells of how many
// streams the last is.
func plainly(contents map[string]string) (out map[string]string, owing int64) {
	out = make(map[string]string, len(contents))
	for key, text := range contents {
		switch typ, _, _ := strings.Cut(text, "\n"); typ {
		case "zset":
			text = strings.ReplaceAll(text, "\n-0 ", "\n0 ")
		case "stream":
			text = seen.ReplaceAllString(text, "")
			text = strings.ReplaceAll(text, `recorded-first-entry-id="18446744073709551615-18446744073709551615"`, `recorded-first-entry-id="0-0"`)
			without := text
			for _, list := range owed.FindAllString(text, -1) {
				left := strings.Join(slices.DeleteFunc(owes.FindAllString(list, -1), func(pending string) bool {
					id, _, _ := strings.Cut(pending[1:], " ")
					return !strings.Contains(text, "\n"+id+" [")
				}), " ")
				n := strings.Count(left, "[")
				without = strings.Replace(without, list, fmt.Sprintf(` pel-count="%d" pending="[%s]"`, n, left), 1)
			}
			if without != text {
				owing++
			}
			text = without
		}
		out[key] = text
	}
	return out, owing
}

var (
	seen = regexp.MustCompile(` seen-time="[^"]*"`)
	owed = regexp.MustCompile(` pel-count="[0-9]+" pending="\[[^\n]*\]"`)
	owes = regexp.MustCompile(`\[[0-9]+-[0-9]+ [^\]]*\]`)
)
