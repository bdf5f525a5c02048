package seller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/path"
)

// A session serves one buyer on one connection, on one channel.
//
//	hello ─→ admitted ─→ serving ─┬─→ drained ─→ closing ─→ done
//	   └→ refused                 └─→ connection lost ─→ done
//
// One goroutine, run, owns the fields without a comment of their own. Flows
// are the tunnel's and meet it only in the meter.
type session struct {
	s    *Seller
	log  *slog.Logger
	conn tunnel.ServerConn
	tun  *tunnel.Session
	ctl  *tunnel.Control
	// remote is where the buyer was reached first; mover keeps it reachable. It
	// is nil on TCP.
	remote string
	mover  atomic.Pointer[path.Mover]

	id      channel.ID
	state   channel.State
	meter   *meter.Meter
	account account
	prepaid bool       // the channel is a token's: the session carries nothing
	closing bool       // it is only to end the channel: likewise
	resumed bool       // the buyer came back by a ticket
	asked   bool       // the ledger, before the session began
	looked  chan error // what came of asking beside; nil: it is not
	former  former     // the channel's last session

	inbox   chan tunnel.Capsule // from receive; unbuffered
	rotated chan rotatedFor     // from rotateFor; holds one
	drained chan struct{}       // closed when all flows have ended after a drain
	leaving chan struct{}       // closed by leave: the session is to end; nil from then on
	parting agent.Notice        // why; set before leaving is closed
	left    time.Time           // when all flows had ended because of that
	leave   func(why agent.Notice)
	done    chan struct{} // closed when the session has ended and its tally is stored

	said     agent.Reading // the last that was sent
	saidAt   time.Time
	progress time.Time // when the buyer last paid or acknowledged something
	sampled  time.Time // rate: when and at which count it was last measured
	sampleAt uint64
	rate     uint64        // bytes a second, in the last sample
	rotating bool          // the buyer asked for another address
	warned   bool          // that the buyer cannot pay enough in advance
	ended    bool          // all flows have
	receipt  agent.Receipt // the last that the buyer asked for

	view atomic.Pointer[SessionStatus] // for status; replaced at every update
}

// errSwapped ends flows whose SIM is not in the modem any more.
var errSwapped = errors.New("the agent's SIM was changed")

const (
	helloTime  = 15 * time.Second // from the handshake to a hello
	noticeTime = time.Second
	unpaidTime = 30 * time.Second // without any progress of payment
	activeTick = 20 * time.Millisecond
	idleTick   = time.Second
	readEvery  = time.Second // between readings to the buyer, unless money asks for one
	flowGrace  = 30 * time.Second
	lastPay    = 3 * time.Second // for the last voucher, when the agent stops
)

// serve is the whole life of one connection.
func (s *Seller) serve(ctx context.Context, conn tunnel.ServerConn, remote net.Addr) {
	log := s.log.With("remote", remote.String())
	tun := tunnel.NewSession(conn, tunnel.Config{
		Dialer: &s.turnstile, Logger: s.log, MaxFlows: s.cfg.MaxFlows,
		Unpaid: s.unpaid, Pass: s.pass, Plain: s.plain, Known: agent.KnownCapsule,
	})
	s.attend(tun, true)
	defer s.attend(tun, false)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := tun.Run(); err != nil {
			log.Debug("connection ended", "err", err)
		}
	})
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(tunnel.ReasonShutdown, "the agent stops") })
	defer stop()
	x, err := s.begin(ctx, conn, tun, log)
	if errors.Is(err, tunnel.ErrPassed) {
		s.servePassed(ctx, conn, tun, remote.String())
		return
	}
	if err != nil && conn.Context().Err() != nil {
		log.Debug("connection without a session", "err", err)
		return
	}
	if err != nil {
		log.Info("session refused", "err", err)
		select { // a notice needs a moment to arrive; the buyer leaves at once then
		case <-conn.Context().Done():
		case <-time.After(noticeTime):
		}
		refuse(conn, err)
		return
	}
	x.remote = remote.String()
	end, err := s.reach.keep(conn, x)
	if err == nil {
		err = x.run(ctx)
		end()
	} else {
		refuse(conn, err)
	}
	wg.Wait() // for the flows: what they delivered last is counted
	x.end(err)
}

