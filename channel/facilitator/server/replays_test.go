package server_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/facilitatortest"
	"github.com/depinsim/x402/channel/ledger/evm"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// TestReplays: what was good once does nothing a second time, here or elsewhere.
func TestReplays(t *testing.T) {
	d, _ := onChain(t)
	p := d.party
	deposit, exact := p.Deposit(500, 10), p.Transfer(20)
	refund := p.Refund(300, 0, p.Row(10, 10))
	done := []x402.Payload{
		{Deposit: &deposit}, {Exact: &exact}, {Claim: new(p.Claim(10, 10))},
		{Settle: &x402.Settle{Receiver: p.Config.Receiver, Token: p.Config.Token}}, {Refund: &refund},
	}
	var first []x402.SettlementResponse
	for _, m := range done {
		r, err := d.settle(t, m, nil)
		if err != nil {
			t.Fatalf("%s: %v", m.Type(), err)
		}
		first = append(first, r)
	}
	was := d.holdings(t)
	if was.payer != 10_000-1_500-20+300 || was.receiver != 20+10 || was.channel.Balance != 1_200 {
		t.Fatalf("%+v", was)
	}
	// The same again is the same: it is answered by what was done then.
	for i, m := range done {
		r, err := d.settle(t, m, nil)
		if err != nil || r.Transaction != first[i].Transaction {
			t.Errorf("%s again: %+v, %v, was %s", m.Type(), r, err, first[i].Transaction)
		}
	}
	// An authorization is for one amount and one channel.
	other := deposit
	other.Deposit.Amount = 501
	_, err := d.settle(t, x402.Payload{Deposit: &other}, nil)
	wantCode(t, "its authorization for more", err, x402.ErrReceiveSignature)
	q := *p
	q.Config.Salt = channel.Hash{1}
	q.ID = d.params.Domain().ID(q.Config)
	other = q.Deposit(500, 10)
	other.Deposit = deposit.Deposit
	_, err = d.settle(t, x402.Payload{Deposit: &other}, nil)
	wantCode(t, "its authorization for another channel", err, x402.ErrReceiveSignature)
	// A refund is for one nonce, and for one amount.
	r := p.Refund(300, 0)
	_, err = d.settle(t, x402.Payload{Refund: &r}, nil)
	wantCode(t, "a refund under a nonce that was used", err, x402.ErrRefundFailed)
	r = p.Refund(300, 1)
	r.Amount = new(channel.Amount(301))
	_, err = d.settle(t, x402.Payload{Refund: &r}, nil)
	wantCode(t, "a refund of more than is signed", err, x402.ErrRefundFailed)
	if now := d.holdings(t); now != was {
		t.Errorf("money has moved:\n%s", cmp.Diff(was, now))
	}
}

// TestReplaysElsewhere: what one ledger has taken another refuses, a facilitator
// beside the first on the same chain, too.
func TestReplaysElsewhere(t *testing.T) {
	d, chain := onChain(t)
	p := d.party
	done := []x402.Payload{
		{Deposit: new(p.Deposit(500, 10))}, {Exact: new(p.Transfer(20))}, {Claim: new(p.Claim(10, 10))}, {Refund: new(p.Refund(300, 0))},
	}
	for _, m := range done {
		if _, err := d.settle(t, m, nil); err != nil {
			t.Fatalf("%s: %v", m.Type(), err)
		}
	}
	was := d.holdings(t)
	beside := facilitatorBeside(t, d, chain)
	for _, there := range []struct {
		name  string
		desk  *desk
		codes []string
	}{
		{"another facilitator of the chain", beside, []string{x402.ErrDepositFailed, x402.ErrExactNonceUsed, x402.ErrClaimFailed, x402.ErrRefundFailed}},
		{"another ledger", inMemory(t, 1<<41+7), []string{x402.ErrChannelID, x402.ErrExactSignature, x402.ErrClaimFailed, x402.ErrRefundFailed}},
		{"a third", inMemory(t, 1<<41+9), []string{x402.ErrChannelID, x402.ErrExactSignature, x402.ErrClaimFailed, x402.ErrRefundFailed}},
	} {
		before := there.desk.holdings(t)
		for i, m := range done {
			_, err := there.desk.settle(t, m, nil)
			wantCode(t, there.name+": "+m.Type(), err, there.codes[i])
		}
		if after := there.desk.holdings(t); after != before {
			t.Errorf("%s: money has moved:\n%s", there.name, cmp.Diff(before, after))
		}
	}
	if now := d.holdings(t); now != was {
		t.Errorf("money has moved:\n%s", cmp.Diff(was, now))
	}
}

// facilitatorBeside is another facilitator on a desk's chain, with a journal and a
// key of its own.
func facilitatorBeside(t *testing.T, d *desk, chain *evmtest.Chain) *desk {
	t.Helper()
	other := facilitatortest.Signer(t, chain, "other facilitator")
	home := facilitatortest.OnChain(t, chain, func(c *evm.Config) { c.Signer = other })
	return &desk{client(t, home), d.params, d.party}
}

// TestFeeToken: of a token that keeps a part of what is moved no deposit is made,
// and no transfer is said to have paid what did not arrive.
func TestFeeToken(t *testing.T) {
	fee := channel.Address{0xfe, 0xe0}
	chain := evmtest.Simulated(t, evmtest.Config{Place: []evmtest.Contract{evmtest.TokenAt(fee, "FeeToken", "FEE", "1")}})
	home := facilitatortest.OnChain(t, chain, func(c *evm.Config) { c.Token, c.Name, c.Version = fee, "FEE", "1" })
	p := ledgertest.NewParty(t, home.Params(), 1)
	d := &desk{client(t, home), home.Params(), p}
	chain.MintOf(fee, p.Config.Payer, 10_000)
	_, err := d.settle(t, x402.Payload{Deposit: new(p.Deposit(1_000, 10))}, nil)
	wantCode(t, "deposit", err, x402.ErrDepositFailed)
	if h := d.holdings(t); h.payer != 10_000 || h.channel.Balance != 0 {
		t.Errorf("after the deposit: %+v", h)
	}
	exact := x402.Payload{Exact: new(p.Transfer(1_000))}
	_, err = d.settle(t, exact, nil)
	wantCode(t, "transfer", err, x402.ErrExactValue)
	_, err = d.settle(t, exact, nil)
	wantCode(t, "transfer again", err, x402.ErrExactNonceUsed)
	if h := d.holdings(t); h.payer != 9_000 || h.receiver != 990 {
		t.Errorf("after the transfer: %+v", h)
	}
}
