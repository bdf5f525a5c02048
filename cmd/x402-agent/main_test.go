package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/modem/modemtest"
)

// TestMain makes x402-agent a command on PATH for every test here. It resolves
// names without a network.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"x402-agent": func() {
		p := program{in: os.Stdin, out: os.Stdout, err: os.Stderr, lookup: func(context.Context, string, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.0.170")}, nil
		}}
		os.Exit(p.main())
	}})
}

// TestScripts runs testdata/*.txt. With X402_UPDATE set it writes what commands
// print into the scripts instead of comparing.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("X402_UPDATE") != "",
		Setup:         func(env *testscript.Env) error { return setup(t, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": scriptCode, "mode": scriptMode, "start": scriptStart, "quit": scriptStop,
			"waitfor": scriptWaitFor, "modem": scriptModem, "sold": scriptSold, "unwritable": scriptUnwritable,
		},
	})
}

// bench is what a script works with besides the program.
type bench struct {
	web   *httptest.Server // a facilitator
	party *ledgertest.Party
	agent *exec.Cmd
	err   strings.Builder // of the agent
}

type benchKey struct{}

// setup gives every script a facilitator: $FACILITATOR, its $NETWORK and
// $ASSET, and $PAYTO to be paid at; $SILENT never answers.
func setup(t *testing.T, env *testscript.Env) error {
	params := ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
	fac, err := server.New(server.Config{Ledger: ledger.NewMemory(params), Dev: true})
	if err != nil {
		return err
	}
	b := &bench{web: httptest.NewServer(fac), party: ledgertest.NewParty(t, params, 1)}
	env.Defer(b.web.Close)
	env.Setenv("FACILITATOR", b.web.URL)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	env.Defer(func() { silent.Close() })
	env.Setenv("SILENT", "http://"+silent.Addr().String())
	env.Setenv("NETWORK", params.Network())
	env.Setenv("ASSET", params.Token.String())
	env.Setenv("PAYTO", b.party.Config.Receiver.String())
	env.Values[benchKey{}] = b
	return expand(env)
}

// expand fills the facilitator's values into the script's config files.
func expand(env *testscript.Env) error {
	files, err := filepath.Glob(filepath.Join(env.WorkDir, "*.toml"))
	if err != nil {
		return err
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		err = errors.Join(os.WriteFile(name, []byte(os.Expand(string(b), env.Getenv)), 0o600), os.Chmod(name, 0o644))
		if err != nil {
			return err
		}
	}
	return nil
}

// scriptCode is `code N ARGS`: x402-agent must exit with N.
func scriptCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("x402-agent", args[1:]...)
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

// patience bounds what a script waits for.
const patience = 30 * time.Second

