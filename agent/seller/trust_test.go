package seller

import (
	"testing"

	"github.com/depinsim/x402/agent"
)

// TestTrust: what former sessions lost is held against a buyer, who is served
// all the same when he pays in advance, and anew on credit when he has paid for
// ten times as much as was lost.
func TestTrust(t *testing.T) {
	const lost = 250_000 // bytes: more than a stranger's credit
	a := account{policy: agent.CreditPolicy{}.WithDefaults(), balance: 1_000_000, total: 1_000_000}
	a.tally = agent.Tally{Session: 2, Price: agent.Price{Up: 4_000_000, Down: 4_000_000}, Base: 400, BaseDown: 100_000, Down: 100_000, Lost: lost}
	a.paid = 400
	if got := a.trust(); got != 0 {
		t.Errorf("trust %d with %d bytes lost", got, lost)
	}
	if got := a.limit(); got != 0 {
		t.Errorf("%d bytes on credit", got)
	}
	a.paid += 800
	// 800 in advance and 525 on credit, less the 240,000 bytes that are held.
	if got, want := a.limit(), uint64((800+800)*250-240_000); got > want || got == 0 {
		t.Errorf("%d bytes for 800 in advance, at most %d", got, want)
	}
	a.tally.Down = 10 * lost
	if got := a.trust(); got != a.credit() {
		t.Errorf("trust %d of the credit %d when all is forgiven", got, a.credit())
	}
}
