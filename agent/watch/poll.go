package watch

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// How often the ledger is asked. A payer who withdraws waits for 15 minutes at
// least, and for a day where agents ask for that.
const (
	defaultEvery = 5 * time.Minute
	hereTimes    = 12
	missEvery    = 30 * time.Second
	mostMisses   = 3                      // nodes behind one name do not agree at once
	pace         = 250 * time.Millisecond // between two questions on a network
	batch        = 32                     // of each kind, from one scan of all that is kept to the next

	callTime = 30 * time.Second
	retryMin = 5 * time.Second
	retryMax = 10 * time.Minute

	// keepTime is how long an agent may stay away until what it handed in is
	// claimed without need, and forgotten.
	keepTime  = 30 * 24 * time.Hour
	seenEvery = 24 * time.Hour // stored so often at most
)

// due is when the ledger is to be asked about the channel, if that is asked every
// so often of an agent that is off; here says that this one is connected.
func (k *kept) due(every time.Duration, here bool) time.Time {
	if k.looked.IsZero() {
		return k.looked
	}
	switch {
	case k.misses > 0 || !k.known:
		every = min(every, missEvery)
	case here && !k.withdraws:
		every *= hereTimes
	}
	return k.looked.Add(min(every, time.Duration(k.state.Config.WithdrawDelay)*time.Second/4))
}

// poll asks about a network's channels until ctx is cancelled.
func (w *Watch) poll(ctx context.Context, n *network) error {
	var b backOff
	for turn := 0; ; {
		ids, wait := w.due(n)
		for _, id := range ids {
			client := w.client(n, turn)
			err := w.look(ctx, n, id, client)
			pause := pace
			switch {
			case err == nil:
				b = backOff{}
			case ctx.Err() != nil:
				return nil
			default:
				if b.first() {
					w.log.Warn("no answer about channels that are watched; trying again", "network", n.name, "err", err)
				}
				pause = b.next()
				turn++
			}
			if !sleep(ctx, pause) {
				return nil
			}
		}
		if len(ids) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		case <-time.After(wait):
		}
	}
}

func (w *Watch) client(n *network, turn int) Facilitator {
	w.mu.Lock()
	defer w.mu.Unlock()
	return n.clients[turn%len(n.clients)]
}

// A row is a channel that is due.
type row struct {
	id        channel.ID
	withdraws bool
	at        time.Time
}

// due are the channels of a network to ask about now, and how long there is none.
// Those that the ledger is not known to know take turns with the others, so that
// whoever makes up channels does not keep withdrawals from being seen.
func (w *Watch) due(n *network) (ids []channel.ID, wait time.Duration) {
	now := time.Now()
	wait = w.cfg.Every // by then an agent may have gone
	var known, fresh []row
	w.mu.Lock()
	for id, k := range w.all {
		if k.network != n.name {
			continue
		}
		at := k.due(w.cfg.Every, w.agents.Connected(k.agent()))
		switch {
		case at.After(now):
			wait = min(wait, at.Sub(now))
		case k.known:
			known = append(known, row{id, k.withdraws, at})
		default:
			fresh = append(fresh, row{id, false, at})
		}
	}
	w.mu.Unlock()
	for _, rows := range [...][]row{known, fresh} {
		slices.SortFunc(rows, compare)
	}
	for i := range batch {
		for _, rows := range [...][]row{known, fresh} {
			if i < len(rows) {
				ids = append(ids, rows[i].id)
			}
		}
	}
	return ids, wait
}

// compare puts withdrawals first, and then what has waited longest.
func compare(a, b row) int {
	switch {
	case a.withdraws && !b.withdraws:
		return -1
	case b.withdraws && !a.withdraws:
		return 1
	}
	return cmp.Or(a.at.Compare(b.at), slices.Compare(a.id[:], b.id[:]))
}

// change has f change what is kept of a channel, if anything is, and returns it.
func (w *Watch) change(id channel.ID, f func(*kept)) (kept, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.all[id]
	if k == nil {
		return kept{}, false
	}
	f(k)
	return *k, true
}

