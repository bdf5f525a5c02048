package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// modules are those that any of the programs is linked with, sorted, each
// version once: what `go version -m` says.
func modules(programs []string) ([]debug.Module, error) {
	var all []debug.Module
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", program, err)
		}
		all = append(all, debug.Module{Path: "std", Version: info.GoVersion})
		for _, m := range info.Deps {
			all = append(all, linked(m))
		}
	}
	slices.SortFunc(all, func(a, b debug.Module) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
	})
	return slices.Compact(all), nil
}

// linked is the module that was linked where m was asked for. A folder in its
// place, which has no version, is a copy of it: scripts/cross.sh makes one.
func linked(m *debug.Module) debug.Module {
	if m.Replace != nil && m.Replace.Version != "(devel)" {
		m = m.Replace
	}
	return debug.Module{Path: m.Path, Version: m.Version}
}

// A bom is a CycloneDX document, version 1.5 (cyclonedx.org/docs/1.5/json).
type bom struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Serial     string      `json:"serialNumber"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Timestamp time.Time `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string      `json:"type"`
	Ref        string      `json:"bom-ref"`
	Name       string      `json:"name"`
	Version    string      `json:"version,omitempty"`
	PURL       string      `json:"purl,omitempty"`
	Hashes     []hash      `json:"hashes,omitempty"`
	Components []component `json:"components,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

// packed are the endings of packages, which hold programs that are named beside
// them.
var packed = []string{".deb", ".ipk", ".apk"}

// sbom prints what the files are: programs, with what they are made of, and
// packages.
func sbom(o options, files []string) error {
	doc := bom{Format: "CycloneDX", Spec: "1.5", Version: 1, Metadata: metadata{
		o.when, component{Type: "application", Ref: o.name, Name: o.name, Version: o.version},
	}}
	var programs []string
	for _, file := range files {
		sum, err := sumOf(file)
		if err != nil {
			return err
		}
		if !slices.Contains(packed, filepath.Ext(file)) {
			programs = append(programs, file)
		}
		name := filepath.ToSlash(filepath.Clean(file))
		doc.Metadata.Component.Components = append(doc.Metadata.Component.Components,
			component{Type: "file", Ref: name, Name: name, Hashes: []hash{{"SHA-256", sum}}})
	}
	all, err := modules(programs)
	if err != nil {
		return err
	}
	for _, m := range all {
		purl := "pkg:golang/" + m.Path + "@" + m.Version
		doc.Components = append(doc.Components, component{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl})
	}
	// The serial number is a UUID of the content, so that it is the same again.
	content, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	u := sha256.Sum256(content)
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8, RFC 9562
	doc.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
	e := json.NewEncoder(o.out)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}

// licences are the names of files that have to go with a program.
var licences = []string{"LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "PATENTS*"}

// notice prints the licences of all that the programs are linked with. Their
// sources are in the module cache, since the programs were built here.
func notice(o options, programs []string) error {
	all, err := modules(programs)
	if err != nil {
		return err
	}
	env, err := exec.Command("go", "env", "GOROOT", "GOMODCACHE").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	root, cache, _ := strings.Cut(strings.TrimSpace(string(env)), "\n")
	for _, m := range all {
		dir := filepath.Join(cache, escape(m.Path)+"@"+escape(m.Version))
		if m.Path == "std" {
			dir = root
		}
		found := 0
		for _, pattern := range licences {
			names, _ := filepath.Glob(filepath.Join(dir, pattern)) // the patterns are right
			for _, name := range names {
				b, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				fmt.Fprintf(o.out, "═══ %s %s: %s\n\n%s\n", m.Path, m.Version, filepath.Base(name), strings.TrimSpace(string(b))+"\n")
				found++
			}
		}
		if found == 0 {
			return errors.New(m.Path + " " + m.Version + ": no licence in " + dir)
		}
	}
	return nil
}

// escape is a module's path as the module cache spells it: golang.org/ref/mod,
// "Module cache".
func escape(path string) string {
	var b strings.Builder
	for _, r := range path {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
