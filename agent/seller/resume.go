package seller

import (
	"context"
	"fmt"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
)

// A buyer who comes back by a ticket is served before the handshake is done, by
// a hello that was proven on the connection that the ticket came by. Its first
// packets may be kept back by someone on the path and arrive at any later time,
// once. So they begin a session only while the ticket's own is the channel's
// last: after another one the buyer has given them up.

// errStale is such a hello that came too late.
var errStale = fmt.Errorf("the channel has had a session since the ticket was given; %w", errLater)

// A visitor is a connection that buyers can come back to.
type visitor interface {
	Resumed() (quic.Resumption, bool)
	Resumable(owner [32]byte, session uint64)
}

var _ visitor = (*quic.ServerConn)(nil)

// resumed is the ticket that a connection was opened by, nil if it was opened by
// none, or what was sent early was not taken.
func resumed(conn tunnel.ServerConn) *quic.Resumption {
	if v, ok := conn.(visitor); ok {
		if r, ok := v.Resumed(); ok {
			return &r
		}
	}
	return nil
}

// ample says whether a session can begin by what the ledger said last.
func (s *Seller) ample(state channel.State) bool {
	var t agent.Tally
	if t.UnmarshalBinary(state.Note) != nil {
		return false
	}
	owed, err := t.Owed()
	return err == nil && state.Phase == channel.Open && state.WithdrawAt == 0 &&
		state.Balance >= s.cfg.Payment.MinDeposit && state.Balance > max(owed, state.Max, state.Claimed)
}

// latest says whether session is the channel's last.
func (s *Seller) latest(id channel.ID, session uint64) bool {
	state, known := s.payee.Get(id)
	var t agent.Tally
	return known && t.UnmarshalBinary(state.Note) == nil && t.Session == session
}

// resumable lets the buyer come back by a ticket, once the session is stored
// and the ledger was asked.
func (x *session) resumable() {
	if v, ok := x.conn.(visitor); ok && !x.prepaid {
		v.Resumable(x.id, x.account.tally.Session)
	}
}

// look asks the ledger beside the session.
func (x *session) look(ctx context.Context) {
	_, err := x.s.observe(ctx, x.id)
	x.looked <- err // it has room
}

// heard takes over what the ledger has said. While it does not answer, what it
// last said counts; but the buyer waits for it the next time.
func (x *session) heard(err error) error {
	if err != nil {
		x.log.Warn("the ledger does not answer; going by what it last said", "err", err)
		return nil
	}
	x.state, _ = x.s.payee.Get(x.id) // it may have paid meanwhile
	x.account.balance = x.state.Balance
	if x.state.WithdrawAt != 0 { // its next hello gets a notice
		return &refusal{tunnel.ReasonRefused, "a withdrawal from the channel is under way"}
	}
	x.resumable()
	return nil
}
