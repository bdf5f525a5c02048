package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
)

// TestCrashBehindHello kills a buyer when his hello has been sent, and nothing
// that comes after it: the agent may have served him for its credit by then. When he
// comes back he says so, and takes that for what it is, whether it was his first
// session or one behind another that had ended in order; and a debt beyond it for an
// overcount.
func TestCrashBehindHello(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	defer m.agent.stop(t)
	for _, tt := range []struct {
		name    string
		session uint64 // in which he is killed
		base    channel.Amount
		taken   bool
	}{
		{"in the first session", 1, 400, true},
		{"in the second", 2, 400, true},
		{"a debt that no credit explains", 2, 60_000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			live, left := filepath.Join(dir, "live.db"), filepath.Join(dir, "left.db")
			var mu sync.Mutex
			n, back, again := uint64(0), false, false
			c := &crook{lie: func(*agent.Reading) {}}
			c.terms = func(h agent.Hello) agent.Terms {
				mu.Lock()
				defer mu.Unlock()
				if h.Own.Cut != (back && !again) {
					t.Errorf("says that a crash cut it off: %t", h.Own.Cut)
				}
				again = back
				terms := honest(h)
				if n++; n == tt.session { // the hello has come: this is what a power cut would leave
					if err := os.WriteFile(left, must(os.ReadFile(live)), 0o600); err != nil {
						t.Error(err)
					}
				}
				if terms.Session = n; back {
					terms.Base = tt.base
				}
				return terms
			}
			c.listen(t, m)
			for range tt.session {
				if err := c.visit(t, m, live); err != nil && strings.Contains(err.Error(), "overcounts") {
					t.Fatal(err)
				}
			}
			mu.Lock()
			back = true
			mu.Unlock()
			err := c.visit(t, m, left)
			if taken := err == nil || !strings.Contains(err.Error(), "overcounts"); taken != tt.taken {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// visit buys from the crook until connected, with the records in a file.
func (c *crook) visit(t *testing.T, m *market, records string) error {
	t.Helper()
	store, err := bolt.Open(records)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = buyer.Run(ctx, buyer.Config{
		Key: m.wallet, Store: store, Offer: c.offer, Budget: 1_000_000, MaxPrice: 5_000_000, SOCKS: listen(t), Keep: true,
		Logger: m.log.With("side", "visitor"),
		OnStatus: func(s buyer.Status) {
			if s.State == "connected" {
				cancel()
			}
		},
	})
	return err
}
