package seller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel"
)

// A token is for clients that cannot pay as they go. It is a channel of its own,
// paid in advance by one voucher, of which the agent takes what it counts:
//
//	session on a new channel: voucher, request ─→ token (sellToken)
//	request with the token ─→ tokenUse: counts, stores, ends with the bytes
//	void or long unused ─→ claim, refund (tokenLoop)
//
// The channel's record says all there is: whose it is, what was paid, how many
// bytes were sold and have come through. A channel has a session or a use of its
// token, never both, so that one of them writes the record.

// sellToken answers a buyer's wish for a token on the session's channel. From
// then on the channel is the token's, and the session carries nothing.
func (x *session) sellToken(b []byte) error {
	r, err := agent.ParseTokenRequest(b)
	if err != nil {
		return &refusal{tunnel.ReasonProtocol, err.Error()}
	}
	t, err := x.tokenFor(r)
	if err != nil {
		x.log.Warn("no token", "bytes", r.Bytes, "err", err)
		x.notify(agent.Notice{Code: agent.NoticeToken, Text: err.Error()})
		return nil
	}
	amount, err := agent.TokenAmount(t.Price, t.Prepaid)
	if err != nil {
		return err
	}
	grant, err := json.Marshal(agent.TokenGrant{
		Token: agent.NewToken(x.s.tokens, x.id), Bytes: t.Prepaid, Price: t.Price, Amount: amount, Idle: uint64(agent.TokenIdle / time.Second),
	})
	if err != nil {
		return err
	}
	return x.ctl.Send(agent.CapsuleToken, grant)
}

// tokenFor makes the channel a token's, and returns the stored tally. Who asks
// again, since the answer was lost, is told the same.
func (x *session) tokenFor(r agent.TokenRequest) (t agent.Tally, err error) {
	if x.prepaid {
		if err := t.UnmarshalBinary(x.state.Note); err != nil {
			return t, err
		}
		if t.Void {
			return t, errors.New("the channel's token is void: begin another channel")
		}
		return t, nil
	}
	t = x.account.tally
	amount, err := agent.TokenAmount(t.Price, r.Bytes)
	switch {
	case err != nil:
		return t, err
	case x.state.Config.Salt == (channel.Hash{}):
		return t, errors.New("a token needs a channel of its own: one with a salt")
	case x.account.paid < amount || x.account.paid != x.state.Max:
		return t, fmt.Errorf("%d bytes cost %s USD, paid are %s", r.Bytes, amount.USD(), x.account.paid.USD())
	}
	x.meter.Close(errors.New("the channel is a token's from now on"))
	if t.Up|t.Down|t.Lost|uint64(t.Base) != 0 || x.meter.Reading() != (meter.Reading{}) || x.tun.Flows() > 0 {
		return t, errors.New("the channel was used before: begin another one")
	}
	t.Prepaid = r.Bytes
	note, err := t.MarshalBinary()
	if err != nil {
		return t, err
	}
	state, err := x.s.payee.Note(x.id, note)
	if err != nil {
		return t, fmt.Errorf("store the token: %w", err)
	}
	x.state, x.prepaid = state, true
	x.log.Info("token sold", "bytes", t.Prepaid, "amount", amount)
	return t, nil
}

const (
	// passWait bounds how long a flow waits for the session that bought its
	// token, or for a use that is ending.
	passWait = 5 * time.Second
	// passIdle is how long a connection may be without flows.
	passIdle = 2 * time.Minute
	// leastLeft is what a token must have left to take a new flow: a packet.
	leastLeft = 1500
)

// servePassed keeps a connection whose flows come by tokens, and the relay's port
// that it may come from, until it has had none for a while.
func (s *Seller) servePassed(ctx context.Context, conn tunnel.ServerConn, tun *tunnel.Session, from string) {
	s.countPassed(from, 1)
	defer s.countPassed(from, -1)
	tick := time.NewTicker(passIdle / 4)
	defer tick.Stop()
	for idle := time.Now(); ; {
		select {
		case <-conn.Context().Done():
			return
		case <-ctx.Done():
			return // serve has it closed
		case <-tick.C:
		}
		if tun.Flows() > 0 {
			idle = time.Now()
		} else if time.Since(idle) > passIdle {
			_ = conn.Close(tunnel.ReasonDone, "idle") // it may have ended already
			return
		}
	}
}

func (s *Seller) countPassed(from string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passed[from] += n; s.passed[from] == 0 {
		delete(s.passed, from)
	}
}

