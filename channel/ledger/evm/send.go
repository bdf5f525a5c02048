package evm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

const (
	maxInFlight = 12 // nodes keep 16 or more a waiting account
	maxAttempts = 40

	// Nodes take a replacement that is 10% dearer (geth, txpool.pricebump).
	bumpNumerator, bumpDenominator = 9, 8
)

// Run looks at the chain, sends what is to be sent and sees to it that it
// arrives, until ctx is cancelled. What is on its way then is in the journal.
func (h *Home) Run(ctx context.Context) error {
	tick := time.NewTicker(h.cfg.Poll)
	defer tick.Stop()
	for poked := true; ; {
		err := h.look(ctx, poked)
		if ctx.Err() != nil {
			return nil
		}
		h.mu.Lock()
		was := h.health
		h.health = err
		h.mu.Unlock()
		switch {
		case err != nil && (was == nil || was.Error() != err.Error()):
			h.log.Warn("chain", "err", err)
		case err == nil && was != nil:
			h.log.Info("chain answers again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
			poked = true
		case <-tick.C:
			poked = false
		}
	}
}

// look is one round: what was sent comes first. When nothing is new, because no
// block is, nothing is on its way and nobody asked, only the account is looked at.
func (h *Home) look(ctx context.Context, poked bool) error {
	head, err := h.node.head(ctx)
	if err != nil {
		return err
	}
	jobs, sents, err := h.journal.open()
	if err != nil {
		return err
	}
	calm := !slices.ContainsFunc(sents, func(s sent) bool { return !s.Done })
	if calm && !poked && head.Hash() == h.seenHead {
		return h.guard(ctx, sents)
	}
	h.seenHead = common.Hash{} // unless all of this is done
	if sents, err = h.follow(ctx, head, sents); err != nil {
		return err
	}
	if err := h.guard(ctx, sents); err != nil {
		return err
	}
	if err := h.watch(ctx, head, jobs); err != nil {
		return err
	}
	if err := h.push(ctx, head, sents); err != nil {
		return err
	}
	if jobs, _, err = h.journal.open(); err != nil {
		return err
	}
	if err := h.dispatch(ctx, head, jobs, sents); err != nil {
		return err
	}
	h.seenHead = head.Hash()
	return nil
}

// errDear is wrapped by the error of a gas price above the owner's limit.
var errDear = errors.New("gas is dearer than --max-gas-price; try later")

// A fee is what a transaction offers, in wei per gas.
type fee struct{ limit, tip uint64 }

// fees returns what a transaction has to offer now: twice the base fee, as
// wallets do, so that it stays valid for six full blocks (EIP-1559).
func (h *Home) fees(ctx context.Context, head *types.Header) (fee, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	tip, err := h.node.eth.SuggestGasTipCap(ctx)
	if err != nil {
		return fee{}, failed("eth_maxPriorityFeePerGas", err)
	}
	base := head.BaseFee
	if base == nil || base.BitLen() > 60 || tip.BitLen() > 60 {
		return fee{}, failed("fees", fmt.Errorf("base fee %v, tip %v", base, tip))
	}
	now := base.Uint64() + tip.Uint64()
	if now > h.cfg.MaxGasPrice {
		return fee{}, fmt.Errorf("%w (%d wei, limit %d)", errDear, now, h.cfg.MaxGasPrice)
	}
	return fee{min(2*base.Uint64()+tip.Uint64(), h.cfg.MaxGasPrice), tip.Uint64()}, nil
}

// price is what a unit of gas costs now.
func (f fee) price(head *types.Header) uint64 { return min(f.limit, head.BaseFee.Uint64()+f.tip) }

// dispatch sends what waits and may be sent. A job waits for those before it
// that touch the same channel or account, so that each is judged by a chain on
// which they are done.
func (h *Home) dispatch(ctx context.Context, head *types.Header, jobs []job, sents []sent) error {
	h.mu.Lock()
	halted, flush := h.halted, h.flush
	h.mu.Unlock()
	if halted != nil || len(jobs) == 0 {
		return nil
	}
	price, err := h.fees(ctx, head)
	if errors.Is(err, errDear) {
		h.log.Debug("sending waits", "err", err)
		return h.keepAll(jobs)
	}
	if err != nil {
		return err
	}
	r := round{Home: h, head: head, fee: price, busy: map[any]bool{}, flush: flush}
	for _, s := range sents {
		if !s.Done {
			if err := r.occupy(s); err != nil {
				return err
			}
		}
	}
	var errs error
	for _, j := range jobs {
		op, err := j.op()
		if err != nil {
			return err
		}
		if deferrable(op) {
			r.waiting = append(r.waiting, claimJob{job: j, op: op})
			continue
		}
		if r.inFlight >= maxInFlight || !r.take(op) {
			continue
		}
		if err := r.sendOne(ctx, j, op); err != nil {
			errs = errors.Join(errs, err)
			break // the rest keeps its order
		}
	}
	return errors.Join(errs, r.sendClaims(ctx))
}

// keepAll says of all that can wait that it does.
func (h *Home) keepAll(jobs []job) error {
	kept := map[uint64]bool{}
	for _, j := range jobs {
		op, err := j.op()
		if err != nil {
			return err
		}
		if deferrable(op) {
			kept[j.Number] = true
		}
	}
	h.keep(kept)
	return nil
}

// keep tells those who await claims and settlements which are not sent for now.
func (h *Home) keep(kept map[uint64]bool) {
	h.mu.Lock()
	same := maps.Equal(h.kept, kept)
	h.kept = kept
	h.mu.Unlock()
	if !same {
		h.moved()
	}
}

// A round is what one dispatch knows.
type round struct {
	*Home
	head     *types.Header
	fee      fee
	data     dataFee
	busy     map[any]bool // channels and accounts that something on its way touches
	inFlight int
	claiming bool // a batch of claims is on its way
	flush    uint64
	waiting  []claimJob
}

// occupy marks what a transaction on its way touches.
func (r *round) occupy(s sent) error {
	r.inFlight++
	_, ops, err := r.jobsOf(s)
	for _, op := range ops {
		r.claiming = r.claiming || deferrable(op)
		r.take(op)
	}
	return err
}

// take marks what op touches and reports whether nothing of it was taken.
func (r *round) take(op ledger.Op) bool {
	free := true
	t := ledger.Tx{Op: op}.Touches(r.params)
	var keys []any
	for _, id := range t.Channels {
		keys = append(keys, id)
	}
	for _, n := range t.Nonces { // whose money it is
		keys = append(keys, n.From)
	}
	if s, ok := op.(ledger.Settle); ok {
		keys = append(keys, s)
	}
	for _, k := range keys { // one may be there twice
		free = free && !r.busy[k]
	}
	for _, k := range keys {
		r.busy[k] = true
	}
	return free
}

// sendOne sends the transaction of one job, or refuses the job as the chain
// would.
func (r *round) sendOne(ctx context.Context, j job, op ledger.Op) error {
	c, err := r.callOf(op)
	if err != nil {
		return err
	}
	gas, err := r.node.estimate(ctx, common.Address(r.cfg.Signer.account), c)
	if no, ok := errors.AsType[*revertError](err); ok {
		return r.refuse(j, op, no.Error())
	}
	if err != nil {
		return err
	}
	return r.send(ctx, c, gas, []job{j})
}

// refuse ends a job that the chain would not or did not do.
func (h *Home) refuse(j job, op ledger.Op, why string) error {
	j.State, j.Code, j.Message = jobRefused, refusalCode(op), "the chain refuses it: "+excerpt(why)
	h.log.Warn("refused by the chain", "job", j.Number, "kind", ledger.Tx{Op: op}.Kind().String(), "err", why)
	if err := h.journal.save(nil, false, j); err != nil {
		return err
	}
	h.moved()
	return nil
}

// excerpt bounds what is repeated of a node's text.
func excerpt(s string) string { return s[:min(len(s), 200)] }

func refusalCode(op ledger.Op) string {
	switch op.(type) {
	case ledger.Deposit:
		return x402.ErrDepositFailed
	case ledger.Claim:
		return x402.ErrClaimFailed
	case ledger.Settle:
		return x402.ErrNothingToSettle
	case ledger.Refund:
		return x402.ErrRefundFailed
	}
	return x402.ErrUnexpectedSettle
}

// send signs a transaction for the next nonce, makes it durable with its jobs,
// and only then gives it to the node, which may fail: push sends it again.
func (r *round) send(ctx context.Context, c call, gas uint64, jobs []job) error {
	gas += gas/4 + 20_000 // the chain may have changed when it is its turn
	if err := r.affordable(ctx, gas); err != nil {
		return err
	}
	nonce, err := r.journal.nextNonce()
	if err != nil {
		return err
	}
	s := sent{Nonce: nonce, To: c.to, Data: c.data, Gas: gas}
	for i := range jobs {
		jobs[i].State, jobs[i].Nonce = jobSent, nonce
		s.Jobs = append(s.Jobs, jobs[i].Number)
	}
	a, err := r.sign(ctx, s, r.fee)
	if err != nil {
		return err
	}
	s.Attempts = []attempt{a}
	if err := r.journal.save(&s, false, jobs...); err != nil {
		return err
	}
	r.inFlight++
	r.moved()
	err = r.node.send(ctx, a.Raw)
	r.log.Info("sent", "nonce", nonce, "hash", a.Hash.String(), "jobs", len(jobs), "gas", gas, "price", a.FeeCap, "err", err)
	return err
}

// affordable checks that the account can pay for gas.
func (r *round) affordable(ctx context.Context, gas uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	have, err := r.node.eth.BalanceAt(ctx, common.Address(r.cfg.Signer.account), nil)
	if err != nil {
		return failed("eth_getBalance", err)
	}
	if need := new(big.Int).Mul(wide(gas), wide(r.fee.limit)); have.Cmp(need) < 0 {
		return fmt.Errorf("account %s has %s wei, a transaction may take %s: fund it", r.cfg.Signer.account, have, need)
	}
	return nil
}

// sign signs s at a price.
func (h *Home) sign(ctx context.Context, s sent, f fee) (attempt, error) {
	chain := wide(h.params.ChainID)
	tx, err := h.cfg.Signer.sign(ctx, types.NewTx(&types.DynamicFeeTx{
		ChainID: chain, Nonce: s.Nonce, GasTipCap: wide(f.tip), GasFeeCap: wide(f.limit), Gas: s.Gas, To: &s.To, Data: s.Data,
	}), types.LatestSignerForChainID(chain))
	if err != nil {
		return attempt{}, err
	}
	raw, err := tx.MarshalBinary()
	return attempt{Hash: tx.Hash(), Raw: raw, FeeCap: f.limit, Tip: f.tip, SignedAt: time.Now().Unix()}, err
}

// push sends what is in no block yet once more, and dearer if that lasts.
func (h *Home) push(ctx context.Context, head *types.Header, sents []sent) error {
	h.mu.Lock()
	halted := h.halted
	h.mu.Unlock()
	if halted != nil {
		return nil
	}
	var errs error
	for _, s := range sents {
		if s.Mined != nil {
			continue
		}
		a := s.newest()
		age := time.Since(time.Unix(a.SignedAt, 0))
		if age < h.cfg.Stuck/6 {
			continue
		}
		if age >= h.cfg.Stuck && len(s.Attempts) < maxAttempts {
			dearer, ok, err := h.dearer(ctx, head, a)
			if err != nil {
				return err
			}
			if ok {
				if a, err = h.sign(ctx, s, dearer); err != nil {
					return err
				}
				s.Attempts = append(s.Attempts, a)
				if err := h.journal.save(&s, false); err != nil {
					return err
				}
				h.log.Warn("replaced, since no block has it", "nonce", s.Nonce, "hash", a.Hash.String(), "price", a.FeeCap)
			}
		}
		if err := h.node.send(ctx, a.Raw); err != nil {
			h.log.Debug("send again", "nonce", s.Nonce, "err", err)
			if age >= h.cfg.Stuck { // sooner it may only be that its receipt is late
				errs = errors.Join(errs, err)
			}
		}
	}
	return errs
}

// dearer is what a replacement of a offers: what is usual now, and at least what
// nodes demand. There is none above the limit.
func (h *Home) dearer(ctx context.Context, head *types.Header, a attempt) (fee, bool, error) {
	f, err := h.fees(ctx, head)
	if errors.Is(err, errDear) {
		return f, false, nil
	}
	if err != nil {
		return f, false, err
	}
	f.limit = max(f.limit, a.FeeCap/bumpDenominator*bumpNumerator+bumpNumerator)
	f.tip = max(f.tip, a.Tip/bumpDenominator*bumpNumerator+bumpNumerator)
	f.tip = min(f.tip, f.limit)
	return f, f.limit <= h.cfg.MaxGasPrice, nil
}
