package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/tunnel/relay"
)

// TestMain makes x402 a command on PATH for every test here.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"x402": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Values[stageKey{}] = new(stage)
			return os.MkdirAll(filepath.Join(env.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"market": scriptMarket, "agent": scriptAgent, "facilitator": scriptFacilitator, "age": scriptAge, "spent": scriptSpent,
			"begin": scriptBegin, "await": scriptAwait, "end": scriptEnd, "fetch": scriptFetch, "put": scriptPut,
			"code": scriptCode, "agentkey": scriptAgentKey, "mode": scriptMode, "jsonline": scriptJSON, "jsonfield": scriptJSONField,
			"second": scriptSecond, "relay": scriptRelay, "listed": scriptListed, "ghost": scriptGhost, "shop": scriptShop,
		},
	})
}

// A stage is what one script has running.
type stage struct {
	market *market
	play   *play
	hub    *hub
	shop   *shop
}

type stageKey struct{}

func onStage(ts *testscript.TestScript) *stage { return ts.Value(stageKey{}).(*stage) }

// scriptMarket is `market CREDIT`: a facilitator, an agent, a web site, and
// CREDIT USD on the account of a wallet at its default place. The agent is known
// at the relay, if there is one. It sets $AGENT,
// $FACILITATOR, $SITE, $ADDRESS and $X402_PASSPHRASE.
func scriptMarket(ts *testscript.TestScript, _ bool, args []string) {
	var relays []relay.Name
	if h := onStage(ts).hub; h != nil {
		relays = append(relays, h.name)
	}
	m, err := newMarket(ts.Getenv("WORK"), relays)
	ts.Check(err)
	ts.Defer(m.close)
	onStage(ts).market = m
	credit, err := channel.ParseUSD(args[0])
	ts.Check(err)
	ts.Check(m.writeWallet(filepath.Join(ts.Getenv("HOME"), ".config", "x402", "wallet.json"), credit))
	ts.Setenv("AGENT", m.cfg.Listen)
	ts.Setenv("FACILITATOR", m.fac.URL)
	ts.Setenv("SITE", m.site.URL)
	ts.Setenv("TAKEN", m.site.Listener.Addr().String())
	ts.Setenv("ADDRESS", m.wallet.Address().String())
	ts.Setenv("X402_PASSPHRASE", testPassphrase)
}

// scriptAgent is `agent stop`, `agent start`, or `agent forget` while it is
// stopped, after which it has another key.
func scriptAgent(ts *testscript.TestScript, _ bool, args []string) {
	m := onStage(ts).market
	switch args[0] {
	case "stop":
		ts.Check(m.stopAgent())
	case "start":
		m.startAgent()
	case "forget":
		ts.Check(os.RemoveAll(m.cfg.StateDir))
	}
}

// scriptAgentKey is `agentkey`: it sets $AGENTKEY to the agent's address.
func scriptAgentKey(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), playTime)
	defer cancel()
	o, err := buyer.FetchOffer(ctx, ts.Getenv("AGENT"), buyer.ReachConfig{})
	ts.Check(err)
	ts.Setenv("AGENTKEY", o.Agent.String())
}

// scriptFacilitator is `facilitator stop`.
func scriptFacilitator(ts *testscript.TestScript, _ bool, _ []string) {
	m := onStage(ts).market
	m.fac.CloseClientConnections()
	m.fac.Close()
}

// scriptSecond is `second CREDIT`: another facilitator that keeps CREDIT USD of the
// wallet's, and is known to it. It sets $SECOND.
func scriptSecond(ts *testscript.TestScript, _ bool, args []string) {
	credit, err := channel.ParseUSD(args[0])
	ts.Check(err)
	params := testParams()
	params.ChainID++
	l := ledger.NewMemory(params)
	srv, err := server.New(server.Config{Ledger: l})
	ts.Check(err)
	fac := httptest.NewServer(srv)
	ts.Defer(fac.Close)
	_, err = l.Submit(context.Background(), ledger.Tx{Time: 1, Op: ledger.Issue{Ref: channel.Hash{1}, To: onStage(ts).market.wallet.Address(), Amount: credit}})
	ts.Check(err)
	ts.Check(buyer.KnownFacilitators{Path: filepath.Join(ts.Getenv("HOME"), ".config", "x402", "facilitators")}.Add(fac.URL))
	ts.Setenv("SECOND", fac.URL)
}

// scriptAge is `age TIME`: transactions from now on seem to be that old.
func scriptAge(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	onStage(ts).market.ledger.seconds.Store(uint64(d / time.Second))
}

// scriptSpent is `spent CREDIT`: the wallet's account has become less than
// CREDIT USD by what the last command says was signed.
func scriptSpent(ts *testscript.TestScript, _ bool, args []string) {
	m := onStage(ts).market
	credit, err := channel.ParseUSD(args[0])
	ts.Check(err)
	have, err := m.balance(m.wallet.Address())
	ts.Check(err)
	signed := regexp.MustCompile(`(?m)^signed +([0-9.]+) USD$`).FindStringSubmatch(ts.ReadFile("stdout"))
	if got := (credit - have).USD(); signed == nil || got != signed[1] {
		ts.Fatalf("%s USD were spent, signed are %q", got, signed)
	}
}

