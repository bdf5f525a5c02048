package seller

import (
	"cmp"
	"crypto/tls"
	"os"
	"slices"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
)

// Status is what the control socket says of the whole agent, or of one of its
// SIMs. Amounts are in atomic units, sizes in bytes, durations in seconds.
type Status struct {
	// Name is the SIM's, if there are several.
	Name string `json:"name,omitempty"`
	// SIMs are those of an agent with several. Of the other fields it has those
	// that make sense for all together: PID, Uptime, Network, PayTo, Problems,
	// Sessions, Earnings and FlashWrites, and Refusing when no SIM sells.
	SIMs []Status `json:"sims,omitempty"`
	// Refusing is why no new session is served, "" while the agent sells.
	Refusing string `json:"refusing,omitempty"`
	// Problems are what the owner should look at, the worst first.
	Problems []Problem       `json:"problems"`
	PID      int             `json:"pid"`
	Agent    channel.Address `json:"agent"`
	Listen   string          `json:"listen"`
	Uptime   int64           `json:"uptime"`
	Network  string          `json:"network"`
	PayTo    channel.Address `json:"payTo"`
	Price    agent.Price     `json:"price"`
	OfferSeq uint64          `json:"offerSeq"`
	Offer    string          `json:"offer"` // path of the signed offer
	// Interface is what traffic leaves by, "" if any or if it is not there.
	Interface   string          `json:"interface,omitempty"`
	Modem       *ModemStatus    `json:"modem,omitempty"`
	Plan        *PlanStatus     `json:"plan,omitempty"`
	Relays      []RelayStatus   `json:"relays,omitempty"`
	Sessions    []SessionStatus `json:"sessions"`
	Earnings    Earnings        `json:"earnings"`
	FlashWrites FlashWrites     `json:"flash"`
	Rotation    RotationStatus  `json:"rotation"`
	Recovery    *RecoveryStatus `json:"recovery,omitempty"`
	Airplane    AirplaneStatus  `json:"airplane"`
}

// ModemStatus is what the modem last said. The IMSI is not part of it.
type ModemStatus struct {
	Port         string       `json:"port"`
	Error        string       `json:"error,omitempty"`
	Age          int64        `json:"age"` // of what follows
	Maker        string       `json:"maker,omitempty"`
	Model        string       `json:"model,omitempty"`
	IMEI         string       `json:"imei,omitempty"`
	ICCID        string       `json:"iccid,omitempty"`
	IMSI         string       `json:"imsi,omitempty"` // redacted: says that it was read
	Fingerprint  string       `json:"fingerprint,omitempty"`
	Withheld     bool         `json:"withheld,omitempty"` // another SIM, whose owner has yet to agree
	MCC          string       `json:"mcc,omitempty"`      // of the card, like MNC
	MNC          string       `json:"mnc,omitempty"`
	SIM          string       `json:"sim"`
	Operator     string       `json:"operator,omitempty"`
	Registration string       `json:"registration,omitempty"`
	Technology   string       `json:"technology,omitempty"`
	Signal       modem.Signal `json:"signal"`
	Roaming      bool         `json:"roaming"`
}

// SessionStatus is one session's numbers.
type SessionStatus struct {
	SIM     string          `json:"sim,omitempty"` // its name, if there are several
	Channel channel.ID      `json:"channel"`
	Buyer   channel.Address `json:"buyer"`
	Session uint64          `json:"session"`
	Token   bool            `json:"token,omitempty"` // not a session: flows that are paid by a token
	Price   agent.Price     `json:"price"`
	Cipher  string          `json:"cipher,omitempty"` // of the buyer's connection, as TLS names it
	Flows   int             `json:"flows"`
	Up      uint64          `json:"up"` // of the channel, billed
	Down    uint64          `json:"down"`
	Rate    uint64          `json:"rate"` // bytes a second
	Gap     uint64          `json:"gap"`  // sent and not counted by the buyer
	Owed    channel.Amount  `json:"owed"`
	Paid    channel.Amount  `json:"paid"`
	Debt    channel.Amount  `json:"debt"`
	Exposed channel.Amount  `json:"exposed"` // debt, and what was sent and not counted
	Credit  channel.Amount  `json:"credit"`
	Balance channel.Amount  `json:"balance"`
	Blocked bool            `json:"blocked"`
}

