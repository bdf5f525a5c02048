package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// A graph is what `go list -deps` says about one command.
type graph struct {
	root     string // the command itself
	packages map[string]pkg
}

// A pkg is one package as `go list -json` prints it.
type pkg struct {
	ImportPath string
	Imports    []string
	ImportMap  map[string]string // Imports as written → as vendored
	EmbedFiles []string
	Module     *struct{ Main bool }
}

// webFiles are the endings of what a web page is made of.
var webFiles = []string{".html", ".js", ".css", ".svg", ".woff2"}

// readGraph reads the JSON values of `go list -deps`, which come with
// dependencies first and the command last.
func readGraph(r io.Reader) (graph, error) {
	g := graph{packages: map[string]pkg{}}
	for d := json.NewDecoder(r); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return graph{}, fmt.Errorf("go list: %w", err)
		}
		g.packages[p.ImportPath], g.root = p, p.ImportPath
	}
	if g.root == "" {
		return graph{}, errors.New("go list: no package")
	}
	return g, nil
}

// parseDenied returns the import paths in text, one on a line, # comments.
func parseDenied(text string) []string {
	var paths []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			paths = append(paths, line)
		}
	}
	return paths
}

// denied returns one error for each entry of list that is reachable, and one
// for each package that embeds a web page. Every error names the shortest chain
// of imports that leads there.
func (g graph) denied(list []string) []error {
	var faults []error
	for _, d := range list {
		if chain := g.route(func(p pkg) bool { return p.ImportPath == d || strings.HasPrefix(p.ImportPath, d+"/") }); chain != nil {
			faults = append(faults, fmt.Errorf("denied: %s", strings.Join(chain, " → ")))
		}
	}
	if chain := g.route(pkg.embedsWeb); chain != nil {
		faults = append(faults, fmt.Errorf("embeds a web page: %s", strings.Join(chain, " → ")))
	}
	return faults
}

func (p pkg) embedsWeb() bool {
	return slices.ContainsFunc(p.EmbedFiles, func(name string) bool { return slices.Contains(webFiles, path.Ext(name)) })
}

// route returns the shortest chain from the command to a package that is
// wanted, nil when there is none.
func (g graph) route(wanted func(pkg) bool) []string {
	from := map[string]string{g.root: ""}
	for queue := []string{g.root}; len(queue) > 0; queue = queue[1:] {
		p := g.packages[queue[0]]
		if wanted(p) {
			var chain []string
			for name := queue[0]; name != ""; name = from[name] {
				chain = append(chain, name)
			}
			slices.Reverse(chain)
			return chain
		}
		for _, name := range p.Imports {
			if mapped, ok := p.ImportMap[name]; ok {
				name = mapped
			}
			if _, seen := from[name]; !seen {
				from[name] = queue[0]
				queue = append(queue, name)
			}
		}
	}
	return nil
}
