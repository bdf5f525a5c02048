package evm

import (
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// market opens a home that minds its gas, at a price of the chain's coin by
// which a claim alone must be worth about so much, and n parties with 100 USD in
// their channels.
func market(t *testing.T, n int, place ...evmtest.Contract) (*world, []*ledgertest.Party) {
	t.Helper()
	w, _, _ := funded(t, func(c *Config) { c.NativePrice, c.GasShare = 3_000_000_000, 100 }, place...)
	var parties []*ledgertest.Party
	for i := range n {
		p := ledgertest.NewParty(t, w.params, i)
		w.chain.Mint(p.Config.Payer, 200_000_000)
		w.submit(t, p.DepositOp(t, 100_000_000))
		parties = append(parties, p)
	}
	return w, parties
}

func (w *world) pending(t *testing.T, op ledger.Op) {
	t.Helper()
	_, err := w.Submit(t.Context(), ledger.Tx{Op: op})
	refusedWith(t, err, x402.ErrPending)
}

// dear returns what a claim of one channel must be worth to be sent by itself,
// and what it must be worth to go along with others.
func (w *world) dear(t *testing.T) (alone, along channel.Amount) {
	t.Helper()
	head, err := w.node.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := w.fees(t.Context(), head)
	if err != nil {
		t.Fatal(err)
	}
	units := func(gas uint64) channel.Amount { // gas · price · 3000 USD / 1e18 · 100
		return channel.Amount(gas*(f.price(head)/1e6)*3/10) + 1
	}
	return units(gasBase + gasBatch + gasRow), units(gasBatch + gasRow)
}

// TestBatch: claims that are not worth a transaction by themselves wait, and go
// together once they are.
func TestBatch(t *testing.T) {
	w, p := market(t, 3)
	alone, along := w.dear(t)
	before := w.nonce(t)
	value := (alone + along) / 2
	w.pending(t, p[0].ClaimOp(t, value, value))
	if got := w.nonce(t); got != before {
		t.Fatalf("sent %d transactions for what is not worth it", got-before)
	}
	w.pending(t, p[2].ClaimOp(t, 1, 1)) // not worth its row, whatever else is sent
	second := p[1].ClaimOp(t, 2*alone, 2*alone)
	r := w.submit(t, second)
	if r.Amount != 2*alone {
		t.Errorf("%+v", r)
	}
	first := w.submit(t, p[0].ClaimOp(t, value, value)) // asked again
	if first.Hash != r.Hash || first.Amount != value {
		t.Errorf("the first claim's receipt is %+v, the second's %+v", first, r)
	}
	if got := w.nonce(t); got != before+1 {
		t.Errorf("%d transactions for two claims", got-before)
	}
	if w.chain.Channel(p[2].ID).Claimed != 0 {
		t.Error("a claim of one unit was sent")
	}
}

// TestDataFee: what a rollup takes for a transaction's bytes counts like gas. A
// claim that is worth its gas alone waits where they are dear, and goes when it is
// worth both.
func TestDataFee(t *testing.T) {
	const perByte = 100_000_000_000 // wei: at 3,000 USD a coin and a share of 1%, 1 byte for each 0.03 USD that is claimed
	w, p := market(t, 2, evmtest.GasPriceOracle(perByte))
	if !w.hasOracle {
		t.Fatal("the oracle was not found")
	}
	one, err := w.callOf(p[0].ClaimOp(t, 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	alone, _ := w.dear(t)
	data := channel.Amount(dataBase+dataBatch+len(one.data)) * 30_000
	if data < alone/2 {
		t.Fatalf("data for %d units, gas for %d: the test shows nothing", data, alone)
	}
	before := w.nonce(t)
	w.pending(t, p[0].ClaimOp(t, alone+alone/10, alone+alone/10))
	w.pending(t, p[0].ClaimOp(t, data, data)) // less the gas
	if got := w.nonce(t); got != before {
		t.Fatalf("sent %d transactions for what is not worth it", got-before)
	}
	enough := data + alone + alone/10
	if r := w.submit(t, p[0].ClaimOp(t, enough, enough)); r.Amount != enough {
		t.Errorf("%+v", r)
	}
}

// TestDataFeeRounding never makes bytes cheaper than they are.
func TestDataFeeRounding(t *testing.T) {
	for _, tt := range []struct {
		wei   int64
		bytes int
		n     int
		want  int64
	}{{100, 10, 10, 100}, {100, 10, 1, 10}, {101, 10, 1, 11}, {1, 1000, 1, 1}, {0, 5, 7, 0}} {
		if got := (dataFee{big.NewInt(tt.wei), tt.bytes}).of(tt.n); got.Int64() != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
	if got := (dataFee{}).of(1_000_000); got.Sign() != 0 {
		t.Error(got)
	}
}

// TestWithdrawalHurries: what waits is claimed once the payer withdraws.
func TestWithdrawalHurries(t *testing.T) {
	w, p := market(t, 2)
	w.pending(t, p[0].ClaimOp(t, 50, 50))
	w.pending(t, p[1].ClaimOp(t, 50, 50))
	r, err := w.Withdraw(t.Context(), p[0].WithdrawOp(t, x402.WithdrawInitiate, 1000, 0))
	if err != nil || r.Amount != 1000 || r.Kind != ledger.KindInitiateWithdraw {
		t.Fatal(r, err)
	}
	eventually(t, "claim", func() bool { return w.chain.Channel(p[0].ID).Claimed == 50 })
	if w.chain.Channel(p[1].ID).Claimed != 0 {
		t.Error("a claim of another channel was hurried")
	}
	st, err := w.Read(t.Context(), ledger.Touch{Channels: []channel.ID{p[0].ID}})
	ch := st.Channels[p[0].ID]
	if err != nil || ch.WithdrawAmount != 1000 || ch.FinalizeAfter() != r.Time+ledgertest.Delay {
		t.Errorf("%+v, %v", ch, err)
	}
}

// TestWatchtower: of what the agent handed over the newest is claimed in the block
// behind the one in which its payer begins to withdraw, while the agent is off, and
// at once after a start if that was meanwhile. Who reads the channel is told with
// that very block.
func TestWatchtower(t *testing.T) {
	w, p := market(t, 2)
	for _, p := range p {
		w.pending(t, p.ClaimOp(t, 50, 40))
		w.pending(t, p.ClaimOp(t, 90, 80))
		w.pending(t, p.ClaimOp(t, 60, 60)) // late
		w.chain.Fund(p.Config.Payer)
	}
	begin := func(p *ledgertest.Party) uint64 {
		t.Helper()
		r := w.chain.Send(p.Payer, evmtest.CallOf(t, ledger.InitiateWithdraw{Config: p.Config, Amount: 100_000_000}))
		if r.Status != 1 {
			t.Fatal("reverted")
		}
		return r.BlockNumber.Uint64()
	}
	block := begin(p[0])
	st, err := w.Read(t.Context(), ledger.Touch{Channels: []channel.ID{p[0].ID}})
	if ch := st.Channels[p[0].ID]; err != nil || ch.WithdrawAt == 0 || ch.WithdrawAmount != 100_000_000 {
		t.Errorf("%+v, %v", ch, err)
	}
	eventually(t, "claim", func() bool { return w.chain.Channel(p[0].ID).Claimed == 80 })
	if r := w.submit(t, p[0].ClaimOp(t, 90, 80)); r.Height != block+1 || r.Amount != 80 {
		t.Errorf("claimed in block %d, withdrawn in %d: %+v", r.Height, block, r)
	}
	w.stop()
	begin(p[1])
	w.open(t)
	eventually(t, "claim after the start", func() bool { return w.chain.Channel(p[1].ID).Claimed == 80 })
	w.chain.Advance(ledgertest.Delay * time.Second)
	for _, p := range p {
		before := w.chain.Balance(p.Config.Payer)
		w.chain.Send(p.Payer, evmtest.CallOf(t, ledger.FinalizeWithdraw{Config: p.Config}))
		if got := w.chain.Balance(p.Config.Payer) - before; got != 100_000_000-80 {
			t.Errorf("the payer has %s back", got)
		}
	}
}

// TestFlush: the owner may say that all goes now.
func TestFlush(t *testing.T) {
	w, p := market(t, 2)
	w.pending(t, p[0].ClaimOp(t, 50, 50))
	w.pending(t, p[1].ClaimOp(t, 60, 60))
	n, err := w.Flush(t.Context())
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	eventually(t, "claims", func() bool {
		return w.chain.Channel(p[0].ID).Claimed == 50 && w.chain.Channel(p[1].ID).Claimed == 60
	})
	w.pending(t, p[0].ClaimOp(t, 70, 70)) // later ones wait again
	w.pending(t, p[1].Settle())
	if n, err := w.Flush(t.Context()); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	eventually(t, "settlement", func() bool { return w.chain.Balance(p[1].Config.Receiver) == 60 })
	if r := w.submit(t, p[0].ClaimOp(t, 70, 70)); r.Amount != 20 {
		t.Errorf("%+v", r)
	}
}

// TestNewerClaim: of several claims of one channel only the newest is sent, and
// all are answered by it. They survive a restart.
func TestNewerClaim(t *testing.T) {
	w, p := market(t, 1)
	for total := range channel.Amount(5) {
		w.pending(t, p[0].ClaimOp(t, total+1, total+1))
	}
	w.restart(t)
	eventually(t, "the older ones end", func() bool {
		jobs, _, err := w.journal.open()
		return err == nil && len(jobs) == 1
	})
	before := w.nonce(t)
	if n, err := w.Flush(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	eventually(t, "claim", func() bool { return w.chain.Channel(p[0].ID).Claimed == 5 })
	r := w.submit(t, p[0].ClaimOp(t, 5, 5))
	if r.Amount != 5 || w.nonce(t) != before+1 {
		t.Errorf("%+v, %d transactions", r, w.nonce(t)-before)
	}
	if again := w.submit(t, p[0].ClaimOp(t, 2, 2)); again != r {
		t.Errorf("an older claim: %+v, want %+v", again, r)
	}
}

// TestBadClaim: a claim that has become void does not hold up others.
func TestBadClaim(t *testing.T) {
	w, p := market(t, 2)
	w.pending(t, p[0].ClaimOp(t, 60_000, 60_000))
	w.pending(t, p[1].ClaimOp(t, 50_000, 50_000))
	w.stop()
	// The receiver's side gives the deposit back by another way.
	w.chain.Send(ledgertest.Key(t, "evmtest faucet"), evmtest.CallOf(t, p[0].RefundOp(t, 99_950_000, 0)))
	w.open(t)
	if n, err := w.Flush(t.Context()); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	eventually(t, "claim", func() bool { return w.chain.Channel(p[1].ID).Claimed == 50_000 })
	if r := w.submit(t, p[1].ClaimOp(t, 50_000, 50_000)); r.Amount != 50_000 {
		t.Errorf("%+v", r)
	}
	_, err := w.Submit(t.Context(), ledger.Tx{Op: p[0].ClaimOp(t, 60_000, 60_000)})
	refusedWith(t, err, x402.ErrClaimFailed)
}

// TestTogether: many at once, each done once.
func TestTogether(t *testing.T) {
	w, _, _ := funded(t, nil)
	var wg sync.WaitGroup
	var all []*ledgertest.Party
	for i := range 8 {
		p := ledgertest.NewParty(t, w.params, i)
		w.chain.Mint(p.Config.Payer, 1_000_000)
		all = append(all, p)
	}
	for _, p := range all {
		for _, op := range []ledger.Op{p.DepositOp(t, 1000), p.DepositOp(t, 2000)} {
			for range 2 { // each is asked for twice at once
				wg.Go(func() {
					r, err := w.Submit(t.Context(), ledger.Tx{Op: op})
					if errors.Is(err, ledger.ErrLater) {
						r, err = w.Submit(t.Context(), ledger.Tx{Op: op})
					}
					if err != nil || r.Amount != op.(ledger.Deposit).Amount {
						t.Error(r, err)
					}
				})
			}
		}
	}
	wg.Wait()
	for _, p := range all {
		if got := w.balance(t, p); got != 3000 {
			t.Errorf("balance is %s", got)
		}
	}
	if got := w.nonce(t); got != 16 {
		t.Errorf("%d transactions for 16 deposits", got)
	}
	report, err := w.Audit(t.Context())
	if err != nil || report.Chain.Transactions != 16 || report.Chain.Reverted != 0 || report.Chain.Gas == 0 {
		t.Errorf("%+v, %v", report.Chain, err)
	}
}

// TestStolenWithdrawal: nobody passes on a transaction that is not the payer's
// own, or does something else.
func TestStolenWithdrawal(t *testing.T) {
	w, p := market(t, 2)
	m := x402.Withdraw{Step: x402.WithdrawInitiate, Channel: p[0].ID, Amount: 10}
	try := func(m x402.Withdraw) {
		t.Helper()
		_, err := w.Home.Withdraw(t.Context(), p[0].Config, m)
		refusedWith(t, err, x402.ErrWithdrawTransaction)
	}
	try(m) // none at all: it is said how
	m.Transaction = []byte{2, 3, 4}
	try(m)
	var err error
	if m.Transaction, err = w.signWithdraw(t.Context(), p[0].Config, m); err != nil {
		t.Fatal(err)
	}
	other := m
	other.Channel = p[1].ID
	try(other)
	other = m
	other.Step = x402.WithdrawFinalize
	try(other)
	w.keys[p[0].Config.Payer] = w.keys[p[1].Config.Payer]
	if m.Transaction, err = w.signWithdraw(t.Context(), p[0].Config, m); err != nil {
		t.Fatal(err)
	}
	try(m)
}
