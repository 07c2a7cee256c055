// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The house rules. A rule that is not here is a wish.
const (
	module        = "github.com/peapod/peapod"
	maxFile       = 500
	maxTestFile   = 800
	maxFunc       = 100
	maxTestFunc   = 200
	keeperProgram = "keeper/peapod-keeper"
)

// floors is ARCHITECTURE.md's picture: a package imports only lower floors and
// its own subpackages. Rooms are named by their first path element.
var floors = map[string]int{
	"linux": 1, "api": 1, "cri": 1, "keeper": 1,
	"auth": 2, "image": 2, "sandbox": 2, "network": 2, "volume": 2,
	"apiserver": 3, "scheduler": 3, "controller": 3, "service": 3, "dns": 3, "node": 3, "runtime": 3,
	"daemon": 4, "cli": 4,
}

// exceptions to the floors, each with its reason.
var exceptions = map[[2]string]string{
	{"cli", "daemon"}:           "the command line starts the daemon",
	{"controller", "apiserver"}: "controller/world is an API server for the tests of the controllers",
	{"keeper", "linux"}:         "the keeper may use the kernel's functions and nothing else of ours",
}

// forbidden imports by room: what makes the three sentences of the design true.
var forbidden = map[string][]string{
	"runtime":    {"k8s.io/api/", "k8s.io/client-go", "k8s.io/apiserver"},
	"sandbox":    {"k8s.io/api/", "k8s.io/client-go", "k8s.io/apiserver"},
	"image":      {"k8s.io/api/", "k8s.io/client-go", "k8s.io/apiserver"},
	"network":    {"k8s.io/api/", "k8s.io/client-go", "k8s.io/apiserver"},
	"keeper":     {"k8s.io/", "google.golang.org/", "sigs.k8s.io/"},
	"linux":      {"k8s.io/", "google.golang.org/", "sigs.k8s.io/"},
	"node":       {"go.etcd.io/", "k8s.io/apiserver/pkg/storage"},
	"scheduler":  {"go.etcd.io/", "k8s.io/apiserver/pkg/storage"},
	"controller": {"go.etcd.io/", "k8s.io/apiserver/pkg/storage"},
	"dns":        {"go.etcd.io/", "k8s.io/apiserver/pkg/storage"},
	"service":    {"go.etcd.io/", "k8s.io/apiserver/pkg/storage"},
}

var junkNames = []string{"util", "utils", "common", "helper", "helpers", "shared", "misc", "base", "pkg", "internal"}

// source is one parsed Go file of the product.
type source struct {
	path      string // slash separated, from the module's root
	file      *ast.File
	fset      *token.FileSet
	lines     int
	generated bool
}

func (s source) room() string { return strings.SplitN(s.path, "/", 2)[0] }
func (s source) dir() string  { return filepath.ToSlash(filepath.Dir(s.path)) }
func (s source) test() bool   { return strings.HasSuffix(s.path, "_test.go") }

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || hasFile(path, "go.mod")) {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, b, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{filepath.ToSlash(path), f, fset, strings.Count(string(b), "\n"), ast.IsGenerated(f)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hasFile(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

func TestImportsGoDown(t *testing.T) {
	for _, s := range sources(t) {
		room := s.room()
		for _, spec := range s.file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if path == "k8s.io/kubernetes" || strings.HasPrefix(path, "k8s.io/kubernetes/") {
				t.Errorf("%s imports %s: the product never does", s.path, path)
			}
			if s.test() {
				continue
			}
			for _, bad := range forbidden[room] {
				if strings.HasPrefix(path+"/", strings.TrimSuffix(bad, "/")+"/") || strings.HasPrefix(path, bad) {
					t.Errorf("%s imports %s, which the room %s must not know", s.path, path, room)
				}
			}
			other, ours := strings.CutPrefix(path, module+"/")
			if !ours || floors[room] == 0 {
				continue
			}
			target := strings.SplitN(other, "/", 2)[0]
			if target == room || exceptions[[2]string{room, target}] != "" {
				continue
			}
			if floors[target] == 0 || floors[target] >= floors[room] {
				t.Errorf("%s (floor %d) imports %s (floor %d)", s.path, floors[room], path, floors[target])
			}
		}
	}
}

func TestEveryRoomHasAFloor(t *testing.T) {
	free := []string{"main.go", "house_test.go", "test", "examples", "bench"}
	for _, s := range sources(t) {
		if floors[s.room()] == 0 && !slices.Contains(free, s.room()) {
			t.Errorf("%s: the room %q has no floor in house_test.go", s.path, s.room())
		}
	}
}

func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		fileLimit, funcLimit := maxFile, maxFunc
		if s.test() {
			fileLimit, funcLimit = maxTestFile, maxTestFunc
		}
		if s.lines > fileLimit {
			t.Errorf("%s has %d lines; the limit is %d", s.path, s.lines, fileLimit)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > funcLimit {
				t.Errorf("%s: %s has %d lines; the limit is %d", s.path, f.Name.Name, n, funcLimit)
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	docs := map[string][]string{}
	for _, s := range sources(t) {
		if s.test() || s.generated {
			continue
		}
		if _, seen := docs[s.dir()]; !seen {
			docs[s.dir()] = nil
		}
		if s.file.Doc != nil {
			docs[s.dir()] = append(docs[s.dir()], s.path)
		}
	}
	for dir, files := range docs {
		if len(files) != 1 {
			t.Errorf("%s has %d package comments %v; it needs one", dir, len(files), files)
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains(junkNames, s.file.Name.Name) {
			t.Errorf("%s: %q says nothing about what the package owns", s.path, s.file.Name.Name)
		}
	}
}

func TestLicenceLine(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		b, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(b), "// SPDX-License-Identifier: Apache-2.0\n") && !strings.HasPrefix(string(b), "//go:build") {
			t.Errorf("%s does not begin with its SPDX line", s.path)
		}
	}
}

// TestNoWorkAtInit keeps package initialisation free of work: the process
// start is on the path of the first Pod.
func TestNoWorkAtInit(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || s.generated {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s has an init function", s.path)
				}
			case *ast.GenDecl:
				if name := initCall(d); name != "" {
					t.Errorf("%s calls %s at package level", s.path, name)
				}
			}
		}
	}
}

