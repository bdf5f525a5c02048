package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Flow is the buyer's end of a TCP flow: a net.Conn with CloseWrite.
//
//	application → Write → stream                      counted as sent
//	stream → pump → queue → Read or WriteTo           counted as received by pump
//
// The pump reads whatever the agent sends, also for an application that does
// not read: what came out of the tunnel is counted and paid for, and a paused
// download holds neither the windows nor the credit that others need. When the
// queue grows the agent is asked to pause the flow, and to resume when it is
// down to half. When the application closes, the pump reads on, to the end of
// what the agent had sent, so that both sides count the same.
type Flow struct {
	client *Client
	req    Request
	remote flowAddr
	queue  *queue

	answered chan struct{} // closed when refused is set
	refused  error         // why there is no flow; read after answered

	wrote  atomic.Bool // the sending side has ended
	closed atomic.Bool
	write  deadline
}

const (
	// flowBuffer is how much a flow holds for its application before the
	// agent is asked to pause it: 80 ms at 100 Mbit/s.
	flowBuffer = 1 << 20
	// clientBuffer bounds what all flows of a client hold; single flows get
	// less as it fills, down to minFlowBuffer.
	clientBuffer  = 64 << 20
	minFlowBuffer = 64 << 10
	// hardBuffer ends the reading of a flow whose agent ignores the pause.
	hardBuffer = 8 << 20
	// lingerRead is how long a closed flow is read for the agent's end of it.
	lingerRead = 30 * time.Second
)

func newFlow(c *Client, req Request, target string) *Flow {
	return &Flow{
		client: c, req: req, remote: flowAddr{"tcp", target},
		queue: newQueue(&c.store), answered: make(chan struct{}),
	}
}

// Established waits for the agent's answer. It returns a *RefusedError when
// the agent refused the flow.
func (f *Flow) Established(ctx context.Context) error {
	select {
	case <-f.answered:
		return f.refused
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pump owns the reading side of the stream, from the answer to the last byte.
func (f *Flow) pump() {
	defer f.client.flows.Add(-1)
	status, fields, err := f.req.Answer()
	if err == nil && status/100 != 2 {
		err = refusal(status, fields)
	}
	f.refused = err
	close(f.answered)
	if err != nil {
		f.req.Abort(codeCanceled)
		f.req.Stop(codeCanceled)
		f.queue.fail(err)
		return
	}
	err = f.receive()
	f.queue.fail(err)
	if !errors.Is(err, io.EOF) {
		f.req.Abort(codeCanceled)
		f.req.Stop(codeCanceled)
	}
}

func (f *Flow) receive() error {
	lane := f.client.lanes.DownTCP
	ctx := f.client.conn.Context()
	size := minBuffer
	paused := false
	for {
		buf := f.client.store.get(size)
		n, err := f.req.Read(buf)
		if n > 0 {
			if rerr := lane.Reserve(ctx, n); rerr != nil {
				return rerr
			}
			lane.Deliver(n, n)
			held := f.queue.push(buf[:n])
			if n == size && size < maxBuffer {
				size *= 2
			}
			if !paused && held > f.share() {
				if err := f.client.control.sendSteering(capsulePause, f.req.ID()); err != nil {
					return err
				}
				paused = true
				f.queue.whenHalf(func() { // called once, by the reader of the queue
					_ = f.client.control.sendSteering(capsuleResume, f.req.ID()) // a lost connection ends the flow anyway
				})
			} else if paused {
				paused = f.queue.waitsForHalf()
			}
			if held > hardBuffer {
				if err := f.queue.waitBelow(ctx, hardBuffer); err != nil {
					return err
				}
			}
		} else {
			f.client.store.put(buf)
		}
		if err != nil {
			return err
		}
	}
}

// share is how much this flow may hold now: a part of what is free, so that a
// thousand paused downloads fit as well as one.
func (f *Flow) share() int {
	free := clientBuffer - int(f.client.store.held.Load())
	return min(max(free/4, minFlowBuffer), flowBuffer)
}

// Read reads what the pump received.
func (f *Flow) Read(b []byte) (int, error) {
	n, err := f.queue.read(b)
	return n, f.explain(err)
}

// WriteTo writes all that is received to w, without another copy.
func (f *Flow) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		b, err := f.queue.pop()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, f.explain(err)
		}
		n, err := w.Write(b)
		total += int64(n)
		f.client.store.put(b)
		if err != nil {
			return total, err
		}
	}
}

func (f *Flow) explain(err error) error {
	if err == nil || err == io.EOF || !f.closed.Load() {
		return err
	}
	return net.ErrClosed
}

// Write sends b to the target. It may be called before the agent has answered.
func (f *Flow) Write(b []byte) (int, error) {
	if f.closed.Load() || f.wrote.Load() {
		return 0, net.ErrClosed
	}
	lane := f.client.lanes.UpTCP
	if err := lane.Reserve(f.client.conn.Context(), len(b)); err != nil {
		return 0, err
	}
	n, err := f.req.Write(b)
	lane.Deliver(len(b), n)
	if err != nil && f.isRefused() {
		err = f.refused
	}
	return n, err
}

func (f *Flow) isRefused() bool {
	select {
	case <-f.answered:
		return f.refused != nil
	default:
		return false
	}
}

// CloseWrite ends the sending direction in order.
func (f *Flow) CloseWrite() error {
	if f.wrote.Swap(true) {
		return nil
	}
	return f.req.Close()
}

// Close ends the flow. Data that was written still arrives if CloseWrite was
// called before; otherwise the target is reset.
func (f *Flow) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	f.write.stop()
	if f.queue.discard() && f.wrote.Load() {
		return nil // both directions had ended
	}
	if !f.wrote.Swap(true) {
		f.req.Abort(codeCanceled)
	}
	// Tell the agent also when the sending side had ended before.
	err := f.client.control.sendSteering(capsuleCancel, f.req.ID())
	f.write.set(time.Now().Add(lingerRead), func() { f.req.Stop(codeCanceled) })
	return err
}

// SetDeadline implements net.Conn.
func (f *Flow) SetDeadline(t time.Time) error {
	return errors.Join(f.SetReadDeadline(t), f.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (f *Flow) SetReadDeadline(t time.Time) error {
	f.queue.setDeadline(t)
	return nil
}

// SetWriteDeadline aborts the sending direction at t, since what a stuck write
// had sent could not be told; the zero time cancels it.
func (f *Flow) SetWriteDeadline(t time.Time) error {
	if !f.closed.Load() {
		f.write.set(t, func() { f.req.Abort(codeCanceled) })
	}
	return nil
}

// LocalAddr and RemoteAddr name the flow's ends: the agent's address for the
// flow is not known here.
func (f *Flow) LocalAddr() net.Addr  { return flowAddr{f.remote.network, "tunnel"} }
func (f *Flow) RemoteAddr() net.Addr { return f.remote }

type flowAddr struct{ network, address string }

func (a flowAddr) Network() string { return a.network }
func (a flowAddr) String() string  { return a.address }

// A deadline runs a function at a time. The zero value has none.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
}

func (d *deadline) set(t time.Time, f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), f)
	}
}

func (d *deadline) stop() { d.set(time.Time{}, nil) }