// pass lets a flow in by a token.
func (s *Seller) pass(ctx context.Context, credentials []string) (tunnel.Pass, error) {
	id, err := s.channelOf(credentials)
	if err != nil {
		s.log.Debug("no token", "err", err)
		return tunnel.Pass{}, &tunnel.PassError{
			Status: tunnel.StatusProxyAuthRequired, Fields: tunnel.Fields{"proxy-authenticate": {agent.TokenRealm}},
			Kind: kindDenied, Text: "want a token of this agent's: x402 token buys one",
		}
	}
	if n := s.refuses(); n != nil {
		return tunnel.Pass{}, later(n.Text)
	}
	ctx, cancel := context.WithTimeout(ctx, passWait)
	defer cancel()
	for {
		u, wait, err := s.use(id)
		if u != nil {
			return u.pass(), nil
		}
		if err != nil {
			return tunnel.Pass{}, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return tunnel.Pass{}, later("the token's channel has a session; try again when that has ended")
		}
	}
}

// channelOf returns the channel whose token a request shows.
func (s *Seller) channelOf(credentials []string) (id channel.ID, err error) {
	if len(credentials) != 1 {
		return id, errors.New("more than one field of credentials")
	}
	token, err := agent.ParseCredentials(credentials[0])
	if err != nil {
		return id, err
	}
	return agent.OpenToken(s.tokens, token)
}

// kindDenied is RFC 9209 §2.3's for a request that the proxy's rules refuse.
const kindDenied = "http_request_denied"

func later(text string) *tunnel.PassError {
	return &tunnel.PassError{
		Status: tunnel.StatusServiceUnavailable, Fields: tunnel.Fields{"retry-after": {"5"}}, Kind: kindDenied, Text: text,
	}
}

// used is the answer to a token that pays for nothing more.
func (s *Seller) used(format string, args ...any) *tunnel.PassError {
	return &tunnel.PassError{
		Status: tunnel.StatusPaymentRequired, Fields: s.unpaid(), Kind: kindDenied, Text: fmt.Sprintf(format, args...),
	}
}

// use takes a place for a flow in the use of a token, which it begins if there
// is none. While the channel has something else it returns what to wait for.
func (s *Seller) use(id channel.ID) (*tokenUse, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, x := s.uses[id], s.sessions[id]
	switch {
	case s.closing:
		return nil, nil, later("the agent stops")
	case s.sim.withheld():
		return nil, nil, later(errSwapped.Error())
	case u != nil && u.over:
		return nil, u.done, nil
	case x != nil:
		return nil, x.done, nil
	case u == nil && len(s.sessions)+len(s.uses) >= s.cfg.MaxSessions:
		return nil, nil, later(fmt.Sprintf("the agent serves %d buyers already", s.cfg.MaxSessions))
	case u == nil:
		var err error
		if u, err = s.openUse(id); err != nil {
			return nil, nil, err
		}
		s.uses[id] = u
		s.reach.sessions.Go(u.run)
	case u.flows >= s.cfg.MaxFlows:
		return nil, nil, &tunnel.PassError{Status: tunnel.StatusTooManyRequests, Kind: kindDenied, Text: "too many flows by this token"}
	}
	if left := u.left(); left < leastLeft {
		return nil, nil, s.used("the token is used up: %d of %d bytes", u.began.Prepaid-left, u.began.Prepaid)
	}
	u.flows++
	return u, nil, nil
}

// openUse reads what the channel's record says of its token. The caller holds
// s.mu: nobody else uses or changes it then.
func (s *Seller) openUse(id channel.ID) (*tokenUse, error) {
	state, _ := s.payee.Get(id)
	var t agent.Tally
	if err := t.UnmarshalBinary(state.Note); err != nil {
		return nil, err
	}
	if t.Prepaid == 0 {
		return nil, s.used("the agent has no record of this token's channel")
	}
	if e := s.worthless(state, t); e != nil {
		return nil, e
	}
	return newTokenUse(s, state, t), nil
}

// worthless says why a token pays for nothing more, nil if it does.
func (s *Seller) worthless(state channel.State, t agent.Tally) *tunnel.PassError {
	amount, err := agent.TokenAmount(t.Price, t.Prepaid)
	switch {
	case t.Void && t.Up+t.Down >= t.Prepaid-min(t.Prepaid, leastLeft):
		return s.used("the token is used up: %d of %d bytes", t.Up+t.Down, t.Prepaid)
	case t.Void:
		return s.used("the token was closed")
	case state.WithdrawAt != 0:
		return s.used("a withdrawal from the token's channel is under way")
	case err != nil || min(state.Max, state.Balance) < amount:
		return s.used("the deposit that paid for the token is gone")
	}
	return nil
}
