package evm

import (
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// funded returns a world and a party with money, on a chain of its own behind a
// proxy. change may be nil.
func funded(t *testing.T, change func(*Config), place ...evmtest.Contract) (*world, *proxy, *ledgertest.Party) {
	t.Helper()
	chain := evmtest.Simulated(t, evmtest.Config{Place: place})
	p := newProxy(t, chain.URL)
	w := setup(t, chain, func(c *Config) {
		c.RPC = p.url
		c.Answer = time.Minute // a busy machine is no fault
		if change != nil {
			change(c)
		}
	})
	party := ledgertest.NewParty(t, w.params, 1)
	chain.Mint(party.Config.Payer, 100_000_000)
	return w, p, party
}

func (w *world) submit(t *testing.T, op ledger.Op) ledger.Receipt {
	t.Helper()
	r, err := w.Submit(t.Context(), ledger.Tx{Op: op})
	if err != nil {
		t.Fatalf("%T: %v", op, err)
	}
	return r
}

// later submits an operation until it is said why it is not decided.
func (w *world) later(t *testing.T, op ledger.Op, why string) {
	t.Helper()
	eventually(t, "undecided, because "+why, func() bool {
		r, err := w.Submit(t.Context(), ledger.Tx{Op: op})
		if !errors.Is(err, ledger.ErrLater) {
			t.Fatalf("%T: got %+v, %v, want ErrLater", op, r, err)
		}
		return strings.Contains(err.Error(), why)
	})
}

// post submits an operation that is not decided until it is sent, and returns
// its transaction, the only one on its way.
func (w *world) post(t *testing.T, op ledger.Op) (out sent) {
	t.Helper()
	eventually(t, "it is sent", func() bool {
		if r, err := w.Submit(t.Context(), ledger.Tx{Op: op}); !errors.Is(err, ledger.ErrLater) {
			t.Fatalf("%T: got %+v, %v, want ErrLater", op, r, err)
		}
		_, sents, err := w.journal.open()
		if err != nil || len(sents) > 1 {
			t.Fatal(sents, err)
		}
		if len(sents) == 1 {
			out = sents[0]
		}
		return len(sents) == 1
	})
	return out
}

func refusedWith(t *testing.T, err error, code string) {
	t.Helper()
	if r, ok := errors.AsType[*ledger.RefusedError](err); !ok || r.Code != code {
		t.Fatalf("got %v, want refusal %s", err, code)
	}
}

func (w *world) balance(t *testing.T, p *ledgertest.Party) channel.Amount {
	t.Helper()
	return w.chain.Channel(p.ID).Balance
}

// nonce is how many transactions the home's account has sent.
func (w *world) nonce(t *testing.T) uint64 {
	t.Helper()
	n, err := w.chain.Client.NonceAt(t.Context(), common.Address(w.Account()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// eventually waits for something that the home does by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not in time", what)
		}
	}
}

func short(c *Config) { c.Answer = time.Second }

// TestRestart: what was sent before the end of a process is found by the next,
// and not sent as something new.
func TestRestart(t *testing.T) {
	w, _, p := funded(t, short)
	w.chain.StopMining()
	op := p.DepositOp(t, 1_000_000)
	w.post(t, op)
	w.later(t, op, "not confirmed yet") // asked again: still the same
	w.restart(t)
	w.later(t, op, "not confirmed yet")
	w.chain.StartMining()
	eventually(t, "deposit", func() bool {
		r, err := w.Submit(t.Context(), ledger.Tx{Op: op})
		return err == nil && r.Amount == 1_000_000
	})
	if got := w.balance(t, p); got != 1_000_000 || w.nonce(t) != 1 {
		t.Errorf("balance %s after %d transactions", got, w.nonce(t))
	}
}

// TestSwallowed: a node that says that it took a transaction and did not.
func TestSwallowed(t *testing.T) {
	w, proxy, p := funded(t, nil)
	lost := 0
	proxy.set(func(method string, answer json.RawMessage) (json.RawMessage, fault) {
		if method == "eth_sendRawTransaction" && answer == nil && lost < 2 {
			lost++
			return json.RawMessage(`"0x` + strings.Repeat("1", 64) + `"`), swallow
		}
		return answer, none
	})
	w.submit(t, p.DepositOp(t, 1000))
	if lost != 2 || w.balance(t, p) != 1000 || w.nonce(t) != 1 {
		t.Errorf("lost %d, balance %s, %d transactions", lost, w.balance(t, p), w.nonce(t))
	}
}

// TestReplaced: what no block takes is offered dearer, under the same nonce.
func TestReplaced(t *testing.T) {
	w, _, p := funded(t, func(c *Config) { c.Stuck = time.Second; short(c) })
	w.chain.StopMining()
	op := p.DepositOp(t, 1000)
	var s sent
	eventually(t, "replacement", func() bool {
		s = w.post(t, op)
		_, pooled, err := w.chain.Client.TransactionByHash(t.Context(), s.newest().Hash)
		return len(s.Attempts) > 1 && err == nil && pooled
	})
	first, second := s.Attempts[0], s.Attempts[1]
	if second.FeeCap*10 < first.FeeCap*11 || second.Tip*10 < first.Tip*11 {
		t.Errorf("replacement offers %d and %d after %d and %d", second.FeeCap, second.Tip, first.FeeCap, first.Tip)
	}
	w.chain.StartMining()
	var r ledger.Receipt
	eventually(t, "deposit", func() bool {
		var err error
		r, err = w.Submit(t.Context(), ledger.Tx{Op: op})
		return err == nil
	})
	if common.Hash(r.Hash) == first.Hash || w.nonce(t) != 1 || w.balance(t, p) != 1000 {
		t.Errorf("receipt %+v, %d transactions, balance %s", r, w.nonce(t), w.balance(t, p))
	}
}

// TestReorg: what a reorganisation took out of the chain is sent again.
func TestReorg(t *testing.T) {
	w, _, p := funded(t, nil)
	op := p.DepositOp(t, 1000)
	was := w.submit(t, op)
	w.chain.Reorg(1)
	eventually(t, "deposit is there again", func() bool { return w.balance(t, p) == 1000 })
	now := w.submit(t, op)
	if now.Hash != was.Hash || w.nonce(t) != 1 {
		t.Errorf("was %+v, is %+v, %d transactions", was, now, w.nonce(t))
	}
	if _, err := w.Audit(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestConfirmations: nothing is answered before a block has as many others on it
// as the configuration says.
func TestConfirmations(t *testing.T) {
	w, _, p := funded(t, func(c *Config) { c.Confirmations = 3; short(c) })
	op := p.DepositOp(t, 1000)
	w.post(t, op)
	w.later(t, op, "not confirmed yet")
	w.chain.Mine()
	w.later(t, op, "not confirmed yet")
	w.chain.Mine()
	eventually(t, "deposit", func() bool {
		r, err := w.Submit(t.Context(), ledger.Tx{Op: op})
		return err == nil && r.Amount == 1000
	})
}

// TestLies: a receipt that the chain's events and state do not bear out is not
// believed.
func TestLies(t *testing.T) {
	t.Run("without events", func(t *testing.T) { testLie(t, false) })
	t.Run("with events", func(t *testing.T) { testLie(t, true) })
}

func testLie(t *testing.T, events bool) {
	w, proxy, p := funded(t, short)
	w.chain.StopMining()
	head, err := w.chain.Client.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	op := p.DepositOp(t, 1000)
	receipt := types.Receipt{
		Type: 2, TxHash: w.post(t, op).Attempts[0].Hash, BlockHash: head.Hash(), BlockNumber: head.Number,
		Status: types.ReceiptStatusSuccessful, GasUsed: 1, CumulativeGasUsed: 1, Logs: []*types.Log{},
	}
	if events {
		e := settlement.Events["Deposited"]
		data, err := e.Inputs.NonIndexed().Pack(big.NewInt(1000), big.NewInt(1000))
		if err != nil {
			t.Fatal(err)
		}
		receipt.Logs = append(receipt.Logs, &types.Log{
			Address: common.Address(w.params.Domain().Contract), Topics: []common.Hash{e.ID, common.Hash(p.ID), {}}, Data: data,
		})
	}
	forged, err := json.Marshal(&receipt)
	if err != nil {
		t.Fatal(err)
	}
	proxy.set(func(method string, answer json.RawMessage) (json.RawMessage, fault) {
		if method == "eth_getTransactionReceipt" && answer != nil {
			answer = forged
		}
		return answer, none
	})
	eventually(t, "the lie is noticed", func() bool { return errors.Is(w.Health(), ErrContradiction) })
	w.later(t, op, "contradicts itself")
	proxy.set(nil)
	w.chain.StartMining()
	eventually(t, "the truth", func() bool {
		r, err := w.Submit(t.Context(), ledger.Tx{Op: op})
		return err == nil && r.Amount == 1000
	})
	if w.balance(t, p) != 1000 || w.nonce(t) != 1 {
		t.Errorf("balance %s, %d transactions", w.balance(t, p), w.nonce(t))
	}
}

// outbid gives the node a transaction of key that does the same as s and offers
// more.
func (w *world) outbid(t *testing.T, s sent, key *channel.Key) {
	t.Helper()
	nonce, err := w.chain.Client.NonceAt(t.Context(), common.Address(key.Address()), nil)
	if err != nil {
		t.Fatal(err)
	}
	chain, a := wide(w.params.ChainID), s.newest()
	tx, err := withKey(key).sign(t.Context(), types.NewTx(&types.DynamicFeeTx{
		ChainID: chain, Nonce: nonce, GasTipCap: wide(2 * a.Tip), GasFeeCap: wide(2 * a.FeeCap), Gas: s.Gas, To: &s.To, Data: s.Data,
	}), types.LatestSignerForChainID(chain))
	if err == nil {
		err = w.chain.Client.SendTransaction(t.Context(), tx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestReverted: an authorization that was used by another transaction in the
// meantime is refused, with what has become of it.
func TestReverted(t *testing.T) {
	w, _, p := funded(t, short)
	w.chain.StopMining()
	op := p.DepositOp(t, 1000)
	s := w.post(t, op)
	w.stop()
	// Another facilitator's transaction offers more, so the block has it first.
	w.outbid(t, s, ledgertest.Key(t, "evmtest faucet"))
	w.chain.StartMining()
	w.open(t)
	eventually(t, "the end", func() bool {
		_, sents, err := w.journal.open()
		return err == nil && len(sents) == 1 && sents[0].Done
	})
	j, err := w.journal.job(s.Jobs[0])
	if err != nil || j.State != jobRefused || !strings.Contains(j.Message, "was reverted, but what it was for is done") {
		t.Errorf("%+v, %v", j, err)
	}
	if got := w.balance(t, p); got != 1000 {
		t.Errorf("balance %s", got)
	}
	_, err = w.Submit(t.Context(), ledger.Tx{Op: op})
	refusedWith(t, err, x402.ErrDepositFailed)
}

// TestNodeDown: a node that fails, or says nothing, is an error in bounded time,
// and forgotten when it answers again.
func TestNodeDown(t *testing.T) {
	w, proxy, p := funded(t, nil)
	op := p.DepositOp(t, 1000)
	for name, f := range map[string]fault{"broken": broken, "silent": silent} {
		proxy.set(func(_ string, answer json.RawMessage) (json.RawMessage, fault) { return answer, f })
		eventually(t, name, func() bool { return errors.Is(w.Health(), errNode) })
		start := time.Now()
		w.later(t, op, "the chain's node")
		if d := time.Since(start); d > 2*callTime {
			t.Errorf("%s: answered after %v", name, d)
		}
		if err := w.Health(); strings.Contains(err.Error(), strings.TrimPrefix(proxy.url, "http://")) {
			t.Errorf("the node's address is told: %v", err)
		}
	}
	proxy.set(nil)
	eventually(t, "health", func() bool { return w.Health() == nil })
	w.submit(t, op)
}

// TestForeign: another program with the same key is noticed, nothing more is
// sent, and the next start says so until the owner takes over.
func TestForeign(t *testing.T) {
	w, _, p := funded(t, nil)
	w.submit(t, p.DepositOp(t, 1000))
	w.chain.Send(ledgertest.Key(t, "facilitator"), evmtest.CallOf(t, ledgertest.NewParty(t, w.params, 2).Settle()))
	eventually(t, "it is noticed", func() bool { return errors.Is(w.Health(), ErrForeign) })
	w.later(t, p.DepositOp(t, 1000), "another program uses this key")
	w.stop()
	if h, err := Open(t.Context(), w.config); !errors.Is(err, ErrForeign) {
		t.Fatal(h, err)
	}
	w.config.TakeOver = true
	w.open(t)
	w.submit(t, p.DepositOp(t, 500))
	if got := w.balance(t, p); got != 1500 {
		t.Errorf("balance %s", got)
	}
}

// TestForeignNonce: another program with the same key takes a nonce under which
// something was sent already. Once the owner takes over it is sent anew.
func TestForeignNonce(t *testing.T) {
	w, _, p := funded(t, short)
	w.chain.StopMining()
	op := p.DepositOp(t, 1000)
	other := w.post(t, op)
	call, err := w.callOf(ledgertest.NewParty(t, w.params, 2).Settle())
	if err != nil {
		t.Fatal(err)
	}
	other.To, other.Data = call.to, call.data
	w.outbid(t, other, ledgertest.Key(t, "facilitator"))
	w.chain.StartMining()
	eventually(t, "it is noticed", func() bool { return errors.Is(w.Health(), ErrForeign) })
	w.later(t, op, "another program uses this key")
	w.restart(t)
	eventually(t, "it is noticed again", func() bool { return errors.Is(w.Health(), ErrForeign) })
	w.config.TakeOver = true
	w.restart(t)
	eventually(t, "deposit", func() bool { return w.balance(t, p) == 1000 && w.Health() == nil })
	if _, err := w.Audit(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSpike: while gas is too dear deposits are turned away at once, and claims
// wait.
func TestSpike(t *testing.T) {
	w, _, p := funded(t, nil)
	w.submit(t, p.DepositOp(t, 1000))
	w.stop()
	w.config.MaxGasPrice = 1
	w.open(t)
	w.later(t, p.DepositOp(t, 1000), "try later")
	_, err := w.Submit(t.Context(), ledger.Tx{Op: p.ClaimOp(t, 900, 900)})
	refusedWith(t, err, "settlement_pending")
	w.stop()
	w.config.MaxGasPrice = 0
	w.open(t)
	eventually(t, "the claim goes when gas is cheap", func() bool { return w.chain.Channel(p.ID).Claimed == 900 })
}

// TestPoor: an account without gas says so.
func TestPoor(t *testing.T) {
	w, _, p := funded(t, func(c *Config) {
		c.Signer = withKey(ledgertest.Key(t, "poor"))
		c.Answer = 3 * time.Second
	})
	op := p.DepositOp(t, 1000)
	w.later(t, op, "fund it")
	eventually(t, "health", func() bool { err := w.Health(); return err != nil && strings.Contains(err.Error(), "fund it") })
	w.chain.Fund(w.Account())
	eventually(t, "deposit", func() bool { return w.balance(t, p) == 1000 })
}
