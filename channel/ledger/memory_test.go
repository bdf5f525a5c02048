package ledger_test

import (
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

func params() ledger.Params {
	return ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
}

func TestMemory(t *testing.T) {
	ledgertest.Run(t, func(*testing.T) ledgertest.Home { return ledger.NewMemory(params()) })
}
