package azurestore_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/azurestore"
	"github.com/amberkv/amber/storage/storetest"
)

func open(t *testing.T, config azurestore.Config) *blobstore.Store {
	t.Helper()
	s, err := azurestore.New(t.Context(), config)
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

// makeContainer makes a container and returns what opens it.
func makeContainer(t *testing.T, server *teststore.Server, name string) azurestore.Config {
	t.Helper()
	config := azurestore.Config{Account: teststore.AzureAccount, Key: teststore.AzureKey, Container: name, Endpoint: server.URL + "/" + teststore.AzureAccount}
	cred, err := container.NewSharedKeyCredential(config.Account, config.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(config.Endpoint+"/"+name, cred, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return config
}

func TestStore(t *testing.T) {
	start := sync.OnceValue(func() azurestore.Config { // in the parent of all processes only
		return makeContainer(t, teststore.StartAzure(t), "suite")
	})
	var n atomic.Int32
	where := make(map[storage.Store]string)
	storetest.Run(t, func(t *testing.T) storage.Store {
		config := start()
		config.Prefix = fmt.Sprintf("suite/%d", n.Add(1))
		s := open(t, config)
		where[s] = config.Endpoint + " " + config.Prefix
		return s
	}, &storetest.Options{
		Locate: func(s storage.Store) string { return where[s] },
		Reopen: func(location string) (storage.Store, error) {
			endpoint, prefix, _ := strings.Cut(location, " ")
			return azurestore.New(t.Context(), azurestore.Config{Account: teststore.AzureAccount, Key: teststore.AzureKey, Container: "suite", Prefix: prefix, Endpoint: endpoint})
		},
		Objects: 1100, // which is two pages
		Slow:    os.Getenv("CAMPAIGN") == "",
	})
}

// TestAccess: with the key of an account URLs can be signed; a shared access signature, a connection string and the environment open the same
// container; and no error tells any of them.
func TestAccess(t *testing.T) {
	for _, name := range []string{"AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"} {
		t.Setenv(name, "")
	}
	server := teststore.StartAzure(t)
	config := makeContainer(t, server, "bucket")
	config.Prefix = "p"
	s := open(t, config)
	data := []byte("for others")
	if err := storage.WriteFile(t.Context(), s, "a b/#ü", data, nil); err != nil {
		t.Fatal(err)
	}
	signed, err := storage.SignGet(t.Context(), s, "a b/#ü", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for where, want := range map[string]int{signed: http.StatusOK, strings.Replace(signed, "sig=", "sig=A", 1): http.StatusForbidden} {
		resp, err := http.Get(where)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || err != nil || want == http.StatusOK && string(got) != string(data) {
			t.Errorf("GET of a signed URL: %s, %q, %v; want %d", resp.Status, got, err, want)
		}
	}

	c, err := container.NewSharedKeyCredential(config.Account, config.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := container.NewClientWithSharedKeyCredential(config.Endpoint+"/bucket", c, nil)
	if err != nil {
		t.Fatal(err)
	}
	withSAS, err := client.GetSASURL(sas.ContainerPermissions{Read: true, Write: true, List: true, Delete: true}, time.Now().Add(time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(withSAS, "?")
	signature := token[strings.Index(token, "sig=")+4:]
	limited := open(t, azurestore.Config{Container: "bucket", Prefix: "p", Endpoint: config.Endpoint, SAS: token})
	if got, err := storage.ReadFile(t.Context(), limited, "a b/#ü", 100); err != nil || string(got) != string(data) {
		t.Errorf("by a shared access signature: %q, %v", got, err)
	}
	if _, err := storage.SignGet(t.Context(), limited, "a b/#ü", time.Minute); !errors.Is(err, errors.ErrUnsupported) || limited.Advise(err) == "" {
		t.Errorf("a URL signed by a signature: %v", err)
	}

	connection := "DefaultEndpointsProtocol=http;AccountName=" + config.Account + ";BlobEndpoint=" + config.Endpoint + ";"
	for name, env := range map[string]map[string]string{
		"key":                     {"AZURE_STORAGE_ACCOUNT": config.Account, "AZURE_STORAGE_KEY": config.Key},
		"connection string":       {"AZURE_STORAGE_CONNECTION_STRING": connection + "AccountKey=" + config.Key},
		"signature in a string":   {"AZURE_STORAGE_CONNECTION_STRING": connection + "SharedAccessSignature=" + token},
		"signature and an origin": {"AZURE_STORAGE_CONNECTION_STRING": connection, "AZURE_STORAGE_SAS_TOKEN": token},
	} {
		t.Run(name, func(t *testing.T) {
			where := "azblob://bucket/p"
			if name == "key" {
				where += "?endpoint=" + config.Endpoint
			}
			for name, value := range env {
				t.Setenv(name, value)
			}
			s, err := blobstore.OpenURL(t.Context(), where, azurestore.Opener{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got, err := storage.ReadFile(t.Context(), s, "a b/#ü", 100); err != nil || string(got) != string(data) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	t.Run("a signature is not for any endpoint", func(t *testing.T) {
		t.Setenv("AZURE_STORAGE_ACCOUNT", config.Account)
		t.Setenv("AZURE_STORAGE_SAS_TOKEN", token)
		s, err := blobstore.OpenURL(t.Context(), "azblob://bucket?endpoint="+config.Endpoint, azurestore.Opener{})
		if err == nil || strings.Contains(err.Error(), signature[:8]) {
			t.Errorf("%v, %v", s, err)
		}
	})

	// What is missing is told from an object that is.
	missing := config
	missing.Container = "none"
	wrong := config
	wrong.Key = "AAAA" + config.Key[4:]
	for what, test := range map[string]struct {
		config azurestore.Config
		want   error
	}{"a container that doesn't exist": {missing, nil}, "a wrong key": {wrong, storage.ErrDenied}} {
		s := open(t, test.config)
		_, statErr := s.Stat(t.Context(), "object")
		_, openErr := s.Open(t.Context(), "object", 0, -1)
		var listErr error
		for _, listErr = range s.List(t.Context(), "") {
		}
		for op, err := range map[string]error{"Stat": statErr, "Open": openErr, "List": listErr, "create": storage.WriteFile(t.Context(), s, "object", nil, nil)} {
			if err == nil || errors.Is(err, storage.ErrNotFound) || test.want != nil && !errors.Is(err, test.want) || s.Advise(err) == "" {
				t.Errorf("%s, %s: %v, advice %q", what, op, err, s.Advise(err))
			}
		}
	}
	if _, err := s.Stat(t.Context(), "nothing"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("an object that doesn't exist: %v", err)
	}
	// Nor is an object missing because a server is, or a name that nobody has.
	server.Kill()
	var asked sync.WaitGroup
	for what, s := range map[string]*blobstore.Store{
		"a server that is not there": limited,
		"a host that doesn't exist":  open(t, azurestore.Config{Account: "a", Key: config.Key, Container: "c", Endpoint: "http://nowhere.invalid"}),
	} {
		asked.Go(func() {
			_, err := s.Stat(t.Context(), "object")
			if errors.Is(err, storage.ErrNotFound) || !errors.Is(err, storage.ErrTransient) || strings.Contains(err.Error(), signature[:8]) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	asked.Wait()
}

func TestBadConfigs(t *testing.T) {
	for name, config := range map[string]azurestore.Config{
		"no container":         {Account: "a"},
		"no account":           {Container: "c"},
		"a key of nobody":      {Container: "c", Key: teststore.AzureKey, Endpoint: "http://127.0.0.1"},
		"two credentials":      {Account: "a", Container: "c", Key: teststore.AzureKey, SAS: "sig=x"},
		"anonymous, and a key": {Account: "a", Container: "c", Key: teststore.AzureKey, Anonymous: true},
		"no key":               {Account: "a", Container: "c", Key: "CANARY!"},
		"no server":            {Account: "a", Container: "c", Endpoint: "127.0.0.1"},
		"a signed server":      {Account: "a", Container: "c", Endpoint: "https://a.blob.core.windows.net?sig=CANARY"},
		"a prefix":             {Account: "a", Container: "c", Anonymous: true, Prefix: "a//b"},
	} {
		s, err := azurestore.New(t.Context(), config)
		if err == nil {
			s.Close()
			t.Errorf("%s is no error", name)
		} else if strings.Contains(err.Error(), "CANARY") || strings.Contains(err.Error(), teststore.AzureKey) {
			t.Errorf("%s: the error tells a secret: %v", name, err)
		}
	}
}

// TestHTTPSURL: the address that the portal shows, and Dragonfly takes, means the same container.
func TestHTTPSURL(t *testing.T) {
	if s, err := blobstore.OpenURL(t.Context(), "https://account.blob.core.windows.net.example.org/c", azurestore.HTTPSOpener{}); !errors.Is(err, blobstore.ErrURL) {
		t.Errorf("somebody else's host: %v, %v", s, err)
	}
	t.Setenv("AZURE_STORAGE_ACCOUNT", "")
	t.Setenv("AZURE_STORAGE_CONNECTION_STRING", "")
	s, err := blobstore.OpenURL(t.Context(), "https://account.blob.core.windows.net/container/some/prefix", azurestore.HTTPSOpener{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	facts := fmt.Sprint(storage.DescriberOf(s).Describe(t.Context()))
	for _, want := range []string{"{endpoint https://account.blob.core.windows.net}", "{account account}", "{container container}", "{prefix some/prefix/}"} {
		if !strings.Contains(facts, want) {
			t.Errorf("the store says %s, want %s", facts, want)
		}
	}
}
