package x402_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// Limits on what has to be read at once. Tests may be longer: their tables are.
const (
	maxFileLines     = 500
	maxFunctionLines = 100
	maxMainLines     = 100 // of a command's main.go, which holds no logic
	maxMethods       = 4   // of an interface
)

// unfinished marks work that was put off. It is written so that this file does
// not contain what it looks for.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)

// styleFaults returns one line for each breach of the rules about what is in a
// file, in a stable order.
func styleFaults(fsys fs.FS) ([]string, error) {
	sources, _, err := parseTree(fsys, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	simulated := simulators(sources)
	var faults []string
	for _, s := range sources {
		c := checker{source: s, simulated: simulated[s.folder()]}
		c.lengths()
		c.comments()
		c.documented()
		for _, decl := range s.file.Decls {
			c.declaration(decl)
		}
		faults = append(faults, c.faults...)
	}
	faults = append(faults, packageFaults(sources)...)
	slices.Sort(faults)
	return slices.Compact(faults), nil
}

// A checker collects the faults of one file.
type checker struct {
	source
	simulated []string // see simulators
	faults    []string
}

func (c *checker) fault(at token.Pos, format string, args ...any) {
	line := c.fset.Position(at).Line
	c.faults = append(c.faults, fmt.Sprintf("%s:%d: %s", c.name, line, fmt.Sprintf(format, args...)))
}

// helpsTests says whether the file is a test or in a package for tests.
func (c *checker) helpsTests() bool { return c.isTest() || strings.HasSuffix(c.folder(), "test") }

func (c *checker) lengths() {
	lines := bytes.Count(c.text, []byte("\n"))
	switch {
	case c.isTest():
	case lines >= maxFileLines:
		c.fault(c.file.Package, "%d lines in a file, limit %d", lines, maxFileLines)
	case c.part() == "cmd" && path.Base(c.name) == "main.go" && lines > maxMainLines:
		c.fault(c.file.Package, "%d lines in main.go, limit %d", lines, maxMainLines)
	}
}

func (c *checker) comments() {
	for _, group := range c.file.Comments {
		if word := unfinished.FindString(group.Text()); word != "" {
			c.fault(group.Pos(), "%s: open an issue instead", word)
		}
	}
}

// wellKnown methods promise what fmt, errors, slog, encoding and net ask for.
var wellKnown = []string{
	"String", "GoString", "Format", "Error", "Unwrap", "Is", "LogValue",
	"MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON",
	"LocalAddr", "RemoteAddr", "Network", "SetDeadline", "SetReadDeadline", "SetWriteDeadline",
}

// documented checks that every exported function, method and type says what it
// promises. A method without a comment is allowed where it is well known or
// its receiver is not exported, since the contract is then the interface's.
// Functions on consecutive lines share the comment above the first.
func (c *checker) documented() {
	if c.isTest() || c.file.Name.Name == "main" {
		return
	}
	commented := 0 // the line after the last function with a comment
	for _, decl := range c.file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			method := d.Recv != nil
			if d.Doc != nil || c.fset.Position(d.Pos()).Line == commented {
				commented = c.fset.Position(d.End()).Line + 1
			} else if d.Name.IsExported() && !(method && (!ast.IsExported(receiver(d)) || slices.Contains(wellKnown, d.Name.Name))) {
				c.fault(d.Pos(), "exported %s has no comment", d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if t, ok := spec.(*ast.TypeSpec); ok && t.Name.IsExported() && d.Doc == nil && t.Doc == nil && t.Comment == nil {
					c.fault(t.Pos(), "exported %s has no comment", t.Name.Name)
				}
			}
		}
	}
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) string {
	for t := d.Recv.List[0].Type; ; {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// declaration checks what is inside one top-level declaration.
func (c *checker) declaration(decl ast.Decl) {
	f, isFunc := decl.(*ast.FuncDecl)
	if isFunc {
		lines := c.fset.Position(f.End()).Line - c.fset.Position(f.Pos()).Line + 1
		if lines > maxFunctionLines && !c.isTest() {
			c.fault(f.Pos(), "%d lines in %s, limit %d", lines, f.Name.Name, maxFunctionLines)
		}
		if f.Recv == nil && f.Name.Name == "init" {
			c.fault(f.Pos(), "func init")
		}
	}
	ast.Inspect(decl, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			c.fault(n.Pos(), "bare go statement: nobody waits for it")
		case *ast.InterfaceType:
			if len(n.Methods.List) > maxMethods {
				c.fault(n.Pos(), "%d methods in an interface, limit %d", len(n.Methods.List), maxMethods)
			}
		case *ast.SelectorExpr:
			c.selector(n, decl)
		}
		return true
	})
}

// selector checks uses of time.Sleep and of T.Skip.
//
// Real time must not pass in a test: a function that sleeps in simulated time
// shows it by naming synctest, or a function beside it that does. Elsewhere a sleep does not end when its context
// does. A test that cannot run here fails under CI=true, or nobody would notice
// that it never ran anywhere; a fuzz body may skip an input.
func (c *checker) selector(n *ast.SelectorExpr, in ast.Decl) {
	x, ok := n.X.(*ast.Ident)
	if !ok {
		return
	}
	f, _ := in.(*ast.FuncDecl)
	switch {
	case x.Name == "time" && n.Sel.Name == "Sleep":
		if c.helpsTests() && !mentions(in, c.simulated...) {
			c.fault(n.Pos(), "time.Sleep on real time in a test")
		}
		if !c.helpsTests() && c.part() != "scripts" {
			c.fault(n.Pos(), "time.Sleep cannot be cancelled")
		}
	case slices.Contains([]string{"t", "b", "f", "tb"}, x.Name) && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, n.Sel.Name):
		if c.helpsTests() && !mentions(in, `"CI"`) && (f == nil || !strings.HasPrefix(f.Name.Name, "Fuzz")) {
			c.fault(n.Pos(), `skips although CI=true: ask os.Getenv("CI") first`)
		}
	}
}

