package main

import (
	"bytes"
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
)

// TestRotateCommand: nothing is ordered that its user did not agree to, and what
// came of it is said.
func TestRotateCommand(t *testing.T) {
	state := t.TempDir()
	rotate := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		code = execute(t.Context(), append([]string{"rotate", "--state", state}, args...), &out, &errs)
		return code, out.String(), errs.String()
	}
	if code, _, errs := rotate("--yes"); code != exitFailed || !strings.Contains(errs, "no buyer answers\nhint: x402 connect --state ") {
		t.Errorf("%d %s", code, errs)
	}
	ln, err := agent.ListenPrivate(filepath.Join(state, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	price, old := channel.Amount(20_000), netip.MustParseAddr("203.0.113.7")
	changed := agent.Rotated{Changed: true, Old: old, New: old.Next(), Price: price}
	orders := make(chan buyer.RotationOrder)
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return buyer.ServeControl(ctx, ln, orders, nil) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	for _, tt := range []struct {
		args    string
		asks    *channel.Amount
		came    agent.Rotated
		code    int
		ordered bool
		want    string
	}{
		{"--yes", &price, changed, exitOK, true, "203.0.113.7 is 203.0.113.8 now; charged 0.02 USD\n"},
		{"--price 0.02", &price, changed, exitOK, true, "203.0.113.7 is 203.0.113.8 now; charged 0.02 USD\n"},
		{"--yes --json", &price, changed, exitOK, true, `"price": "20000"`},
		{"", new(channel.Amount), agent.Rotated{Changed: true, Old: old, New: old.Next()}, exitOK, true, "charged 0.00 USD"},
		{"", &price, changed, exitUsage, false, "the agent asks 0.02 USD for another address\nhint: agree to it with --yes, or to what you say with --price"},
		{"--price 0.01", &price, changed, exitFailed, false, "the agent asks 0.02 USD, --price allows 0.01"},
		{"--price lots", &price, changed, exitUsage, false, "--price: "},
		{"--yes", nil, changed, exitFailed, false, "the agent does not change its address for buyers"},
		{"--yes", &price, agent.Rotated{Error: "the carrier gave the same address again"}, exitFailed, true, "the address was not changed, and nothing was charged: the carrier gave"},
	} {
		done, ordered := make(chan struct{}), false // closed when the command has ended
		g.Go(func() error {
			for {
				select {
				case o := <-orders:
					r := buyer.RotationReport{Asks: tt.asks}
					if o.Most != nil {
						ordered = true
						r.Rotated = tt.came
					}
					if o.Most != nil && *o.Most != *tt.asks {
						t.Errorf("%s: ordered for %s", tt.args, o.Most.USD())
					}
					o.Done <- r
				case <-done:
					return nil
				}
			}
		})
		code, out, errs := rotate(strings.Fields(tt.args)...)
		close(done)
		if code != tt.code || ordered != tt.ordered || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%q: %d, ordered %v: %s%s", tt.args, code, ordered, out, errs)
		}
	}
}
