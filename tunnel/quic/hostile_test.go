package quic_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// TestHostileAgent answers a buyer's flow with what is no answer.
func TestHostileAgent(t *testing.T) {
	for name, answer := range map[string][]byte{
		"nothing":              nil,
		"noise":                []byte("GET / HTTP/1.1\r\n\r\n"),
		"header of a gigabyte": {0x01, 0xbf, 0xff, 0xff, 0xff},
		"data before a header": {0x00, 0x01, 'x'},
		"undecodable header":   {0x01, 0x03, 0xff, 0xff, 0xff},
		"half of a header":     {0x01, 0x10, 0x00},
		"settings":             {0x04, 0x00},
		"a push":               {0x05, 0x01, 0x00},
		"no status":            {0x01, 0x02, 0x00, 0x00},
		"interim for ever":     bytes.Repeat([]byte{0x01, 0x03, 0x00, 0x00, 0xd8}, 100),
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
				wg.Go(func() { serveRaw(ln, answer) })
				dialer := quic.NewDialer(l.client)
				conn, err := dialer.Dial(t.Context(), l.server.LocalAddr(), nil)
				if err != nil {
					t.Fatal(err)
				}
				ctl, err := tunnel.OpenControl(t.Context(), conn, "agent", tunneltest.All)
				if err != nil {
					t.Fatal(err)
				}
				client := tunnel.NewClient(conn, ctl, tunneltest.NewCounter(tunneltest.Plenty).Lanes())
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
