// Package archtest holds the rules of the house that a compiler doesn't: which package may import which, what production
// code may call, and what no file may mention. Its tests apply them to the whole tree, and apply each rule to a small
// input that breaks it.
//
// A rule that gets in the way is changed here, in the same commit as the code that needs it, with its reason.
package archtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// Module is the path of the root module.
const Module = "github.com/amberkv/amber"

// A Package is what `go list -json` tells of one package, as far as the rules need it.
type Package struct {
	ImportPath   string
	Name         string
	Imports      []string // of its production files
	TestImports  []string // of its tests
	XTestImports []string
	Deps         []string // everything that its production files link
}

// List lists the packages of the module in a directory.
func List(dir string) ([]Package, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list in %s: %w\n%s", dir, err, stderr.Bytes())
	}
	var all []Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list in %s: %w", dir, err)
		}
		all = append(all, p)
	}
}

// The floors, from the ground up. A package imports only lower floors.
const (
	floorInternal = iota
	floorGround
	floorCatalog
	floorWork
	floorService
	floorAround
	floorPrograms
)

var floors = map[string]int{
	"internal":      floorInternal,
	"rdb":           floorGround,
	"storage":       floorGround,
	"catalog":       floorCatalog,
	"backup":        floorWork,
	"restore":       floorWork,
	"schedule":      floorWork,
	"":              floorService, // package amber itself
	room(otelhooks): floorAround,
	"examples":      floorPrograms,
}

// measuring are programs below internal, and a test library that tries everything: they stand on top of it, as the examples do.
var measuring = []string{"internal/bench", "internal/chaos"}

// testLibraries may link package testing, and nothing that is meant for production may link them. The suites are public:
// a stranger's implementation is tested by them, so they import nothing from outside and nothing internal.
var (
	suites        = []string{"storage/storetest", "catalog/catalogtest", "backup/snapshottest", "restore/loadertest", "schedule/journaltest"}
	testLibraries = append([]string{"internal/testserver", "internal/teststore", "internal/dflymaster", "internal/chaos", "internal/archtest"}, suites...)
)

// linkable are the modules that production packages of the root module may import. Each has its reason in ARCHITECTURE.md.
var linkable = []string{
	"github.com/redis/go-redis/v9",
	"github.com/klauspost/compress",
	"github.com/pierrec/lz4/v4",
	"golang.org/x/sync",
	"github.com/hashicorp/go-retryablehttp",
	"github.com/robfig/cron/v3",
	"filippo.io/age",
}

// The module storage/blobstore links the clouds, each in a package of its own. What a package of it may not link is beside it; of every other
// package but programs, it is all of them.
const blobstore = "storage/blobstore"

var (
	aws    = []string{"github.com/aws"}
	azure  = []string{"github.com/Azure", "github.com/AzureAD"}
	google = []string{"cloud.google.com/go"}

	clouds = map[string][][]string{
		blobstore:               {aws, azure, google},
		blobstore + "/s3store":  {azure, google},
		blobstore + "/gcsstore": {aws, azure},
		// gocloud's own driver links how Google finds credentials, but not its storage.
		blobstore + "/azurestore": {aws, {"cloud.google.com/go/storage", "google.golang.org/api/storage"}},
	}
	cloudModules = []string{"gocloud.dev", "github.com/aws/aws-sdk-go-v2", "github.com/aws/smithy-go", "github.com/Azure/azure-sdk-for-go/sdk",
		"cloud.google.com/go/storage", "google.golang.org/api", "github.com/googleapis/gax-go/v2"}

	// openers are packages that open stores of several kinds by URL.
	openers = map[string][]string{blobstore: {"storage/filestore", "storage/memstore"}}
)

// The module otelhooks links the API of OpenTelemetry, and neither its SDK nor an exporter: those are the host's. Nothing else links any of it, but the stores
// of the clouds, whose libraries do, and programs.
const otelhooks = "otelhooks"

var (
	telemetry = []string{"go.opentelemetry.io"}
	sdks      = []string{"go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters", "go.opentelemetry.io/contrib"}
)

// forTests are modules that only tests may import.
var forTests = []string{
	"github.com/google/go-cmp",
	"github.com/rogpeppe/go-internal",
	"go.uber.org/goleak",
	"pgregory.net/rapid",
	"github.com/stretchr/testify",
}

