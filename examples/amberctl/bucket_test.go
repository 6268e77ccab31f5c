package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore/azurestore"
	"github.com/amberkv/amber/storage/blobstore/gcsstore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// newS3Ctl calls the program with a bucket of its own, on a server of its own that keeps objects as files.
func newS3Ctl(t *testing.T, env ...string) *ctl {
	s := teststore.StartS3(t)
	bucket := s.Bucket("backups")
	look, err := s3store.New(t.Context(), s3store.Config{Bucket: bucket, Prefix: "nightly", Endpoint: s.URL, AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { look.Close() })
	return &ctl{store: filepath.Join(s.Objects(bucket), "nightly"), bucket: look, url: "s3://" + bucket + "/nightly?endpoint=" + s.URL,
		env: append(s3Env(teststore.S3AccessKey, teststore.S3SecretKey), env...)}
}

// newGCSCtl calls the program with a bucket of a server that speaks GCS.
func newGCSCtl(t *testing.T, env ...string) *ctl {
	s := teststore.StartGCS(t)
	bucket := s.Bucket("backups")
	look, err := gcsstore.New(t.Context(), gcsstore.Config{Bucket: bucket, Prefix: "nightly", Endpoint: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { look.Close() })
	return &ctl{bucket: look, url: "gs://" + bucket + "/nightly", env: append([]string{"STORAGE_EMULATOR_HOST=" + s.Addr}, env...)}
}

// newAzureCtl calls the program with a container of a server that speaks Azure's protocol.
func newAzureCtl(t *testing.T, env ...string) *ctl {
	s := teststore.StartAzure(t)
	name := teststore.Container(t, s, "backups")
	endpoint := s.URL + "/" + teststore.AzureAccount
	look, err := azurestore.New(t.Context(), azurestore.Config{Account: teststore.AzureAccount, Key: teststore.AzureKey, Endpoint: endpoint, Container: name, Prefix: "nightly"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { look.Close() })
	return &ctl{bucket: look, url: "azblob://" + name + "/nightly?endpoint=" + endpoint,
		env: append([]string{"AZURE_STORAGE_ACCOUNT=" + teststore.AzureAccount, "AZURE_STORAGE_KEY=" + teststore.AzureKey}, env...)}
}

// The doctor finds nothing wrong with servers that speak GCS and Azure.
func TestDoctorBuckets(t *testing.T) {
	for name, where := range map[string]func(*testing.T, ...string) *ctl{"GCS": newGCSCtl, "Azure": newAzureCtl} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := where(t)
			d := parse[examined](t, c, exitDone, "doctor", "--large", "9", "--verbose")
			if !d.OK || len(d.Facts) == 0 || len(with(d.Diagnosis, "ok")) != len(d.Findings) {
				t.Errorf("the doctor finds %+v", d.Diagnosis)
			}
			if left := c.objects(t); len(left) > 0 {
				t.Errorf("the doctor left %v", left)
			}
		})
	}
}

// What a server wrote into a bucket is listed and imported, also by reference, and exported into it again. TestImportFromBucket does more of it in S3.
func TestImportFromClouds(t *testing.T) {
	for name, where := range map[string]func(*testing.T, ...string) *ctl{"GCS": newGCSCtl, "Azure": newAzureCtl} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := where(t)
			for key, file := range map[string]string{"dump.rdb": someRDB, "carts-summary.dfs": someSet + "-summary.dfs", "carts-0000.dfs": someSet + "-0000.dfs",
				"carts-0001.dfs": someSet + "-0001.dfs"} {
				if err := storage.WriteFile(t.Context(), c.bucket, key, readFile(t, file), nil); err != nil {
					t.Fatal(err)
				}
			}
			found := map[string]bool{}
			for _, d := range parse[[]dumpfile.Dump](t, c, exitDone, "import", "--list", "--from-store", c.url) {
				found[d.Name] = d.Complete
			}
			if len(found) != 2 || !found["dump.rdb"] || !found["carts-summary.dfs"] {
				t.Errorf("found: %v", found)
			}
			other := newCtl(t, c.env...)
			b := parse[catalog.Backup](t, other, exitDone, "import", "--id", "orders", "--from-store", c.url, "dump.rdb")
			other.run(t, exitDone, "verify", string(b.ID))
			// And back again, byte for byte.
			other.run(t, exitDone, "export", string(b.ID), "--to", strings.Replace(c.url, "/nightly", "/nightly/back.rdb", 1))
			if got, err := storage.ReadFile(t.Context(), c.bucket, "back.rdb", 1<<20); err != nil || !bytes.Equal(got, readFile(t, someRDB)) {
				t.Errorf("what was exported has %d bytes, %v", len(got), err)
			}
			if b = parse[catalog.Backup](t, c, exitDone, "import", "--id", "carts", "--adopt", "carts-summary.dfs"); b.Keys != 39 || !b.Parts[0].Adopted {
				t.Errorf("adopted: %+v", b)
			}
			c.run(t, exitDone, "verify", string(b.ID))
			c.run(t, exitDone, "delete", string(b.ID))
			c.run(t, exitDone, "sweep")
			for key := range found {
				if !slices.Contains(c.objects(t), key) {
					t.Errorf("%s was deleted with a backup that referred to it", key)
				}
			}
		})
	}
}

