package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// finalDepth is how many blocks a transaction is watched for, in case that its
// block is replaced: two epochs of Ethereum.
const finalDepth = 64

// follow finds where the transactions on their way are, and ends the jobs of
// those that are confirmed. One that a reorganisation took out of the chain is
// on its way again. It returns the transactions as they are then.
func (h *Home) follow(ctx context.Context, head *types.Header, sents []sent) ([]sent, error) {
	var hashes []common.Hash
	for _, s := range sents {
		for _, a := range s.Attempts {
			hashes = append(hashes, a.Hash)
		}
	}
	receipts, err := h.node.receipts(ctx, hashes)
	if err != nil {
		return nil, err
	}
	var errs error
	for i := range sents {
		n := len(sents[i].Attempts)
		own := receipts[:n]
		receipts = receipts[n:]
		k := slices.IndexFunc(own, func(r *types.Receipt) bool { return r != nil })
		if k < 0 {
			errs = errors.Join(errs, h.vanished(&sents[i]))
			continue
		}
		errs = errors.Join(errs, h.found(ctx, head, &sents[i], own[k]))
	}
	return sents, errs
}

// vanished takes back that s is in a block, if it was.
func (h *Home) vanished(s *sent) error {
	if s.Mined == nil {
		return nil
	}
	h.log.Warn("a block was replaced, and a transaction is out of the chain: sending it again",
		"nonce", s.Nonce, "hash", s.Mined.Hash.String(), "block", s.Mined.Block)
	s.Mined, s.Done = nil, false
	jobs, _, err := h.jobsOf(*s)
	if err != nil {
		return err
	}
	for i := range jobs {
		if jobs[i].State == jobDone || jobs[i].State == jobRefused {
			jobs[i].State, jobs[i].Receipt = jobSent, ledger.Receipt{}
		}
	}
	return h.journal.save(s, false, jobs...)
}

func (h *Home) jobsOf(s sent) (jobs []job, ops []ledger.Op, err error) {
	for _, n := range s.Jobs {
		j, err := h.journal.job(n)
		if err != nil {
			return nil, nil, err
		}
		op, err := j.op()
		if err != nil {
			return nil, nil, err
		}
		jobs, ops = append(jobs, j), append(ops, op)
	}
	return jobs, ops, nil
}

// found takes a receipt over. The jobs end once it has its confirmations and the
// chain's state says the same as it does.
func (h *Home) found(ctx context.Context, head *types.Header, s *sent, r *types.Receipt) error {
	block := r.BlockNumber.Uint64()
	if s.Mined == nil || s.Mined.BlockHash != r.BlockHash {
		s.Mined, s.Done = &mined{Hash: r.TxHash, BlockHash: r.BlockHash, Block: block, OK: r.Status == types.ReceiptStatusSuccessful}, false
		s.GasUsed = r.GasUsed
	}
	top := head.Number.Uint64()
	if top+1 < block+h.cfg.Confirmations { // the node may be behind its own receipt
		return nil
	}
	if s.Done {
		if top < block+finalDepth {
			return nil
		}
		return h.journal.save(s, true)
	}
	jobs, err := h.conclude(ctx, s, r)
	if err != nil {
		return fmt.Errorf("transaction %s in block %d: %w", r.TxHash, block, err)
	}
	s.Done = true
	if err := h.journal.save(s, false, jobs...); err != nil {
		return err
	}
	h.moved()
	for _, j := range jobs {
		h.log.Info("job ended", "job", j.Number, "kind", j.Receipt.Kind.String(), "state", string(j.State), "nonce", s.Nonce,
			"hash", r.TxHash.String(), "block", block, "amount", j.Receipt.Amount)
	}
	return nil
}

