package fetch_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/catalog"
)

// t0 is when the files of these tests were modified.
var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func escape(s string) string { return url.QueryEscape(s) }
func quiet() *log.Logger     { return log.New(io.Discard, "", 0) }

// rawServer answers each connection by writing to it, after the head of the request was read. n counts the connections from 0.
func rawServer(t testing.TB, answer func(n int, head string, c net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close(); all.Wait() })
	all.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				var head strings.Builder
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadString('\n')
					head.WriteString(line)
					if err != nil || line == "\r\n" {
						break
					}
				}
				answer(n, head.String(), c)
			})
		}
	})
	return "http://" + l.Addr().String()
}

// drip writes one byte after another, slowly, until the other side has gone.
func drip(c net.Conn, b []byte) {
	for i := 0; ; i++ {
		if _, err := c.Write([]byte{b[i%len(b)]}); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestBadAnswers are servers that mean ill, or are broken: the error says why, doesn't tell the query, and comes in bounded time and memory.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	file := rdbFile(t)
	head := func(more ...string) string {
		return "HTTP/1.1 200 OK\r\nETag: \"1\"\r\n" + strings.Join(append(more, "\r\n"), "\r\n")
	}
	length := "Content-Length: " + strconv.Itoa(len(file))
	echo := "/a.rdb" + query
	send := func(s string, bodies ...[]byte) func(int, string, net.Conn) {
		return func(_ int, _ string, c net.Conn) {
			io.WriteString(c, s)
			for _, b := range bodies {
				c.Write(b)
			}
		}
	}
	status := func(line, more, body string) func(int, string, net.Conn) {
		return send(fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", line, more, len(body), body))
	}
	s3 := `<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message><Resource>` + escape(echo) + `</Resource><StringToSign>` + echo + `</StringToSign></Error>`
	for name, test := range map[string]struct {
		answer func(int, string, net.Conn)
		kind   error
		says   string
	}{
		"401":                     {status("401 Unauthorized", "", echo), fetch.ErrStatus, "signed URL"},
		"403 of S3":               {status("403 Forbidden", "", s3), fetch.ErrStatus, "AccessDenied: Request has expired: the signed URL has probably expired"},
		"403 that echoes":         {status("403 Forbidden", "Content-Type: text/plain\r\n", "no "+echo), fetch.ErrStatus, "withheld"},
		"403 that echoes a piece": {status("403 Forbidden", "Content-Type: text/plain\r\n", "no "+canary[3:12]), fetch.ErrStatus, "withheld"},
		"403 in S3's message":     {status("403 Forbidden", "", `<Error><Code>X</Code><Message>bad `+escape(escape(canary[1:]))+`</Message></Error>`), fetch.ErrStatus, "X: [withheld"},
		"403 in JSON":             {status("403 Forbidden", "", `{"error":{"message":"no access to this bucket"}}`), fetch.ErrStatus, "no access to this bucket"},
		"403 in JSON that echoes": {status("403 Forbidden", "", `{"error":{"message":"\u0043ANARYzQ7xW4"}}`), fetch.ErrStatus, "withheld"},
		"403 as a page":           {status("403 Forbidden", "Content-Type: text/html\r\n", "<html>"+echo), fetch.ErrStatus, "403"},
		"404":                     {status("404 Not Found", "", echo), fetch.ErrStatus, "check the path"},
		"410":                     {status("410 Gone", "", ""), fetch.ErrStatus, "check the path"},
		"416":                     {status("416 Range Not Satisfiable", "", ""), fetch.ErrStatus, "416"},
		"429":                     {status("429 Too Many Requests", "", ""), fetch.ErrStatus, "later"},
		"503 for an hour":         {status("503 Slow Down", "Retry-After: 3600\r\n", ""), fetch.ErrStatus, "left alone for 1h0m0s"},
		"503 until a date":        {status("503 Slow Down", "Retry-After: "+time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat)+"\r\n", ""), fetch.ErrStatus, "left alone for"},
		"500":                     {status("500 Oops "+canary, "", ""), fetch.ErrStatus, "500 Internal Server Error"},
		"204":                     {send("HTTP/1.1 204 No Content\r\n\r\n"), fetch.ErrStatus, "204"},
		"206 unasked":             {status("206 Partial Content", "Content-Range: bytes 0-1/2\r\n", "RE"), fetch.ErrStatus, "206"},
		"304":                     {send("HTTP/1.1 304 Not Modified\r\n\r\n"), fetch.ErrStatus, "304"},
		"302 to nowhere":          {status("302 Found", "", ""), fetch.ErrStatus, "302"},
		"a long complaint":        {status("400 Bad Request", "Content-Type: text/plain\r\n", strings.Repeat("x", 1<<20)), fetch.ErrStatus, "xxx…"},
		"an endless complaint": {func(_ int, _ string, c net.Conn) {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			for b := make([]byte, 1<<16); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}, fetch.ErrStatus, "400"},
		"a slow complaint": {func(_ int, _ string, c net.Conn) {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			drip(c, []byte(echo))
		}, fetch.ErrStatus, "400"},

		"a coding":             {send(head(length, "Content-Encoding: gzip"), file), fetch.ErrNotSnapshot, "Content-Encoding: gzip"},
		"a coding that tells":  {send(head(length, "Content-Encoding: "+canary), file), fetch.ErrNotSnapshot, "Content-Encoding"},
		"a coded transfer":     {send(head("Transfer-Encoding: gzip, chunked")), nil, "transfer encoding"},
		"no length":            {send(head(), file), fetch.ErrCut, "doesn't say how long"},
		"HTTP/1.0, no length":  {send("HTTP/1.0 200 OK\r\n\r\n", file), fetch.ErrCut, "doesn't say how long"},
		"a negative length":    {send(head("Content-Length: -1"), file), nil, ""},
		"two lengths":          {send(head("Content-Length: 5", "Content-Length: 6"), file), nil, ""},
		"a length of 2^70":     {send(head("Content-Length: 1180591620717411303424"), file), nil, ""},
		"more than allowed":    {send(head("Content-Length: 1125899906842624"), file), fetch.ErrTooLarge, "MaxBytes"},
		"too long a length":    {send(head("Content-Length: "+strconv.Itoa(len(file)+10)), file), fetch.ErrCut, "unexpected EOF"},
		"chunks that are none": {send(head("Transfer-Encoding: chunked")+"zz"+canary+"\r\n", file), fetch.ErrCut, "in a row"},
		"chunks without end":   {send(head("Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n", len(file), file)), fetch.ErrCut, "unexpected EOF"},
		"a line without end": {func(_ int, _ string, c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ")
			for b := bytes.Repeat([]byte(canary), 1000); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}, nil, "exceeded 65536 bytes"},
		"heads without end": {func(_ int, _ string, c net.Conn) {
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nX: "+canary+"\r\n\r\n"); err != nil {
					return
				}
			}
		}, nil, ""},
		"another protocol": {send("-ERR unknown command " + echo + "\r\n"), nil, ""},
		"a bad status":     {send("HTTP/1.1 " + canary + "\r\n\r\n"), nil, ""},
		"a bad header":     {send("HTTP/1.1 200 OK\r\n" + echo + "\r\n\r\n"), nil, ""},
		"nothing":          {send(""), nil, ""},
		"a slow head": {func(_ int, _ string, c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			drip(c, []byte("X: y\r\n"))
		}, nil, "timeout"},
		"a silent body": {func(_ int, _ string, c net.Conn) {
			io.WriteString(c, head("Content-Length: 999999"))
			c.Write(file)
			io.Copy(io.Discard, c)
		}, fetch.ErrCut, "StallTimeout"},
		"a slow body": {func(_ int, _ string, c net.Conn) { io.WriteString(c, head("Content-Length: 999999")); drip(c, file) }, fetch.ErrCut, "StallTimeout"},
		"a cut, no validator": {func(n int, _ string, c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nETag: W/\"weak\"\r\nContent-Length: 999999\r\n\r\n")
			c.Write(file)
		}, fetch.ErrCut, "no strong ETag"},

		"a cut, changed just now": {func(n int, _ string, c net.Conn) {
			now := time.Now().UTC().Format(http.TimeFormat)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nDate: "+now+"\r\nLast-Modified: "+now+"\r\nContent-Length: 999999\r\n\r\n")
			c.Write(file)
		}, fetch.ErrCut, "no Last-Modified to ask"},
		"empty":             {status("200 OK", "", ""), fetch.ErrNotSnapshot, "empty"},
		"a page":            {status("200 OK", "", "\ufeff\n <!DOCTYPE html>"+echo), fetch.ErrNotSnapshot, "web page"},
		"compressed":        {status("200 OK", "", "\x1f\x8b\x08\x00"), fetch.ErrNotSnapshot, "compressed"},
		"something else":    {status("200 OK", "", "*1\r\n$4\r\nPING\r\n"), fetch.ErrNotSnapshot, "doesn't begin as one"},
		"a shard of a set":  {status("200 OK", "", string(fixture(t, "dfs/testdata/dragonfly-1.40/mini-0000.dfs"))), fetch.ErrNotSnapshot, "DFS set"},
		"a summary of some": {status("200 OK", "", string(fixture(t, "dfs/testdata/dragonfly-1.40/mini-summary.dfs"))), fetch.ErrNotSnapshot, "DFS set"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := loopback()
			switch name {
			case "a slow head":
				p.HeaderTimeout = 150 * time.Millisecond
			case "a slow body", "a silent body":
				p.StallTimeout = 150 * time.Millisecond
			}
			url := rawServer(t, test.answer)
			var logged bytes.Buffer
			began := time.Now()
			s := newSnapshotter(t, fetch.Config{URL: url + echo, Policy: p, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
			sn, err := s.Snapshot(t.Context())
			if err == nil {
				_, err = readParts(t.Context(), sn)
				sn.Close()
			}
			refused(t, err, test.kind, test.says)
			tells(t, "the log", logged.String())
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes: %s", len(err.Error()), err)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			if os.Getenv("VERBOSE") != "" {
				t.Log(err)
			}
		})
	}
}

