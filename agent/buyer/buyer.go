// Package buyer is the buyer's side: it opens a channel with an agent, offers
// local proxies through its tunnel, counts what comes out of it and pays for
// that, and for no more.
//
// [Run] is the composition root; session.go is one connection's life, purse.go
// says what is owed, deposit.go puts money into the channel, finish.go ends it.
package buyer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/proxy"
)

// Config says what to buy. Zero fields have the defaults named.
type Config struct {
	Key   *channel.Key
	Store channel.Store // the channels' records; the caller's to close
	Offer agent.Offer
	// Salt is that of the channel. Zero: the one that all runs of this payer with
	// this agent share. Others are those of tokens, which the agent alone counts.
	Salt channel.Hash
	// Budget bounds what this run signs for, to the agent and to relays together.
	Budget channel.Amount
	// MaxPrice bounds the price of a GB in either direction, a relay's included.
	MaxPrice channel.Amount
	// Deposit is how much is put into the channel at a time. Default 250,000
	// (0.25 USD), or the agent's least.
	Deposit channel.Amount
	// CloseOnly buys nothing: the channel is paid up, claimed and refunded.
	CloseOnly bool
	// RotateEvery is how often the agent is asked for another address, and
	// RotatePrice the most that one may cost. 0: never.
	RotateEvery time.Duration
	RotatePrice channel.Amount
	// Rotations are orders for another address; nil: there are none.
	Rotations <-chan RotationOrder
	// Keep leaves the deposit in the channel at the end, for the next run.
	Keep bool
	// Abandon, when it ends, has the run end at once, whether the agent answers or
	// not: what is owed and not paid stays stored, for another run to pay. Nil: the
	// agent is waited for as long as an end in order takes.
	Abandon context.Context

	// SOCKS and HTTP are listeners of the local proxies; nil leaves one out.
	// Run closes them.
	SOCKS, HTTP net.Listener
	// Proxy carries the proxies' settings but for the Tunnel.
	Proxy proxy.Config
	// Serve uses the purchase as the local proxies do, until its context ends,
	// when flows are to end too; nil: only they do. An error ends the purchase.
	Serve func(context.Context, *Buyer) error

	Logger *slog.Logger
	// OnStatus is called about four times a second, and at the end, from one
	// goroutine. It must not block.
	OnStatus func(Status)

	// Exit looks where traffic leaves, once connected; nil: nobody does.
	Exit *ExitCheck
	// Reach says how the agent may be reached.
	Reach ReachConfig
	// Tolls says what relays may be paid for passing packets on.
	Tolls TollConfig
	// Tickets keep what lets the buyer come back within one round trip; nil
	// keeps nothing.
	Tickets Tickets
	// Receipts keep what agents sign for what was bought; nil: none is asked for.
	Receipts *Receipts

	// Socket opens the UDP sockets that Run uses and closes. Default: the
	// kernel's.
	Socket func(ctx context.Context, listen string) (net.PacketConn, error)
	// Facilitator replaces the real one in tests.
	Facilitator Facilitator
}

// A Facilitator holds the deposits. *facilitator.Client is one.
type Facilitator interface {
	Channel(ctx context.Context, network string, id channel.ID) (x402.ChannelInfo, error)
	Balance(ctx context.Context, network string, a channel.Address) (x402.AccountInfo, error)
	Deposit(ctx context.Context, network string, t channel.Token, d x402.Deposit) (x402.SettlementResponse, error)
	Withdraw(ctx context.Context, w x402.Withdraw) (x402.SettlementResponse, error)
}

var _ Facilitator = (*facilitator.Client)(nil)

// ErrBudget is how Run ends when the budget is used up: in order, with
// everything paid.
var ErrBudget = errors.New("the budget is used up")

