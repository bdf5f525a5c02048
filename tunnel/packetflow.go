package tunnel

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A PacketFlow is the buyer's end of a UDP flow: a net.Conn on which one Read
// or Write is one packet. A packet that the application does not fetch in time
// is dropped and not counted.
type PacketFlow struct {
	client  *Client
	req     Request
	remote  flowAddr
	packets *packets
	in      chan []byte // received payloads; full: dropped
	ctx     context.Context
	end     context.CancelCauseFunc
	closed  atomic.Bool

	answered chan struct{}
	refused  error // read after answered

	mu      sync.Mutex
	expires time.Time // read deadline; zero: none
	changed chan struct{}
}

// packetQueue is how many packets wait for the application: 20 ms at 20,000
// packets a second.
const packetQueue = 400

func newPacketFlow(c *Client, req Request, target string) *PacketFlow {
	f := &PacketFlow{
		client: c, req: req, remote: flowAddr{"udp", target}, packets: newPackets(req),
		in: make(chan []byte, packetQueue), answered: make(chan struct{}), changed: make(chan struct{}),
	}
	f.ctx, f.end = context.WithCancelCause(c.conn.Context())
	return f
}

// Established waits for the agent's answer, like [Flow.Established].
func (f *PacketFlow) Established(ctx context.Context) error {
	select {
	case <-f.answered:
		return f.refused
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pump owns the receiving side until the flow ends.
func (f *PacketFlow) pump() {
	defer f.client.flows.Add(-1)
	var wg sync.WaitGroup
	wg.Go(func() { // datagrams may overtake the answer
		err := f.packets.receiveDatagrams(f.ctx, f.receive)
		f.end(err)
	})
	status, fields, err := f.req.Answer()
	if err == nil && status/100 != 2 {
		err = refusal(status, fields)
	}
	f.refused = err
	close(f.answered)
	if err == nil {
		err = f.packets.receiveCapsules(f.receive)
	}
	f.end(err)
	f.req.Abort(codeCanceled)
	f.req.Stop(codeCanceled)
	wg.Wait()
}

func (f *PacketFlow) receive(payload []byte) error {
	b := append([]byte(nil), payload...)
	select {
	case f.in <- b:
		n := len(b) + PacketOverhead
		if err := f.client.lanes.DownUDP.Reserve(f.ctx, n); err != nil {
			return err
		}
		f.client.lanes.DownUDP.Deliver(n, n)
	default:
	}
	return nil
}

// Read returns the next packet; what does not fit into b is lost, as with a
// UDP socket.
func (f *PacketFlow) Read(b []byte) (int, error) {
	for {
		f.mu.Lock()
		expires, changed := f.expires, f.changed
		f.mu.Unlock()
		ctx, cancel := f.ctx, context.CancelFunc(func() {})
		if !expires.IsZero() {
			ctx, cancel = context.WithDeadline(f.ctx, expires)
		}
		select {
		case p := <-f.in:
			cancel()
			return copy(b, p), nil
		case <-changed:
			cancel()
		case <-ctx.Done():
			cancel()
			return f.ended(b, ctx)
		}
	}
}

func (f *PacketFlow) ended(b []byte, ctx context.Context) (int, error) {
	select {
	case p := <-f.in: // received before the end
		return copy(b, p), nil
	default:
	}
	err := context.Cause(ctx)
	switch {
	case f.closed.Load():
		err = net.ErrClosed
	case f.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		err = errTimeout{}
	}
	return 0, err
}

// errTimeout is a net.Error, as net.Conn asks of a passed deadline.
type errTimeout struct{}

func (errTimeout) Error() string   { return "i/o timeout" }
func (errTimeout) Timeout() bool   { return true }
func (errTimeout) Temporary() bool { return true }
func (errTimeout) Unwrap() error   { return context.DeadlineExceeded }

// Write sends one packet.
func (f *PacketFlow) Write(b []byte) (int, error) {
	if f.closed.Load() {
		return 0, net.ErrClosed
	}
	n := len(b) + PacketOverhead
	lane := f.client.lanes.UpUDP
	if err := lane.Reserve(f.ctx, n); err != nil {
		return 0, err
	}
	if err := f.packets.send(b); err != nil {
		lane.Deliver(n, 0)
		return 0, err
	}
	lane.Deliver(n, n)
	return len(b), nil
}

// Close ends the flow.
func (f *PacketFlow) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	f.end(net.ErrClosed)
	f.req.Abort(codeCanceled)
	f.req.Stop(codeCanceled)
	return nil
}

// SetDeadline sets the read deadline: writes do not wait.
func (f *PacketFlow) SetDeadline(t time.Time) error { return f.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes do not wait for the target.
func (f *PacketFlow) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (f *PacketFlow) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expires = t
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// LocalAddr and RemoteAddr name the flow's ends.
func (f *PacketFlow) LocalAddr() net.Addr  { return flowAddr{f.remote.network, "tunnel"} }
func (f *PacketFlow) RemoteAddr() net.Addr { return f.remote }
