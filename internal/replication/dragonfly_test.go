package replication

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// A recording is what a Dragonfly and its primary sent each other. See testdata.
type recording struct {
	c2s, s2c []byte
	events   []event
}

type event struct {
	Dir      string
	Off, Len int
}

func readRecording(t *testing.T, name string) recording {
	t.Helper()
	read := func(file string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", "dragonfly-1.40", name, file))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	r := recording{c2s: read("c2s.bin"), s2c: read("s2c.bin")}
	in := json.NewDecoder(bytes.NewReader(read("events.jsonl")))
	for {
		var e event
		if err := in.Decode(&e); err == io.EOF {
			return r
		} else if err != nil {
			t.Fatal(err)
		}
		if e.Len > 0 {
			r.events = append(r.events, e)
		}
	}
}

// payload returns the snapshot that the primary sent.
func (r recording) payload(t *testing.T) []byte {
	t.Helper()
	from := bytes.Index(r.s2c, []byte("REDIS00"))
	to := bytes.LastIndex(r.s2c, []byte("*1\r\n$4\r\nping\r\n"))
	if m := regexp.MustCompile(`\$EOF:([0-9a-f]{40})\r\n`).FindSubmatch(r.s2c); m != nil {
		to = bytes.LastIndex(r.s2c, m[1])
	} else if _, err := fmt.Sscanf(string(r.s2c[bytes.Index(r.s2c, []byte("\r\n$"))+3:]), "%d", &to); err != nil {
		t.Fatal(err)
	} else {
		to += from
	}
	return r.s2c[from:to]
}

// silent fails the test if a byte comes within a time.
func (r replica) silent(t *testing.T, d time.Duration) {
	t.Helper()
	r.SetReadDeadline(time.Now().Add(d))
	defer r.SetReadDeadline(time.Now().Add(10 * time.Second))
	b, err := r.ReadByte()
	if err == nil {
		t.Fatalf("%q was sent to a Dragonfly that hadn't acknowledged: its process ends by that", b)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection ended: %v", err)
	}
}

// A Dragonfly that sends what was recorded, at the moments that were recorded, gets what it insists on, and nothing else.
func TestRecordedDragonfly(t *testing.T) {
	for _, name := range []string{"disk", "diskless"} {
		t.Run(name, func(t *testing.T) {
			rec := readRecording(t, name)
			payload := rec.payload(t)
			addr, link := serve(t, &Primary{})
			r := connect(t, addr)
			var l *Link
			loaded := make(chan error, 1)
			isLoaded := func() bool {
				select {
				case err := <-loaded:
					if err != nil {
						t.Fatal(err)
					}
					return true
				default:
					return false
				}
			}
			asked, acks := false, 0
			for _, e := range rec.events {
				if e.Dir == "c2s" {
					said := rec.c2s[e.Off : e.Off+e.Len]
					if bytes.HasPrefix(said, []byte("REPLCONF ACK")) {
						if acks++; acks == 1 {
							r.silent(t, 100*time.Millisecond)
							if isLoaded() {
								t.Fatal("the snapshot counts as loaded before a word of it")
							}
						}
					}
					if _, err := r.Conn.Write(said); err != nil {
						t.Fatal(err)
					}
					if bytes.HasPrefix(said, []byte("PSYNC ")) {
						asked = true
						l = link()
						if h := l.Hello(); !h.Dragonfly || h.Port != 16392 || h.ID != "?" {
							t.Fatalf("it told %+v", h)
						}
						go func() {
							err := l.FullSync(t.Context(), bytes.NewReader(payload), int64(len(payload)))
							if err == nil {
								err = l.Loaded(t.Context())
							}
							loaded <- err
						}()
						want := fmt.Sprintf("+FULLRESYNC %s 1\r\n$%d\r\n%s", l.ID(), len(payload), payload)
						got := make([]byte, len(want))
						if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
							t.Fatalf("it gets %.100q, %v, want %.100q", got, err, want)
						}
					}
					continue
				}
				if asked {
					continue // it has got the snapshot; no primary writes meanwhile
				}
				want := string(rec.s2c[e.Off : e.Off+e.Len])
				got, err := r.ReadString('\n')
				if err != nil || got != want || r.Buffered() > 0 {
					t.Fatalf("it gets %q, %v, and %d bytes; want %q", got, err, r.Buffered(), want)
				}
			}
			if acks < 2 {
				t.Fatalf("there are %d acknowledgements in the recording", acks)
			}
			if err := <-loaded; err != nil {
				t.Fatal(err)
			}
			r.silent(t, 100*time.Millisecond)
		})
	}
}

// "REPLCONF ACK 0" is a Dragonfly's word that it has loaded. Another server's isn't.
func TestFirstAcknowledgement(t *testing.T) {
	for capa, timeout := range map[string]time.Duration{"dragonfly": 5 * time.Second, "psync2": 300 * time.Millisecond} {
		addr, link := serve(t, &Primary{Timeout: timeout})
		r := connect(t, addr)
		r.expect(t, "REPLCONF capa "+capa, "+OK")
		io.WriteString(r.Conn, "PSYNC ? -1\r\nREPLCONF ACK 0\r\n")
		if err := link().Loaded(t.Context()); (err == nil) != (capa == "dragonfly") {
			t.Errorf("after ACK 0 of %s: %v", capa, err)
		}
	}
}

// A snapshot that breaks off is no whole one for a Dragonfly: its length was told.
func TestBrokenSourceForDragonfly(t *testing.T) {
	broken := errors.New("the store went away")
	src := io.MultiReader(strings.NewReader(strings.Repeat("x", chunkSize)), iotest.ErrReader(broken))
	got, l, err := send(t, []string{"REPLCONF capa eof capa psync2", "REPLCONF capa dragonfly", "PSYNC ? -1"}, src, chunkSize)
	if !errors.Is(err, broken) || !l.Began() || bytes.Count(got, []byte("x")) >= chunkSize || !bytes.Contains(got, []byte("$262144\r\n")) {
		t.Errorf("the error is %v, it began: %v, %d bytes arrived, beginning with %.80q", err, l.Began(), len(got), got)
	}
}
