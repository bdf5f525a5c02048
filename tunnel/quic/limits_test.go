package quic_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// flood writes until the other end goes away.
func flood(c *tunneltest.Conn) {
	for {
		if _, err := c.Write(make([]byte, 32<<10)); err != nil {
			return
		}
	}
}

// hold waits until the other end goes away.
func hold(c *tunneltest.Conn) { io.Copy(io.Discard, c) }

func dial(t testing.TB, p *pair, host string) *tunnel.Flow {
	t.Helper()
	f, err := p.client.DialTCP(context.Background(), host, 80)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMaxFlows(t *testing.T) {
	simulated(t, options{delay: 5 * time.Millisecond, config: tunnel.Config{MaxFlows: 3}}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("hold.test:80", hold)
		var flows []*tunnel.Flow
		for range 3 {
			f := dial(t, p, "hold.test")
			if err := f.Established(t.Context()); err != nil {
				t.Fatal(err)
			}
			flows = append(flows, f)
		}
		over := dial(t, p, "hold.test")
		refused, ok := errors.AsType[*tunnel.RefusedError](over.Established(t.Context()))
		if !ok || refused.Status != http.StatusTooManyRequests {
			t.Errorf("got %v", refused)
		}
		over.Close()
		flows[0].Close()
		pass(time.Second)
		again := dial(t, p, "hold.test")
		if err := again.Established(t.Context()); err != nil {
			t.Errorf("a place that was left: %v", err)
		}
		if n := p.session.Flows(); n != 3 {
			t.Errorf("%d flows", n)
		}
		for _, f := range append(flows, again) {
			f.Close()
		}
		p.settled(t)
	})
}

func TestParallelDownloads(t *testing.T) {
	const size = 100_000
	simulated(t, options{delay: 10 * time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("file.test:80", func(c *tunneltest.Conn) { c.Write(make([]byte, size)) })
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				f := dial(t, p, "file.test")
				defer f.Close()
				if n, err := io.Copy(io.Discard, f); n != size || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		wg.Wait()
		if got := p.settled(t); got.DownTCP != 200*size {
			t.Errorf("counted %d", got.DownTCP)
		}
	})
}

