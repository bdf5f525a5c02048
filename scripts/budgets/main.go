// Command budgets checks what docs/decisions/0003-no-bbolt-on-the-router.md
// promises router owners about x402-agent: how large the binary may be, raw and
// as xz, and which packages it must not contain. It prints a table and exits
// with 1 when something is over.
//
//	budgets -dist DIR TARGET...
//
// A TARGET is a folder of DIR with a binary in it, named as in the Makefile.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

const agent = "x402-agent"

// The budget is for one target, the commonest router with little flash. The
// others are printed beside it for scale.
const (
	budgetTarget = "linux_mipsle_softfloat"
	budgetRaw    = 11_000_000
	budgetXZ     = 3_200_000
)

func main() {
	dist := flag.String("dist", "dist", "folder with one folder a target")
	deny := flag.String("deny", "scripts/budgets/deny.txt", "import paths that the agent must not reach")
	flag.Parse()
	err := errors.Join(checkSizes(os.Stdout, *dist, flag.Args()), checkImports(os.Stdout, *deny))
	if err != nil {
		fmt.Fprintln(os.Stderr, "budgets:", strings.ReplaceAll(err.Error(), "\n", "\nbudgets: "))
		os.Exit(1)
	}
}

// A size is what one target's binary measures, in bytes. xz is 0 when there is
// no xz command.
type size struct {
	target  string
	raw, xz int64
}

func checkSizes(w io.Writer, dist string, targets []string) error {
	xz, err := exec.LookPath("xz")
	if err != nil {
		if os.Getenv("CI") == "true" {
			return errors.New("xz is missing: apt-get install xz-utils")
		}
		fmt.Fprintln(w, "compressed sizes are not checked: xz is missing, apt-get install xz-utils")
	}
	var sizes []size
	for _, target := range targets {
		s, err := measure(xz, filepath.Join(dist, target, agent))
		if err != nil {
			return err
		}
		s.target = target
		sizes = append(sizes, s)
	}
	if err := printSizes(w, sizes); err != nil {
		return err
	}
	return overBudget(sizes)
}

// measure compresses the file with the command at xz, if there is one.
func measure(xz, file string) (size, error) {
	info, err := os.Stat(file)
	if err != nil {
		return size{}, err
	}
	s := size{raw: info.Size()}
	if xz == "" {
		return s, nil
	}
	out, err := exec.Command(xz, "-9", "--stdout", "--keep", file).Output()
	if err != nil {
		return size{}, fmt.Errorf("xz %s: %w", file, err)
	}
	s.xz = int64(len(out))
	return s, nil
}

func printSizes(w io.Writer, sizes []size) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, agent+"\traw MB\tbudget\txz -9 MB\tbudget\t")
	for _, s := range sizes {
		raw, xz := "", ""
		if s.target == budgetTarget {
			raw, xz = megabytes(budgetRaw), megabytes(budgetXZ)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t\n", s.target, megabytes(s.raw), raw, megabytes(s.xz), xz)
	}
	return t.Flush()
}

// megabytes prints bytes as millions with two decimals, rounded up so that
// what is over a budget also looks like it.
func megabytes(n int64) string {
	if n == 0 {
		return "-"
	}
	hundredths := (n + 9_999) / 10_000
	return fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100)
}

// overBudget is an error that names each budget broken, or missed because its
// target was not measured.
func overBudget(sizes []size) error {
	for _, s := range sizes {
		if s.target != budgetTarget {
			continue
		}
		var errs []error
		if s.raw > budgetRaw {
			errs = append(errs, fmt.Errorf("%s is %d bytes, budget %d", s.target, s.raw, budgetRaw))
		}
		if s.xz > budgetXZ {
			errs = append(errs, fmt.Errorf("%s is %d bytes as xz, budget %d", s.target, s.xz, budgetXZ))
		}
		return errors.Join(errs...)
	}
	return fmt.Errorf("%s was not measured", budgetTarget)
}

// checkImports asks the go command what the agent is built from, with the
// target and the tag of scripts/cross.sh, and looks for what denyFile lists.
func checkImports(w io.Writer, denyFile string) error {
	text, err := os.ReadFile(denyFile)
	if err != nil {
		return err
	}
	list := exec.Command("go", "list", "-deps", "-tags", "router", "-json=ImportPath,Imports,ImportMap,EmbedFiles,Module", "./cmd/"+agent)
	list.Env = append(os.Environ(), "GOOS=linux", "GOARCH=mipsle", "GOMIPS=softfloat", "CGO_ENABLED=0")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	graph, err := readGraph(bytes.NewReader(out))
	if err != nil {
		return err
	}
	faults := graph.denied(parseDenied(string(text)))
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	fmt.Fprintf(w, "%d packages in %s, none of them denied\n", len(graph.packages), agent)
	return nil
}
