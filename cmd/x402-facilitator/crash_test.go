package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/embedded"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// kills is how often the crash test kills the facilitator: 10, or X402_KILLS.
func kills(t *testing.T) int {
	t.Helper()
	s := os.Getenv("X402_KILLS")
	if s == "" {
		return 10
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("X402_KILLS=%q: want a number", s)
	}
	return n
}

// a trader goes through deposit, claim, settle and refund of one channel, over
// and over. What was not answered is sent again, unchanged, after the crash.
type trader struct {
	party  *ledgertest.Party
	rounds channel.Amount // finished ones
	step   int            // of the present round

	pending func(context.Context, *facilitator.Client) (x402.SettlementResponse, error)
	last    func(context.Context, *facilitator.Client) (x402.SettlementResponse, error)
	hash    string // transaction of last
}

// What a round deposits, claims and gets back.
const (
	roundIn   channel.Amount = 500_000
	roundPaid channel.Amount = 350_000
)

// next prepares the following step.
func (w *trader) next() {
	p, network, token := w.party, w.party.Params.Network(), w.party.Params.Asset()
	total := (w.rounds + 1) * roundPaid
	switch w.step {
	case 0:
		d := p.Deposit(roundIn, total-roundPaid)
		w.pending = func(ctx context.Context, c *facilitator.Client) (x402.SettlementResponse, error) {
			return c.Deposit(ctx, network, token, d)
		}
	case 1:
		cl := p.Claim(total, total)
		w.pending = func(ctx context.Context, c *facilitator.Client) (x402.SettlementResponse, error) {
			return c.Claim(ctx, network, cl)
		}
	case 2:
		w.pending = func(ctx context.Context, c *facilitator.Client) (x402.SettlementResponse, error) {
			return c.SettleReceiver(ctx, network, p.Config.Receiver, token.Address)
		}
	case 3:
		r := p.Refund(roundIn-roundPaid, uint64(w.rounds))
		w.pending = func(ctx context.Context, c *facilitator.Client) (x402.SettlementResponse, error) {
			return c.Refund(ctx, network, r)
		}
	}
}

// trade runs until the facilitator is gone, calling answered after each step.
func (w *trader) trade(ctx context.Context, c *facilitator.Client, answered func()) error {
	if w.last != nil { // what was answered before the crash still holds
		r, err := w.last(ctx, c)
		if errors.Is(err, facilitator.ErrUnavailable) {
			return nil
		}
		if err != nil || r.Transaction != w.hash {
			return fmt.Errorf("step before the crash had transaction %s, now %s, %v", w.hash, r.Transaction, err)
		}
	}
	for {
		if w.pending == nil {
			w.next()
		}
		r, err := w.pending(ctx, c)
		if errors.Is(err, facilitator.ErrUnavailable) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("step %d of round %d: %w", w.step, w.rounds, err)
		}
		w.last, w.hash, w.pending = w.pending, r.Transaction, nil
		if w.step++; w.step == 4 {
			w.step, w.rounds = 0, w.rounds+1
		}
		answered()
	}
}

// TestKill kills the facilitator with SIGKILL while four traders settle. After
// every kill the audit passes, every answer still holds, and in the end each
// trader has exactly what he traded for.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 3))
	l, err := embedded.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	params := l.Params()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	traders := make([]*trader, 4)
	for i := range traders {
		traders[i] = &trader{party: ledgertest.NewParty(t, params, i)}
	}
	const credit channel.Amount = 1 << 50
	for range kills(t) {
		tradeAndKill(t, dir, traders, credit, 1+rng.Int64N(60))
		if t.Failed() {
			return
		}
	}

	l, err = embedded.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nothing was written
	for i, w := range traders {
		payer, receiver := w.party.Config.Payer, w.party.Config.Receiver
		st, err := l.Read(t.Context(), ledger.Touch{
			Accounts: []channel.Address{payer, receiver}, Channels: []channel.ID{w.party.ID}})
		if err != nil {
			t.Fatal(err)
		}
		// The pending step may have been applied without an answer, so compare
		// what no step changes: all that is the trader's own.
		ch := st.Channels[w.party.ID]
		if got, want := st.Accounts[payer]+ch.Balance, credit; got != want {
			t.Errorf("trader %d: account and channel hold %s of %s", i, got, want)
		}
		if least, most := w.rounds*roundPaid, (w.rounds+1)*roundPaid; ch.Claimed < least || ch.Claimed > most {
			t.Errorf("trader %d: claimed is %s, want %s to %s", i, ch.Claimed, least, most)
		}
		if w.rounds == 0 {
			t.Logf("trader %d did not finish a round", i)
		}
	}
}

