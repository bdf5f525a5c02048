package quic_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

func TestUnpaidClientGets402(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{})
		key, hash := newKey(t)
		ln, err := quic.Listen(quic.ListenConfig{Conn: l.server, Key: key})
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
				wg.Go(func() {
					_ = tunnel.NewSession(conn, tunnel.Config{
						Dialer: &tunneltest.Net{},
						Unpaid: func() tunnel.Fields { return tunnel.Fields{"payment-required": {"terms"}} },
					}).Run()
				})
			}
		})
		other := [32]byte{1}
		dialer := quic.NewDialer(l.client)
		if _, err := dialer.Dial(context.Background(), l.server.LocalAddr(), &other); !errors.Is(err, quic.ErrWrongKey) {
			t.Errorf("wrong key: %v", err)
		}
		conn, err := dialer.Dial(context.Background(), l.server.LocalAddr(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if conn.PeerKeyHash() != hash {
			t.Error("peer key hash differs")
		}
		if s := conn.CipherSuite(); s != tls.TLS_AES_128_GCM_SHA256 && s != tls.TLS_CHACHA20_POLY1305_SHA256 && s != tls.TLS_AES_256_GCM_SHA384 {
			t.Errorf("cipher %x", s)
		}
		req, err := conn.Open(context.Background(), tunnel.Header{Method: http.MethodConnect, Authority: "example.com:80"})
		if err != nil {
			t.Fatal(err)
		}
		status, fields, err := req.Answer()
		if err != nil || status != http.StatusPaymentRequired || fields.Get("payment-required") != "terms" {
			t.Errorf("answer %d %v %v", status, fields, err)
		}
		conn.Close(tunnel.ReasonDone, "")
		ln.Close()
		dialer.Close()
		wg.Wait()
		l.close(t)
	})
}

// TestCrashIsToldAtOnce kills an agent without a goodbye. Another with the
// same reset key ends the buyer's connection at its next packet, one without
// leaves it to the time-out.
func TestCrashIsToldAtOnce(t *testing.T) {
	for name, reset := range map[string][32]byte{"reset key": {7}, "none": {}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, tunneltest.Path{Delay: 20 * time.Millisecond})
				key, hash := newKey(t)
				ln, err := quic.Listen(quic.ListenConfig{Conn: l.server, Key: key, ResetKey: reset})
				if err != nil {
					t.Fatal(err)
				}
				dialer := quic.NewDialer(l.client)
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
				tunneltest.Pass(time.Second)
				l.wire.lose(0)
				ln, err = quic.Listen(quic.ListenConfig{Conn: l.server, Key: key, ResetKey: reset})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				if _, err := req.Write(make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
				<-conn.Context().Done()
				if took := time.Since(start); (took < 3*time.Second) != (reset != [32]byte{}) {
					t.Errorf("the connection ended after %v", took)
				}
				if err := context.Cause(conn.Context()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("cause %v", err)
				}
				if _, err := conn.Open(t.Context(), tunnel.Header{Method: http.MethodConnect, Authority: "example.com:80"}); !errors.Is(err, net.ErrClosed) {
					t.Errorf("open: %v", err)
				}
				conn, err = dialer.Dial(t.Context(), l.server.LocalAddr(), &hash) // the new agent serves
				if err != nil {
					t.Fatal(err)
				}
				conn.Close(tunnel.ReasonDone, "")
				ln.Close()
				dialer.Close()
				l.close(t)
			})
		})
	}
}
