package tunnel

import (
	"bytes"
	"context"
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
	lanes   Lanes
	req     Request
	remote  flowAddr
	packets *packets
	queue   *queue
	ctx     context.Context // its cause says why the flow ended
	end     context.CancelCauseFunc
	closed  atomic.Bool

	answered chan struct{} // closed when refused is set
	refused  error         // read after answered
	early    atomic.Int32  // packets written before
}

const (
	// packetQueue is how many packets wait for the application: 20 ms at
	// 20,000 packets a second.
	packetQueue = 400
	// maxPayload is the largest UDP payload, RFC 768.
	maxPayload = 65535 - 8
	// earlyPackets is how many packets that are written before the answer
	// travel in the stream, where they wait for the agent to reach the target:
	// a datagram that overtakes its request is dropped.
	earlyPackets = 16
)

func newPacketFlow(c *Client, req Request, target string) *PacketFlow {
	f := &PacketFlow{
		client: c, req: req, remote: flowAddr{"udp", target}, packets: newPackets(req),
		queue: newQueue(&c.store, nil), answered: make(chan struct{}),
	}
	f.ctx, f.end = context.WithCancelCause(c.conn.Context())
	return f
}

// Established waits for the agent's answer, like [Flow.Established].
func (f *PacketFlow) Established(ctx context.Context) error {
	return established(ctx, f.ctx, f.answered, &f.refused)
}

// pump owns the receiving side until the flow ends.
func (f *PacketFlow) pump() {
	defer f.client.running.done()
	var wg sync.WaitGroup
	wg.Go(func() { // datagrams may overtake the answer
		err := f.packets.receiveDatagrams(f.ctx, f.receive)
		f.end(err)
		f.req.Stop(codeCanceled) // which ends the rest of pump
	})
	status, fields, err := f.req.Answer()
	if err == nil && status/100 != 2 {
		err = refusal(status, fields)
	}
	f.refused = err
	close(f.answered)
	if err == nil {
		err = f.packets.receiveCapsules(func(payload []byte) error { return f.receive(bytes.Clone(payload)) })
	}
	f.end(err)
	wg.Wait()
	f.queue.fail(context.Cause(f.ctx))
	f.packets.close()
	f.req.Stop(codeCanceled)
}

// receive takes one packet, which it owns from now on.
func (f *PacketFlow) receive(payload []byte) error {
	n := len(payload) + PacketOverhead
	lane := f.lanes.DownUDP
	if err := lane.Reserve(f.ctx, n); err != nil {
		return err
	}
	if f.queue.pushPacket(payload, packetQueue) {
		lane.Deliver(n, n)
	} else {
		lane.Deliver(n, 0)
	}
	return nil
}

// Read returns the next packet; what does not fit into b is lost, as with a
// UDP socket.
func (f *PacketFlow) Read(b []byte) (int, error) {
	c, err := f.queue.pop()
	switch {
	case err == nil:
		n := copy(b, c.buf[:c.to])
		f.client.store.put(c)
		return n, nil
	case f.closed.Load():
		return 0, net.ErrClosed
	default:
		return 0, err
	}
}

// Write sends one packet.
func (f *PacketFlow) Write(b []byte) (int, error) {
	if len(b) > maxPayload {
		return 0, ErrTooLarge
	}
	n := len(b) + PacketOverhead
	lane := f.lanes.UpUDP
	if err := lane.Reserve(f.ctx, n); err != nil {
		return 0, err
	}
	if f.ctx.Err() != nil {
		lane.Deliver(n, 0)
		return 0, context.Cause(f.ctx)
	}
	send := f.packets.send
	if f.isEarly() {
		send = f.packets.sendCapsule
	}
	if err := send(b); err != nil {
		lane.Deliver(n, 0)
		if f.ctx.Err() != nil {
			err = context.Cause(f.ctx)
		}
		return 0, err
	}
	lane.Deliver(n, n)
	return len(b), nil
}

func (f *PacketFlow) isEarly() bool {
	select {
	case <-f.answered:
		return false
	default:
		return f.early.Add(1) <= earlyPackets
	}
}

// Close ends the flow.
func (f *PacketFlow) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	f.end(net.ErrClosed)
	f.queue.discard()
	f.packets.close()
	f.req.Stop(codeCanceled)
	return nil
}

// SetDeadline sets the read deadline: writes do not wait.
func (f *PacketFlow) SetDeadline(t time.Time) error { return f.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes do not wait for the target.
func (f *PacketFlow) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (f *PacketFlow) SetReadDeadline(t time.Time) error {
	f.queue.setDeadline(t)
	return nil
}

// LocalAddr and RemoteAddr name the flow's ends.
func (f *PacketFlow) LocalAddr() net.Addr  { return flowAddr{f.remote.network, "tunnel"} }
func (f *PacketFlow) RemoteAddr() net.Addr { return f.remote }
