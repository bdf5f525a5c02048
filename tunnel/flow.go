package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
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
	lanes  Lanes
	req    Request
	remote flowAddr
	queue  *queue
	ctx    context.Context // of writing; its cause says why that ended
	end    context.CancelCauseFunc

	answered chan struct{} // closed when refused is set
	refused  error         // why there is no flow; read after answered

	wrote  atomic.Bool // the sending side has ended
	closed atomic.Bool
	write  deadline
	linger deadline // of a closed flow
}

const (
	// answerWait is how long a failed write waits for the agent's answer.
	answerWait = time.Second
	// flowBuffer is how much a flow holds for its application before the
	// agent is asked to pause it: 80 ms at 100 Mbit/s.
	flowBuffer = 1 << 20
	// clientBuffer bounds what all flows of a client hold; single flows get
	// less as it fills, down to minFlowBuffer.
	clientBuffer  = 64 << 20
	minFlowBuffer = 64 << 10
	// readBuffers bounds what flows that wait for the agent read into.
	readBuffers = 32 << 20
	// hardBuffer ends the reading of a flow whose agent ignores the pause. It
	// covers what is under way on a path of 1 Gbit/s and 60 ms. When all flows
	// hold twice clientBuffer, minFlowBuffer does.
	hardBuffer = 8 << 20
	// lingerRead and lingerBytes are how long and how far a closed flow is read
	// for the agent's end of it: what was under way when the agent learned that
	// the application has gone. An agent that sends more is stopped.
	lingerRead  = 30 * time.Second
	lingerBytes = hardBuffer
)

func newFlow(c *Client, req Request, target string) *Flow {
	f := &Flow{client: c, req: req, remote: flowAddr{"tcp", target}, answered: make(chan struct{})}
	f.ctx, f.end = context.WithCancelCause(c.conn.Context())
	f.queue = newQueue(&c.store, func(pause bool) {
		if pause {
			c.orders.give(capsulePause, req.ID())
		} else {
			c.orders.give(capsuleResume, req.ID())
		}
	})
	return f
}

// Established waits for the agent's answer. It returns a *RefusedError when
// the agent refused the flow.
func (f *Flow) Established(ctx context.Context) error {
	return established(ctx, f.ctx, f.answered, &f.refused)
}

// established waits for answered, which is closed after refused is set, for
// the end of the flow or of the caller.
func established(ctx, flow context.Context, answered <-chan struct{}, refused *error) error {
	select {
	case <-answered:
		return *refused
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-flow.Done():
	}
	select {
	case <-answered: // and that ended the flow
		return *refused
	default:
		return context.Cause(flow)
	}
}

// pump owns the reading side of the stream, from the answer to the last byte.
func (f *Flow) pump() {
	defer f.client.running.done()
	defer f.linger.stop()
	status, fields, err := f.req.Answer()
	if err == nil && status/100 != 2 {
		err = refusal(status, fields)
	}
	f.refused = err
	close(f.answered)
	if err == nil {
		err = f.receive()
	}
	if err != io.EOF {
		f.end(err) // before it is read, so that writes fail alike
	}
	f.queue.fail(err)
	if err != io.EOF {
		f.req.Abort(codeCanceled)
		f.req.Stop(codeCanceled)
	}
}

// receive reads to the end of the flow, which it returns.
func (f *Flow) receive() error {
	lane := f.lanes.DownTCP
	ctx := f.client.conn.Context()
	store := &f.client.store
	var fit fit
	unwanted := 0
	for {
		c := store.lend(fit.class)
		n, err := f.req.Read(c.buf)
		store.back(c)
		if n == 0 {
			store.put(c)
		} else {
			if rerr := lane.Reserve(ctx, n); rerr != nil {
				return rerr
			}
			lane.Deliver(n, n)
			fit.read(c.class, n, len(c.buf))
			c.to = n
			if f.closed.Load() {
				if unwanted += n; unwanted > lingerBytes {
					return net.ErrClosed
				}
			}
			held := f.queue.push(c, f.share())
			if most := f.most(); held > most {
				if err := f.queue.waitBelow(ctx, most); err != nil {
					return err
				}
			}
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

// most is where reading ends.
func (f *Flow) most() int {
	if f.client.store.held.Load() > 2*clientBuffer {
		return minFlowBuffer
	}
	return hardBuffer
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
		c, err := f.queue.pop()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, f.explain(err)
		}
		n, err := w.Write(c.buf[c.from:c.to])
		total += int64(n)
		f.client.store.put(c)
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
	if f.wrote.Load() {
		return 0, f.writeError(net.ErrClosed)
	}
	lane := f.lanes.UpTCP
	total := 0
	for len(b) > 0 {
		part := b[:min(len(b), maxBuffer)] // what a small credit can hold
		if err := lane.Reserve(f.ctx, len(part)); err != nil {
			return total, f.writeError(err)
		}
		n, err := f.req.Write(part)
		lane.Deliver(len(part), n)
		total += n
		if err != nil {
			f.awaitAnswer()
			return total, f.writeError(err)
		}
		b = b[n:]
	}
	return total, nil
}

// awaitAnswer gives a refusal the time to arrive: the agent stops the stream
// right behind it, and that may overtake it.
func (f *Flow) awaitAnswer() {
	timer := time.NewTimer(answerWait)
	defer timer.Stop()
	select {
	case <-f.answered:
	case <-f.ctx.Done():
	case <-timer.C:
	}
}

// writeError says why a write failed that found err.
func (f *Flow) writeError(err error) error {
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	select {
	case <-f.answered:
		if f.refused != nil { // the pump is about to end the flow for it
			return f.refused
		}
	default:
	}
	return err
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
	f.end(net.ErrClosed)
	if f.queue.discard() { // the agent's direction has ended
		if !f.wrote.Swap(true) {
			f.req.Abort(codeCanceled)
		}
		return nil
	}
	// The order also reaches an agent that cannot take the abort: the sending
	// side may have ended before, or be stuck in front of its target.
	if !f.wrote.Swap(true) {
		f.req.Abort(codeCanceled)
	}
	f.client.orders.give(capsuleCancel, f.req.ID())
	f.linger.set(time.Now().Add(lingerRead), func() { f.req.Stop(codeCanceled) })
	return nil
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
	f.write.set(t, func() {
		f.end(os.ErrDeadlineExceeded)
		if !f.wrote.Swap(true) {
			f.req.Abort(codeCanceled)
		}
	})
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
	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

func (d *deadline) set(t time.Time, f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !t.IsZero() && !d.stopped {
		d.timer = time.AfterFunc(time.Until(t), f)
	}
}

// stop takes the deadline away for good.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
