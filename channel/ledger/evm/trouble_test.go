package evm

import (
	"encoding/json"
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

// TestAnswerLost: a node that took a transaction, and whose answer is lost.
func TestAnswerLost(t *testing.T) {
	w, proxy, p := funded(t, nil)
	lost := 0
	proxy.set(func(method string, answer json.RawMessage) (json.RawMessage, fault) {
		if method == "eth_sendRawTransaction" && answer != nil && lost < 2 {
			lost++
			return answer, broken
		}
		return answer, none
	})
	w.submit(t, p.DepositOp(t, 1000))
	if w.balance(t, p) != 1000 || w.nonce(t) != 1 {
		t.Errorf("lost %d, balance %s, %d transactions", lost, w.balance(t, p), w.nonce(t))
	}
}

// TestHiddenReceipt: a node that has mined a transaction and denies its receipt.
// It looks as if another had used the nonce, so nothing more is sent; once it is
// shown everything goes on.
func TestHiddenReceipt(t *testing.T) {
	w, proxy, p := funded(t, short)
	proxy.set(func(method string, answer json.RawMessage) (json.RawMessage, fault) {
		if method == "eth_getTransactionReceipt" && answer != nil {
			answer = json.RawMessage("null")
		}
		return answer, none
	})
	op, next := p.DepositOp(t, 1000), p.DepositOp(t, 500)
	w.post(t, op)
	eventually(t, "it is noticed", func() bool { return errors.Is(w.Health(), ErrForeign) })
	w.later(t, next, "another program uses this key")
	proxy.set(nil)
	for _, op := range []ledger.Op{op, next} {
		eventually(t, "deposit", func() bool { _, err := w.Submit(t.Context(), ledger.Tx{Op: op}); return err == nil })
	}
	if w.balance(t, p) != 1500 || w.nonce(t) != 2 || w.Health() != nil {
		t.Errorf("balance %s after %d transactions, %v", w.balance(t, p), w.nonce(t), w.Health())
	}
}

// TestDeepReorg: a reorganisation takes out a deposit, a claim, its settlement and
// a refund, each of which needs the one before.
func TestDeepReorg(t *testing.T) {
	w, _, p := funded(t, func(c *Config) { c.Stuck = 20 * time.Second }) // nothing is replaced, so hashes stay
	ops := []ledger.Op{p.DepositOp(t, 1000), p.ClaimOp(t, 300, 300), p.Settle(), p.RefundOp(t, 100, 0)}
	var receipts []ledger.Receipt
	for _, op := range ops {
		receipts = append(receipts, w.submit(t, op))
	}
	was := w.chain.Channel(p.ID)
	w.chain.Reorg(len(ops))
	eventually(t, "all is there again", func() bool {
		return w.chain.Channel(p.ID) == was && w.chain.Balance(p.Config.Receiver) == 300
	})
	for i, op := range ops {
		if r := w.submit(t, op); r.Hash != receipts[i].Hash || r.Amount != receipts[i].Amount {
			t.Errorf("%T: was %+v, is %+v", op, receipts[i], r)
		}
	}
	if w.nonce(t) != uint64(len(ops)) {
		t.Errorf("%d transactions", w.nonce(t))
	}
	if _, err := w.Audit(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestArrived: what a transfer has brought is what the token's own events say.
func TestArrived(t *testing.T) {
	asset, payer, payee, other := channel.Address{1}, channel.Address{2}, channel.Address{3}, channel.Address{4}
	h := &Home{params: ledger.Params{Token: asset}}
	moved := func(emitter, from, to channel.Address, value int64) *types.Log {
		return &types.Log{
			Address: common.Address(emitter), Data: common.BigToHash(big.NewInt(value)).Bytes(),
			Topics: []common.Hash{token.Events["Transfer"].ID, common.BytesToHash(from[:]), common.BytesToHash(to[:])},
		}
	}
	whole := moved(asset, payer, payee, 100)
	for name, tt := range map[string]struct {
		to   channel.Address
		logs []*types.Log
		want channel.Amount
		lie  bool
	}{
		"all":                       {payee, []*types.Log{nil, whole}, 100, false},
		"a part is burnt":           {payee, []*types.Log{whole, moved(asset, payee, channel.Address{}, 1)}, 99, false},
		"a part goes elsewhere":     {payee, []*types.Log{moved(asset, payer, payee, 90), moved(asset, payer, other, 10)}, 90, false},
		"all is taken back":         {payee, []*types.Log{whole, moved(asset, payee, payer, 101)}, 0, false},
		"more":                      {payee, []*types.Log{whole, moved(asset, other, payee, 5)}, 100, false},
		"of another token":          {payee, []*types.Log{moved(other, payer, payee, 100)}, 0, true},
		"nothing":                   {payee, nil, 0, true},
		"an event of another shape": {payee, []*types.Log{{Address: whole.Address, Topics: whole.Topics, Data: []byte{1}}}, 0, true},
		"to himself":                {payer, []*types.Log{moved(asset, payer, payer, 100)}, 100, false},
	} {
		got, err := h.arrived(channel.Authorization{From: payer, To: tt.to, Value: 100}, tt.logs)
		if got != tt.want || errors.Is(err, ErrContradiction) != tt.lie || (err != nil) != tt.lie {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

// TestTwoSenders: two facilitators have one key and a journal each, and are asked
// for things at once. Nonces of one go to the other, so one of them or both stop
// sending. What either said is done is done, nothing is done twice, and what was
// held up goes when one is left and its owner takes over.
func TestTwoSenders(t *testing.T) {
	w, _, _ := funded(t, short)
	config := w.config
	config.Dir = t.TempDir()
	both := [2]*world{w, {chain: w.chain, config: config}}
	both[1].open(t)
	const each, amount = 3, channel.Amount(1000)
	var parties []*ledgertest.Party
	var ops []ledger.Op
	for i := range 2 * each {
		p := ledgertest.NewParty(t, w.params, 10+i)
		w.chain.Mint(p.Config.Payer, 5*amount)
		parties, ops = append(parties, p), append(ops, p.DepositOp(t, amount))
	}
	said := make([]error, len(ops))
	var wg sync.WaitGroup
	for i, op := range ops {
		wg.Go(func() { _, said[i] = both[i%2].Submit(t.Context(), ledger.Tx{Op: op}) })
	}
	wg.Wait()
	for i, err := range said {
		if got := w.balance(t, parties[i]); err == nil && got != amount || err != nil && !errors.Is(err, ledger.ErrLater) {
			t.Errorf("deposit %d: %v, the channel has %s", i, err, got)
		}
	}
	eventually(t, "one notices", func() bool {
		return errors.Is(both[0].Health(), ErrForeign) || errors.Is(both[1].Health(), ErrForeign)
	})
	both[0].stop()
	both[1].stop()
	for n, w := range both { // one after the other, each alone with the key
		w.config.TakeOver = true
		w.open(t)
		for i := n; i < len(ops); i += 2 {
			eventually(t, "deposit", func() bool {
				_, err := w.Submit(t.Context(), ledger.Tx{Op: ops[i]})
				if err != nil && !errors.Is(err, ledger.ErrLater) {
					t.Fatalf("deposit %d: %v", i, err)
				}
				return err == nil
			})
		}
		if _, err := w.Audit(t.Context()); err != nil {
			t.Error(err)
		}
		w.stop()
	}
	for i, p := range parties {
		if got, left := w.balance(t, p), w.chain.Balance(p.Config.Payer); got != amount || left != 4*amount {
			t.Errorf("deposit %d: the channel has %s, its payer %s", i, got, left)
		}
	}
}
