package evm

import (
	"context"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// Read returns the records named as of the newest block. The totals are those
// of the records alone: nobody knows a whole chain's. A channel whose
// configuration no request has brought here yet is known by its numbers only.
func (h *Home) Read(ctx context.Context, t ledger.Touch) (ledger.State, error) {
	head, err := h.node.head(ctx)
	if err != nil {
		return ledger.State{}, err
	}
	s, err := h.readAt(ctx, t, head.Number)
	s.Totals.Height, s.Time = head.Number.Uint64(), max(head.Time, 1)
	return s, err
}

// A question is one view of a contract, and what becomes of its numbers.
type question struct {
	call
	method string
	set    func([]uint64) error
	answer hexutil.Bytes
}

func (h *Home) readAt(ctx context.Context, t ledger.Touch, block *big.Int) (ledger.State, error) {
	s := ledger.NewState(h.params)
	questions, err := h.questions(t, &s)
	if err != nil {
		return s, err
	}
	calls := make([]rpc.BatchElem, len(questions))
	for i := range questions {
		calls[i] = view(questions[i].call, block, &questions[i].answer)
	}
	if err := h.node.batch(ctx, calls); err != nil {
		return s, err
	}
	for _, q := range questions {
		contract := settlement
		if _, ok := token.Methods[q.method]; ok {
			contract = token
		}
		v, err := numbers(contract, q.method, q.answer)
		if err == nil {
			err = q.set(v)
		}
		if err != nil {
			return s, failed("read", err)
		}
	}
	for id, c := range s.Channels {
		if c == (ledger.Channel{}) {
			delete(s.Channels, id)
			continue
		}
		if c.Config, err = h.journal.config(id); err != nil {
			return s, err
		}
		s.Channels[id] = c
	}
	return s, sumUp(&s)
}

// questions are the views that t needs; their answers go into s.
func (h *Home) questions(t ledger.Touch, s *ledger.State) ([]question, error) {
	contract, asset := common.Address(h.params.Domain().Contract), common.Address(h.params.Token)
	var out []question
	var firstErr error
	ask := func(to common.Address, set func([]uint64) error, method string, args ...any) {
		a := settlement
		if to == asset {
			a = token
		}
		data, err := a.Pack(method, args...)
		if err != nil && firstErr == nil {
			firstErr = fmt.Errorf("evm: %s: %w", method, err)
		}
		out = append(out, question{call: call{to, data}, method: method, set: set})
	}
	for _, a := range t.Accounts {
		ask(asset, func(v []uint64) error { s.Accounts[a] = channel.Amount(v[0]); return nil }, "balanceOf", common.Address(a))
	}
	for _, r := range t.Receivers {
		ask(contract, func(v []uint64) error {
			s.Receivers[r] = ledger.Receiver{Claimed: channel.Amount(v[0]), Settled: channel.Amount(v[1])}
			return nil
		}, "receivers", common.Address(r), asset)
	}
	for _, n := range t.Nonces {
		ask(asset, func(v []uint64) error {
			if v[0] != 0 {
				s.Nonces[n] = true
			}
			return nil
		}, "authorizationState", common.Address(n.From), [32]byte(n.Nonce))
	}
	for _, id := range t.Channels {
		change := func(f func(*ledger.Channel, []uint64)) func([]uint64) error {
			return func(v []uint64) error { c := s.Channels[id]; f(&c, v); s.Channels[id] = c; return nil }
		}
		ask(contract, change(func(c *ledger.Channel, v []uint64) {
			c.Balance, c.Claimed = channel.Amount(v[0]), channel.Amount(v[1])
		}), "channels", [32]byte(id))
		ask(contract, change(func(c *ledger.Channel, v []uint64) { c.RefundNonce = v[0] }), "refundNonce", [32]byte(id))
		ask(contract, change(func(c *ledger.Channel, v []uint64) {
			c.WithdrawAmount, c.WithdrawAt = channel.Amount(v[0]), v[1]
		}), "pendingWithdrawals", [32]byte(id))
	}
	return out, firstErr
}

// sumUp gives s the totals of its records, so that they add up and
// [ledger.Apply] works on them as on a ledger that holds nothing else. An answer
// that no contract of this kind can give is refused here.
func sumUp(s *ledger.State) error {
	t := &s.Totals
	var err error
	add := func(total *channel.Amount, v channel.Amount, verr error) {
		if err == nil {
			err = verr
		}
		if err == nil {
			*total, err = total.Add(v)
		}
	}
	for _, v := range s.Accounts {
		add(&t.Accounts, v, nil)
	}
	for _, c := range s.Channels {
		v, verr := c.Balance.Sub(c.Claimed)
		add(&t.Escrow, v, verr)
	}
	for _, r := range s.Receivers {
		v, verr := r.Claimed.Sub(r.Settled)
		add(&t.Unsettled, v, verr)
	}
	for _, v := range [...]channel.Amount{t.Accounts, t.Escrow, t.Unsettled} {
		add(&t.Issued, v, nil)
	}
	return failed("the contract's numbers", err)
}
