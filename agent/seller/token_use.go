package seller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel"
)

// A tokenUse is a token while flows use it, on however many connections.
//
//	reserve ≤ min(bytes sold, bytes stored + credit)
//	   │
//	meter ─→ tally ─→ journal, as often as a session's vouchers are
//
// What was counted and not stored is lost by a power cut: by the agent, and no
// more than the credit is worth. One goroutine, run, owns the fields without a
// comment of their own.
type tokenUse struct {
	s      *Seller
	log    *slog.Logger
	id     channel.ID
	buyer  channel.Address
	began  agent.Tally // before the use
	stored agent.Tally // in the journal; its Prepaid never changes
	paid   channel.Amount
	meter  *meter.Meter // in bytes
	ahead  uint64       // how many may be counted and not stored

	flowing context.Context         // of the flows
	cut     context.CancelCauseFunc // ends them
	stop    func()                  // ends the use
	stopped chan struct{}           // closed by stop
	empty   chan struct{}           // closed when the use is over and the last flow has left
	done    chan struct{}           // closed when all is stored

	flows  int       // guarded by s.mu, like the next two
	over   bool      // no flow gets in any more
	emptyd time.Time // since when there is no flow

	counted  uint64 // in this use, like what follows
	progress time.Time
	storedAt time.Time
	failedAt time.Time // when it could not be stored; the flows wait
	pending  bool      // the ledger has not yet been heard about the channel
	view     atomic.Pointer[SessionStatus]
}

const (
	useIdle  = time.Minute     // without flows, then it ends
	useGrace = 2 * time.Second // for what was sent last to arrive, before flows are cut
)

// Why a use ends.
var (
	errUsedUp  = errors.New("the token is used up")
	errUseIdle = errors.New("no flows")
	errStopped = errors.New("its buyer came back, or the agent stops")
)

func newTokenUse(s *Seller, state channel.State, t agent.Tally) *tokenUse {
	now := time.Now()
	u := &tokenUse{
		s: s, log: s.log.With("buyer", state.Config.Payer.String(), "channel", state.ID.String()[:10]),
		id: state.ID, buyer: state.Config.Payer, began: t, stored: t, paid: state.Max,
		meter:   meter.New(meter.Config{WeightUp: 1, WeightDown: 1}),
		stopped: make(chan struct{}), empty: make(chan struct{}), done: make(chan struct{}),
		emptyd: now, progress: now, storedAt: now, pending: true,
	}
	u.stop = sync.OnceFunc(func() { close(u.stopped) })
	u.flowing, u.cut = context.WithCancelCause(context.Background())
	// The dearer direction's price: the credit covers either.
	dearest := agent.Price{Up: t.Price.Max(), Down: t.Price.Max()}
	u.ahead = dearest.Limit(min(s.cfg.Credit.Cap, state.Max))
	u.extend()
	return u
}

// pass lets one flow in, which use has counted.
func (u *tokenUse) pass() tunnel.Pass {
	return tunnel.Pass{
		Lanes:   u.s.planned(tunnel.Lanes{UpTCP: rationed{u.meter.UpTCP}, DownTCP: rationed{u.meter.DownTCP}, UpUDP: u.meter.UpUDP, DownUDP: u.meter.DownUDP}),
		Context: u.flowing,
		Leave:   u.leave,
	}
}

// A rationed lane lets a stream have what is left.
type rationed struct{ *meter.Lane }

// ReserveSome implements tunnel.Rationed.
func (r rationed) ReserveSome(ctx context.Context, n int) (int, error) { return r.ReserveUpTo(ctx, n) }

func (u *tokenUse) leave() {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.flows--; u.flows > 0 {
		return
	}
	u.emptyd = time.Now()
	if u.over {
		close(u.empty)
	}
}

// left is how many bytes the token has left. It may be called at any time.
func (u *tokenUse) left() uint64 {
	c := u.meter.Reading()
	return satSub(u.began.Prepaid-min(u.began.Prepaid, u.began.Up+u.began.Down), c.Up()+c.Down())
}

// run counts until the token is not used any more. It returns nil.
func (u *tokenUse) run() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := make(chan struct{})
	wg.Go(func() {
		defer close(seen)
		u.look(ctx)
	})
	tick := time.NewTimer(activeTick)
	defer tick.Stop()
	u.log.Info("token in use", "bytes", u.began.Prepaid, "left", u.left())
	for {
		select {
		case <-seen:
			u.pending, seen = false, nil
		case <-u.stopped:
			u.end(errStopped)
			return nil
		case <-u.meter.Starved():
		case <-tick.C:
		}
		next, why := u.update(time.Now())
		if why != nil {
			u.end(why)
			return nil
		}
		tick.Reset(next)
	}
}