// ErrPrice says that the agent asks for more than MaxPrice.
var ErrPrice = errors.New("over the highest price")

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Key == nil || c.Store == nil:
		return c, errors.New("buyer: Key and Store: missing")
	case c.CloseOnly:
		c.MaxPrice = c.Offer.Price.Max() // nothing is bought at it
	case c.Budget == 0:
		return c, errors.New("the budget is zero: nothing can be bought")
	case c.MaxPrice == 0:
		return c, errors.New("the highest price is zero")
	case c.Offer.Price.Max() > c.MaxPrice:
		return c, priceError(c.Offer.Price, c.MaxPrice)
	}
	if c.Deposit == 0 {
		c.Deposit = 250_000
	}
	c.Deposit = max(c.Deposit, c.Offer.Payment.MinDeposit)
	if c.Reach.Early == 0 {
		c.Reach.Early = earlyTime
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// channel is what is paid into.
func (c Config) channel() channel.Config {
	config := c.Offer.Channel(c.Key.Address())
	config.Salt = c.Salt
	return config
}

func priceError(p agent.Price, most channel.Amount) error {
	return fmt.Errorf("%w: the agent asks %s USD per GB, at most %s are allowed", ErrPrice, p.Max().USD(), most.USD())
}

// A Buyer is a running purchase.
type Buyer struct {
	fund  // with the agent; owned by the goroutine that runs sessions, like these
	reach *reach

	price    agent.Price // the newest that the agent was heard to ask, and we accept
	proof    agent.Proof // the agent's last
	rotateAt time.Time   // when to ask for another address
	outcome  Result
	looked   chan look // what the ledger says of the channel that is used already; nil: heard

	mu    sync.Mutex
	line  *line
	ready chan struct{} // closed while there is a line; replaced when it goes
	gone  error         // set at the end: no line will come
	asks  agent.Price   // of the newest session whose terms have come; else the offer's
}

// Run buys until ctx is cancelled or the budget is used up ([ErrBudget]), then
// drains, pays the rest, and has the channel claimed and refunded.
func Run(ctx context.Context, c Config) (Result, error) {
	c, err := c.withDefaults()
	if err != nil {
		return Result{}, err
	}
	b, err := open(c)
	if err != nil {
		return Result{}, err
	}
	wctx, stop := context.WithCancel(ctx)
	defer b.work.Wait()
	defer stop()
	var result Result
	err = withReach(ctx, c, func(r *reach) error {
		if err := r.hopeless(); err != nil { // before anything is deposited
			return err
		}
		if err := b.prepare(wctx); err != nil {
			return err
		}
		b.reach = r
		result, err = b.run(ctx)
		late, cancel := c.ending(ctx)
		defer cancel()
		relays, ferr := r.fares.finish(late)
		result.Relays = relays
		return errors.Join(err, ferr)
	})
	return result, err
}

// ending is the context of what ends a run in order: it outlasts ctx, but not
// Abandon.
func (c Config) ending(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if c.Abandon == nil {
		return late, cancel
	}
	stop := context.AfterFunc(c.Abandon, cancel)
	return late, func() {
		stop()
		cancel()
	}
}

// abandoned says whether the run is to end as it is.
func (c Config) abandoned() bool { return c.Abandon != nil && c.Abandon.Err() != nil }

func open(c Config) (*Buyer, error) {
	b := &Buyer{fund: fund{cfg: c, log: c.Logger, fac: c.Facilitator}, price: c.Offer.Price, asks: c.Offer.Price, ready: make(chan struct{})}
	return b, b.open()
}

// open opens the channel's record, which asks nobody.
func (b *fund) open() (err error) {
	p := b.cfg.Offer.Payment
	if b.domain, err = p.Domain(); err != nil {
		return err
	}
	if b.token, err = p.Token(); err != nil {
		return err
	}
	if b.fac == nil {
		if b.fac, err = nethttp.New(nethttp.Config{URL: p.Facilitator}); err != nil {
			return err
		}
	}
	if b.payer, err = channel.NewPayer(b.cfg.Store); err != nil {
		return err
	}
	state, err := b.payer.Open(b.domain, b.cfg.channel())
	if err != nil {
		return err
	}
	b.id = state.ID
	if err := b.mem.unmarshal(state.Note); err != nil {
		return err
	}
	b.draft, b.drawn = b.mem.draft, b.mem.draft.validBefore
	if b.most, err = max(state.Max, state.Claimed).Add(b.cfg.Budget); err != nil {
		return fmt.Errorf("the budget: %w", err)
	}
	return nil
}

// prepare sees to a first deposit. Who has one from before does not wait for
// the ledger to say so: the agent asks it too, and what is signed on a deposit
// that is gone costs nothing.
func (b *Buyer) prepare(ctx context.Context) error {
	if b.cfg.CloseOnly {
		_, err := b.observe(ctx)
		return err
	}
	state, _ := b.payer.Get(b.id)
	// A frozen one was being closed, and nobody has said what came of it.
	if state.Phase != channel.Open || state.WithdrawAt != 0 || b.missing(state) > 0 {
		return b.ensureDeposit(ctx)
	}
	b.looked = make(chan look, 1)
	b.work.Go(func() {
		state, err := b.observe(ctx)
		b.looked <- look{state, err}
	})
	return nil
}

// resolve finds the first endpoint that has an address.
func resolve(ctx context.Context, endpoints []string) (net.Addr, error) {
	var errs []error
	for _, e := range endpoints {
		host, port, err := net.SplitHostPort(e)
		if err == nil {
			var ips []net.IPAddr
			if ips, err = net.DefaultResolver.LookupIPAddr(ctx, host); err == nil && len(ips) > 0 {
				var n int
				if n, err = net.DefaultResolver.LookupPort(ctx, "udp", port); err == nil {
					return &net.UDPAddr{IP: ips[0].IP, Port: n, Zone: ips[0].Zone}, nil
				}
			}
		}
		errs = append(errs, fmt.Errorf("endpoint %s: %w", e, err))
	}
	return nil, errors.Join(errs...)
}

const (
	redialMin = 200 * time.Millisecond
	redialMax = 30 * time.Second
	// steady is how long a session has to last for the next to be dialled at once.
	steady = 5 * time.Second
)

// run keeps a session up, and the proxies on it, until the purchase is over.
func (b *Buyer) run(ctx context.Context) (Result, error) {
	g, gctx := errgroup.WithContext(ctx)
	pctx, stopProxies := context.WithCancel(gctx)
	defer stopProxies()
	pc := b.cfg.Proxy
	pc.Tunnel, pc.Logger = b, b.log
	if b.cfg.SOCKS != nil {
		g.Go(func() error { return proxy.ServeSOCKS5(pctx, b.cfg.SOCKS, pc) })
	}
	if b.cfg.HTTP != nil {
		g.Go(func() error { return proxy.ServeHTTP(pctx, b.cfg.HTTP, pc) })
	}
	if b.cfg.Serve != nil {
		g.Go(func() error { return b.cfg.Serve(pctx, b) })
	}
	g.Go(func() error { return b.lookAtExit(pctx) })
	var result Result
	g.Go(func() error {
		defer stopProxies()
		err := b.sessions(gctx, stopProxies)
		result = b.result()
		return err
	})
	err := g.Wait()
	if ctx.Err() != nil && !errors.Is(err, ErrBudget) && errors.Is(err, context.Canceled) {
		err = nil
	}
	b.report(b.status.get())
	return result, err
}

// sessions runs one session after the other. It returns nil when ctx was
// cancelled and the purchase was ended in order.
func (b *Buyer) sessions(ctx context.Context, stopProxies func()) error {
	defer b.leave(net.ErrClosed)
	defer b.unbegin()
	ctx, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		b.endDeposit()
	}()
	retry := redialMin
	for {
		began := time.Now()
		err := b.session(ctx, stopProxies)
		if lost, ok := errors.AsType[*lostError](err); ok {
			return errors.Join(lost.why, b.endAgain(ctx, lost.err))
		}
		var over *overError
		switch {
		case errors.As(err, &over):
			return over.err
		case ctx.Err() != nil:
			return b.lastSession(ctx, err)
		case errors.Is(err, errUpgrade):
			b.log.Info("QUIC gets through again; going back to it")
			continue
		case errors.Is(err, errUnanswered):
			b.log.Info("the agent does not answer where it was; looking for it")
			continue
		}
		if n, ok := errors.AsType[agent.Notice](err); ok {
			if err := b.answer(ctx, n); err != nil {
				return err
			}
		}
		if time.Since(began) > steady {
			retry = redialMin
		}
		b.log.Warn("the tunnel is down; trying again", "err", err, "after", retry)
		b.status.set(func(s *Status) { s.State, s.Error = "reconnecting", err.Error() })
		b.report(b.status.get())
		select {
		case <-ctx.Done():
			return b.lastSession(ctx, err)
		case l := <-b.looked:
			if err := b.heard(l); err != nil {
				return err
			}
		case <-time.After(retry + rand.N(retry/2)):
		}
		retry = min(2*retry, redialMax)
	}
}

