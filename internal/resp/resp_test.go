package resp_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/amberkv/amber/internal/resp"
)

func reader(s string) *resp.Reader { return resp.NewReader(strings.NewReader(s), nil) }

func TestReadReply(t *testing.T) {
	long := strings.Repeat("x", 50_000) // longer than the buffer
	for _, test := range []struct {
		in   string
		want resp.Reply
	}{
		{"+OK\r\n", resp.Reply{Kind: resp.Status, Text: "OK"}},
		{"+\r\n", resp.Reply{Kind: resp.Status}},
		{"+OK\n", resp.Reply{Kind: resp.Status, Text: "OK"}},
		{"\n\n\r\n+PONG\r\n", resp.Reply{Kind: resp.Status, Text: "PONG"}},
		{"+" + long + "\r\n", resp.Reply{Kind: resp.Status, Text: long}},
		{":-12\r\n", resp.Reply{Kind: resp.Integer, Int: -12}},
		{"$-1\r\n", resp.Reply{}},
		{"*-1\r\n", resp.Reply{}},
		{"$0\r\n\r\n", resp.Reply{Kind: resp.Bulk}},
		{"$6\r\na\r\nb\r\n\r\n", resp.Reply{Kind: resp.Bulk, Text: "a\r\nb\r\n"}},
		{"$50000\r\n" + long + "\r\n", resp.Reply{Kind: resp.Bulk, Text: long}},
		{"*0\r\n", resp.Reply{Kind: resp.Array}},
		{"*3\r\n$1\r\na\r\n*1\r\n:7\r\n-ERR no\r\n", resp.Reply{Kind: resp.Array, Elems: []resp.Reply{
			{Kind: resp.Bulk, Text: "a"},
			{Kind: resp.Array, Elems: []resp.Reply{{Kind: resp.Integer, Int: 7}}},
			{Kind: resp.Failure, Text: "ERR no"},
		}}},
	} {
		for name, in := range map[string]io.Reader{
			"whole":          strings.NewReader(test.in + "+next\r\n"),
			"byte by byte":   iotest.OneByteReader(strings.NewReader(test.in + "+next\r\n")),
			"error with EOF": iotest.DataErrReader(strings.NewReader(test.in + "+next\r\n")),
		} {
			r := resp.NewReader(in, nil)
			got, err := r.ReadReply()
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("%.40q, %s: got %+v, %v", test.in, name, got, err)
			}
			if r.Offset() != int64(len(test.in)) {
				t.Errorf("%.40q, %s: Offset %d, want %d", test.in, name, r.Offset(), len(test.in))
			}
			if next, err := r.ReadReply(); err != nil || next.Text != "next" {
				t.Errorf("%.40q, %s: after it came %+v, %v", test.in, name, next, err)
			}
			if _, err := r.ReadReply(); err != io.EOF {
				t.Errorf("%.40q, %s: at the end: %v, want io.EOF", test.in, name, err)
			}
		}
		for cut := 1; cut < len(test.in) && len(test.in) < 100; cut++ {
			if strings.Trim(test.in[:cut], "\r\n") == "" {
				continue // only keep-alives: a clean end
			}
			if _, err := reader(test.in[:cut]).ReadReply(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q cut at %d: %v, want io.ErrUnexpectedEOF", test.in, cut, err)
			}
		}
	}
}

func TestReadReplyErrorReply(t *testing.T) {
	r := reader("-NOPERM User x has no permissions\r\n-oh no\r\n+OK\r\n")
	_, err := r.ReadReply()
	var e resp.Error
	if !errors.As(err, &e) || e.Code() != "NOPERM" || e.Error() != "NOPERM User x has no permissions" {
		t.Errorf("got %v", err)
	}
	if _, err = r.ReadReply(); !errors.As(err, &e) || e.Code() != "" {
		t.Errorf("got %v with code %q", err, e.Code())
	}
	if reply, err := r.ReadReply(); err != nil || reply.Text != "OK" {
		t.Errorf("after an error reply: %+v, %v", reply, err)
	}
}

