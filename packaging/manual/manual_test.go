package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// programs are those that ship, with what they are documented in.
var programs = []string{"x402", "x402-agent", "x402-relay", "x402-facilitator"}

var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "x402-manual"); err != nil {
		panic("manual: " + err.Error())
	}
	status := m.Run()
	if err := os.RemoveAll(scratch); err != nil {
		panic("manual: " + err.Error())
	}
	os.Exit(status)
}

var built = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", scratch+"/bin/", "../../cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// pagesOf are the help texts of a program that is built for this.
func pagesOf(t *testing.T, program string) []page {
	t.Helper()
	if err := built(); err != nil {
		t.Fatal(err)
	}
	pages, err := read(filepath.Join(scratch, "bin", program))
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

func need(t *testing.T, command string) {
	t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// TestPages renders every page as man does: without a complaint, and with all
// that the help text says, word for word.
func TestPages(t *testing.T) {
	need(t, "man")
	for _, program := range programs {
		pages := pagesOf(t, program)
		if len(pages) < 4 {
			t.Errorf("%s has %d pages", program, len(pages))
		}
		for _, p := range pages {
			file := filepath.Join(t.TempDir(), p.name()+".8")
			if err := os.WriteFile(file, []byte((edition{8, "1.0"}).roff(p, pages)), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("man", "--warnings", "--no-hyphenation", "--no-justification", "-E", "UTF-8", "-l", file)
			cmd.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8", "MAN_KEEP_FORMATTING=", "GROFF_NO_SGR=1")
			var complaints strings.Builder
			cmd.Stderr = &complaints
			out, err := cmd.Output()
			if err != nil || complaints.Len() > 0 {
				t.Errorf("%s: %v %s", p.name(), err, &complaints)
			}
			text := strings.Join(strings.Fields(string(out)), " ")
			for _, s := range p.sections {
				want := strings.Join(strings.Fields(strings.Join(s.lines, " ")), " ")
				if !strings.Contains(text, want) {
					t.Errorf("%s: %s is not\n%s\nin\n%s", p.name(), s.title, want, text)
				}
			}
		}
	}
}

// TestBash completes as bash does.
func TestBash(t *testing.T) {
	need(t, "bash")
	for _, test := range []struct{ typed, want string }{
		{"x402 wal", "wallet"},
		{"x402 wallet sho", "show"},
		{"x402 wallet show --j", "--json"},
		{"x402 help wallet sho", "show"},
		{"x402 relay add --st", "--state"},
		{"x402-agent sim acc", "accept"},
		{"x402-agent sim accept --js", "--json"},
		{"x402-agent run --config help_te", "help_test.txt"},
		{"x402 connect --state testd", "testdata"},
		{"x402 connect --country d", ""},
		{"x402-facilitator run --le", "--ledger"},
		{"x402-relay version --h", "--help"},
	} {
		name, _, _ := strings.Cut(test.typed, " ")
		script := bash(pagesOf(t, name)) + `
compopt() { :; }
read -ra COMP_WORDS <<<"$1"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_` + identifier(name) + `
echo "${COMPREPLY[@]}"`
		cmd := exec.Command("bash", "-euc", script, "bash", test.typed)
		cmd.Dir = "testdata/files"
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != test.want {
			t.Errorf("%q: %q, %v; want %q", test.typed, got, err, test.want)
		}
	}
}

// TestFish completes as fish does.
func TestFish(t *testing.T) {
	need(t, "fish")
	for _, test := range []struct{ typed, want string }{
		{"x402 wallet sho", "show"},
		{"x402 wallet show --js", "--json"},
		{"x402-agent sim acc", "accept"},
		{"x402-agent run --conf", "--config"},
	} {
		name, _, _ := strings.Cut(test.typed, " ")
		cmd := exec.Command("fish", "-N", "-c", fish(pagesOf(t, name))+"\ncomplete -C "+quoted(test.typed))
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if got, _, _ := strings.Cut(string(out), "\t"); err != nil || strings.TrimSpace(got) != test.want {
			t.Errorf("%q: %q, %v; want %q", test.typed, out, err, test.want)
		}
	}
}

func TestZsh(t *testing.T) {
	need(t, "zsh")
	for _, program := range programs {
		cmd := exec.Command("zsh", "-fn")
		cmd.Stdin = strings.NewReader(zsh(pagesOf(t, program)))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", program, err, out)
		}
	}
}

func TestParse(t *testing.T) {
	p, err := parse("NAME\n    x sub - do it\n\nSYNOPSIS\n    x sub [flags]\n    x sub more NAME\n\nFLAGS\n    --file FILE    What. And\n                   more.\n    --state STATE on or off\n    --help         Help.\n")
	if err != nil {
		t.Fatal(err)
	}
	if p.name() != "x-sub" || p.summary != "do it" || len(p.sections) != 2 {
		t.Errorf("%+v", p)
	}
	want := []entry{{"--file", "FILE", "What. And more."}, {"--state", "STATE", "on or off"}, {"--help", "", "Help."}}
	if got := p.flags(); !slices.Equal(got, want) {
		t.Errorf("flags %q", got)
	}
	if got := p.subcommands(); !slices.Equal(got, []entry{{name: "more"}}) {
		t.Errorf("subcommands %q", got)
	}
	for _, text := range []string{"", "hello\n", "NAME\n    x\n", "NAME\n\nFLAGS\n", "FLAGS\n    --a\n"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q is a help text", text)
		}
	}
}

// TestQuote: what man could take for markup is text.
func TestQuote(t *testing.T) {
	p := page{words: []string{"x"}, sections: []section{{"DESCRIPTION", []string{".TH 'a' `b` \\n ~^", "'quoted'"}}}}
	roff := edition{1, "1.0"}.roff(p, []page{p})
	if !regexp.MustCompile(`(?m)^\\&\.TH \\\(aqa`).MatchString(roff) || !strings.Contains(roff, "\n\\(aqquoted\\(aq\n") {
		t.Error(roff)
	}
}
