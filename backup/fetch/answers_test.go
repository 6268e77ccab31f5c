package fetch_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/fetch"
)

// TestSpoiledAnswers: what a server answers, first and when it is asked to go on, is spoiled at random places. There is an end, and an error
// without the secret, or the file. With CAMPAIGN=1 in the environment it takes longer.
func TestSpoiledAnswers(t *testing.T) {
	t.Parallel()
	file := string(rdbFile(t))
	whole := func(head, body string) string {
		return "HTTP/1.1 " + head + fmt.Sprintf("\r\nETag: \"1\"\r\nContent-Length: %d\r\n\r\n", len(body)) + body
	}
	ok := whole("200 OK", file)
	rest := whole(fmt.Sprintf("206 Partial Content\r\nContent-Range: bytes 700-%d/%d", len(file)-1, len(file)), file[700:])
	seeds := [][2]string{
		{ok, ""}, {ok[:len(ok)-len(file)+700], rest}, {ok[:len(ok)-len(file)+700], ok},
		{"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n", 700, file[:700]), rest},
		{whole("302 Found\r\nLocation: /a.rdb?"+canary, ""), ok},
		{whole("302 Found\r\nLocation: http://[::1%25lo]/", ""), ok},
		{whole("403 Forbidden\r\nContent-Type: text/plain", "/a.rdb"+query), ""},
		{whole("403 Forbidden", "<Error><Code>AccessDenied</Code><Message>/a.rdb"+query+"</Message></Error>"), ""},
		{whole("503 Slow Down\r\nRetry-After: 99999", ""), ok},
		{"HTTP/1.1 103 Early Hints\r\n\r\n" + ok, rest},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answers, done := make(chan string, 2), make(chan struct{})
	defer func() { l.Close(); <-done }()
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(time.Second))
			c.Read(make([]byte, 4096))
			select {
			case a := <-answers:
				io.WriteString(c, a)
			default:
			}
			c.Close()
		}
	}()
	p := loopback()
	p.StallTimeout, p.HeaderTimeout = 500*time.Millisecond, 500*time.Millisecond
	runs, seed := 150, rand.Uint64()
	if os.Getenv("CAMPAIGN") != "" {
		runs = 20_000
	}
	r := rand.New(rand.NewPCG(seed, 0))
	const letters = "0123456789 \r\n:-/\x00\xffabc"
	spoil := func(s string) string {
		b := []byte(s)
		for range r.IntN(4) {
			if len(b) == 0 {
				break
			}
			at := r.IntN(min(len(b), 200)) // the heads are what is interesting
			switch r.IntN(4) {
			case 0:
				b[at] = letters[r.IntN(len(letters))]
			case 1:
				b = append(b[:at], b[min(at+1+r.IntN(20), len(b)):]...)
			case 2:
				b = append(b[:at:at], append(bytes.Clone(b[at:min(at+r.IntN(20), len(b))]), b[at:]...)...)
			case 3:
				b = b[:r.IntN(len(b))]
			}
		}
		return string(b)
	}
	read1, failed := 0, 0
	for n := range runs {
		for len(answers) > 0 {
			<-answers
		}
		pair := seeds[r.IntN(len(seeds))]
		first, second := spoil(pair[0]), spoil(pair[1])
		answers <- first
		answers <- second
		began := time.Now()
		got, err := read(t, fetch.Config{URL: "http://" + l.Addr().String() + "/a.rdb" + query, Policy: p, MaxBytes: 1 << 20})
		if err != nil {
			failed++
			tellsMuch(t, "the error", fmt.Sprintf("%v %+v %#v", err, err, err), 8) // for the spoiling leaves pieces
		} else if read1++; len(got["dump.rdb"]) > len(first)+len(second) {
			t.Errorf("%d bytes were read", len(got["dump.rdb"]))
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
		if t.Failed() {
			t.Fatalf("run %d of seed %d: %q, then %q", n, seed, first, second)
		}
	}
	t.Logf("seed %d: %d runs, %d read, %d failed", seed, runs, read1, failed)
	if read1 == 0 || failed == 0 {
		t.Error("the answers were all of a kind")
	}
}
