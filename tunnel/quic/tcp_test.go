package quic_test

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
	"github.com/depinsim/x402/tunnel/tunneltest"
)

func TestTCPBothWays(t *testing.T) {
	simulated(t, options{delay: 20 * time.Millisecond}, func(t *testing.T, p *pair) {
		want := random(3<<20, 1)
		p.net.HandleTCP("echo.test:7", func(c *tunneltest.Conn) { io.Copy(c, c); c.CloseWrite() })
		f, err := p.client.DialTCP(t.Context(), "echo.test", 7)
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
		r := p.settled(t)
		if diff := cmp.Diff(uint64(len(want)), r.DownTCP); diff != "" {
			t.Error(diff)
		}
		if up := p.agent.Totals().UpTCP; up != uint64(len(want)) {
			t.Errorf("agent counts %d up, want %d", up, len(want))
		}
	})
}

func TestFirstByteInOneRoundTrip(t *testing.T) {
	simulated(t, options{delay: 20 * time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("echo.test:7", func(c *tunneltest.Conn) { io.Copy(c, c) })
		start := time.Now()
		f, err := p.client.DialTCP(t.Context(), "echo.test", 7)
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
		if took := time.Since(start); took > 42*time.Millisecond {
			t.Errorf("first byte after %v on a 40 ms path", took)
		}
	})
}

func TestRefusedTarget(t *testing.T) {
	simulated(t, options{delay: time.Millisecond}, func(t *testing.T, p *pair) {
		f, err := p.client.DialTCP(t.Context(), "nobody.test", 80)
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
		p.settled(t)
	})
}

func TestTargetReset(t *testing.T) {
	simulated(t, options{delay: 5 * time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("rst.test:80", func(c *tunneltest.Conn) {
			c.Write(make([]byte, 50_000))
			c.Write(make([]byte, 50_000))
			c.Read(make([]byte, 1)) // until the buyer has it all
			c.SetLinger(0)
		})
		f, err := p.client.DialTCP(t.Context(), "rst.test", 80)
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
		p.settled(t)
	})
}

// TestAbandonedDownload closes in mid-transfer: what was under way is read by
// the pump, so both sides count the same.
func TestAbandonedDownload(t *testing.T) {
	for _, halfClosed := range []bool{false, true} {
		simulated(t, options{delay: 20 * time.Millisecond}, func(t *testing.T, p *pair) {
			var got error
			p.net.HandleTCP("big.test:80", func(c *tunneltest.Conn) {
				for got == nil {
					_, got = c.Write(make([]byte, 10_000))
				}
			})
			f, err := p.client.DialTCP(t.Context(), "big.test", 80)
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
			r := p.settled(t)
			if r.DownTCP < 500_000 {
				t.Errorf("counted %d", r.DownTCP)
			}
			if !errors.Is(got, syscall.ECONNRESET) {
				t.Errorf("the target saw %v, want a reset", got)
			}
		})
	}
}

// TestPausedDownloads is the freeze that every peer has: 50 downloads that
// nobody reads beside one that must not slow down, with a credit that a single
// paused one would eat.
func TestPausedDownloads(t *testing.T) {
	simulated(t, options{delay: 10 * time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("big.test:80", func(c *tunneltest.Conn) {
			for {
				if _, err := c.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		var paused []*tunnel.Flow
		for range 50 {
			f, err := p.client.DialTCP(t.Context(), "big.test", 80)
			if err != nil {
				t.Fatal(err)
			}
			paused = append(paused, f)
		}
		pass(5 * time.Second)
		before := p.buyer.Totals()
		pass(5 * time.Second)
		if now := p.buyer.Totals(); now != before {
			t.Errorf("paused flows go on: %d bytes", now.DownTCP-before.DownTCP)
		}
		if unread := p.agent.Totals().DownTCP - before.DownTCP; unread != 0 {
			t.Errorf("%d bytes sent and not received hold the credit", unread)
		}
		f, err := p.client.DialTCP(t.Context(), "big.test", 80)
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
		p.settled(t)
	})
}

func TestStuckUploadGivesCreditBack(t *testing.T) {
	const limit = 256 << 10
	simulated(t, options{delay: 5 * time.Millisecond, limit: limit}, func(t *testing.T, p *pair) {
		release := make(chan struct{})
		p.net.HandleTCP("stuck.test:80", func(c *tunneltest.Conn) { <-release })
		p.net.HandleTCP("echo.test:7", func(c *tunneltest.Conn) { io.Copy(c, c); c.CloseWrite() })
		var wg sync.WaitGroup
		var stuck []*tunnel.Flow
		for range 3 { // each holds 64 KiB in the target's buffer: 60 KiB of credit are left
			f, err := p.client.DialTCP(t.Context(), "stuck.test", 80)
			if err != nil {
				t.Fatal(err)
			}
			stuck = append(stuck, f)
			wg.Go(func() { f.Write(make([]byte, 1<<20)) })
		}
		pass(10 * time.Second)
		f, err := p.client.DialTCP(t.Context(), "echo.test", 7)
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
		p.settled(t)
	})
}

// TestIdleForHalfAnHour keeps a flow without traffic alive.
func TestIdleForHalfAnHour(t *testing.T) {
	simulated(t, options{delay: 20 * time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("echo.test:7", func(c *tunneltest.Conn) { io.Copy(c, c) })
		f, err := p.client.DialTCP(t.Context(), "echo.test", 7)
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
			pass(30 * time.Minute)
		}
	})
}