// A play is an x402 that runs in the background.
type play struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	read   bytes.Buffer // of stdout
	stderr bytes.Buffer
}

// playTime kills what hangs.
const playTime = 2 * time.Minute

// scriptBegin is `begin ARGS`: x402 ARGS in the background.
func scriptBegin(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), playTime)
	p := &play{cmd: exec.CommandContext(ctx, "x402", args...)}
	p.cmd.Dir, p.cmd.Stderr = ts.Getenv("WORK"), &p.stderr
	for _, name := range []string{"HOME", "PATH", "X402_PASSPHRASE"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+ts.Getenv(name))
	}
	out, err := p.cmd.StdoutPipe()
	ts.Check(err)
	p.stdout = bufio.NewReader(out)
	ts.Check(p.cmd.Start())
	ts.Defer(func() {
		cancel()
		p.cmd.Wait() // says that it was killed, or waited for
	})
	onStage(ts).play = p
}

// scriptAwait is `await REGEXP`: it returns when a line that matches is printed.
func scriptAwait(ts *testscript.TestScript, _ bool, args []string) {
	p := onStage(ts).play
	want := regexp.MustCompile(args[0])
	for {
		line, err := p.stdout.ReadString('\n')
		p.read.WriteString(line)
		if err != nil {
			_ = p.cmd.Wait() // that it was killed is no news; its stderr is whole then
			log, _ := os.ReadFile(ts.MkAbs("agent.log"))
			ts.Fatalf("it ended before it said %q: %s%sthe agent: %s", args[0], p.read.String(), p.stderr.String(), log)
		}
		if want.MatchString(line) {
			return
		}
	}
}

// scriptEnd is `end SIGNAL CODE`, where SIGNAL is int, kill or none: the
// process must end with CODE (-1 when killed). Its output is there for stdout
// and stderr.
func scriptEnd(ts *testscript.TestScript, _ bool, args []string) {
	p := onStage(ts).play
	switch args[0] {
	case "int":
		ts.Check(p.cmd.Process.Signal(os.Interrupt))
	case "kill":
		ts.Check(p.cmd.Process.Signal(syscall.SIGKILL))
	}
	_, err := io.Copy(&p.read, p.stdout)
	ts.Check(err)
	err = p.cmd.Wait()
	fmt.Fprint(ts.Stdout(), p.read.String())
	fmt.Fprint(ts.Stderr(), p.stderr.String())
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		ts.Check(err)
	}
	if got := fmt.Sprint(p.cmd.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("exit status %s, want %s: %s%s", got, args[1], p.read.String(), p.stderr.String())
	}
}

// client uses the proxies that a ready file names.
func client(ts *testscript.TestScript, kind, login string) *http.Client {
	b, err := os.ReadFile(ts.MkAbs("ready"))
	ts.Check(err)
	var ready readyFile
	ts.Check(json.Unmarshal(b, &ready))
	u := &url.URL{Scheme: "socks5h", Host: ready.SOCKS}
	if kind == "http" {
		u = &url.URL{Scheme: "http", Host: ready.HTTP}
	}
	if user, password, ok := strings.Cut(login, ":"); ok {
		u.User = url.UserPassword(user, password)
	}
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u), DisableKeepAlives: true}}
}

// scriptFetch is `fetch socks|http BYTES [USER:PASSWORD]` through the proxies
// of the file ready; with ! it must not succeed.
func scriptFetch(ts *testscript.TestScript, neg bool, args []string) {
	login := ""
	if len(args) > 2 {
		login = args[2]
	}
	res, err := client(ts, args[0], login).Get(ts.Getenv("SITE") + "/" + args[1])
	var n int64
	if err == nil {
		n, err = io.Copy(io.Discard, res.Body)
		err = errors.Join(err, res.Body.Close())
		if res.StatusCode != http.StatusOK {
			err = errors.Join(err, errors.New(res.Status))
		}
	}
	ok := err == nil && fmt.Sprint(n) == args[1]
	if ok == neg {
		ts.Fatalf("fetched %d of %s bytes: %v", n, args[1], err)
	}
}

// scriptPut is `put socks|http BYTES`.
func scriptPut(ts *testscript.TestScript, _ bool, args []string) {
	var n int
	_, err := fmt.Sscan(args[1], &n)
	ts.Check(err)
	req, err := http.NewRequest(http.MethodPut, ts.Getenv("SITE")+"/", bytes.NewReader(make([]byte, n)))
	ts.Check(err)
	res, err := client(ts, args[0], "").Do(req)
	ts.Check(err)
	b, err := io.ReadAll(res.Body)
	ts.Check(errors.Join(err, res.Body.Close()))
	if got := strings.Fields(string(b)); len(got) == 0 || got[0] != args[1] {
		ts.Fatalf("uploaded %s", b)
	}
}

// scriptCode is `code N ARGS`: x402 must exit with N.
func scriptCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("x402", args[1:]...)
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

// scriptMode is `mode PATH MODE`.
func scriptMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// scriptJSON is `jsonline`: every line of the last command's output is JSON.
func scriptJSON(ts *testscript.TestScript, _ bool, _ []string) {
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		if !json.Valid([]byte(line)) {
			ts.Fatalf("no JSON: %s", line)
		}
	}
}
