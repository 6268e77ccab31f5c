package gcsstore_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/gcsstore"
	"github.com/amberkv/amber/storage/storetest"
)

func open(t *testing.T, config gcsstore.Config) *blobstore.Store {
	t.Helper()
	s, err := gcsstore.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	start := sync.OnceValue(func() *teststore.GCS { // in the parent of all processes only
		server := teststore.StartGCS(t)
		server.Bucket("suite")
		return server
	})
	var n atomic.Int32
	where := make(map[storage.Store]string)
	storetest.Run(t, func(t *testing.T) storage.Store {
		server := start()
		prefix := fmt.Sprintf("suite/%d", n.Add(1))
		s := open(t, gcsstore.Config{Bucket: "suite", Prefix: prefix, Endpoint: server.URL})
		where[s] = server.URL + " " + prefix
		return s
	}, &storetest.Options{
		Locate: func(s storage.Store) string { return where[s] },
		Reopen: func(location string) (storage.Store, error) {
			url, prefix, _ := strings.Cut(location, " ")
			return gcsstore.New(t.Context(), gcsstore.Config{Bucket: "suite", Prefix: prefix, Endpoint: url})
		},
		Objects: 1100, // which is two pages
		Slow:    os.Getenv("CAMPAIGN") == "",
	})
}

// key is a service account's key file, of a key that nobody else has.
func key(t *testing.T) (file []byte, private string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	private = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	file, err = json.Marshal(map[string]string{"type": "service_account", "client_email": "amber@project.iam.gserviceaccount.com", "private_key": private,
		"private_key_id": "1", "token_uri": "http://127.0.0.1:1/token"})
	if err != nil {
		t.Fatal(err)
	}
	return file, private
}

