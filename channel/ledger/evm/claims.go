package evm

import (
	"cmp"
	"context"
	"errors"
	"math/big"
	"slices"

	"github.com/ethereum/go-ethereum/common"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// What parts of a batch cost, for deciding whether they are worth it; what is
// sent is measured by the node. docs/costs.md has the figures: 76,106 gas for a
// first claim alone, 278,532 for one of ten rows, 46,774 to 63,874 for a
// settlement.
const (
	gasBase   = 35_000
	gasBatch  = 15_000
	gasRow    = 25_000
	gasSettle = 50_000

	maxRows = x402.MaxClaims // of a batch: up to 5 million gas
)

// A claimJob is a claim or a settlement that waits.
type claimJob struct {
	job
	op     ledger.Op
	rows   int
	bytes  int            // of its call; zero where they cost nothing
	value  channel.Amount // that it would move
	urgent bool           // a payer withdraws, or the owner asked
}

func (c claimJob) gas() uint64 {
	if c.rows == 0 {
		return gasSettle
	}
	return gasBatch + gasRow*uint64(c.rows)
}

// sendClaims sends the waiting claims and settlements that are worth it, in one
// transaction. One such is on its way at a time: what comes meanwhile goes
// together in the next.
func (r *round) sendClaims(ctx context.Context) error {
	if len(r.waiting) == 0 || r.inFlight >= maxInFlight {
		return nil
	}
	if err := r.weigh(ctx); err != nil {
		return err
	}
	if err := r.priceData(ctx); err != nil {
		return err
	}
	batch := r.choose()
	if len(batch) == 0 {
		return nil
	}
	gas, c, err := r.pack(ctx, batch)
	if no, ok := errors.AsType[*revertError](err); ok {
		return r.sift(ctx, batch, no)
	}
	if err != nil {
		return err
	}
	jobs := make([]job, len(batch))
	for i := range batch {
		jobs[i] = batch[i].job
	}
	return r.send(ctx, c, gas, jobs)
}

// weigh says of every waiting job what it is worth, and ends those that are done
// by others.
func (r *round) weigh(ctx context.Context) error {
	t := ledger.Touch{}
	for _, w := range r.waiting {
		switch op := w.op.(type) {
		case ledger.Claim:
			for _, row := range op.Rows {
				if id := r.params.Domain().ID(row.Config); !hasKey(r.known, id) {
					t.Channels = append(t.Channels, id)
				}
			}
		case ledger.Settle:
			t.Receivers = append(t.Receivers, op.Receiver)
		}
	}
	s := ledger.NewState(r.params)
	if len(t.Channels)+len(t.Receivers) > 0 {
		var err error
		if s, err = r.readAt(ctx, t, r.head.Number); err != nil {
			return err
		}
	}
	for _, id := range t.Channels {
		r.known[id] = s.Channels[id]
	}
	best := coverage{map[channel.ID]claimJob{}, map[ledger.Settle]uint64{}}
	for i := range r.waiting {
		w := &r.waiting[i]
		w.urgent = w.Number <= r.flush
		switch op := w.op.(type) {
		case ledger.Claim:
			r.weighClaim(w, op)
			for _, row := range op.Rows {
				id := r.params.Domain().ID(row.Config)
				best.claims[id] = higher(best.claims[id], *w, id, r.params.Domain())
			}
		case ledger.Settle:
			rec := s.Receivers[op.Receiver]
			w.value = rec.Claimed - rec.Settled
			best.settles[op] = w.Number
		}
	}
	return r.drop(best)
}

// coverage is, of all that waits, the highest claim of each channel and the
// newest settlement of each receiver.
type coverage struct {
	claims  map[channel.ID]claimJob
	settles map[ledger.Settle]uint64
}

func hasKey[K comparable, V any](m map[K]V, k K) bool { _, ok := m[k]; return ok }

func (r *round) weighClaim(w *claimJob, op ledger.Claim) {
	w.rows, w.value = len(op.Rows), rise(r.params.Domain(), op, r.known)
	for _, row := range op.Rows {
		ch := r.known[r.params.Domain().ID(row.Config)]
		w.urgent = w.urgent || ch.WithdrawAt != 0 && row.TotalClaimed > ch.Claimed
	}
}

// higher returns the one of two claims that claims more of a channel; of equals
// the later.
func higher(a, b claimJob, id channel.ID, d channel.Domain) claimJob {
	if a.op == nil || totalOf(b.op.(ledger.Claim), id, d) >= totalOf(a.op.(ledger.Claim), id, d) {
		return b
	}
	return a
}

func totalOf(c ledger.Claim, id channel.ID, d channel.Domain) (total channel.Amount) {
	for _, row := range c.Rows {
		if d.ID(row.Config) == id {
			total = max(total, row.TotalClaimed)
		}
	}
	return total
}

// drop ends what a later job covers wholly, and what would move nothing any
// more, and keeps the others in r.waiting.
func (r *round) drop(best coverage) error {
	var gone []job
	r.waiting = slices.DeleteFunc(r.waiting, func(w claimJob) bool {
		switch op := w.op.(type) {
		case ledger.Claim:
			w.By = r.coveredBy(w, op, best)
			if w.By == 0 && w.value == 0 {
				w.job = r.overtaken(w.job, op)
			}
		case ledger.Settle:
			if n := best.settles[op]; n > w.Number {
				w.By = n
			} else if w.value == 0 {
				w.State, w.Code, w.Message = jobRefused, x402.ErrNothingToSettle, "settled already"
			}
		}
		if w.By == 0 && w.State == jobWaiting {
			return false
		}
		gone = append(gone, w.job)
		return true
	})
	if len(gone) == 0 {
		return nil
	}
	if err := r.journal.save(nil, false, gone...); err != nil {
		return err
	}
	r.moved()
	return nil
}

// coveredBy returns the later job that claims at least as much of every channel
// of op, or 0.
func (r *round) coveredBy(w claimJob, op ledger.Claim, best coverage) uint64 {
	d := r.params.Domain()
	by := best.claims[d.ID(op.Rows[0].Config)].Number
	for _, row := range op.Rows {
		if best.claims[d.ID(row.Config)].Number != by {
			return 0
		}
	}
	if by <= w.Number {
		return 0
	}
	return by
}

// overtaken ends a claim whose rows another transaction has claimed.
func (r *round) overtaken(j job, op ledger.Claim) job {
	last, ok, err := r.journal.lastClaim(r.params.Domain().ID(op.Rows[0].Config))
	if err == nil && ok && last.State == jobDone && last.Number > j.Number {
		j.By = last.Number
		return j
	}
	j.State, j.Code, j.Message = jobRefused, x402.ErrClaimFailed, "nothing new to claim"
	return j
}

// choose picks what is worth its gas: each job for itself, and then the whole
// with what a transaction costs besides. What is urgent goes in any case.
func (r *round) choose() []claimJob {
	slices.SortStableFunc(r.waiting, func(a, b claimJob) int {
		if a.urgent != b.urgent {
			return cmp.Compare(b2i(b.urgent), b2i(a.urgent))
		}
		return cmp.Compare(a.Number, b.Number) // a claim before the settlement of what it claims
	})
	var batch []claimJob
	var rows int
	gas, bytes, urgent := uint64(gasBase), dataBase, false
	value := new(big.Int)
	kept := map[uint64]bool{}
	defer func() { r.keep(kept) }()
	for _, w := range r.waiting {
		if !w.urgent && !r.worth(wide(w.value), w.gas(), w.bytes) {
			kept[w.Number] = true
			continue
		}
		if r.claiming && !w.urgent || rows+max(w.rows, 1) > maxRows && len(batch) > 0 || !r.take(w.op) {
			continue // the next batch is its turn
		}
		batch = append(batch, w)
		rows += max(w.rows, 1)
		gas += w.gas()
		bytes += w.bytes
		urgent = urgent || w.urgent
		value.Add(value, wide(w.value))
	}
	if urgent || r.claiming || r.worth(value, gas, bytes) {
		return batch
	}
	for _, w := range batch {
		kept[w.Number] = true
	}
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// worth says whether gas, at the price of now, and what the chain takes for bytes
// besides, cost no more than the owner's share of value.
func (r *round) worth(value *big.Int, gas uint64, bytes int) bool {
	// (gas · price + data) · units per coin / 10^18 ≤ value · share / 10^4
	cost := new(big.Int).Mul(wide(gas), wide(r.fee.price(r.head)))
	cost.Add(cost, r.data.of(bytes))
	cost.Mul(cost, wide(r.cfg.NativePrice)).Mul(cost, big.NewInt(10_000))
	limit := new(big.Int).Mul(value, wide(r.cfg.GasShare))
	return value.Sign() > 0 && cost.Cmp(limit.Mul(limit, big.NewInt(1_000_000_000_000_000_000))) <= 0
}

// pack makes one call of a batch and asks what it takes.
func (r *round) pack(ctx context.Context, batch []claimJob) (uint64, call, error) {
	calls := make([][]byte, len(batch))
	var one call
	for i, w := range batch {
		var err error
		if one, err = r.callOf(w.op); err != nil {
			return 0, one, err
		}
		calls[i] = one.data
	}
	if len(calls) > 1 {
		var err error
		if one.data, err = settlement.Pack("multicall", calls); err != nil {
			return 0, one, err
		}
	}
	gas, err := r.node.estimate(ctx, common.Address(r.cfg.Signer.account), one)
	return gas, one, err
}

// sift refuses those of a batch that the chain does not take by themselves, so
// that one payer who took his deposit back costs no other's claim. The rest goes
// with the next look. If it takes each, only the first goes now.
func (r *round) sift(ctx context.Context, batch []claimJob, no *revertError) error {
	if len(batch) == 1 {
		return r.refuse(batch[0].job, batch[0].op, no.Error())
	}
	var refused int
	for _, w := range batch {
		_, _, err := r.pack(ctx, []claimJob{w})
		if no, ok := errors.AsType[*revertError](err); ok {
			refused++
			if err := r.refuse(w.job, w.op, no.Error()); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	if refused > 0 {
		r.poke()
		return nil
	}
	gas, c, err := r.pack(ctx, batch[:1])
	if err != nil {
		return err
	}
	return r.send(ctx, c, gas, []job{batch[0].job})
}
