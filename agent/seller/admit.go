package seller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
)

// A refusal is why a session is not served, or no longer.
type refusal struct {
	reason tunnel.Reason
	text   string
}

func (r *refusal) Error() string { return r.text }

// begin takes the hello of a new connection and returns its session, admitted.
func (s *Seller) begin(ctx context.Context, conn tunnel.ServerConn, tun *tunnel.Session, log *slog.Logger) (*session, error) {
	hctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	ctl, h, err := s.hello(hctx, conn, tun)
	if err != nil {
		return nil, err
	}
	id := s.domain.ID(h.Config)
	if h.resumed != nil && h.resumed.Owner != id {
		return nil, &refusal{tunnel.ReasonAuth, "the ticket is another channel's"}
	}
	log = log.With("buyer", h.Config.Payer.String(), "channel", id.String()[:10])
	x, notice := s.admit(ctx, id, h, conn)
	// A buyer who reads nothing could hold the answer up for ever.
	unread := time.AfterFunc(helloTime, func() { _ = conn.Close(tunnel.ReasonProtocol, "the control stream is not read") })
	defer unread.Stop()
	if notice != nil {
		notify(ctl, log, *notice)
		return nil, &refusal{tunnel.ReasonRefused, notice.Text}
	}
	x.tun, x.ctl, x.log = tun, ctl, log
	if err := x.start(); err != nil {
		x.end(err)
		return nil, err
	}
	return x, nil
}

// A greeting is a hello that was proven: on its own connection or, sent before
// the handshake, on the one that its ticket came by.
type greeting struct {
	agent.Hello
	resumed *quic.Resumption // of an early one
}

// hello reads and checks the first capsule. An early hello that the connection
// was not resumed for is followed by one that is proven on it.
func (s *Seller) hello(ctx context.Context, conn tunnel.ServerConn, tun *tunnel.Session) (*tunnel.Control, greeting, error) {
	ctl, err := tun.Control(ctx)
	if err != nil {
		return nil, greeting{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(tunnel.ReasonAuth, "no hello in time") })
	defer stop()
	early := resumed(conn)
	c, err := ctl.Receive()
	if err == nil && c.Type == agent.CapsuleEarly && early == nil {
		c, err = ctl.Receive()
	}
	if err != nil {
		return nil, greeting{}, &refusal{tunnel.ReasonProtocol, err.Error()}
	}
	h, err := s.prove(conn, c, early)
	if err == nil {
		return ctl, h, nil
	}
	if _, ok := errors.AsType[*agent.VersionError](err); ok {
		// A notice ends the purchase; after a mere close it would be tried again.
		notify(ctl, s.log, agent.Notice{Code: agent.NoticeRefused, Text: err.Error()})
	}
	return nil, h, err
}

// prove checks a hello.
func (s *Seller) prove(conn tunnel.ServerConn, c tunnel.Capsule, early *quic.Resumption) (g greeting, err error) {
	switch {
	case c.Type == agent.CapsuleEarly && early != nil:
		g.resumed = early
		g.Hello, err = agent.OpenEarlyHello(early.Secret, c.Value)
	case c.Type == agent.CapsuleHello:
		var exporter [32]byte
		if exporter, err = conn.ExportKey(agent.ExporterLabel); err != nil {
			return g, err
		}
		g.Hello, err = agent.OpenHello(exporter, c.Value)
	default:
		return g, &refusal{tunnel.ReasonProtocol, "the first capsule is not a hello"}
	}
	if _, ok := errors.AsType[*agent.VersionError](err); err != nil && !ok {
		err = &refusal{tunnel.ReasonAuth, err.Error()}
	}
	return g, err
}

