package interop

import (
	"testing"

	"github.com/depinsim/x402/channel/interop/peertest"
)

// TestNPM runs all cases with one process of theirs, each with a ledger or a chain
// of its own.
func TestNPM(t *testing.T) {
	p := peertest.Start(t)
	for _, n := range []struct {
		name string
		open func(*testing.T, *peertest.Peer) *market
	}{
		{"embedded", onLedger},
		{"anvil", onChain},
		{"anvil with their facilitator", onTheirs},
	} {
		t.Run(n.name, func(t *testing.T) {
			for _, c := range []struct {
				name string
				run  func(*testing.T, *peertest.Peer, *market)
			}{
				{"their client", theirClient},
				{"their client, exact", theirClientExact},
				{"their client forgets", theirClientForgets},
				{"their client, limits", theirClientLimits},
				{"their extensions", theirExtensions},
				{"our server forgets", ourServerForgets},
				{"their server", theirServer},
				{"their server, exact", theirServerExact},
				{"their server forgets", theirServerForgets},
				{"our client forgets", ourClientForgets},
			} {
				t.Run(c.name, func(t *testing.T) { c.run(t, p, n.open(t, p)) })
			}
		})
	}
}
