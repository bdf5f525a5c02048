package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/facilitator/facilitatortest"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

// TestWithdrawOnChain: the commands, from a channel on a chain to the money in the
// wallet's account.
func TestWithdrawOnChain(t *testing.T) {
	chain := evmtest.Simulated(t, evmtest.Config{})
	url := facilitatortest.Serve(t, chain)
	p := ledgertest.NewParty(t, chain.Params(), 1)
	chain.Mint(p.Payer.Address(), 1_000_000)
	fac, err := nethttp.New(nethttp.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fac.Deposit(t.Context(), chain.Params().Network(), chain.Params().Asset(), p.Deposit(700_000, 0)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	wallet, state := filepath.Join(dir, "wallet.json"), filepath.Join(dir, "state")
	text, err := fastKeystore(p.Payer)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(wallet, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := bolt.Open(filepath.Join(state, "channels.db"))
	if err != nil {
		t.Fatal(err)
	}
	payer, err := channel.NewPayer(store)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := payer.Open(chain.Params().Domain(), p.Config); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("X402_PASSPHRASE", testPassphrase)
	run := func(code int, want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		args = append(append([]string{"wallet"}, args...), "--wallet", wallet, "--state", state, "--facilitator", url)
		if got := execute(t.Context(), args, &out, &out); got != code || !strings.Contains(out.String(), want) {
			t.Fatalf("%v: exit code %d, %s, want %d and %s", args, got, &out, code, want)
		}
	}
	run(1, "hint: name one with --rpc URL; ", "withdraw", "--channel", "all")
	run(1, " ether, and "+p.Payer.Address().String()+" holds 0 on ", "withdraw", "--channel", "all", "--rpc", chain.URL)
	chain.Fund(p.Payer.Address())
	run(0, ": the withdrawal of 0.70 USD was begun; ", "withdraw", "--channel", "all", "--rpc", chain.URL)
	run(0, "withdrawing 0.70 from ", "show")
	chain.Advance(ledgertest.Delay * time.Second)
	run(0, ": withdrew 0.70 USD", "withdraw", "--rpc", chain.URL)
	run(0, " withdrawn ", "show")
	if got := chain.Balance(p.Payer.Address()); got != 1_000_000 {
		t.Errorf("the wallet has %s", got)
	}
}
