package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// A stay is an account while it is used: from a hello to its end.
//
//	hello ─→ present ─┬─ drained, closed, replaced, idle ──→ ended, known for keepTime
//	                  └─ unpaid: 30 s without progress ───↗
type stay struct {
	id         channel.ID
	credential string
	meter      *server.Account
	exposed    atomic.Uint64 // what the relay may lose by it; for others' credit

	// turn is held for one change at a time, across its save: what is stored is
	// what is used, and no payment overtakes another.
	turn     sync.Mutex
	sum      account
	earned   channel.Amount // of what is owed, counted for the metrics
	payments time.Time      // when the bucket of payments is full again
	used     time.Time      // the last request
	why      string         // the code of its end; "": it has not ended
	asked    time.Time      // the ledger, about a top-up

	sampled time.Time
	sample  uint64
	stuck   time.Time // since when something waits; zero: nothing does
	refused uint64    // what the meter had refused at the last look
	passed  uint64    // likewise passed

	drained bool     // nothing is to pass any more
	closing *closing // nil: none was asked for
}

// A closing is what is asked for at the end of an account.
type closing struct {
	refund bool
	done   chan struct{} // closed by endLoop, when result is there
	result agent.Closed
}

const (
	stuckTime = 30 * time.Second // without progress while something waits
	idleTime  = 10 * time.Minute // without a session or a request
	keepTime  = 10 * time.Minute // that an ended account is known
	rateTime  = 50 * time.Millisecond
	maxOwn    = 1 << 62 // of a buyer's totals, so that no sum of them overflows
)

// open answers a hello: it begins an account on the channel, in place of the one
// that there is.
func (t *Toll) open(ctx context.Context, body []byte) (toll.Opened, *agent.Notice) {
	h, id, err := toll.Unseal(t.domain, body)
	if err != nil {
		return toll.Opened{}, &agent.Notice{Code: agent.NoticeRefused, Text: err.Error()}
	}
	if n := t.acceptable(h); n != nil {
		return toll.Opened{}, n
	}
	if !t.begin(id) {
		return toll.Opened{}, &agent.Notice{Code: agent.NoticeBusy, Text: "the channel is being opened or closed; try again in a moment"}
	}
	defer t.done(id)
	t.replace(id)
	state, n := t.admit(ctx, id, h)
	if n != nil {
		return toll.Opened{}, n
	}
	s := &stay{
		id: id, credential: newCredential(), meter: new(server.Account), used: time.Now(), sampled: time.Now(),
		sum: account{policy: t.cfg.Credit, paid: max(state.Max, state.Claimed), balance: state.Balance, total: t.cfg.TotalCredit},
	}
	if state, n = t.enlist(s, state, h); n != nil {
		return toll.Opened{}, n
	}
	voucher, _ := state.Voucher() // zero when there is none
	s.turn.Lock()                 // it is looked after by now
	tally, trust := s.sum.tally, s.sum.trust()
	s.turn.Unlock()
	t.log.Info("account opened", "buyer", h.Config.Payer, "channel", id.String()[:10], "session", tally.Session, "balance", state.Balance)
	return toll.Opened{Account: s.credential, Terms: agent.Terms{
		Version: agent.ProtocolVersion, Session: tally.Session, Price: tally.Price,
		Base: tally.Base, BaseUp: tally.BaseUp, BaseDown: tally.BaseDown,
		Balance: state.Balance, Credit: trust, Voucher: voucher,
	}}, nil
}

// begin takes a channel for one hello or closing, which done gives back.
func (t *Toll) begin(id channel.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy[id] || len(t.stays) >= mostStays {
		return false
	}
	t.busy[id] = true
	return true
}

func (t *Toll) done(id channel.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, id)
}

