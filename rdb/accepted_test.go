package rdb

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
)

// accepted is how many changed files each server loads in one run of TestCampaignAccepted: a hundred with CAMPAIGN=1.
func accepted() int {
	if campaign {
		return 100
	}
	return 30
}

// TestCampaignAccepted changes real files and makes their checksum right again. What Check accepts then, the server of that version has to
// load, with its own deep checks switched on, go over from end to end, save and load again; and its redis-check-rdb has to
// accept it. Every run changes other bytes: see make campaign.
func TestCampaignAccepted(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			newest := loads[version][0]
			l := startLoader(t, version)
			c := l.conn(t)
			bases := basesFor(t, newest, ownDump(t, version))
			seed := rand.Uint64()
			m := &mutator{rand.New(rand.NewPCG(seed, 1)), bases}
			tried := 0
			for n := 0; n < accepted(); {
				tried++
				data := m.mutant()
				r := NewReader(bytes.NewReader(data), nil)
				if err := Check(r, &CheckOptions{Databases: 1000}); err != nil || !suits(data, newest) {
					continue
				}
				n++
				if why := l.takes(t, c, version, data); why != "" {
					t.Fatalf("Check accepts what the server doesn't: %s\nseed %d, mutant %d, in base 64:\n%s", why, seed, tried, base64.StdEncoding.EncodeToString(data))
				}
			}
			t.Logf("%d of %d changed files were right, and the server loaded them; seed %d", accepted(), tried, seed)
		})
	}
}

// takes tells what the server or its checker has against a file.
func (l *loader) takes(t *testing.T, c *redis.Conn, version string, data []byte) string {
	ctx := t.Context()
	if err := l.load(ctx, c, data); err != nil {
		return fmt.Sprintf("it doesn't load it: %v", err)
	}
	if out, err := exec.CommandContext(ctx, testserver.Program(t, version, "check-rdb"), l.file).CombinedOutput(); err != nil {
		return fmt.Sprintf("its checker says\n%s", out)
	}
	before, err := c.Do(ctx, "DEBUG", "DIGEST").Text()
	if err != nil {
		return fmt.Sprintf("it fails when it goes over it: %v", err)
	}
	if err := c.Do(ctx, "DEBUG", "RELOAD").Err(); err != nil {
		return fmt.Sprintf("it can't save it and load it again: %v", err)
	}
	if after, err := c.Do(ctx, "DEBUG", "DIGEST").Text(); err != nil || after != before {
		return fmt.Sprintf("it holds something else after saving it and loading it again: %v", err)
	}
	return ""
}

// ownDump is what a server itself saved, with values of every type.
func ownDump(t *testing.T, version string) fixture {
	s := testserver.Start(t, version)
	c := s.Client(t)
	testserver.Generate(t, c, 40, 7)
	if err := c.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(s.Dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	return fixture{version + "'s own", data}
}

// basesFor returns the fixtures that a server of a dialect loads.
func basesFor(t *testing.T, newest Dialect, own fixture) []fixture {
	out := []fixture{own}
	for _, f := range fixtures(t, 5<<10) {
		if f.hasChecksum() && suits(f.data, newest) {
			out = append(out, f)
		}
	}
	if len(out) < 15 {
		t.Fatalf("only %d files to change", len(out))
	}
	return out
}

// suits tells whether a server of a dialect knows everything in a stream, and whether it depends on nothing but the server.
func suits(data []byte, newest Dialect) bool {
	r := NewReader(bytes.NewReader(data), nil)
	for {
		e, err := r.Next()
		if err == io.EOF {
			return true
		}
		d := r.Dialect()
		switch {
		case err != nil, d.Family == Dragonfly, d.Family != newest.Family && (d.Family == Valkey || d.Version > 11):
			return false
		case d.Family == newest.Family && d.Version > newest.Version:
			return false
		case e.Kind == KindKey:
			enc := r.encodings[e.Encoding]
			if e.Type == TypeModule || e.Type > TypeStream || len(e.Meta) > 0 || enc.since == 0 || int(enc.since) > newest.Version || d.Family == Redis && newest.Family == Valkey && enc.since > 11 {
				return false
			}
		case e.Kind != KindAux && e.Kind != KindResizeDB:
			return false
		}
	}
}

// A mutator changes files.
type mutator struct {
	*rand.Rand
	bases []fixture
}

// mutant returns a changed file.
func (m *mutator) mutant() []byte {
	data := bytes.Clone(m.bases[m.IntN(len(m.bases))].data)
	data = data[:len(data)-8]
	if m.IntN(3) == 0 {
		data = m.moveEntries(data)
	}
	for range m.IntN(3) {
		if len(data) < magicLen+2 {
			break
		}
		at := magicLen + m.IntN(len(data)-magicLen-1)
		n := min(1+m.IntN(8), len(data)-1-at)
		switch m.IntN(8) {
		case 0:
			data[at] ^= 1 << m.IntN(8)
		case 1:
			data[at] = byte(m.Uint32())
		case 2:
			data[at]++
		case 3:
			data[at]--
		case 4:
			data[at] = [...]byte{0, 1, 2, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff}[m.IntN(9)]
		case 5: // left out
			data = append(data[:at:at], data[at+n:]...)
		case 6: // twice
			data = append(data[:at+n:at+n], data[at:]...)
		case 7: // exchanged with what follows
			if at+2*n < len(data) {
				data = append(append(append(data[:at:at], data[at+n:at+2*n]...), data[at:at+n]...), data[at+2*n:]...)
			}
		}
	}
	return sealed(append(data, make([]byte, 8)...))
}

// moveEntries takes an entry out, and puts one of another file in.
func (m *mutator) moveEntries(data []byte) []byte {
	cut := func(data []byte) (from, to int) {
		r := NewReader(bytes.NewReader(append(bytes.Clone(data), make([]byte, 8)...)), nil)
		var at []int
		for e, err := range r.Entries() {
			if err != nil {
				break
			}
			at = append(at, int(e.Offset))
		}
		if len(at) < 2 {
			return 0, 0
		}
		i := m.IntN(len(at) - 1)
		return at[i], at[i+1]
	}
	if from, to := cut(data); from > 0 && m.IntN(2) == 0 {
		data = append(data[:from:from], data[to:]...)
	}
	other := m.bases[m.IntN(len(m.bases))].data
	if from, to := cut(other[:len(other)-8]); from > 0 {
		if at, _ := cut(data); at > 0 {
			data = append(append(data[:at:at], other[from:to]...), data[at:]...)
		}
	}
	return data
}
