package dragonfly_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/dflymaster"
)

// What there is in the recording.
const (
	recordedID     = "efc7f87f1fc3ede89f23541b52a290d81337b49b"
	recordedAnswer = 54 // bytes of the answer to DFLY FLOW
)

// A recording is the flow of one shard.
type recording struct {
	flow   dflymaster.Flow
	whole  []byte // its stream, from REDIS0009 to its checksum
	events []int  // where the pieces began in which it came, as offsets in the flow
}

// recordings returns the flows of both shards.
func recordings(t testing.TB) [2]recording {
	t.Helper()
	var out [2]recording
	for shard, conn := range []int{2, 1} {
		all := recorded(t, conn)[recordedAnswer:]
		answer := string(recorded(t, conn)[:recordedAnswer])
		words := strings.Fields(answer)
		r := recording{flow: dflymaster.Flow{Token: strings.TrimPrefix(words[2], "+")}}
		end := bytes.Index(all, []byte("\xff\x00\x00\x00\x00\x00\x00\x00\x00"+r.flow.Token))
		r.whole = all[:end+9]
		r.flow.Static, r.flow.Final = all[:end-9], all[end-9:end+9] // in this recording nothing was written meanwhile
		if !bytes.HasSuffix(r.flow.Static, dflymaster.SyncEnd()) || r.flow.Final[0] != 0xd3 {
			t.Fatalf("the recording of shard %d is not what it was", shard)
		}
		r.flow.Stable = all[end+9+40:]
		for line := range strings.Lines(string(fixture(t, "events.txt"))) {
			var c, at, n int
			if _, err := fmt.Sscan(line, &c, &at, &n); err != nil {
				t.Fatal(err)
			}
			if c == conn && at > recordedAnswer {
				r.events = append(r.events, at-recordedAnswer)
			}
		}
		out[shard] = r
	}
	return out
}

// replay is a master that sends what was recorded, as send says.
func replay(t *testing.T, send func(int, io.Writer, []byte) error) (*dflymaster.Master, [2]recording) {
	t.Helper()
	r := recordings(t)
	return dflymaster.Start(t, dflymaster.Config{ID: recordedID, Flows: []dflymaster.Flow{r[0].flow, r[1].flow}, Send: send}), r
}

// TestRecorded has the recorded conversation, in pieces of all kinds, and gets what the master had.
func TestRecorded(t *testing.T) {
	goroutines(t)
	events := recordings(t)
	for name, send := range map[string]func(int, io.Writer, []byte) error{
		"at once":  nil,
		"odd":      dflymaster.Pieces(1237),
		"packets":  dflymaster.Pieces(1448),
		"tiny":     dflymaster.Pieces(61),
		"recorded": atEvents(events),
	} {
		if !campaign() && (name == "packets" || name == "at once") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			m, rec := replay(t, send)
			sn, parts := mustTake(t, snapshotter(t, m, nil))
			if names := []string{"0000.dfs", "0001.dfs", "summary.dfs"}; len(parts) != 3 || !slices.Equal(partNames(sn), names) {
				t.Fatalf("parts %v, want %v", partNames(sn), names)
			}
			for i, r := range rec {
				if got := parts[fmt.Sprintf("%04d.dfs", i)]; !bytes.Equal(got, r.whole) {
					t.Errorf("flow %d came as %d bytes that are not the %d that were sent", i, len(got), len(r.whole))
				}
			}
			if name == "recorded" { // all have the same bytes
				asRecorded(t, contents(t, parts["0000.dfs"], parts["0001.dfs"]))
			}
			src := sn.Source()
			if src.ReplicationID != recordedID || src.Method != "flows" || src.Engine != "dragonfly" || src.Version != "1.40.0" || src.Time.IsZero() {
				t.Errorf("source: %+v", src)
			}
			shard := sn.(backup.Sharded).Shard(sn.Parts()[1])
			if shard == nil || shard.ID != "1" || shard.ReplicationOffset != 1 || !shard.Time.Equal(src.Time) {
				t.Errorf("shard: %+v", shard)
			}
			gone(t, m)
		})
	}
}

// atEvents sends in the pieces in which it came.
func atEvents(rec [2]recording) func(int, io.Writer, []byte) error {
	sent := make([]int, 2) // each used by one goroutine at a time
	return func(flow int, w io.Writer, p []byte) error {
		for len(p) > 0 {
			n := len(p)
			for _, at := range rec[flow].events {
				if at > sent[flow] {
					n = min(n, at-sent[flow])
					break
				}
			}
			if _, err := w.Write(p[:n]); err != nil {
				return err
			}
			sent[flow] += n
			p = p[n:]
		}
		return nil
	}
}

func partNames(sn backup.Snapshot) (out []string) {
	for _, p := range sn.Parts() {
		out = append(out, p.Name)
	}
	return out
}

// asRecorded compares contents with those of the master that was recorded.
func asRecorded(t *testing.T, got []string) {
	t.Helper()
	want := strings.Split(strings.TrimSpace(string(fixture(t, "contents.txt"))), "\n")
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
		return
	}
	for i := range want {
		if strings.HasPrefix(want[i], "*") {
			got[i] = want[i][:16] + got[i][16:]
		}
		if got[i] != want[i] {
			t.Errorf("key %q, want %q", got[i], want[i])
		}
	}
}
