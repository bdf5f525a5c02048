package quic_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

func dial(t testing.TB, p *tunneltest.Pair, host string) *tunnel.Flow {
	t.Helper()
	f, err := p.Client.DialTCP(context.Background(), host, 80)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestChangedAddress moves the buyer to another public port, as a NAT does
// that forgot it: the transfer goes on. Twice, since quic-go has no connection
// ID left for a third path (quic-go/quic-go#5814).
func TestChangedAddress(t *testing.T) {
	const size, moves = 8 << 20, 2
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: 10 * time.Millisecond})
		p := tunneltest.NewPair(t, l.connect(t, tunneltest.Path{}), tunneltest.Options{})
		defer p.Close()
		p.Net.HandleTCP("file.test:80", func(c *tunneltest.Conn) { c.Write(make([]byte, size)) })
		p.Net.HandleTCP("echo.test:80", func(c *tunneltest.Conn) { io.Copy(c, c); c.CloseWrite() })
		echo := dial(t, p, "echo.test")
		defer echo.Close()
		f := dial(t, p, "file.test")
		defer f.Close()
		for i := range moves {
			if _, err := io.CopyN(io.Discard, f, size/4); err != nil {
				t.Fatal(err)
			}
			l.wire.move(40000 + i)
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
		p.Settled(t)
	})
}
