package replica_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/replica"
	"github.com/redis/go-redis/v9"
)

// FuzzSync lets a server send anything for a snapshot: there is neither panic nor hang, and what is taken for a whole
// snapshot is as long as the server said, or is ended by its mark.
func FuzzSync(f *testing.F) {
	for _, seed := range []string{
		"$5\r\nREDIS", "$5\r\nREDIS*1\r\n$4\r\nPING\r\n", "$5\r\nREDI", "\n\n$1\r\nx", "-ERR no\r\n", "$0\r\n", "$-1\r\n",
		"$EOF:" + mark + "\r\nREDIS" + rdbEnd + mark,
		"$EOF:" + mark + "\r\nREDIS" + rdbEnd + mark + "*1\r\n$4\r\nPING\r\n",
		"$EOF:" + mark + "\r\nREDIS" + rdbEnd + mark + mark + rdbEnd + mark,
		"$EOF:" + mark + "\r\n" + mark, "$EOF:" + mark + "\r\nREDIS" + rdbEnd + mark + "*1", "$9223372036854775807\r\nabc",
	} {
		f.Add([]byte(seed), uint16(3))
		f.Add([]byte(seed), uint16(9000))
	}
	f.Fuzz(func(t *testing.T, sent []byte, size uint16) {
		done := make(chan struct{})
		s, err := replica.New(replica.Config{Options: &redis.Options{
			Addr: "fuzz:1",
			Dialer: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go io.Copy(io.Discard, theirs) // ends when either side is closed
				go func() {
					defer close(done)
					defer theirs.Close()
					io.WriteString(theirs, bulk("redis_version:7.2.0\r\n")+"+OK\r\n+OK\r\n"+fullResync)
					theirs.Write(sent)
				}()
				return ours, nil
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		replica.SetTuning(s, false, time.Millisecond)
		got, whole := fuzzTake(t, s, int(size)+1)
		<-done
		if !whole {
			return
		}
		sent = bytes.TrimLeft(sent, "\n")
		for bytes.HasPrefix(sent, []byte("\r\n")) {
			sent = bytes.TrimLeft(sent[2:], "\n")
		}
		header, rest, _ := bytes.Cut(sent, []byte("\n"))
		header = bytes.TrimSuffix(header, []byte("\r"))
		if m, ok := bytes.CutPrefix(header, []byte("$EOF:")); ok {
			if after, ok := bytes.CutPrefix(rest, append(got[:len(got):len(got)], m...)); !ok || len(after) > 0 && after[0] != '*' {
				t.Errorf("%q of %q", got, sent)
			}
		} else if n, err := strconv.Atoi(string(header[1:])); err != nil || n != len(got) || !bytes.HasPrefix(rest, got) {
			t.Errorf("%q of %q", got, sent)
		}
	})
}

func fuzzTake(t *testing.T, s *replica.Snapshotter, size int) (got []byte, whole bool) {
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		return nil, false
	}
	defer sn.Close()
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatal(err)
	}
	for p := make([]byte, size); ; {
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if err != nil {
			return got, err == io.EOF
		}
	}
}
