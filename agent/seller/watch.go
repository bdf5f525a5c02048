package seller

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// A payer may take his deposit back while the agent is off. So it asks about
// withdrawals while it runs, and hands its newest claims to those who can have
// them booked in time when it does not: its relays, and a facilitator that keeps
// claims until they are worth their gas, or books them at once on a ledger of its
// own. One of others would pay gas for each.

const (
	watchEvery = time.Hour   // for withdrawals that payers begin
	watchFirst = time.Minute // after a start: routers may not run for an hour
	// alarmEvery bounds what a relay that cries wolf costs the SIM's plan.
	alarmEvery = 10 * time.Minute

	// handAt of a channel is handed over, at most every handEvery; handAtEnd is
	// when a session ends, as often as there are tries.
	handAt    = 50_000 // 0.05 USD
	handEvery = 10 * time.Minute
	handAtEnd = 10_000
	// Claims that a relay is sent at once, and from then on in between: it takes no
	// more than 40 a minute.
	handBurst = 16
	handPause = 3 * time.Second
	handLast  = 2 * time.Second // for a relay's answer at the end
	handPoll  = 50 * time.Millisecond
)

// A hands is what was handed over, by channel.
type hands struct {
	soon  chan struct{} // one token: something is to be handed over
	tries tries         // at the ends of sessions

	// Of Seller.mu.
	at   time.Time
	gave map[channel.ID]channel.Amount // to all
	kept map[channel.ID]channel.Amount // by the facilitator
}

// noteDue wakes the settle loop when enough is unclaimed, and has claims handed
// over when that is due.
func (s *Seller) noteDue(state channel.State, ended bool) {
	due, err := charged(state)
	if err != nil {
		return
	}
	if due-state.Claimed >= s.cfg.SettleAt {
		s.duly(true)
	}
	s.mu.Lock()
	more := due - min(due, max(state.Claimed, s.hands.gave[state.ID]))
	soon := more >= handAt && time.Since(s.hands.at) >= handEvery
	s.mu.Unlock()
	if soon || ended && more >= handAtEnd && s.hands.tries.take(time.Now()) <= 0 {
		s.handSoon()
	}
}

// duly has the settle loop claim now, and pay out if anybody wants that by the
// time that it comes to it.
func (s *Seller) duly(pay bool) {
	for {
		select {
		case s.due <- pay:
			return
		default:
		}
		if !pay {
			return
		}
		select {
		case <-s.due: // it may not have been to pay out
		default:
		}
	}
}

func (s *Seller) handSoon() {
	select {
	case s.hands.soon <- struct{}{}:
	default:
	}
}

// handLoop hands claims over until ctx ends.
func (s *Seller) handLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.hands.soon:
		}
		s.mu.Lock()
		s.hands.at = time.Now()
		s.mu.Unlock()
		states := s.unclaimed(func(state channel.State, due channel.Amount) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.hands.gave[state.ID] = due
			return true
		})
		for _, l := range s.relays {
			l.handOver(ctx, states)
		}
		if f, ok := s.fac.(interface{ Plain() bool }); !ok || !f.Plain() {
			s.duly(false)
		}
	}
}

// keeps notes what the facilitator keeps.
func (s *Seller) keeps(rows []x402.VoucherClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rows {
		s.hands.kept[s.domain.ID(r.Voucher.Channel)] = r.TotalClaimed
	}
}

func (s *Seller) kept(id channel.ID) channel.Amount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hands.kept[id]
}

// withdrawing asks the ledger about all channels with something to lose, and
// reports whether a payer of one is taking his deposit back.
func (s *Seller) withdrawing(ctx context.Context) bool {
	found := false
	for _, state := range s.unclaimed(nil) {
		yes, err := s.withdraws(ctx, state.ID)
		if err != nil {
			s.log.Debug("watch for withdrawals", "err", err)
			return found
		}
		found = found || yes
	}
	return found
}

// withdraws asks the ledger whether a payer is taking his deposit back.
func (s *Seller) withdraws(ctx context.Context, id channel.ID) (bool, error) {
	fresh, err := s.observe(ctx, id)
	if err != nil || fresh.WithdrawAt == 0 {
		return false, err
	}
	s.log.Warn("a payer withdraws: claiming now", "channel", id)
	return true, nil
}

// alarmed has the settle loop look whether a payer withdraws, as a relay says.
func (s *Seller) alarmed(id channel.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.alarmedAt) >= alarmEvery {
		s.alarmedAt = now
		select {
		case s.alarm <- id:
		default: // the loop has another to look at, and claims of all
		}
	}
}

// A ward is a channel as a relay watches it: the claim that it was handed, and the
// one that it keeps. Zero: none.
type ward struct {
	handed, kept channel.Amount
	refused      bool
}

// handOver hands the relay what it does not keep yet of channels, and reports
// whether it has something to answer.
func (l *relayLink) handOver(ctx context.Context, states []channel.State) (asked bool) {
	s := l.r.s
	l.mu.Lock()
	a, watches := l.agent, l.watches
	l.mu.Unlock()
	if a == nil || !watches {
		return false
	}
	n := 0
	for _, state := range states {
		due, err := charged(state)
		if err != nil {
			continue // unclaimed has said so
		}
		l.mu.Lock()
		w := l.wards[state.ID]
		known := due <= w.handed
		asked = asked || known && !w.refused && w.kept < w.handed
		if !known {
			l.wards[state.ID] = ward{handed: due, kept: w.kept}
		}
		l.mu.Unlock()
		if known {
			continue
		}
		claim := x402.SignClaim(s.key, s.domain, []x402.VoucherClaim{x402.ClaimOf(state, due)})
		b, err := json.Marshal(agent.HandedClaim{Network: s.cfg.Payment.Network, Claim: claim})
		if err == nil {
			err = a.Watch(ctx, b)
		}
		if n++; err != nil || n >= handBurst && !sleep(ctx, handPause) {
			return false // it is handed over at the next connection
		}
		asked = true
	}
	return asked
}

// handAll hands over before the connection ends.
func (l *relayLink) handAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handLast)
	defer cancel()
	states := l.r.s.unclaimed(nil)
	for l.handOver(ctx, states) && sleep(ctx, handPoll) {
	}
}

// watched is what the relay says about the claims that it keeps.
func (l *relayLink) watched(text []byte) {
	said, err := agent.ParseWatched(text)
	if err != nil {
		return
	}
	s := l.r.s
	if slices.Contains(said.Networks, s.cfg.Payment.Network) {
		kept := s.unclaimed(func(state channel.State, _ channel.Amount) bool { return l.keeps(state.ID) > state.Claimed })
		l.mu.Lock()
		if l.watches = true; said.Kept < len(kept) { // it has lost some
			clear(l.wards)
		}
		l.mu.Unlock()
		s.handSoon()
	}
	if _, ok := s.payee.Get(said.Channel); !ok {
		return
	}
	if said.Withdraws {
		s.alarmed(said.Channel)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.wards[said.Channel]
	w.kept, w.refused = said.Amount, said.Error != ""
	l.wards[said.Channel] = w
	if w.refused {
		s.log.Debug("a relay does not keep a claim", "relay", l.name.Address(), "channel", said.Channel, "text", said.Error)
	}
}

// keeps is up to which amount the relay claims of a channel.
func (l *relayLink) keeps(id channel.ID) channel.Amount {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wards[id].kept
}
