package quic_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/http3"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// TestPlainServer has a server that knows HTTP/3 and nothing of this program.
func TestPlainServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: 5 * time.Millisecond})
		tr := &quicgo.Transport{Conn: l.server}
		ln, err := tr.ListenEarly(serverTLS(t), &quicgo.Config{EnableDatagrams: true})
		if err != nil {
			t.Fatal(err)
		}
		srv := &http3.Server{EnableDatagrams: true, Handler: http.HandlerFunc(plain)}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.ServeListener(ln) })
		dialer := quic.NewDialer(l.client)
		conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), nil)
		if err != nil {
			t.Fatal(err)
		}
		get := open(t, conn, tunnel.Header{Method: http.MethodGet, Authority: "agent", Path: "/a%2Fb?c"})
		get.Close()
		status, fields, err := get.Answer()
		if err != nil || status != http.StatusAccepted || fields.Get("path") != "/a%2Fb?c" || fields.Get("agent") != "" {
			t.Errorf("%d %v %v", status, fields, err)
		}
		if b, err := io.ReadAll(get); string(b) != "content" || !errors.Is(err, tunnel.ErrBroken) {
			t.Errorf("%q %v", b, err)
		}
		streams(t, conn)
		datagrams(t, conn)

		held := open(t, conn, tunnel.Header{Method: http.MethodConnect, Authority: "echo.test:7"})
		if status, _, err := held.Answer(); status != http.StatusOK || err != nil {
			t.Fatal(status, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		wg.Go(func() { _ = srv.Shutdown(ctx) })
		tunneltest.Pass(time.Second)
		if _, err := conn.Open(t.Context(), tunnel.Header{Method: http.MethodGet, Authority: "agent"}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after GOAWAY: %v", err)
		}
		held.Write([]byte("still here"))
		held.Close()
		if b, err := io.ReadAll(held); string(b) != "still here" || err != nil {
			t.Errorf("%q %v", b, err)
		}
		conn.Close(tunnel.ReasonDone, "")
		cancel()
		srv.Close()
		ln.Close()
		tr.Close()
		dialer.Close()
		wg.Wait()
		l.close(t)
	})
}

// plain answers what streams and datagrams ask for, and GET.
func plain(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect && r.Proto == "connect-udp":
		w.WriteHeader(http.StatusOK)
		str := w.(http3.HTTPStreamer).HTTPStream()
		if b, err := str.ReceiveDatagram(r.Context()); err == nil {
			str.SendDatagram(b)
		}
		str.Close()
	case r.Method == http.MethodConnect && r.Host == "reset.test:80":
		w.WriteHeader(http.StatusOK)
		str := w.(http3.HTTPStreamer).HTTPStream()
		str.CancelWrite(quicgo.StreamErrorCode(http3.ErrCodeConnectError))
		str.CancelRead(quicgo.StreamErrorCode(http3.ErrCodeNoError))
	case r.Method == http.MethodConnect:
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		io.Copy(w, r.Body)
	default:
		w.Header().Set("Link", "</x>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Path", r.RequestURI)
		w.Header().Set("Agent", r.UserAgent())
		w.Header().Set("Trailer", "Proxy-Status")
		w.WriteHeader(http.StatusAccepted)
		w.Write([]byte("content"))
		w.Header().Set("Proxy-Status", "x; error=connection_terminated")
	}
}

