package tunneltest

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
)

// flood writes until the other end goes away.
func flood(c *Conn) {
	for {
		if _, err := c.Write(make([]byte, 32<<10)); err != nil {
			return
		}
	}
}

// hold waits until the other end goes away.
func hold(c *Conn) { io.Copy(io.Discard, c) }

func testMaxFlows(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}, Config: tunnel.Config{MaxFlows: 3}}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("hold.test:80", hold)
		var flows []*tunnel.Flow
		for range 3 {
			f := p.dial(t, "hold.test")
			if err := f.Established(t.Context()); err != nil {
				t.Fatal(err)
			}
			flows = append(flows, f)
		}
		over := p.dial(t, "hold.test")
		refused, ok := errors.AsType[*tunnel.RefusedError](over.Established(t.Context()))
		if !ok || refused.Status != http.StatusTooManyRequests {
			t.Errorf("got %v", refused)
		}
		over.Close()
		flows[0].Close()
		Pass(time.Second)
		again := p.dial(t, "hold.test")
		if err := again.Established(t.Context()); err != nil {
			t.Errorf("a place that was left: %v", err)
		}
		if n := p.Session.Flows(); n != 3 {
			t.Errorf("%d flows", n)
		}
		for _, f := range append(flows, again) {
			f.Close()
		}
		p.Settled(t)
	})
}

func testParallelDownloads(t *testing.T, tr Transport) {
	const size = 100_000
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 10 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("file.test:80", func(c *Conn) { c.Write(make([]byte, size)) })
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				f := p.dial(t, "file.test")
				defer f.Close()
				if n, err := io.Copy(io.Discard, f); n != size || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		wg.Wait()
		if got := p.Settled(t); got.DownTCP != 200*size {
			t.Errorf("counted %d", got.DownTCP)
		}
	})
}

// testFrozenControlStream has an agent that never reads the control stream, so
// that it pauses nothing: flows go on, and closing waits for nobody.
func testFrozenControlStream(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}, Frozen: true}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("flood.test:80", flood)
		p.Net.HandleTCP("file.test:80", func(c *Conn) { c.Write(make([]byte, 1<<20)) })
		p.Go(func() { // until the stream's window is full
			for p.AtBuyer.Send(0x7402_0012, make([]byte, tunnel.MaxCapsule)) == nil {
			}
		})
		var unread []*tunnel.Flow
		for range 3 {
			unread = append(unread, p.dial(t, "flood.test"))
		}
		Pass(5 * time.Second)
		held := p.Buyer.Totals().DownTCP
		Pass(5 * time.Second)
		if now := p.Buyer.Totals().DownTCP; now != held || now > 3*9<<20 {
			t.Errorf("three flows that cannot be paused hold %d and then %d bytes", held, now)
		}
		f := p.dial(t, "file.test")
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
		Pass(time.Minute) // they are read for 30 s, then stopped
		if n := p.Client.Flows() + p.Session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// testCancelWhileDialing closes a half-closed flow, which no reset can tell of,
// before the target answers: nothing may be sent and billed then.
func testCancelWhileDialing(t *testing.T, tr Transport) {
	slow := &slowDialer{delay: time.Second}
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}, Config: tunnel.Config{Dialer: slow}}, func(t *testing.T, p *Pair) {
		slow.Dialer = &p.Net
		p.Net.HandleTCP("flood.test:80", flood)
		f := p.dial(t, "flood.test")
		f.CloseWrite()
		f.Close()
		if err := f.Established(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("established: %v", err)
		}
		Pass(5 * time.Second)
		if n := p.Client.Flows() + p.Session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
		if got := p.Settled(t); got.DownTCP > 256<<10 {
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

func testTargetThatNeverAnswers(t *testing.T, tr Transport) {
	slow := &slowDialer{delay: time.Hour}
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}, Config: tunnel.Config{Dialer: slow}}, func(t *testing.T, p *Pair) {
		f := p.dial(t, "nowhere.test")
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
		p.Settled(t)
	})
}

