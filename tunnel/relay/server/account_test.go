package server

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// A fakeToll has one account, for who knows the word.
type fakeToll struct{ one *Account }

func (f fakeToll) Account(w http.ResponseWriter, r *http.Request) *Account {
	if r.Header.Get("Authorization") != "Bearer word" {
		answer(w, http.StatusPaymentRequired, map[string]string{"error": "pay", "code": "payment_required", "toll": "dear"})
		return nil
	}
	return f.one
}

func (f fakeToll) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, map[string]string{"toll": r.Method + " " + r.URL.Path})
}

// TestTollCounts: what the relay counts for an account is what its buyer
// counts, over UDP, to the byte; and the account's end ends the session.
func TestTollCounts(t *testing.T) {
	a := new(Account)
	r := startRelay(t, func(c *Config) { c.Toll = fakeToll{a} })
	agent, _, sessions, _ := known(t, r, 1)
	tls := agent.serveEcho(t)
	client := market.New(market.Config{Name: r.name})
	defer client.Close()
	if toll, err := client.Toll(t.Context()); err != nil || string(toll) != `"GET /v1/relay"` {
		t.Errorf("asked for the toll: %s, %v", toll, err)
	}
	_, err := client.Session(t.Context(), market.Request{Agent: testAgent(1)})
	refused, ok := errors.AsType[*market.RefusedError](err)
	if !ok || refused.Status != http.StatusPaymentRequired || refused.Code != "payment_required" || string(refused.Toll) != `"dear"` {
		t.Fatalf("without an account: %v", err)
	}
	mine, err := client.Session(t.Context(), market.Request{Agent: testAgent(1), Account: "word"})
	if err != nil {
		t.Fatal(err)
	}
	agent.bind(t, <-sessions)
	a.Extend(64 << 20)
	buyer, count := newParty(t, path.Config{}), new(path.Count)
	b, err := buyer.socket.Bind(t.Context(), path.Relay{Addr: mine.Address, Session: path.ID(mine.ID), Token: path.Key(mine.Token), Count: count})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := buyer.transport.Dial(t.Context(), udpAddr(b.Addr()), tls, &quicgo.Config{})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, conn, 4<<20)
	_ = conn.CloseWithError(0, "")
	equal := func() bool {
		up, down := a.Passed()
		return up == count.Sent() && down == count.Received() && up > 4<<20 && down > 4<<20
	}
	for deadline := time.Now().Add(10 * time.Second); !equal() && time.Now().Before(deadline); {
		pauseTest()
	}
	if up, down := a.Passed(); !equal() {
		t.Errorf("the relay counts %d up and %d down, the buyer %d and %d", up, down, count.Sent(), count.Received())
	}
	if a.Sessions() != 1 {
		t.Errorf("%d sessions", a.Sessions())
	}
	a.End()
	for deadline := time.Now().Add(10 * time.Second); a.Sessions() > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the session goes on after the account's end")
		}
		pauseTest()
	}
}

func pauseTest() { <-time.After(5 * time.Millisecond) }

// TestTollSplice: a session over TCP waits when its account is used up, loses
// nothing, and is counted without its preambles.
func TestTollSplice(t *testing.T) {
	a := new(Account)
	r := startRelay(t, func(c *Config) { c.Toll = fakeToll{a} })
	_, _, sessions, _ := known(t, r, 1)
	client := market.New(market.Config{Name: r.name})
	defer client.Close()
	mine, err := client.Session(t.Context(), market.Request{Agent: testAgent(1), Transport: "tcp", Account: "word"})
	if err != nil {
		t.Fatal(err)
	}
	join := func(x relay.Allotment) *net.TCPConn {
		c := r.tcpFrom(t, "127.0.0.1").(*net.TCPConn)
		if _, err := c.Write(relay.Preamble(x.ID, x.Token)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	buyer, agent := join(mine), join(<-sessions)
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if _, err := buyer.Write(text); err != nil {
			t.Error(err)
		}
		_ = buyer.CloseWrite()
	})
	_ = agent.SetReadDeadline(time.Now().Add(30 * time.Second))
	got := make([]byte, 0, len(text))
	for _, limit := range []int{1, 1000, 100_000, len(text) + 5} {
		a.Extend(uint64(limit))
		part := make([]byte, min(limit, len(text))-len(got))
		if _, err := io.ReadFull(agent, part); err != nil {
			t.Fatal(err)
		}
		got = append(got, part...)
		if up, _ := a.Passed(); up > uint64(limit) {
			t.Errorf("%d bytes passed of %d", up, limit)
		}
	}
	if rest, err := io.ReadAll(agent); err != nil || len(rest) > 0 || !bytes.Equal(got, text) {
		t.Errorf("%d bytes, %d more, %v", len(got), len(rest), err)
	}
	if _, err := agent.Write([]byte("down")); err != nil {
		t.Error(err)
	}
	_ = agent.Close()
	if back, err := io.ReadAll(buyer); err != nil || string(back) != "down" {
		t.Errorf("%q came back, %v", back, err)
	}
	if up, down := a.Passed(); up != uint64(len(text)) || down != 4 {
		t.Errorf("counted %d up, %d down", up, down)
	}
}

// TestAccountRest: who waits for an account that has ended to rest finds all that
// was on its way counted, and does not wait for ever for what never comes.
func TestAccountRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := new(Account)
		a.Extend(1_000)
		a.settle(buyerSide, a.reserve(300), 300)
		late, never := a.reserve(500), a.reserve(100)
		a.End()
		time.AfterFunc(time.Second/4, func() { a.settle(agentSide, never, 0) })
		time.AfterFunc(time.Second/2, func() { a.settle(agentSide, late, 400) })
		began := time.Now()
		a.Rest(t.Context())
		if up, down := a.Passed(); up != 300 || down != 400 {
			t.Errorf("%d up and %d down at rest", up, down)
		}
		if took := time.Since(began); took < time.Second/2 || took > time.Second/2+2*time.Millisecond {
			t.Errorf("at rest after %v", took)
		}
		a.taken.Add(1)
		began = time.Now()
		a.Rest(t.Context())
		if took := time.Since(began); took != restTime {
			t.Errorf("waited %v for what does not come", took)
		}
	})
}