func open(t *testing.T, conn *quic.ClientConn, h tunnel.Header) tunnel.Request {
	t.Helper()
	req, err := conn.Open(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// streams writes in all ways before an answer is there, and is reset.
func streams(t *testing.T, conn *quic.ClientConn) {
	t.Helper()
	echo := open(t, conn, tunnel.Header{Method: http.MethodConnect, Authority: "echo.test:7"})
	want := bytes.Repeat([]byte("0123456789abcdef"), 5000) // more than a piece
	for _, n := range []int{1, 63, 64, 1400, 16384, len(want)} {
		framed := append(make([]byte, tunnel.Headroom), want[:n]...)
		if k, err := echo.(tunnel.Framer).WriteFramed(framed); k != n || err != nil {
			t.Fatalf("wrote %d of %d: %v", k, n, err)
		}
		if k, err := echo.Write(want[:n]); k != n || err != nil {
			t.Fatalf("wrote %d of %d: %v", k, n, err)
		}
	}
	echo.Close()
	if status, _, err := echo.Answer(); status != http.StatusOK || err != nil {
		t.Fatal(status, err)
	}
	for _, n := range []int{1, 63, 64, 1400, 16384, len(want)} {
		for range 2 {
			got := make([]byte, n)
			if _, err := io.ReadFull(echo, got); err != nil || !bytes.Equal(got, want[:n]) {
				t.Fatalf("%d bytes came back otherwise: %v", n, err)
			}
		}
	}
	if n, err := echo.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	reset := open(t, conn, tunnel.Header{Method: http.MethodConnect, Authority: "reset.test:80"})
	_, _, err := reset.Answer()
	if err == nil {
		_, err = reset.Read(make([]byte, 1))
	}
	if s, ok := errors.AsType[*quicgo.StreamError](err); !ok || s.ErrorCode != quicgo.StreamErrorCode(http3.ErrCodeConnectError) || !s.Remote {
		t.Errorf("a reset is %v", err)
	}
}

// datagrams sends one and has it back (RFC 9298 §5).
func datagrams(t *testing.T, conn *quic.ClientConn) {
	t.Helper()
	req := open(t, conn, tunnel.Header{
		Method: http.MethodConnect, Protocol: "connect-udp", Authority: "agent",
		Path: "/.well-known/masque/udp/host.test/53/", Fields: tunnel.Fields{"capsule-protocol": {"?1"}},
	})
	if status, _, err := req.Answer(); status != http.StatusOK || err != nil {
		t.Fatal(status, err)
	}
	p := req.(tunnel.Packeter)
	if err := p.SendDatagram(append(make([]byte, tunnel.Headroom), "\x00query"...)); err != nil {
		t.Fatal(err)
	}
	if b, err := p.ReceiveDatagram(t.Context()); string(b) != "\x00query" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	req.Close()
	if n, err := req.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// TestHostileStreams has an agent that opens streams in one direction as no
// HTTP/3 server may (RFC 9114 §6.2, RFC 9204 §4.2).
func TestHostileStreams(t *testing.T) {
	const settings = "\x00\x04\x00"
	for name, row := range map[string]struct {
		streams []string
		open    bool // streams stay open
		code    tunnel.Reason
	}{
		"a push":             {[]string{settings, "\x01\x00"}, true, 0x108},
		"control twice":      {[]string{settings, settings}, true, 0x103},
		"control ends":       {[]string{settings}, false, 0x104},
		"encoder twice":      {[]string{settings, "\x02", "\x02"}, true, 0x103},
		"decoder twice":      {[]string{settings, "\x03", "\x03"}, true, 0x103},
		"encoder ends":       {[]string{"\x02\x20"}, false, 0x104},
		"decoder ends":       {[]string{"\x03"}, false, 0x104},
		"an unknown type":    {[]string{settings, "\x40\x21abc"}, true, 0},
		"QPACK stays":        {[]string{settings, "\x02\x20", "\x03"}, true, 0},
		"no type at all":     {[]string{""}, false, 0},
		"a limit of pushes":  {[]string{settings + "\x0d\x01\x00"}, true, 0x105},
		"GOAWAY that climbs": {[]string{settings + "\x07\x01\x00\x07\x01\x04"}, true, 0x108},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, tunneltest.Path{})
				tr := &quicgo.Transport{Conn: l.server}
				ln, err := tr.Listen(serverTLS(t), &quicgo.Config{EnableDatagrams: true})
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				wg.Go(func() {
					conn, err := ln.Accept(context.Background())
					if err != nil {
						return
					}
					for _, sent := range row.streams {
						if str, err := conn.OpenUniStream(); err == nil {
							str.Write([]byte(sent))
							if !row.open {
								str.Close()
							}
						}
					}
				})
				dialer := quic.NewDialer(l.client)
				conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), nil)
				if err != nil {
					t.Fatal(err)
				}
				tunneltest.Pass(10 * time.Second)
				c, _ := errors.AsType[*tunnel.CloseError](context.Cause(conn.Context()))
				switch {
				case row.code == 0 && c != nil:
					t.Errorf("ended by %v", c)
				case row.code != 0 && (c == nil || c.Reason != row.code || c.Remote):
					t.Errorf("ended by %v, want %#x", c, uint64(row.code))
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
