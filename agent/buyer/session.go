package buyer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/quic"
)

// A session is one connection to the agent.
//
//	hello ─→ terms ─→ paying ─┬─→ draining ─→ final voucher ─→ claim, refund ─→ over
//	   └→ notice              ├─→ the agent stops: draining, final voucher, another
//	                          └─→ connection lost: another, also while it ends
//
// One goroutine, run, owns the fields. Flows begin with the hello, before the
// terms have come.
type session struct {
	b       *Buyer
	conn    *link
	ctl     *tunnel.Control
	client  *tunnel.Client
	meter   *meter.Meter
	writing sync.RWMutex // see sending, like under
	under   atomic.Int64
	purse   purse
	inbox   chan tunnel.Capsule // from receive; unbuffered
	drained bool                // the agent said so
	closed  *agent.Closed       // the agent's last word

	said    meter.Reading // what the agent was told last
	saidAt  time.Time
	paidAt  time.Time // when the last voucher was sent
	over    time.Time // since when the agent has counted more than was sent
	sampled time.Time
	sample  uint64
	rate    uint64
	rotate  *channel.Amount       // what another address costs; nil: there is none
	ordered chan<- RotationReport // who waits for one that was ordered; nil: nobody
	upgrade chan struct{}         // closed when QUIC gets through; nil: it is used

	began      agent.Tally // as the terms began it
	receipts   bool        // the agent gives them
	receiptAt  time.Time   // when the session's was asked for; zero: not yet
	hasReceipt bool        // it has come

	leaving agent.Notice // the agent's, that it stops: the session drains and pays; zero: it does not
	leaveBy time.Time    // when it leaves at the latest
}

const (
	dialTime   = 10 * time.Second
	termsTime  = 20 * time.Second // the agent may have to ask the ledger
	activeTick = 5 * time.Millisecond
	idleTick   = 250 * time.Millisecond
	idleAfter  = time.Second
	payEvery   = time.Second
	resendPay  = 2 * time.Second // a voucher without an answer is sent again
	overTime   = 5 * time.Second // a reading may overtake the counting of a write, not for so long
	drainTime  = 45 * time.Second
	closeTime  = 60 * time.Second
	keepTime   = 5 * time.Second
)

// session connects and buys until something ends it. An *overError ends the
// purchase; any other error lets the buyer try again.
func (b *Buyer) session(ctx context.Context, stopProxies func()) error {
	b.status.set(func(s *Status) { s.State = "connecting" })
	conn, err := b.connect(ctx)
	if err != nil {
		if errors.Is(err, quic.ErrWrongKey) || errors.Is(err, h2.ErrWrongKey) {
			return &overError{fmt.Errorf("%w: get a fresh offer from its owner", err)}
		}
		if why := b.reach.hopeless(); why != nil {
			return &overError{b.endWithoutAgent(why)}
		}
		return err
	}
	defer conn.end()
	x := &session{b: b, conn: conn, meter: meter.New(meter.Config{}), inbox: make(chan tunnel.Capsule), sampled: time.Now()}
	// An agent that reads nothing could hold every capsule up for ever.
	unread := func() { _ = conn.Close(tunnel.ReasonProtocol, "the control stream is not read") }
	timer := time.AfterFunc(termsTime, unread)
	defer context.AfterFunc(ctx, func() {
		select {
		case <-conn.Context().Done():
		case <-time.After(drainTime + closeTime):
			unread()
		}
	})()
	if b.cfg.Abandon != nil {
		defer context.AfterFunc(b.cfg.Abandon, func() { _ = conn.Close(tunnel.ReasonDone, "") })() // it is given up
	}
	err = x.hello(ctx)
	timer.Stop()
	if err != nil {
		_ = conn.Close(tunnel.ReasonInternal, "") // it has failed already
		b.unbegin()
		return err
	}
	x.client = tunnel.NewClient(conn, x.ctl, tunnel.Lanes{
		UpTCP: sending{x.meter.UpTCP, &x.writing, &x.under}, DownTCP: x.meter.DownTCP,
		UpUDP: sending{x.meter.UpUDP, &x.writing, &x.under}, DownUDP: x.meter.DownUDP,
	})
	if !b.cfg.CloseOnly {
		b.enter(&line{x.client, conn.Context()})
	}
	if err := x.settle(ctx); err != nil {
		return x.giveUp(err)
	}
	b.log.Info("connected", "by", conn)
	b.showRoute(conn)
	var wg sync.WaitGroup
	defer wg.Wait()
	received := make(chan error, 1)
	rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	wg.Go(func() { received <- x.receive(rctx) })
	if conn.transport == TLS {
		x.upgrade = make(chan struct{})
		wg.Go(func() {
			if b.reach.better(rctx) == nil {
				close(x.upgrade)
			}
		})
	}
	err = x.run(ctx, received)
	b.leave(nil)
	if err == nil || errors.Is(err, ErrBudget) {
		stopProxies()
		late, cancel := b.cfg.ending(ctx)
		err = x.finish(late, received, err)
		cancel()
	}
	x.answerOrder(agent.Rotated{Error: "the session ended before the agent answered: the address may have changed"})
	reason, text := closeReason(err)
	_ = conn.Close(reason, text) // it may have ended already
	x.keep(err)
	return err
}