func TestReadReplyRefuses(t *testing.T) {
	small := &resp.Limits{Line: 100, Message: 1000, Elements: 10}
	for in, detail := range map[string]string{
		"hello\r\n":                             "can't begin with",
		"!\x00\r\n":                             "can't begin with",
		":12x\r\n":                              "not a number",
		":\r\n":                                 "not a number",
		"$x\r\n":                                "not a length",
		"$-2\r\n":                               "not a length",
		"$2\r\nabc\r\n":                         "has to end",
		"*1\r\n\r\n":                            "empty line within",
		"$1001\r\n":                             "more than 1000 bytes",
		"*11\r\n":                               "more than 10 elements",
		"$9999999999999999999\r\n":              "not a length",
		"*9223372036854775807\r\n":              "more than",
		"+" + strings.Repeat("x", 102) + "\r\n": "a line of more than 100 bytes",
		strings.Repeat("*1\r\n", 17) + ":1\r\n": "more than 10 elements",
		"*3\r\n*5\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n*5\r\n":           "more than 10 elements",
		"*2\r\n$600\r\n" + strings.Repeat("x", 600) + "\r\n$600\r\n": "more than 1000 bytes",
	} {
		_, err := resp.NewReader(strings.NewReader(in), small).ReadReply()
		var pe *resp.ProtocolError
		if !errors.Is(err, resp.ErrProtocol) || !errors.As(err, &pe) || !strings.Contains(pe.Detail, detail) {
			t.Errorf("%.30q: %v, want %q", in, err, detail)
		}
	}
	if _, err := reader(strings.Repeat("*1\r\n", 17) + ":1\r\n").ReadReply(); err == nil || !strings.Contains(err.Error(), "nested too deep, at byte 64 ") {
		t.Errorf("deep nesting: %v", err)
	}
}

func TestReadCommand(t *testing.T) {
	for in, want := range map[string][]string{
		"PING\r\n":                              {"PING"},
		"\n\r\n  replconf   ack 12 \n":          {"replconf", "ack", "12"},
		"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n":     {"PING"},
		"*2\r\n$3\r\nGET\r\n$3\r\n\r\n\x00\r\n": {"GET", "\r\n\x00"},
		"*1\r\n$0\r\n\r\n":                      {""},
	} {
		r := resp.NewReader(iotest.HalfReader(strings.NewReader(in)), nil)
		if got, err := r.ReadCommand(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
		if _, err := r.ReadCommand(); err != io.EOF {
			t.Errorf("%q: at the end: %v, want io.EOF", in, err)
		}
	}
	for in, detail := range map[string]string{
		"*1\r\n:3\r\n":              "argument can't begin",
		"*1\r\n\r\n":                "argument can't begin",
		"*1\r\n$-1\r\n":             "can't be null",
		"*x\r\n":                    "not a length",
		"*11\r\n":                   "more than 10 elements",
		"a b c d e f g h i j k\r\n": "more than 10 elements",
		"*2\r\n$1000\r\n" + strings.Repeat("x", 1000) + "\r\n$1\r\n": "more than 1000 bytes",
	} {
		_, err := resp.NewReader(strings.NewReader(in), &resp.Limits{Message: 1000, Elements: 10}).ReadCommand()
		var pe *resp.ProtocolError
		if !errors.As(err, &pe) || !strings.Contains(pe.Detail, detail) {
			t.Errorf("%.30q: %v, want %q", in, err, detail)
		}
	}
	if _, err := reader("*2\r\n$4\r\nPING\r\n").ReadCommand(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut command: %v", err)
	}
}

func TestAppend(t *testing.T) {
	args := []string{"SET", "", "a\r\nb\x00", strings.Repeat("y", 20_000)}
	got, err := resp.NewReader(bytes.NewReader(resp.AppendCommand(nil, args...)), nil).ReadCommand()
	if err != nil || !reflect.DeepEqual(got, args) {
		t.Errorf("got %.60q, %v", got, err)
	}
	if got := string(resp.AppendStatus([]byte("x"), "FULL\r\nRESYNC")); got != "x+FULL  RESYNC\r\n" {
		t.Errorf("AppendStatus: %q", got)
	}
	if got := string(resp.AppendError(nil, "ERR no\n")); got != "-ERR no \r\n" {
		t.Errorf("AppendError: %q", got)
	}
}

// A payload follows a line directly; Read gives what the buffer holds of it and then what comes.
func TestReadRaw(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	r := resp.NewReader(io.MultiReader(strings.NewReader("\n$160000\r\n"), bytes.NewReader(payload), strings.NewReader("\n")), nil)
	if line, err := r.ReadLine(); err != nil || len(line) != 0 {
		t.Fatalf("keep-alive: %q, %v", line, err)
	}
	if line, err := r.ReadLine(); err != nil || string(line) != "$160000" {
		t.Fatalf("header: %q, %v", line, err)
	}
	got, err := io.ReadAll(io.LimitReader(r, int64(len(payload))))
	if err != nil || !bytes.Equal(got, payload) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if want := int64(len(payload) + len("\n$160000\r\n")); r.Offset() != want {
		t.Errorf("Offset %d, want %d", r.Offset(), want)
	}
	if next, err := r.Peek(2); string(next) != "\n" || err != io.EOF {
		t.Errorf("Peek: %q, %v", next, err)
	}
	if line, err := r.ReadLine(); err != nil || len(line) != 0 {
		t.Errorf("after the payload: %q, %v", line, err)
	}
}

// A length on the wire costs no memory before the bytes are there.
func TestLengthsAreNotTrusted(t *testing.T) {
	for _, in := range []string{"$1073741824\r\nabc", "*1073741824\r\n+a\r\n", "*1048576\r\n$1000000000\r\n"} {
		var before, after runtime.MemStats
		r := resp.NewReader(strings.NewReader(in), &resp.Limits{Message: 2 << 30, Elements: 2 << 30})
		runtime.ReadMemStats(&before)
		_, err := r.ReadReply()
		runtime.ReadMemStats(&after)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", in, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 {
			t.Errorf("%q: %d bytes allocated", in, n)
		}
	}
}

