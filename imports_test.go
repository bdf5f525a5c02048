package x402_test

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/depinsim/x402"

// denyFile lists what must not be reachable from cmd/x402-agent; make budgets
// reads it too and looks through the dependencies' own imports.
const denyFile = "scripts/budgets/deny.txt"

// layers says which top folders a top folder may import besides itself. The
// four parts import none: agent is the only place where they meet.
var layers = map[string][]string{
	"cmd":       {"agent", "modem", "tunnel", "meter", "channel"},
	"agent":     {"modem", "tunnel", "meter", "channel"},
	"modem":     nil,
	"tunnel":    nil,
	"meter":     nil,
	"channel":   nil,
	"scripts":   {"agent", "modem", "tunnel", "meter", "channel"},
	"packaging": nil,
	"docs":      nil,
}

// passages are single edges that layers forbid.
var passages = map[string]string{"cmd/x402": "scripts/demo"}

// demoFolder runs the real commands as processes, so it imports nothing of what
// is inside them: only the words of money and the client that looks into the
// ledger, and what demoForeign lists of other modules.
const demoFolder = "scripts/demo"

var (
	demoOurs    = []string{"channel", "channel/facilitator", "channel/facilitator/nethttp"}
	demoForeign = []string{"golang.org/x/sync/errgroup"}
)

// vague names say nothing about what is inside: a helper lives beside its user.
var vague = []string{"util", "utils", "common", "types", "pkg", "misc", "helper", "helpers"}

// skipped are folders of the top that hold nothing written by hand.
var skipped = []string{"bin", "dist"}

// A source is one parsed Go file; its name is relative to the top folder.
type source struct {
	name string
	fset *token.FileSet
	file *ast.File
	text []byte
}

func (s source) folder() string { return path.Dir(s.name) }
func (s source) isTest() bool   { return strings.HasSuffix(s.name, "_test.go") }

// part is the top folder that s is in, "." at the top itself.
func (s source) part() string { return top(s.folder()) }

func top(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	return first
}

// imports are the paths that s imports, those of this module without its name.
func (s source) imports() []string {
	var paths []string
	for _, spec := range s.file.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		if p == module {
			p = "."
		}
		paths = append(paths, strings.TrimPrefix(p, module+"/"))
	}
	return paths
}

// ours says whether an import path as returned by imports is in this module.
func ours(p string) bool {
	_, known := layers[top(p)]
	return known
}

// parseTree parses every Go file below the top folder and returns the folders
// too. It reads files instead of asking `go list`, because the go command then
// knows what the result depends on and never serves a stale one from its cache.
func parseTree(fsys fs.FS, mode parser.Mode) (sources []source, folders []string, err error) {
	err = fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if name != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || slices.Contains(skipped, name)) {
				return fs.SkipDir
			}
			folders = append(folders, name)
			return nil
		case path.Ext(name) != ".go":
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, text, mode)
		if err != nil {
			return err
		}
		sources = append(sources, source{name: name, fset: fset, file: file, text: text})
		return nil
	})
	return sources, folders, err
}