// look asks about one channel and acts on it. An error is that of a facilitator
// that cannot be relied on now.
func (w *Watch) look(ctx context.Context, n *network, id channel.ID, client Facilitator) error {
	k, ok := w.change(id, func(k *kept) { k.looked = time.Now() })
	if !ok {
		return nil
	}
	w.counts.looks.Add(1)
	cctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	info, err := client.Look(cctx, n.name, k.payment())
	refused, ok := errors.AsType[*facilitator.RefusedError](err)
	uncovered := ok && refused.Code == x402.ErrExceedsBalance // as one of others says it
	if err != nil && !uncovered {
		return err
	}
	nothing := !info.Exists || info.Balance <= info.TotalClaimed
	began := false
	k, ok = w.change(id, func(k *kept) {
		if info.Exists || uncovered {
			w.confirm(k)
		}
		if k.misses++; !nothing {
			k.misses = 0
		}
		withdraws := info.WithdrawRequestedAt != 0 || info.FinalizeAfter != 0
		began = withdraws && !k.withdraws
		k.withdraws = withdraws
	})
	switch {
	case !ok:
		return nil
	case info.Exists && info.TotalClaimed >= k.total:
		w.forget(k)
		return nil
	case nothing && k.misses >= mostMisses:
		w.giveUp(k)
		return nil
	case nothing:
		return nil
	}
	if began {
		w.counts.withdrawals.Add(1)
		w.log.Warn("a payer withdraws: claiming for the agent", "channel", id.String(), "agent", k.agent(), "connected", w.agents.Connected(k.agent()))
	}
	return w.act(ctx, visit{k, n.name, client, info.TotalClaimed})
}

// A visit is a channel that was looked at.
type visit struct {
	kept
	network string
	client  Facilitator
	claimed channel.Amount // on the ledger
}

// act claims, if it is time, and tells the agent of a withdrawal.
func (w *Watch) act(ctx context.Context, v visit) error {
	here := w.agents.Connected(v.agent())
	over := !here && time.Since(v.seen) > keepTime
	if here && time.Since(v.seen) > seenEvery {
		if err := w.saw(v.state.ID); err != nil {
			w.log.Error("store a claim", "err", err)
		}
	}
	if !v.withdraws && !over {
		return nil
	}
	if v.withdraws {
		w.agents.Tell(v.agent(), text(agent.Watched{Channel: v.state.ID, Amount: v.total, Withdraws: true}))
	}
	err := w.claim(ctx, v)
	if err == nil && over {
		w.forget(v.kept)
	}
	return err
}

// claim has a claim booked. What the facilitator says about the claim is said
// once; that it does not answer is the error.
func (w *Watch) claim(ctx context.Context, v visit) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := v.client.Claim(ctx, v.network, v.message())
	log := w.log.With("channel", v.state.ID.String(), "agent", v.agent(), "amount", v.total-v.claimed)
	_, refused := errors.AsType[*facilitator.RefusedError](err)
	switch {
	case err == nil:
		w.counts.claims.Add(1)
		w.counts.claimed.Add(uint64(v.total - v.claimed))
		log.Info("claimed for an agent")
		return nil
	case facilitator.Pending(err) && !v.said:
		log.Info("the facilitator keeps a claim until it is worth its gas")
	case refused && !v.said:
		log.Warn("claim refused", "err", err)
	case !refused:
		w.change(v.state.ID, func(k *kept) { k.looked = time.Time{} })
		return err
	}
	w.change(v.state.ID, func(k *kept) { k.said = true })
	return nil
}

// saw stores that a channel's agent is there.
func (w *Watch) saw(id channel.ID) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	k, ok := w.change(id, func(k *kept) { k.seen = time.Now() })
	if !ok {
		return nil
	}
	return w.store.Save(k.record(k.seen))
}

// giveUp forgets a channel that has nothing more to claim from, or that the ledger
// never knew.
func (w *Watch) giveUp(k kept) {
	said := agent.Watched{Channel: k.state.ID, Error: "the ledger knows no such channel"}
	if k.known {
		said.Error = "nothing is left of the channel's deposit"
		w.counts.lost.Add(1)
		w.log.Warn("nothing is left to claim from", "channel", k.state.ID.String(), "agent", k.agent())
	}
	w.forget(k)
	w.agents.Tell(k.agent(), text(said))
}

// A backOff is how long to wait after failures, jittered.
type backOff struct{ last time.Duration }

func (b *backOff) first() bool { return b.last == 0 }

func (b *backOff) next() time.Duration {
	b.last = min(max(2*b.last, retryMin), retryMax)
	return b.last/2 + rand.N(b.last/2)
}

// sleep is false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
