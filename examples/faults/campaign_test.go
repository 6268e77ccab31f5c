// Package faults makes backups in a real S3 server that fails, or that is reached over a bad network.
package faults

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/chaos"
	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// whole says whether everything is tried; see package chaos.
func whole() bool { return os.Getenv("CAMPAIGN") != "" }

// opener opens stores in a bucket, each below a prefix of its own.
func opener(s *teststore.S3, bucket string) func(t testing.TB) (storage.Store, func()) {
	var opened atomic.Int64
	return func(t testing.TB) (storage.Store, func()) {
		store, err := s3store.New(t.Context(), config(s.URL, bucket, fmt.Sprintf("%06d", opened.Add(1))))
		if err != nil {
			t.Fatal(err)
		}
		return store, func() { store.Close() }
	}
}

func config(endpoint, bucket, prefix string) s3store.Config {
	return s3store.Config{Bucket: bucket, Prefix: prefix, Endpoint: endpoint, AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey,
		PartSize: 5 << 20}
}

// TestCampaignInS3 fails some calls of a store in S3, others each day; the whole campaign every one in every way.
func TestCampaignInS3(t *testing.T) {
	t.Parallel()
	s := teststore.StartS3(t)
	c := chaos.Campaign{Open: opener(s, s.Bucket("backups")), Full: whole(), Turn: time.Now().YearDay(), Secrets: []string{teststore.S3SecretKey}}
	if !c.Full {
		c.Operations, c.Every = []string{"backup", "restore", "sweep"}, 60
	}
	report(t, c.Run(t))
}

// TestCampaignOfPartsInS3: as before, with a snapshot that is uploaded in several parts.
func TestCampaignOfPartsInS3(t *testing.T) {
	t.Parallel()
	s := teststore.StartS3(t)
	c := chaos.Campaign{Open: opener(s, s.Bucket("backups")), Full: whole(), Turn: time.Now().YearDay(), Secrets: []string{teststore.S3SecretKey},
		Data: chaos.Snapshot(60, 100_000), Operations: []string{"backup", "copy", "restore"}, Parallel: 2}
	if !c.Full {
		c.Operations, c.Every = c.Operations[:1], 80
	}
	report(t, c.Run(t))
}

func report(t *testing.T, n chaos.Count) {
	t.Helper()
	t.Logf("%d calls × %d kinds of fault: %d faults, %d operations failed, %d violations", n.Sites, n.Kinds, n.Injections, n.Failed, n.Violations)
	if n.Injections == 0 {
		t.Error("nothing was tried")
	}
}
