package tunnel

import (
	"context"
	"net"
	"strconv"
	"sync"
)

// A Client is the buyer's side of a connection to an agent. It is safe for
// concurrent use.
type Client struct {
	conn  ClientConn
	lanes Lanes

	orders orders
	store  store

	goroutines sync.WaitGroup // pumps, and the one that sends orders
	running    running        // flows, until their last byte was read
	ordering   running        // the one that sends orders
}

// OpenControl opens the control stream on conn. known says which capsule
// types the caller wants.
func OpenControl(ctx context.Context, conn ClientConn, authority string, known func(typ uint64) bool) (*Control, error) {
	req, err := conn.Open(ctx, Header{
		Method: MethodConnect, Protocol: protocolControl, Authority: authority, Path: ControlPath,
		Fields: Fields{"capsule-protocol": {"?1"}},
	})
	if err != nil {
		return nil, err
	}
	return newControl(&answered{Request: req}, nil, known), nil
}

// answered is a request that reads its answer before the first byte.
type answered struct {
	Request
	once sync.Once
	err  error
}

func (a *answered) Read(b []byte) (int, error) {
	a.once.Do(func() {
		status, fields, err := a.Answer()
		switch {
		case err != nil:
			a.err = err
		case status/100 != 2:
			a.err = refusal(status, fields)
		}
	})
	if a.err != nil {
		return 0, a.err
	}
	return a.Request.Read(b)
}

// NewClient returns a client that counts in lanes. control is from
// [OpenControl] on the same connection.
func NewClient(conn ClientConn, control *Control, lanes Lanes) *Client {
	c := &Client{conn: conn, lanes: lanes, store: store{most: readBuffers}}
	c.orders.send = control.sendSteering
	c.orders.start = func(run func()) {
		c.ordering.add()
		c.goroutines.Go(func() {
			defer c.ordering.done()
			run()
		})
	}
	return c
}

// DialTCP opens a TCP flow. It returns before the agent has answered; see
// [Flow.Established].
func (c *Client) DialTCP(ctx context.Context, host string, port uint16) (*Flow, error) {
	return c.DialTCPIn(ctx, host, port, Lanes{})
}

// DialTCPIn opens one that is counted in lanes of its own, besides the client's.
// Lanes that are nil count nothing. An error of theirs ends the flow.
func (c *Client) DialTCPIn(ctx context.Context, host string, port uint16, own Lanes) (*Flow, error) {
	authority := net.JoinHostPort(host, strconv.Itoa(int(port)))
	if _, _, err := parseAuthority(authority); err != nil {
		return nil, err
	}
	req, err := c.conn.Open(ctx, Header{Method: MethodConnect, Authority: authority})
	if err != nil {
		return nil, err
	}
	f := newFlow(c, req, authority)
	f.lanes = c.lanes.and(own)
	c.running.add()
	c.goroutines.Go(f.pump)
	return f, nil
}

// DialUDP opens a UDP flow, likewise without waiting.
func (c *Client) DialUDP(ctx context.Context, host string, port uint16) (*PacketFlow, error) {
	return c.DialUDPIn(ctx, host, port, Lanes{})
}

// DialUDPIn is to DialUDP what DialTCPIn is to DialTCP.
func (c *Client) DialUDPIn(ctx context.Context, host string, port uint16, own Lanes) (*PacketFlow, error) {
	if _, _, err := checkTarget(host, strconv.Itoa(int(port))); err != nil {
		return nil, err
	}
	authority := net.JoinHostPort(host, strconv.Itoa(int(port)))
	req, err := c.conn.Open(ctx, Header{
		Method: MethodConnect, Protocol: protocolUDP, Authority: "x402.invalid", Path: udpTarget(host, port),
		Fields: Fields{"capsule-protocol": {"?1"}},
	})
	if err != nil {
		return nil, err
	}
	f := newPacketFlow(c, req, authority)
	f.lanes = c.lanes.and(own)
	c.running.add()
	c.goroutines.Go(f.pump)
	return f, nil
}

// and are lanes in which l counts and own does too, if it is there.
func (l Lanes) and(own Lanes) Lanes {
	join := func(a, b Lane) Lane {
		if b == nil {
			return a
		}
		return bothLanes{a, b}
	}
	return Lanes{join(l.UpTCP, own.UpTCP), join(l.DownTCP, own.DownTCP), join(l.UpUDP, own.UpUDP), join(l.DownUDP, own.DownUDP)}
}

// bothLanes count in two lanes. The own one may hold a flow back for its payer,
// and is asked first: what a session has reserved must not wait for that.
type bothLanes struct{ session, own Lane }

func (b bothLanes) Reserve(ctx context.Context, n int) error {
	if err := b.own.Reserve(ctx, n); err != nil {
		return err
	}
	err := b.session.Reserve(ctx, n)
	if err != nil {
		b.own.Deliver(n, 0)
	}
	return err
}

func (b bothLanes) Deliver(reserved, delivered int) {
	b.session.Deliver(reserved, delivered)
	b.own.Deliver(reserved, delivered)
}

// Flows returns how many flows have not yet been read to their end.
func (c *Client) Flows() int { return c.running.count() }

// Wait waits until every flow has been read to its end, so that nothing is
// counted any more, or until ctx ends. Flows must have been closed before.
func (c *Client) Wait(ctx context.Context) error {
	if err := c.running.wait(ctx); err != nil {
		return err
	}
	return c.ordering.wait(ctx)
}
