package kcp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apernet/quic-go/testutils/simnet"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/kcp"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

func TestWrongKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: time.Millisecond})
		key, hash := newKey(t)
		ln, err := kcp.Listen(kcp.ListenConfig{Conn: l.server, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		dialer := kcp.NewDialer(l.client)
		if _, err := dialer.Dial(t.Context(), l.server.LocalAddr(), &[32]byte{1}); !errors.Is(err, h2.ErrWrongKey) {
			t.Errorf("wrong key: %v", err)
		}
		conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if conn.PeerKeyHash() != hash {
			t.Error("peer key hash differs")
		}
		conn.Close(tunnel.ReasonDone, "")
		dialer.Close()
		ln.Close()
		l.close(t)
	})
}

// TestNobodyThere gives up.
func TestNobodyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{})
		dialer := kcp.NewDialer(l.client)
		start := time.Now()
		if _, err := dialer.Dial(t.Context(), l.server.LocalAddr(), nil); err == nil || time.Since(start) > 11*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := dialer.Dial(ctx, l.server.LocalAddr(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled: %v", err)
		}
		dialer.Close()
		l.close(t)
	})
}

// TestHandshakeOnALossyPath loses every fifth packet.
func TestHandshakeOnALossyPath(t *testing.T) {
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			ends := simulated(t, tunneltest.Path{Delay: 20 * time.Millisecond, Loss: 200, Seed: tunneltest.Seed(t)})
			ends.Client.Close(tunnel.ReasonDone, "")
			<-ends.Server.Context().Done()
			ends.Server.Close(tunnel.ReasonDone, "")
			ends.Close()
		})
	}
}

// TestCrashIsToldAtOnce kills an agent without a goodbye: another one at its
// address ends the connection at its next packet.
func TestCrashIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: 20 * time.Millisecond})
		key, hash := newKey(t)
		ln, err := kcp.Listen(kcp.ListenConfig{Conn: l.server, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		dialer := kcp.NewDialer(l.client)
		conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), &hash)
		if err != nil {
			t.Fatal(err)
		}
		req, err := conn.Open(t.Context(), tunnel.Header{Method: http.MethodConnect, Authority: "example.com:80"})
		if err != nil {
			t.Fatal(err)
		}
		tunneltest.Pass(time.Second)
		l.wire.lose(1000)
		ln.Close()
		tunneltest.Pass(10 * time.Second)
		l.wire.lose(0)
		ln, err = kcp.Listen(kcp.ListenConfig{Conn: l.server, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := req.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		<-conn.Context().Done()
		if took := time.Since(start); took > time.Second {
			t.Errorf("the connection ended after %v", took)
		}
		if conn, err = dialer.Dial(t.Context(), l.server.LocalAddr(), &hash); err != nil { // the new agent serves
			t.Fatal(err)
		}
		conn.Close(tunnel.ReasonDone, "")
		dialer.Close()
		ln.Close()
		l.close(t)
	})
}

// TestForgedPackets opens nothing and is answered by less than was sent.
func TestForgedPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: time.Millisecond})
		key, hash := newKey(t)
		ln, err := kcp.Listen(kcp.ListenConfig{Conn: l.server, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		forger := l.client
		for i := range 3000 {
			segment := binary.LittleEndian.AppendUint32([]byte{0x01}, 0x80000000|uint32(i)*2654435761)
			segment = append(segment, 81, 0, 32, 0)
			segment = append(segment, make([]byte, 12)...)
			segment = binary.LittleEndian.AppendUint32(segment, 100)
			segment = append(segment, make([]byte, 100)...)
			if _, err := forger.WriteTo(segment, l.server.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			if i%100 == 0 { // the simulated link holds no more
				tunneltest.Pass(10 * time.Millisecond)
			}
		}
		tunneltest.Pass(time.Second)
		if in, out := l.wire.bytes(forger.LocalAddr().String()), l.wire.bytes(l.server.LocalAddr().String()); out > in/2 {
			t.Errorf("%d bytes for %d", out, in)
		}
		dialer := kcp.NewDialer(l.client) // there is room for a buyer
		conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), &hash)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close(tunnel.ReasonDone, "")
		dialer.Close()
		ln.Close()
		l.close(t)
	})
}

