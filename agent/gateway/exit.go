package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/proxy"
)

const (
	// openTime is how long a new exit may take until a connection tries another:
	// it may have to make a deposit first.
	openTime = 8 * time.Second
	// answerTime is how long a target may take to answer by an exit before it is
	// asked by another too. An exit whose agent has vanished shows only so, until
	// its connection is given up.
	answerTime = 3 * time.Second
	// exitBudget is what one purchase signs for at most; the next begins anew.
	exitBudget channel.Amount = 100_000_000
)

// An exit is an agent that is bought from: one purchase, which all sessions
// that leave by it share.
type exit struct {
	found buyer.Found
	price agent.Price // the most that customers pay, with the fee
	cost  agent.Price // what the agent asks, by its offer
	fee   uint64      // percent

	ready chan struct{} // closed when buyer is set
	buyer *buyer.Buyer
	done  chan struct{} // closed when the purchase is over; err says why
	err   error
	stop  context.CancelFunc
	flows atomic.Int64
	used  atomic.Int64 // Unix nanoseconds: when the last flow began or ended

	closing bool // no new flows; guarded by exits.mu
}

// serve is buyer.Config.Serve.
func (e *exit) serve(ctx context.Context, b *buyer.Buyer) error {
	e.buyer = b
	close(e.ready)
	<-ctx.Done()
	return nil
}

// asks is what customers pay for flows that are opened now: the agent's price of
// its session, which may be below what its offer said, and the fee.
func (e *exit) asks() agent.Price {
	p := e.buyer.Price().Raised(100 + e.fee)
	return agent.Price{Up: min(p.Up, e.price.Max()), Down: min(p.Down, e.price.Max())}
}

// An exitError says that it was the exit that failed, not the target.
type exitError struct{ error }

func (e exitError) Unwrap() error { return e.error }

// await waits until flows can be opened.
func (e *exit) await(ctx context.Context) error {
	select {
	case <-e.ready:
		return nil
	default:
	}
	timer := time.NewTimer(openTime)
	defer timer.Stop()
	select {
	case <-e.ready:
		return nil
	case <-e.done:
		if errors.Is(e.err, buyer.ErrPoor) { // it is our fault
			return e.err
		}
		return exitError{e.err}
	case <-timer.C:
		return exitError{fmt.Errorf("the exit was not open after %v", openTime)}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A dialer opens a flow of one kind by a tunnel.
type dialer func(ctx context.Context, t proxy.Tunnel) (net.Conn, error)

// dial opens a flow that is counted for a, and waits for the target's answer,
// for patience at most. The flow lasts no longer than ctx.
func (e *exit) dial(ctx context.Context, a *account, open dialer, patience time.Duration) (*flow, error) {
	e.flows.Add(1)
	e.used.Store(time.Now().UnixNano())
	left := func() {
		e.used.Store(time.Now().UnixNano())
		e.flows.Add(-1)
	}
	if err := e.await(ctx); err != nil {
		left()
		return nil, err
	}
	fctx, cancel := context.WithCancelCause(ctx)
	f := &flow{end: sync.OnceFunc(func() { cancel(nil); left() })}
	late := time.AfterFunc(patience, func() { cancel(exitError{context.DeadlineExceeded}) })
	conn, err := open(fctx, e.buyer.Counted(a.lanes(e.asks())))
	if err == nil {
		f.Conn = conn
		if w, ok := conn.(interface{ Established(context.Context) error }); ok {
			err = w.Established(fctx)
		}
	}
	if late.Stop() && err == nil {
		return f, nil
	}
	if cause := context.Cause(fctx); cause != nil {
		err = cause
	}
	if f.Conn != nil {
		_ = f.Conn.Close() // it has failed
	}
	f.end()
	return nil, blame(err)
}

// blame says whether an error is the exit's: then another may do better.
func blame(err error) error {
	if _, ok := errors.AsType[exitError](err); ok || errors.Is(err, errSpent) || errors.Is(err, errEnded) {
		return err
	}
	if r, ok := errors.AsType[*tunnel.RefusedError](err); ok && r.Kind != "connection_limit_reached" && r.Kind != "proxy_internal_error" && r.Status != 402 {
		return err // it is the target's, or the owner's of the exit, as others' would be
	}
	return exitError{err}
}

// A flow is a connection of a customer's that leaves by an exit.
type flow struct {
	net.Conn
	end func() // once; more calls do nothing
}

func (f *flow) Close() error {
	defer f.end()
	return f.Conn.Close()
}

// CloseWrite is for half-close; package proxy asks for it.
func (f *flow) CloseWrite() error {
	if half, ok := f.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return f.Close()
}
