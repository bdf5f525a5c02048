package buyer

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
)

const (
	// payTime is for one request; the relay may have to ask the ledger.
	payTime = 10 * time.Second
	// wantTime is how long after its last use an account is paid for in advance.
	wantTime = 30 * time.Second
	// tellEvery is how often the relay is told the counts while they do not change.
	tellEvery = 2 * time.Minute
	// growEvery is how often the relay is told that the deposit has grown, until it
	// knows.
	growEvery = 500 * time.Millisecond
	// payAgain is how long after a request that failed the next is made, growing.
	payAgain    = 500 * time.Millisecond
	payAgainMax = 30 * time.Second
	// slack is what a relay may count beyond what was sent before it is taken for
	// an overcount; it is never paid.
	slack = 64 << 10
)

// run pays until ctx ends.
func (f *fare) run(ctx context.Context) {
	tick := time.NewTimer(activeTick)
	defer tick.Stop()
	last, changed, notBefore, wait := f.now(), time.Now(), time.Time{}, payAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := f.now(); now != last {
			last, changed = now, time.Now()
		}
		every := idleTick
		if time.Since(changed) < idleAfter {
			every = activeTick
		}
		if !time.Now().Before(notBefore) && f.take(ctx) == nil {
			if err := f.step(ctx, changed); err != nil && ctx.Err() == nil {
				f.log.Debug("pay the relay", "err", err, "after", wait)
				notBefore = time.Now().Add(jitter(wait))
				wait = min(2*wait, payAgainMax)
			} else if err == nil {
				wait = payAgain
			}
			f.give()
		}
		tick.Reset(every)
	}
}

// step tells and pays what is due. The caller has the turn.
func (f *fare) step(ctx context.Context, changed time.Time) error {
	if f.account == "" {
		return nil
	}
	if f.useless() != nil { // whoever is left passes nothing more
		if f.left {
			return nil
		}
		f.left = true
		return f.tell(ctx, toll.Payment{Drain: true})
	}
	f.topUpFare(ctx)
	f.update()
	now := time.Now()
	f.wanted = laterOf(f.wanted, changed)
	wanting := now.Sub(f.wanted) < wantTime
	if !f.due(now, wanting) {
		return nil
	}
	v, err := f.sign(wanting)
	if err != nil {
		return err
	}
	return f.tell(ctx, toll.Payment{Voucher: v})
}

// grown says whether the deposit has grown and the relay does not know it.
func (f *fare) grown() bool {
	known := f.reading.Balance
	return known > 0 && f.purse.balance > known
}

func laterOf(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// due says whether the relay is to be told: at a quarter of the credit, so that
// it does not wait; at the latest a second after something has passed.
func (f *fare) due(now time.Time, wanting bool) bool {
	news := f.now().since(f.began).since(f.said)
	n := news.sent + news.received
	since := now.Sub(f.saidAt)
	switch {
	case f.purse.agent.Paid < f.purse.signed && since > resendPay:
		return true
	case f.grown() && since >= growEvery:
		return true
	case n == 0 && f.purse.credit == 0 && wanting:
		return since >= payEvery
	case n == 0:
		return since >= tellEvery
	}
	return since >= payEvery || n >= f.tariff.PriceOf().Limit(f.purse.credit)/4
}

// sign signs a voucher for all that is owed, or returns the newest if the relay
// has not taken it; nil if there is nothing to pay.
func (f *fare) sign(wanting bool) (*channel.Voucher, error) {
	amount, err := f.purse.pay(true, wanting)
	if err != nil {
		return nil, f.fail(err)
	}
	if f.useless() != nil {
		amount = 0
	}
	start := f.most - f.cfg.Budget
	amount = start + f.set.budget.grant(f.id, amount-min(amount, start))
	if amount > f.purse.signed {
		note, err := f.note(f.purse.memory(false))
		if err != nil {
			return nil, err
		}
		if _, err := f.payer.Sign(f.cfg.Key, f.id, amount, note); err != nil {
			return nil, err // nothing was signed: a full disk, say
		}
		f.purse.signed = amount
	}
	if f.purse.agent.Paid >= f.purse.signed {
		return nil, nil
	}
	state, _ := f.payer.Get(f.id)
	v, ok := state.Voucher()
	if !ok {
		return nil, nil
	}
	return &v, nil
}

// tell sends a payment with the present counts and takes over the reading.
func (f *fare) tell(ctx context.Context, p toll.Payment) error {
	at := f.now().since(f.began)
	p.Received, p.TopUp = at.received, f.grown()
	f.saidAt = time.Now()
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, payTime)
	defer cancel()
	answer, err := f.relay.Account(ctx, toll.PayPath, f.account, body)
	if err != nil {
		if f.gone(err) {
			f.drop(err)
		}
		return err
	}
	var r toll.Reading
	if err := json.Unmarshal(answer, &r); err != nil {
		return fmt.Errorf("relay %s: reading: %w", f.relay.address, err)
	}
	return f.hear(r, at)
}

// hear takes over a reading that was asked for when the counts were at.
func (f *fare) hear(r toll.Reading, at counts) error {
	f.said = at
	sent := f.now().since(f.began).sent
	if over := r.Up > sent+slack || r.Up < f.reading.Up || r.Down < f.reading.Down; !over {
		f.over = time.Time{}
	} else if f.over.IsZero() {
		f.over = time.Now()
	} else if time.Since(f.over) > overTime {
		return f.fail(fmt.Errorf("it counts %d bytes to the agent, %d were sent: it is paid for no more than that", r.Up, sent))
	}
	f.reading, f.read = r, at
	f.purse.agent.Paid = max(f.purse.agent.Paid, min(r.Paid, f.purse.signed))
	f.purse.credit = r.Credit
	if r.Notice != "" {
		f.log.Debug("the relay does not take a voucher", "why", r.Notice)
	}
	f.update()
	return nil
}