// admit decides about a hello, and reserves the channel for its session.
func (s *Seller) admit(ctx context.Context, id channel.ID, h greeting, conn tunnel.ServerConn) (*session, *agent.Notice) {
	if n := s.acceptable(h.Hello); n != nil {
		return nil, n
	}
	h.Voucher.Channel = id // of which it has to be
	if _, known := s.payee.Get(id); !known || !h.Closing {
		if n := s.refuses(); n != nil {
			return nil, n
		}
	}
	if h.resumed != nil && !s.latest(id, h.resumed.Session) { // before it replaces a newer one
		return nil, &agent.Notice{Code: agent.NoticeBusy, Text: errStale.Error()}
	}
	if n := s.replace(ctx, id); n != nil {
		return nil, n
	}
	if _, known := s.payee.Get(id); !known {
		if n := s.funded(ctx, h.Hello); n != nil {
			return nil, n
		}
	}
	state, err := s.payee.Open(s.domain, h.Config)
	if err != nil {
		return nil, &agent.Notice{Code: agent.NoticeRefused, Text: err.Error()}
	}
	state, asked, err := s.present(ctx, state, h)
	if err != nil {
		return nil, &agent.Notice{Code: agent.NoticeFacilitator, Text: "the channel's deposit cannot be checked now: " + err.Error()}
	}
	switch {
	case state.Phase != channel.Open:
		return nil, &agent.Notice{Code: agent.NoticeBusy, Text: "the channel is being settled; try again in a moment"}
	case state.WithdrawAt != 0:
		return nil, &agent.Notice{Code: agent.NoticeRefused, Text: "a withdrawal from the channel is under way"}
	}
	if n := s.enough(state.Balance); n != nil {
		return nil, n
	}
	x, err := s.enlist(id, h, conn)
	if err != nil {
		code := agent.NoticeRefused
		if errors.Is(err, errLater) {
			code = agent.NoticeBusy
		}
		return nil, &agent.Notice{Code: code, Text: err.Error()}
	}
	if x.account.balance <= x.account.tally.Base {
		s.remove(x)
		close(x.done)
		return nil, &agent.Notice{Code: agent.NoticeDeposit, Text: fmt.Sprintf(
			"the channel holds %s USD, of which %s are owed: deposit more", x.account.balance.USD(), x.account.tally.Base.USD())}
	}
	if x.asked = asked; h.resumed != nil && !asked {
		x.looked = make(chan error, 1)
	}
	return x, nil
}

// present is a channel's state, and whether the ledger has said it now. It is
// asked anew at every session: the payer may have topped up, or begun to
// withdraw. While it does not answer, what it last said counts. One who has come
// back by a ticket does not wait for it while there is enough: a withdrawal takes
// longer than a ticket is good, and the session looks beside; see resume.go.
func (s *Seller) present(ctx context.Context, state channel.State, h greeting) (_ channel.State, asked bool, _ error) {
	if h.resumed != nil && s.ample(state) {
		return state, false, nil
	}
	fresh, err := s.observeBy(ctx, h.Voucher)
	if err == nil {
		// A frozen one is not being closed any more: its last session has ended.
		state, err = s.payee.Thaw(fresh.ID)
		return state, true, err
	}
	if state.Balance > 0 {
		s.log.Warn("the ledger does not answer; going by what it last said", "channel", state.ID, "err", err)
		return state, false, nil
	}
	return state, false, err
}

// funded refuses a channel without a deposit before there is a record of it:
// strangers make as many channels as they like, and records are kept for ever.
func (s *Seller) funded(ctx context.Context, h agent.Hello) *agent.Notice {
	ctx, cancel := context.WithTimeout(ctx, ledgerTime)
	defer cancel()
	info, err := s.fac.Look(ctx, s.cfg.Payment.Network, x402.VoucherPayment{Config: h.Config, Voucher: h.Voucher})
	switch {
	case err != nil:
		return &agent.Notice{Code: agent.NoticeFacilitator, Text: "the channel's deposit cannot be checked now: " + err.Error()}
	case info.Balance == 0:
		return &agent.Notice{Code: agent.NoticeDeposit, Text: "the channel has no deposit"}
	}
	return s.enough(info.Balance)
}

