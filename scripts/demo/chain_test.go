package demo

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

// TestDemoOnChain tells the same story with a facilitator that settles on Anvil,
// and lists the transactions that it took. `make demo-evm` runs it.
func TestDemoOnChain(t *testing.T) {
	chain := evmtest.Anvil(t, evmtest.Config{ID: 31337})
	key := ledgertest.Key(t, "facilitator")
	chain.Fund(key.Address())
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(hex.EncodeToString(key.Bytes())), 0o600); err != nil {
		t.Fatal(err)
	}
	p := chain.Params()
	r := run(t, Config{Bytes: 1_000_000, Chain: &Chain{
		Flags: []string{"--network", p.Network(), "--rpc", chain.URL, "--key", file, "--asset", p.Token.String(),
			"--asset-name", p.Name, "--asset-version", p.Version, "--native-price", "0.000001", "--poll", "50ms"},
		Fund: func(_ context.Context, a channel.Address, amount channel.Amount) error {
			chain.Mint(a, amount)
			return nil
		},
	}})
	if r.Ledger.Network != p.Network() || r.Ledger.Fee != 0 || r.Agent.Claimed == 0 || r.Ledger.ReceiverAfter != r.Agent.Claimed {
		t.Errorf("%+v", r.Ledger)
	}
	sent := transactions(t, chain, key.Address())
	for _, line := range sent {
		t.Log(line)
	}
	if len(sent) < 4 {
		t.Errorf("%d transactions: want at least a deposit, a claim, a refund and a settlement", len(sent))
	}
}

// transactions describes those of an account, oldest first.
func transactions(t *testing.T, chain *evmtest.Chain, from channel.Address) (lines []string) {
	t.Helper()
	contract, err := evmtest.Compiled("X402BatchSettlement")
	if err != nil {
		t.Fatal(err)
	}
	top, err := chain.Client.BlockNumber(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := range top + 1 {
		block, err := chain.Client.BlockByNumber(t.Context(), new(big.Int).SetUint64(n))
		if err != nil {
			t.Fatal(err)
		}
		for i, tx := range block.Transactions() {
			sender, err := chain.Client.TransactionSender(t.Context(), tx, block.Hash(), uint(i))
			if err != nil {
				t.Fatal(err)
			}
			if sender != common.Address(from) {
				continue
			}
			receipt, err := chain.Client.TransactionReceipt(t.Context(), tx.Hash())
			if err != nil {
				t.Fatal(err)
			}
			method, err := contract.ABI.MethodById(tx.Data())
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, fmt.Sprintf("block %d  %-20s %7d gas  %s", n, method.Name, receipt.GasUsed, tx.Hash()))
		}
	}
	return lines
}
