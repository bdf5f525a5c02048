package quic_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"maps"
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

// A host is an agent that answers every request with what it was sent, and
// lets all its buyers come back.
type host struct {
	t   *testing.T
	lab *lab
	key *ecdsa.PrivateKey
	ln  *quic.Listener
	wg  sync.WaitGroup

	mu      sync.Mutex
	owner   [32]byte // of the tickets
	served  map[string]int
	resumed []quic.Resumption
}

func newHost(t *testing.T, l *lab) *host {
	h := &host{t: t, lab: l, owner: [32]byte{7}, served: make(map[string]int)}
	h.key, _ = newKey(t)
	h.start()
	return h
}

func (h *host) start() {
	ln, err := quic.Listen(quic.ListenConfig{Conn: h.lab.server, Key: h.key, MaxStreams: 20})
	if err != nil {
		h.t.Fatal(err)
	}
	h.ln = ln
	h.wg.Go(func() {
		for {
			conn, _, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			h.wg.Go(func() { h.serve(conn.(*quic.ServerConn)) })
		}
	})
}

// restart forgets everything but the key.
func (h *host) restart() {
	h.ln.Close()
	h.wg.Wait()
	h.start()
}

func (h *host) serve(conn *quic.ServerConn) {
	h.mu.Lock()
	if r, ok := conn.Resumed(); ok {
		h.resumed = append(h.resumed, r)
	}
	owner, session := h.owner, uint64(len(h.resumed))
	h.mu.Unlock()
	conn.Resumable(owner, session)
	_ = conn.Serve(func(head tunnel.Header, c tunnel.Call) { // until the buyer goes
		h.mu.Lock()
		h.served[head.Authority]++
		h.mu.Unlock()
		str, err := c.Accept(nil)
		if err != nil {
			return
		}
		if _, err := io.Copy(str, str); err == nil {
			str.Close()
		}
	})
}

func (h *host) served1() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.served)
}

func (h *host) close() {
	h.ln.Close()
	h.wg.Wait()
}

// visit dials as usual and returns the ticket that the host gave, encoded.
func (h *host) visit(d *quic.Dialer) []byte {
	h.t.Helper()
	hash, err := quic.KeyHash(&h.key.PublicKey)
	if err != nil {
		h.t.Fatal(err)
	}
	conn, err := d.Dial(h.t.Context(), h.lab.server.LocalAddr(), &hash)
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close(tunnel.ReasonDone, "")
	if conn.Early() {
		h.t.Error("early without a ticket")
	}
	return h.ticket(conn)
}

func (h *host) ticket(conn *quic.ClientConn) []byte {
	h.t.Helper()
	tunneltest.Pass(time.Second)
	ticket, err := conn.Ticket()
	if ticket == nil || err != nil {
		h.t.Fatal("no ticket", err)
	}
	b, err := ticket.MarshalBinary()
	if err != nil {
		h.t.Fatal(err)
	}
	if again, err := conn.Ticket(); again != nil || err != nil {
		h.t.Error("the ticket was given twice", err)
	}
	return b
}

// resume comes back by a ticket.
func (h *host) resume(d *quic.Dialer, b []byte) *quic.ClientConn {
	h.t.Helper()
	ticket, err := quic.ParseTicket(b)
	if err != nil {
		h.t.Fatal(err)
	}
	conn, err := d.Resume(h.t.Context(), h.lab.server.LocalAddr(), ticket)
	if err != nil {
		h.t.Fatal(err)
	}
	return conn
}

func ask(t *testing.T, conn *quic.ClientConn, authority string) tunnel.Request {
	t.Helper()
	return open(t, conn, tunnel.Header{Method: http.MethodConnect, Authority: authority})
}

// echoed writes text, ends, and reads it back.
func echoed(t *testing.T, req tunnel.Request, text []byte) {
	t.Helper()
	if n, err := req.Write(text); n != len(text) || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if err := req.Close(); err != nil {
		t.Error(err)
	}
	if status, _, err := req.Answer(); status != http.StatusOK || err != nil {
		t.Fatal(status, err)
	}
	if got, err := io.ReadAll(req); !bytes.Equal(got, text) || err != nil {
		t.Errorf("%d bytes came back, want %d: %v", len(got), len(text), err)
	}
}