// answer acts on the notice that ended a session. It returns an error when
// there is no sense in trying again.
func (b *Buyer) answer(ctx context.Context, n agent.Notice) error {
	switch n.Code {
	case agent.NoticePrice:
		if n.Price == nil || n.Price.Max() > b.cfg.MaxPrice && !b.cfg.CloseOnly { // which buys nothing
			if n.Price != nil {
				return priceError(*n.Price, b.cfg.MaxPrice)
			}
			return n
		}
		if sum := n.Price.Max() + b.reach.fares.price(); sum > b.cfg.MaxPrice && !b.cfg.CloseOnly && len(b.reach.endpoints()) == 0 {
			return fmt.Errorf("%w: the agent asks %s USD per GB by now, with its relay %s", ErrPrice, n.Price.Max().USD(), sum.USD())
		}
		b.reach.fares.asked.Store(uint64(n.Price.Max()))
		b.log.Info("the agent's price has changed", "price_up", n.Price.Up, "price_down", n.Price.Down)
		b.price = *n.Price
	case agent.NoticeDeposit:
		if b.cfg.CloseOnly {
			return n // there is nothing to refund, and nothing is bought
		}
		if state, _ := b.payer.Get(b.id); state.Balance >= b.most {
			return fmt.Errorf("%w: what is owed from before needs it all: %w", ErrBudget, n)
		}
		return b.ensureDeposit(ctx)
	case agent.NoticeRefused:
		if b.looked != nil { // the ledger may say it in other words: what to do about it
			select {
			case l := <-b.looked:
				return errors.Join(b.heard(l), n)
			case <-time.After(lookTime):
			case <-ctx.Done():
			}
		}
		return n
	}
	return nil
}

// lookTime is how long the ledger is waited for when the agent has refused.
const lookTime = 5 * time.Second

// An overError ends the purchase: nil when it was ended in order.
type overError struct{ err error }

func (e *overError) Error() string {
	if e.err == nil {
		return "finished"
	}
	return e.err.Error()
}