// topUpFare begins a deposit when less than half of one is left, and takes over
// what came of it.
func (f *fare) topUpFare(ctx context.Context) {
	if f.topping != nil {
		select {
		case err := <-f.topping:
			f.topping = nil
			if rerr := f.resolve(err, f.purse.memory(false)); err == nil {
				err = rerr
			}
			f.toppedUp(err)
		default:
			return
		}
	}
	state, _ := f.payer.Get(f.id)
	f.purse.balance = state.Balance
	if owed, err := f.purse.tally.Owed(); err == nil && owed > state.Max {
		state.Max = owed // what is owed is as good as signed
	}
	amount := f.missing(state)
	if amount == 0 || f.cfg.CloseOnly || time.Now().Before(f.topAfter) {
		return
	}
	again, err := f.draw(amount, f.purse.memory(false))
	if err != nil {
		f.toppedUp(err)
		return
	}
	d, done := f.draft, make(chan error, 1)
	f.topping = done
	f.work.Go(func() { done <- f.send(ctx, d, again) })
}

const (
	// endTime bounds the end of one fare.
	endTime = 60 * time.Second
	askEnd  = 500 * time.Millisecond
)

// finish ends the fare: nothing more passes, the rest is paid, and the relay
// claims and refunds. Without the relay the withdrawal is begun.
func (f *fare) finish(ctx context.Context) (RelayResult, error) {
	<-f.turn // run has ended
	defer f.give()
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	if f.account != "" {
		f.mem = f.purse.memory(false)
	}
	f.endDeposit()
	r := RelayResult{Relay: f.relay.address, Channel: f.id}
	err := f.close(ctx, &r)
	if err != nil && !f.cfg.Keep {
		err = f.endWithoutRelay(&r, err)
	}
	t := f.mem.tally
	r.Up, r.Down = t.Up, t.Down
	r.Owed, _ = t.Owed() // an overflow ended it
	state, _ := f.payer.Get(f.id)
	r.Signed = state.Max
	return r, err
}

// close ends the account in order, on another one if this one is gone.
func (f *fare) close(ctx context.Context, r *RelayResult) error {
	state, _ := f.payer.Get(f.id)
	if f.account == "" && state.Balance == state.Claimed {
		return nil // nothing is there
	}
	var err error
	for range accountTries {
		if f.account == "" {
			if err = f.hello(ctx); err != nil {
				return err
			}
		}
		if err = f.closeAccount(ctx, r); err == nil || !f.gone(err) {
			return err
		}
		f.account = ""
	}
	return err
}

// closeAccount ends the account that is open.
func (f *fare) closeAccount(ctx context.Context, r *RelayResult) error {
	if err := f.tell(ctx, toll.Payment{Drain: true}); err != nil && f.useless() == nil {
		return err
	}
	if f.useless() == nil {
		f.settled()
	}
	f.update()
	v, err := f.sign(false)
	if err != nil {
		return err
	}
	f.mem = f.purse.memory(true)
	if err := f.remember(f.mem); err != nil {
		return err
	}
	if f.cfg.Keep {
		return f.tell(ctx, toll.Payment{Voucher: v})
	}
	received := max(f.said.received, f.purse.counted.DownUDP) // as billed, so that both count the same
	if _, err := f.payer.Freeze(f.id); err != nil {
		return err
	}
	body, err := json.Marshal(toll.Closing{Payment: toll.Payment{Received: received, Voucher: v}, Refund: true})
	if err != nil {
		return err
	}
	for {
		answer, err := f.relay.Account(ctx, toll.ClosePath, f.account, body)
		if err != nil {
			return err
		}
		var c toll.Closed
		if err := json.Unmarshal(answer, &c); err != nil {
			return fmt.Errorf("relay %s: %w", f.relay.address, err)
		}
		if !c.Pending {
			return f.conclude(ctx, r, c)
		}
		select {
		case <-time.After(askEnd):
		case <-ctx.Done():
			return errSilent
		}
	}
}

// conclude holds what the relay says against the ledger.
func (f *fare) conclude(ctx context.Context, r *RelayResult, c toll.Closed) error {
	f.account = ""
	if c.Error != "" {
		return fmt.Errorf("it could not close the channel: %q", c.Error)
	}
	r.Claimed, r.Refunded = c.Claimed, c.Refunded
	state, err := f.observe(ctx)
	if err != nil {
		f.log.Warn("read the relay's channel from the ledger", "err", err)
	} else if left := (Holding{State: state}).Left(); left > 0 {
		return fmt.Errorf("it says that it closed the channel, but %s USD of the deposit are still in it", left.USD())
	}
	return nil
}

// endWithoutRelay begins the withdrawal of what is left with a relay that does
// not end in order.
func (f *fare) endWithoutRelay(r *RelayResult, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	at, err := f.withdraw(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("relay %s: the channel with it was not closed (%w), and the withdrawal of the deposit could not be begun: %w; run x402 wallet refund later", f.relay.address, cause, err)
	case at == 0:
		before, _ := f.payer.Get(f.id)
		if state, err := f.observe(ctx); err == nil {
			r.Claimed, r.Refunded = state.Claimed, before.Balance-min(before.Balance, state.Balance)
		}
		return nil
	}
	r.WithdrawAt = at
	return fmt.Errorf("relay %s: the channel with it was not closed (%w): a withdrawal of the deposit was begun; finish it with x402 wallet withdraw after %s",
		f.relay.address, cause, time.Unix(int64(at), 0).Format(time.RFC3339))
}