// importFaults returns one line for each breach of the rules about folders and
// imports, in a stable order.
func importFaults(fsys fs.FS, denied []string) ([]string, error) {
	sources, folders, err := parseTree(fsys, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	faults := folderFaults(folders)
	for _, s := range sources {
		faults = append(faults, layerFaults(s)...)
	}
	faults = append(faults, testingFaults(sources)...)
	faults = append(faults, circleFaults(sources)...)
	faults = append(faults, agentFaults(sources, denied)...)
	slices.Sort(faults)
	return slices.Compact(faults), nil
}

func folderFaults(folders []string) []string {
	var faults []string
	for _, folder := range folders {
		if _, known := layers[top(folder)]; folder != "." && !known {
			faults = append(faults, folder+": not one of the top folders")
		}
		if slices.Contains(vague, path.Base(folder)) {
			faults = append(faults, folder+": the name says nothing")
		}
	}
	return faults
}

// layerFaults checks the imports of one file against layers.
func layerFaults(s source) []string {
	var faults []string
	fault := func(p, why string) { faults = append(faults, fmt.Sprintf("%s imports %s: %s", s.name, p, why)) }
	for _, p := range s.imports() {
		switch {
		case p == "testing" && !s.isTest() && !strings.HasSuffix(s.folder(), "test"):
			fault(p, "only tests and …test packages do")
		case s.folder() == demoFolder && !s.isTest() && !inDemo(p):
			fault(p, "the demo knows the commands from outside")
		case !ours(p) || passages[s.folder()] == p:
		case s.part() != top(p) && !slices.Contains(layers[s.part()], top(p)):
			fault(p, s.part()+" may not import "+top(p))
		case s.part() == top(p) && s.folder() == top(p) && p != top(p) && !s.isTest():
			fault(p, "a part's root does not import what is below it")
		}
	}
	return faults
}

// testingFaults finds programs that reach packages for tests, such as the double
// of a contract: those that import testing.
func testingFaults(sources []source) []string {
	helpers := map[string]bool{}
	for _, s := range sources {
		if !s.isTest() && slices.Contains(s.imports(), "testing") {
			helpers[s.folder()] = true
		}
	}
	var faults []string
	for _, s := range sources {
		for _, p := range s.imports() {
			if helpers[p] && !s.isTest() && !strings.HasSuffix(s.folder(), "test") {
				faults = append(faults, fmt.Sprintf("%s imports %s: it is for tests", s.name, p))
			}
		}
	}
	return faults
}

// inDemo says whether demoFolder may import p. The standard library's paths
// have no dot in their first name.
func inDemo(p string) bool {
	if ours(p) {
		return slices.Contains(demoOurs, p)
	}
	return !strings.Contains(top(p), ".") || slices.Contains(demoForeign, p)
}

// circleFaults finds circles between the subfolders of a part, which the
// compiler sees only when they are also circles between packages. Tests may
// import any neighbour.
func circleFaults(sources []source) []string {
	edges := map[string][]string{}
	for _, s := range sources {
		for _, p := range s.imports() {
			from, to := neighbour(s.folder()), neighbour(p)
			if !s.isTest() && ours(p) && from != to && top(from) == top(to) {
				edges[from] = append(edges[from], to)
			}
		}
	}
	var faults []string
	for start := range edges {
		// A circle is reported once, from its first name in the alphabet.
		if chain := route(edges, start, func(p string) bool { return slices.Contains(edges[p], start) }); chain != nil && slices.Min(chain) == start {
			faults = append(faults, "circle "+strings.Join(append(chain, start), " → "))
		}
	}
	return faults
}

// neighbour is the first two names of a folder: channel/ledger/embedded
// belongs to channel/ledger.
func neighbour(folder string) string {
	names := strings.SplitN(folder, "/", 3)
	return strings.Join(names[:min(len(names), 2)], "/")
}

// onRouters says whether router builds have the file: scripts/cross.sh gives
// them the tag router.
func (s source) onRouters() bool {
	for line := range strings.Lines(string(s.text)) {
		line = strings.TrimSpace(line)
		if expr, err := constraint.Parse(line); err == nil {
			return expr.Eval(func(tag string) bool { return tag == "router" || tag == "linux" || tag == "unix" })
		}
		if line != "" && !strings.HasPrefix(line, "//") {
			break
		}
	}
	return true
}

// agentFaults names what is denied and yet reachable from cmd/x402-agent, with
// the chain of imports that leads there.
func agentFaults(sources []source, denied []string) []string {
	const agent = "cmd/x402-agent"
	edges := map[string][]string{}
	for _, s := range sources {
		if !s.isTest() && s.onRouters() {
			edges[s.folder()] = append(edges[s.folder()], s.imports()...)
		}
	}
	var faults []string
	for _, d := range denied {
		d = strings.TrimPrefix(d, module+"/")
		if chain := route(edges, agent, func(p string) bool { return p == d || strings.HasPrefix(p, d+"/") }); chain != nil {
			faults = append(faults, "too heavy for a router: "+strings.Join(chain, " → "))
		}
	}
	return faults
}

// route returns the shortest chain from start to a node that is wanted, nil
// when there is none. It goes round by breadth and by name, so that the answer
// is always the same.
func route(edges map[string][]string, start string, wanted func(string) bool) []string {
	from := map[string]string{start: ""}
	for queue := []string{start}; len(queue) > 0; queue = queue[1:] {
		node := queue[0]
		if wanted(node) {
			var chain []string
			for n := node; n != ""; n = from[n] {
				chain = append(chain, n)
			}
			slices.Reverse(chain)
			return chain
		}
		for _, next := range slices.Sorted(slices.Values(edges[node])) {
			if _, seen := from[next]; !seen {
				from[next] = node
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// readDenied returns the import paths in denyFile, one on a line, # comments.
func readDenied(fsys fs.FS) ([]string, error) {
	text, err := fs.ReadFile(fsys, denyFile)
	if err != nil {
		return nil, err
	}
	var denied []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line != "" {
			denied = append(denied, line)
		}
	}
	return denied, lines.Err()
}

func TestImports(t *testing.T) {
	fsys := os.DirFS(".")
	denied, err := readDenied(fsys)
	if err != nil {
		t.Fatal(err)
	}
	faults, err := importFaults(fsys, denied)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range faults {
		t.Error(fault)
	}
}

// TestImportsGuilty holds one small tree for each rule, so that a rule that
// stopped working is noticed.
func TestImportsGuilty(t *testing.T) {
	imports := func(paths ...string) *fstest.MapFile {
		var text strings.Builder
		text.WriteString("package p\n")
		for _, p := range paths {
			text.WriteString("import _ " + strconv.Quote(p) + "\n")
		}
		return &fstest.MapFile{Data: []byte(text.String())}
	}
	tagged := func(tag, path string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("//go:build " + tag + "\n\n" + string(imports(path).Data))}
	}
	tests := map[string]struct {
		tree fstest.MapFS
		want []string
	}{
		"innocent": {fstest.MapFS{
			"cmd/x402-agent/main.go":        imports(module + "/agent/seller"),
			"agent/seller/seller.go":        imports(module+"/agent", module+"/modem", module+"/channel"),
			"agent/agent.go":                imports(module + "/tunnel"),
			"channel/channel.go":            imports("errors"),
			"channel/channel_test.go":       imports("testing", module+"/channel/channeltest"),
			"channel/channeltest/t.go":      imports("testing", module+"/channel"),
			"channel/ledger/embedded/e.go":  imports(module+"/channel/ledger", "go.etcd.io/bbolt"),
			"tunnel/quic/testdata/ignored/": imports(module + "/meter"),
			"cmd/x402/demo.go":              imports(module + "/scripts/demo"),
			"scripts/demo/demo.go":          imports("net/http", "golang.org/x/sync/errgroup", module+"/channel/facilitator"),
			"scripts/demo/demo_test.go":     imports("testing", module+"/agent/seller"),
		}, nil},
		"parts meet": {fstest.MapFS{"tunnel/quic/a.go": imports(module + "/meter")},
			[]string{"tunnel/quic/a.go imports meter: tunnel may not import meter"}},
		"tests of parts meet": {fstest.MapFS{"tunnel/a_test.go": imports(module + "/channel/x402")},
			[]string{"tunnel/a_test.go imports channel/x402: tunnel may not import channel"}},
		"upwards": {fstest.MapFS{"modem/a.go": imports(module + "/agent"), "agent/a.go": imports(module + "/cmd/x402")},
			[]string{"agent/a.go imports cmd/x402: agent may not import cmd", "modem/a.go imports agent: modem may not import agent"}},
		"scripts imported": {fstest.MapFS{"cmd/x402/a.go": imports(module + "/scripts/bench"), "cmd/x402-agent/a.go": imports(module + "/scripts/demo")},
			[]string{"cmd/x402-agent/a.go imports scripts/demo: cmd may not import scripts", "cmd/x402/a.go imports scripts/bench: cmd may not import scripts"}},
		"demo inside": {fstest.MapFS{"scripts/demo/a.go": imports(module+"/agent/seller", "golang.org/x/net/proxy")}, []string{
			"scripts/demo/a.go imports agent/seller: the demo knows the commands from outside",
			"scripts/demo/a.go imports golang.org/x/net/proxy: the demo knows the commands from outside",
		}},
		"root imports home": {fstest.MapFS{"tunnel/a.go": imports(module + "/tunnel/quic")},
			[]string{"tunnel/a.go imports tunnel/quic: a part's root does not import what is below it"}},
		"circle": {fstest.MapFS{
			"channel/facilitator/server/a.go": imports(module + "/channel/ledger"),
			"channel/ledger/embedded/a.go":    imports(module + "/channel/facilitator"),
		}, []string{"circle channel/facilitator → channel/ledger → channel/facilitator"}},
		"top folder": {fstest.MapFS{"server/a.go": imports()}, []string{"server: not one of the top folders"}},
		"vague name": {fstest.MapFS{"agent/internal/misc/a.go": imports()}, []string{"agent/internal/misc: the name says nothing"}},
		"testing":    {fstest.MapFS{"meter/a.go": imports("testing")}, []string{"meter/a.go imports testing: only tests and …test packages do"}},
		"for tests": {fstest.MapFS{
			"channel/a/atest/a.go": imports("testing"),
			"channel/a/a_test.go":  imports("testing", module+"/channel/a/atest"),
			"cmd/x402/main.go":     imports(module + "/channel/a/atest"),
		}, []string{"cmd/x402/main.go imports channel/a/atest: it is for tests"}},
		"heavy": {fstest.MapFS{
			"cmd/x402-agent/main.go": imports(module + "/agent/seller"),
			"agent/seller/a.go":      imports(module+"/channel", module+"/channel/bolt"),
			"channel/bolt/a.go":      imports("go.etcd.io/bbolt"),
		}, []string{"too heavy for a router: cmd/x402-agent → agent/seller → channel/bolt → go.etcd.io/bbolt"}},
		"heavy of ours": {fstest.MapFS{
			"cmd/x402-agent/main.go": imports(module + "/channel/ledger/embedded"),
		}, []string{"too heavy for a router: cmd/x402-agent → channel/ledger/embedded"}},
		"heavy, and not on routers": {fstest.MapFS{
			"cmd/x402-agent/hub.go":    tagged("!router", "go.etcd.io/bbolt"),
			"cmd/x402-agent/router.go": tagged("router", "fmt"),
		}, nil},
		"heavy on routers only": {fstest.MapFS{
			"cmd/x402-agent/router.go": tagged("router && linux", "go.etcd.io/bbolt"),
		}, []string{"too heavy for a router: cmd/x402-agent → go.etcd.io/bbolt"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := importFaults(test.tree, []string{"go.etcd.io/bbolt", module + "/channel/ledger"})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q\nwant %q", got, test.want)
			}
		})
	}
}
