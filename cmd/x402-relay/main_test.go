package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/depinsim/x402/tunnel/relay"
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
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values[processKey{}] = new(process)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": scriptServe, "end": scriptEnd, "get": scriptGet, "mode": scriptMode, "code": scriptCode,
		},
	})
}

// process is a relay that runs as a process of its own.
type process struct {
	cmd            *exec.Cmd
	name           relay.Name
	stdout, stderr bytes.Buffer
}

type processKey struct{}

// patience bounds what should happen at once.
const patience = time.Minute

// scriptServe starts `x402-relay run --ready-file ready ARGS` and waits until it
// runs. $NAME, $PORT and $METRICS are its.
func scriptServe(ts *testscript.TestScript, _ bool, args []string) {
	p := ts.Value(processKey{}).(*process)
	*p = process{cmd: exec.Command("x402-relay", append([]string{"run", "--ready-file", "ready"}, args...)...)}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = ts.Getenv("WORK"), &p.stdout, &p.stderr
	ts.Check(p.cmd.Start())
	ts.Defer(func() { p.cmd.Process.Kill() }) // an error says that it has ended
	tick, end := time.NewTicker(10*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for {
		var r readiness
		b, err := os.ReadFile(filepath.Join(p.cmd.Dir, "ready"))
		if err == nil {
			ts.Check(json.Unmarshal(b, &r))
		} else if !errors.Is(err, fs.ErrNotExist) {
			ts.Check(err)
		}
		if r.PID == p.cmd.Process.Pid { // not what a relay left that was killed
			p.name, err = relay.ParseName(r.Relay)
			ts.Check(err)
			ts.Setenv("NAME", r.Relay)
			ts.Setenv("PORT", fmt.Sprint(p.name.Port))
			ts.Setenv("METRICS", "http://"+r.Metrics)
			return
		}
		select {
		case <-tick.C:
		case <-end:
			ts.Check(p.cmd.Process.Kill())
			p.cmd.Wait() // says that it was killed
			ts.Fatalf("not running: %s", &p.stderr)
		}
	}
}

// scriptEnd sends SIGTERM; `! end` sends SIGKILL. $WORK/log and $WORK/out are
// what it said.
func scriptEnd(ts *testscript.TestScript, neg bool, _ []string) {
	p := ts.Value(processKey{}).(*process)
	sig := syscall.SIGTERM
	if neg {
		sig = syscall.SIGKILL
	}
	ts.Check(p.cmd.Process.Signal(sig))
	if err := p.cmd.Wait(); (err != nil) != neg {
		ts.Fatalf("after %v: %v: %s", sig, err, &p.stderr)
	}
	ts.Check(errors.Join(os.WriteFile(ts.MkAbs("log"), p.stderr.Bytes(), 0o600), os.WriteFile(ts.MkAbs("out"), p.stdout.Bytes(), 0o600)))
}

// scriptGet is `get PATH`, at the relay that the ready file names, or `get URL`.
// The answer is printed; with ! its status must not be 200.
func scriptGet(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value(processKey{}).(*process)
	c := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: p.name.TLS(), DisableKeepAlives: true}}
	url := args[0]
	if strings.HasPrefix(url, "/") {
		url = "https://" + p.name.Address() + url
	}
	resp, err := c.Get(url)
	ts.Check(err)
	body, err := io.ReadAll(resp.Body)
	ts.Check(errors.Join(err, resp.Body.Close()))
	fmt.Fprintf(ts.Stdout(), "%s", body)
	if neg != (resp.StatusCode != http.StatusOK) {
		ts.Fatalf("status %s: %s", resp.Status, body)
	}
}

// scriptMode is `mode PATH MODE`.
func scriptMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// scriptCode is `code N ARGS`: x402-relay must exit with N.
func scriptCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("x402-relay", args[1:]...)
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}
