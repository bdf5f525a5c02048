package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestDemoFlags(t *testing.T) {
	for _, test := range []struct {
		args string
		code int
		want string // in what is printed
	}{
		{"--help", exitOK, "x402 demo - the whole story"},
		{"--bytes 12X", exitUsage, `x402: demo: --bytes: "12X": want a size`},
		{"--bytes -1", exitUsage, `--bytes: "-1"`},
		{"--nonsense", exitUsage, "x402 demo --help"},
		{"50MB", exitUsage, "no arguments"},
		{"--bin /nonexistent", exitFailed, "`make build` builds the commands"},
	} {
		var out, log bytes.Buffer
		code := execute(t.Context(), append([]string{"demo"}, strings.Fields(test.args)...), &out, &log)
		if text := out.String() + log.String(); code != test.code || !strings.Contains(text, test.want) {
			t.Errorf("%s: exit code %d\n%s", test.args, code, text)
		}
	}
}