// Earnings sums up all channels, those without a session included.
type Earnings struct {
	Channels []ChannelEarnings `json:"channels"`
	Up       uint64            `json:"up"`
	Down     uint64            `json:"down"`
	Owed     channel.Amount    `json:"owed"`
	Paid     channel.Amount    `json:"paid"`    // by vouchers
	Claimed  channel.Amount    `json:"claimed"` // on the ledger
	Watched  channel.Amount    `json:"watched"` // not claimed, but by others if a payer withdraws
	Lost     uint64            `json:"lost"`    // bytes that buyers never counted
}

// ChannelEarnings is one channel's part.
type ChannelEarnings struct {
	SIM      string          `json:"sim,omitempty"` // its name, if there are several
	Channel  channel.ID      `json:"channel"`
	Buyer    channel.Address `json:"buyer"`
	Sessions uint64          `json:"sessions"`
	Up       uint64          `json:"up"`
	Down     uint64          `json:"down"`
	Owed     channel.Amount  `json:"owed"`
	Paid     channel.Amount  `json:"paid"`
	Claimed  channel.Amount  `json:"claimed"`
	Watched  channel.Amount  `json:"watched"`
	Balance  channel.Amount  `json:"balance"`
	Lost     uint64          `json:"lost"`
}

// FlashWrites is what was written for vouchers, totals, receipts and the plan
// since the start.
type FlashWrites struct {
	Syncs uint64 `json:"syncs"`
	Bytes uint64 `json:"bytes"`
}

// cipher names what encrypts the session, "" if its transport does not say.
func (x *session) cipher() string {
	c, ok := x.conn.(interface{ CipherSuite() uint16 })
	if !ok {
		return ""
	}
	return tls.CipherSuiteName(c.CipherSuite())
}

// publish puts the session's numbers where status reads them.
func (x *session) publish(debt channel.Amount) {
	a := &x.account
	owed, _ := a.tally.Owed() // an overflow ends the session
	x.view.Store(&SessionStatus{
		SIM: x.s.cfg.Name, Channel: x.id, Buyer: x.state.Config.Payer, Session: a.tally.Session, Price: a.tally.Price, Cipher: x.cipher(),
		Flows: x.tun.Flows(), Up: a.tally.Up, Down: a.tally.Down, Rate: x.rate, Gap: a.gap(),
		Owed: owed, Paid: a.paid, Debt: debt, Exposed: a.exposed(), Credit: a.credit(), Balance: a.balance, Blocked: x.meter.Blocked(),
	})
}

// status is a snapshot of the agent.
func (s *Seller) status() Status {
	st := Status{
		Name: s.cfg.Name, Offer: s.cfg.OfferPath(), PID: os.Getpid(), Agent: s.key.Address(), Uptime: int64(time.Since(s.started) / time.Second),
		Network: s.cfg.Payment.Network, PayTo: s.cfg.Payment.PayTo, Price: s.price(),
		Modem: s.sim.report(s.cfg.Modem), Sessions: s.sessionViews(), Earnings: s.earnings(),
	}
	syncs, bytes := s.receipts.flash()
	st.FlashWrites = FlashWrites{Syncs: s.journal.SyncCount() + syncs, Bytes: s.journal.Written() + bytes}
	s.mu.Lock()
	st.OfferSeq, st.Rotation = s.offerSeq, s.rotated
	relays := s.relays
	if s.addr != nil {
		st.Listen = s.addr.String()
	}
	s.mu.Unlock()
	if s.way != nil {
		st.Interface = s.way.present().name
	}
	if n := s.refuses(); n != nil {
		st.Refusing = n.Text
	}
	st.Recovery, st.Airplane = s.recoveryStatus(), s.flight.status()
	if s.cfg.Retired {
		st.Refusing = "it is not in the config file any more; what it earned is claimed"
	}
	if st.Plan = s.planStatus(); st.Plan != nil {
		syncs, bytes := s.ration.book.Written()
		st.FlashWrites.Syncs += syncs
		st.FlashWrites.Bytes += bytes
	}
	for _, l := range relays {
		st.Relays = append(st.Relays, l.status())
	}
	st.Problems = s.problems(st)
	return st
}

