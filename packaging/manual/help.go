package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A page is one help text.
type page struct {
	words    []string // of the command, the program's name first
	summary  string
	sections []section // all but NAME
}

// name is that of the manual page, such as x402-wallet-show.
func (p page) name() string { return strings.Join(p.words, "-") }

// A section is a title in capitals and what stands below it, without the indent
// of four.
type section struct {
	title string
	lines []string
}

// An entry is a name, what it takes, and what it is: a flag or a command.
type entry struct{ name, value, text string }

const indent = "    "

var title = regexp.MustCompile(`^[A-Z][A-Z ]*$`)

// parse reads a help text.
func parse(text string) (page, error) {
	var p page
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		if title.MatchString(line) {
			p.sections = append(p.sections, section{title: line})
			continue
		}
		if len(p.sections) == 0 {
			return page{}, fmt.Errorf("begins with %.40q: want NAME", line)
		}
		last := &p.sections[len(p.sections)-1]
		last.lines = append(last.lines, strings.TrimPrefix(line, indent))
	}
	for i := range p.sections {
		p.sections[i].lines = trim(p.sections[i].lines)
	}
	if len(p.sections) == 0 || p.sections[0].title != "NAME" || len(p.sections[0].lines) != 1 {
		return page{}, errors.New("begins with no NAME of one line")
	}
	words, summary, ok := strings.Cut(p.sections[0].lines[0], " - ")
	if !ok {
		return page{}, fmt.Errorf("NAME is %q: want WORDS - SUMMARY", p.sections[0].lines[0])
	}
	p.words, p.summary, p.sections = strings.Fields(words), summary, p.sections[1:]
	return p, nil
}

// trim cuts off empty lines at both ends.
func trim(lines []string) []string {
	for len(lines) > 0 && lines[0] == "" {
		lines = lines[1:]
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

func (p page) section(title string) section {
	i := slices.IndexFunc(p.sections, func(s section) bool { return s.title == title })
	if i < 0 {
		return section{}
	}
	return p.sections[i]
}

func (p page) commands() []entry { return p.section("COMMANDS").entries() }
func (p page) flags() []entry    { return p.section("FLAGS").entries() }

// subcommand is a word of a SYNOPSIS that is typed as it stands.
var subcommand = regexp.MustCompile(`^[a-z][a-z-]*$`)

// subcommands are the words that may follow the command: those of COMMANDS, or,
// as of "x402-agent sim accept", the first one that the SYNOPSIS has there.
func (p page) subcommands() []entry {
	if all := p.commands(); len(all) > 0 {
		return all
	}
	var found []entry
	for _, line := range p.section("SYNOPSIS").lines {
		f := strings.Fields(line)
		if n := len(p.words); len(f) > n && slices.Equal(f[:n], p.words) && subcommand.MatchString(f[n]) {
			found = append(found, entry{name: f[n]})
		}
	}
	return found
}

// entries are those of a section of flags or commands: one begins at the left,
// and what stands below it to the right goes on with its text.
func (s section) entries() []entry {
	var all []entry
	for _, line := range s.lines {
		switch {
		case line == "":
		case line[0] == ' ' && len(all) > 0:
			last := &all[len(all)-1]
			last.text = strings.TrimSpace(last.text + " " + strings.TrimSpace(line))
		default:
			var e entry
			var rest string
			e.name, rest, _ = strings.Cut(line, " ")
			if rest != "" && rest[0] != ' ' { // one space: what it takes
				e.value, rest, _ = strings.Cut(rest, " ")
			}
			e.text = strings.TrimSpace(rest)
			all = append(all, e)
		}
	}
	return all
}

// brief is the first sentence of the text, without its full stop.
func (e entry) brief() string {
	first, _, _ := strings.Cut(e.text, ". ")
	return strings.TrimSuffix(first, ".")
}