// A sending lane lets it be waited for that what is being written is counted:
// until then more may have been sent than was counted, and the agent may be
// found to overcount.
type sending struct {
	tunnel.Lane
	writing *sync.RWMutex // read-locked from Reserve to Deliver
	under   *atomic.Int64 // bytes under way between the two
}

// Reserve and Deliver are the lane's own.
func (s sending) Reserve(ctx context.Context, n int) error {
	s.writing.RLock()
	err := s.Lane.Reserve(ctx, n)
	if err != nil {
		s.writing.RUnlock()
		return err
	}
	s.under.Add(int64(n))
	return nil
}

func (s sending) Deliver(reserved, delivered int) {
	s.Lane.Deliver(reserved, delivered)
	s.under.Add(int64(-reserved))
	s.writing.RUnlock()
}

func closeReason(err error) (tunnel.Reason, string) {
	if errors.Is(err, errOvercount) {
		return tunnel.ReasonOvercount, err.Error()
	}
	return tunnel.ReasonDone, ""
}

// receive hands capsules to whoever runs the session.
func (x *session) receive(ctx context.Context) error {
	for {
		c, err := x.ctl.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the agent ended the control stream")
			}
			return err
		}
		select {
		case x.inbox <- c:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run pays until ctx is cancelled (nil), the budget is used up (ErrBudget) or
// the session fails.
func (x *session) run(ctx context.Context, received <-chan error) error {
	began := time.Now()
	lastChange := began
	tick := time.NewTimer(activeTick)
	defer tick.Stop()
	for {
		select {
		case c := <-x.inbox:
			if err := x.handle(c); err != nil {
				return err
			}
		case <-tick.C:
		case err := <-x.b.topping:
			if err := x.toppedUp(err); err != nil {
				return err
			}
		case l := <-x.b.looked:
			if err := x.heard(l); err != nil {
				return err
			}
		case o := <-x.b.cfg.Rotations:
			if err := x.obey(time.Now(), o); err != nil {
				return err
			}
		case err := <-received:
			return err
		case <-ctx.Done():
			return nil
		}
		now := time.Now()
		if !x.purse.known && now.Sub(began) > termsTime {
			return errors.New("the agent did not answer the hello")
		}
		before := x.purse.counted
		if err := x.update(ctx, now); err != nil {
			return err
		}
		if x.purse.known && x.b.cfg.CloseOnly {
			return nil
		}
		if x.upgradable() {
			return errUpgrade
		}
		if x.left(now) {
			return x.leaving
		}
		if x.purse.counted != before {
			lastChange = now
		}
		if now.Sub(lastChange) < idleAfter {
			tick.Reset(activeTick)
		} else {
			tick.Reset(idleTick)
		}
	}
}

// upgradable reports whether QUIC gets through and no flow would be broken.
func (x *session) upgradable() bool {
	select {
	case <-x.upgrade:
		return x.client.Flows() == 0
	default:
		return false
	}
}

// handle acts on one capsule of the agent's.
func (x *session) handle(c tunnel.Capsule) error {
	switch c.Type {
	case agent.CapsuleTerms:
		t, err := agent.ParseTerms(c.Value)
		if err != nil {
			return err
		}
		return x.accept(t)
	case agent.CapsuleReading:
		r, err := agent.ParseReading(c.Value)
		if err != nil {
			return err
		}
		x.purse.agent, x.purse.credit = r, r.Credit
		if len(r.Proof) > 0 {
			x.b.proof = r.Proof
		}
	case agent.CapsuleNotice:
		n, err := agent.ParseNotice(c.Value)
		if err != nil {
			return err
		}
		x.b.log.Warn("the agent says", "code", n.Code, "text", n.Text)
		x.b.status.set(func(s *Status) { s.Notice = n.Text })
		if !x.purse.known {
			return n
		}
		if n.Ends() && x.leaveBy.IsZero() {
			x.leaving, x.leaveBy = n, time.Now().Add(drainTime)
			x.b.leave(nil) // new flows wait for another session
		}
	case agent.CapsuleRotated:
		r, err := agent.ParseRotated(c.Value)
		if err != nil {
			return err
		}
		return x.rotatedNow(r)
	case agent.CapsuleReceipt:
		x.hearReceipt(c.Value)
	case agent.CapsuleDrain:
		x.drained = true
	case agent.CapsuleClosed:
		closed, err := agent.ParseClosed(c.Value)
		if err != nil {
			return err
		}
		x.closed = &closed
	}
	return nil
}

// heard takes over what the ledger says of a channel that is used already.
func (x *session) heard(l look) error {
	if err := x.b.heard(l); err != nil {
		return &overError{err}
	}
	if l.err == nil {
		x.purse.balance = l.state.Balance
	}
	return nil
}

// errOvercount ends the purchase: the agent is not to be trusted.
var errOvercount = errors.New("the agent overcounts")

// accept takes the terms, if they fit what is known of the channel.
func (x *session) accept(t agent.Terms) error {
	b := x.b
	if x.purse.known { // they would bill again what the session counted already
		return &overError{fmt.Errorf("%w: it names its terms twice", errOvercount)}
	}
	state, _ := b.payer.Get(b.id)
	var proven channel.Amount
	if t.Voucher.Max > 0 {
		signer, err := channel.Recover(b.domain.VoucherDigest(b.id, t.Voucher.Max), t.Voucher.Signature)
		if err != nil || signer != b.cfg.Key.Address() {
			return &overError{fmt.Errorf("%w: it shows a voucher that is not ours", errOvercount)}
		}
		proven = t.Voucher.Max
	}
	known, shown := state.Max, proven
	if b.cfg.Salt != (channel.Hash{}) { // a token's: the agent alone counts, up to what was paid
		known, shown = 0, max(state.Max, proven)
	}
	if err := b.mem.check(t, b.price, known, shown); err != nil {
		return &overError{fmt.Errorf("%w: %w", errOvercount, err)}
	}
	if own, err := b.mem.tally.Owed(); err == nil && b.mem.cut() && t.Base > own {
		b.log.Warn("a crash cut the last session off; the agent bills more than was counted before it", "usd", (t.Base - own).USD())
	}
	if _, err := b.payer.Thaw(b.id); err != nil { // it was not closed after all
		return &overError{err}
	}
	x.rotate, x.receipts, x.began = t.Rotate, t.Receipts, t.Tally()
	b.billed(t.Price)
	signed := max(state.Max, proven, state.Claimed)
	x.purse = purse{
		tally: t.Tally(), agent: x.purse.agent, credit: t.Credit, signed: signed,
		balance: state.Balance, most: b.most, known: true,
	}
	// What it shows, and what it has claimed, it has taken.
	x.purse.agent.Paid = max(x.purse.agent.Paid, proven, state.Claimed)
	x.purse.update(x.meter.Reading())
	if err := b.remember(x.memory()); err != nil {
		return &overError{err}
	}
	if signed > proven { // the agent did not get the last voucher, or lost it
		if err := x.sendVoucher(time.Now()); err != nil {
			return err
		}
	}
	b.status.set(func(s *Status) {
		s.State, s.Error, s.Session = "connected", "", t.Session
		x.purse.show(s) // at once: nobody shall see a budget of nothing
	})
	b.log.Info("connected", "session", t.Session, "price_up", t.Price.Up, "price_down", t.Price.Down, "owed", t.Base, "balance", t.Balance)
	return nil
}

// memory is what to store of the channel now, besides vouchers.
func (x *session) memory() memory {
	if !x.purse.known {
		return x.b.mem.begun(x.b.price)
	}
	return x.purse.memory(false)
}

// update counts, pays and tells.
func (x *session) update(ctx context.Context, now time.Time) error {
	p := &x.purse
	p.update(x.meter.Reading())
	x.share()
	x.measure(now)
	x.show()
	if !p.known {
		return nil
	}
	x.keepTicket()
	if err := x.overcount(now); err != nil {
		return err
	}
	all := now.Sub(x.paidAt) >= payEvery || !x.leaveBy.IsZero() && x.ended()
	if err := x.pay(now, all); err != nil {
		return err
	}
	if err := x.read(now); err != nil {
		return err
	}
	if err := x.rotateIfDue(now); err != nil {
		return err
	}
	if !x.b.cfg.CloseOnly && x.leaveBy.IsZero() {
		x.topUp(ctx)
	}
	if p.spent() && !x.b.cfg.CloseOnly {
		return ErrBudget
	}
	return nil
}

// keep remembers what the session came to, for the next one and for the disk.
// The connection has ended: all flows are about to.
func (x *session) keep(err error) {
	b := x.b
	ctx, cancel := context.WithTimeout(context.Background(), keepTime)
	defer cancel()
	if werr := x.client.Wait(ctx); werr != nil {
		b.log.Warn("flows have not ended with the connection", "flows", x.client.Flows())
	}
	x.writing.Lock()
	defer x.writing.Unlock()
	x.purse.update(x.meter.Reading())
	x.rate = 0
	x.show()
	if x.purse.known {
		b.mem = x.purse.memory(true)
	} else {
		var rerr error
		if b.mem, rerr = b.mem.remember(x.meter.Reading(), b.price); rerr != nil {
			b.log.Error("count the session", "err", rerr)
		}
	}
	if err := b.remember(b.mem); err != nil {
		b.log.Error("store the channel's totals", "err", err)
	}
	b.log.Debug("session ended", "err", err)
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("buyer: encode: " + err.Error()) // only our own types come here
	}
	return b
}
