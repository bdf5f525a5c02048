package buyer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// A fare is a channel with a relay that charges, and the account on it.
//
//	none ─ open ─→ hello, terms ─→ paying ─┬─ the relay does not know it ─→ none
//	        ↑                              ├─ finish: drain, last voucher, claim, refund
//	        └──────────────────────────────┴─ overcount ─→ useless
//
// What passes is counted by the paths, in count; run pays for it as a session
// pays its agent, by requests in the place of capsules.
type fare struct {
	fund
	set    *fares
	relay  broker
	tariff toll.Tariff
	count  path.Count // of all sessions of the run, whatever account they are of
	shown  atomic.Pointer[RelayStatus]
	failed atomic.Pointer[error] // why it is useless

	// turn has one token: who has it uses what follows, and the fund.
	turn    chan struct{}
	account string // its credential; "": none is open
	running bool
	purse   purse
	began   counts // at the account's hello
	read    counts // when the last reading was asked for
	reading toll.Reading
	said    counts    // that the relay was told, and paid for
	saidAt  time.Time //
	wanted  time.Time // when it was last used
	over    time.Time // since when the relay has counted more than was sent
	left    bool      // a useless relay was told so
}

// counts are a count's at one moment.
type counts struct{ sent, received uint64 }

func (f *fare) now() counts { return counts{f.count.Sent(), f.count.Received()} }

// since is what was counted after an earlier moment.
func (c counts) since(o counts) counts { return counts{c.sent - o.sent, c.received - o.received} }

func newFare(s *fares, c broker, t toll.Tariff) (*fare, error) {
	cfg := s.cfg
	cfg.Offer, cfg.Salt = t.Offer(c.Name()), channel.Hash{}
	cfg.Budget = s.budget.total
	cfg.Deposit = max(t.Payment.MinDeposit, leastDeposit)
	if !sameURL(t.Payment.Facilitator, s.cfg.Offer.Payment.Facilitator) {
		cfg.Facilitator = nil // another one's
	}
	f := &fare{
		fund: fund{cfg: cfg, log: cfg.Logger.With("relay", c.address), fac: cfg.Facilitator},
		set:  s, relay: c, tariff: t, turn: make(chan struct{}, 1),
	}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("relay %s: %w", c.address, err)
	}
	f.turn <- struct{}{}
	f.show()
	return f, nil
}