// simulators returns for each folder the names that stand for simulated time:
// synctest, and the functions for tests which name it, directly or by another.
func simulators(sources []source) map[string][]string {
	names := map[string][]string{}
	for _, s := range sources {
		names[s.folder()] = []string{"synctest"}
	}
	for found := true; found; {
		found = false
		for _, s := range sources {
			for _, decl := range s.file.Decls {
				f, ok := decl.(*ast.FuncDecl)
				known := names[s.folder()]
				if ok && s.isTest() && !slices.Contains(known, f.Name.Name) && mentions(f, known...) {
					names[s.folder()], found = append(known, f.Name.Name), true
				}
			}
		}
	}
	return names
}

// mentions says whether an identifier or a literal in node is one of words.
func mentions(node ast.Node, words ...string) bool {
	found := false
	ast.Inspect(node, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			found = found || slices.Contains(words, n.Name)
		case *ast.BasicLit:
			found = found || slices.Contains(words, n.Value)
		}
		return !found
	})
	return found
}

// packageFaults names the packages without a comment that says what they are.
func packageFaults(sources []source) []string {
	commented := map[string]bool{}
	for _, s := range sources {
		if !s.isTest() {
			commented[s.folder()] = commented[s.folder()] || s.file.Doc != nil
		}
	}
	var faults []string
	for folder, ok := range commented {
		if !ok {
			faults = append(faults, folder+": no package comment")
		}
	}
	return faults
}

func TestStyle(t *testing.T) {
	faults, err := styleFaults(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range faults {
		t.Error(fault)
	}
}

// TestStyleGuilty holds one small file for each rule, so that a rule that
// stopped working is noticed.
func TestStyleGuilty(t *testing.T) {
	const doc = "// Package p is a fixture.\npackage p\n"
	long := func(n int) string { return strings.Repeat("\t_ = 0\n", n) }
	tests := map[string]struct {
		name, text string
		want       []string
	}{
		"innocent": {"meter/a.go", doc + `
// A T is documented.
type T struct{}

// M is too.
func (t *T[K]) M() {}

func (t *T[K]) String() string { return "" }

// A and B share a comment.
func A() {}
func B() {}

type hidden struct{}

func (hidden) Close() {}
`, nil},
		"simulated sleep":       {"meter/a_test.go", "package p\nfunc TestA() { synctest.Test(func() { time.Sleep(1) }) }\n", nil},
		"simulated by a helper": {"meter/a_test.go", "package p\nfunc run(f func()) { synctest.Test(f) }\nfunc TestA() { run(func() { time.Sleep(1) }) }\n", nil},
		"guarded skip":          {"meter/a_test.go", "package p\nfunc TestA() { if os.Getenv(\"CI\") == \"true\" { t.Fatal() }; t.Skip() }\n", nil},
		"long file": {"meter/a.go", doc + strings.Repeat("\n", 498),
			[]string{"meter/a.go:2: 500 lines in a file, limit 500"}},
		"long main": {"cmd/x402/main.go", "// Command x402 is a fixture.\npackage main\n" + strings.Repeat("\n", 99),
			[]string{"cmd/x402/main.go:2: 101 lines in main.go, limit 100"}},
		"long function": {"meter/a.go", doc + "func f() {\n" + long(99) + "}\n",
			[]string{"meter/a.go:3: 101 lines in f, limit 100"}},
		"go statement": {"meter/a_test.go", "package p\nfunc f() {\n\tgo f()\n}\n",
			[]string{"meter/a_test.go:3: bare go statement: nobody waits for it"}},
		"init": {"meter/a.go", doc + "func init() {}\n", []string{"meter/a.go:3: func init"}},
		"sleeping test": {"meter/a_test.go", "package p\nfunc TestA() { time.Sleep(1) }\n",
			[]string{"meter/a_test.go:2: time.Sleep on real time in a test"}},
		"sleeping code": {"meter/a.go", doc + "func f() { time.Sleep(1) }\n",
			[]string{"meter/a.go:3: time.Sleep cannot be cancelled"}},
		"silent skip": {"meter/a_test.go", "package p\nfunc TestA() { t.Skip() }\n",
			[]string{`meter/a_test.go:2: skips although CI=true: ask os.Getenv("CI") first`}},
		"put off": {"meter/a.go", doc + "// TO" + "DO: later\n",
			[]string{"meter/a.go:3: TO" + "DO: open an issue instead"}},
		"undocumented": {"meter/a.go", doc + "type T int\nfunc (*T) M() {}\nfunc F() {}\n",
			[]string{"meter/a.go:3: exported T has no comment", "meter/a.go:4: exported M has no comment", "meter/a.go:5: exported F has no comment"}},
		"wide interface": {"meter/a.go", doc + "type i interface { A(); B(); C(); D(); E() }\n",
			[]string{"meter/a.go:3: 5 methods in an interface, limit 4"}},
		"no package comment": {"meter/a.go", "package p\n", []string{"meter: no package comment"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := styleFaults(fstest.MapFS{test.name: {Data: []byte(test.text)}})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q\nwant %q", got, test.want)
			}
		})
	}
}
