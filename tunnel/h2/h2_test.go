package h2_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// TestPlainClient has Go's own client, which knows HTTP/2 and nothing of this
// program.
func TestPlainClient(t *testing.T) {
	key, _ := newKey(t)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := h2.Listen(h2.ListenConfig{Listener: ln, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var targets tunneltest.Net
	targets.HandleTCP("echo.test:7", func(c *tunneltest.Conn) { io.Copy(c, c); c.CloseWrite() })
	targets.HandleTCP("rst.test:80", func(c *tunneltest.Conn) { c.Read(make([]byte, 1)); c.SetLinger(0) })
	targets.HandleUDP("echo.test:7", func(c net.Conn) {
		b := make([]byte, 2000)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			c.Write(b[:n])
		}
	})
	counter := tunneltest.NewCounter(tunneltest.Plenty)
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, _, err := l.Accept(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		s := tunnel.NewSession(conn, tunnel.Config{
			Dialer: &targets,
			Plain: func(h tunnel.Header) (int, string, []byte) {
				return http.StatusOK, "application/json", []byte(`"` + h.Method + h.Path + `"`)
			},
		})
		s.Admit(counter.Lanes())
		_ = s.Run()
	})
	var only http.Protocols
	only.SetHTTP2(true)
	tr := &http.Transport{
		Protocols: &only, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp4", ln.Addr().String())
		},
	}
	res, err := tr.RoundTrip(&http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: "agent", Path: "/offer"}, Header: http.Header{}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != `"GET/offer"` || res.Header.Get("Content-Type") != "application/json" || res.Header.Get("Date") != "" {
		t.Errorf("%q %v %v", body, res.Header, err)
	}

	up, echo := open(t, tr, &http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: "agent"}, Host: "echo.test:7"})
	if _, err := up.Write(make([]byte, 300_000)); err != nil {
		t.Fatal(err)
	}
	up.Close()
	if b, err := io.ReadAll(echo); len(b) != 300_000 || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if got := counter.Totals(); got.UpTCP != 300_000 || got.DownTCP != 300_000 {
		t.Errorf("counted %+v", got)
	}

	up, rst := open(t, tr, &http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: "agent"}, Host: "rst.test:80"})
	if _, err := up.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_, err = rst.Read(make([]byte, 1))
	if s, ok := errors.AsType[http2.StreamError](err); !ok || s.Code != http2.ErrCodeConnect {
		t.Errorf("a target's reset is %v", err)
	}

	up, udp := open(t, tr, &http.Request{
		Method: http.MethodPost, URL: &url.URL{Scheme: "https", Host: "agent", Path: "/.well-known/masque/udp/echo.test/7/"},
		Header: http.Header{"X402-Protocol": {"connect-udp"}, "Capsule-Protocol": {"?1"}},
	})
	capsule := append([]byte{0, 4, 0}, "abc"...) // a DATAGRAM of context zero
	if _, err := up.Write(capsule); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(capsule))
	if _, err := io.ReadFull(udp, b); err != nil || string(b) != string(capsule) {
		t.Errorf("%q, %v", b, err)
	}
	up.Close()
	udp.Close()
	tr.CloseIdleConnections()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	targets.Wait()
}

// open sends a request whose body is still to be written.
func open(t *testing.T, tr *http.Transport, req *http.Request) (io.WriteCloser, io.ReadCloser) {
	t.Helper()
	r, w := io.Pipe()
	req.Body = r
	if req.Header == nil {
		req.Header = http.Header{}
	}
	res, err := tr.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
	return w, res.Body
}

