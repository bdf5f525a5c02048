package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A scriptedConn is a buyer's connection to an agent that answers each flow in
// the same way.
type scriptedConn struct {
	ctx    context.Context
	end    context.CancelCauseFunc
	script script
	opened uint64
}

// A script says what every request does.
type script struct {
	read func(b []byte) (int, error) // nil: nothing, until the stream is stopped
	full bool                        // writes wait until the stream is aborted
}

func newScriptedConn(t *testing.T, s script) *scriptedConn {
	c := &scriptedConn{script: s}
	c.ctx, c.end = context.WithCancelCause(t.Context())
	return c
}

func (c *scriptedConn) Open(context.Context, Header) (Request, error) {
	r := &scriptedRequest{script: c.script, id: c.opened, conn: c.ctx,
		aborted: make(chan struct{}), stopped: make(chan struct{})}
	c.opened += 4
	return r, nil
}
func (c *scriptedConn) ExportKey(string) ([32]byte, error) { return [32]byte{}, nil }
func (c *scriptedConn) Context() context.Context           { return c.ctx }
func (c *scriptedConn) Close(r Reason, text string) error {
	c.end(&CloseError{Reason: r, Text: text})
	return nil
}

// A scriptedRequest is answered with 200.
type scriptedRequest struct {
	script
	id   uint64
	conn context.Context

	mu               sync.Mutex
	aborted, stopped chan struct{}
	isAborted        bool
	isStopped        bool
	closed           bool
}

var errScript = errors.New("stream ended")

func (r *scriptedRequest) Answer() (int, Fields, error) { return 200, nil, nil }
func (r *scriptedRequest) ID() uint64                   { return r.id }

func (r *scriptedRequest) Read(b []byte) (int, error) {
	if r.read == nil {
		select {
		case <-r.stopped:
			return 0, errScript
		case <-r.conn.Done():
			return 0, context.Cause(r.conn)
		}
	}
	select {
	case <-r.stopped:
		return 0, errScript
	default:
		return r.read(b)
	}
}

func (r *scriptedRequest) Write(b []byte) (int, error) {
	if r.full {
		<-r.aborted
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isAborted || r.closed {
		return 0, errScript
	}
	return len(b), nil
}

func (r *scriptedRequest) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}

func (r *scriptedRequest) Abort(uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isAborted {
		r.isAborted = true
		close(r.aborted)
	}
}

func (r *scriptedRequest) Stop(uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isStopped {
		r.isStopped = true
		close(r.stopped)
	}
}

// A freeLane lets everything pass.
type freeLane struct {
	mu    sync.Mutex
	total int
}

func (l *freeLane) Reserve(context.Context, int) error { return nil }
func (l *freeLane) Deliver(_, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total += n
}

func newTestClient(conn ClientConn) *Client {
	return NewClient(conn, newControl(readStream{nil}, nil, known), Lanes{new(freeLane), new(freeLane), new(freeLane), new(freeLane)})
}

// TestAgentThatIgnoresPause holds what such an agent can make a buyer hold,
// also when it sends single bytes.
func TestAgentThatIgnoresPause(t *testing.T) {
	for name, piece := range map[string]int{"whole buffers": maxBuffer, "pieces": 1200} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := newScriptedConn(t, script{read: func(b []byte) (int, error) { return min(len(b), piece), nil }})
				c := newTestClient(conn)
				var flows []*Flow
				for range 64 {
					f, err := c.DialTCP(t.Context(), "host.test", 80)
					if err != nil {
						t.Fatal(err)
					}
					flows = append(flows, f)
				}
				synctest.Wait()
				if held := c.store.held.Load(); held > 2*clientBuffer+64*(minFlowBuffer+maxBuffer)+hardBuffer {
					t.Errorf("%d MiB are held", held>>20)
				}
				if n, err := io.CopyN(io.Discard, flows[0], 32<<20); n != 32<<20 || err != nil { // it goes on when it is read
					t.Errorf("%d %v", n, err)
				}
				for _, f := range flows { // and is stopped when it is closed
					f.Close()
				}
				if err := c.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				if held := c.store.held.Load(); held != 0 {
					t.Errorf("%d bytes are held after the end", held)
				}
				conn.Close(ReasonDone, "")
			})
		})
	}
}

// TestWriteDeadline ends a write that is stuck, and later ones.
func TestWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newScriptedConn(t, script{full: true})
		c := newTestClient(conn)
		f, err := c.DialTCP(t.Context(), "host.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		f.SetWriteDeadline(start.Add(time.Minute))
		f.SetWriteDeadline(start.Add(time.Second))
		for range 2 {
			if _, err := f.Write(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("write: %v", err)
			}
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("after %v", took)
		}
		if err, ok := errors.AsType[net.Error](os.ErrDeadlineExceeded); !ok || !err.Timeout() {
			t.Error("not a time-out")
		}
		f.Close()
		if _, err := f.Write([]byte("x")); err == nil {
			t.Error("written after Close")
		}
		f.SetDeadline(time.Now().Add(time.Hour)) // which leaves no timer on a closed flow
		if err := c.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestCloseUnblocks reads and writes that wait.
func TestCloseUnblocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newScriptedConn(t, script{full: true})
		c := newTestClient(conn)
		f, err := c.DialTCP(t.Context(), "host.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		u, err := c.DialUDP(t.Context(), "host.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, conn := range []net.Conn{f, u} {
			wg.Go(func() {
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("read: %v", err)
				}
			})
			wg.Go(func() {
				if _, err := conn.Write(make([]byte, 1<<15)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("write: %v", err)
				}
			})
		}
		synctest.Wait()
		for _, conn := range []net.Conn{f, u} {
			for range 2 {
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		wg.Wait()
		if err := c.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if got := conn.opened; got != 8 {
			t.Errorf("%d", got)
		}
	})
}

func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newScriptedConn(t, script{})
		c := newTestClient(conn)
		for _, host := range []string{"", "a b", "fe80::1%eth0"} {
			if _, err := c.DialTCP(t.Context(), host, 80); err == nil {
				t.Errorf("dialled TCP %q", host)
			}
			if _, err := c.DialUDP(t.Context(), host, 80); err == nil {
				t.Errorf("dialled UDP %q", host)
			}
		}
		f, err := c.DialTCP(t.Context(), "2001:db8::1", 80)
		if err != nil {
			t.Fatal(err)
		}
		u, err := c.DialUDP(t.Context(), "host.test", 53)
		if err != nil {
			t.Fatal(err)
		}
		for got, want := range map[net.Addr]string{f.RemoteAddr(): "tcp [2001:db8::1]:80", f.LocalAddr(): "tcp tunnel",
			u.RemoteAddr(): "udp host.test:53", u.LocalAddr(): "udp tunnel"} {
			if s := got.Network() + " " + got.String(); s != want {
				t.Errorf("%q, want %q", s, want)
			}
		}
		if _, err := u.Write(make([]byte, maxPayload+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a packet that is none: %v", err)
		}
		conn.Close(ReasonShutdown, "")
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if err := c.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
