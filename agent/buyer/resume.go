package buyer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
)

// A buyer who was here before comes back by the ticket of its last session:
// hello and flows leave with the first packets, and their answers are there
// after one round trip. What the agent does not take is sent again on the same
// connection, by package quic. When nothing is heard of the agent, flows that
// were opened end with an error and are sent again by nobody: the agent may
// have served them, or may still.

// Tickets keep what lets a buyer come back to an agent. It is secret.
type Tickets interface {
	// Take returns a channel's ticket, nil if there is none. When it returns
	// no other Take will return it, whatever happens to this process.
	Take(id channel.ID) ([]byte, error)
	// Put replaces it.
	Put(id channel.ID, ticket []byte) error
}

const earlyTime = 1500 * time.Millisecond // see ReachConfig

// errUnanswered ends such an attempt.
var errUnanswered = errors.New("the agent does not answer")

// resumed says whether the agent has served what was sent before the handshake.
// It is called after settle.
func (l *link) resumed() bool { return l.ticket != nil && l.quic.Early() }

// dial reaches the agent: by a ticket without waiting for it, or in all ways.
func (b *Buyer) dial(ctx context.Context) (*link, error) {
	if t := b.takeTicket(); t != nil {
		ectx, cancel := context.WithTimeout(ctx, b.cfg.Reach.Early)
		l, err := b.reach.resume(ectx, t)
		cancel()
		if err == nil {
			return l, nil
		}
		b.log.Debug("come back by a ticket", "err", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return b.reach.dial(ctx, b.reach.tries())
}

// takeTicket returns the channel's ticket, if there is one and it may be used
// here.
func (b *Buyer) takeTicket() *quic.Ticket {
	if b.cfg.Tickets == nil || b.cfg.CloseOnly || !b.reach.resumable() {
		return nil
	}
	text, err := b.cfg.Tickets.Take(b.id)
	if err != nil {
		b.log.Warn("take the ticket of the last session", "err", err)
	}
	if err != nil || text == nil {
		return nil
	}
	t, err := quic.ParseTicket(text)
	if err == nil && channel.Hash(t.KeyHash) != b.cfg.Offer.TunnelKey {
		err = errors.New("the agent has another key now")
	}
	if err != nil {
		b.log.Debug("the ticket of the last session is no good", "err", err)
		return nil
	}
	return t
}

// resumable says whether QUIC is known to get through on this network. Where it
// may not, flows would be lost that can wait.
func (r *reach) resumable() bool {
	switch r.cfg.Transport {
	case QUIC:
		return true
	case "":
		return r.cfg.Networks == nil || r.remembered() == QUIC
	}
	return false
}

// resume opens a link by a ticket at the first place that the offer names. It
// does not wait for the agent, only for a relay.
func (r *reach) resume(ctx context.Context, t *quic.Ticket) (*link, error) {
	if e := r.endpoints(); len(e) > 0 {
		addr, err := resolve(ctx, e[:1])
		if err != nil {
			return nil, err
		}
		return r.quicAt(ctx, addr, "", t)
	}
	if len(r.relays) > 0 {
		return r.quicRelayed(ctx, r.relays[0], make(chan error, 1), t)
	}
	return nil, errors.New("the offer names no way to the agent")
}

// settle waits, while flows begin, until a link that was opened by a ticket has
// done its handshake. An agent that did not take what was sent before it is told
// who we are again.
func (x *session) settle(ctx context.Context) error {
	if x.conn.ticket == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, x.b.cfg.Reach.Early)
	defer cancel()
	if err := x.conn.quic.Settled(ctx); err != nil {
		return err
	}
	if err := x.b.reach.keep(x.conn, x.conn.quic); err != nil {
		return err
	}
	x.b.reach.remember(QUIC)
	if x.conn.resumed() {
		return nil
	}
	return x.prove()
}

// giveUp ends a session that was not answered.
func (x *session) giveUp(err error) error {
	x.b.leave(nil)
	_ = x.conn.Close(tunnel.ReasonDone, "") // it may have ended already
	x.keep(err)
	return fmt.Errorf("%w: %w", errUnanswered, err)
}

// keepTicket stores what the agent gave, once it has.
func (x *session) keepTicket() {
	if x.b.cfg.Tickets == nil || x.conn.quic == nil {
		return
	}
	t, err := x.conn.quic.Ticket()
	if t == nil && err == nil {
		return
	}
	var text []byte
	if err == nil {
		text, err = t.MarshalBinary()
	}
	if err == nil {
		err = x.b.cfg.Tickets.Put(x.b.id, text)
	}
	if err != nil { // then the next session waits for a handshake
		x.b.log.Warn("keep the ticket for the next session", "err", err)
	}
}
