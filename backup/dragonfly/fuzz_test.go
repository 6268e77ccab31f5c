package dragonfly_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/internal/resp"
)

// FuzzMaster sends anything in the place of a master: as all the answers on the control connection, and on the flows before and after they are to end.
// Nothing panics or hangs, memory stays bounded, and what is taken for a whole snapshot ends with the token that was agreed on.
func FuzzMaster(f *testing.F) {
	flow := dflymaster.Keys(1, 3)[0]
	text := "redis_version:7.4.0\r\ndragonfly_version:df-v1.40.0\r\n"
	info := fmt.Sprintf("$%d\r\n%s\r\n", len(text), text)
	answers := []byte(info + "+PONG\r\n+OK\r\n*5\r\n+" + recordedID + "\r\n+SYNC1\r\n:1\r\n:5\r\n+" + recordedID + "\r\n+OK\r\n+OK\r\n" + info + "+OK\r\n")
	attached := "*2\r\n+FULL\r\n+" + recordedID + "\r\n"
	static := append([]byte(attached), flow.Static...)
	final := append(flow.Final, recordedID...)
	f.Add(answers, static, final)
	f.Add(answers, static, final[:len(final)-1])
	f.Add(answers, static, append(dflymaster.Block(final[:9]), final[9:]...))
	f.Add([]byte("+OK\r\n+OK\r\n+OK\r\n"), []byte("-ERR"), []byte{})
	f.Add(answers, append([]byte(attached+"REDIS0009"), 0xca, 0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), final)
	f.Add(answers, append([]byte(attached+"REDIS0009"), 0xe0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xd2, 1, 0x80, 0xff, 0xff, 0xff, 0xff), final)
	f.Add([]byte("*3\r\n$-1\r\n:99999999999999999999\r\n"), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, control, first, last []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		asked := make(chan struct{}) // closed when the flows are to end
		var conns atomic.Int64
		dial := func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			leads := conns.Add(1) == 1
			go func() {
				defer theirs.Close()
				in := resp.NewReader(theirs, nil)
				if _, err := in.ReadCommand(); err != nil {
					return
				}
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					for {
						args, err := in.ReadCommand()
						if err != nil {
							return
						}
						if slices.Contains(args, "STARTSTABLE") {
							close(asked)
						}
					}
				}()
				if leads {
					theirs.Write(control)
					<-gone
					return
				}
				theirs.Write(first)
				select {
				case <-asked:
					theirs.Write(last)
				case <-gone:
				case <-time.After(10 * time.Millisecond): // it needs no end
				}
			}()
			return ours, nil
		}
		s, err := dragonfly.New(dragonfly.Config{Options: &redis.Options{Addr: "127.0.0.1:1", Dialer: dial}, ConnectTimeout: 200 * time.Millisecond, StallTimeout: 200 * time.Millisecond,
			SpoolLimit: 1 << 20, SpoolDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := 0
		sn, err := s.Snapshot(ctx)
		for p := 0; err == nil && p < len(sn.Parts()); p++ {
			var r io.ReadCloser
			if r, err = sn.Open(ctx, sn.Parts()[p]); err == nil {
				var n int64
				n, err = io.Copy(io.Discard, r)
				got += int(n)
				r.Close()
			}
		}
		if err != nil && bytes.Equal(control, answers) && bytes.Equal(first, static) && bytes.Equal(last, final) {
			t.Errorf("what a master sends: %v", err)
		}
		if err == nil {
			if all := slices.Concat(first, last); bytes.Count(all, []byte("+")) == 0 || got > len(all)*int(conns.Load()-1)+200*int(conns.Load()) {
				t.Errorf("a snapshot of %d bytes was made of %d", got, len(all))
			}
		}
		if sn != nil {
			sn.Close()
		}
		if ctx.Err() != nil {
			t.Error("it hung")
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
			t.Errorf("%d bytes were taken for %d that came", took, len(control)+len(first)+len(last))
		}
	})
}