// CheckImports returns every breach of the import rules, each a sentence that begins with the package.
func CheckImports(all []Package) []string {
	var out []string
	for _, p := range all {
		from, ours := local(p.ImportPath)
		if !ours {
			continue
		}
		breach := func(format string, args ...any) {
			out = append(out, cmp.Or(from, "amber")+": "+fmt.Sprintf(format, args...))
		}
		if _, ok := floors[room(from)]; !ok {
			breach("is in no room that has a floor: add it to archtest")
			continue
		}
		for _, imp := range p.Imports {
			if to, ours := local(imp); ours {
				checkEdge(from, to, breach)
			} else if !standard(imp) && room(from) != "examples" && !isTestLibrary(from) && !within(imp, linkable) && !(under(from, blobstore) && within(imp, cloudModules)) &&
				!(room(from) == otelhooks && within(imp, telemetry)) {
				breach("imports %s, which is not among the modules that the root module may link", imp)
			}
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			if to, ours := local(imp); ours && to != from && floor(to) > floor(from) && room(from) != "internal" {
				breach("its tests import %s, which is on a higher floor", imp)
			}
		}
		if slices.Contains(suites, from) {
			for _, imp := range p.Imports {
				to, ours := local(imp)
				if public := ours && to == room(to) && floor(to) <= floor(from); !public && !standard(imp) {
					breach("is a public suite and imports %s: a stranger who runs it gets the standard library and the rooms "+
						"that its interfaces speak of, %s and below, no more", imp, path.Dir(from))
				}
			}
		}
		if !isTestLibrary(from) && !slices.Contains(measuring, from) {
			checkTestLibraries(p, breach)
		}
		checkClouds(p, from, breach)
		checkTelemetry(p, from, breach)
		if room(from) == "rdb" {
			for _, dep := range p.Deps {
				if _, ours := local(dep); !ours && !standard(dep) && !within(dep, []string{"github.com/klauspost/compress", "github.com/pierrec/lz4/v4"}) {
					breach("links %s: rdb links the standard library, klauspost/compress and pierrec/lz4 only", dep)
				}
			}
		}
	}
	return out
}

// checkEdge looks at one import within the project.
func checkEdge(from, to string, breach func(string, ...any)) {
	switch {
	case slices.Contains(measuring, to):
		breach("imports %s, which stands on top of everything", to)
	case room(from) == room(to):
		if room(from) != "internal" && !under(from, to) && !strings.HasPrefix(to, room(from)+"/internal/") && !slices.Contains(openers[from], to) {
			// What drivers share is below internal of their room. storage/filestore imports storage, and neither storage its drivers nor one driver another.
			breach("imports %s: a driver imports its parent, never a sibling, and a parent none of its drivers", to)
		}
	case floor(to) == floor(from):
		breach("imports %s, which is on the same floor", to)
	case floor(to) > floor(from):
		breach("imports %s, which is on a higher floor", to)
	}
}

// checkClouds looks at what a package links of the clouds' libraries.
func checkClouds(p Package, from string, breach func(string, ...any)) {
	banned, ok := clouds[from]
	switch {
	case room(from) == "examples" || isTestLibrary(from) || under(from, blobstore) && !ok:
		return
	case !ok:
		banned = [][]string{aws, azure, google, {"gocloud.dev", "google.golang.org"}}
	}
	for _, dep := range p.Deps {
		if within(dep, slices.Concat(banned...)) {
			breach("links %s: each cloud is linked by its own store only", dep)
			return
		}
	}
}

// checkTelemetry looks at what a package links of OpenTelemetry.
func checkTelemetry(p Package, from string, breach func(string, ...any)) {
	banned := telemetry
	switch {
	case room(from) == "examples" || isTestLibrary(from) || under(from, blobstore):
		return
	case room(from) == otelhooks:
		banned = sdks
	}
	for _, dep := range p.Deps {
		if within(dep, banned) {
			breach("links %s: OpenTelemetry is linked by otelhooks only, and its SDK by hosts", dep)
			return
		}
	}
}

func checkTestLibraries(p Package, breach func(string, ...any)) {
	for _, dep := range p.Deps {
		to, ours := local(dep)
		if dep == "testing" || strings.HasPrefix(dep, "testing/") || ours && isTestLibrary(to) || within(dep, forTests) {
			breach("links %s, which is for tests", dep)
		}
	}
}

// local returns a package's path within the project, "" for the root package.
func local(importPath string) (string, bool) {
	if importPath == Module {
		return "", true
	}
	return strings.CutPrefix(importPath, Module+"/")
}

func room(rel string) string {
	first, _, _ := strings.Cut(rel, "/")
	return first
}

func floor(rel string) int {
	if slices.Contains(measuring, rel) {
		return floorPrograms
	}
	return floors[room(rel)]
}

func isTestLibrary(rel string) bool { return slices.Contains(testLibraries, rel) }

// standard says whether an import path is of the standard library: its first element has no dot.
func standard(importPath string) bool { return !strings.Contains(room(importPath), ".") }

// under says whether a package is another or below it.
func under(rel, dir string) bool { return within(rel, []string{dir}) }

func within(importPath string, modules []string) bool {
	return slices.ContainsFunc(modules, func(m string) bool { return importPath == m || strings.HasPrefix(importPath, m+"/") })
}
