package seller

import (
	"net/netip"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
)

// TestRenewedIsRead has a relay tell of buyers by the connection that the agent is
// replacing, before and after that: the agent comes to each of them, and then ends
// that connection, which this relay does not.
func TestRenewedIsRead(t *testing.T) {
	w := &tower{}
	atTower(t, w, 0, func(s *Seller, _ *meteredNet) {
		after(time.Minute)
		l := s.relays[0]
		l.renews()
		for began := time.Now(); len(w.visits()) < 2; after(time.Millisecond) {
			if time.Since(began) > dialTime {
				t.Error("it is not replaced")
				return
			}
		}
		const buyers = 100 // one every 5 ms; a welcome takes 20
		for i := range buyers {
			session := relay.Allotment{ID: relay.SessionID{byte(i + 1)}, Token: relay.Token{1}, Address: netip.MustParseAddrPort("10.0.0.9:444")}
			if err := w.visits()[0].say(relay.Message{Type: relay.TypeSession, Allotment: &session}); err != nil {
				t.Errorf("buyer %d: %v", i+1, err)
				break
			}
			after(5 * time.Millisecond)
		}
		after(time.Second)
		if got := l.status().Buyers; got != buyers {
			t.Errorf("the agent comes to %d of %d buyers", got, buyers)
		}
		after(farewell)
		if w.visits()[0].Context().Err() == nil {
			t.Error("the connection that was replaced is still there")
		}
		if err := w.visits()[1].Context().Err(); err != nil || !l.status().Connected {
			t.Errorf("and the one in its place is not: %v", err)
		}
	})
}