// withHost runs f with a host 20 ms away and a buyer's dialer.
func withHost(t *testing.T, f func(t *testing.T, h *host, d *quic.Dialer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: 20 * time.Millisecond})
		h := newHost(t, l)
		d := quic.NewDialer(l.client)
		f(t, h, d)
		d.Close()
		h.close()
		l.close(t)
	})
}

// TestResume comes back twice, each time by the ticket of the last visit, and
// has an answer after one round trip.
func TestResume(t *testing.T) {
	withHost(t, func(t *testing.T, h *host, d *quic.Dialer) {
		b := h.visit(d)
		for i := range 2 {
			ticket, err := quic.ParseTicket(b)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			conn := h.resume(d, b)
			if took := time.Since(began); took != 0 {
				t.Errorf("it is there after %v", took)
			}
			echoed(t, ask(t, conn, "a.test:1"), []byte("hello"))
			if took := time.Since(began); took > 41*time.Millisecond {
				t.Errorf("an answer after %v", took)
			}
			if err := conn.Settled(t.Context()); err != nil || !conn.Early() {
				t.Error("not early", err)
			}
			want := quic.Resumption{Owner: h.owner, Session: uint64(i), Secret: ticket.Secret}
			if len(h.resumed) != i+1 || h.resumed[i] != want {
				t.Errorf("resumed %v, want %v", h.resumed, want)
			}
			echoed(t, ask(t, conn, "b.test:1"), make([]byte, 200_000))
			b = h.ticket(conn)
			conn.Close(tunnel.ReasonDone, "")
		}
	})
}

// TestTicketIsNotTaken shows tickets that are no good. What was sent early
// arrives once, as it was sent.
func TestTicketIsNotTaken(t *testing.T) {
	for name, spoil := range map[string]func(h *host, d *quic.Dialer, b []byte) []byte{
		"used": func(h *host, d *quic.Dialer, b []byte) []byte {
			conn := h.resume(d, b)
			conn.Settled(h.t.Context())
			conn.Close(tunnel.ReasonDone, "")
			return b
		},
		"replaced":  func(h *host, d *quic.Dialer, b []byte) []byte { h.visit(d); return b },
		"restarted": func(h *host, _ *quic.Dialer, b []byte) []byte { h.restart(); return b },
		"old": func(_ *host, _ *quic.Dialer, b []byte) []byte {
			tunneltest.Pass(24 * time.Hour)
			return b
		},
		"older than TLS allows": func(_ *host, _ *quic.Dialer, b []byte) []byte {
			tunneltest.Pass(8 * 24 * time.Hour)
			return b
		},
		"crowded out": func(h *host, d *quic.Dialer, b []byte) []byte {
			for i := range 257 {
				h.owner = [32]byte{1, byte(i), byte(i >> 8)}
				h.visit(d)
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			withHost(t, func(t *testing.T, h *host, d *quic.Dialer) {
				b := spoil(h, d, h.visit(d))
				before := len(h.resumed)
				conn := h.resume(d, b)
				first, second, third := ask(t, conn, "first.test:1"), ask(t, conn, "second.test:1"), ask(t, conn, "third.test:1")
				if first.ID() != 0 || second.ID() != 4 || third.ID() != 8 {
					t.Errorf("streams %d, %d, %d", first.ID(), second.ID(), third.ID())
				}
				if _, err := first.Write([]byte("not wanted")); err != nil {
					t.Error(err)
				}
				first.Abort(0x10c)
				first.Stop(0x10c)
				echoed(t, second, []byte("second"))
				echoed(t, third, bytes.Repeat([]byte("third"), 40_000)) // more than is remembered
				if err := conn.Settled(t.Context()); err != nil || conn.Early() {
					t.Error("early", err)
				}
				if _, _, err := first.Answer(); err == nil {
					t.Error("what was aborted is answered")
				}
				echoed(t, ask(t, conn, "later.test:1"), []byte("later"))
				conn.Close(tunnel.ReasonDone, "")
				served := h.served1()
				delete(served, "first.test:1") // it may have been aborted before it was read
				want := map[string]int{"second.test:1": 1, "third.test:1": 1, "later.test:1": 1}
				if !maps.Equal(served, want) {
					t.Errorf("served %v, want %v", served, want)
				}
				if len(h.resumed) != before {
					t.Error("the agent says that it was resumed")
				}
			})
		})
	}
}

