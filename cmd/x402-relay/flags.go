package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"strings"
)

const defaultConfig = "/etc/x402/relay.toml"

// A command takes its own flags.
type command struct {
	name, help string
	run        func(ctx context.Context, f *flags, args []string) error
}

func (std stdio) commands() []command {
	return []command{
		{"run", runHelp, std.run},
		{"check", checkHelp, std.check},
		{"name", nameHelp, std.name},
		{"token", tokenHelp, std.token},
		{"version", versionHelp, std.version},
	}
}

// dispatch runs the command that the first argument names.
func (std stdio) dispatch(ctx context.Context, args []string) error {
	all := std.commands()
	if len(args) == 0 {
		return usage("which command? There are %s", names(all))
	}
	switch args[0] {
	case "--version", "-version":
		args = append([]string{"version"}, args[1:]...)
	case "help", "--help", "-help", "-h":
		if len(args) == 1 {
			_, err := io.WriteString(std.out, rootHelp)
			return err
		}
		args = []string{args[1], "--help"}
	}
	for _, c := range all {
		if c.name != args[0] {
			continue
		}
		f := &flags{flag.NewFlagSet(c.name, flag.ContinueOnError)}
		f.SetOutput(io.Discard)
		err := c.run(ctx, f, args[1:])
		if errors.Is(err, flag.ErrHelp) {
			_, err = io.WriteString(std.out, c.help)
		}
		return err
	}
	return usage("no command %q. There are %s", args[0], names(all))
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
type flags struct{ *flag.FlagSet }

// twoDashes spells flags in package flag's errors as the help does.
var twoDashes = strings.NewReplacer("defined: -", "defined: --", "argument: -", "argument: --", "for flag -", "for flag --", "for -", "for --")

// parse reads flags that take no arguments besides. It is flag.ErrHelp when
// help was asked for.
func (f *flags) parse(args []string) error {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return usage("%s: %s", f.Name(), twoDashes.Replace(err.Error()))
	case f.NArg() > 0:
		return usage("%s: unexpected argument %q", f.Name(), f.Arg(0))
	}
	return nil
}

func (std stdio) version(_ context.Context, f *flags, args []string) error {
	if err := f.parse(args); err != nil {
		return err
	}
	_, err := fmt.Fprintf(std.out, "x402-relay %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