// await asks again until there is an answer: a file of another process tells
// nobody that it came.
func await(ts *testscript.TestScript, what string, there func() bool) {
	tick, end := time.NewTicker(10*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !there() {
		select {
		case <-end:
			ts.Fatalf("no %s in %v; the agent says: %s", what, patience, &ts.Value(benchKey{}).(*bench).err)
		case <-tick.C:
		}
	}
}

// scriptStart is `start FILE`: x402-agent runs on that config. It returns when
// buyers are served; with ! as soon as the control socket is there.
func scriptStart(ts *testscript.TestScript, neg bool, args []string) {
	b := ts.Value(benchKey{}).(*bench)
	ready := ts.MkAbs("ready")
	if err := os.Remove(ready); !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		ts.Check(err)
	}
	b.agent = exec.Command("x402-agent", "run", "--config", args[0], "--ready-file", ready)
	b.agent.Dir, b.agent.Stderr = ts.Getenv("WORK"), &b.err
	b.err.Reset()
	ts.Check(b.agent.Start())
	ts.Defer(func() { b.agent.Process.Kill() }) // an error says that it has ended
	if neg {
		ready = ts.MkAbs("state/control.sock")
	}
	await(ts, ready, func() bool {
		_, err := os.Lstat(ready)
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// scriptStop is `quit` (`stop` is testscript's own, and ends the script): it
// sends SIGTERM, `! quit` SIGKILL. $WORK/log is what the agent said. `quit twice` does not wait between two SIGTERM; the second must kill.
func scriptStop(ts *testscript.TestScript, neg bool, args []string) {
	b := ts.Value(benchKey{}).(*bench)
	if len(args) > 0 {
		var g errgroup.Group
		ended := make(chan struct{}) // closed when the agent has ended
		g.Go(func() error {
			defer close(ended)
			return b.agent.Wait()
		})
		await(ts, "end", func() bool {
			b.agent.Process.Signal(syscall.SIGTERM) // it may have ended
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
		err := g.Wait()
		if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			ts.Fatalf("not killed: %v", err)
		}
		return
	}
	sig := syscall.SIGTERM
	if neg {
		sig = syscall.SIGKILL
	}
	ts.Check(b.agent.Process.Signal(sig))
	if err := b.agent.Wait(); (err != nil) != neg {
		ts.Fatalf("after %v: %v: %s", sig, err, &b.err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("log"), []byte(b.err.String()), 0o600))
}

// scriptWaitFor is `waitfor TEXT ARGS`: x402-agent runs again and again until it
// prints the text.
func scriptWaitFor(ts *testscript.TestScript, _ bool, args []string) {
	await(ts, args[0], func() bool {
		ts.Check(ts.Exec("x402-agent", args[1:]...))
		return strings.Contains(ts.ReadFile("stdout"), args[0])
	})
}

// inbox are the short messages in the modem's store: one to look at, and one
// that holds the card's number.
var inbox = []string{
	"07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07",
	"0791947101670000040C91947117320596000842118251325180360059006F0075007200200049004D00530049003A00200032003600320030003100200031003200330034003500360037003800390030",
}

// scriptModem is `modem LINK [SETTING]`: a modem on a pseudo-terminal until the
// script ends. A setting is nosim, pin=DIGITS or profile=MAKER.
func scriptModem(ts *testscript.TestScript, _ bool, args []string) {
	cfg := modemtest.Config{Card: modemtest.Card{IMSI: "262011234567890"}, Operator: modemtest.Operator{Name: "Testnet", PLMN: "26201"}}
	if pin, ok := strings.CutPrefix(args[len(args)-1], "pin="); ok {
		cfg.PIN = pin
	}
	if maker, ok := strings.CutPrefix(args[len(args)-1], "profile="); ok {
		cfg.Profile = maker
	}
	cfg.NoSIM = slices.Contains(args, "nosim")
	cfg.USSD = map[string]string{"*100#": `0,"Balance: 5.00 EUR",15`, "*101#": `0,"IMSI 262-01-1234567890",15`, "*102#": "1,\"1 Buy\n2 Exit\",15", "2": `0,"Bye",15`}
	sim, err := modemtest.New(cfg)
	ts.Check(err)
	sim.Deliver(inbox...)
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	ready := make(chan struct{}) // closed by RunPTY when the terminal is there first
	there := sync.OnceFunc(func() { close(ready) })
	g.Go(func() error { return sim.RunPTY(ctx, ts.MkAbs(args[0]), func(string) { there() }) })
	ts.Defer(func() {
		cancel()
		ts.Check(g.Wait())
	})
	select {
	case <-ready:
	case <-time.After(patience):
		ts.Fatalf("no terminal")
	}
}

// scriptSold makes the state directory of an agent that has sold 100,000 bytes
// for 0.40 USD, of which 0.25 are paid by a voucher on a deposit of 1.00; with !
// it was killed before the session had ended.
func scriptSold(ts *testscript.TestScript, neg bool, _ []string) {
	b, ctx := ts.Value(benchKey{}).(*bench), context.Background()
	p, network := b.party, b.party.Params.Network()
	client, err := nethttp.New(nethttp.Config{URL: b.web.URL})
	ts.Check(err)
	_, err = client.Faucet(ctx, x402.FaucetRequest{Address: p.Config.Payer, Amount: 5_000_000, Ref: channel.Hash{1}})
	ts.Check(err)
	_, err = client.Deposit(ctx, network, p.Params.Asset(), p.Deposit(1_000_000, 0))
	ts.Check(err)

	dir := ts.MkAbs("state")
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(os.WriteFile(filepath.Join(dir, "device.key"), []byte(hex.EncodeToString(p.Receiver.Bytes())), 0o600))
	journal, err := channel.OpenJournal(filepath.Join(dir, "channels"))
	ts.Check(err)
	payee, err := channel.NewPayee(journal)
	ts.Check(err)
	_, err = payee.Open(p.Params.Domain(), p.Config)
	ts.Check(err)
	_, err = payee.Observe(p.ID, 1_000_000, 0, 0, 0)
	ts.Check(err)
	note, err := agent.Tally{Session: 3, Price: agent.Price{Up: 4_000_000_000, Down: 4_000_000_000}, Up: 20_000, Down: 80_000, Ended: !neg}.MarshalBinary()
	ts.Check(err)
	_, err = payee.Accept(p.Voucher(250_000), note)
	ts.Check(err)
	ts.Check(journal.Close())
}

// scriptUnwritable is `unwritable DIR CODE ARGS`: x402-agent is run by a user
// who cannot write to DIR and must exit with CODE. As root, who may write
// everywhere, that is somebody else.
func scriptUnwritable(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	cmd := exec.Command("x402-agent", args[2:]...)
	cmd.Dir = ts.Getenv("WORK")
	if os.Geteuid() == 0 {
		for d := dir; d != filepath.Dir(d) && d != os.TempDir(); d = filepath.Dir(d) {
			ts.Check(os.Chmod(d, 0o755))
		}
		exe := filepath.Join(dir, "x402-agent")
		// Not written by this process: a child that is forked meanwhile would hold it
		// open for writing, and nobody could run it.
		ts.Check(errors.Join(exec.Command("cp", cmd.Path, exe).Run(), os.Chmod(exe, 0o755)))
		cmd.Path = exe
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	} else {
		ts.Check(os.Chmod(dir, 0o555))
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.Stdout = ts.Stdout()
	ts.Check(cmd.Start())
	cmd.Wait() // its exit status is compared
	fmt.Fprint(ts.Stderr(), stderr.String())
	if got := fmt.Sprint(cmd.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("exit status %s, want %s: %s", got, args[1], &stderr)
	}
}

// TestHelp holds the help texts against the flags that the source defines.
func TestHelp(t *testing.T) {
	talking := []string{"config", "control", "json", "sim"}
	want := map[string][]string{
		"run": {"config", "ready-file"}, "check": {"config", "json", "offline"}, "purge": {"config", "lose-unclaimed"}, "modems": {"json"}, "status": talking, "sessions": talking,
		"earnings": talking, "plan": talking, "settle": talking, "rotate": {"config", "control", "expires", "hold", "json", "link", "links", "revoke", "sim", "uses"}, "sim": append(slices.Clone(talking), "used"),
		"modem": talking, "sms": talking, "ussd": append([]string{"cancel"}, talking...), "version": {"json"}, "receipts": {"config", "csv", "json", "sim", "since"},
	}
	explained := regexp.MustCompile(`(?m)^    --([a-z-]+) `)
	p := program{out: io.Discard}
	for _, c := range p.commands() {
		var flagNames []string
		f := &flags{FlagSet: flag.NewFlagSet(c.name, flag.ContinueOnError)}
		f.SetOutput(io.Discard)
		if err := c.run(t.Context(), f, []string{"--help"}); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", c.name, err)
		}
		f.VisitAll(func(f *flag.Flag) { flagNames = append(flagNames, f.Name) })
		var inHelp []string
		for _, m := range explained.FindAllStringSubmatch(c.help, -1) {
			inHelp = append(inHelp, m[1])
		}
		if diff := cmp.Diff(append(flagNames, "help"), inHelp); diff != "" {
			t.Errorf("%s: flags and help: %s", c.name, diff)
		}
		if diff := cmp.Diff(want[c.name], flagNames); diff != "" {
			t.Errorf("%s: flags: %s", c.name, diff)
		}
		if !strings.Contains(rootHelp, "\n    "+c.name+" ") {
			t.Errorf("the list of commands lacks %s", c.name)
		}
		for _, section := range []string{"NAME\n    x402-agent " + c.name + " - ", "\nSYNOPSIS\n", "\nDESCRIPTION\n", "\nFLAGS\n", "\nEXIT STATUS\n", "\nEXAMPLES\n"} {
			if !strings.Contains(c.help, section) {
				t.Errorf("%s: no %q", c.name, section)
			}
		}
		for line := range strings.Lines(rootHelp + c.help) {
			if len(line) > columns+2 {
				t.Errorf("%s: too wide: %s", c.name, line)
			}
		}
	}
}

func TestMemory(t *testing.T) {
	dir := t.TempDir()
	read := func(text string) uint64 {
		t.Helper()
		path := filepath.Join(dir, "meminfo")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return memTotal(path)
	}
	const head = "MemTotal:          "
	for text, want := range map[string]struct {
		total uint64
		limit int64
		flows int
	}{
		head + "59288 kB\nMemFree: 1 kB\n": {59288 << 10, 24 * mib, 256}, // a router of 64 MB
		head + "123456 kB\n":               {123456 << 10, 123456 << 8, 512},
		head + "250000 kB\n":               {250000 << 10, 250000 << 8, 512},
		head + "24683656 kB\n":             {24683656 << 10, 256 * mib, 512},
	} {
		total := read(text)
		if total != want.total || memoryLimit(total) != want.limit || maxFlows(total) != want.flows {
			t.Errorf("%q: %d bytes, limit %d, %d flows; want %+v", text, total, memoryLimit(total), maxFlows(total), want)
		}
	}
	for _, text := range []string{"", "MemFree: 1 kB\n", head + "many kB\n", head + "5\n"} {
		if total := read(text); total != 0 || maxFlows(total) != 512 {
			t.Errorf("%q: %d", text, total)
		}
	}
	if total := memTotal(filepath.Join(dir, "none")); total != 0 {
		t.Error(total)
	}
}