// refuse closes a connection with the reason that err stands for.
func refuse(conn tunnel.ServerConn, err error) {
	reason := tunnel.ReasonRefused
	if _, ok := errors.AsType[*agent.VersionError](err); ok {
		reason = tunnel.ReasonVersion
	} else if r, ok := errors.AsType[*refusal](err); ok {
		reason = r.reason
	}
	_ = conn.Close(reason, err.Error()) // it may have ended already
}

// run serves until the session ends and says why.
func (x *session) run(ctx context.Context) (err error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { refuse(x.conn, err) }() // which ends receive
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer x.meter.Close(net.ErrClosed) // flows that wait for credit end with the session
	received := make(chan error, 1)
	wg.Go(func() { received <- x.receive(rctx) })
	if x.looked != nil {
		wg.Go(func() { x.look(rctx) })
	}

	tick := time.NewTimer(activeTick)
	defer tick.Stop()
	for {
		select {
		case c := <-x.inbox:
			if err := x.handle(rctx, &wg, c); err != nil {
				return err
			}
		case <-x.drained:
			x.drained = nil
			if err := x.sayDrained(); err != nil {
				return err
			}
		case <-x.leaving:
			x.leaving = nil
			x.notify(x.parting)
			if x.parting.Code == agent.NoticeSwapped {
				x.meter.Close(errSwapped)
			}
			x.drain(rctx, &wg)
		case err := <-x.looked:
			if err := x.heard(err); err != nil {
				return err
			}
		case r := <-x.rotated:
			if err := x.endRotation(r); err != nil {
				return err
			}
		case <-x.meter.Starved():
		case <-tick.C:
		case err := <-received:
			return err
		case <-x.conn.Context().Done():
			return context.Cause(x.conn.Context())
		}
		next, err := x.update(time.Now())
		if err != nil {
			return err
		}
		tick.Reset(next)
	}
}

// receive hands capsules to run. It never blocks run: it waits for it.
func (x *session) receive(ctx context.Context) error {
	for {
		c, err := x.ctl.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return &refusal{tunnel.ReasonDone, "the buyer ended the control stream"}
			}
			if _, ok := errors.AsType[*tunnel.CloseError](err); ok {
				return err
			}
			return &refusal{tunnel.ReasonProtocol, err.Error()}
		}
		select {
		case x.inbox <- c:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-x.conn.Context().Done():
			return context.Cause(x.conn.Context())
		}
	}
}

// handle acts on one capsule of the buyer's.
func (x *session) handle(ctx context.Context, wg *sync.WaitGroup, c tunnel.Capsule) error {
	switch c.Type {
	case agent.CapsuleReading:
		r, err := agent.ParseReading(c.Value)
		if err != nil {
			return &refusal{tunnel.ReasonProtocol, err.Error()}
		}
		x.account.update(x.meter.Reading())
		before := x.account.buyer.Received()
		if err := x.account.hear(r); err != nil {
			return &refusal{tunnel.ReasonProtocol, err.Error()}
		}
		if r.Received() > before {
			x.progress = time.Now()
		}
	case agent.CapsuleVoucher:
		return x.pay(ctx, c.Value)
	case agent.CapsuleTopUp:
		x.refresh(ctx)
	case agent.CapsuleDrain:
		x.drain(ctx, wg)
	case agent.CapsuleRequest:
		return x.sellToken(c.Value)
	case agent.CapsuleRotate:
		return x.rotateFor(ctx, wg, c.Value)
	case agent.CapsuleReceipt:
		return x.sayReceipt()
	case agent.CapsuleClose:
		closing, err := agent.ParseClosing(c.Value)
		if err != nil {
			return &refusal{tunnel.ReasonProtocol, err.Error()}
		}
		return x.settleFor(ctx, closing)
	}
	return nil
}

