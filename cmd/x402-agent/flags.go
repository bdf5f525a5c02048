package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

const defaultConfig = "/etc/x402/agent.toml"

// dispatch runs the command that the first argument names.
func (p program) dispatch(ctx context.Context, args []string) error {
	all := p.commands()
	if len(args) == 0 {
		return usage("which command? There are %s", names(all))
	}
	switch args[0] {
	case "--version", "-version":
		args = append([]string{"version"}, args[1:]...)
	case "help", "--help", "-help", "-h":
		if len(args) == 1 {
			_, err := io.WriteString(p.out, rootHelp)
			return err
		}
		args = []string{args[1], "--help"}
	}
	for _, c := range all {
		if c.name != args[0] {
			continue
		}
		f := &flags{FlagSet: flag.NewFlagSet(c.name, flag.ContinueOnError)}
		f.SetOutput(io.Discard)
		err := c.run(ctx, f, args[1:])
		if errors.Is(err, flag.ErrHelp) {
			_, err = io.WriteString(p.out, c.help)
		}
		return err
	}
	return usage("no command %q. There are %s", args[0], names(all))
}

// word is the n-th word, "" if there are fewer.
func (f *flags) word(n int) string {
	if n < len(f.words) {
		return f.words[n]
	}
	return ""
}

func names(all []command) string {
	var s []string
	for _, c := range all {
		s = append(s, c.name)
	}
	return strings.Join(s, ", ")
}

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// flags are those of one command, whose help is ours.
type flags struct {
	*flag.FlagSet
	// words are arguments that are no flags, before or behind these; at most so
	// many.
	words []string
	most  int
}

// twoDashes spells flags in package flag's errors as the help does.
var twoDashes = strings.NewReplacer("defined: -", "defined: --", "argument: -", "argument: --", "for flag -", "for flag --", "for -", "for --")

// parse reads flags and words. It is flag.ErrHelp when help was asked for.
func (f *flags) parse(args []string) error {
	for len(args) > 0 && len(f.words) < f.most && !strings.HasPrefix(args[0], "-") {
		f.words, args = append(f.words, args[0]), args[1:]
	}
	err := f.Parse(args)
	f.words = append(f.words, f.Args()...)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return usage("%s: %s", f.Name(), twoDashes.Replace(err.Error()))
	case len(f.words) > f.most:
		return usage("%s: unexpected argument %q", f.Name(), f.words[f.most])
	}
	return nil
}
