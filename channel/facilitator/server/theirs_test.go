package server_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/interop/peertest"
)

// TestTheirs: what of the cheats gets through the facilitator of the packages on
// npm. Contract wallets should. Vouchers whose signature the contract does not take
// should not: who serves for one has nothing to claim.
func TestTheirs(t *testing.T) {
	d, chain := onChain(t)
	url := peertest.Start(t).Facilitate(t, chain)
	c, err := nethttp.New(nethttp.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	theirs := &desk{c, d.params, d.party}
	honest(t, theirs)
	var through []string
	for _, cheats := range [][]cheat{d.foreign(t), d.otherTerms(t), d.contractWallets(t), d.signatures(), d.untimely()} {
		for _, cheat := range cheats {
			if cheat.payload.Claim != nil || cheat.payload.Settle != nil || cheat.unseen {
				continue
			}
			if _, err := theirs.verify(t, cheat.payload, cheat.change); err == nil {
				through = append(through, cheat.name)
			}
		}
	}
	slices.Sort(through)
	want := []string{
		"a contract wallet's deposit", "a contract wallet's deposit, with a key for vouchers", "a contract wallet's transfer",
		"upper s: deposit's voucher", "upper s: voucher", "v of 0 or 1: deposit's voucher", "v of 0 or 1: voucher",
	}
	if diff := cmp.Diff(want, through); diff != "" {
		t.Errorf("what they let through (-want +got):\n%s", diff)
	}
}
