package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// TestMain makes x402-relay a command on PATH for every test here.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"x402-relay": main})
}

// TestHelp holds the help texts against the flags that the source defines.
func TestHelp(t *testing.T) {
	explained := regexp.MustCompile(`(?m)^    --([a-z-]+) `)
	for _, c := range (stdio{io.Discard, io.Discard}).commands() {
		f := &flags{flag.NewFlagSet(c.name, flag.ContinueOnError)}
		f.SetOutput(io.Discard)
		if err := c.run(t.Context(), f, []string{"--help"}); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", c.name, err)
		}
		defined := []string{"help"}
		f.VisitAll(func(f *flag.Flag) { defined = append(defined, f.Name) })
		var inHelp []string
		for _, m := range explained.FindAllStringSubmatch(c.help, -1) {
			inHelp = append(inHelp, m[1])
		}
		slices.Sort(defined)
		slices.Sort(inHelp)
		if diff := cmp.Diff(defined, inHelp); diff != "" {
			t.Errorf("%s: flags and help: %s", c.name, diff)
		}
		if !strings.Contains(rootHelp, "\n    "+c.name+" ") {
			t.Errorf("the list of commands lacks %s", c.name)
		}
		for _, section := range []string{"NAME\n    x402-relay " + c.name + " - ", "\nSYNOPSIS\n", "\nDESCRIPTION\n", "\nFLAGS\n", "\nEXIT STATUS\n", "\nEXAMPLES\n"} {
			if !strings.Contains(c.help, section) {
				t.Errorf("%s: no %q", c.name, section)
			}
		}
		for line := range strings.Lines(rootHelp + c.help) {
			if utf8.RuneCountInString(line) > 82 {
				t.Errorf("%s: too wide: %s", c.name, line)
			}
		}
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Cmds: map[string]func(*testscript.TestScript, bool, []string){
		// `code N ARGS` runs x402-relay and wants the exit code N.
		"code": func(ts *testscript.TestScript, _ bool, args []string) {
			want, err := strconv.Atoi(args[0])
			ts.Check(err)
			err = ts.Exec("x402-relay", args[1:]...)
			got := 0
			if e, ok := errors.AsType[*exec.ExitError](err); ok {
				got = e.ExitCode()
			} else {
				ts.Check(err)
			}
			if got != want {
				ts.Fatalf("exit code %d, want %d", got, want)
			}
		},
		// `mode FILE MODE`
		"mode": func(ts *testscript.TestScript, _ bool, args []string) {
			info, err := os.Stat(ts.MkAbs(args[0]))
			ts.Check(err)
			if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[1] {
				ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
			}
		},
	}})
}

// serve runs the relay as a process until stop; it returns what it says of
// itself in the ready file.
func serve(t *testing.T, config string) (name relay.Name, r readiness, stop func()) {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready")
	cmd := exec.Command("x402-relay", "run", "--config", config, "--ready-file", ready)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %s", err, log.String())
	}
	b, err := os.ReadFile(ready)
	if err != nil || json.Unmarshal(b, &r) != nil || line != "relay "+r.Relay+"\n" {
		t.Fatalf("printed %q, ready file %q, %v", line, b, err)
	}
	if name, err = relay.ParseName(r.Relay); err != nil {
		t.Fatal(err)
	}
	return name, r, func() {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, lines); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("stopped: %v: %s", err, log.String())
		}
		if _, err := os.Stat(ready); err == nil {
			t.Error("the ready file is still there")
		}
	}
}

// TestRun runs the program twice: the name stays.
func TestRun(t *testing.T) {
	config := filepath.Join(t.TempDir(), "relay.toml")
	if err := os.WriteFile(config, []byte("listen = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var pin [32]byte
	for range 2 {
		name, r, stop := serve(t, config)
		if !name.Pinned || name.Host != "127.0.0.1" || pin != [32]byte{} && pin != name.Pin {
			t.Errorf("name %s, and %x before", name, pin)
		}
		pin = name.Pin
		c := market.New(market.Config{Name: name})
		if p, err := c.Offers(t.Context(), market.Query{Country: "de"}); err != nil || len(p.Offers) != 0 {
			t.Errorf("%+v, %v", p, err)
		}
		_, err := c.Session(t.Context(), market.Request{Agent: relay.Address{1}})
		if e, ok := errors.AsType[*market.RefusedError](err); !ok || e.Status != http.StatusNotFound {
			t.Errorf("session with nobody: %v", err)
		}
		c.Close()
		resp, err := http.Get("http://" + r.Metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"\nx402_relay_agents 0\n", "\nx402_relay_requests_total 2\n", "\nx402_relay_sessions 0\n"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("metrics lack %q", want)
			}
		}
		stop()
	}
}
