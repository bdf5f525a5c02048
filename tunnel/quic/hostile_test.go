package quic_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// TestStopAgainstReset stops and aborts streams while their targets reset, at
// random moments. With partial resets switched on, quic-go panics here.
func TestStopAgainstReset(t *testing.T) {
	n := seed(t)
	simulated(t, options{delay: 2 * time.Millisecond, loss: 20, seed: n}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("rst.test:80", func(c *tunneltest.Conn) {
			c.Write(make([]byte, 1+rand.IntN(100_000)))
			pass(time.Duration(rand.IntN(10_000)) * time.Microsecond)
			c.SetLinger(0)
		})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 30 {
					req, err := p.conn.Open(context.Background(), tunnel.Header{Method: http.MethodConnect, Authority: "rst.test:80"})
					if err != nil {
						t.Error(err)
						return
					}
					pass(time.Duration(rand.IntN(20_000)) * time.Microsecond)
					req.Stop(0x10c)
					pass(time.Duration(rand.IntN(2_000)) * time.Microsecond)
					req.Abort(0x10c)
				}
			})
		}
		wg.Wait()
		p.session.Drain(t.Context())
		if n := p.session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// TestHostileSteering sends orders about streams that are none.
func TestHostileSteering(t *testing.T) {
	simulated(t, options{delay: time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.HandleTCP("hold.test:80", hold)
		f := dial(t, p, "hold.test")
		if err := f.Established(t.Context()); err != nil {
			t.Fatal(err)
		}
		for typ := uint64(0x7402_0001); typ <= 0x7402_0003; typ++ {
			for _, id := range [][]byte{{1}, {0x40, 0xff}, {0xbf, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
				for range 100 {
					if err := p.atBuyer.Send(typ, id); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		pass(time.Second)
		if _, err := f.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		f.Close()
		p.settled(t)
	})
}

// TestGarbageOnControl ends the reading of the control stream with an error,
// which is its owner's to act on.
func TestGarbageOnControl(t *testing.T) {
	for name, garbage := range map[string][]byte{
		"order without a stream": {0xf4, 0x02, 0, 1, 0},
		"endless capsule":        {0x94, 0x02, 0, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"truncated":              {0xff},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, options{})
				key, hash := newKey(t)
				ln, err := quic.Listen(quic.ListenConfig{Conn: l.server, Key: key})
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				wg.Go(func() {
					conn, _, err := ln.Accept(context.Background())
					if err != nil {
						t.Error(err)
						return
					}
					s := tunnel.NewSession(conn, tunnel.Config{Dialer: &tunneltest.Net{}})
					wg.Go(func() { _ = s.Run() })
					ctl, err := s.Control(context.Background())
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := ctl.Receive(); err == nil || err == io.EOF {
						t.Errorf("received with %v", err)
					}
					conn.Close(tunnel.ReasonProtocol, "garbage")
				})
				dialer := quic.NewDialer(l.client)
				conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), &hash)
				if err != nil {
					t.Fatal(err)
				}
				req, err := conn.Open(t.Context(), tunnel.Header{
					Method: http.MethodConnect, Protocol: "x402-channel", Authority: "agent", Path: tunnel.ControlPath,
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := req.Write(garbage); err != nil {
					t.Fatal(err)
				}
				if name == "truncated" || name == "order without a stream" {
					req.Close()
				}
				<-conn.Context().Done()
				closed, ok := errors.AsType[*tunnel.CloseError](context.Cause(conn.Context()))
				if !ok || closed.Reason != tunnel.ReasonProtocol || closed.Text != "garbage" || !closed.Remote {
					t.Errorf("closed with %+v", closed)
				}
				ln.Close()
				dialer.Close()
				wg.Wait()
				l.close(t)
			})
		})
	}
}

