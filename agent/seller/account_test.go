package seller

import (
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
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