// enough refuses a deposit below the least.
func (s *Seller) enough(balance channel.Amount) *agent.Notice {
	if least := s.cfg.Payment.MinDeposit; balance < least {
		return &agent.Notice{Code: agent.NoticeDeposit, Text: fmt.Sprintf(
			"the channel holds %s USD, this agent asks for at least %s: deposit more", balance.USD(), least.USD())}
	}
	return nil
}

// acceptable checks what needs no ledger.
func (s *Seller) acceptable(h agent.Hello) *agent.Notice {
	want := agent.Offer{Agent: s.key.Address(), Payment: s.cfg.Payment}.Channel(h.Config.Payer)
	p := s.price()
	want.PayerAuthorizer, want.Salt, want.WithdrawDelay = h.Config.PayerAuthorizer, h.Config.Salt, h.Config.WithdrawDelay
	switch {
	case h.Network != s.cfg.Payment.Network:
		return &agent.Notice{Code: agent.NoticeRefused, Text: fmt.Sprintf("network %.40q, this agent is paid on %s", h.Network, s.cfg.Payment.Network)}
	case h.Config != want:
		return &agent.Notice{Code: agent.NoticeRefused, Text: "the channel pays somebody else, or in another asset: take a fresh offer"}
	case h.Config.WithdrawDelay < s.cfg.Payment.WithdrawDelay || h.Config.WithdrawDelay > maxWithdrawDelay:
		return &agent.Notice{Code: agent.NoticeRefused, Text: fmt.Sprintf("withdrawDelay %d s, this agent asks for %d", h.Config.WithdrawDelay, s.cfg.Payment.WithdrawDelay)}
	case h.Price.Up < p.Up || h.Price.Down < p.Down:
		return &agent.Notice{Code: agent.NoticePrice, Price: &p, Text: fmt.Sprintf("the price is now %s up and %s down, in USD per GB", p.Up.USD(), p.Down.USD())}
	}
	return nil
}

// refuses is why nobody is served, or nil.
func (s *Seller) refuses() *agent.Notice {
	if n := s.aloft(); n != nil {
		return n
	}
	if n := s.sim.refuses(); n != nil {
		return n
	}
	return s.ration.refuses()
}

// replace ends the session that the channel has now, or the use of its token, if
// any: its buyer has come back on a new connection.
func (s *Seller) replace(ctx context.Context, id channel.ID) *agent.Notice {
	s.mu.Lock()
	old, use := s.sessions[id], s.uses[id]
	closing := s.closing
	s.mu.Unlock()
	if closing {
		return &agent.Notice{Code: agent.NoticeDraining, Text: "the agent stops"}
	}
	var done <-chan struct{}
	switch {
	case old != nil:
		_ = old.conn.Close(tunnel.ReasonReplaced, "a newer session of the same channel") // it may have ended already
		done = old.done
	case use != nil:
		use.stop()
		done = use.done
	default:
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	case <-time.After(helloTime):
	}
	return &agent.Notice{Code: agent.NoticeBusy, Text: "the channel's last session has not ended yet; try again in a moment"}
}

// errLater is a refusal that passes.
var errLater = errors.New("try again in a moment")

