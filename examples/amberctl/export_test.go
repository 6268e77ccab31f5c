package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/internal/teststore"
)

// A backup goes into a file, to standard output, into another store, and by a signed URL into a bucket; and a server loads it.
func TestExport(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "redis-8.0")
	set(t, s, "user:1", "one", "user:2", "two", "cart:1", "three")
	id := c.backUp(t, s, "--name", "first")
	dir := t.TempDir()
	file := filepath.Join(dir, "dump.rdb")

	rep := parse[amber.ExportReport](t, c, exitDone, "export", "first", "--to", file, "--dialect", "redis:10")
	data, err := os.ReadFile(file)
	sum := sha256.Sum256(data)
	if err != nil || !strings.HasPrefix(string(data), "REDIS0010") || string(rep.Backup) != id || rep.Keys != 3 || len(rep.Files) != 1 || rep.Files[0].SHA256 != hex.EncodeToString(sum[:]) {
		t.Fatalf("the report is %+v %+v; the file begins with %.9q, %v", rep.Report, rep.Files, data, err)
	}
	has(t, testserver.StartIn(t, "redis-7.0", dir), "user:2", "two")
	if _, stderr := c.run(t, exitFailed, "export", id, "--to", file); !strings.Contains(stderr, "dump.rdb") || !strings.Contains(stderr, "--replace") {
		t.Errorf("a file that is there: %s", stderr)
	}
	out, _ := c.run(t, exitDone, "export", id, "--to", file, "--replace")
	if !strings.Contains(out, id+" is exported as redis:12: 3 keys") {
		t.Errorf("it says %s", out)
	}
	plain, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out, stderr := c.run(t, exitDone, "export", id, "--to", "-")
	if out != string(plain) || !strings.Contains(stderr, "is exported") {
		t.Errorf("standard output has %d bytes, the file %d; %s", len(out), len(plain), stderr)
	}
	c.run(t, exitDone, "export", id, "--to", "file://"+dir+"/sub/set", "--dialect", "dfs", "--shards", "2", "--match", "user:*")
	if out, _ := c.run(t, exitDone, "rdb", "json", filepath.Join(dir, "sub", "set-summary.dfs")); !strings.Contains(out, "two") || strings.Contains(out, "three") {
		t.Errorf("the set holds %s", out)
	}
	if _, stderr := c.run(t, exitFailed, "export", id, "--to", filepath.Join(dir, "b.rdb"), "--sign", "15m"); !strings.Contains(stderr, "--sign") {
		t.Errorf("a URL of a file: %s", stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "b.rdb")); err == nil {
		t.Error("it was written all the same")
	}

	s3 := teststore.StartS3(t)
	bucket := s3.Bucket("exports")
	signed := filepath.Join(dir, "url")
	if err := os.WriteFile(signed, []byte(s3.SignedURL(http.MethodPut, bucket, "dump.rdb", time.Now(), time.Minute)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr = c.run(t, exitFailed, "export", id, "--to", "@"+signed)
	if !strings.Contains(stderr, "--allow-http") || strings.Contains(stderr, "X-Amz-Signature") {
		t.Errorf("http: %s", stderr)
	}
	out, stderr = c.run(t, exitDone, "export", id, "--to", "@"+signed, "--allow-http", "--allow-private", "127.0.0.1", "--verbose")
	if strings.Contains(out+stderr, "X-Amz-Signature") || !strings.Contains(out, s3.URL+"/exports/dump.rdb") {
		t.Errorf("it says %s%s", out, stderr)
	}
	resp, err := http.Get(s3.SignedURL(http.MethodGet, bucket, "dump.rdb", time.Now(), time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != string(plain) {
		t.Errorf("%s: the bucket has %d bytes, %v", resp.Status, len(got), err)
	}
}

// TestExportSet: a set of Dragonfly's comes out as it was, unless another number of shards is asked for.
func TestExportSet(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	dir := t.TempDir()
	var want []string
	for _, end := range []string{"-0000.dfs", "-0001.dfs", "-summary.dfs"} {
		want = append(want, string(readFile(t, someSet+end)))
		writeFile(t, filepath.Join(dir, "dump"+end), readFile(t, someSet+end))
	}
	c.run(t, exitDone, "import", "--id", "carts", "--name", "first", filepath.Join(dir, "dump-summary.dfs"))
	for _, command := range [][]string{{"export", "first", "--to"}, {"restore", "first", "--file"}} {
		for name, more := range map[string][]string{"as it was": nil, "as many": {"--shards", "2"}, "more": {"--shards", "3", "--accept", "all"}} {
			to := t.TempDir()
			c.run(t, exitDone, append(append(slices.Clone(command), filepath.Join(to, "dump"), "--dialect", "dfs"), more...)...)
			var got []string
			files, err := os.ReadDir(to)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				got = append(got, string(readFile(t, filepath.Join(to, f.Name()))))
			}
			if same := slices.Equal(got, want); same != (name != "more") || len(files) != 3 && name != "more" || len(files) != 4 && name == "more" {
				t.Errorf("%s, %s: %v, the same: %v", command[0], name, files, same)
			}
		}
		if _, stderr := c.run(t, exitUsage, append(slices.Clone(command), filepath.Join(dir, "x"), "--dialect", "dfs", "--shards", "1025")...); !strings.Contains(stderr, "1025") {
			t.Errorf("%s: %s", command[0], stderr)
		}
	}
	if _, stderr := c.run(t, exitUsage, "export", "first", "--to", filepath.Join(dir, "x"), "--dialect", "dfs", "--shards", "0"); !strings.Contains(stderr, "--shards 0: 1 to 1024") {
		t.Errorf("no shards: %s", stderr)
	}
}

// A bucket gives a URL of what was exported into it, and takes copies of backups.
func TestExportToBucket(t *testing.T) {
	t.Parallel()
	bucket := newS3Ctl(t)
	c := newCtl(t, bucket.env...)
	s := testserver.Start(t, "redis-8.0")
	set(t, s, "a", "1")
	id := c.backUp(t, s, "--name", "first")
	to := strings.Replace(bucket.url, "?", "/exports/dump.rdb?", 1)
	rep := parse[amber.ExportReport](t, c, exitDone, "export", id, "--to", to, "--sign", "15m")
	if len(rep.Files) != 1 || rep.Files[0].Key != "dump.rdb" || !strings.Contains(rep.Files[0].URL, "X-Amz-Signature=") {
		t.Fatalf("the report is %+v", rep.Files)
	}
	resp, err := http.Get(rep.Files[0].URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if sum := sha256.Sum256(got); err != nil || hex.EncodeToString(sum[:]) != rep.Files[0].SHA256 || int64(len(got)) != rep.Bytes {
		t.Errorf("%s: the URL gives %d bytes, %v; the report says %+v", resp.Status, len(got), err, rep.Files)
	}
	if _, stderr := c.run(t, exitFailed, "export", id, "--to", to); !strings.Contains(stderr, "--replace") {
		t.Errorf("over an object: %s", stderr)
	}
	c.run(t, exitDone, "copy", id, "--to-store", bucket.url)
	bucket.restores(t, "first", "redis-8.0", testserver.Snapshot(t, s.Client(t)))
	other := newCtl(t)
	bucket.run(t, exitDone, "copy", id, "--to-store", other.url)
	other.run(t, exitDone, "verify", "--all")
	other.onlyBackups(t)
}
