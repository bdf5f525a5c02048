package buyer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// PassphraseEnv is the environment variable that may hold the passphrase.
const PassphraseEnv = "X402_PASSPHRASE"

// maxPassphrase bounds a passphrase file.
const maxPassphrase = 4096

// ErrNoPassphrase says that there is nowhere to get a passphrase from.
var ErrNoPassphrase = fmt.Errorf("a passphrase is needed: run this in a terminal, set %s, or name a file with --passphrase-file", PassphraseEnv)

// A PassphraseSource is where a wallet's passphrase comes from: the file if one
// is named, else the environment if it is set there, else a question.
type PassphraseSource struct {
	File   string
	Getenv func(string) string                   // nil: os.Getenv
	Prompt func(question string) (string, error) // nil: the terminal, echo off
}

// Get returns the passphrase of a wallet that exists.
func (s PassphraseSource) Get() (string, error) {
	passphrase, found, err := s.silent()
	if found || err != nil {
		return passphrase, err
	}
	return s.ask("Passphrase of the wallet: ")
}

// GetNew returns the passphrase for a new wallet; a question is asked twice.
func (s PassphraseSource) GetNew() (string, error) {
	passphrase, found, err := s.silent()
	if found || err != nil {
		return passphrase, err
	}
	if passphrase, err = s.ask("Passphrase for the new wallet: "); err != nil {
		return "", err
	}
	again, err := s.ask("Once more: ")
	if err != nil {
		return "", err
	}
	if again != passphrase {
		return "", errors.New("the two passphrases differ")
	}
	return passphrase, nil
}

// silent returns the passphrase if no question is needed.
func (s PassphraseSource) silent() (passphrase string, found bool, err error) {
	if s.File != "" {
		passphrase, err = readPassphrase(s.File)
		return passphrase, true, err
	}
	getenv := s.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	passphrase = getenv(PassphraseEnv)
	return passphrase, passphrase != "", nil
}

func (s PassphraseSource) ask(question string) (string, error) {
	prompt := s.Prompt
	if prompt == nil {
		prompt = askTerminal
	}
	passphrase, err := prompt(question)
	if err == nil && passphrase == "" {
		err = errors.New("the passphrase is empty")
	}
	return passphrase, err
}

// readPassphrase reads a file that holds a passphrase, with or without an end
// of line.
func readPassphrase(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("passphrase: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassphrase+1))
	if err != nil {
		return "", fmt.Errorf("passphrase: %w", err)
	}
	passphrase := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case len(b) > maxPassphrase:
		return "", fmt.Errorf("passphrase: %s has more than %d bytes", path, maxPassphrase)
	case passphrase == "":
		return "", fmt.Errorf("passphrase: %s is empty", path)
	}
	return passphrase, nil
}

// askTerminal asks on the terminal, and does not show what is typed.
func askTerminal(question string) (string, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", ErrNoPassphrase
	}
	fmt.Fprint(os.Stderr, question)
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(os.Stderr) // the line's end was not shown either
	if err != nil {
		return "", fmt.Errorf("passphrase: %w", err)
	}
	return string(b), nil
}