// take waits for the turn, which f.give gives back.
func (f *fare) take(ctx context.Context) error {
	select {
	case <-f.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *fare) give() {
	f.show()
	f.turn <- struct{}{}
}

// useless says why the relay is not paid any more.
func (f *fare) useless() error {
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// fail ends the use of the relay, and says so once.
func (f *fare) fail(err error) error {
	err = fmt.Errorf("relay %s: %w: %w", f.relay.address, ErrToll, err)
	if f.failed.CompareAndSwap(nil, &err) {
		f.log.Warn("leaving a relay", "err", err)
	}
	return err
}

// accountTries is how often an account that has ended is opened again for one
// session.
const accountTries = 2

// session asks for a session on the account, which is opened if there is none.
func (f *fare) session(ctx context.Context, q market.Request) (a relay.Allotment, count *path.Count, err error) {
	for range accountTries {
		if q.Account, err = f.enter(ctx); err != nil {
			return a, nil, err
		}
		a, err = f.relay.Session(ctx, q)
		if err == nil || !f.gone(err) {
			return a, &f.count, err
		}
		f.forget(q.Account)
	}
	return a, nil, err
}

// gone says whether an answer means that there is no such account any more.
func (f *fare) gone(err error) bool {
	refused, ok := errors.AsType[*market.RefusedError](err)
	return ok && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusGone)
}

// forget drops an account that the relay does not have.
func (f *fare) forget(account string) {
	<-f.turn
	defer f.give()
	if f.account == account {
		f.drop(nil)
	}
}

// drop ends the account here. What it came to is remembered for the next.
func (f *fare) drop(why error) {
	if why != nil {
		f.log.Debug("the account with the relay is over", "err", why)
	}
	f.account = ""
	f.settled()
	f.mem = f.purse.memory(true)
	if err := f.remember(f.mem); err != nil {
		f.log.Error("store the totals of a relay's channel", "err", err)
	}
}

// enter returns the account, after opening it if there is none.
func (f *fare) enter(ctx context.Context) (account string, err error) {
	if err := f.take(ctx); err != nil {
		return "", err
	}
	defer f.give()
	if err := f.useless(); err != nil {
		return "", err
	}
	f.wanted = time.Now()
	if f.account != "" {
		return f.account, nil
	}
	if note := f.cfg.Tolls.Note; note != nil {
		if err := note(f.relay.Name(), f.tariff); err != nil {
			return "", err
		}
	}
	if err := f.ensureDeposit(ctx); err != nil {
		return "", fmt.Errorf("relay %s: %w", f.relay.address, err)
	}
	if err := f.hello(ctx); err != nil {
		return "", err
	}
	if !f.running {
		f.running = true
		f.set.wg.Go(func() { f.run(f.set.ctx) })
	}
	return f.account, nil
}

// hello opens an account. The caller has the turn.
func (f *fare) hello(ctx context.Context) error {
	own := agent.Counts{Session: f.mem.tally.Session, Up: f.mem.tally.Up, Down: f.mem.tally.Down, Cut: f.mem.cut()}
	b, err := toll.Seal(f.cfg.Key, f.domain, agent.Hello{
		Versions: []int{agent.ProtocolVersion}, Network: f.tariff.Payment.Network,
		Config: f.cfg.channel(), Price: f.tariff.PriceOf(), Own: own,
	})
	if err != nil {
		return err
	}
	began := f.now()
	answer, err := f.relay.Account(ctx, market.AccountPath, "", b)
	if err != nil {
		return err
	}
	var o toll.Opened
	if err := json.Unmarshal(answer, &o); err != nil || o.Account == "" {
		return fmt.Errorf("relay %s: malformed terms", f.relay.address)
	}
	if err := f.accept(o, began); err != nil {
		return f.fail(err)
	}
	f.log.Info("paying a relay", "price", f.tariff.Price, "session", o.Session, "balance", f.purse.balance)
	return nil
}

// accept takes the terms of an account, if they fit what is known of the
// channel.
func (f *fare) accept(o toll.Opened, began counts) error {
	state, _ := f.payer.Get(f.id)
	var proven channel.Amount
	if o.Voucher.Max > 0 {
		signer, err := channel.Recover(f.domain.VoucherDigest(f.id, o.Voucher.Max), o.Voucher.Signature)
		if err != nil || signer != f.cfg.Key.Address() {
			return errors.New("it shows a voucher that is not ours")
		}
		proven = o.Voucher.Max
	}
	if err := f.mem.check(o.Terms, f.tariff.PriceOf(), state.Max, proven); err != nil {
		return err
	}
	if _, err := f.payer.Thaw(f.id); err != nil { // it was not closed after all
		return err
	}
	f.account, f.began, f.read, f.said = o.Account, began, counts{}, counts{}
	f.reading, f.saidAt, f.over = toll.Reading{}, time.Time{}, time.Time{}
	f.purse = purse{
		tally: o.Tally(), credit: o.Credit, signed: max(state.Max, proven, state.Claimed),
		balance: state.Balance, most: f.most, known: true,
	}
	f.purse.agent.Paid = max(proven, state.Claimed)
	f.update()
	return f.remember(f.purse.memory(false))
}

// update brings the purse to the present counts. Of what the relay has passed on
// it says how much; what was sent and has arrived since it said so is added, and
// corrected by its next reading. Its own counts are no more than ours in either
// direction.
func (f *fare) update() {
	now := f.now().since(f.began)
	added := now.since(f.read)
	f.purse.agent.ReceivedUDP = f.reading.Up + added.sent
	down := min(now.received, f.reading.Down+added.received)
	f.purse.update(meter.Reading{UpUDP: now.sent, DownUDP: down})
	owed, err := f.purse.tally.Owed()
	if err != nil {
		owed = f.purse.signed
	}
	start := f.most - f.cfg.Budget
	came := max(owed, f.purse.signed)
	f.purse.most = start + f.set.budget.share(f.id, came-min(came, start))
}

// settled brings the purse to what was passed on by the last reading, and to all
// that has arrived: nothing passes any more.
func (f *fare) settled() {
	f.read.sent = f.now().since(f.began).sent
	f.update()
}

// show publishes how the account stands. The caller has the turn.
func (f *fare) show() {
	t := f.mem.tally
	if f.purse.known {
		t = f.purse.tally
	}
	owed, _ := t.Owed() // shown only
	state, _ := f.payer.Get(f.id)
	s := &RelayStatus{
		Relay: f.relay.address, Channel: f.id, Price: f.tariff.Price,
		Up: t.Up, Down: t.Down, Owed: owed, Signed: state.Max, Balance: state.Balance,
	}
	if err := f.useless(); err != nil {
		s.Error = err.Error()
	}
	f.shown.Store(s)
}
