package buyer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel"
)

// A Token is what BuyToken bought.
type Token struct {
	agent.TokenGrant
	Channel channel.ID
	// Deposit is what was put into the channel for it: Amount, or the agent's
	// least.
	Deposit channel.Amount
}

const (
	// tokenTries is how often the agent is asked for a token that was paid for.
	tokenTries = 4
	tokenTime  = 20 * time.Second // for one of them
)

// ErrKept says that there is no token, and that its deposit may be in the channel.
var ErrKept = errors.New("the deposit was not given back")

// BuyToken buys a token for so many bytes: it opens the channel with c.Salt, which
// was never used before, deposits what the bytes cost, pays all of it in advance
// and asks for the token. Of c it needs Key, Store, Offer, Salt and MaxPrice.
// After a failure the deposit is asked back; if that fails too the error Is
// ErrKept, and the channel is closed like any other by Run with CloseOnly.
func BuyToken(ctx context.Context, c Config, bytes uint64) (Token, error) {
	if c.Salt == (channel.Hash{}) {
		return Token{}, errors.New("buyer: Salt: missing")
	}
	amount, err := agent.TokenAmount(c.Offer.Price, bytes)
	if err != nil {
		return Token{}, err
	}
	c.Budget, c.Deposit, c.Keep = amount, amount, true
	if c, err = c.withDefaults(); err != nil {
		return Token{}, err
	}
	b, err := open(c)
	if err != nil {
		return Token{}, err
	}
	if err := b.ensureDeposit(ctx); err != nil {
		if b.draft != (draft{}) { // nobody knows what came of it
			err = fmt.Errorf("%w; %w", err, ErrKept)
		}
		return Token{}, err
	}
	t, err := b.buyToken(ctx, bytes, amount)
	if err == nil {
		return t, nil
	}
	c.CloseOnly, c.Keep = true, false
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if _, cerr := Run(cctx, c); cerr != nil {
		return Token{}, fmt.Errorf("%w; %w: %w", err, ErrKept, cerr)
	}
	return Token{}, fmt.Errorf("%w; the deposit was given back", err)
}

func (b *Buyer) buyToken(ctx context.Context, bytes uint64, amount channel.Amount) (t Token, err error) {
	if b.reach, err = openReach(ctx, b.cfg); err != nil {
		return t, err
	}
	rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var paths errgroup.Group
	paths.Go(func() error { return b.reach.socket.Run(rctx) })
	t.TokenGrant, err = b.askToken(ctx, bytes, amount)
	_, ferr := b.reach.fares.finish(context.WithoutCancel(ctx))
	stop()
	err = errors.Join(err, paths.Wait(), b.reach.close())
	if ferr != nil { // the token is as good
		b.log.Warn("end a relay's channel", "err", ferr)
	}
	state, _ := b.payer.Get(b.id)
	t.Channel, t.Deposit = b.id, state.Balance
	return t, err
}

// askToken asks until there is an answer.
func (b *Buyer) askToken(ctx context.Context, bytes uint64, amount channel.Amount) (agent.TokenGrant, error) {
	var errs error
	for try := range tokenTries {
		if try > 0 {
			b.log.Warn("the agent did not answer; asking again", "err", errs)
			select {
			case <-ctx.Done():
				return agent.TokenGrant{}, errs
			case <-time.After(redialMin << try):
			}
		}
		g, err := b.askTokenOnce(ctx, bytes, amount)
		if err == nil {
			return g, nil
		}
		errs = err
		_, refused := errors.AsType[agent.Notice](err)
		_, over := errors.AsType[*overError](err)
		if refused || over || ctx.Err() != nil {
			break
		}
	}
	return agent.TokenGrant{}, errs
}

// askTokenOnce is one connection to the agent.
func (b *Buyer) askTokenOnce(ctx context.Context, bytes uint64, amount channel.Amount) (g agent.TokenGrant, err error) {
	dctx, cancel := context.WithTimeout(ctx, dialTime)
	conn, err := b.reach.dial(dctx, b.reach.tries())
	cancel()
	if err != nil {
		return g, err
	}
	defer conn.end()
	x := &session{b: b, conn: conn, meter: meter.New(meter.Config{}), inbox: make(chan tunnel.Capsule), sampled: time.Now()}
	rctx, cancel := context.WithTimeout(ctx, tokenTime)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer func() { _ = conn.Close(tunnel.ReasonDone, "") }() // it may have ended already
	// An agent that reads nothing could hold every capsule up for ever.
	defer context.AfterFunc(rctx, func() { _ = conn.Close(tunnel.ReasonProtocol, "the control stream is not read") })()
	if err := x.hello(rctx); err != nil {
		return g, err
	}
	received := make(chan error, 1)
	wg.Go(func() { received <- x.receive(rctx) })
	for asked := false; ; {
		select {
		case c := <-x.inbox:
			if g, done, err := x.hearToken(c, bytes, amount); done || err != nil {
				return g, err
			}
		case err := <-received:
			return g, err
		case <-rctx.Done():
			return g, errors.New("the agent did not answer; one of an older version knows no tokens")
		}
		if x.purse.known && !asked {
			asked = true
			if err := x.payToken(bytes, amount); err != nil {
				return g, err
			}
		}
	}
}

// payToken pays for the token and asks for it.
func (x *session) payToken(bytes uint64, amount channel.Amount) error {
	b := x.b
	if state, _ := b.payer.Get(b.id); state.Max < amount { // else it was signed, and sent by accept
		note, err := b.note(x.memory())
		if err != nil {
			return err
		}
		if _, err := b.payer.Sign(b.cfg.Key, b.id, amount, note); err != nil {
			return err
		}
		x.purse.signed = amount
		if err := x.sendVoucher(time.Now()); err != nil {
			return err
		}
	}
	return x.ctl.Send(agent.CapsuleRequest, encode(agent.TokenRequest{Bytes: bytes}))
}

// hearToken acts on one capsule of the agent's; done says that it was the token.
func (x *session) hearToken(c tunnel.Capsule, bytes uint64, amount channel.Amount) (g agent.TokenGrant, done bool, err error) {
	switch c.Type {
	case agent.CapsuleToken:
		if g, err = agent.ParseTokenGrant(c.Value); err != nil {
			return g, false, err
		}
		id, _ := agent.TokenChannel(g.Token)
		if id != x.b.id || g.Bytes != bytes || g.Amount != amount {
			return g, false, &overError{fmt.Errorf("the agent sold another token: of %d bytes for %s USD, not %d for %s", g.Bytes, g.Amount.USD(), bytes, amount.USD())}
		}
		return g, true, nil
	case agent.CapsuleNotice:
		n, err := agent.ParseNotice(c.Value)
		if err == nil {
			err = n
		}
		return g, false, err
	}
	return g, false, x.handle(c)
}
