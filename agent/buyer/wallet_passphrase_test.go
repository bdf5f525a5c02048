package buyer

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// answers is a Prompt that gives one answer after the other.
func answers(list ...string) func(string) (string, error) {
	return func(string) (string, error) {
		if len(list) == 0 {
			return "", io.EOF
		}
		a := list[0]
		list = list[1:]
		return a, nil
	}
}

func TestPassphraseSource(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := func(value string) func(string) string {
		return func(name string) string {
			if name != "X402_PASSPHRASE" {
				t.Errorf("asked for %s", name)
			}
			return value
		}
	}
	for _, tt := range []struct {
		name      string
		source    PassphraseSource
		get, make string // "" for an error
	}{
		{"file", PassphraseSource{File: file("a", " a b \n"), Getenv: env("env"), Prompt: answers("typed")}, " a b ", " a b "},
		{"file with CRLF", PassphraseSource{File: file("b", "a\r\n")}, "a", "a"},
		{"file without end", PassphraseSource{File: file("c", "a")}, "a", "a"},
		{"environment", PassphraseSource{Getenv: env("env"), Prompt: answers("typed")}, "env", "env"},
		{"typed", PassphraseSource{Getenv: env(""), Prompt: answers("typed", "new", "new")}, "typed", "new"},
		{"typed differently", PassphraseSource{Getenv: env(""), Prompt: answers("typed", "new", "neu")}, "typed", ""},
		{"nothing typed", PassphraseSource{Getenv: env(""), Prompt: answers("", "")}, "", ""},
		{"no terminal", PassphraseSource{Getenv: env(""), Prompt: answers()}, "", ""},
		{"empty file", PassphraseSource{File: file("d", "\n")}, "", ""},
		{"huge file", PassphraseSource{File: file("e", strings.Repeat("x", maxPassphrase+1))}, "", ""},
		{"no file", PassphraseSource{File: filepath.Join(dir, "none")}, "", ""},
	} {
		if got, err := tt.source.Get(); got != tt.get || (err == nil) != (tt.get != "") {
			t.Errorf("%s: Get: %q, %v; want %q", tt.name, got, err, tt.get)
		}
		if got, err := tt.source.GetNew(); got != tt.make || (err == nil) != (tt.make != "") {
			t.Errorf("%s: GetNew: %q, %v; want %q", tt.name, got, err, tt.make)
		}
	}
}

// Tests have no terminal to ask on.
func TestPassphraseWithoutTerminal(t *testing.T) {
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	os.Stdin = r
	_, err = PassphraseSource{Getenv: func(string) string { return "" }}.Get()
	if !errors.Is(err, ErrNoPassphrase) {
		t.Errorf("got %v", err)
	}
}