func TestParseInfo(t *testing.T) {
	info := resp.ParseInfo("# Server\r\nredis_version:8.0.2\r\nempty:\r\n\r\n# Replication\r\nslave0:ip=::1,port=6380,state=online,offset=14,lag=0\r\nused_memory:1024\nnoise\n")
	if info["redis_version"] != "8.0.2" || info.Int("used_memory") != 1024 || info.Int("empty") != 0 || info.Int("absent") != 0 {
		t.Errorf("got %v", info)
	}
	var got string
	for name, value := range info.Attributes("slave0") {
		got += fmt.Sprintf("%s is %s;", name, value)
	}
	if got != "ip is ::1;port is 6380;state is online;offset is 14;lag is 0;" {
		t.Errorf("Attributes: %s", got)
	}
	for name := range info.Attributes("absent") {
		t.Errorf("absent field has %s", name)
	}
}

// FuzzReader feeds any bytes to both readers: they neither panic nor take more memory than the limits allow, and a
// command that they accept is read again from its own encoding.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"+OK\r\n", "-ERR x\r\n", ":1\r\n", "$3\r\nabc\r\n", "*2\r\n$1\r\na\r\n*1\r\n$-1\r\n", "\n\nPING\r\n",
		"$9223372036854775807\r\n", "*2147483647\r\n", "*1\r\n*1\r\n*1\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := &resp.Limits{Line: 256, Message: 4096, Elements: 64}
		r := resp.NewReader(bytes.NewReader(data), limits)
		for {
			reply, err := r.ReadReply()
			var e resp.Error
			if err != nil && !errors.As(err, &e) {
				break
			}
			if n := size(reply); n > 4096+64*64 {
				t.Fatalf("a reply of %d bytes passed the limits", n)
			}
		}
		r = resp.NewReader(bytes.NewReader(data), limits)
		for {
			args, err := r.ReadCommand()
			if err != nil {
				break
			}
			again, err := resp.NewReader(bytes.NewReader(resp.AppendCommand(nil, args...)), nil).ReadCommand()
			if err != nil || !reflect.DeepEqual(args, again) {
				t.Fatalf("%q came back as %q, %v", args, again, err)
			}
		}
		if r.Offset() > int64(len(data)) {
			t.Fatalf("Offset %d of %d bytes", r.Offset(), len(data))
		}
	})
}

func size(r resp.Reply) int {
	n := len(r.Text) + 64
	for _, e := range r.Elems {
		n += size(e)
	}
	return n
}