// TestSignGet: whoever has the key of a service account can sign URLs, and whoever has not is told what it takes.
func TestSignGet(t *testing.T) {
	server := teststore.StartGCS(t)
	server.Bucket("bucket")
	plain := open(t, gcsstore.Config{Bucket: "bucket", Prefix: "p", Endpoint: server.URL})
	data := []byte("for others")
	if err := storage.WriteFile(t.Context(), plain, "a b/ü", data, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.SignGet(t.Context(), plain, "a b/ü", time.Minute); !errors.Is(err, errors.ErrUnsupported) || plain.Advise(err) == "" {
		t.Errorf("without a key: %v, advice %q", err, plain.Advise(err))
	}

	file, private := key(t)
	path := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, config := range []gcsstore.Config{{CredentialsJSON: file}, {CredentialsFile: path}} {
		config.Bucket, config.Prefix, config.Endpoint = "bucket", "p", server.URL
		s := open(t, config)
		signed, err := storage.SignGet(t.Context(), s, "a b/ü", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(signed, "X-Goog-Signature=") || !strings.Contains(signed, "X-Goog-Expires=") {
			t.Errorf("the URL is %s", signed)
		}
		resp, err := http.Get(signed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != string(data) {
			t.Errorf("GET of the URL: %s, %q, %v", resp.Status, got, err)
		}
		// No token is to be had for this key, and the error of that doesn't tell it.
		_, err = s.Stat(t.Context(), "a b/ü")
		if err == nil || strings.Contains(err.Error(), private[60:90]) {
			t.Errorf("Stat with a key that nobody knows: %v", err)
		}
		for _, fact := range s.Describe(t.Context()) {
			if strings.Contains(fact.Value, private[60:90]) {
				t.Errorf("the store tells its key: %+v", fact)
			}
		}
	}
}

func TestBadConfigs(t *testing.T) {
	file, private := key(t)
	for name, config := range map[string]gcsstore.Config{
		"no bucket":        {Anonymous: true},
		"two credentials":  {Bucket: "b", CredentialsJSON: file, Anonymous: true},
		"two keys":         {Bucket: "b", CredentialsJSON: file, CredentialsFile: "x"},
		"no file":          {Bucket: "b", CredentialsFile: filepath.Join(t.TempDir(), "none")},
		"no JSON":          {Bucket: "b", CredentialsJSON: []byte(private)},
		"no type":          {Bucket: "b", CredentialsJSON: []byte(`{}`)},
		"a broken key":     {Bucket: "b", CredentialsJSON: []byte(strings.Replace(string(file), private[60:90], strings.Repeat("A", 30), 1))},
		"no server":        {Bucket: "b", Endpoint: "127.0.0.1"},
		"a server's query": {Bucket: "b", Endpoint: "http://127.0.0.1?x=" + private[60:90]},
		"a prefix":         {Bucket: "b", Anonymous: true, Prefix: "../x"},
	} {
		s, err := gcsstore.New(t.Context(), config)
		if err == nil {
			s.Close()
			t.Errorf("%s is no error", name)
		} else if strings.Contains(err.Error(), private[60:90]) {
			t.Errorf("%s: the error tells the key: %v", name, err)
		}
	}
}

// TestErrors: a bucket, a permission or a server that is missing is never an object that doesn't exist.
func TestErrors(t *testing.T) {
	server := teststore.StartGCS(t)
	s := open(t, gcsstore.Config{Bucket: "none", Endpoint: server.URL})
	list := func() (err error) {
		for _, err = range s.List(t.Context(), "") {
		}
		return err
	}
	if err := list(); err == nil || errors.Is(err, storage.ErrNotFound) || s.Advise(err) == "" {
		t.Errorf("List of a bucket that doesn't exist: %v", err)
	}
	if err := storage.WriteFile(t.Context(), s, "object", nil, nil); err == nil || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("creating in a bucket that doesn't exist: %v", err)
	}
	for status, want := range map[int]error{401: storage.ErrDenied, 403: storage.ErrDenied, 503: storage.ErrTransient, 400: nil} {
		answers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"error": {"code": %d, "message": "because", "errors": [{"reason": "why"}]}}`, status)
		}))
		s := open(t, gcsstore.Config{Bucket: "b", Endpoint: answers.URL})
		_, statErr := s.Stat(t.Context(), "object")
		_, openErr := s.Open(t.Context(), "object", 0, -1)
		errs := map[string]error{"Stat": statErr, "Open": openErr}
		if want != storage.ErrTransient { // which takes as long as trying again does
			errs["Delete"], errs["create"] = s.Delete(t.Context(), "object"), storage.WriteFile(t.Context(), s, "object", []byte("x"), nil)
		}
		for what, err := range errs {
			if err == nil || errors.Is(err, storage.ErrNotFound) || want != nil && !errors.Is(err, want) {
				t.Errorf("%s of a service that answers %d: %v, want %v", what, status, err, want)
			}
		}
		if err := statErr; want == storage.ErrDenied && s.Advise(err) == "" {
			t.Errorf("no advice for %v", err)
		}
		answers.Close()
	}
	server.Kill()
	if _, err := s.Stat(t.Context(), "object"); !errors.Is(err, storage.ErrTransient) {
		t.Errorf("a server that is not there: %v", err)
	}
}

func TestOpener(t *testing.T) {
	server := teststore.StartGCS(t)
	server.Bucket("bucket")
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	where := "gs://bucket/some/prefix/"
	for _, emulator := range []bool{false, true} {
		if emulator {
			t.Setenv("STORAGE_EMULATOR_HOST", server.Addr)
		} else {
			where += "?endpoint=" + server.URL
		}
		s, err := blobstore.OpenURL(t.Context(), where, gcsstore.Opener{})
		if err != nil {
			t.Fatal(err)
		}
		if err := storage.WriteFile(t.Context(), s, "object", []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
		below := open(t, gcsstore.Config{Bucket: "bucket", Endpoint: server.URL})
		if _, err := below.Stat(t.Context(), "some/prefix/object"); err != nil {
			t.Errorf("the path of the URL is no prefix: %v", err)
		}
		s.Close()
		where = "gs://bucket/some/prefix"
	}
}
