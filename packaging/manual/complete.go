package main

import (
	"fmt"
	"slices"
	"strings"
)

// A place is where the cursor may be: behind words that lead to a command.
type place struct {
	words string // "x402 wallet show"
	next  []entry
}

// places are all, with what can follow there: commands or flags.
func places(pages []page) []place {
	var all []place
	for _, p := range pages {
		at := strings.Join(p.words, " ")
		subs, flags := p.subcommands(), p.flags()
		all = append(all, place{at, slices.Concat(subs, flags)})
		if len(p.commands()) > 0 { // they have pages of their own, but for these two
			help := strings.Join(slices.Concat(p.words[:1], []string{"help"}, p.words[1:]), " ")
			all = append(all, place{help, subs}, place{at + " version", []entry{{name: "--help", text: "Show this text."}}})
			continue
		}
		for _, s := range subs {
			all = append(all, place{at + " " + s.name, flags})
		}
	}
	return all
}

// What the value of a flag is to a shell.
const (
	files   = "files"
	folders = "folders"
	words   = "words" // nothing that a shell could know
)

func (e entry) takes() string {
	switch {
	case e.value == "":
		return ""
	case strings.HasPrefix(e.value, "FILE"), e.value == "PATH":
		return files
	case e.value == "DIR":
		return folders
	}
	return words
}

// patterns are the quoted places that lead on, and for each kind of value the
// quoted places of flags that take it, as alternatives of a shell's case.
func patterns(all []place, kind string) string {
	var p []string
	for i, at := range all {
		if kind == "" && i > 0 {
			p = append(p, quoted(at.words))
		}
		for _, e := range at.next {
			if kind != "" && e.takes() == kind {
				p = append(p, quoted(at.words+" "+e.name))
			}
		}
	}
	if len(p) == 0 {
		return "''"
	}
	return strings.Join(p, "|")
}

// quoted is text in single quotes, as every shell reads it.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

const bashText = `# Made of what %[1]s --help prints.
_%[2]s() {
	local cur=${COMP_WORDS[COMP_CWORD]} at=%[1]s word
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case "$at $word" in
		%[3]s) at+=" $word" ;;
		esac
	done
	COMPREPLY=()
	case "$at ${COMP_WORDS[COMP_CWORD-1]}" in
	%[4]s)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	%[5]s)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	%[6]s) return ;;
	esac
	case "$at" in
%[7]s	esac
}
complete -F _%[2]s %[1]s
`

func bash(pages []page) string {
	all := places(pages)
	var b strings.Builder
	for _, at := range all {
		var names []string
		for _, e := range at.next {
			names = append(names, e.name)
		}
		fmt.Fprintf(&b, "\t%s) mapfile -t COMPREPLY < <(compgen -W %s -- \"$cur\") ;;\n", quoted(at.words), quoted(strings.Join(names, " ")))
	}
	return fill(bashText, pages, b.String())
}

const zshText = `#compdef %[1]s
# Made of what %[1]s --help prints.
local at=%[1]s word
local -a next
for word in ${words[2,CURRENT-1]}; do
	case "$at $word" in
	(%[3]s) at+=" $word" ;;
	esac
done
case "$at ${words[CURRENT-1]}" in
(%[4]s) _files; return ;;
(%[5]s) _files -/; return ;;
(%[6]s) _message value; return ;;
esac
case "$at" in
%[7]sesac
_describe -t words %[1]s next
`

func zsh(pages []page) string {
	var b strings.Builder
	for _, at := range places(pages) {
		fmt.Fprintf(&b, "(%s) next=(", quoted(at.words))
		for i, e := range at.next {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(quoted(strings.ReplaceAll(e.name+":"+e.brief(), `\`, `\\`)))
		}
		b.WriteString(") ;;\n")
	}
	return fill(zshText, pages, b.String())
}

func fill(text string, pages []page, cases string) string {
	all := places(pages)
	name := pages[0].name()
	return fmt.Sprintf(text, name, identifier(name), patterns(all, ""), patterns(all, files), patterns(all, folders), patterns(all, words), cases)
}

const fishText = `# Made of what %[1]s --help prints.
function __%[2]s_at
    set -l at %[1]s
    for word in (commandline -opc)[2..-1]
        if contains -- "$at $word" %[3]s
            set at "$at $word"
        end
    end
    test "$at" = "$argv"
end
complete -c %[1]s -f
%[4]s`

func fish(pages []page) string {
	all := places(pages)
	name := pages[0].name()
	var b strings.Builder
	for _, at := range all {
		for _, e := range at.next {
			fmt.Fprintf(&b, "complete -c %s -n %s", name, quoted("__"+identifier(name)+"_at "+at.words))
			switch flag, is := strings.CutPrefix(e.name, "--"); {
			case !is:
				fmt.Fprintf(&b, " -a %s", e.name)
			default:
				fmt.Fprintf(&b, " -l %s%s", flag, map[string]string{files: " -r -F", folders: " -x -a '(__fish_complete_directories)'", words: " -x"}[e.takes()])
			}
			if e.brief() != "" {
				fmt.Fprintf(&b, " -d %s", fishQuoted(e.brief()))
			}
			b.WriteByte('\n')
		}
	}
	return fmt.Sprintf(fishText, name, identifier(name), strings.ReplaceAll(patterns(all, ""), "'|'", "' '"), b.String())
}

// fishQuoted is text in single quotes as fish reads it: it knows two escapes.
func fishQuoted(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}
