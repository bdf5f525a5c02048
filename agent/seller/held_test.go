package seller

import (
	"strings"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
)

// TestHeld: what former sessions lost is held against a buyer, who is served
// all the same when he pays in advance, and anew on credit when he has paid for
// ten times as much as was lost.
func TestHeld(t *testing.T) {
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
	if got, want := a.limit(), uint64((800+525)*250-240_000); got != want {
		t.Errorf("%d bytes for 800 in advance, want %d", got, want)
	}
	a.tally.Down = 10 * lost
	if got := a.trust(); got != a.credit() {
		t.Errorf("trust %d of the credit %d when all is forgiven", got, a.credit())
	}
}

// TestOverdrawn: what no buyer pays in advance is said, with the reason.
func TestOverdrawn(t *testing.T) {
	price := agent.Price{Up: 4_000_000, Down: 4_000_000} // 250 bytes a unit
	for name, tt := range map[string]struct {
		lost uint64
		owed channel.Amount
		want string
	}{
		"nothing lost":          {0, 0, ""},
		"a stranger's":          {196_750, 0, ""}, // twice 525 units, less 64 KiB
		"more than a stranger":  {196_751, 0, "lost 196751 bytes that were sent and never acknowledged, worth 0.000788 USD"},
		"one who paid":          {263_000, 10_000, ""},
		"one who is ahead":      {215_500, 0, ""},
		"the most in advance":   {12_565_500, 1_000_000, ""}, // 50,000 and 525 units, less 64 KiB
		"more than the most":    {12_700_000, 1_000_000, "lost 12700000 bytes"},
		"what 10% do not cover": {1 << 40, 1_000_000, "worth 4398.04"},
	} {
		a := account{policy: agent.CreditPolicy{}.WithDefaults(), balance: 2_000_000, total: 1_000_000, paid: tt.owed}
		a.tally = agent.Tally{Session: 2, Price: price, Base: tt.owed, Lost: tt.lost}
		if name == "one who is ahead" {
			a.paid = 600
		}
		if got := a.overdrawn(); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// TestExposed is what a buyer gains who leaves now and denies what it can.
func TestExposed(t *testing.T) {
	price := agent.Price{Up: 4_000_000, Down: 4_000_000}
	a := account{policy: agent.CreditPolicy{}.WithDefaults(), tally: agent.Tally{Session: 1, Price: price}, balance: 1_000_000, total: 1_000_000}
	step := func(what string, want channel.Amount) {
		t.Helper()
		if got := a.exposed(); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	a.update(meter.Reading{DownTCP: 100_000})
	step("sent", 400)
	if debt, _ := a.debt(); debt != 0 {
		t.Errorf("nothing is acknowledged, and %d are owed", debt)
	}
	a.buyer.ReceivedTCP = 50_000
	a.update(meter.Reading{DownTCP: 100_000, UpTCP: 25_000})
	step("half acknowledged, something sent up", 500)
	a.paid = 300
	step("paid what was owed", 200)
	a.paid = 10_000
	step("paid in advance", 0)
	a.paid, a.buyer.ReceivedTCP = 500, 100_000
	a.buyer.ReceivedUDP = 100_000
	a.update(meter.Reading{DownTCP: 100_000, UpTCP: 25_000, DownUDP: 110_000})
	step("lost datagrams", 400)
	a.tally.Lost = 1 << 63
	a.tally.Price.Down = agent.MaxPrice
	step("more than there is", ^channel.Amount(0))
}

// TestExposedToOthers: the bound over all channels holds what was sent and not
// acknowledged, too, in sessions that are and in those that were.
func TestExposedToOthers(t *testing.T) {
	s := &Seller{cfg: Config{TotalCredit: 1_000}, sessions: make(map[channel.ID]*session)}
	for i := range byte(3) {
		x := &session{s: s, id: channel.ID{i}}
		x.view.Store(&SessionStatus{Debt: 10, Exposed: 100})
		s.sessions[x.id] = x
	}
	if got := s.exposedToOthers(s.sessions[channel.ID{0}]); got != 200 {
		t.Errorf("%d by two others, want 200", got)
	}
	s.leftBehind = 1 << 60
	if got := s.exposedToOthers(s.sessions[channel.ID{0}]); got != 700 {
		t.Errorf("%d with what was left behind, want 700", got)
	}
}
