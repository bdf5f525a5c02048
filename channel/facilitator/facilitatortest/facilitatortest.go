// Package facilitatortest runs facilitators that settle on the chains of package
// evmtest.
package facilitatortest

import (
	"context"
	"encoding/hex"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger/evm"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

// OnChain runs a ledger's home on a chain until the test ends, with an account that
// has money for gas. Gas costs next to nothing unless change says otherwise; nil
// changes nothing.
func OnChain(t *testing.T, chain *evmtest.Chain, change func(*evm.Config)) *evm.Home {
	t.Helper()
	p := chain.Params()
	cfg := evm.Config{
		Dir: t.TempDir(), RPC: chain.URL, ChainID: p.ChainID, Token: p.Token, Name: p.Name, Version: p.Version,
		Signer: Signer(t, chain, "facilitator"), NativePrice: 1, Poll: 20 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	home, err := evm.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := home.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := home.Close(); err != nil {
			t.Error(err)
		}
	})
	return home
}

// Signer returns an account that has money for gas, of a key that has a name.
func Signer(t *testing.T, chain *evmtest.Chain, name string) *evm.Signer {
	t.Helper()
	key := ledgertest.Key(t, name)
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(hex.EncodeToString(key.Bytes())), 0o600); err != nil {
		t.Fatal(err)
	}
	chain.Fund(key.Address())
	signer, err := evm.LoadKey(evm.KeyFile{Path: file, Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// Serve returns the URL of a facilitator that settles on a chain as OnChain has it.
func Serve(t *testing.T, chain *evmtest.Chain) string {
	t.Helper()
	handler, err := server.New(server.Config{Ledger: OnChain(t, chain, nil)})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}