// TestReplayedFlight plays what a buyer sent to the agent once more, and to one
// that was started anew.
func TestReplayedFlight(t *testing.T) {
	withHost(t, func(t *testing.T, h *host, d *quic.Dialer) {
		b := h.visit(d)
		h.lab.wire.record()
		conn := h.resume(d, b)
		echoed(t, ask(t, conn, "once.test:1"), []byte("buy"))
		tape := h.lab.wire.recorded()
		if !conn.Early() {
			t.Fatal("not early")
		}
		replay := func() {
			t.Helper()
			for _, p := range tape {
				if err := h.lab.wire.SendPacket(p); err != nil {
					t.Error(err)
				}
			}
			tunneltest.Pass(time.Second)
			if served := h.served1(); served["once.test:1"] != 1 || len(served) != 1 || len(h.resumed) != 1 {
				t.Errorf("served %v, resumed %d times", served, len(h.resumed))
			}
		}
		replay() // to the connection itself
		conn.Close(tunnel.ReasonDone, "")
		tunneltest.Pass(time.Minute)
		replay() // to the agent
		tunneltest.Pass(time.Minute)
		h.restart()
		replay()
	})
}

// TestLateFlight keeps back what a buyer sent, who is back by another way and
// has gone when it arrives: the ticket has been replaced.
func TestLateFlight(t *testing.T) {
	withHost(t, func(t *testing.T, h *host, d *quic.Dialer) {
		b := h.visit(d)
		h.lab.wire.record()
		h.lab.wire.lose(1000)
		conn := h.resume(d, b)
		req := ask(t, conn, "late.test:1")
		if _, err := req.Write([]byte("buy")); err != nil {
			t.Fatal(err)
		}
		tunneltest.Pass(time.Second)
		conn.Close(tunnel.ReasonDone, "")
		if _, _, err := req.Answer(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("answer: %v", err)
		}
		if err := conn.Settled(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("settled: %v", err)
		}
		tape := h.lab.wire.recorded()
		h.lab.wire.lose(0)
		h.visit(d)
		for _, p := range tape {
			if err := h.lab.wire.SendPacket(p); err != nil {
				t.Error(err)
			}
		}
		tunneltest.Pass(time.Second)
		if served := h.served1(); len(served) != 0 || len(h.resumed) != 0 {
			t.Errorf("served %v, resumed %d times", served, len(h.resumed))
		}
	})
}

// TestTicketOfAnother has a ticket name another key than its session's.
func TestTicketOfAnother(t *testing.T) {
	withHost(t, func(t *testing.T, h *host, d *quic.Dialer) {
		ticket, err := quic.ParseTicket(h.visit(d))
		if err != nil {
			t.Fatal(err)
		}
		ticket.KeyHash[0]++
		conn, err := d.Resume(t.Context(), h.lab.server.LocalAddr(), ticket)
		if err != nil {
			t.Fatal(err)
		}
		req := ask(t, conn, "wrong.test:1")
		if _, _, err := req.Answer(); err == nil {
			t.Error("an agent with another key is read")
		}
		if err := conn.Settled(t.Context()); err == nil {
			t.Error("an agent with another key is taken")
		}
		conn.Close(tunnel.ReasonDone, "")
	})
}

// TestLostOpening loses the first packets of a resumed connection.
func TestLostOpening(t *testing.T) {
	withHost(t, func(t *testing.T, h *host, d *quic.Dialer) {
		b := h.visit(d)
		h.lab.wire.lose(1000)
		conn := h.resume(d, b)
		req := ask(t, conn, "a.test:1")
		tunneltest.Pass(100 * time.Millisecond)
		h.lab.wire.lose(0)
		echoed(t, req, []byte("hello"))
		if !conn.Early() {
			t.Error("not early")
		}
		conn.Close(tunnel.ReasonDone, "")
	})
}

func FuzzParseTicket(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{1}, 200))
	f.Fuzz(func(t *testing.T, b []byte) {
		ticket, err := quic.ParseTicket(b)
		if err != nil {
			return
		}
		again, err := ticket.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := quic.ParseTicket(again); err != nil {
			t.Errorf("its own encoding: %v", err)
		}
	})
}
