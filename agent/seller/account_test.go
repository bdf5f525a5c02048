package seller

import (
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
)

// TestTrust is what a buyer is told of the credit after earlier sessions lost
// something: all that is left, or nothing when no packet would fit.
func TestTrust(t *testing.T) {
	price := agent.Price{Up: 4_000_000, Down: 4_000_000}
	for _, tt := range []struct {
		lost, down uint64
		want       channel.Amount
	}{
		{0, 0, 525},
		{64_000, 0, 525 - 256},
		{65_000, 0, 525 - 260},
		{66_000, 0, 0}, // 261 are left, 64 KiB cost 263
		{10_000_000, 0, 0},
		{66_000, 200_000, 525 - 184}, // a tenth is forgiven
		{66_000, 700_000, 525},
	} {
		a := account{
			policy: agent.CreditPolicy{}.WithDefaults(), total: 1_000_000,
			tally: agent.Tally{Price: price, Lost: tt.lost, Down: tt.down, BaseDown: tt.down},
		}
		if got := a.trust(); got != tt.want {
			t.Errorf("lost %d of %d: trusted with %d, want %d", tt.lost, tt.down, got, tt.want)
		}
	}
}

// TestAdmissionIsOwedFor is a buyer who wants what it denies forgiven, by
// admitting bytes for which it owes nothing.
func TestAdmissionIsOwedFor(t *testing.T) {
	for name, own := range map[string]agent.Tally{
		"first session": {},
		"free session":  {Session: 1, Price: agent.Price{Up: 5}},
	} {
		h := agent.Hello{Own: agent.Counts{Session: own.Session, Down: 1 << 60}}
		tally, err := resume(own, [32]byte{}, channel.ID{}, h).Next(agent.Price{Down: 2_000_000})
		if err != nil {
			t.Fatal(name, err)
		}
		a := account{policy: agent.CreditPolicy{}.WithDefaults(), tally: tally, balance: 1e6, total: 1e6}
		a.update(meter.Reading{DownTCP: 100_000})
		a.tally = a.close()
		if a.held() != 100_000 {
			t.Errorf("%s: %d of 100000 denied bytes are held against the buyer", name, a.held())
		}
	}
}
