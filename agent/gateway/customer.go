package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/proxy"
)

const (
	// tryTime is how long other exits are tried, and those again that failed: one
	// that was lost may be back in a moment. With answerTime an exit that is gone
	// is passed over within 10 s.
	tryTime  = 8 * time.Second
	tryPause = 300 * time.Millisecond // before those are tried again
	// lastAnswer is how long a target may take by the last exit that is tried.
	lastAnswer = 15 * time.Second
)

// enter is proxy.Config.Login: it finds the account of a customer.
func (g *Gateway) enter(_ context.Context, from netip.Addr, user, password string) (proxy.Tunnel, error) {
	id, r, c, err := g.admit(from, user, password)
	if err != nil {
		return nil, err
	}
	return customer{g, ticket{who: id, choice: c.or(r.Choice), most: r.Price}}, nil
}

// admit checks what a customer shows.
func (g *Gateway) admit(from netip.Addr, user, password string) (accountID, record, choice, error) {
	now, src := time.Now(), tunnel.SourceOf(from)
	count := g.book.counts
	if g.guard.shut(src, now) {
		count.refuse(refusedGuesses)
		return accountID{}, record{}, choice{}, &proxy.RefusedError{
			Status: http.StatusTooManyRequests, Err: errors.New("too many wrong passwords from your address"),
			Advice: "Wait a minute.",
		}
	}
	token, c, err := parseUser(user)
	if err != nil {
		g.guard.miss(src, now)
		count.refuse(refusedName)
		return accountID{}, record{}, c, &proxy.RefusedError{
			Status: http.StatusBadRequest, Err: err,
			Advice: "A user name is TOKEN, or such as TOKEN-country-de-session-a1.",
		}
	}
	id := idOf(token)
	r, err := g.book.read(id)
	if err == nil && !r.opens(password) {
		err = errNoAccount
	}
	if err != nil {
		if !errors.Is(err, errNoAccount) {
			g.log.Error("read an account", "err", err)
		}
		g.guard.miss(src, now)
		count.refuse(refusedLogin)
		return id, record{}, c, err
	}
	if !r.allows(from) {
		count.refuse(refusedAddress)
		return id, record{}, c, &proxy.RefusedError{
			Status: http.StatusForbidden, Err: errors.New("this credit may not be used from your address"),
			Advice: "Come from an address in its allow list, or change the list.",
		}
	}
	return id, r, c, nil
}

// A customer is the tunnel of one who has logged in.
type customer struct {
	g *Gateway
	ticket
}

var _ proxy.Tunnel = customer{}

func (c customer) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return c.dial(ctx, func(ctx context.Context, t proxy.Tunnel) (net.Conn, error) { return t.DialTCP(ctx, host, port) })
}

func (c customer) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return c.dial(ctx, func(ctx context.Context, t proxy.Tunnel) (net.Conn, error) { return t.DialUDP(ctx, host, port) })
}

// dial opens a flow by the exit that was chosen, or by another if that one fails.
func (c customer) dial(ctx context.Context, open dialer) (net.Conn, error) {
	a, err := c.g.book.enter(c.who, c.g.cfg.Flows)
	if err != nil {
		return nil, c.g.refused(err)
	}
	f, err := c.try(ctx, a, open)
	if err != nil {
		c.g.book.leave(a)
		if ctx.Err() != nil { // nobody waits any more
			return nil, err
		}
		return nil, c.g.refused(err)
	}
	end := f.end
	f.end = sync.OnceFunc(func() { end(); c.g.book.leave(a) })
	return f, nil
}

// try asks one exit after the other. One that did not do what another then did
// is left alone for a while.
func (c customer) try(ctx context.Context, a *account, open dialer) (*flow, error) {
	t, began := c.ticket, time.Now()
	for {
		e, err := c.g.exits.pick(ctx, &t)
		if err == nil {
			var f *flow
			if f, err = c.by(ctx, e, a, open, &t); err == nil {
				return f, nil
			}
		}
		if _, ok := errors.AsType[exitError](err); !ok || ctx.Err() != nil || time.Since(began) > tryTime {
			return nil, err
		}
		c.g.log.Debug("exit passed over", "err", err)
		if t.more {
			continue
		}
		select {
		case <-time.After(tryPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		t.tried = nil
	}
}

// by opens a flow by an exit. While there are others, that takes a few seconds
// at most.
func (c customer) by(ctx context.Context, e *exit, a *account, open dialer, t *ticket) (*flow, error) {
	patience := lastAnswer
	if t.more {
		patience = answerTime
	}
	f, err := e.dial(ctx, a, open, patience)
	if err != nil {
		return nil, err
	}
	for _, who := range t.tried[:len(t.tried)-1] {
		c.g.exits.failed(who)
	}
	return f, nil
}

// told is an error as customers are told of it.
func told(err error) error {
	refuse := func(status int, advice string) error {
		return &proxy.RefusedError{Status: status, Err: err, Advice: advice}
	}
	switch {
	case errors.Is(err, errSpent):
		return refuse(http.StatusPaymentRequired, "Buy more: POST /v1/credit with this user and password.")
	case errors.Is(err, errEnded), errors.Is(err, errNoAccount):
		return refuse(http.StatusForbidden, "Buy new credit.")
	case errors.Is(err, errFlows):
		return refuse(http.StatusTooManyRequests, "Close some, or buy more.")
	case errors.Is(err, buyer.ErrPoor):
		return &proxy.RefusedError{
			Status: http.StatusServiceUnavailable, Err: errors.New("the gateway has no money to pay the agent"),
			Advice: "Try again later, or have your credit given back: DELETE /v1/credit.",
		}
	}
	return err
}
