package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
)

// TestMain makes x402-facilitator a command on PATH for every test here.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"x402-facilitator": main})
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
		for _, section := range []string{"NAME\n    x402-facilitator " + c.name + " - ", "\nSYNOPSIS\n", "\nDESCRIPTION\n", "\nFLAGS\n", "\nEXIT STATUS\n", "\nEXAMPLES\n"} {
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
	if memo := fmt.Sprintf("at most %d bytes", ledger.MaxMemo); !strings.Contains(issueHelp, memo) || !strings.Contains(redeemHelp, memo) {
		t.Errorf("a memo is not said to be %s", memo)
	}
}

// TestScripts runs the scripts in testdata. $RPC is the URL of a chain's node,
// $ASSET the token on it; the file url has an address of that node to keep secret.
func TestScripts(t *testing.T) {
	chain := evmtest.Simulated(t, evmtest.Config{ID: 31337})
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values[processKey{}] = new(holder)
			env.Setenv("RPC", chain.URL)
			env.Setenv("ASSET", chain.Params().Token.String())
			return os.WriteFile(filepath.Join(env.WorkDir, "url"), []byte(chain.URL+"/secret\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": scriptServe, "quit": scriptStop, "post": scriptPost, "get": scriptGet, "mode": scriptMode, "code": scriptCode,
		},
	})
}

// process is a facilitator that runs as a process of its own.
type process struct {
	cmd    *exec.Cmd
	url    string
	stderr bytes.Buffer
	rest   io.Reader // of the standard output
}

// start runs a command line that ends in a facilitator and returns once it
// listens. The caller ends it with stop or kill.
func start(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd}
	cmd.Stderr = &p.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%w: %w: %s", err, cmd.Wait(), p.stderr.String())
	}
	p.rest = r
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		return nil, errors.Join(fmt.Errorf("printed %q", line), p.kill())
	}
	p.url = url
	return p, nil
}

// stop asks the process to end and returns how it did.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, p.rest); err != nil {
		return err
	}
	return p.cmd.Wait()
}

// kill is SIGKILL.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	p.cmd.Wait() // says that it was killed
	return nil
}

// scriptServe starts `x402-facilitator run --listen 127.0.0.1:0 ARGS`, waits
// until it listens and sets $URL.
func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command("x402-facilitator", append([]string{"run", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Dir = ts.Getenv("WORK")
	p, err := start(cmd)
	ts.Check(err)
	ts.Setenv("URL", p.url)
	ts.Value(processKey{}).(*holder).p = p
	ts.Defer(func() { p.cmd.Process.Kill() })
}

// holder is where a script keeps its process.
type holder struct{ p *process }

type processKey struct{}

// scriptStop is `quit` (`stop` is testscript's own, and ends the script): it
// sends SIGTERM, `! quit` SIGKILL. $WORK/log is what the program logged.
func scriptStop(ts *testscript.TestScript, neg bool, _ []string) {
	p := ts.Value(processKey{}).(*holder).p
	if neg {
		ts.Check(p.kill())
	} else {
		ts.Check(p.stop())
	}
	ts.Check(os.WriteFile(ts.MkAbs("log"), p.stderr.Bytes(), 0o600))
}

// scriptPost is `post PATH JSON`; scriptGet `get PATH`. The answer is printed
// on the standard output; with ! its status must not be 200.
func scriptPost(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Post(ts.Getenv("URL")+args[0], "application/json", strings.NewReader(args[1]))
	ts.Check(err)
	scriptAnswer(ts, neg, resp)
}

func scriptGet(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Get(ts.Getenv("URL") + args[0])
	ts.Check(err)
	scriptAnswer(ts, neg, resp)
}

func scriptAnswer(ts *testscript.TestScript, neg bool, resp *http.Response) {
	body, err := io.ReadAll(resp.Body)
	ts.Check(errors.Join(err, resp.Body.Close()))
	fmt.Fprintf(ts.Stdout(), "%s", body)
	if neg != (resp.StatusCode != http.StatusOK) {
		ts.Fatalf("status %s: %s", resp.Status, body)
	}
	var network struct{ Network string }
	if json.Unmarshal(body, &network) == nil && network.Network != "" {
		ts.Setenv("NETWORK", network.Network)
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

// scriptCode is `code N ARGS`: x402-facilitator must exit with N.
func scriptCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("x402-facilitator", args[1:]...)
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