// TestShortLength: a length that is too small leaves a piece of a file, which the parser finds.
func TestShortLength(t *testing.T) {
	file := rdbFile(t)
	url := rawServer(t, func(_ int, _ string, c net.Conn) {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(file)-20, file)
	})
	got, err := read(t, fetch.Config{URL: url + "/a.rdb", Policy: loopback()})
	if err != nil || !bytes.Equal(got["dump.rdb"], file[:len(file)-20]) {
		t.Fatalf("%d bytes, %v", len(got["dump.rdb"]), err)
	}
	if _, err := catalog.Inspect(bytes.NewReader(got["dump.rdb"]), nil); !errors.Is(err, catalog.ErrBadSnapshot) {
		t.Errorf("%v", err)
	}
}

// TestCuts cuts a transfer at many bytes, once and again and again; what is read is equal.
func TestCuts(t *testing.T) {
	t.Parallel()
	file := rdbFile(t)
	variants := map[string]http.HandlerFunc{
		"ETag": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"one"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		},
		"Last-Modified": func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", t0, bytes.NewReader(file))
		},
		"chunked at first": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"one"`)
			if r.Header.Get("Range") != "" {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
				return
			}
			w.(http.Flusher).Flush()
			w.Write(file)
		},
		"a piece each time": func(w http.ResponseWriter, r *http.Request) {
			var from int
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			w.Header().Set("ETag", `"one"`)
			if from == 0 {
				w.Header().Set("Content-Length", strconv.Itoa(len(file)))
				w.Write(file)
				return
			}
			to := min(from+len(file)/3, len(file)-1)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(file)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(file[from : to+1])
		},
	}
	for name, h := range variants {
		t.Run(name, func(t *testing.T) {
			step := max(len(file)/40, 1)
			if os.Getenv("CAMPAIGN") != "" {
				step = 1
			}
			total := 0
			for at := 0; at < len(file); at += step {
				srv, cuts := cutting(t, h, int64(at))
				got, err := read(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: loopback()})
				if err != nil || !bytes.Equal(got["dump.rdb"], file) {
					t.Errorf("cut at %d: %d bytes of %d, %v", at, len(got["dump.rdb"]), len(file), err)
				}
				if n := cuts.conns.Load(); n < 2 {
					t.Errorf("cut at %d: %d connections", at, n)
				}
				srv.Close()
				total++
			}
			t.Logf("%d places", total)
		})
	}
	// As often as it takes, as long as it gets ahead.
	big := bytes.Repeat([]byte("amber "), 1<<20)
	copy(big, file)
	srv, cuts := cutting(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeContent(w, r, "", t0, bytes.NewReader(big)) }))
	for n := 0; n < 60; n++ {
		cuts.cuts <- 100_000
	}
	got, err := read(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: loopback()})
	if err != nil || !bytes.Equal(got["dump.rdb"], big) || cuts.conns.Load() < 60 {
		t.Errorf("%d connections: %d bytes, %v", cuts.conns.Load(), len(got["dump.rdb"]), err)
	}
	// And not where it gets ahead by a byte each time.
	srv, cuts = cutting(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeContent(w, r, "", t0, bytes.NewReader(big)) }))
	for n := 0; n < 60; n++ {
		cuts.cuts <- 600
	}
	_, err = read(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: loopback()})
	refused(t, err, fetch.ErrCut, "5 times in a row")
}

// TestResumeRefused: after a cut the server answers in ways that must not be spliced.
func TestResumeRefused(t *testing.T) {
	file := rdbFile(t)
	const at = 600
	first := fmt.Sprintf("HTTP/1.1 200 OK\r\nETag: \"one\"\r\nContent-Length: %d\r\n\r\n%s", len(file), file[:at])
	part := func(tag, rng string, body []byte) string {
		return fmt.Sprintf("HTTP/1.1 206 Partial Content\r\nETag: %s\r\nContent-Range: %s\r\nContent-Length: %d\r\n\r\n%s", tag, rng, len(body), body)
	}
	rest := fmt.Sprintf("bytes %d-%d/%d", at, len(file)-1, len(file))
	for name, test := range map[string]struct {
		then string
		kind error
		says string
	}{
		"right":             {part(`"one"`, rest, file[at:]), nil, ""},
		"right, no tag":     {strings.Replace(part(`"one"`, rest, file[at:]), "ETag", "X", 1), nil, ""},
		"another tag":       {part(`"two"`, rest, file[at:]), fetch.ErrChanged, "ETag"},
		"another size":      {part(`"one"`, fmt.Sprintf("bytes %d-%d/%d", at, len(file)-1, len(file)+1), file[at:]), fetch.ErrChanged, "bytes"},
		"another start":     {part(`"one"`, fmt.Sprintf("bytes %d-%d/%d", at+1, len(file)-1, len(file)), file[at+1:]), fetch.ErrCut, "sent others"},
		"from the start":    {part(`"one"`, fmt.Sprintf("bytes 0-%d/%d", len(file)-1, len(file)), file), fetch.ErrCut, "sent others"},
		"another length":    {part(`"one"`, rest, file[at+1:]), fetch.ErrCut, "sent others"},
		"no range":          {strings.Replace(part(`"one"`, rest, file[at:]), "Content-Range", "X", 1), fetch.ErrCut, "sent others"},
		"a bad range":       {part(`"one"`, "bytes "+canary, file[at:]), fetch.ErrCut, "sent others"},
		"many ranges":       {part(`"one"`, "multipart/byteranges", file[at:]), fetch.ErrCut, "sent others"},
		"all, changed":      {fmt.Sprintf("HTTP/1.1 200 OK\r\nETag: \"two\"\r\nContent-Length: %d\r\n\r\n%s", len(file), file), fetch.ErrChanged, "ETag"},
		"all, without tags": {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(file), file), fetch.ErrCut, "the rest alone"},
		"all, longer":       {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(file)+1, file), fetch.ErrChanged, "bytes"},
		"416":               {"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n", fetch.ErrStatus, "shorter"},
		"412":               {"HTTP/1.1 412 No\r\nContent-Length: 0\r\n\r\n", fetch.ErrStatus, "412"},
		"403":               {"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", fetch.ErrStatus, "expired"},
		"encoded":           {strings.Replace(part(`"one"`, rest, file[at:]), "206 Partial Content", "206 Partial Content\r\nContent-Encoding: br", 1), fetch.ErrNotSnapshot, "Content-Encoding"},
		"a redirect inside": {"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/a?" + canary + "\r\nContent-Length: 0\r\n\r\n", fetch.ErrRefused, "private"},
	} {
		t.Run(name, func(t *testing.T) {
			var heads sync.Map
			url := rawServer(t, func(n int, head string, c net.Conn) {
				heads.Store(n, head)
				if n == 0 {
					io.WriteString(c, first)
				} else {
					io.WriteString(c, test.then)
				}
			})
			got, err := read(t, fetch.Config{URL: url + "/a.rdb" + query, Policy: loopback()})
			if test.kind == nil {
				if err != nil || !bytes.Equal(got["dump.rdb"], file) {
					t.Errorf("%d bytes, %v", len(got["dump.rdb"]), err)
				}
			} else {
				refused(t, err, test.kind, test.says)
			}
			second, _ := heads.Load(1)
			for _, want := range []string{fmt.Sprintf("Range: bytes=%d-\r\n", at), "If-Range: \"one\"\r\n", "Accept-Encoding: identity\r\n"} {
				if !strings.Contains(fmt.Sprint(second), want) {
					t.Errorf("the second request is %q, without %q", second, want)
				}
			}
		})
	}
}

// TestStartsAgain: nothing was delivered, so a server without ranges may send it all once more.
func TestStartsAgain(t *testing.T) {
	file := rdbFile(t)
	url := rawServer(t, func(n int, head string, c net.Conn) {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(file))
		if n > 1 {
			c.Write(file)
		}
		if strings.Contains(head, "Range: ") {
			t.Error("it was asked for a range")
		}
	})
	got, err := read(t, fetch.Config{URL: url + "/a.rdb" + query, Policy: loopback()})
	if err != nil || !bytes.Equal(got["dump.rdb"], file) {
		t.Errorf("%d bytes, %v", len(got["dump.rdb"]), err)
	}
}

// TestRetries: what passes is tried again, as long as the server says where it says so; what stays isn't.
func TestRetries(t *testing.T) {
	t.Parallel()
	file := rdbFile(t)
	for code, again := range map[int]bool{500: true, 502: true, 503: true, 504: true, 429: true, 408: true, 400: false, 401: false, 403: false, 404: false, 501: false} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) < 3 {
					if code == 503 {
						w.Header().Set("Retry-After", "1")
					}
					http.Error(w, r.URL.String(), code)
					return
				}
				http.ServeContent(w, r, "", t0, bytes.NewReader(file))
			})
			began := time.Now()
			got, err := read(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: loopback()})
			switch {
			case !again:
				refused(t, err, fetch.ErrStatus)
				if n.Load() != 1 {
					t.Errorf("%d requests", n.Load())
				}
			case err != nil || !bytes.Equal(got["dump.rdb"], file):
				t.Error(err)
			case code == 503 && time.Since(began) < 2*time.Second:
				t.Errorf("two waits of a second took %v", time.Since(began))
			}
		})
	}
}

// TestEndlessBody: a body without an end is left when there is more than is allowed.
func TestEndlessBody(t *testing.T) {
	file := rdbFile(t)
	var sent atomic.Int64
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for b := append(file, make([]byte, 1<<20)...); ; b = b[len(file):] {
			n, err := w.Write(b)
			sent.Add(int64(n))
			if err != nil {
				return
			}
			b = append(file, b[:1<<20]...)
		}
	})
	_, err := read(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: loopback(), MaxBytes: 10 << 20})
	refused(t, err, fetch.ErrTooLarge, "10485760", "MaxBytes")
	if n := sent.Load(); n < 10<<20 || n > 40<<20 {
		t.Errorf("%d bytes were sent", n)
	}
	// Exactly as much as is allowed is allowed.
	ok := files(t, map[string][]byte{"/a.rdb": file})
	if _, err := read(t, fetch.Config{URL: ok.URL + "/a.rdb" + query, Policy: loopback(), MaxBytes: int64(len(file))}); err != nil {
		t.Error(err)
	}
	_, err = read(t, fetch.Config{URL: ok.URL + "/a.rdb" + query, Policy: loopback(), MaxBytes: int64(len(file)) - 1})
	refused(t, err, fetch.ErrTooLarge)
}

// TestMemory reads a body of 300 MiB, with a few cuts in it.
func TestMemory(t *testing.T) {
	const size = 300 << 20
	content := &pattern{size: size, head: rdbFile(t)}
	srv, cuts := cutting(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", t0, &pattern{size: size, head: content.head})
	}), 1<<20, 50<<20, 100<<20)
	sn, err := newSnapshotter(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: loopback()}).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak, total, buf := uint64(0), int64(0), make([]byte, 64<<10)
	for n := 0; ; n++ {
		m, err := r.Read(buf)
		total += int64(m)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n%256 == 0 {
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapAlloc)
		}
	}
	grown := int64(peak) - int64(before.HeapAlloc)
	if total != size || grown > 16<<20 || cuts.conns.Load() != 4 {
		t.Errorf("%d bytes by %d connections, the heap grew by %d bytes", total, cuts.conns.Load(), grown)
	}
	t.Logf("%d MiB by %d connections: the heap grew by %d KiB", total>>20, cuts.conns.Load(), grown>>10)
}

// A pattern is a large file that takes no memory.
type pattern struct {
	size, at int64
	head     []byte
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.at >= p.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.size-p.at)]
	n := 0
	if p.at < int64(len(p.head)) {
		n = copy(b, p.head[p.at:])
	}
	clear(b[n:])
	p.at += int64(len(b))
	return len(b), nil
}

func (p *pattern) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += p.at
	case io.SeekEnd:
		off += p.size
	}
	p.at = off
	return off, nil
}

// TestSlowReader: who reads slowly isn't taken for a server that stands still.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", t0, &pattern{size: 16 << 20, head: rdbFile(t)})
	}))
	defer srv.Close()
	p := loopback()
	p.StallTimeout = 700 * time.Millisecond
	sn, err := newSnapshotter(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: p}).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	time.Sleep(900 * time.Millisecond)
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for buf := make([]byte, 8<<20); ; {
		m, err := io.ReadFull(r, buf)
		n += m
		if err != nil {
			break
		}
		time.Sleep(900 * time.Millisecond)
	}
	if n != 16<<20 {
		t.Errorf("%d bytes", n)
	}
}
