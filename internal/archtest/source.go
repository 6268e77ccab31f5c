package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A ban is a call that production code doesn't make.
type ban struct {
	pkg, name string // of the standard library: the last element of its path, and the function
	why       string
	except    []string // packages that may, with the reason beside them
	programs  bool     // programs (package main) may too
}

func bans() []ban {
	// Test libraries wait for what they test and start processes of their own, to which they speak by environment and
	// standard output. A public suite can't import internal/clock.
	clock := append([]string{"internal/clock"}, testLibraries...)
	env := append([]string{"internal/crashpoint"}, testLibraries...) // crash points: compiled into test programs only
	var out []ban
	for _, name := range []string{"Now", "Sleep", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"} {
		// A program is the host: nobody is there to hand it a clock.
		out = append(out, ban{"time", name, "take the time from internal/clock or from a Now in a Config", clock, true})
	}
	out = append(out, ban{"os", "Exit", "return an error", nil, true})
	// Openers find credentials where the provider's own tools do.
	for cloud := range clouds {
		if cloud != blobstore {
			env = append(env, cloud)
		}
	}
	for _, name := range []string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"} {
		out = append(out, ban{"os", name, "a library is told what it needs in a Config", env, true})
	}
	for _, name := range []string{"Print", "Printf", "Println"} {
		out = append(out, ban{"fmt", name, "a library prints nothing; it has a *slog.Logger", testLibraries, true})
	}
	for _, name := range []string{"Background", "TODO"} {
		out = append(out, ban{"context", name, "take the caller's ctx first, or context.WithoutCancel of it", nil, true})
	}
	for _, name := range []string{"Default", "SetDefault", "Info", "Warn", "Error", "Debug"} {
		out = append(out, ban{"slog", name, "use the *slog.Logger of the Config", nil, true})
	}
	return out
}

// MaxLines and MaxTestLines are the lengths of a file past which it ought to be two.
const (
	MaxLines     = 650
	MaxTestLines = 900
)

// CheckFile returns every breach of the rules for sources in one Go file. Its name is relative to the root of the
// project, with slashes.
func CheckFile(name string, source []byte) []string {
	var out []string
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
	if err != nil {
		return []string{err.Error()}
	}
	breach := func(at ast.Node, format string, args ...any) {
		out = append(out, fmt.Sprintf("%s:%d: ", name, fset.Position(at.Pos()).Line)+fmt.Sprintf(format, args...))
	}
	f := &checkedFile{pkg: path.Dir(name), program: file.Name.Name == "main", test: strings.HasSuffix(name, "_test.go"), imports: importsOf(file)}
	limit := MaxLines
	if f.test {
		limit = MaxTestLines
	}
	if n := strings.Count(string(source), "\n"); n > limit {
		breach(file, "the file has %d lines; past %d it ought to be two", n, limit)
	}
	for _, imp := range file.Imports {
		if p, _ := strconv.Unquote(imp.Path.Value); p == "log" && !f.test {
			breach(imp, "package log writes where the host doesn't expect it; use log/slog")
		}
	}
	for _, decl := range file.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			breach(fn, "no init functions: what a package needs is made where it is used")
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			f.checkSelector(sel, func(format string, args ...any) { breach(sel, format, args...) })
		}
		if call, ok := n.(*ast.CallExpr); ok && !f.test {
			if id, ok := call.Fun.(*ast.Ident); ok && (id.Name == "print" || id.Name == "println") {
				breach(call, "%s is for debugging", id.Name)
			}
		}
		return true
	})
	return out
}

type checkedFile struct {
	pkg           string
	program, test bool
	imports       map[string]string // local name to path
}

// importsOf returns the names under which a file knows its imports.
func importsOf(file *ast.File) map[string]string {
	m := make(map[string]string)
	for _, imp := range file.Imports {
		p, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			continue
		}
		name := path.Base(p)
		if imp.Name != nil {
			name = imp.Name.Name
		}
		m[name] = p
	}
	return m
}

func (f *checkedFile) checkSelector(sel *ast.SelectorExpr, breach func(string, ...any)) {
	if f.test {
		if slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			breach("%s: a test that is skipped proves nothing and looks as if it did", sel.Sel.Name)
		}
		return
	}
	id, ok := sel.X.(*ast.Ident)
	if !ok {
		return
	}
	imported, ok := f.imports[id.Name]
	if !ok || !standard(imported) {
		return
	}
	for _, b := range bans() {
		if path.Base(imported) != b.pkg || sel.Sel.Name != b.name || b.programs && f.program || slices.Contains(b.except, f.pkg) {
			continue
		}
		breach("%s.%s: %s", b.pkg, b.name, b.why)
	}
}

// machinePath matches an absolute path that exists on somebody's machine only: somebody's home, or where a checkout was.
var machinePath = regexp.MustCompile(`(?:^|[\s"'` + "`" + `(=:,])/(?:root|work|Users|home/[a-z][a-z0-9_-]*)(?:/|\b)`)

// CheckText returns every breach of the rules for any text file of the project.
func CheckText(name string, text []byte) []string {
	var out []string
	line := 0
	for l := range strings.Lines(string(text)) {
		line++
		if m := machinePath.FindString(l); m != "" {
			out = append(out, fmt.Sprintf("%s:%d: %q is a path of one machine", name, line, strings.TrimSpace(m)))
		}
	}
	return out
}