// initCall names a package-level call that does real work, or "".
func initCall(d *ast.GenDecl) (found string) {
	if d.Tok != token.VAR {
		return ""
	}
	heavy := []string{"regexp.MustCompile", "regexp.Compile", "template.Must", "runtime.NewScheme", "serializer.NewCodecFactory"}
	for _, spec := range d.Specs {
		for _, v := range spec.(*ast.ValueSpec).Values {
			ast.Inspect(v, func(n ast.Node) bool {
				if _, lit := n.(*ast.FuncLit); lit {
					return false
				}
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
					if name := fmt.Sprint(sel.X, ".", sel.Sel.Name); slices.Contains(heavy, name) {
						found = name
					}
				}
				return true
			})
		}
	}
	return found
}

// TestNothingPolls forbids the calls that make a program busy when nothing
// happens.
func TestNothingPolls(t *testing.T) {
	bad := map[string]bool{"time.Sleep": true, "time.Tick": true, "time.NewTicker": true, "wait.Poll": true, "wait.PollUntilContextTimeout": true, "wait.PollUntilContextCancel": true}
	for _, s := range sources(t) {
		if strings.HasPrefix(s.path, "test/") || strings.HasPrefix(s.path, "examples/") || strings.HasPrefix(s.path, "bench/") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if ok && bad[fmt.Sprint(sel.X, ".", sel.Sel.Name)] && !allowedWait(s, n) {
				t.Errorf("%s uses %v.%s", s.fset.Position(n.Pos()), sel.X, sel.Sel.Name)
			}
			return true
		})
	}
}

// allowedWait lets a line through that says why nothing else can be waited on:
// a comment with "polls:" on the line before or on the line itself.
func allowedWait(s source, n ast.Node) bool {
	line := s.fset.Position(n.Pos()).Line
	for _, c := range s.file.Comments {
		at := s.fset.Position(c.End()).Line
		if (at == line || at == line-1) && strings.Contains(c.Text(), "polls:") {
			return true
		}
	}
	return false
}

// TestKeeperIsSmall holds the keeper to the standard library and the kernel.
func TestKeeperIsSmall(t *testing.T) {
	allowed := regexp.MustCompile(`^([a-z0-9/]+|golang\.org/x/sys/unix|` + regexp.QuoteMeta(module) + `/(keeper|linux).*)$`)
	for _, s := range sources(t) {
		if s.room() != "keeper" || s.test() {
			continue
		}
		for _, spec := range s.file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if !allowed.MatchString(path) {
				t.Errorf("%s imports %s; the keeper uses the standard library, x/sys and linux/ only", s.path, path)
			}
		}
	}
	if _, err := os.Stat(keeperProgram); err != nil {
		t.Errorf("the keeper's program is not at %s: %v", keeperProgram, err)
	}
}
