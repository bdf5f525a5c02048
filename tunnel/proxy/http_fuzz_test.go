package proxy

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

func FuzzHTTPRequest(f *testing.F) {
	f.Add([]byte("GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
	f.Add([]byte("CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\nearly"))
	f.Add([]byte("POST http://[2001:db8::1]:8080/a?b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n"))
	f.Add([]byte("GET http://shop.test/chat HTTP/1.1\r\n" + upgradeFields))
	f.Add([]byte("GET https://shop.test/ HTTP/1.0\r\n\r\n"))
	f.Add([]byte("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"))
	cfg, err := Config{Tunnel: &testTunnel{}}.fill()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		want, bad := requestTarget(r)
		var got []target
		cfg := cfg
		cfg.Tunnel = &testTunnel{tcp: func(host string, port uint16) (net.Conn, error) {
			got = append(got, target{host, port})
			return answered(), nil
		}}
		p := newHTTPProxy(t.Context(), &gate{cfg: cfg})
		defer p.close()
		w := httptest.NewRecorder()
		func() {
			defer func() {
				if v := recover(); v != nil && v != http.ErrAbortHandler {
					panic(v)
				}
			}()
			p.ServeHTTP(w, r)
		}()
		if bad != nil && (len(got) > 0 || w.Code < 400) {
			t.Fatalf("%q: refused with %d, but dialled %q and answered %d", b, bad.status, got, w.Code)
		}
		for _, g := range got {
			if again, err := newTarget(g.host, g.port); err != nil || again != g || g.host != want.host || g.port != want.port {
				t.Fatalf("%q: dialled %q, want %q: %v", b, g, want, err)
			}
		}
	})
}

// answered is a flow to a site that answers once, with an empty page.
func answered() net.Conn {
	flow, _ := newFlow()
	return &answeredFlow{
		memFlow: flow,
		page:    strings.NewReader("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
		asked:   make(chan struct{}),
		closed:  make(chan struct{}),
	}
}

type answeredFlow struct {
	*memFlow
	page          *strings.Reader
	asked, closed chan struct{}
	once, end     sync.Once
}

func (a *answeredFlow) Write(b []byte) (int, error) {
	a.once.Do(func() { close(a.asked) })
	return len(b), nil
}

func (a *answeredFlow) Read(b []byte) (int, error) {
	select {
	case <-a.asked:
		return a.page.Read(b)
	case <-a.closed:
		return 0, net.ErrClosed
	}
}

func (a *answeredFlow) Close() error {
	a.end.Do(func() { close(a.closed) })
	return nil
}