// tradeAndKill lets the traders trade until so many steps were answered, kills
// the facilitator and audits what it left.
func tradeAndKill(t *testing.T, dir string, traders []*trader, credit channel.Amount, steps int64) {
	t.Helper()
	p, err := start(exec.Command("x402-facilitator", "run", "--dir", dir, "--listen", "127.0.0.1:0", "--dev"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := nethttp.New(nethttp.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range traders { // the same order every time: executed once
		_, err := c.Faucet(t.Context(), x402.FaucetRequest{Address: w.party.Config.Payer, Amount: credit, Ref: channel.Hash{byte(i + 1)}})
		if err != nil && !errors.Is(err, facilitator.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	var left atomic.Int64
	left.Store(steps)
	answered := func() {
		if left.Add(-1) == 0 { // others have requests in flight
			if err := p.kill(); err != nil {
				t.Error(err)
			}
		}
	}
	var wg sync.WaitGroup
	for _, w := range traders {
		wg.Go(func() {
			if err := w.trade(t.Context(), c, answered); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left.Load() > 0 {
		p.kill()
		t.Fatalf("facilitator ended by itself: %s", p.stderr.String())
	}
	out, err := exec.Command("x402-facilitator", "audit", "--dir", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("audit: %v: %s", err, out)
	}
}

// TestFullDisk runs out of disk (a limit on file size) in mid-trade: clients
// hear that the facilitator is unavailable, it says so in its health, nothing is
// half done, and with room again it goes on.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	shell := exec.Command("sh", "-c", `ulimit -f 256; exec x402-facilitator run --dir "$0" --listen 127.0.0.1:0 --dev`, dir)
	p, err := start(shell)
	if err != nil {
		t.Fatal(err)
	}
	l, w, c := connect(t, p)
	var steps int
	if err := w.trade(t.Context(), c, func() { steps++ }); err != nil {
		t.Error(err)
	}
	if steps == 0 {
		t.Fatal("the disk was full from the start")
	}
	if _, err := w.pending(t.Context(), c); !errors.Is(err, facilitator.ErrUnavailable) || !strings.Contains(err.Error(), "send the same request again") {
		t.Errorf("on a full disk: %v", err)
	}
	if _, err := c.Totals(t.Context(), l.Network()); err != nil {
		t.Errorf("a full disk can still be read: %v", err)
	}
	if err := p.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if log := p.stderr.String(); !strings.Contains(log, "file too large") {
		t.Errorf("log does not name the fault: %s", log)
	}

	p, err = start(exec.Command("x402-facilitator", "run", "--dir", dir, "--listen", "127.0.0.1:0", "--dev"))
	if err != nil {
		t.Fatal(err)
	}
	c, err = nethttp.New(nethttp.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	more := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = w.trade(ctx, c, func() {
		if more++; more == 8 {
			cancel()
		}
	})
	if err != nil || more < 8 {
		t.Errorf("with room again: %d steps, %v", more, err)
	}
	if err := p.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if out, err := exec.Command("x402-facilitator", "audit", "--dir", dir).CombinedOutput(); err != nil {
		t.Errorf("audit: %v: %s", err, out)
	}
}

// connect returns a trader with credit on a running facilitator.
func connect(t *testing.T, p *process) (ledger.Params, *trader, *facilitator.Client) {
	t.Helper()
	c, err := nethttp.New(nethttp.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Supported(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	network := s.Networks()[0]
	token, err := s.Token(network)
	if err != nil {
		t.Fatal(err)
	}
	params := ledger.Params{ChainID: token.ChainID, Token: token.Address, Name: token.Name, Version: token.Version, FeeDivisor: ledger.FeeDivisor}
	w := &trader{party: ledgertest.NewParty(t, params, 1)}
	if _, err := c.Faucet(t.Context(), x402.FaucetRequest{Address: w.party.Config.Payer, Amount: 1 << 50, Ref: channel.Hash{1}}); err != nil {
		t.Fatal(err)
	}
	return params, w, c
}

// TestReadOnlyDir: a directory that cannot be written is an error with a hint.
// As root, who may write everywhere, the command runs as somebody else.
func TestReadOnlyDir(t *testing.T) {
	dir, err := os.MkdirTemp("", "x402-*") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ledgerDir := filepath.Join(dir, "ledger")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(ledgerDir, 0o555)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("x402-facilitator", "run", "--dir", ledgerDir, "--listen", "127.0.0.1:0")
	if os.Geteuid() == 0 {
		exe := filepath.Join(dir, "x402-facilitator")
		if err := copyFile(exe, cmd.Path); err != nil {
			t.Fatal(err)
		}
		cmd.Path = exe
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = dir
	}
	out, err := cmd.CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != exitFailed {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"permission denied", "\nhint: the user of this command must be able to write to --dir\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}
