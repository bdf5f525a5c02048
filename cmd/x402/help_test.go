package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestHelp holds the help texts against the flags that the source defines.
func TestHelp(t *testing.T) {
	commands := map[string][]string{ // and the files that define flags for them
		"connect":         {"connect.go", "connect_exit.go", "relay.go"},
		"rotate":          {"rotate.go"},
		"offers":          {"offers.go", "relay.go"},
		"relay":           nil,
		"token":           {"token.go", "relay.go"},
		"pay":             {"pay.go"},
		"receipts":        {"receipts.go"},
		"wallet new":      nil,
		"wallet import":   nil,
		"wallet backup":   nil,
		"wallet show":     {"wallet_show.go"},
		"wallet fund":     {"wallet_fund.go"},
		"wallet refund":   {"wallet_refund.go", "relay.go"},
		"wallet withdraw": {"wallet_withdraw.go"},
		"wallet":          nil,
	}
	defined := regexp.MustCompile(`fs\.\w+\((?:&[\w.]+, )?"([a-z-]+)"`)
	explained := regexp.MustCompile(`(?m)^    --([a-z-]+)\b`)
	everywhere := "wallet passphrase-file state help"
	for name, files := range commands {
		var out, stderr bytes.Buffer
		if code := execute(t.Context(), append(strings.Fields(name), "--help"), &out, &stderr); code != exitOK || stderr.Len() > 0 {
			t.Errorf("%s: exit code %d, %s", name, code, &stderr)
		}
		help := out.String()
		for line := range strings.Lines(help) {
			if len(line) > 82 {
				t.Errorf("%s: too wide: %s", name, line)
			}
		}
		for _, section := range []string{"NAME\n    x402 " + name + " - ", "\nSYNOPSIS\n", "\nDESCRIPTION\n", "\nEXIT STATUS\n"} {
			if !strings.Contains(help, section) {
				t.Errorf("%s: no %q", name, section)
			}
		}
		var source strings.Builder
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.WriteString(string(b))
		}
		for _, f := range defined.FindAllStringSubmatch(source.String(), -1) {
			if elsewhere := name != "connect" && strings.Contains("relay country carrier tech network evidence transport no-direct", f[1]); elsewhere {
				continue // of relay.go: TestExplainedFlags gives them to those who have them
			}
			if !strings.Contains(help, "\n    --"+f[1]+" ") {
				t.Errorf("%s: --%s is not explained", name, f[1])
			}
		}
		if files == nil {
			continue
		}
		for _, f := range explained.FindAllStringSubmatch(help, -1) {
			if !strings.Contains(source.String(), `"`+f[1]+`"`) && !strings.Contains(everywhere, f[1]) {
				t.Errorf("%s: --%s is explained and does not exist", name, f[1])
			}
		}
	}
}

// TestExplainedFlags gives each flag of a help text to its command.
func TestExplainedFlags(t *testing.T) {
	explained := regexp.MustCompile(`(?m)^    (--[a-z-]+) ([A-Z]+)?`)
	t.Setenv("HOME", t.TempDir())
	for _, name := range []string{
		"connect", "rotate", "offers", "relay list", "token", "pay", "receipts", "wallet new", "wallet import", "wallet backup", "wallet show", "wallet fund", "wallet refund", "wallet withdraw",
	} {
		var help bytes.Buffer
		execute(t.Context(), append(strings.Fields(name), "--help"), &help, io.Discard)
		flags := explained.FindAllStringSubmatch(help.String(), -1)
		if len(flags) < 2 {
			t.Errorf("%s: explains %d flags", name, len(flags))
		}
		for _, f := range flags {
			args := append(strings.Fields(name), f[1])
			if f[2] != "" {
				args = append(args, "10s")
			}
			var stderr bytes.Buffer
			execute(t.Context(), append(args, "--help"), io.Discard, &stderr)
			if strings.Contains(stderr.String(), "not defined") {
				t.Errorf("%s: %s", name, &stderr)
			}
		}
	}
}

func TestPlaces(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("XDG_STATE_HOME", "relative")
	var p places
	if err := p.resolve(); err != nil {
		t.Fatal(err)
	}
	if want := (places{wallet: filepath.Join(home, ".config/x402/wallet.json"), state: filepath.Join(home, ".local/state/x402")}); p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
	t.Setenv("XDG_CONFIG_HOME", "/c")
	t.Setenv("XDG_STATE_HOME", "/s")
	p = places{}
	if err := p.resolve(); err != nil || p != (places{wallet: "/c/x402/wallet.json", state: "/s/x402"}) {
		t.Errorf("%+v, %v", p, err)
	}
	p = places{wallet: "w", state: "s"}
	if err := p.resolve(); err != nil || p != (places{wallet: "w", state: "s", given: given{"w", "s"}}) {
		t.Errorf("%+v, %v", p, err)
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_STATE_HOME", "")
	p = places{}
	if err := p.resolve(); err == nil || !strings.Contains(err.Error(), "--state: ") {
		t.Errorf("without a home: %v", err)
	}
}