// pay takes a voucher: it is in the journal before a byte that it pays for
// leaves. A voucher that is not good ends nothing: what is unpaid waits.
func (x *session) pay(ctx context.Context, b []byte) error {
	v, err := agent.ParseVoucher(x.id, b)
	if err != nil {
		return &refusal{tunnel.ReasonProtocol, err.Error()}
	}
	if v.Max == x.account.paid {
		return nil // sent again: the buyer missed the reading that took it
	}
	if v.Max > x.account.balance {
		x.refresh(ctx) // the deposit may have grown
	}
	x.account.update(x.meter.Reading())
	note, err := x.note()
	if err != nil {
		return err
	}
	state, err := x.s.payee.Accept(v, note)
	if err != nil {
		x.log.Warn("voucher refused", "amount", v.Max, "err", err)
		x.notify(agent.Notice{Code: agent.NoticeVoucher, Text: err.Error()})
		return nil
	}
	x.state = state
	x.account.paid = state.Max
	x.progress = time.Now()
	x.s.noteDue(state, false)
	return nil
}

// protocol ends the session for a breach of the protocol.
func (x *session) protocol(err error) error {
	return &refusal{tunnel.ReasonProtocol, err.Error()}
}

// refresh asks the ledger for the channel's balance.
func (x *session) refresh(ctx context.Context) {
	state, err := x.s.observe(ctx, x.id)
	if err != nil {
		x.log.Warn("read the channel from the ledger", "err", err)
		x.notify(agent.Notice{Code: agent.NoticeFacilitator, Text: err.Error()})
		return
	}
	x.state = state
	x.account.balance = state.Balance
}

// drain ends the session's flows in the background, once.
func (x *session) drain(ctx context.Context, wg *sync.WaitGroup) {
	if x.drained != nil {
		return
	}
	done := make(chan struct{})
	x.drained = done
	grace := flowGrace
	if x.leaving == nil && x.parting.Code != agent.NoticeDraining {
		grace = planGrace // nothing gets through any more
	}
	wg.Go(func() {
		dctx, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		x.tun.Drain(dctx)
		close(done)
	})
}

// sayDrained tells the buyer that no flow is left, behind the final counts.
func (x *session) sayDrained() error {
	x.account.update(x.meter.Reading())
	x.ended = true
	now := time.Now()
	if x.leaving == nil {
		x.left = now
	}
	if err := x.sayReading(now); err != nil {
		return err
	}
	return x.ctl.Send(agent.CapsuleDrain, nil)
}

// update brings account, meter, reading and view to the present, and says when
// to look again.
func (x *session) update(now time.Time) (next time.Duration, err error) {
	a := &x.account
	before := a.counted
	a.update(x.meter.Reading())
	x.sample(now)
	a.others = x.s.exposedToOthers(x)
	debt, err := a.debt()
	if err != nil {
		return 0, &refusal{tunnel.ReasonLimit, err.Error()}
	}
	x.meter.Extend(a.limit())
	if err := x.sayIfDue(now); err != nil {
		return 0, err
	}
	if x.meter.Blocked() && now.Sub(x.progress) > unpaidTime {
		return 0, &refusal{tunnel.ReasonUnpaid, fmt.Sprintf("%s atomic units are owed and unpaid for %v", debt, unpaidTime)}
	}
	since := now.Sub(x.left) // a buyer who hears the notice leaves by himself
	if !x.left.IsZero() && (since > lastPay || since > noticeTime && debt == 0 && a.gap() == 0) {
		return 0, &refusal{tunnel.ReasonShutdown, x.parting.Text}
	}
	if !x.meter.Blocked() || x.s.turnstile.isShut() {
		x.progress = now
	}
	x.publish(debt)
	if text := a.overdrawn(); text != "" && x.meter.Blocked() && !x.warned {
		x.warned = true
		x.notify(agent.Notice{Code: agent.NoticeHeld, Text: text})
	}
	if a.counted != before || x.meter.Blocked() {
		return activeTick, nil
	}
	return idleTick, nil
}