// TestGarbageOnUDPFlow ends only the flow.
func TestGarbageOnUDPFlow(t *testing.T) {
	simulated(t, options{delay: time.Millisecond}, func(t *testing.T, p *pair) {
		for _, garbage := range [][]byte{
			{0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, // a datagram of 2^62 bytes
			{0x00, 0x00},       // without a context
			{0x00, 0x01, 0xff}, // with half of one
		} {
			req, err := p.conn.Open(t.Context(), tunnel.Header{
				Method: http.MethodConnect, Protocol: "connect-udp", Authority: "x", Path: "/.well-known/masque/udp/sink.test/9/",
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := req.Write(garbage); err != nil {
				t.Fatal(err)
			}
			if status, _, err := req.Answer(); err != nil || status != http.StatusOK {
				t.Errorf("answered %d, %v", status, err)
			}
			if _, err := req.Read(make([]byte, 1)); err == nil {
				t.Error("the flow goes on")
			}
			req.Abort(0x10c)
		}
		pass(time.Second)
		if n := p.session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// TestBadRequests are answered and cost nothing.
func TestBadRequests(t *testing.T) {
	simulated(t, options{delay: time.Millisecond}, func(t *testing.T, p *pair) {
		for _, row := range []struct {
			h    tunnel.Header
			want int
		}{
			{tunnel.Header{Method: http.MethodConnect, Authority: "no-port"}, http.StatusBadRequest},
			{tunnel.Header{Method: http.MethodConnect, Authority: "host.test:0"}, http.StatusBadRequest},
			{tunnel.Header{Method: http.MethodConnect, Authority: "host.test:65536"}, http.StatusBadRequest},
			{tunnel.Header{Method: http.MethodConnect, Protocol: "connect-udp", Authority: "x", Path: "/elsewhere"}, http.StatusBadRequest},
			{tunnel.Header{Method: http.MethodConnect, Protocol: "connect-ip", Authority: "x", Path: "/"}, http.StatusNotImplemented},
			{tunnel.Header{Method: http.MethodConnect, Protocol: "x402-channel", Authority: "x", Path: "/"}, http.StatusConflict},
			{tunnel.Header{Method: http.MethodGet, Authority: "x", Path: "/"}, http.StatusNotFound},
		} {
			req, err := p.conn.Open(t.Context(), row.h)
			if err != nil {
				t.Fatal(err)
			}
			if status, _, err := req.Answer(); err != nil || status != row.want {
				t.Errorf("%+v: %d, %v; want %d", row.h, status, err, row.want)
			}
			req.Abort(0x10c)
		}
	})
}

// TestRawStreams writes onto QUIC streams what no HTTP/3 client would.
func TestRawStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, options{})
		key, _ := newKey(t)
		ln, err := quic.Listen(quic.ListenConfig{Conn: l.server, Key: key, MaxStreams: 4})
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
		tr := &quicgo.Transport{Conn: l.client}
		for name, row := range map[string]struct {
			sent   []byte
			answer bool // something comes back before the end
		}{
			"header of a gigabyte":  {[]byte{0x01, 0xbf, 0xff, 0xff, 0xff}, true},
			"data before a header":  {[]byte{0x00, 0x01, 'x'}, false},
			"undecodable header":    {[]byte{0x01, 0x03, 0xff, 0xff, 0xff}, false},
			"half of a header":      {[]byte{0x01, 0x10, 0x00}, false},
			"settings on a request": {[]byte{0x04, 0x00}, false},
		} {
			conn, err := tr.Dial(t.Context(), l.server.LocalAddr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}, &quicgo.Config{EnableDatagrams: true})
			if err != nil {
				t.Fatal(err)
			}
			str, err := conn.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := str.Write(row.sent); err != nil {
				t.Fatal(err)
			}
			if !row.answer {
				str.Close()
			}
			str.SetReadDeadline(time.Now().Add(time.Minute))
			b, err := io.ReadAll(str)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: not answered", name)
			}
			if (len(b) > 0) != row.answer {
				t.Errorf("%s: answered with %d bytes", name, len(b))
			}
			conn.CloseWithError(0x100, "")
		}
		ln.Close()
		tr.Close()
		wg.Wait()
		l.close(t)
	})
}

// TestHostileAgent answers a buyer's flow with what is no answer.
func TestHostileAgent(t *testing.T) {
	for name, answer := range map[string][]byte{
		"nothing":              nil,
		"noise":                []byte("GET / HTTP/1.1\r\n\r\n"),
		"header of a gigabyte": {0x01, 0xbf, 0xff, 0xff, 0xff},
		"data before a header": {0x00, 0x01, 'x'},
		"undecodable header":   {0x01, 0x03, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, options{})
				tr := &quicgo.Transport{Conn: l.server}
				ln, err := tr.Listen(serverTLS(t), &quicgo.Config{EnableDatagrams: true})
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				wg.Go(func() { serveRaw(ln, answer) })
				dialer := quic.NewDialer(l.client)
				conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), nil)
				if err != nil {
					t.Fatal(err)
				}
				ctl, err := tunnel.OpenControl(t.Context(), conn, "agent", all)
				if err != nil {
					t.Fatal(err)
				}
				client := tunnel.NewClient(conn, ctl, lanes(tunneltest.NewCounter(plenty)))
				f, err := client.DialTCP(t.Context(), "host.test", 80)
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Established(t.Context()); err == nil {
					t.Error("established")
				}
				if _, err := f.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("read: %v", err)
				}
				f.Close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := client.Wait(ctx); err != nil {
					t.Error(err)
				}
				conn.Close(tunnel.ReasonDone, "")
				ln.Close()
				tr.Close()
				dialer.Close()
				wg.Wait()
				l.close(t)
			})
		})
	}
}

func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, _ := newKey(t)
	cert, err := quic.Certificate(key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h3"}}
}

// serveRaw answers every stream of one connection in the same way.
func serveRaw(ln *quicgo.Listener, answer []byte) {
	conn, err := ln.Accept(context.Background())
	if err != nil {
		return
	}
	for {
		str, err := conn.AcceptStream(context.Background())
		if err != nil {
			return
		}
		str.Write(answer)
		str.Close()
	}
}
