package s3store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// natures are the classes of errors that a caller can tell.
var natures = map[string]error{"not found": storage.ErrNotFound, "exists": storage.ErrExists, "transient": storage.ErrTransient,
	"denied": storage.ErrDenied, "retained": storage.ErrRetained}

// natureOf names the classes that an error is of.
func natureOf(err error) string {
	var all []string
	for _, name := range []string{"not found", "exists", "transient", "denied", "retained"} {
		if errors.Is(err, natures[name]) {
			all = append(all, name)
		}
	}
	return strings.Join(all, " ")
}

// silent fails the test if something is written to the process's standard error or its log meanwhile.
func silent(t *testing.T) {
	t.Helper()
	file, err := os.Create(t.TempDir() + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = file
	log.SetOutput(file)
	t.Cleanup(func() {
		os.Stderr = stderr
		log.SetOutput(stderr)
		file.Close()
		if text, err := os.ReadFile(file.Name()); err != nil || len(text) > 0 {
			t.Errorf("standard error has %q, %v", text, err)
		}
	})
}

// each calls every operation of a store, and tells what became of it. The errors have no secret in them.
func each(t *testing.T, s storage.Store, f func(op string, err error)) {
	t.Helper()
	ctx := t.Context()
	told := func(op string, err error) {
		if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, "CANARY") || strings.Contains(text, teststore.S3SecretKey) {
			t.Errorf("%s: a secret is told: %s", op, text)
		}
		f(op, err)
	}
	told("create", storage.WriteFile(ctx, s, "new", []byte("new"), nil))
	told("exclusive create", storage.WriteFile(ctx, s, "new/only", []byte("new"), &storage.CreateOptions{IfNotExist: true}))
	told("large create", storage.WriteFile(ctx, s, "large", make([]byte, 11<<20), nil))
	_, err := s.Stat(ctx, "object")
	told("stat", err)
	_, err = storage.ReadFile(ctx, s, "object", 100)
	told("read", err)
	told("delete", s.Delete(ctx, "object"))
	for _, err = range s.List(ctx, "") {
		if err != nil {
			break
		}
	}
	told("list", err)
	_, _, err = storage.SweepUnfinished(ctx, s, time.Now())
	told("sweep", err)
}

