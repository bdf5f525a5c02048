package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// An edition is what the pages say of themselves.
type edition struct {
	section int
	version string
}

// roff is a page for man (man(7)), with references to the program's others.
func (e edition) roff(p page, all []page) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".\\\" Made of what %s --help prints.\n", strings.Join(p.words, " "))
	fmt.Fprintf(&b, ".TH \"%s\" %d \"\" \"x402 %s\" \"X402\"\n", quote(strings.ToUpper(p.name())), e.section, quote(e.version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", quote(p.name()), quote(p.summary))
	for _, s := range p.sections {
		fmt.Fprintf(&b, ".SH %s\n", s.title)
		switch s.title {
		case "FLAGS", "COMMANDS":
			entries(&b, s)
		case "SYNOPSIS", "EXAMPLES":
			verbatim(&b, s.lines)
		default:
			paragraphs(&b, s.lines)
		}
	}
	var others []string
	for _, o := range all {
		if o.name() != p.name() {
			others = append(others, fmt.Sprintf(".BR %s (%d)", quote(o.name()), e.section))
		}
	}
	slices.Sort(others)
	if len(others) > 0 {
		fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(others, " ,\n"))
	}
	return b.String()
}

func entries(b *strings.Builder, s section) {
	for _, e := range s.entries() {
		fmt.Fprintf(b, ".TP\n\\fB%s\\fR", quote(e.name))
		if e.value != "" {
			fmt.Fprintf(b, " \\fI%s\\fR", quote(e.value))
		}
		fmt.Fprintf(b, "\n%s\n", protect(quote(e.text)))
	}
}

func verbatim(b *strings.Builder, lines []string) {
	b.WriteString(".nf\n")
	for _, line := range lines {
		b.WriteString(protect(quote(line)) + "\n")
	}
	b.WriteString(".fi\n")
}

// table is a line with a gap or an indent, which filling would lose.
var table = regexp.MustCompile(`^ |[^ ]  +[^ ]`)

// paragraphs writes text, which is filled, and tables, which are not.
func paragraphs(b *strings.Builder, lines []string) {
	for len(lines) > 0 {
		n := slices.Index(lines, "")
		if n < 0 {
			n = len(lines)
		}
		b.WriteString(".PP\n")
		if slices.ContainsFunc(lines[:n], table.MatchString) {
			verbatim(b, lines[:n])
		} else {
			for _, line := range lines[:n] {
				b.WriteString(protect(quote(line)) + "\n")
			}
		}
		lines = lines[n:]
		for len(lines) > 0 && lines[0] == "" {
			lines = lines[1:]
		}
	}
}

// quote writes text so that it is read and copied as it stands: groff makes
// typographic marks of some ASCII ones (groff_char(7)).
var quote = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", `\(ga`, `^`, `\(ha`, `~`, `\(ti`, `"`, `\(dq`).Replace

// protect keeps a line from being taken for a request.
func protect(line string) string {
	if strings.HasPrefix(line, ".") {
		return `\&` + line
	}
	return line
}
