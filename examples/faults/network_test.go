package faults

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/chaos"
	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
	"github.com/amberkv/amber/storage/retry"
)

// TestBadNetwork backs up, verifies and restores over a network that does harm. What passes is right, and what fails says why and leaves nothing.
func TestBadNetwork(t *testing.T) {
	s := teststore.StartS3(t)
	bucket := s.Bucket("backups")
	data, few := chaos.Snapshot(300, 1000), chaos.Snapshot(20, 1000)
	for name, c := range map[string]struct {
		data   []byte
		harm   func(p *teststore.Proxy)
		passes bool
		says   string // one of these, if it fails
	}{
		// Beside every answer that is cut off there is one that isn't.
		"resets of what comes":       {data, func(p *teststore.Proxy) { p.CutDown(50_000, true) }, true, ""},
		"a reset of what goes":       {data, func(p *teststore.Proxy) { p.CutUp(2000, false) }, true, ""},
		"resets all the time":        {data, func(p *teststore.Proxy) { p.CutDown(10, true); p.CutUp(10, true) }, false, "connection reset|EOF|broken pipe|hung"},
		"a stall":                    {data, func(p *teststore.Proxy) { p.Stall(); time.AfterFunc(500*time.Millisecond, p.Heal) }, true, ""},
		"a stall without end":        {data, func(p *teststore.Proxy) { p.Stall() }, false, "hung|timeout|standstill"},
		"sixteen KiB in each second": {few, func(p *teststore.Proxy) { p.Slow(16 << 10) }, true, ""},
	} {
		for _, operation := range []string{"backup", "verify", "restore"} {
			t.Run(name+"/"+operation, func(t *testing.T) {
				t.Parallel()
				proxy := teststore.StartProxy(t, s.Addr)
				prefix := strings.ReplaceAll(t.Name(), "_", "-")
				direct, harmed := service(t, s.URL, bucket, prefix, 20), service(t, proxy.URL, bucket, prefix, 20)
				if !c.passes { // how long it takes until that is told is to be waited for
					harmed = service(t, proxy.URL, bucket, prefix, 1)
				}
				first, err := direct.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: chaos.Bytes(c.data)})
				if err != nil {
					t.Fatal(err)
				}
				ready, target := 1, chaos.Memory{}
				c.harm(proxy)
				switch operation {
				case "backup":
					_, err = harmed.Backup(t.Context(), amber.BackupRequest{DataStore: "carts", Snapshotter: chaos.Bytes(c.data)})
					if err == nil {
						ready = 2
					}
				case "verify":
					_, err = harmed.Verify(t.Context(), first.ID, nil)
				case "restore":
					_, err = harmed.Restore(t.Context(), amber.RestoreRequest{Backup: first.ID, Loader: &target})
					if (err == nil) != target.Whole || err == nil && !bytes.Equal(target.Data, c.data) {
						t.Errorf("the target has %d of %d bytes: %v", len(target.Data), len(c.data), err)
					}
				}
				if proxy.Heal(); strings.Contains(name, "reset") && proxy.Cuts() == 0 {
					t.Error("nothing was cut")
				}
				if (err == nil) != c.passes {
					t.Errorf("passed is %v, want %v: %v", err == nil, c.passes, err)
				}
				told := false
				for why := range strings.SplitSeq(c.says, "|") {
					told = told || err != nil && strings.Contains(err.Error(), why)
				}
				if err != nil && !told {
					t.Errorf("the error doesn't say why: %v", err)
				}
				left(t, s, bucket, prefix, ready, first.ID, err)
			})
		}
	}
}

// service returns a service that gives up after so many times 5 s, and takes a standstill of so many times 2 s for the end of a connection.
func service(t *testing.T, endpoint, bucket, prefix string, patience time.Duration) *amber.Service {
	t.Helper()
	cfg := config(endpoint, bucket, prefix)
	cfg.Timeout = patience * 2 * time.Second
	store, err := s3store.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	svc, err := amber.New(amber.Config{Store: retry.New(store, &retry.Options{Wait: 10 * time.Millisecond, Time: patience * 5 * time.Second, Stall: patience * 3 * time.Second})})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

// left looks at a store from outside.
func left(t *testing.T, s *teststore.S3, bucket, prefix string, ready int, first catalog.ID, failure error) {
	t.Helper()
	store, err := s3store.New(t.Context(), config(s.URL, bucket, prefix))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	st, err := chaos.Look(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range append(st.Violations(), st.Secrets([]string{teststore.S3SecretKey}, failure)...) {
		t.Error(v)
	}
	if got := st.Ready(); len(got) != ready {
		t.Errorf("ready are %v, want %d: %v", got, ready, failure)
	}
	if !slices.Contains(st.Ready(), "orders/"+string(first)+"/") {
		t.Errorf("the first backup is gone: %v", failure)
	}
}
