package quic_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
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

// TestPlainClient has a client that knows HTTP/3 and nothing of this program.
func TestPlainClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: 5 * time.Millisecond})
		key, _ := newKey(t)
		ln, err := quic.Listen(quic.ListenConfig{Conn: l.server, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		var targets tunneltest.Net
		targets.HandleTCP("echo.test:7", func(c *tunneltest.Conn) { io.Copy(c, c); c.CloseWrite() })
		targets.HandleTCP("rst.test:80", func(c *tunneltest.Conn) { c.Read(make([]byte, 1)); c.SetLinger(0) })
		counter := tunneltest.NewCounter(tunneltest.Plenty)
		var wg sync.WaitGroup
		wg.Go(func() {
			conn, _, err := ln.Accept(context.Background())
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
		tr := &quicgo.Transport{Conn: l.client}
		conn, err := tr.Dial(t.Context(), l.server.LocalAddr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}, &quicgo.Config{EnableDatagrams: true})
		if err != nil {
			t.Fatal(err)
		}
		client := (&http3.Transport{EnableDatagrams: true}).NewClientConn(conn)

		res, err := client.RoundTrip(&http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: "agent", Path: "/offer"}, Header: http.Header{}})
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || string(body) != `"GET/offer"` || res.Header.Get("Content-Type") != "application/json" || res.Header.Get("Date") != "" {
			t.Errorf("%q %v %v", body, res.Header, err)
		}

		echo := connectPlain(t, client, "echo.test:7")
		if _, err := echo.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		echo.Close()
		if b, err := io.ReadAll(echo); string(b) != "hello" || err != nil {
			t.Errorf("%q %v", b, err)
		}
		if got := counter.Totals(); got.UpTCP != 5 || got.DownTCP != 5 {
			t.Errorf("counted %+v", got)
		}

		rst := connectPlain(t, client, "rst.test:80")
		if _, err := rst.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_, err = rst.Read(make([]byte, 1))
		if h, ok := errors.AsType[*http3.Error](err); !ok || h.ErrorCode != http3.ErrCodeConnectError || !h.Remote {
			t.Errorf("a target's reset is %v", err)
		}
		conn.CloseWithError(0x100, "")
		ln.Close()
		tr.Close()
		wg.Wait()
		targets.Wait()
		l.close(t)
	})
}

func connectPlain(t *testing.T, client *http3.ClientConn, authority string) *http3.RequestStream {
	t.Helper()
	str, err := client.OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := str.SendRequestHeader(&http.Request{Method: http.MethodConnect, Host: authority, URL: &url.URL{Host: authority}, Header: http.Header{}}); err != nil {
		t.Fatal(err)
	}
	res, err := str.ReadResponse()
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
	return str
}