// TestFrozenControlStream has an agent that never reads the control stream, so
// that it pauses nothing: flows go on, and closing waits for nobody.
func TestFrozenControlStream(t *testing.T) {
	simulated(t, options{delay: 5 * time.Millisecond, frozen: true}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("flood.test:80", flood)
		p.net.HandleTCP("file.test:80", func(c *tunneltest.Conn) { c.Write(make([]byte, 1<<20)) })
		p.wg.Go(func() { // until the stream's window is full
			for p.atBuyer.Send(0x7402_0012, make([]byte, tunnel.MaxCapsule)) == nil {
			}
		})
		var unread []*tunnel.Flow
		for range 3 {
			unread = append(unread, dial(t, p, "flood.test"))
		}
		pass(5 * time.Second)
		held := p.buyer.Totals().DownTCP
		pass(5 * time.Second)
		if now := p.buyer.Totals().DownTCP; now != held || now > 3*9<<20 {
			t.Errorf("three flows that cannot be paused hold %d and then %d bytes", held, now)
		}
		f := dial(t, p, "file.test")
		if n, err := io.Copy(io.Discard, f); n != 1<<20 || err != nil {
			t.Errorf("beside them %d bytes, %v", n, err)
		}
		start := time.Now()
		f.Close()
		for _, f := range unread {
			f.Close()
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("closing took %v", took)
		}
		pass(time.Minute) // they are read for 30 s, then stopped
		if n := p.client.Flows() + p.session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// TestCancelWhileDialing closes a half-closed flow, which no reset can tell of,
// before the target answers: nothing may be sent and billed then.
func TestCancelWhileDialing(t *testing.T) {
	slow := &slowDialer{delay: time.Second}
	simulated(t, options{delay: 5 * time.Millisecond, config: tunnel.Config{Dialer: slow}}, func(t *testing.T, p *pair) {
		slow.Dialer = &p.net
		p.net.HandleTCP("flood.test:80", flood)
		f := dial(t, p, "flood.test")
		f.CloseWrite()
		f.Close()
		if err := f.Established(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("established: %v", err)
		}
		pass(5 * time.Second)
		if n := p.client.Flows() + p.session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
		if got := p.settled(t); got.DownTCP > 256<<10 {
			t.Errorf("%d bytes that nobody wanted", got.DownTCP)
		}
	})
}

// A slowDialer takes its time, or for ever.
type slowDialer struct {
	tunnel.Dialer
	delay time.Duration
}

func (d *slowDialer) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	select {
	case <-time.After(d.delay):
		return d.Dialer.DialTCP(ctx, host, port)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func TestTargetThatNeverAnswers(t *testing.T) {
	slow := &slowDialer{delay: time.Hour}
	simulated(t, options{delay: 5 * time.Millisecond, config: tunnel.Config{Dialer: slow}}, func(t *testing.T, p *pair) {
		f := dial(t, p, "nowhere.test")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Established(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after a second: %v", err)
		}
		f.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		refused, ok := errors.AsType[*tunnel.RefusedError](f.Established(t.Context()))
		if !ok || refused.Status != http.StatusGatewayTimeout || refused.Kind != "connection_timeout" {
			t.Errorf("in the end: %+v", refused)
		}
		if _, err := f.Write([]byte("x")); !errors.Is(err, error(refused)) {
			t.Errorf("write: %v", err)
		}
		f.Close()
		p.settled(t)
	})
}

// TestDrainEndsEverything drains a session of flows that would never end.
func TestDrainEndsEverything(t *testing.T) {
	slow := &slowDialer{delay: 0}
	simulated(t, options{delay: 5 * time.Millisecond, limit: 1 << 20, config: tunnel.Config{Dialer: slow}}, func(t *testing.T, p *pair) {
		slow.Dialer = &p.net
		p.net.HandleTCP("hold.test:80", hold)
		p.net.HandleTCP("flood.test:80", flood) // which waits for credit
		idle, out := dial(t, p, "hold.test"), dial(t, p, "flood.test")
		half := dial(t, p, "hold.test")
		half.CloseWrite()
		udp, err := p.client.DialUDP(t.Context(), "sink.test", 9)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []interface {
			Established(context.Context) error
		}{idle, out, half, udp} {
			if err := f.Established(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		slow.delay = time.Hour
		stuck := dial(t, p, "hold.test")
		pass(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		p.session.Drain(ctx)
		if took := time.Since(start); took > 7*time.Second {
			t.Errorf("took %v", took)
		}
		if n := p.session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
		if _, err := udp.Read(make([]byte, 1)); err == nil {
			t.Error("a packet from a drained flow")
		}
		late := dial(t, p, "hold.test")
		refused, ok := errors.AsType[*tunnel.RefusedError](late.Established(t.Context()))
		if !ok || refused.Status != http.StatusServiceUnavailable {
			t.Errorf("after the drain: %v", refused)
		}
		for _, c := range []io.Closer{idle, out, half, udp, stuck, late} {
			c.Close()
		}
		if err := p.client.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestConnectionEnds closes the connection under flows that wait for all there
// is to wait for; synctest sees that none of them is left.
func TestConnectionEnds(t *testing.T) {
	slow := &slowDialer{}
	simulated(t, options{delay: 5 * time.Millisecond, limit: 4 << 20, config: tunnel.Config{Dialer: slow}}, func(t *testing.T, p *pair) {
		slow.Dialer = &p.net
		p.net.HandleTCP("hold.test:80", func(c *tunneltest.Conn) { c.Read(make([]byte, 1)); <-p.conn.Context().Done() })
		p.net.HandleTCP("flood.test:80", flood)
		paused := dial(t, p, "flood.test") // at the gate
		pass(time.Second)
		hungry := dial(t, p, "flood.test") // for credit
		p.wg.Go(func() { io.Copy(io.Discard, hungry) })
		half := dial(t, p, "hold.test") // for the target
		half.CloseWrite()
		pushing := dial(t, p, "hold.test") // for the target to take something
		p.wg.Go(func() { pushing.Write(make([]byte, 8<<20)) })
		pass(time.Second)
		slow.delay = time.Hour
		unanswered := dial(t, p, "hold.test")
		pass(time.Second)
		p.conn.Close(tunnel.ReasonShutdown, "enough")
		for _, f := range []*tunnel.Flow{half, unanswered} {
			_, err := f.Read(make([]byte, 1))
			closed, ok := errors.AsType[*tunnel.CloseError](err)
			if !ok || closed.Reason != tunnel.ReasonShutdown || !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
		}
		if _, err := p.client.DialTCP(t.Context(), "hold.test", 80); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial: %v", err)
		}
		if err := p.client.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := paused.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
}

// TestChangedAddress moves the buyer to another public port, as a NAT does
// that forgot it: the transfer goes on. Twice, since quic-go has no connection
// ID left for a third path (quic-go/quic-go#5814).
func TestChangedAddress(t *testing.T) {
	const size, moves = 8 << 20, 2
	simulated(t, options{delay: 10 * time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("file.test:80", func(c *tunneltest.Conn) { c.Write(make([]byte, size)) })
		p.net.HandleTCP("echo.test:80", func(c *tunneltest.Conn) { io.Copy(c, c); c.CloseWrite() })
		echo := dial(t, p, "echo.test")
		defer echo.Close()
		f := dial(t, p, "file.test")
		defer f.Close()
		for i := range moves {
			if _, err := io.CopyN(io.Discard, f, size/4); err != nil {
				t.Fatal(err)
			}
			p.wire.move(40000 + i)
			echo.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := echo.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(echo, make([]byte, 1)); err != nil {
				t.Fatalf("move %d: %v", i, err)
			}
		}
		if n, err := io.Copy(io.Discard, f); n != size-moves*size/4 || err != nil {
			t.Errorf("%d bytes more, %v", n, err)
		}
		echo.Close()
		f.Close()
		p.settled(t)
	})
}

// TestIdleFlowsAreSmall has flows idle after a burst: what both ends
// together hold for each is far below a buffer of the burst's.
func TestIdleFlowsAreSmall(t *testing.T) {
	const flows, burst = 300, 100_000
	o := options{delay: time.Millisecond, streams: flows + 8, config: tunnel.Config{MaxFlows: flows}}
	simulated(t, o, func(t *testing.T, p *pair) {
		p.net.HandleTCP("burst.test:80", func(c *tunneltest.Conn) {
			c.Write(make([]byte, burst))
			hold(c)
		})
		before := heap()
		var open []*tunnel.Flow
		for range flows {
			f := dial(t, p, "burst.test")
			if _, err := io.CopyN(io.Discard, f, burst); err != nil {
				t.Fatal(err)
			}
			open = append(open, f)
		}
		pass(time.Second)
		each := (heap() - before) / flows
		if each > 64<<10 {
			t.Errorf("%d bytes for each idle flow", each)
		}
		for _, f := range open {
			f.Close()
		}
		p.settled(t)
	})
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