// acceptable checks what needs no ledger.
func (t *Toll) acceptable(h agent.Hello) *agent.Notice {
	refuse := func(format string, args ...any) *agent.Notice {
		return &agent.Notice{Code: agent.NoticeRefused, Text: fmt.Sprintf(format, args...)}
	}
	p := t.cfg.Payment
	want := agent.Offer{Agent: t.key.Address(), Payment: p}.Channel(h.Config.Payer)
	want.PayerAuthorizer, want.Salt, want.WithdrawDelay = h.Config.PayerAuthorizer, h.Config.Salt, h.Config.WithdrawDelay
	switch {
	case h.Network != p.Network:
		return refuse("network %.40q, this relay is paid on %s", h.Network, p.Network)
	case h.Config != want:
		return refuse("the channel pays somebody else, or in another asset: ask for the tariff anew")
	case h.Config.WithdrawDelay < p.WithdrawDelay || h.Config.WithdrawDelay > channel.MaxWithdrawDelay:
		return refuse("withdrawDelay %d s, this relay asks for %d", h.Config.WithdrawDelay, p.WithdrawDelay)
	case max(h.Own.Up, h.Own.Down) > maxOwn:
		return refuse("totals of %d bytes up and %d down", h.Own.Up, h.Own.Down)
	case min(h.Price.Up, h.Price.Down) < t.cfg.Price:
		now := t.tariff.PriceOf()
		return &agent.Notice{Code: agent.NoticePrice, Price: &now, Text: "this relay asks " + t.cfg.Price.USD() + " USD per GB now"}
	}
	return nil
}

// replace ends the account that the channel has.
func (t *Toll) replace(id channel.ID) {
	t.mu.Lock()
	old := t.present[id]
	t.mu.Unlock()
	if old != nil {
		old.turn.Lock()
		defer old.turn.Unlock()
		t.end(old, toll.CodeReplaced)
	}
}

// admit asks the ledger about a channel. A record is made only of one with a
// deposit: strangers make as many channels as they like.
func (t *Toll) admit(ctx context.Context, id channel.ID, h agent.Hello) (channel.State, *agent.Notice) {
	unanswered := func(err error) *agent.Notice {
		return &agent.Notice{Code: agent.NoticeFacilitator, Text: "the channel's deposit cannot be checked now: " + err.Error()}
	}
	state, known := t.payee.Get(id)
	if !known {
		info, err := t.ask(ctx, id)
		if err != nil {
			return state, unanswered(err)
		}
		if n := t.enough(info.Balance); n != nil {
			return state, n
		}
		if state, err = t.payee.Open(t.domain, h.Config); err != nil {
			return state, &agent.Notice{Code: agent.NoticeRefused, Text: err.Error()}
		}
	}
	fresh, err := t.observe(ctx, id)
	switch {
	case err == nil:
		// A frozen one is not being closed any more: its account has ended.
		if state, err = t.payee.Thaw(fresh.ID); err != nil {
			return state, &agent.Notice{Code: agent.NoticeRefused, Text: err.Error()}
		}
	case state.Balance == 0 || state.Phase != channel.Open:
		return state, unanswered(err)
	default:
		t.log.Warn("the ledger does not answer; going by what it last said", "channel", id.String()[:10], "err", err)
	}
	if state.WithdrawAt != 0 {
		return state, &agent.Notice{Code: agent.NoticeRefused, Text: "a withdrawal from the channel is under way"}
	}
	return state, nil
}

// enough refuses a deposit below the least.
func (t *Toll) enough(balance channel.Amount) *agent.Notice {
	if least := t.cfg.Payment.MinDeposit; balance < least {
		return &agent.Notice{Code: agent.NoticeDeposit, Text: fmt.Sprintf(
			"the channel holds %s USD, this relay asks for at least %s: deposit more", balance.USD(), least.USD())}
	}
	return nil
}

