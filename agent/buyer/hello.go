package buyer

import (
	"context"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
)

// connect reaches the agent and stores, beside that, that a session may begin.
func (b *Buyer) connect(ctx context.Context) (*link, error) {
	begun := b.begin()
	l, err := b.dial(ctx)
	if serr := <-begun; serr != nil {
		if err == nil {
			_ = l.Close(tunnel.ReasonInternal, "") // it was not used
			l.end()
		}
		return nil, &overError{serr}
	}
	b.begun = true
	return l, err
}

// begin stores, beside what is done meanwhile, that a session may begin: a crash
// behind its hello may lose counts of what the agent has served. It stays stored
// while the agent is looked for, until unbegin.
func (b *Buyer) begin() <-chan error {
	done := make(chan error, 1)
	if b.begun {
		done <- nil
		return done
	}
	b.work.Go(func() { done <- b.remember(b.mem.begun(b.price)) })
	return done
}

// unbegin stores that no session has begun.
func (b *Buyer) unbegin() {
	if !b.begun {
		return
	}
	if err := b.remember(b.mem); err != nil {
		b.log.Error("store the channel's totals", "err", err)
	}
}

// hello opens the control stream and says who we are.
func (x *session) hello(ctx context.Context) (err error) {
	if x.ctl, err = tunnel.OpenControl(ctx, x.conn, "x402.invalid", agent.KnownCapsule); err != nil {
		return err
	}
	if t := x.conn.ticket; t != nil {
		return x.sayHello(agent.CapsuleEarly, t.Secret, agent.SealEarlyHello)
	}
	return x.prove()
}

// prove says a hello that is proven on this connection, after its handshake.
func (x *session) prove() error {
	exporter, err := x.conn.ExportKey(agent.ExporterLabel)
	if err != nil {
		return err
	}
	return x.sayHello(agent.CapsuleHello, exporter, agent.SealHello)
}

func (x *session) sayHello(typ uint64, secret [32]byte, seal func(*channel.Key, [32]byte, agent.Hello) ([]byte, error)) error {
	b := x.b
	hello := agent.Hello{
		Versions: []int{agent.ProtocolVersion}, Network: b.cfg.Offer.Payment.Network,
		Config: b.cfg.channel(), Price: b.price,
		Own:   agent.Counts{Session: b.mem.tally.Session, Up: b.mem.ceiling, Down: b.mem.tally.Down, Cut: b.mem.cut()},
		Proof: b.proof, Closing: b.cfg.CloseOnly,
	}
	if typ == agent.CapsuleHello { // to one who comes back the agent does not ask the ledger first
		hello.Voucher = b.covered(0)
	}
	h, err := seal(b.cfg.Key, secret, hello)
	if err != nil {
		return err
	}
	return x.ctl.Send(typ, h)
}
