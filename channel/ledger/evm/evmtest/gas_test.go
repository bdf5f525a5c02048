package evmtest

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// costs is where the table of gas is for everyone to read.
const costs = "../../../../docs/costs.md"

// TestGas: docs/costs.md says what the contract's calls cost. With -update the
// test writes it.
func TestGas(t *testing.T) {
	c := Simulated(t, Config{})
	columns := []bill{measure(t, c, 1), measure(t, c, 10), measure(t, c, 100)}
	doc, err := os.ReadFile(costs)
	if err != nil {
		t.Fatal(err)
	}
	for name, table := range map[string]string{"gas": gasTable(columns), "share": shareTable(columns)} {
		t.Logf("%s:\n%s", name, table)
		begin, end := []byte("<!-- "+name+" -->\n"), []byte("<!-- /"+name+" -->\n")
		before, rest, ok := bytes.Cut(doc, begin)
		old, after, ok2 := bytes.Cut(rest, end)
		switch {
		case !ok || !ok2:
			t.Fatalf("%s has no place for the table %q", costs, name)
		case *update:
			doc = bytes.Join([][]byte{before, begin, []byte(table), end, after}, nil)
		case string(old) != table:
			t.Errorf("%s says otherwise: go test ./channel/ledger/evm/evmtest -run TestGas -update", costs)
		}
	}
	if *update {
		if err := os.WriteFile(costs, doc, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A bill is the gas of calls that each treat a number of channels of one receiver.
type bill struct {
	channels int
	gas      []uint64 // in the order of billed
	calldata []int    // bytes
}

// billed are the calls, in an order in which a channel can live through them.
var billed = []string{
	"open: first deposit", "top up: later deposit", "first claim", "later claim",
	"first settlement", "later settlement", "refund", "claim and refund",
}

const laterClaim, laterSettlement = 3, 5 // of billed

// measure runs all calls for n new channels of a new receiver.
func measure(t *testing.T, c *Chain, n int) bill {
	b := bill{channels: n}
	relay, receiver := ledgertest.Key(t, "relay"), ledgertest.Key(t, fmt.Sprint("receiver of ", n))
	c.Fund(relay.Address())
	all := make([]*ledgertest.Party, n)
	for i := range all {
		p := ledgertest.NewParty(t, c.Params(), 1000*n+i)
		p.Receiver, p.Config.Receiver, p.Config.ReceiverAuthorizer = receiver, receiver.Address(), receiver.Address()
		p.ID = c.Params().Domain().ID(p.Config)
		c.Mint(p.Config.Payer, 10_000_000)
		all[i] = p
	}
	do := func(call Call) {
		t.Helper()
		r := c.Send(relay, call)
		if r.Status != types.ReceiptStatusSuccessful {
			t.Fatalf("%s of %d channels was reverted", billed[len(b.gas)], n)
		}
		b.gas = append(b.gas, r.GasUsed)
		b.calldata = append(b.calldata, len(call.Data))
	}
	each := func(op func(*ledgertest.Party) ledger.Op) {
		t.Helper()
		var calls [][]byte
		for _, p := range all {
			calls = append(calls, CallOf(t, op(p)).Data)
		}
		do(together(t, calls))
	}
	claim := func(total channel.Amount) []byte {
		var rows []x402.VoucherClaim
		for _, p := range all {
			rows = append(rows, p.Row(total, total))
		}
		op, err := ledger.ClaimOf(x402.SignClaim(receiver, c.Params().Domain(), rows))
		if err != nil {
			t.Fatal(err)
		}
		return CallOf(t, op).Data
	}
	settle := func() { t.Helper(); do(CallOf(t, all[0].Settle())) }

	each(func(p *ledgertest.Party) ledger.Op { return p.DepositOp(t, 3_000_000) })
	each(func(p *ledgertest.Party) ledger.Op { return p.DepositOp(t, 2_000_000) })
	first, later := claim(1_000_000), claim(2_000_000)
	do(Call{channel.SettlementContract(), first})
	do(Call{channel.SettlementContract(), later})
	settle()
	last := claim(3_000_000)
	c.Send(relay, Call{channel.SettlementContract(), last})
	settle()
	each(func(p *ledgertest.Party) ledger.Op { return p.RefundOp(t, 500_000, 0) })
	calls := [][]byte{claim(3_200_000)}
	for _, p := range all {
		calls = append(calls, CallOf(t, p.RefundOp(t, 1<<40, 1)).Data)
	}
	do(together(t, calls))
	return b
}

// together makes one call of several.
func together(t *testing.T, calls [][]byte) Call {
	t.Helper()
	data := calls[0]
	if len(calls) > 1 {
		data = pack(t, "X402BatchSettlement", "multicall", calls)
	}
	return Call{channel.SettlementContract(), data}
}

func gasTable(columns []bill) string {
	var b strings.Builder
	b.WriteString("| gas, the whole transaction |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %d at once |", c.channels)
	}
	last := columns[len(columns)-1]
	fmt.Fprintf(&b, " each of %d | bytes each |\n|---|%s\n", last.channels, strings.Repeat("---:|", len(columns)+2))
	for i, name := range billed {
		fmt.Fprintf(&b, "| %s |", name)
		for _, c := range columns {
			fmt.Fprintf(&b, " %s |", thousands(c.gas[i]))
		}
		fmt.Fprintf(&b, " %s | %d |\n", thousands(last.gas[i]/uint64(last.channels)), last.calldata[i]/last.channels)
	}
	return b.String()
}

// prices of gas in milligwei, and of ether in USD, for shareTable.
var (
	milligwei = []uint64{5, 50, 1000}
	etherUSD  = uint64(3000)
)

// shareTable says what a regular settlement costs for each of its channels, what
// part that is of 10 USD a channel, and from how many on it is 0.001%.
func shareTable(columns []bill) string {
	var b strings.Builder
	b.WriteString("| claim and settle, one receiver | gas |")
	for _, p := range milligwei {
		fmt.Fprintf(&b, " %g gwei: each | of $10 each | 0.001%% from, each |", float64(p)/1000)
	}
	fmt.Fprintf(&b, "\n|---|---:|%s\n", strings.Repeat("---:|", 3*len(milligwei)))
	for _, c := range columns {
		gas := c.gas[laterClaim] + c.gas[laterSettlement]
		fmt.Fprintf(&b, "| channels: %d | %s |", c.channels, thousands(gas))
		for _, p := range milligwei {
			usd := float64(gas*p*etherUSD) / 1e12 / float64(c.channels)
			fmt.Fprintf(&b, " %s | %.2g%% | %s |", dollars(usd), usd/10*100, dollars(usd*100_000))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func thousands(v uint64) string {
	s := fmt.Sprint(v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func dollars(v float64) string {
	switch {
	case v < 1:
		return fmt.Sprintf("$%.5f", v)
	case v < 100:
		return fmt.Sprintf("$%.2f", v)
	}
	return "$" + thousands(uint64(v+0.5))
}