// enlist begins the account's tally and stores it, before anybody hears of it.
func (t *Toll) enlist(s *stay, state channel.State, h agent.Hello) (channel.State, *agent.Notice) {
	refuse := func(err error) (channel.State, *agent.Notice) {
		return state, &agent.Notice{Code: agent.NoticeRefused, Text: err.Error()}
	}
	var own agent.Tally
	if err := own.UnmarshalBinary(state.Note); err != nil {
		return refuse(err)
	}
	own = resume(own, h, state.Claimed)
	var err error
	if s.sum.tally, err = own.Next(t.tariff.PriceOf()); err == nil && s.sum.overdrawn() {
		s.sum.tally, err = own.TakeOver(h.Own, s.sum.paid, ^channel.Amount(0)).Next(t.tariff.PriceOf())
	}
	if err != nil {
		return refuse(err)
	}
	s.earned = s.sum.tally.Base
	if s.sum.overdrawn() {
		return refuse(fmt.Errorf("earlier accounts of this channel lost %d bytes that were passed on and never acknowledged: "+
			"more than can be paid in advance; end the channel, and begin another", s.sum.held()))
	}
	if s.sum.balance <= s.sum.tally.Base {
		return state, &agent.Notice{Code: agent.NoticeDeposit, Text: fmt.Sprintf(
			"the channel holds %s USD, of which %s are owed: deposit more", s.sum.balance.USD(), s.sum.tally.Base.USD())}
	}
	note, err := s.sum.tally.MarshalBinary()
	if err != nil {
		return refuse(err)
	}
	if state, err = t.payee.Note(s.id, note); err != nil {
		return refuse(fmt.Errorf("store the account: %w", err))
	}
	t.mu.Lock()
	t.stays[s.credential], t.present[s.id] = s, s
	t.mu.Unlock()
	t.stale.Store(true)
	exposed, _ := t.exposures(t.all())
	s.turn.Lock()
	defer s.turn.Unlock()
	t.look(s, time.Now(), exposed)
	return state, nil
}

// look brings an account to the present: counts, rate, and how far it may go.
// others is what the relay may lose by all others. The caller holds the turn.
func (t *Toll) look(s *stay, now time.Time, others channel.Amount) {
	if s.why != "" {
		return
	}
	up, down := s.meter.Passed()
	s.sum.others = others
	s.sum.update(up, down)
	if elapsed := now.Sub(s.sampled); elapsed >= rateTime { // up at once, down slowly
		s.sum.rate = max((up+down-s.sample)*1000/uint64(elapsed.Milliseconds()), s.sum.rate-s.sum.rate/64)
		s.sampled, s.sample = now, up+down
	}
	t.earn(s)
	s.exposed.Store(uint64(s.sum.exposed()))
	s.meter.Extend(s.sum.limit())
	refused, passed := s.meter.Refused(), up+down
	switch {
	case passed != s.passed || s.drained:
		s.stuck = time.Time{}
	case refused != s.refused && s.stuck.IsZero():
		s.stuck = now
	case refused != s.refused && now.Sub(s.stuck) >= stuckTime:
		t.counts.unpaid.Add(1)
		t.end(s, toll.CodeUnpaid)
	case s.meter.Sessions() == 0 && now.Sub(s.used) >= idleTime:
		t.end(s, toll.CodeIdle)
	}
	s.refused, s.passed = refused, passed
}

// earn counts what is owed since the last time.
func (t *Toll) earn(s *stay) {
	if owed, err := s.sum.tally.Owed(); err == nil && owed > s.earned {
		t.counts.earned.Add(uint64(owed - s.earned))
		s.earned = owed
	}
}

// end ends an account: nothing passes any more, and its totals are stored. The
// caller holds the turn.
func (t *Toll) end(s *stay, why string) {
	if s.why != "" {
		return
	}
	s.meter.End()
	s.why, s.used = why, time.Now()
	s.sum.update(s.meter.Passed())
	t.earn(s)
	s.sum.close()
	s.exposed.Store(0)
	t.mu.Lock()
	if t.present[s.id] == s {
		delete(t.present, s.id)
	}
	t.mu.Unlock()
	note, err := s.sum.tally.MarshalBinary()
	if err == nil {
		_, err = t.payee.Note(s.id, note)
	}
	if err != nil {
		t.log.Error("store an account's totals", "channel", s.id.String()[:10], "err", err)
	}
	t.stale.Store(true)
	owed, _ := s.sum.tally.Owed() // an overflow is stored as such
	t.log.Info("account ended", "channel", s.id.String()[:10], "why", why, "up", s.sum.up, "down", s.sum.down, "owed", owed, "paid", s.sum.paid)
}

// forget drops accounts that ended long ago.
func (t *Toll) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for credential, s := range t.stays {
		if t.present[s.id] == s || !s.turn.TryLock() {
			continue
		}
		if s.why != "" && now.Sub(s.used) >= keepTime {
			delete(t.stays, credential)
		}
		s.turn.Unlock()
	}
}

// errBusy says that too many questions to the facilitator are under way.
var errBusy = errors.New("too many ask at once; try again in a moment")
