// Command manual makes manual pages and shell completions of what programs say
// with --help, so that neither ever differs from the other.
//
//	manual -section 8 -out DIR PROGRAM...
//
// DIR gets usr/share/man, and the folders in which bash, zsh and fish look for
// completions. The programs are run.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	out := flag.String("out", "", "root folder to write into")
	section := flag.Int("section", 1, "section of the manual")
	release := flag.String("version", "", "version to name in the pages")
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "manual: -out DIR and a PROGRAM are required")
		os.Exit(2)
	}
	for _, program := range flag.Args() {
		pages, err := read(program)
		if err == nil {
			err = write(*out, pages, edition{*section, *release})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "manual:", err)
			os.Exit(1)
		}
	}
}

// read asks a program for the help of all its commands. The program's own page
// is the first.
func read(program string) ([]page, error) {
	root, err := ask(program)
	if err != nil {
		return nil, err
	}
	pages := []page{root}
	for i := 0; i < len(pages); i++ { // pages grows by the commands of commands
		for _, c := range pages[i].commands() {
			if c.name == "help" || c.name == "version" {
				continue
			}
			p, err := ask(program, append(slices.Clone(pages[i].words[1:]), c.name)...)
			if err != nil {
				return nil, err
			}
			pages = append(pages, p)
		}
	}
	return pages, nil
}

func ask(program string, command ...string) (page, error) {
	cmd := exec.Command(program, append([]string{"help"}, command...)...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return page{}, fmt.Errorf("%s: %w", cmd, err)
	}
	p, err := parse(string(text))
	if err != nil {
		return page{}, fmt.Errorf("%s: %w", cmd, err)
	}
	if want := append([]string{filepath.Base(program)}, command...); !slices.Equal(p.words, want) {
		return page{}, fmt.Errorf("%s: explains %q", cmd, p.words)
	}
	return p, nil
}

// write writes the pages of one program, and its completions.
func write(root string, pages []page, e edition) error {
	name := pages[0].name()
	files := map[string]string{
		"usr/share/bash-completion/completions/" + name:         bash(pages),
		"usr/share/zsh/vendor-completions/_" + name:             zsh(pages),
		"usr/share/fish/vendor_completions.d/" + name + ".fish": fish(pages),
	}
	for _, p := range pages {
		files[fmt.Sprintf("usr/share/man/man%d/%s.%d", e.section, p.name(), e.section)] = e.roff(p, pages)
	}
	for file, text := range files {
		file = filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// identifier is a program's name as a shell function's.
func identifier(name string) string { return strings.ReplaceAll(name, "-", "_") }
