package seller

import (
	"errors"
	"fmt"
	"testing"

	"github.com/depinsim/x402/tunnel/relay"
)

// TestRelayPause: a relay that stops is looked for again at once, and from then on
// like one that is gone, or its drain alone would use up what tries there are.
func TestRelayPause(t *testing.T) {
	drain := fmt.Errorf("relay: %w", relay.ErrDrain)
	for _, tt := range []struct {
		err    error
		failed int
		soon   bool
	}{
		{drain, 0, true},
		{drain, 1, false},
		{errors.New("connection refused"), 0, false},
	} {
		for range 100 {
			pause, next := relayPause(tt.err, tt.failed, relayRetryMin)
			switch {
			case tt.soon && (pause >= drainRetry || next != relayRetryMin):
				t.Errorf("%v after %d: waits %v, then about %v", tt.err, tt.failed, pause, next)
			case !tt.soon && (pause < relayRetryMin/2 || pause >= 3*relayRetryMin/2 || next != 2*relayRetryMin):
				t.Errorf("%v after %d: waits %v, then about %v", tt.err, tt.failed, pause, next)
			}
		}
	}
	if _, next := relayPause(drain, 9, relayRetryMax); next != relayRetryMax {
		t.Errorf("backs off to %v", next)
	}
}

// TestCommand: of several SIMs the owner is told which one a command is for.
func TestCommand(t *testing.T) {
	if got := (&Seller{}).command("sim accept"); got != "x402-agent sim accept" {
		t.Error(got)
	}
	if got := (&Seller{cfg: Config{Name: "two"}}).command("sim accept"); got != "x402-agent sim accept --sim two" {
		t.Error(got)
	}
}

func TestGigabytes(t *testing.T) {
	for n, want := range map[uint64]string{20_000_000: "20.0 MB", 999_999_999: "999.9 MB", 12_340_000_000: "12.3 GB"} {
		if got := gigabytes(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