// enlist makes the session of a channel and hello and puts it on the list. It
// goes on from what the channel's last session has stored: nobody else can be
// on the list then, and what admit saw may be older.
func (s *Seller) enlist(id channel.ID, h greeting, conn tunnel.ServerConn) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, _ := s.payee.Get(id)
	switch {
	case s.closing:
		return nil, fmt.Errorf("the agent stops; %w", errLater)
	case s.sim.withheld() && !h.Closing: // since it was asked
		return nil, fmt.Errorf("%w; %w", errSwapped, errLater)
	case s.sessions[id] != nil || s.uses[id] != nil:
		return nil, fmt.Errorf("another session of the channel has just begun; %w", errLater)
	case len(s.sessions)+len(s.uses) >= s.cfg.MaxSessions:
		return nil, fmt.Errorf("the agent serves %d buyers already; %w", s.cfg.MaxSessions, errLater)
	case state.Phase != channel.Open:
		return nil, fmt.Errorf("the channel is being settled; %w", errLater)
	}
	var own agent.Tally
	if err := own.UnmarshalBinary(state.Note); err != nil {
		return nil, err
	}
	if h.resumed != nil && own.Session != h.resumed.Session {
		return nil, errStale
	}
	// After a loss of state the ledger's claim is the least that is owed.
	if own.Session == 0 && state.Claimed > own.Base {
		own.Base = state.Claimed
	}
	stored := own
	if own.Prepaid == 0 { // a token's totals are the agent's alone
		own = resume(own, s.secret, state.ID, h.Hello)
	}
	sum := account{policy: s.cfg.Credit, paid: max(state.Max, state.Claimed), balance: state.Balance, total: s.cfg.TotalCredit}
	own, err := sum.begin(own, h.Hello)
	if err != nil {
		return nil, err
	}
	up, down := sum.tally.Price.Weights()
	now, leaving := time.Now(), make(chan struct{})
	x := &session{
		s: s, conn: conn, id: state.ID, state: state, prepaid: own.Prepaid > 0, closing: h.Closing, resumed: h.resumed != nil,
		former: formerOf(stored, own), account: sum,
		meter: meter.New(meter.Config{WeightUp: up, WeightDown: down}),
		inbox: make(chan tunnel.Capsule), rotated: make(chan rotatedFor, 1), leaving: leaving, done: make(chan struct{}),
		saidAt: now, progress: now, sampled: now,
	}
	var once sync.Once
	x.leave = func(why agent.Notice) {
		once.Do(func() {
			x.parting = why
			close(leaving)
		})
	}
	s.sessions[x.id] = x
	return x, nil
}

// start stores the session's beginning, tells the buyer the terms and lets
// flows in.
func (x *session) start() error {
	if !x.former.kept {
		x.s.keepReceipt(x.state, x.former.tally) // it says so if it cannot
	}
	t := x.account.tally
	note, err := x.note()
	if err != nil {
		return err
	}
	if x.state, err = x.s.payee.Note(x.id, note); err != nil {
		return &refusal{tunnel.ReasonInternal, "store the session: " + err.Error()}
	}
	if x.asked {
		x.resumable()
	}
	voucher, _ := x.state.Voucher() // zero when there is none
	terms, err := json.Marshal(agent.Terms{
		Version: agent.ProtocolVersion, Session: t.Session, Price: t.Price,
		Base: t.Base, BaseUp: t.BaseUp, BaseDown: t.BaseDown,
		Balance: x.account.balance, Credit: x.account.trust(), Voucher: voucher, Rotate: x.s.cfg.Rotate.Price, Receipts: true,
	})
	if err != nil {
		return err
	}
	if err := x.ctl.Send(agent.CapsuleTerms, terms); err != nil {
		return err
	}
	x.log.Info("session opened", "session", t.Session, "price_up", t.Price.Up, "price_down", t.Price.Down, "balance", x.account.balance, "cipher", x.cipher(), "resumed", x.resumed)
	if x.prepaid || x.closing {
		x.tun.Trust()
		return x.sayFormer()
	}
	x.meter.Extend(x.account.limit())
	x.tun.Admit(x.s.planned(tunnel.Lanes{UpTCP: x.meter.UpTCP, DownTCP: x.meter.DownTCP, UpUDP: x.meter.UpUDP, DownUDP: x.meter.DownUDP}))
	return x.sayFormer()
}

func notify(ctl *tunnel.Control, log *slog.Logger, n agent.Notice) {
	b, err := json.Marshal(n)
	if err == nil {
		err = ctl.Send(agent.CapsuleNotice, b)
	}
	if err != nil {
		log.Debug("notice not sent", "code", n.Code, "err", err)
	}
}

// remove takes x off the list.
func (s *Seller) remove(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[x.id] == x {
		delete(s.sessions, x.id)
	}
}