// look asks the ledger whether the deposit is still there. While it does not
// answer, what it last said counts.
func (u *tokenUse) look(ctx context.Context) {
	if _, err := u.s.observe(ctx, u.id); err != nil && ctx.Err() == nil {
		u.log.Warn("the ledger does not answer; going by what it last said", "err", err)
	}
}

// update counts, stores what is due, lets the flows have more, and says when to
// look again, or why the use is over.
func (u *tokenUse) update(now time.Time) (next time.Duration, why error) {
	c := u.meter.Reading()
	moved := c.Up()+c.Down() != u.counted
	if u.counted = c.Up() + c.Down(); moved {
		u.progress = now
	}
	unstored := u.counted - u.storedHere()
	u.storeIfDue(now, unstored)
	state, _ := u.s.payee.Get(u.id)
	if e := u.s.worthless(state, u.stored); e != nil {
		return 0, e
	}
	whole, blocked := u.extend(), u.meter.Blocked()
	u.show(state)
	if whole && (blocked || u.left() == 0) && now.Sub(u.progress) > useGrace {
		return 0, errUsedUp
	}
	if u.idle(now) {
		return 0, errUseIdle
	}
	if moved || unstored > 0 || blocked {
		return activeTick, nil
	}
	return idleTick, nil
}

// storeIfDue stores as often as a session's vouchers are: once a second, sooner
// at half of the credit.
func (u *tokenUse) storeIfDue(now time.Time, unstored uint64) {
	due := unstored > 0 && (now.Sub(u.storedAt) >= time.Second || unstored >= u.ahead/2)
	if !due || now.Sub(u.failedAt) < time.Second {
		return
	}
	if err := u.store(now); err != nil {
		u.log.Error("store the token's totals; its flows wait", "err", err)
		u.failedAt = now
	}
}

// storedHere is how many bytes of this use are in the journal.
func (u *tokenUse) storedHere() uint64 {
	return u.stored.Up + u.stored.Down - u.began.Up - u.began.Down
}

// extend lets the meter go as far as it may, and reports whether that is to the
// token's end.
func (u *tokenUse) extend() (whole bool) {
	sold := u.began.Prepaid - min(u.began.Prepaid, u.began.Up+u.began.Down)
	limit := satAdd(u.storedHere(), u.ahead)
	if u.pending {
		limit = min(limit, u.ahead)
	}
	u.meter.Extend(min(limit, sold))
	return limit >= sold
}

// store puts the present totals into the journal.
func (u *tokenUse) store(now time.Time) error {
	c, t := u.meter.Reading(), u.began
	t.Up, t.Down = u.began.Up+c.Up(), u.began.Down+c.Down()
	note, err := t.MarshalBinary()
	if err != nil {
		return err
	}
	state, err := u.s.payee.Note(u.id, note)
	if err != nil {
		return err
	}
	u.stored, u.storedAt = t, now
	u.s.noteDue(state, false)
	return nil
}

// idle reports whether there has been no flow for so long that the use is over.
// After true none gets in.
func (u *tokenUse) idle(now time.Time) bool {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.flows > 0 || now.Sub(u.emptyd) < useIdle {
		return false
	}
	u.over = true
	return true
}

// end ends the flows, stores what they came to and gives the channel free.
func (u *tokenUse) end(why error) {
	s := u.s
	s.mu.Lock()
	u.over = true
	if u.flows == 0 {
		close(u.empty)
	}
	s.mu.Unlock()
	u.meter.Close(why)
	u.cut(why)
	<-u.empty // flows end with their context
	if err := u.store(time.Now()); err != nil {
		u.log.Error("store the token's totals", "err", err)
	}
	owed, _ := u.stored.Owed() // never above what the bytes sold cost, which is paid
	u.log.Info("token not in use", "up", u.stored.Up, "down", u.stored.Down, "left", u.left(), "amount", owed, "reason", why)
	s.mu.Lock()
	delete(s.uses, u.id)
	s.usedAt[u.id] = time.Now()
	s.mu.Unlock()
	close(u.done)
	s.wakeTokens()
}

// show puts the use's numbers where status reads them.
func (u *tokenUse) show(state channel.State) {
	c, t := u.meter.Reading(), u.began
	t.Up, t.Down = t.Up+c.Up(), t.Down+c.Down()
	owed, _ := t.Owed()
	u.s.mu.Lock()
	flows := u.flows
	u.s.mu.Unlock()
	u.view.Store(&SessionStatus{
		SIM: u.s.cfg.Name, Channel: u.id, Buyer: u.buyer, Token: true, Session: t.Session, Price: t.Price, Flows: flows,
		Up: t.Up, Down: t.Down, Owed: owed, Paid: u.paid, Balance: state.Balance,
	})
}

// stopUses ends the use of every token.
func (s *Seller) stopUses() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.uses {
		u.stop()
	}
}

var _ tunnel.Rationed = rationed{}
