package server

import (
	"context"
	"net/netip"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// meet brings a buyer and an agent together by a relay, over UDP.
func meet(t *testing.T, r *rig, q market.Request) (buyer, agent *party, conn *quicgo.Conn) {
	t.Helper()
	agent = newParty(t, path.Config{})
	tls := agent.serveEcho(t)
	sessions := make(chan relay.Allotment, 4)
	a, err := relay.DialQUIC(t.Context(), agent.transport, r.addr(), r.config(testAgent(1), sessions))
	if err != nil {
		t.Fatal(err)
	}
	if want := agent.socket.LocalAddr().String(); a.Observed().String() != want {
		t.Errorf("observed %s, want %s", a.Observed(), want)
	}
	runAgent(t, a)
	r.dir.until(t, "offer", func() bool { return r.dir.offers[testAgent(1)] == `"offer"` })

	client := market.New(market.Config{Name: r.name})
	t.Cleanup(client.Close)
	page, err := client.Offers(t.Context(), market.Query{})
	if err != nil || len(page.Offers) != 1 {
		t.Fatalf("offers %+v, %v", page, err)
	}
	q.Agent = testAgent(1)
	mine, err := client.Session(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	theirs := <-sessions
	if mine.ID != theirs.ID || mine.Token == theirs.Token || mine.Address == theirs.Address || mine.Expires != 60 {
		t.Fatalf("buyer has %+v, agent %+v", mine, theirs)
	}
	agent.bind(t, theirs)
	buyer = newParty(t, path.Config{})
	b := buyer.bind(t, mine)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err = buyer.transport.Dial(ctx, udpAddr(b.Addr()), tls, &quicgo.Config{})
	if err != nil {
		t.Fatalf("dial through the relay: %v", err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	switch peer := b.Peer(); {
	case q.Direct && peer.String() != agent.socket.LocalAddr().String():
		t.Errorf("direct: peer %s, agent is at %s", peer, agent.socket.LocalAddr())
	case !q.Direct && peer != (netip.AddrPort{}):
		t.Errorf("not direct, and yet the peer is told: %s", peer)
	}
	return buyer, agent, conn
}

// TestThrough moves megabytes both ways through the relay, end to end.
func TestThrough(t *testing.T) {
	for name, direct := range map[string]bool{"relayed": false, "addresses told": true} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, nil)
			_, _, conn := meet(t, r, market.Request{Direct: direct})
			echo(t, conn, 8<<20)
			if n := r.packets.passed.Load(); n < 16<<20 {
				t.Errorf("%d bytes counted", n)
			}
		})
	}
}

// TestAgentMoves: the agent gets another address, binds again, and the
// connection goes on.
func TestAgentMoves(t *testing.T) {
	r := startRelay(t, nil)
	buyer, agent, conn := meet(t, r, market.Request{})
	echo(t, conn, 1<<20)
	before := agent.socket.LocalAddr().String()
	if err := agent.socket.Rebind(t.Context()); err != nil {
		t.Fatal(err)
	}
	if agent.socket.LocalAddr().String() == before {
		t.Fatal("the agent did not move")
	}
	echo(t, conn, 1<<20)
	if err := buyer.socket.Rebind(t.Context()); err != nil {
		t.Fatal(err)
	}
	echo(t, conn, 1<<20)
}