func (s *Seller) sessionViews() []SessionStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Sorting pointers shares its code with all others that do, on the router.
	sorted := make([]*SessionStatus, 0, len(s.sessions)+len(s.uses))
	for _, x := range s.sessions {
		if v := x.view.Load(); v != nil {
			sorted = append(sorted, v)
		}
	}
	for _, u := range s.uses {
		if v := u.view.Load(); v != nil {
			sorted = append(sorted, v)
		}
	}
	slices.SortFunc(sorted, func(a, b *SessionStatus) int { return slices.Compare(a.Channel[:], b.Channel[:]) })
	views := make([]SessionStatus, 0, len(sorted))
	for _, v := range sorted {
		views = append(views, *v)
	}
	return views
}

func (s *Seller) earnings() Earnings {
	live := make(map[channel.ID]SessionStatus)
	for _, v := range s.sessionViews() {
		live[v.Channel] = v
	}
	s.mu.Lock()
	relays := s.relays
	s.mu.Unlock()
	e := Earnings{Channels: []ChannelEarnings{}}
	for _, state := range s.payee.All() {
		var t agent.Tally
		if t.UnmarshalBinary(state.Note) != nil {
			continue // the settle loop reports it
		}
		owed, err := t.Owed()
		if err != nil {
			continue
		}
		if v, ok := live[state.ID]; ok { // newer than what is stored
			t.Up, t.Down, owed = v.Up, v.Down, v.Owed
		}
		c := ChannelEarnings{
			SIM: s.cfg.Name, Channel: state.ID, Buyer: state.Config.Payer, Sessions: t.Session, Up: t.Up, Down: t.Down,
			Owed: owed, Paid: state.Max, Claimed: state.Claimed, Balance: state.Balance, Lost: t.Lost,
			Watched: max(s.kept(state.ID), state.Claimed),
		}
		for _, l := range relays {
			c.Watched = max(c.Watched, l.keeps(state.ID))
		}
		c.Watched -= c.Claimed
		e.Channels = append(e.Channels, c)
		e.Up += c.Up
		e.Down += c.Down
		e.Owed += c.Owed
		e.Paid += c.Paid
		e.Claimed += c.Claimed
		e.Watched += c.Watched
		e.Lost += c.Lost
	}
	return e
}

// report is the modem's part of the status.
func (w *simWatch) report(cfg *modem.Config) *ModemStatus {
	if cfg == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &ModemStatus{Port: cmp.Or(w.port, cfg.Port), SIM: w.status.SIM.String()}
	if w.err != nil {
		m.Error = w.err.Error()
	}
	if w.readAt.IsZero() {
		return m
	}
	m.Age = int64(time.Since(w.readAt) / time.Second)
	m.Maker, m.Model, m.IMEI, m.ICCID = w.identity.Maker, w.identity.Model, w.identity.IMEI, shownICCID(w.identity)
	m.IMSI, m.Fingerprint, m.Withheld = w.identity.IMSI.String(), w.card.Fingerprint, !w.card.Sold
	m.MCC, m.MNC = w.identity.IMSI.MCC(), w.identity.IMSI.MNC()
	m.Operator, m.Registration = w.status.Operator.Name, w.status.Registration.String()
	m.Technology, m.Signal, m.Roaming = w.status.Technology.String(), w.status.Signal, w.status.Roaming
	return m
}