// TestRefused: what a real server refuses is told by its nature, with advice, and nothing of it is logged.
func TestRefused(t *testing.T) {
	silent(t)
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	server.Bucket("there")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	for name, c := range map[string]struct {
		cfg    func(*s3store.Config)
		change func(*http.Request)
		nature string
		advice string
	}{
		"a wrong secret": {cfg: func(c *s3store.Config) { c.SecretAccessKey = canary }, nature: "denied", advice: "the secret key doesn't belong to the access key"},
		"an unknown key": {cfg: func(c *s3store.Config) { c.AccessKeyID, c.SecretAccessKey = "AKIAUNKNOWN12345", canary }, nature: "denied", advice: "the service doesn't know the access key AKIA…2345"},
		"a token":        {cfg: func(c *s3store.Config) { c.SessionToken = canary }, nature: "denied", advice: "AWS_SESSION_TOKEN"},
		"another bucket": {cfg: func(c *s3store.Config) { c.Bucket = "not-there" }, advice: "the bucket doesn't exist there"},
		"another region": {cfg: func(c *s3store.Config) { c.Region = "eu-west-9" }, nature: "denied", advice: "in another region than eu-west-9"},
		"a clock that is wrong": {change: func(r *http.Request) {
			at := time.Now().Add(-time.Hour)
			r.Header.Set("X-Amz-Date", at.UTC().Format("20060102T150405Z"))
			signAnew(r, "", at)
		}, nature: "denied", advice: "set this machine's clock"},
	} {
		t.Run(name, func(t *testing.T) {
			record.change = c.change
			cfg := config(server, "there")
			cfg.Endpoint = record.URL
			if c.cfg != nil {
				c.cfg(&cfg)
			}
			s := open(t, cfg)
			each(t, s, func(op string, err error) {
				if got := natureOf(err); err == nil || got != c.nature {
					t.Errorf("%s is %q, want %q: %v", op, got, c.nature, err)
				} else if advice := s.Advise(err); !strings.Contains(advice, c.advice) {
					t.Errorf("%s: the advice is %q, want %q; of %v", op, advice, c.advice, err)
				}
			})
			for _, f := range s.Describe(t.Context()) {
				if strings.Contains(f.Value, "CANARY") {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// TestAnswers: what services answer, by codes and statuses, is of the right nature, and is tried again as often as it should be.
func TestAnswers(t *testing.T) {
	silent(t)
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	server.Bucket("there")
	type answer struct {
		status        int
		code, message string
	}
	var a answer
	record.answer = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(a.status)
		if a.code != "" {
			fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message><RequestId>1</RequestId></Error>`, a.code, a.message)
		}
		return true
	}
	cfg := config(server, "there")
	cfg.Endpoint = record.URL
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	s := open(t, cfg)
	for _, c := range []struct {
		answer
		read, write, advice string
	}{
		{answer{503, "SlowDown", "Please reduce your request rate."}, "transient", "transient", "concurrency="},
		{answer{503, "", ""}, "transient", "transient", "try again later"},
		{answer{500, "InternalError", "We encountered an internal error."}, "transient", "transient", "try again later"},
		{answer{429, "TooManyRequests", "Too many."}, "transient", "transient", "concurrency="},
		{answer{400, "RequestTimeout", "Your socket connection to the server was not read from."}, "transient", "transient", "try again later"},
		{answer{409, "OperationAborted", "A conflicting conditional operation is in progress."}, "transient", "transient", "try again later"},
		{answer{409, "ConditionalRequestConflict", "Conflict."}, "transient", "transient", "try again later"},
		{answer{403, "AccessDenied", "Access Denied"}, "denied", "denied", "s3:PutObject"},
		{answer{403, "InvalidAccessKeyId", "No."}, "denied", "denied", "doesn't know the access key te…"},
		{answer{400, "ExpiredToken", "The provided token has expired."}, "denied", "denied", "renew them"},
		{answer{403, "RequestTimeTooSkewed", "The difference is too large."}, "denied", "denied", "clock"},
		{answer{401, "", ""}, "denied", "denied", "s3:PutObject"},
		{answer{403, "AccessDenied", "Access Denied because object protected by object lock."}, "retained", "retained", "retention ends"},
		{answer{400, "InvalidRequest", "Object is WORM protected and cannot be overwritten"}, "retained", "retained", "retention ends"},
		{answer{412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold"}, "", "exists", ""},
		{answer{404, "NoSuchBucket", "The specified bucket does not exist"}, "", "", "the bucket doesn't exist"},
		{answer{404, "NoSuchKey", "The specified key does not exist."}, "not found", "", ""}, // nobody writes to an object that has to be there
		{answer{404, "NoSuchUpload", "The specified upload does not exist."}, "", "", "ended from outside"},
		{answer{400, "AuthorizationHeaderMalformed", "The region 'us-east-1' is wrong; expecting 'eu-west-1'"}, "denied", "denied", "another region"},
		{answer{301, "PermanentRedirect", "Use another endpoint."}, "", "", "another region"},
		{answer{501, "NotImplemented", "A header you provided implies functionality that is not implemented"}, "", "", "preset="},
		{answer{400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"}, "", "", "checksum=md5"},
		{answer{400, "InvalidStorageClass", "The storage class you specified is not valid"}, "", "", "storage class"},
		{answer{400, "EntityTooLarge", "Too large."}, "", "", "part_size="},
	} {
		a = c.answer
		_, read := storage.ReadFile(t.Context(), s, "object", 100)
		write := storage.WriteFile(t.Context(), s, "object", []byte("x"), nil)
		if got := natureOf(read); read == nil || got != c.read {
			t.Errorf("%d %s: reading is %q, want %q: %v", c.status, c.code, got, c.read, read)
		}
		if got := natureOf(write); write == nil || got != c.write {
			t.Errorf("%d %s: writing is %q, want %q: %v", c.status, c.code, got, c.write, write)
		}
		for _, err := range []error{read, write} {
			if got := s.Advise(err); !strings.Contains(got, c.advice) {
				t.Errorf("%d %s: the advice is %q, want %q", c.status, c.code, got, c.advice)
			}
		}
	}

	// What fails for the moment is tried three times, what is refused once.
	t.Setenv("AWS_MAX_ATTEMPTS", "")
	s = open(t, cfg)
	for code, want := range map[string]int{"SlowDown": 3, "AccessDenied": 1} {
		a = answer{map[string]int{"SlowDown": 503, "AccessDenied": 403}[code], code, "No."}
		record.take()
		for _, err := range s.List(t.Context(), "") {
			if err == nil {
				t.Error("the list works")
			}
		}
		if got := len(record.take()); got != want {
			t.Errorf("%s: it is tried %d times, want %d", code, got, want)
		}
	}
	if s.Advise(nil) != "" || s.Advise(io.EOF) != "" {
		t.Error("there is advice where nothing is wrong, or nobody knows what")
	}
}

// TestUnreachable: what goes wrong before a server answers.
func TestUnreachable(t *testing.T) {
	server := teststore.StartS3(t)
	server.Bucket("there")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	for name, c := range map[string]struct {
		cfg    func(*s3store.Config)
		nature string
		advice string
	}{
		"nobody listens":         {func(c *s3store.Config) { c.Endpoint = "http://127.0.0.1:1" }, "transient", "can't be reached"},
		"HTTPS to a HTTP server": {func(c *s3store.Config) { c.Endpoint = server.Addr }, "", "https=false"},
		"no such host":           {func(c *s3store.Config) { c.Endpoint = "http://nowhere.invalid" }, "", "can't be resolved"},
		"the bucket as a host":   {func(c *s3store.Config) { c.Endpoint, c.Addressing = "http://nowhere.invalid", "virtual" }, "", "path_style=true"},
	} {
		cfg := config(server, "there")
		c.cfg(&cfg)
		s := open(t, cfg)
		_, err := s.Stat(t.Context(), "x")
		if got := natureOf(err); err == nil || got != c.nature || !strings.Contains(s.Advise(err), c.advice) {
			t.Errorf("%s: it is %q, want %q, with the advice %q: %v", name, got, c.nature, s.Advise(err), err)
		}
	}
	// A context that has ended is what its error says.
	s := open(t, config(server, "there"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Stat(ctx, "x"); !errors.Is(err, context.Canceled) || natureOf(err) != "" {
		t.Error(err)
	}
}

// TestMissingBucket: a bucket that isn't there is no empty store, and that costs one question of a store that is there.
func TestMissingBucket(t *testing.T) {
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	cfg := config(server, "missing")
	cfg.Endpoint = record.URL
	s := open(t, cfg)
	for range 2 {
		if _, err := s.Stat(t.Context(), "x"); err == nil || errors.Is(err, storage.ErrNotFound) || !strings.Contains(err.Error(), "no bucket missing") {
			t.Errorf("Stat: %v", err)
		}
	}
	server.Bucket("missing")
	record.take()
	for range 3 {
		if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Stat: %v", err)
		}
	}
	if got := len(record.take()); got != 4 {
		t.Errorf("three questions for an object that isn't there take %d requests, want 4", got)
	}
}