// TestSharedSocket has packets of QUIC and of control in between, and garbage
// that looks like KCP's.
func TestSharedSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: time.Millisecond})
		p := tunneltest.NewPair(t, l.connect(t, tunneltest.Path{}), tunneltest.Options{})
		p.Net.HandleTCP("echo.test:80", func(c *tunneltest.Conn) { io.Copy(c, c); c.CloseWrite() })
		f, err := p.Client.DialTCP(t.Context(), "echo.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		want := tunneltest.Random(100_000, 1)
		p.Go(func() {
			for i := range 10 {
				f.Write(want[i*10_000 : (i+1)*10_000])
				for _, b := range [][]byte{{0x00, 4, 1, 2, 3}, {0x40, 1, 2, 3, 4, 5, 6}, {0xc3, 0, 0, 0, 1, 8}, {0x01}, {0x01, 0, 0, 0, 0}, {0x01, 9, 9, 9, 9, 9}, bytes.Repeat([]byte{0x01}, 1400)} {
					for _, to := range []*simnet.SimConn{l.server, l.client} {
						l.other.WriteTo(b, to.LocalAddr())
					}
				}
			}
			f.CloseWrite()
		})
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if sent, arrived := p.Conn.(*kcp.ClientConn).Traffic(); arrived < 100_000 || sent < arrived || sent > arrived*5/4 {
			t.Errorf("%d sent, %d arrived", sent, arrived)
		}
		f.Close()
		p.Close()
	})
}

// TestSocketIsGone ends everything when the socket is closed beneath.
func TestSocketIsGone(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ends := connect(t, server, client, tunneltest.Path{})
	client.Close()
	<-ends.Client.Context().Done()
	ends.Client.Close(tunnel.ReasonDone, "")
	server.Close()
	<-ends.Server.Context().Done()
}

// TestManyConnections shares one socket between connections.
func TestManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: 5 * time.Millisecond})
		key, hash := newKey(t)
		ln, err := kcp.Listen(kcp.ListenConfig{Conn: l.server, Key: key, MaxConns: 3})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				conn, _, err := ln.Accept(context.Background())
				if err != nil {
					return
				}
				wg.Go(func() { _ = tunnel.NewSession(conn, tunnel.Config{Dialer: &tunneltest.Net{}}).Run() })
			}
		})
		dialer := kcp.NewDialer(l.client)
		var conns []*kcp.ClientConn
		for range 3 {
			conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), &hash)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		for _, c := range conns {
			req, err := c.Open(t.Context(), tunnel.Header{Method: http.MethodGet, Authority: "x", Path: "/"})
			if err != nil {
				t.Fatal(err)
			}
			if status, _, err := req.Answer(); status != http.StatusNotFound || err != nil {
				t.Errorf("%d, %v", status, err)
			}
		}
		tunneltest.Pass(time.Second)
		over, err := dialer.Dial(t.Context(), l.server.LocalAddr(), &hash)
		if err != nil {
			t.Fatal(err)
		}
		<-over.Context().Done()
		if closed, ok := errors.AsType[*tunnel.CloseError](context.Cause(over.Context())); !ok || closed.Reason != tunnel.ReasonLimit {
			t.Errorf("a fourth: %v", context.Cause(over.Context()))
		}
		dialer.Close()
		ln.Close()
		wg.Wait()
		l.close(t)
	})
}

// TestRedial opens and closes connections from one socket to one agent, as many
// as there are numbers in a minute; one that lives is not disturbed.
func TestRedial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: time.Millisecond})
		key, hash := newKey(t)
		ln, err := kcp.Listen(kcp.ListenConfig{Conn: l.server, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, _, err := ln.Accept(context.Background()); err != nil {
					return
				}
			}
		})
		dialer := kcp.NewDialer(l.client)
		lives, err := dialer.Dial(t.Context(), l.server.LocalAddr(), &hash)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 126 {
			c, err := dialer.Dial(t.Context(), l.server.LocalAddr(), &hash)
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			c.Close(tunnel.ReasonDone, "")
		}
		if lives.Context().Err() != nil {
			t.Errorf("the first has ended: %v", context.Cause(lives.Context()))
		}
		dialer.Close()
		ln.Close()
		wg.Wait()
		l.close(t)
	})
}