// conclude says what became of the jobs of a transaction.
func (h *Home) conclude(ctx context.Context, s *sent, r *types.Receipt) ([]job, error) {
	jobs, ops, err := h.jobsOf(*s)
	if err != nil {
		return nil, err
	}
	header, err := h.headerOf(ctx, r)
	if err != nil {
		return nil, err
	}
	s.Mined.Time = header.Time
	var t ledger.Touch
	for i, op := range ops {
		jobs[i].Receipt = ledger.Receipt{Hash: channel.Hash(r.TxHash), Height: s.Mined.Block, Time: header.Time, Kind: ledger.Tx{Op: op}.Kind()}
		tt := ledger.Tx{Op: op}.Touches(h.params)
		t.Channels, t.Receivers, t.Nonces = append(t.Channels, tt.Channels...), append(t.Receivers, tt.Receivers...), append(t.Nonces, tt.Nonces...)
	}
	for _, id := range t.Channels {
		delete(h.known, id) // it is another now
	}
	if !s.Mined.OK {
		h.log.Warn("a transaction was reverted", "nonce", s.Nonce, "hash", r.TxHash.String(), "gas", r.GasUsed)
		return h.reverted(ctx, jobs, ops, r)
	}
	before, err := h.readAt(ctx, ledger.Touch{Receivers: t.Receivers}, new(big.Int).Sub(r.BlockNumber, common.Big1))
	if err != nil {
		return nil, err
	}
	after, err := h.readAt(ctx, t, r.BlockNumber)
	if err != nil {
		return nil, err
	}
	for i, op := range ops {
		if jobs[i].Receipt.Amount, err = h.amountOf(op, r.Logs); err != nil {
			return nil, err
		}
		if t, ok := op.(ledger.Transfer); ok && jobs[i].Receipt.Amount < t.Authorization.Value {
			jobs[i].State, jobs[i].Code = jobRefused, x402.ErrExactValue
			jobs[i].Message = fmt.Sprintf("of %s only %s arrived by transaction %s: the token keeps a part of what is moved",
				t.Authorization.Value, jobs[i].Receipt.Amount, r.TxHash)
			jobs[i].Receipt = ledger.Receipt{}
			continue
		}
		if s, ok := op.(ledger.Settle); ok {
			if was, is := before.Receivers[s.Receiver].Settled, after.Receivers[s.Receiver].Settled; is-was < jobs[i].Receipt.Amount || is < was {
				return nil, contradiction("%s settled for %s, but the total was %s and is %s", jobs[i].Receipt.Amount, s.Receiver, was, is)
			}
		}
		if err := h.agrees(op, after); err != nil {
			return nil, err
		}
		jobs[i].State = jobDone
	}
	return jobs, nil
}

// reverted refuses the jobs of a transaction that failed. What another did in the
// meantime, or the node denies, is said: nobody is to sign it a second time
// without a look.
func (h *Home) reverted(ctx context.Context, jobs []job, ops []ledger.Op, r *types.Receipt) ([]job, error) {
	for i, op := range ops {
		jobs[i].Receipt = ledger.Receipt{}
		jobs[i].State, jobs[i].Code = jobRefused, refusalCode(op)
		jobs[i].Message = "its transaction " + r.TxHash.String() + " was reverted"
		if _, ok := op.(ledger.Settle); ok { // says nothing of itself
			continue
		}
		s, err := h.readAt(ctx, ledger.Tx{Op: op}.Touches(h.params), r.BlockNumber)
		if err != nil {
			return nil, err
		}
		if h.agrees(op, s) == nil {
			jobs[i].Message += ", but what it was for is done"
		}
	}
	return jobs, nil
}

// headerOf returns the header of a receipt's block, if the chain still has it.
func (h *Home) headerOf(ctx context.Context, r *types.Receipt) (*types.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	header, err := h.node.eth.HeaderByNumber(ctx, r.BlockNumber)
	if err == nil && header.Hash() != r.BlockHash {
		err = fmt.Errorf("block %s is %s, the receipt says %s", r.BlockNumber, header.Hash(), r.BlockHash)
	}
	return header, failed("block of a receipt", err)
}

// ErrContradiction is wrapped by the error of a node whose receipts and state do
// not say the same. Nothing is believed then, and it is asked again.
var ErrContradiction = errors.New("the node contradicts itself")

func contradiction(format string, args ...any) error {
	return failed("receipt", fmt.Errorf("%w: %s", ErrContradiction, fmt.Sprintf(format, args...)))
}

