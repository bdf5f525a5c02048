package tunneltest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/tunnel"
)

func testTCPBothWays(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 20 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		want := Random(3<<20, 1)
		p.Net.HandleTCP("echo.test:7", func(c *Conn) { io.Copy(c, c); c.CloseWrite() })
		f, err := p.Client.DialTCP(t.Context(), "echo.test", 7)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := f.Write(want); err != nil {
				t.Error(err)
			}
			if err := f.CloseWrite(); err != nil { // half-close: the echo goes on
				t.Error(err)
			}
		})
		got, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if !bytes.Equal(got, want) {
			t.Error("echo differs")
		}
		f.Close()
		r := p.Settled(t)
		if diff := cmp.Diff(uint64(len(want)), r.DownTCP); diff != "" {
			t.Error(diff)
		}
		if up := p.Agent.Totals().UpTCP; up != uint64(len(want)) {
			t.Errorf("agent counts %d up, want %d", up, len(want))
		}
	})
}

func testFirstByteInOneRoundTrip(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 20 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("echo.test:7", func(c *Conn) { io.Copy(c, c) })
		start := time.Now()
		f, err := p.Client.DialTCP(t.Context(), "echo.test", 7)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 42*time.Millisecond+tr.Tick {
			t.Errorf("first byte after %v on a 40 ms path", took)
		}
	})
}

func testRefusedTarget(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: time.Millisecond}}, func(t *testing.T, p *Pair) {
		f, err := p.Client.DialTCP(t.Context(), "nobody.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		refused, ok := errors.AsType[*tunnel.RefusedError](f.Established(t.Context()))
		if !ok || refused.Kind != "connection_refused" || refused.Status != http.StatusBadGateway {
			t.Errorf("got %+v", refused)
		}
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, error(refused)) {
			t.Errorf("read: %v", err)
		}
		p.Settled(t)
	})
}

func testTargetReset(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("rst.test:80", func(c *Conn) {
			c.Write(make([]byte, 50_000))
			c.Write(make([]byte, 50_000))
			c.Read(make([]byte, 1)) // until the buyer has it all
			c.SetLinger(0)
		})
		f, err := p.Client.DialTCP(t.Context(), "rst.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(make([]byte, 1)); err != tunnel.ErrBroken || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a reset reads as %v", err)
		}
		if _, err := f.Write([]byte("x")); err != tunnel.ErrBroken {
			t.Errorf("and writes as %v", err)
		}
		f.Close()
		p.Settled(t)
	})
}

// testAbandonedDownload closes in mid-transfer: what was under way is read by
// the pump, so both sides count the same.
func testAbandonedDownload(t *testing.T, tr Transport) {
	for _, halfClosed := range []bool{false, true} {
		Simulated(t, tr.Simulated, Options{Path: Path{Delay: 20 * time.Millisecond}}, func(t *testing.T, p *Pair) {
			ended := make(chan error, 1)
			p.Net.HandleTCP("big.test:80", func(c *Conn) {
				var err error
				for err == nil {
					_, err = c.Write(make([]byte, 10_000))
				}
				ended <- err
			})
			f, err := p.Client.DialTCP(t.Context(), "big.test", 80)
			if err != nil {
				t.Fatal(err)
			}
			if halfClosed {
				f.CloseWrite()
			}
			if _, err := io.ReadFull(f, make([]byte, 500_000)); err != nil {
				t.Fatal(err)
			}
			f.Close()
			r := p.Settled(t)
			if r.DownTCP < 500_000 {
				t.Errorf("counted %d", r.DownTCP)
			}
			// A kernel's socket tells of a reset once; then its pipe is broken.
			if err := <-ended; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the target saw %v, want a reset", err)
			}
		})
	}
}

// testPausedDownloads is the freeze that every peer has: 50 downloads that
// nobody reads beside one that must not slow down, with a credit that a single
// paused one would eat.
func testPausedDownloads(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 10 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("big.test:80", func(c *Conn) {
			for {
				if _, err := c.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		var paused []*tunnel.Flow
		for range 50 {
			f, err := p.Client.DialTCP(t.Context(), "big.test", 80)
			if err != nil {
				t.Fatal(err)
			}
			paused = append(paused, f)
		}
		Pass(5 * time.Second)
		before := p.Buyer.Totals()
		Pass(5 * time.Second)
		if now := p.Buyer.Totals(); now != before {
			t.Errorf("paused flows go on: %d bytes", now.DownTCP-before.DownTCP)
		}
		if unread := p.Agent.Totals().DownTCP - before.DownTCP; unread != 0 {
			t.Errorf("%d bytes sent and not received hold the credit", unread)
		}
		f, err := p.Client.DialTCP(t.Context(), "big.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := io.CopyN(io.Discard, f, 8<<20); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("8 MiB beside paused downloads took %v", took)
		}
		// A paused one goes on when it is read.
		if _, err := io.CopyN(io.Discard, paused[7], 4<<20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, f := range paused {
			f.Close()
		}
		p.Settled(t)
	})
}

func testStuckUploadGivesCreditBack(t *testing.T, tr Transport) {
	const limit = 256 << 10
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}, Limit: limit}, func(t *testing.T, p *Pair) {
		release := make(chan struct{})
		p.Net.HandleTCP("stuck.test:80", func(c *Conn) { <-release })
		p.Net.HandleTCP("echo.test:7", func(c *Conn) { io.Copy(c, c); c.CloseWrite() })
		var wg sync.WaitGroup
		var stuck []*tunnel.Flow
		for range 3 { // each holds 64 KiB in the target's buffer: 60 KiB of credit are left
			f, err := p.Client.DialTCP(t.Context(), "stuck.test", 80)
			if err != nil {
				t.Fatal(err)
			}
			stuck = append(stuck, f)
			wg.Go(func() { f.Write(make([]byte, 1<<20)) })
		}
		Pass(10 * time.Second)
		f, err := p.Client.DialTCP(t.Context(), "echo.test", 7)
		if err != nil {
			t.Fatal(err)
		}
		msg := make([]byte, 8<<10)
		wg.Go(func() { f.Write(msg) })
		if _, err := io.ReadFull(f, msg); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, f := range stuck {
			f.Close()
		}
		wg.Wait()
		close(release)
		p.Settled(t)
	})
}

// testIdleForHalfAnHour keeps a flow without traffic alive.
func testIdleForHalfAnHour(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 20 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("echo.test:7", func(c *Conn) { io.Copy(c, c) })
		f, err := p.Client.DialTCP(t.Context(), "echo.test", 7)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range 2 {
			if _, err := f.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(f, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			Pass(30 * time.Minute)
		}
	})
}