// s3Env is an environment in which nothing of the machine's own configuration of AWS has a part.
func s3Env(accessKey, secretKey string) []string {
	return []string{"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull, "AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey}
}

// The doctor on a real S3 server: what is wrong with credentials, bucket and region is found, and each gets its own advice.
func TestDoctorS3(t *testing.T) {
	t.Parallel()
	iam := t.TempDir()
	// A user as the gateway keeps it, who may do what a bucket's policy allows.
	users := `{"accessAccounts":{"reader":{"access":"reader","secret":"CANARY-reader","role":"user"}}}`
	if err := os.WriteFile(filepath.Join(iam, "users.json"), []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	s := teststore.StartS3(t, "--iam-dir", iam)
	bucket := s.Bucket("backups")
	meta := filepath.Join(s.Dir, "sidecar", bucket, "meta")
	if err := os.MkdirAll(meta, 0o700); err != nil {
		t.Fatal(err)
	}
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["reader"]},"Action":["s3:GetObject","s3:ListBucket"],
		"Resource":["arn:aws:s3:::backups","arn:aws:s3:::backups/*"]}]}`
	if err := os.WriteFile(filepath.Join(meta, "policy"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "s3://" + bucket + "/nightly?endpoint=" + s.URL
	root := s3Env(teststore.S3AccessKey, teststore.S3SecretKey)

	c := &ctl{store: s.Objects(bucket), url: url, env: root}
	d := parse[examined](t, c, exitDone, "doctor", "--large", "9", "--objects", "30")
	if got := with(d.Diagnosis, "ok"); !d.OK || len(got) != len(d.Findings) || !slices.Contains(got, "exclusive race") {
		t.Errorf("a store that is well: %+v", d.Findings)
	}
	if d.Store != "s3://backups/nightly" {
		t.Errorf("the store is called %s", d.Store)
	}
	facts := map[string]string{}
	for _, f := range d.Facts {
		facts[f.Name] = f.Value
	}
	if facts["endpoint"] != s.URL || facts["region"] != teststore.S3Region || !strings.Contains(facts["credentials"], "AWS_ACCESS_KEY_ID") {
		t.Errorf("the facts are %v", facts)
	}
	for _, key := range c.objects(t) {
		if !strings.HasPrefix(key, ".") { // the gateway's own
			t.Errorf("%s is left", key)
		}
	}

	for name, test := range map[string]struct {
		url    string
		env    []string
		failed []string
		advice string // of put
	}{
		"wrong secret":   {url, s3Env(teststore.S3AccessKey, "CANARY-wrong"), []string{"put", "list"}, "secret key"},
		"unknown key":    {url, s3Env("nobody", "CANARY-wrong"), []string{"put", "list"}, "access key"},
		"missing bucket": {strings.Replace(url, "backups", "elsewhere", 1), root, []string{"put", "list"}, "bucket doesn't exist"},
		"wrong region":   {url + "&region=eu-central-1", root, []string{"put", "list"}, "region="},
		"only reading":   {url, s3Env("reader", "CANARY-reader"), []string{"put"}, "s3:PutObject"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &ctl{store: s.Objects(bucket), url: test.url, env: test.env}
			d := parse[examined](t, c, exitFailed, "doctor")
			if got := with(d.Diagnosis, "fail"); d.OK || !slices.Equal(got, test.failed) {
				t.Fatalf("what fails is %v: %+v", got, d.Findings)
			}
			if f := d.Findings[0]; f.Check != "put" || !strings.Contains(f.Advice, test.advice) {
				t.Errorf("%s: %+v, want advice with %q", f.Check, f, test.advice)
			}
			out, stderr := c.run(t, exitFailed, "doctor")
			if strings.Contains(out+stderr, "CANARY") {
				t.Errorf("a secret is told: %s%s", out, stderr)
			}
			for _, text := range []string{"endpoint ", s.URL, "the environment", "What to change:", "put"} {
				if !strings.Contains(out, text) {
					t.Errorf("there is no %q in\n%s", text, out)
				}
			}
		})
	}

	// No credentials at all, and a URL that can't be.
	c = &ctl{store: s.Objects(bucket), url: url, env: root[:2]}
	if _, stderr := c.run(t, exitFailed, "doctor"); !strings.Contains(stderr, "AWS_ACCESS_KEY_ID") {
		t.Errorf("without credentials: %s", stderr)
	}
}