// TestListener has peers that do not finish their handshake, too many that do,
// and the wrong key.
func TestListener(t *testing.T) {
	key, hash := newKey(t)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := h2.Listen(h2.ListenConfig{Listener: ln, Key: key, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	silent, noise := dial(), dial()
	if _, err := noise.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(noise); err != nil && !errors.Is(err, io.EOF) { // an alert, and the end
		t.Logf("noise: %v", err)
	}
	if _, err := h2.Client(t.Context(), dial(), &[32]byte{1}); !errors.Is(err, h2.ErrWrongKey) {
		t.Errorf("wrong key: %v", err)
	}
	for range 2 {
		c, err := h2.Client(t.Context(), dial(), &hash)
		if err != nil {
			t.Fatal(err)
		}
		s, addr, err := l.Accept(t.Context())
		if err != nil || addr == nil {
			t.Fatal(err)
		}
		if s.Context().Err() != nil || c.PeerKeyHash() != hash || c.CipherSuite() == 0 {
			t.Error("not a connection")
		}
		defer c.Close(tunnel.ReasonDone, "")
	}
	over, err := h2.Client(t.Context(), dial(), &hash)
	if err != nil {
		t.Fatal(err)
	}
	<-over.Context().Done()
	if closed, ok := errors.AsType[*tunnel.CloseError](context.Cause(over.Context())); !ok || closed.Reason != tunnel.ReasonLimit {
		t.Errorf("a third: %v", context.Cause(over.Context()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := l.Close(); err != nil { // ends the silent one too
		t.Error(err)
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the silent one got something")
	}
	if _, _, err := l.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestSilentHandshake ends after ten seconds on either side.
func TestSilentHandshake(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			near, far := tunneltest.Cable(time.Millisecond)
			start := time.Now()
			var err error
			if client {
				_, err = h2.Client(t.Context(), near, nil)
			} else {
				key, _ := newKey(t)
				cert, cerr := h2.Certificate(key)
				if cerr != nil {
					t.Fatal(cerr)
				}
				_, err = h2.Server(t.Context(), near, h2.ServerConfig{Certificate: cert})
			}
			if took := time.Since(start); err == nil || took > 11*time.Second {
				t.Errorf("%v after %v", err, took)
			}
			far.Close()
		})
	}
}

// TestDeadPath cuts the cable: both ends notice, and what waits ends.
func TestDeadPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := tunneltest.Cable(10 * time.Millisecond)
		p := tunneltest.NewPair(t, connect(t, near, far, tunneltest.Path{}), tunneltest.Options{})
		f, err := p.Client.DialTCP(t.Context(), "nobody.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		tunneltest.Pass(time.Minute)
		near.Cut()
		start := time.Now()
		p.Go(func() { f.Write(make([]byte, 64<<20)) })
		<-p.Conn.Context().Done()
		if took := time.Since(start); took < 40*time.Second || took > 75*time.Second {
			t.Errorf("noticed after %v", took)
		}
		if err := context.Cause(p.Conn.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("cause %v", err)
		}
		f.Close()
		p.Close()
	})
}

// TestPeerThatStopsReading fills what lies between, and is noticed.
func TestPeerThatStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, _ := newKey(t)
		cert, err := h2.Certificate(key)
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe() // which holds nothing
		var wg sync.WaitGroup
		wg.Go(func() {
			c := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
			if err := c.Handshake(); err != nil {
				t.Error(err)
			}
		})
		conn, err := h2.Client(t.Context(), near, nil)
		if err != nil {
			t.Fatal(err)
		}
		req, err := conn.Open(t.Context(), tunnel.Header{Method: http.MethodConnect, Authority: "host.test:80"})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := req.Write(make([]byte, 1000)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if took := time.Since(start); took > 75*time.Second {
			t.Errorf("noticed after %v", took)
		}
		conn.Close(tunnel.ReasonDone, "")
		far.Close()
		wg.Wait()
	})
}

// TestIdleTraffic counts what an idle connection costs the SIM.
func TestIdleTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := tunneltest.Cable(10 * time.Millisecond)
		meter := &metered{Conn: near}
		ends := connect(t, meter, far, tunneltest.Path{})
		tunneltest.Pass(time.Minute)
		before := meter.total()
		tunneltest.Pass(time.Hour)
		packets, bytes := meter.total().packets-before.packets, meter.total().bytes-before.bytes
		if cost := bytes + 52*packets*3/2; packets == 0 || cost > 40<<10 { // each with heads of TCP, half of them acknowledged alone
			t.Errorf("%d packets, %d bytes an hour", packets, cost)
		}
		ends.Client.Close(tunnel.ReasonDone, "")
		ends.Server.Close(tunnel.ReasonDone, "")
	})
}

type traffic struct{ packets, bytes int }

// A metered connection counts what passes.
type metered struct {
	net.Conn
	mu    sync.Mutex
	count traffic
}

func (m *metered) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count.packets++
	m.count.bytes += n
}

func (m *metered) total() traffic {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count
}

func (m *metered) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.add(n)
	return n, err
}

func (m *metered) Write(b []byte) (int, error) {
	m.add(len(b))
	return m.Conn.Write(b)
}

// TestStreamLimit makes Open wait for a place.
func TestStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := simulated(t, tunneltest.Path{Streams: 3, Delay: time.Millisecond})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = ends.Server.Serve(func(_ tunnel.Header, c tunnel.Call) {
				if s, err := c.Accept(nil); err == nil {
					io.Copy(s, s)
				}
			})
		})
		tunneltest.Pass(time.Second) // for the agent's settings
		var open []tunnel.Request
		h := tunnel.Header{Method: http.MethodConnect, Authority: "host.test:80"}
		for range 3 {
			req, err := ends.Client.Open(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, req)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ends.Client.Open(ctx, h); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a fourth: %v", err)
		}
		wg.Go(func() {
			tunneltest.Pass(time.Second)
			open[1].Close()
			io.Copy(io.Discard, open[1])
		})
		start := time.Now()
		if _, err := ends.Client.Open(t.Context(), h); err != nil || time.Since(start) < time.Second {
			t.Errorf("a place that was left: %v after %v", err, time.Since(start))
		}
		if _, err := ends.Client.Open(t.Context(), tunnel.Header{Method: http.MethodGet, Authority: "x", Path: "/", Fields: tunnel.Fields{"a": {string(make([]byte, 9000))}}}); err == nil {
			t.Error("a head of 9,000 bytes")
		}
		if _, err := ends.Client.Open(t.Context(), tunnel.Header{Method: http.MethodGet, Authority: "x", Path: "no path"}); err == nil {
			t.Error("a path that is none")
		}
		ends.Client.Close(tunnel.ReasonDone, "")
		ends.Server.Close(tunnel.ReasonDone, "")
		wg.Wait()
	})
}