// agrees says whether the state after op shows that it was done.
func (h *Home) agrees(op ledger.Op, s ledger.State) error {
	d := h.params.Domain()
	switch op := op.(type) {
	case ledger.Deposit, ledger.Transfer:
		if t := (ledger.Tx{Op: op}).Touches(h.params); !s.Nonces[t.Nonces[0]] {
			return contradiction("success, but authorization %s is unused", t.Nonces[0].Nonce)
		}
	case ledger.Claim:
		for _, r := range op.Rows {
			if got := s.Channels[d.ID(r.Config)].Claimed; got < r.TotalClaimed {
				return contradiction("success, but %s of %s is claimed of channel %s", got, r.TotalClaimed, d.ID(r.Config))
			}
		}
	case ledger.Refund:
		if got := s.Channels[d.ID(op.Config)].RefundNonce; got <= op.Nonce {
			return contradiction("success, but the refund nonce is %d", got)
		}
		if op.Claim != nil {
			return h.agrees(*op.Claim, s)
		}
	}
	return nil
}

// amountOf reads what op moved from the contract's events.
func (h *Home) amountOf(op ledger.Op, logs []*types.Log) (channel.Amount, error) {
	d := h.params.Domain()
	switch op := op.(type) {
	case ledger.Transfer:
		return h.arrived(op.Authorization, logs)
	case ledger.Deposit:
		v, err := h.event(logs, "Deposited", common.Hash(d.ID(op.Config)))
		if err == nil && v[0] != uint64(op.Amount) {
			err = contradiction("deposited is %d of %d", v[0], op.Amount)
		}
		return op.Amount, err
	case ledger.Refund:
		v, err := h.event(logs, "Refunded", common.Hash(d.ID(op.Config)))
		return first(v), err
	case ledger.Settle:
		v, err := h.event(logs, "Settled", common.BytesToHash(op.Receiver[:]))
		return first(v), err
	case ledger.Claim:
		var sum channel.Amount
		for _, r := range op.Rows {
			// A row that was claimed before has no event.
			v, err := h.event(logs, "Claimed", common.Hash(d.ID(r.Config)))
			if err == nil && v[1] == uint64(r.TotalClaimed) {
				sum += channel.Amount(v[0])
			}
		}
		return sum, nil
	}
	return 0, nil
}

// arrived is what a transfer left in the account of its payee, at most what it was
// of: some tokens keep a part, or take it back.
func (h *Home) arrived(a channel.Authorization, logs []*types.Log) (channel.Amount, error) {
	payee, e := common.BytesToHash(a.To[:]), token.Events["Transfer"]
	in, out := new(big.Int), new(big.Int)
	for _, l := range logs {
		if l == nil || l.Address != common.Address(h.params.Token) || len(l.Topics) != 3 || l.Topics[0] != e.ID || len(l.Data) != 32 {
			continue
		}
		if l.Topics[2] == payee {
			in.Add(in, new(big.Int).SetBytes(l.Data))
		}
		if l.Topics[1] == payee && a.From != a.To {
			out.Add(out, new(big.Int).SetBytes(l.Data))
		}
	}
	if in.Sign() == 0 {
		return 0, contradiction("success, but no event Transfer to %s", a.To)
	}
	switch left := in.Sub(in, out); {
	case left.Sign() < 0:
		return 0, nil
	case left.Cmp(wide(a.Value)) > 0:
		return a.Value, nil
	default:
		return channel.Amount(left.Uint64()), nil
	}
}

func first(v []uint64) channel.Amount {
	if len(v) == 0 {
		return 0
	}
	return channel.Amount(v[0])
}

// event returns the numbers of the contract's event of that name and first
// topic.
func (h *Home) event(logs []*types.Log, name string, topic common.Hash) ([]uint64, error) {
	e := settlement.Events[name]
	for _, l := range logs {
		if l == nil || l.Address != common.Address(h.params.Domain().Contract) || len(l.Topics) < 2 || l.Topics[0] != e.ID || l.Topics[1] != topic {
			continue
		}
		values, err := e.Inputs.NonIndexed().Unpack(l.Data)
		if err != nil {
			return nil, failed(name, err)
		}
		out := make([]uint64, len(values))
		for i, v := range values {
			n, ok := v.(*big.Int)
			if !ok || !n.IsUint64() {
				return nil, failed(name, errWide)
			}
			out[i] = n.Uint64()
		}
		return out, nil
	}
	return nil, contradiction("success, but no event %s", name)
}