// testDrainEndsEverything drains a session of flows that would never end.
func testDrainEndsEverything(t *testing.T, tr Transport) {
	slow := &slowDialer{delay: 0}
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}, Limit: 1 << 20, Config: tunnel.Config{Dialer: slow}}, func(t *testing.T, p *Pair) {
		slow.Dialer = &p.Net
		p.Net.HandleTCP("hold.test:80", hold)
		p.Net.HandleTCP("flood.test:80", flood) // which waits for credit
		idle, out := p.dial(t, "hold.test"), p.dial(t, "flood.test")
		half := p.dial(t, "hold.test")
		half.CloseWrite()
		udp, err := p.Client.DialUDP(t.Context(), "sink.test", 9)
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
		stuck := p.dial(t, "hold.test")
		Pass(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		p.Session.Drain(ctx)
		if took := time.Since(start); took > 7*time.Second {
			t.Errorf("took %v", took)
		}
		if n := p.Session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
		if _, err := udp.Read(make([]byte, 1)); err == nil {
			t.Error("a packet from a drained flow")
		}
		late := p.dial(t, "hold.test")
		refused, ok := errors.AsType[*tunnel.RefusedError](late.Established(t.Context()))
		if !ok || refused.Status != http.StatusServiceUnavailable {
			t.Errorf("after the drain: %v", refused)
		}
		for _, c := range []io.Closer{idle, out, half, udp, stuck, late} {
			c.Close()
		}
		if err := p.Client.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// testConnectionEnds closes the connection under flows that wait for all there
// is to wait for; synctest sees that none of them is left.
func testConnectionEnds(t *testing.T, tr Transport) {
	slow := &slowDialer{}
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}, Limit: 4 << 20, Config: tunnel.Config{Dialer: slow}}, func(t *testing.T, p *Pair) {
		slow.Dialer = &p.Net
		p.Net.HandleTCP("hold.test:80", func(c *Conn) { c.Read(make([]byte, 1)); <-p.Conn.Context().Done() })
		p.Net.HandleTCP("flood.test:80", flood)
		paused := p.dial(t, "flood.test") // at the gate
		Pass(time.Second)
		hungry := p.dial(t, "flood.test") // for credit
		p.Go(func() { io.Copy(io.Discard, hungry) })
		half := p.dial(t, "hold.test") // for the target
		half.CloseWrite()
		pushing := p.dial(t, "hold.test") // for the target to take something
		p.Go(func() { pushing.Write(make([]byte, 8<<20)) })
		Pass(time.Second)
		slow.delay = time.Hour
		unanswered := p.dial(t, "hold.test")
		Pass(time.Second)
		p.Conn.Close(tunnel.ReasonShutdown, "enough")
		for _, f := range []*tunnel.Flow{half, unanswered} {
			_, err := f.Read(make([]byte, 1))
			closed, ok := errors.AsType[*tunnel.CloseError](err)
			if !ok || closed.Reason != tunnel.ReasonShutdown || !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
		}
		if _, err := p.Client.DialTCP(t.Context(), "hold.test", 80); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial: %v", err)
		}
		if err := p.Client.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := paused.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
}

// testIdleFlowsAreSmall has flows idle after a burst: what both ends
// together hold for each is far below a buffer of the burst's.
func testIdleFlowsAreSmall(t *testing.T, tr Transport) {
	flows, burst := 300, 100_000
	if Short() {
		flows = 100
	}
	o := Options{Path: Path{Delay: time.Millisecond, Streams: flows + 8}, Config: tunnel.Config{MaxFlows: flows}}
	Simulated(t, tr.Simulated, o, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("burst.test:80", func(c *Conn) {
			c.Write(make([]byte, burst))
			hold(c)
		})
		before := heap()
		var open []*tunnel.Flow
		for range flows {
			f := p.dial(t, "burst.test")
			if _, err := io.CopyN(io.Discard, f, int64(burst)); err != nil {
				t.Fatal(err)
			}
			open = append(open, f)
		}
		Pass(time.Second)
		each := (heap() - before) / int64(flows)
		if each > int64(tr.Idle) {
			t.Errorf("%d bytes for each idle flow", each)
		}
		for _, f := range open {
			f.Close()
		}
		p.Settled(t)
	})
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// testStuckUploads is the freeze the other way: uploads whose targets take
// nothing beside one that must not slow down.
func testStuckUploads(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 10 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		release := make(chan struct{})
		p.Net.HandleTCP("stuck.test:80", func(c *Conn) { <-release })
		p.Net.HandleTCP("sink.test:80", func(c *Conn) { io.Copy(io.Discard, c); c.CloseWrite() })
		var stuck []*tunnel.Flow
		for range tr.Uploads {
			f := p.dial(t, "stuck.test")
			stuck = append(stuck, f)
			p.Go(func() { f.Write(make([]byte, 2<<20)) })
		}
		Pass(5 * time.Second)
		f := p.dial(t, "sink.test")
		start := time.Now()
		if _, err := f.Write(make([]byte, 4<<20)); err != nil {
			t.Fatal(err)
		}
		f.CloseWrite()
		if _, err := f.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the end reads as %v", err)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("4 MiB beside stuck uploads took %v", took)
		}
		f.Close()
		for _, f := range stuck {
			f.Close()
		}
		Pass(time.Second)
		close(release)
		p.Settled(t)
	})
}
