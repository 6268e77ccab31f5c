package archtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func TestImports(t *testing.T) {
	var all []Package
	for _, dir := range []string{root, filepath.Join(root, "examples"), filepath.Join(root, otelhooks), filepath.Join(root, blobstore)} {
		list, err := List(dir)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
	}
	for _, want := range []string{Module, Module + "/rdb", Module + "/storage/filestore", Module + "/examples/quickstart", Module + "/" + otelhooks, Module + "/" + blobstore} {
		if !slices.ContainsFunc(all, func(p Package) bool { return p.ImportPath == want }) {
			t.Errorf("go list gave no package %s", want)
		}
	}
	for _, breach := range CheckImports(all) {
		t.Error(breach)
	}
}

func TestSources(t *testing.T) {
	goFiles := 0
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := path.Base(name); name == "bin" || name == "tools" || base == "testdata" || base != "." && strings.HasPrefix(base, ".") && base != ".ci" {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || name == ".git" {
			return nil // .git is a file in a work tree besides the first
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		if bytes.IndexByte(text, 0) >= 0 {
			return nil // no text
		}
		breaches := CheckText(name, text)
		if strings.HasSuffix(name, ".go") {
			goFiles++
			breaches = append(breaches, CheckFile(name, text)...)
		}
		for _, b := range breaches {
			t.Error(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if goFiles < 30 {
		t.Errorf("only %d Go files were found", goFiles)
	}
}

// TestImportBreaches gives each import rule something to find, and beside it something harmless.
func TestImportBreaches(t *testing.T) {
	pkg := func(rel string, imports ...string) Package {
		for i, imp := range imports {
			if strings.HasPrefix(imp, "./") {
				imports[i] = path.Join(Module, imp)
			}
		}
		return Package{ImportPath: path.Join(Module, rel), Imports: imports, Deps: imports}
	}
	tests := func(p Package, imports ...string) Package {
		p.TestImports, p.XTestImports = p.Imports, imports
		p.Imports, p.Deps = nil, nil
		return p
	}
	for _, test := range []struct {
		p    Package
		want string // in the only breach, or "" for none
	}{
		{pkg("storage", "io", "./internal/clock"), ""},
		{pkg("storage/filestore", "os", "./storage", "./internal/clock"), ""},
		{pkg("internal/replication", "./internal/resp", "github.com/redis/go-redis/v9"), ""},
		{pkg("catalog", "./rdb", "./storage"), ""},
		{pkg("backup/replica", "./backup", "./catalog", "./internal/resp", "github.com/redis/go-redis/v9/auth"), ""},
		{pkg("", "./backup", "./backup/replica", "./restore/feed", "./catalog/storecatalog"), ""},
		{pkg("examples/amberctl", ".", Module, "./storage/filestore", "github.com/spf13/cobra"), ""},
		{pkg("rdb", "./internal/crc64", "github.com/klauspost/compress/zstd"), ""},
		{pkg("storage/storetest", "testing", "./storage"), ""},
		{pkg("restore/loadertest", "testing", "./restore", "./catalog"), ""},
		{pkg("internal/bench", "./internal/testserver", "testing"), ""},
		{tests(pkg("backup/replica", "./internal/testserver", "./backup/snapshottest"), Module+"/backup"), ""},

		{pkg("storage/blobstore", "./storage", "./storage/filestore", "./storage/memstore", "gocloud.dev/blob"), ""},
		{pkg("storage/blobstore/s3store", "./storage", "./storage/blobstore", "gocloud.dev/blob/s3blob", "github.com/aws/aws-sdk-go-v2/aws"), ""},
		{pkg("storage/blobstore/gcsstore", "./storage/blobstore", "cloud.google.com/go/storage"), ""},
		{pkg("storage/blobstore/azurestore", "./storage/blobstore", "github.com/Azure/azure-sdk-for-go/sdk/azcore", "gocloud.dev/blob/azureblob"), ""},

		{pkg("storage/blobstore", "./storage/blobstore/s3store"), "none of its drivers"},
		{pkg("otelhooks", Module, "./backup", "./internal/clock", "go.opentelemetry.io/otel/metric"), ""},
		{pkg("otelhooks", "go.opentelemetry.io/otel/sdk/metric"), "SDK by hosts"},
		{pkg("otelhooks", "./examples/quickstart"), "higher floor"},
		{pkg("otelhooks", "github.com/prometheus/client_golang/prometheus"), "not among the modules"},
		{pkg("", "./otelhooks"), "higher floor"},
		{pkg("backup", "go.opentelemetry.io/otel/trace"), "not among the modules"},
		{Package{ImportPath: Module + "/backup/replica", Deps: []string{"go.opentelemetry.io/otel/trace"}}, "otelhooks only"},
		{Package{ImportPath: Module + "/storage/blobstore/s3store", Deps: []string{"go.opentelemetry.io/otel/trace"}}, ""},
		{pkg("storage/blobstore", "./storage/seal"), "never a sibling"},
		{pkg("storage/blobstore/s3store", "./storage/filestore"), "never a sibling"},
		{pkg("storage/blobstore/s3store", "./storage/blobstore/gcsstore"), "never a sibling"},
		{pkg("storage/blobstore", "github.com/aws/aws-sdk-go-v2/aws"), "links"},
		{pkg("storage/blobstore", "example.org/gocloud"), "not among the modules"},
		{Package{ImportPath: Module + "/storage/blobstore/s3store", Deps: []string{"cloud.google.com/go/storage"}}, "its own store"},
		{Package{ImportPath: Module + "/storage/blobstore/gcsstore", Deps: []string{"github.com/Azure/azure-sdk-for-go/sdk/azcore"}}, "its own store"},
		{Package{ImportPath: Module + "/storage/blobstore/azurestore", Deps: []string{"cloud.google.com/go/storage"}}, "its own store"},
		{Package{ImportPath: Module, Deps: []string{"gocloud.dev/blob"}}, "its own store"},
		{Package{ImportPath: Module + "/catalog", Deps: []string{"github.com/aws/smithy-go"}}, "its own store"},
		{pkg("storage", "./catalog"), "higher floor"},
		{pkg("internal/resp", "./rdb"), "higher floor"},
		{pkg("catalog/storecatalog", "./backup"), "higher floor"},
		{pkg("restore", Module), "higher floor"},
		{pkg("", "./examples/quickstart"), "higher floor"},
		{pkg("rdb", "./storage"), "same floor"},
		{pkg("backup", "./restore"), "same floor"},
		{pkg("schedule", "./backup"), "same floor"},
		{pkg("storage/filestore", "./storage/memstore"), "never a sibling"},
		{pkg("storage", "./storage/memstore"), "none of its drivers"},
		{pkg("helpers", "io"), "no room"},
		{pkg("storage/s3", "gocloud.dev/blob"), "not among the modules"},
		{pkg("rdb", "github.com/redis/go-redis/v9"), "rdb links"},
		{Package{ImportPath: Module + "/rdb", Deps: []string{"golang.org/x/sync/errgroup"}}, "rdb links"},
		{Package{ImportPath: Module + "/backup", Deps: []string{"io", "testing"}}, "for tests"},
		{Package{ImportPath: Module + "/backup", Deps: []string{"testing/iotest"}}, "for tests"},
		{Package{ImportPath: Module + "/backup", Deps: []string{"github.com/google/go-cmp/cmp"}}, "for tests"},
		{Package{ImportPath: Module + "/examples/quickstart", Deps: []string{Module + "/internal/testserver"}}, "for tests"},
		{Package{ImportPath: Module, Deps: []string{Module + "/storage/storetest"}}, "for tests"},
		{pkg("storage/storetest", "testing", "./storage", "./internal/testserver"), "public suite"},
		{pkg("restore/loadertest", "testing", "./restore", "./storage/memstore"), "public suite"},
		{pkg("restore/loadertest", "testing", "./restore", "github.com/google/go-cmp/cmp"), "public suite"},
		{pkg("amber", "io"), "no room"},
		{pkg("", "./internal/bench"), "stands on top"},
		{tests(pkg("storage", "./catalog")), "higher floor"},
		{tests(pkg("storage"), Module), "higher floor"},
	} {
		got := CheckImports([]Package{test.p})
		switch {
		case test.want == "" && len(got) != 0:
			t.Errorf("%+v: unexpected %q", test.p, got)
		case test.want != "" && (len(got) == 0 || !strings.Contains(got[0], test.want)):
			t.Errorf("%+v: %q, want one with %q", test.p, got, test.want)
		}
	}
}

// TestSourceBreaches gives each rule for sources something to find.
func TestSourceBreaches(t *testing.T) {
	file := func(imports, body string) string {
		return "package p\n\nimport (\n" + imports + "\n)\n\nfunc f() {\n" + body + "\n}\n"
	}
	for _, test := range []struct {
		name, source string
		want         string // the line and what else the only breach holds, or "" for none
	}{
		{"storage/a.go", file(`"time"`, "time.Now()"), "storage/a.go:8: time.Now"},
		{"storage/a.go", file(`t "time"`, "t.Sleep(1)"), "time.Sleep"},
		{"storage/a.go", file(`"time"`, "now := time.Now\n_ = now"), "time.Now"},
		{"storage/a.go", file(`"time"`, "time.AfterFunc(1, f)"), "time.AfterFunc"},
		{"storage/a.go", file(`"time"`, "_ = time.Unix(0, 0)"), ""},
		{"storage/a.go", file(`"context"`, "time.Now()"), ""}, // no package time here
		{"internal/clock/a.go", file(`"time"`, "time.Now()"), ""},
		{"internal/testserver/a.go", file(`"time"`, "time.Now()"), ""},
		{"storage/a_test.go", file(`"time"`, "time.Now()"), ""},
		{"examples/x/a.go", strings.Replace(file(`"time"`, "time.Now()"), "package p", "package main", 1), ""},
		{"storage/a.go", file(`"os"`, "os.Exit(1)"), "os.Exit"},
		{"examples/x/a.go", strings.Replace(file(`"os"`, "os.Exit(1)"), "package p", "package main", 1), ""},
		{"storage/a.go", file(`"os"`, `os.Getenv("X")`), "os.Getenv"},
		{"storage/a.go", file(`"fmt"`, "fmt.Println()"), "fmt.Println"},
		{"storage/a.go", file(`"fmt"`, "fmt.Sprintln()"), ""},
		{"storage/a.go", file("", "println()"), "println"},
		{"storage/a.go", file(`"context"`, "context.Background()"), "context.Background"},
		{"storage/a.go", file(`"context"`, "context.TODO()"), "context.TODO"},
		{"storage/a.go", file(`"log/slog"`, `slog.Info("x")`), "slog.Info"},
		{"storage/a.go", file(`"log"`, ""), "package log"},
		{"examples/x/a.go", strings.Replace(file(`"log"`, ""), "package p", "package main", 1), "package log"},
		{"storage/a.go", "package p\n\nfunc init() {}\n", "storage/a.go:3: no init"},
		{"storage/a.go", "package p\n\ntype t int\n\nfunc (t) init() {}\n", ""},
		{"storage/a_test.go", file(`"testing"`, "var t *testing.T\nt.Skip()"), "Skip"},
		{"storage/a_test.go", file(`"testing"`, "var t *testing.T\nt.SkipNow()"), "Skip"},
		{"storage/a.go", "package p\n" + strings.Repeat("\n", MaxLines), "lines"},
		{"storage/a_test.go", "package p\n" + strings.Repeat("\n", MaxLines), ""},
		{"storage/a_test.go", "package p\n" + strings.Repeat("\n", MaxTestLines), "lines"},
		{"storage/storetest/a.go", file(`"os"`, `os.Getenv("X")`), ""},
		{"storage/a.go", "package", "expected"},
	} {
		got := CheckFile(test.name, []byte(test.source))
		switch {
		case test.want == "" && len(got) != 0:
			t.Errorf("%s: unexpected %q for\n%s", test.name, got, test.source)
		case test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)):
			t.Errorf("%s: %q, want one with %q for\n%s", test.name, got, test.want, test.source)
		}
	}
}

func TestTextBreaches(t *testing.T) {
	// The paths are put together here, or this file would be in breach.
	for _, dir := range []string{"root", "work", "Users", "home/alice"} {
		for _, line := range []string{"see /%s/x", "\"/%s\"", "path=/%s/y", "(/%s/z)", "/%s/first"} {
			text := "fine\n" + fmt.Sprintf(line, dir) + "\n"
			if got := CheckText("README.md", []byte(text)); len(got) != 1 || !strings.Contains(got[0], "README.md:2:") {
				t.Errorf("%q: %q", text, got)
			}
		}
	}
	for _, line := range []string{"/var/backups", "file:///var/x", "the /home page", "network/" + "work/", "https://x.org/root/y", "/workers"} {
		if got := CheckText("README.md", []byte(line)); len(got) != 0 {
			t.Errorf("%q: unexpected %q", line, got)
		}
	}
}
