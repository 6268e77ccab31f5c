package amber_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/filestore"
)

// An origin is a data store that snapshots are taken of.
type origin struct {
	from     *redis.Options
	contents func() map[string]string
	load     func() (stop func() int64)
	save     *dumpfile.SaveConfig // nil: it has no place where a file that it saves can be read
	cluster  bool
}

// origins start the data stores of a version, by their topology.
var origins = map[string]func(t *testing.T, version string) *origin{
	"standalone": func(t *testing.T, version string) *origin {
		s := testserver.Start(t, version)
		testserver.Generate(t, s.Client(t), 1500, 5)
		return single(t, s, s.Options())
	},
	"replicated": func(t *testing.T, version string) *origin {
		s, _ := group(t, version)
		return single(t, s, s.Options())
	},
	"sentinel": func(t *testing.T, version string) *origin {
		s, _ := group(t, version)
		o := single(t, s, testserver.StartSentinels(t, version, 1, s, nil).Nodes[0].Options())
		o.save = nil // which of the group's servers it would be isn't known beforehand
		return o
	},
	"cluster": func(t *testing.T, version string) *origin {
		c := testserver.StartCluster(t, version, 3, 1, "--repl-diskless-sync-delay", "0")
		c.Generate(t, 1500, 5)
		for _, s := range c.Primaries() { // its replicas have all of it
			s.AwaitReplicas(t, 1)
		}
		return &origin{from: c.Nodes()[1].Options(), contents: func() map[string]string { return c.Contents(t) }, load: func() func() int64 { return c.WriteLoad(t) }, cluster: true}
	},
}

// group starts a primary with two replicas.
func group(t *testing.T, version string) (primary *testserver.Server, replicas []*testserver.Server) {
	t.Helper()
	primary = testserver.Start(t, version, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
	testserver.Generate(t, primary.Client(t), 1500, 5)
	for range 2 {
		replicas = append(replicas, testserver.StartReplica(t, version, primary, "--repl-diskless-sync-delay", "0"))
	}
	testserver.Eventually(t, time.Minute, "both replicas in sync", func() error {
		if info := primary.Client(t).Info(t.Context(), "replication").Val(); strings.Count(info, "state=online") != 2 {
			return errors.New(info)
		}
		return nil
	})
	return primary, replicas
}

func single(t *testing.T, s *testserver.Server, from *redis.Options) *origin {
	t.Helper()
	c := s.Client(t)
	files, err := filestore.New(s.Dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { files.Close() })
	return &origin{from: from, contents: func() map[string]string { return testserver.Snapshot(t, c) }, load: func() func() int64 { return testserver.WriteLoad(t, c) },
		save: &dumpfile.SaveConfig{Store: files}}
}

// Every kind of data store is backed up by every method that applies while clients write to it, and restored, and the keys that the clients leave alone are those of
// the source. Those that they write are of one moment, unless the backup says that it is fuzzy. By default one version does for each topology;
// with CAMPAIGN=1 all do.
func TestMatrixOfSnapshots(t *testing.T) {
	topologies := []string{"standalone", "replicated", "sentinel", "cluster"}
	var mu sync.Mutex
	cells := map[string]map[string]string{} // by topology and version, by method
	methods := []amber.SnapshotMethod{amber.SnapshotAuto, amber.SnapshotReplica, amber.SnapshotScan, amber.SnapshotSave}
	t.Run("of", func(t *testing.T) {
		for i, topology := range topologies {
			versions := testserver.All()
			if os.Getenv("CAMPAIGN") == "" {
				versions = versions[3-i : 4-i]
			}
			for _, version := range versions {
				t.Run(topology+"/"+version, func(t *testing.T) {
					t.Parallel()
					row := snapshots(t, origins[topology](t, version), topology, version, methods)
					mu.Lock()
					defer mu.Unlock()
					cells[topology+" "+version] = row
				})
			}
		}
	})
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "keys / parts, method")
	for _, m := range methods {
		fmt.Fprint(w, "\t", cmp.Or(m, "auto"))
	}
	for _, topology := range topologies {
		for _, version := range testserver.All() {
			if row := cells[topology+" "+version]; row != nil {
				fmt.Fprint(w, "\n", topology, " ", version)
				for _, m := range methods {
					fmt.Fprint(w, "\t", row[string(m)])
				}
			}
		}
	}
	fmt.Fprintln(w)
	w.Flush()
	t.Logf("\n%s", &table)
}

// snapshots backs up by each method, and restores.
func snapshots(t *testing.T, o *origin, topology, version string, methods []amber.SnapshotMethod) map[string]string {
	t.Helper()
	want := unseen(o.contents())
	service := newService(t)
	row := map[string]string{}
	var to *redis.Options
	var restored func() map[string]string
	if o.cluster {
		target := testserver.StartCluster(t, version, 2, 0) // not as many shards as it had
		to, restored = target.Nodes()[0].Options(), func() map[string]string { return target.Contents(t) }
	} else {
		target := testserver.Start(t, version)
		c := target.Client(t)
		to, restored = target.Options(), func() map[string]string { return testserver.Snapshot(t, c) }
	}
	stop := o.load()
	defer stop()
	testserver.Eventually(t, time.Minute, "the first write", func() error {
		if pairs, _ := testserver.LoadTorn(o.contents()); pairs == 0 {
			return errors.New("no counters are there")
		}
		return nil
	})
	for _, method := range methods {
		name := topology + " " + version + " by " + string(cmp.Or(method, "auto"))
		q := amber.BackupRequest{DataStore: "orders", From: o.from, SnapshotOptions: amber.SnapshotOptions{Method: method}}
		if method == amber.SnapshotSave {
			if o.save == nil {
				row[string(method)] = "-"
				continue
			}
			q.Save = o.save
		}
		b, err := service.Backup(t.Context(), q)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		by := string(method)
		if method == amber.SnapshotAuto {
			by = string(amber.SnapshotReplica)
		}
		parts := 1
		if o.cluster {
			parts = 3
		}
		if b.Source.Method != by || b.Source.Topology != topology || len(b.Parts) != parts || b.Source.Fuzzy != (method == amber.SnapshotScan) || (b.Source.Reason == "") == (method == amber.SnapshotAuto) {
			t.Errorf("%s: by %q of a %s data store, %d parts, fuzzy %t, because %q", name, b.Source.Method, b.Source.Topology, len(b.Parts), b.Source.Fuzzy, b.Source.Reason)
		}
		if _, err := service.Restore(t.Context(), amber.RestoreRequest{Backup: b.ID, To: to, Conflict: restore.Replace}); err != nil {
			t.Errorf("%s: restoring: %v", name, err)
			continue
		}
		got := restored()
		if pairs, torn := testserver.LoadTorn(got); pairs == 0 || len(torn) > 0 && !b.Source.Fuzzy {
			t.Errorf("%s: of %d pairs of counters these are of no moment: %v", name, pairs, torn)
		}
		if diff := testserver.Diff(want, unseen(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		row[string(method)] = fmt.Sprintf("%d / %d, %s", b.Keys, len(b.Parts), b.Source.Method)
	}
	if stop() == 0 {
		t.Errorf("%s %s: nothing was written meanwhile", topology, version)
	}
	return row
}

// unseen leaves out when consumers of streams were last seen: a replica notes by its own clock when it was told.
func unseen(contents map[string]string) map[string]string {
	for key, value := range contents {
		contents[key] = seenTime.ReplaceAllString(value, "")
	}
	return contents
}

var seenTime = regexp.MustCompile(`seen-time=\\?"\d+\\?"`)
