package main

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// onChain returns a local chain, and the command line of a facilitator on it
// whose account has gas.
func onChain(t *testing.T) (*evmtest.Chain, func() *exec.Cmd, string) {
	t.Helper()
	chain := evmtest.Simulated(t, evmtest.Config{ID: 31337})
	key := ledgertest.Key(t, "facilitator")
	chain.Fund(key.Address())
	dir := t.TempDir()
	keyFile := filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, []byte(hex.EncodeToString(key.Bytes())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := chain.Params()
	return chain, func() *exec.Cmd {
		return exec.Command("x402-facilitator", "run", "--ledger", "evm", "--dir", filepath.Join(dir, "d"), "--listen", "127.0.0.1:0",
			"--rpc", chain.URL, "--network", p.Network(), "--key", keyFile, "--asset", p.Token.String(),
			"--asset-name", p.Name, "--asset-version", p.Version, "--native-price", "0.000001", "--poll", "30ms")
	}, filepath.Join(dir, "d")
}

// TestKillOnChain kills the facilitator with SIGKILL while four traders deposit,
// claim, settle and have refunds on a chain. What was answered still holds, every
// step is done once, and the journal agrees with the chain.
func TestKillOnChain(t *testing.T) {
	chain, command, dir := onChain(t)
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 4))
	const credit channel.Amount = 1 << 40
	traders := make([]*trader, 4)
	for i := range traders {
		traders[i] = &trader{party: ledgertest.NewParty(t, chain.Params(), i)}
		chain.Mint(traders[i].party.Config.Payer, credit)
	}
	for range kills(t) {
		p, err := start(command())
		if err != nil {
			t.Fatal(err)
		}
		tradeOnChain(t, p, traders, 1+rng.Int64N(24), time.Duration(rng.Int64N(int64(60*time.Millisecond))))
		if t.Failed() {
			return
		}
	}
	p, err := start(command())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range traders { // the step that was cut off is ended
		finishStep(t, p, w)
	}
	out, err := exec.Command("x402-facilitator", "audit", "--dir", dir).CombinedOutput()
	if err != nil {
		t.Errorf("audit: %v: %s", err, out)
	}
	t.Logf("%s", out)
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	for i, w := range traders {
		checkTrader(t, chain, w, credit)
		if w.rounds == 0 {
			t.Logf("trader %d did not finish a round", i)
		}
	}
}

// TestKilledWatchtower kills the facilitator with SIGKILL when it has answered that it
// keeps a claim, and a newer one. A withdrawal that begins while it is down is seen by
// the next process, which claims the newest.
func TestKilledWatchtower(t *testing.T) {
	chain, command, _ := onChain(t)
	dear := func() *process {
		cmd := command()
		cmd.Args = append(cmd.Args, "--native-price", "3000")
		p, err := start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	party := ledgertest.NewParty(t, chain.Params(), 1)
	chain.Mint(party.Config.Payer, 1_000_000)
	chain.Fund(party.Config.Payer)
	chain.Send(ledgertest.Key(t, "evmtest faucet"), evmtest.CallOf(t, party.DepositOp(t, 1_000_000)))
	p := dear()
	c, err := nethttp.New(nethttp.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	for _, total := range []channel.Amount{300, 700} {
		for {
			_, err := c.Claim(t.Context(), chain.Params().Network(), party.Claim(total, total))
			if facilitator.Pending(err) {
				break
			}
			if !errors.Is(err, facilitator.ErrUnavailable) { // a busy machine is no fault
				t.Fatal(err)
			}
		}
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	r := chain.Send(party.Payer, evmtest.CallOf(t, ledger.InitiateWithdraw{Config: party.Config, Amount: 1_000_000}))
	if r.Status != 1 || chain.Channel(party.ID).Claimed != 0 {
		t.Fatal("not withdrawn, or claimed already")
	}
	p = dear()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(2 * time.Minute); chain.Channel(party.ID).Claimed != 700; {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("claimed are %s: %s", chain.Channel(party.ID).Claimed, p.stderr.String())
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

// tradeOnChain lets the traders trade until so many steps were answered, waits a
// moment, in which others are under way, and kills the facilitator.
func tradeOnChain(t *testing.T, p *process, traders []*trader, steps int64, moment time.Duration) {
	t.Helper()
	c, err := nethttp.New(nethttp.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	var left atomic.Int64
	left.Store(steps)
	dying := make(chan struct{})
	answered := func() {
		if left.Add(-1) == 0 {
			close(dying)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-dying:
			<-time.After(moment)
		case <-ctx.Done():
			t.Errorf("only %d steps are left of %d: %s", left.Load(), steps, p.stderr.String())
		}
		if err := p.kill(); err != nil {
			t.Error(err)
		}
	})
	for _, w := range traders {
		wg.Go(func() {
			if err := w.trade(ctx, c, answered); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// finishStep asks for a trader's pending step until it is answered.
func finishStep(t *testing.T, p *process, w *trader) {
	t.Helper()
	c, err := nethttp.New(nethttp.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	if w.pending == nil {
		return
	}
	var r x402.SettlementResponse
	for range 5 {
		if r, err = w.pending(t.Context(), c); !errors.Is(err, facilitator.ErrUnavailable) {
			break
		}
	}
	if err != nil || !r.Success {
		t.Errorf("step %d of round %d: %+v, %v", w.step, w.rounds, r, err)
	}
	if w.pending = nil; w.step == 3 {
		w.rounds, w.step = w.rounds+1, 0
	} else {
		w.step++
	}
}

// checkTrader compares the chain with the steps that a trader has done.
func checkTrader(t *testing.T, chain *evmtest.Chain, w *trader, credit channel.Amount) {
	t.Helper()
	balance, claimed, settled := w.rounds*roundPaid, w.rounds*roundPaid, w.rounds*roundPaid
	switch w.step { // steps are numbered by what comes next
	case 3:
		settled += roundPaid
		fallthrough
	case 2:
		claimed += roundPaid
		fallthrough
	case 1:
		balance += roundIn
	}
	ch := chain.Channel(w.party.ID)
	if ch.Balance != balance || ch.Claimed != claimed {
		t.Errorf("%d rounds and %d steps: channel has %s, claimed %s, want %s and %s", w.rounds, w.step, ch.Balance, ch.Claimed, balance, claimed)
	}
	if got := chain.Balance(w.party.Config.Payer); got != credit-balance {
		t.Errorf("%d rounds and %d steps: payer has %s, want %s", w.rounds, w.step, got, credit-balance)
	}
	if got := chain.Balance(w.party.Config.Receiver); got != settled {
		t.Errorf("%d rounds and %d steps: receiver has %s, want %s", w.rounds, w.step, got, settled)
	}
}