// sample measures the rate over at least 100 ms; it falls slowly, so that a
// short pause does not take the credit away.
func (x *session) sample(now time.Time) {
	elapsed := now.Sub(x.sampled)
	if elapsed < 100*time.Millisecond {
		return
	}
	total := x.account.counted.Up() + x.account.counted.Down()
	x.rate = (total - x.sampleAt) * 1000 / uint64(elapsed.Milliseconds())
	x.account.rate = max(x.rate, x.account.rate-x.account.rate/16)
	x.sampled, x.sampleAt = now, total
}

// sayIfDue sends a reading when a second has passed, a quarter of the credit
// was used up since the last, or flows wait for the buyer to pay.
func (x *session) sayIfDue(now time.Time) error {
	r, err := x.reading()
	if err != nil {
		return &refusal{tunnel.ReasonLimit, err.Error()}
	}
	changed := r.Received() != x.said.Received() || r.Sent() != x.said.Sent() || r.Paid != x.said.Paid || r.Credit != x.said.Credit
	if !changed {
		return nil
	}
	due := now.Sub(x.saidAt) >= readEvery || r.Owed-x.said.Owed > r.Credit/4 || r.Paid != x.said.Paid || x.meter.Blocked()
	if !due {
		return nil
	}
	return x.sayReading(now)
}

func (x *session) reading() (agent.Reading, error) {
	a := &x.account
	owed, err := a.tally.Owed()
	c := a.counted
	return agent.Reading{
		ReceivedTCP: c.UpTCP, ReceivedUDP: c.UpUDP, ReceivedPackets: c.UpPackets,
		SentTCP: c.DownTCP, SentUDP: c.DownUDP, SentPackets: c.DownPackets,
		Owed: owed, Paid: a.paid, Credit: a.trust(),
	}, err
}

func (x *session) sayReading(now time.Time) error {
	r, err := x.reading()
	if err != nil {
		return &refusal{tunnel.ReasonLimit, err.Error()}
	}
	x.said, x.saidAt = r, now
	r.Proof = agent.NewProof(x.s.secret, x.id, x.account.tally)
	return x.ctl.Send(agent.CapsuleReading, agent.AppendReading(nil, r))
}

// notify sends a notice; a connection that is gone is noticed elsewhere.
func (x *session) notify(n agent.Notice) { notify(x.ctl, x.log, n) }

// note is what to store of the session beside the channel's state. Nil is
// nothing: what a token came to is not the session's.
func (x *session) note() ([]byte, error) {
	if x.prepaid {
		return nil, nil
	}
	return x.account.tally.MarshalBinary()
}

// end stores what the session came to and takes it off the list.
func (x *session) end(cause error) {
	x.account.update(x.meter.Reading())
	t := x.account.close()
	if state, ok := x.s.payee.Get(x.id); ok && !x.prepaid {
		t.Ended = x.s.keepReceipt(state, t)
	}
	x.account.tally = t
	note, err := x.note()
	if err == nil {
		x.state, err = x.s.payee.Note(x.id, note)
	}
	if err != nil {
		x.log.Error("store the session's totals", "err", err)
	}
	x.s.noteDue(x.state, true)
	owed, _ := t.Owed() // an overflow ended the session before
	x.log.Info("session closed", "session", t.Session, "up", t.Up-t.BaseUp, "down", t.Down-t.BaseDown,
		"amount", owed, "paid", x.account.paid, "lost", x.account.gap(), "reason", cause)
	x.s.remove(x)
	x.s.countLeftBehind()
	close(x.done)
}
