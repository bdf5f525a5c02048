package buyer

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/proxy"
)

const (
	// dialWait is how long a local connection waits for the tunnel to come back.
	dialWait = 15 * time.Second
	// brokenWait is how long a connection on which no flow can be opened may
	// take to say that it has ended.
	brokenWait = time.Second
)

// DialTCP opens a flow, as soon as there is a tunnel.
func (b *Buyer) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return b.Counted(tunnel.Lanes{}).DialTCP(ctx, host, port)
}

// DialUDP opens a UDP flow, likewise.
func (b *Buyer) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return b.Counted(tunnel.Lanes{}).DialUDP(ctx, host, port)
}

// Counted is the tunnel for flows that are counted in lanes of their own besides
// the purchase's, such as those of somebody whom it is resold to.
func (b *Buyer) Counted(own tunnel.Lanes) proxy.Tunnel { return counted{b, own} }

type counted struct {
	b   *Buyer
	own tunnel.Lanes
}

func (c counted) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return c.b.flow(ctx, func(t *tunnel.Client) (net.Conn, error) { return t.DialTCPIn(ctx, host, port, c.own) })
}

func (c counted) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return c.b.flow(ctx, func(t *tunnel.Client) (net.Conn, error) { return t.DialUDPIn(ctx, host, port, c.own) })
}

// Price is what the agent bills for flows that are opened now, as far as it has
// said so: at most what the purchase was begun at, unless MaxPrice allows more.
func (b *Buyer) Price() agent.Price {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asks
}

// billed notes at what price a session is billed.
func (b *Buyer) billed(p agent.Price) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asks = p
}

// flow opens a flow, on another line if the first turns out to be broken.
func (b *Buyer) flow(ctx context.Context, dial func(*tunnel.Client) (net.Conn, error)) (net.Conn, error) {
	for {
		l, err := b.current(ctx)
		if err != nil {
			return nil, err
		}
		f, err := dial(l.client)
		if err == nil {
			return f, nil
		}
		if !l.broken(ctx) {
			return nil, err
		}
		b.drop(l)
	}
}

// A line is a connection to the agent for as long as it lasts.
type line struct {
	client *tunnel.Client
	ctx    context.Context // the connection's
}

// broken reports, to one who could not open a flow, whether the connection has
// ended. A moment may pass before it says so.
func (l *line) broken(ctx context.Context) bool {
	timer := time.NewTimer(brokenWait)
	defer timer.Stop()
	select {
	case <-l.ctx.Done():
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

func (b *Buyer) current(ctx context.Context) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	for {
		b.mu.Lock()
		l, ready, gone := b.line, b.ready, b.gone
		b.mu.Unlock()
		switch {
		case gone != nil:
			return nil, gone
		case l != nil:
			return l, nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, fmt.Errorf("no tunnel to the agent: %w", context.Cause(ctx))
		}
	}
}

// enter publishes the session's line, leave takes it back; a leave with an
// error is the last.
func (b *Buyer) enter(l *line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.line = l
	close(b.ready)
}

// drop takes a broken line back before its session does.
func (b *Buyer) drop(l *line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line == l {
		b.line = nil
		b.ready = make(chan struct{})
	}
}

func (b *Buyer) leave(gone error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone != nil {
		return
	}
	if b.line != nil {
		b.line = nil
		b.ready = make(chan struct{})
	}
	if gone != nil {
		b.gone = gone
		close(b.ready)
	}
}
