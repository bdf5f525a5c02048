package server_test

import (
	"errors"
	"math/big"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/facilitatortest"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// never is a time that does not come; it fits the contract's words and ours.
const never = 1<<62 - 1

// A desk is a facilitator where a party has a channel of 1000 units and 9000 left.
type desk struct {
	*facilitator.Client
	params ledger.Params
	party  *ledgertest.Party
}

// newDesk opens a facilitator on a ledger where mint makes money.
func newDesk(t *testing.T, l server.Ledger, mint func(to channel.Address, amount channel.Amount)) *desk {
	t.Helper()
	d := &desk{client(t, l), l.Params(), ledgertest.NewParty(t, l.Params(), 1)}
	mint(d.party.Config.Payer, 10_000)
	if _, err := d.settle(t, x402.Payload{Deposit: new(d.party.Deposit(1_000, 1))}, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

// client is one of a facilitator on a ledger.
func client(t *testing.T, l server.Ledger) *facilitator.Client {
	t.Helper()
	s, err := server.New(server.Config{Ledger: l})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	c, err := nethttp.New(nethttp.Config{URL: web.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// inMemory is a desk on a ledger of ours.
func inMemory(t *testing.T, chainID uint64) *desk {
	t.Helper()
	l := ledger.NewMemory(ledger.Params{ChainID: chainID, Token: evmtest.Token(), Name: "USDC", Version: "2"})
	return newDesk(t, l, func(to channel.Address, amount channel.Amount) {
		op := ledger.Issue{Ref: channel.Hash{1}, To: to, Amount: amount}
		if _, err := l.Submit(t.Context(), ledger.Tx{Time: 1, Op: op}); err != nil {
			t.Fatal(err)
		}
	})
}

// wallet is a contract's address, which signs by EIP-1271 what its owner, the
// payer, signs.
func wallet() channel.Address { return channel.Address{0x3a, 0x11} }

// onChain is a desk on a chain of its own.
func onChain(t *testing.T) (*desk, *evmtest.Chain) {
	t.Helper()
	chain := evmtest.Simulated(t, evmtest.Config{Place: []evmtest.Contract{
		evmtest.WalletAt(wallet(), ledgertest.Key(t, "payer 1").Address()),
	}})
	chain.Mint(wallet(), 10_000)
	return newDesk(t, facilitatortest.OnChain(t, chain, nil), chain.Mint), chain
}

// requirements are what a server would ask for when it is paid by p.
func (d *desk) requirements(p x402.Payload) x402.Requirements {
	if p.Exact != nil {
		a := p.Exact.Authorization
		return x402.Requirements{
			Scheme: x402.SchemeExact, Network: d.params.Network(), Amount: a.Value, Asset: d.params.Token, PayTo: a.To,
			Extra: x402.Extra{Name: d.params.Name, Version: d.params.Version},
		}
	}
	return x402.BatchRequirements(d.params.Network(), d.params.Asset(), d.party.Config)
}

// A change makes another of what a server asks for and what a payer says that he
// accepts.
type change func(required, accepted *x402.Requirements)

func (d *desk) request(p x402.Payload, c change) (x402.PaymentPayload, x402.Requirements) {
	required := d.requirements(p)
	accepted := required
	if c != nil {
		c(&required, &accepted)
	}
	return x402.PaymentPayload{Version: x402.Version, Accepted: accepted, Payload: p}, required
}

func (d *desk) verify(t *testing.T, p x402.Payload, c change) (x402.VerifyResponse, error) {
	payload, required := d.request(p, c)
	return d.Verify(t.Context(), payload, required)
}

func (d *desk) settle(t *testing.T, p x402.Payload, c change) (x402.SettlementResponse, error) {
	payload, required := d.request(p, c)
	return d.Settle(t.Context(), payload, required)
}

// holdings is where the party's money is.
type holdings struct {
	payer, receiver channel.Amount
	channel         x402.ChannelState
}

func (d *desk) holdings(t *testing.T) holdings {
	t.Helper()
	ask := func(a channel.Address) channel.Amount {
		info, err := d.Balance(t.Context(), d.params.Network(), a)
		if err != nil {
			t.Fatal(err)
		}
		return info.Balance
	}
	info, err := d.Channel(t.Context(), d.params.Network(), d.party.ID)
	if err != nil {
		t.Fatal(err)
	}
	return holdings{ask(d.party.Config.Payer), ask(d.party.Config.Receiver), info.ChannelState}
}

func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	if r, ok := errors.AsType[*facilitator.RefusedError](err); !ok || r.Code != code {
		t.Errorf("%s: got %v, want %s", what, err, code)
	}
}

// TestCheats: what is forged, or made for something else, is refused with the
// specification's code, by /verify and by /settle alike as far as either takes it,
// and moves nothing. On a chain and on a ledger of ours it is the same.
func TestCheats(t *testing.T) {
	chained, _ := onChain(t)
	for name, d := range map[string]*desk{"memory": inMemory(t, 1<<41+7), "chain": chained} {
		t.Run(name, func(t *testing.T) {
			before := d.holdings(t)
			honest(t, d)
			for _, cheats := range [][]cheat{d.foreign(t), d.otherTerms(t), d.contractWallets(t), d.signatures(), d.untimely()} {
				for _, c := range cheats {
					if c.payload.Claim == nil && c.payload.Settle == nil && !c.unseen {
						_, err := d.verify(t, c.payload, c.change)
						wantCode(t, c.name+": verify", err, c.code)
					}
					if c.payload.Voucher == nil {
						_, err := d.settle(t, c.payload, c.change)
						wantCode(t, c.name+": settle", err, c.code)
					}
				}
			}
			if after := d.holdings(t); after != before {
				t.Errorf("money has moved: %+v, was %+v", after, before)
			}
		})
	}
}

// honest holds that what the cheats are made from is good as it is.
func honest(t *testing.T, d *desk) {
	t.Helper()
	p := d.party
	for _, m := range []x402.Payload{
		{Deposit: new(p.Deposit(500, 10))}, {Voucher: &x402.VoucherPayment{Config: p.Config, Voucher: p.Voucher(10)}},
		{Exact: new(p.Transfer(10))}, {Refund: new(p.Refund(10, 0))},
	} {
		if _, err := d.verify(t, m, nil); err != nil {
			t.Errorf("%s: %v", m.Type(), err)
		}
	}
}

// A cheat is a message that is refused with a code.
type cheat struct {
	name    string
	payload x402.Payload
	change  change
	code    string
	unseen  bool // by /verify, which does not look at what the receiver signs
}

// foreign is what was signed for another chain, contract or token.
func (d *desk) foreign(t *testing.T) (out []cheat) {
	for name, alter := range map[string]func(*ledger.Params){
		"chain":    func(p *ledger.Params) { p.ChainID++ },
		"contract": func(p *ledger.Params) { p.Contract = channel.Address{0xc0} },
	} {
		params, p := d.params, d.party
		alter(&params)
		q := ledgertest.NewParty(t, params, 1) // the same people there
		deposit := p.Deposit(500, 10)
		deposit.Voucher.Signature = params.Domain().SignVoucher(p.Payer, p.ID, 10).Signature
		voucher := params.Domain().SignVoucher(p.Payer, p.ID, 10) // under this channel's name
		claim := p.Claim(10, 10)
		claim.Signature = q.Claim(10, 10).Signature
		row := p.Row(10, 10)
		row.Signature = voucher.Signature
		refund := p.Refund(10, 0)
		refund.RefundSignature = q.Refund(10, 0).RefundSignature
		out = append(out, []cheat{
			{"another " + name + "'s voucher", x402.Payload{Voucher: &x402.VoucherPayment{Config: q.Config, Voucher: q.Voucher(10)}}, nil, x402.ErrChannelID, false},
			{"another " + name + "'s voucher, renamed", x402.Payload{Voucher: &x402.VoucherPayment{Config: p.Config, Voucher: voucher}}, nil, x402.ErrVoucherSignature, false},
			{"another " + name + "'s deposit", x402.Payload{Deposit: new(q.Deposit(500, 10))}, nil, x402.ErrChannelID, false},
			{"a deposit with another " + name + "'s voucher", x402.Payload{Deposit: &deposit}, nil, x402.ErrVoucherSignature, false},
			{"another " + name + "'s claim", x402.Payload{Claim: &claim}, nil, x402.ErrClaimFailed, false},
			{"a claim of another " + name + "'s voucher", x402.Payload{Claim: new(x402.SignClaim(p.Receiver, d.params.Domain(), []x402.VoucherClaim{row}))}, nil, x402.ErrVoucherSignature, false},
			{"another " + name + "'s refund", x402.Payload{Refund: &refund}, nil, x402.ErrRefundFailed, true},
		}...)
	}
	chain, token := d.params, d.params
	chain.ChainID++
	token.Token = channel.Address{0x70}
	for name, params := range map[string]ledger.Params{"chain": chain, "token": token} {
		// Signed for the other token, and then sent as for this one.
		q := ledgertest.NewParty(t, params, 1)
		deposit := d.party.Deposit(500, 10)
		a := deposit.Deposit.Authorization.ERC3009
		a.Signature = q.Payer.Sign(params.Asset().ReceiveDigest(a.For(d.party.ID, q.Config.Payer, 500)))
		out = append(out, []cheat{
			{"a deposit of another " + name + "'s money", x402.Payload{Deposit: &deposit}, nil, x402.ErrReceiveSignature, false},
			{"a transfer of another " + name + "'s money", x402.Payload{Exact: new(q.Transfer(10))}, nil, x402.ErrExactSignature, false},
		}...)
	}
	// Of a collector that would keep it.
	deposit := d.party.Deposit(500, 10)
	a := deposit.Deposit.Authorization.ERC3009
	standard := a.For(d.party.ID, d.party.Config.Payer, 500)
	standard.To = channel.Address{0xc0}
	a.Signature = d.party.Payer.Sign(d.params.Asset().ReceiveDigest(standard))
	return append(out, cheat{"another collector's deposit", x402.Payload{Deposit: &deposit}, nil, x402.ErrReceiveSignature, false})
}

// otherTerms is what does not fit what the server asks for.
func (d *desk) otherTerms(t *testing.T) []cheat {
	params := d.params
	params.Token = channel.Address{0x70}
	q, p := ledgertest.NewParty(t, params, 1), d.party
	voucher := x402.Payload{Voucher: &x402.VoucherPayment{Config: p.Config, Voucher: p.Voucher(10)}}
	exact, deposit := x402.Payload{Exact: new(p.Transfer(10))}, x402.Payload{Deposit: new(p.Deposit(500, 10))}
	accepted := func(network string) change {
		return func(_, a *x402.Requirements) { a.Network = network }
	}
	both := func(change func(*x402.Requirements)) change {
		return func(r, a *x402.Requirements) { change(r); change(a) }
	}
	network := both(func(r *x402.Requirements) { r.Network = "eip155:1" })
	asset := both(func(r *x402.Requirements) { r.Asset = params.Token })
	elsewhere := both(func(r *x402.Requirements) { r.PayTo = channel.Address{1} })
	return []cheat{
		{"a voucher, accepted on another network", voucher, accepted("eip155:1"), x402.ErrNetworkMismatch, false},
		{"a transfer, accepted on another network", exact, accepted("eip155:1"), x402.ErrInvalidNetwork, false},
		{"a voucher on a network that is not here", voucher, network, x402.ErrInvalidNetwork, false},
		{"a deposit on a network that is not here", deposit, network, x402.ErrInvalidNetwork, false},
		{"a transfer on a network that is not here", exact, network, x402.ErrInvalidNetwork, false},
		{"a channel of another token", x402.Payload{Voucher: &x402.VoucherPayment{Config: q.Config, Voucher: q.Voucher(10)}}, nil, x402.ErrToken, false},
		{"a deposit of another token", x402.Payload{Deposit: new(q.Deposit(500, 10))}, nil, x402.ErrToken, false},
		{"a channel of a token that is not here", x402.Payload{Voucher: &x402.VoucherPayment{Config: q.Config, Voucher: q.Voucher(10)}}, asset, x402.ErrToken, false},
		{"another token than is asked for", voucher, asset, x402.ErrToken, false},
		{"a transfer of another token than is asked for", exact, asset, x402.ErrRequirements, false},
		{"a settlement of another token", x402.Payload{Settle: &x402.Settle{Receiver: p.Config.Receiver, Token: params.Token}}, nil, x402.ErrToken, false},
		{"a channel that pays another", voucher, elsewhere, x402.ErrReceiver, false},
		{"a transfer to another", exact, elsewhere, x402.ErrExactRecipient, false},
		{"a deposit of more than there is", x402.Payload{Deposit: new(p.Deposit(9_001, 10))}, nil, x402.ErrInsufficientBalance, false},
		{"a transfer of more than there is", x402.Payload{Exact: new(p.Transfer(9_001))}, nil, x402.ErrInsufficientFunds, false},
		{"a voucher above the deposit", x402.Payload{Voucher: &x402.VoucherPayment{Config: p.Config, Voucher: p.Voucher(1_001)}}, nil, x402.ErrExceedsBalance, false},
		{"a deposit's voucher above the deposit", x402.Payload{Deposit: new(p.Deposit(500, 1_501))}, nil, x402.ErrExceedsBalance, false},
	}
}

// contractWallets are payers by EIP-1271, which the contract takes and we do not.
func (d *desk) contractWallets(t *testing.T) []cheat {
	q := ledgertest.NewParty(t, d.params, 1)
	q.Config.Payer = wallet()
	q.ID = d.params.Domain().ID(q.Config)
	signs := q.Deposit(500, 10) // its owner signs the vouchers
	q.Config.PayerAuthorizer = channel.Address{}
	q.ID = d.params.Domain().ID(q.Config)
	exact := q.Transfer(10)
	return []cheat{
		{"a contract wallet's voucher", x402.Payload{Voucher: &x402.VoucherPayment{Config: q.Config, Voucher: q.Voucher(10)}}, nil, x402.ErrVoucherSignature, false},
		{"a contract wallet's deposit", x402.Payload{Deposit: new(q.Deposit(500, 10))}, nil, x402.ErrVoucherSignature, false},
		{"a contract wallet's deposit, with a key for vouchers", x402.Payload{Deposit: &signs}, nil, x402.ErrReceiveSignature, false},
		{"a contract wallet's transfer", x402.Payload{Exact: &exact}, nil, x402.ErrExactSignature, false},
	}
}

// signatures are such as an EVM contract takes for nobody's, or as somebody else
// made of a good one.
func (d *desk) signatures() (out []cheat) {
	p := d.party
	for name, forge := range map[string]func(channel.Signature) channel.Signature{
		"upper s": upperS,
		"v of 0 or 1": func(s channel.Signature) channel.Signature {
			s[64] -= 27
			return s
		},
		"other v": func(s channel.Signature) channel.Signature {
			s[64] ^= 27 ^ 28
			return s
		},
		"v of EIP-155": func(s channel.Signature) channel.Signature {
			s[64] += 8
			return s
		},
		"no r":    func(s channel.Signature) channel.Signature { clear(s[:32]); return s },
		"no s":    func(s channel.Signature) channel.Signature { clear(s[32:64]); return s },
		"nothing": func(channel.Signature) channel.Signature { return channel.Signature{} },
	} {
		voucher := p.Voucher(10)
		voucher.Signature = forge(voucher.Signature)
		first, second := p.Deposit(500, 10), p.Deposit(500, 10)
		first.Voucher = voucher
		auth := second.Deposit.Authorization.ERC3009
		auth.Signature = forge(auth.Signature)
		exact := p.Transfer(10)
		exact.Signature = forge(exact.Signature)
		row := p.Row(10, 10)
		row.Signature = voucher.Signature
		claim := p.Claim(10, 10)
		*claim.Signature = forge(*claim.Signature)
		refund := p.Refund(10, 0)
		*refund.RefundSignature = forge(*refund.RefundSignature)
		out = append(out, []cheat{
			{name + ": voucher", x402.Payload{Voucher: &x402.VoucherPayment{Config: p.Config, Voucher: voucher}}, nil, x402.ErrVoucherSignature, false},
			{name + ": deposit's voucher", x402.Payload{Deposit: &first}, nil, x402.ErrVoucherSignature, false},
			{name + ": deposit", x402.Payload{Deposit: &second}, nil, x402.ErrReceiveSignature, false},
			{name + ": transfer", x402.Payload{Exact: &exact}, nil, x402.ErrExactSignature, false},
			{name + ": voucher of a claim", x402.Payload{Claim: new(x402.SignClaim(p.Receiver, d.params.Domain(), []x402.VoucherClaim{row}))}, nil, x402.ErrVoucherSignature, false},
			{name + ": claim", x402.Payload{Claim: &claim}, nil, x402.ErrClaimFailed, false},
			{name + ": refund", x402.Payload{Refund: &refund}, nil, x402.ErrRefundFailed, true},
		}...)
	}
	return out
}

// upperS returns the other signature that recovers to the same signer.
func upperS(s channel.Signature) channel.Signature {
	order, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	order.Sub(order, new(big.Int).SetBytes(s[32:64])).FillBytes(s[32:64])
	s[64] ^= 27 ^ 28
	return s
}

// untimely authorizations are expired, or not valid yet.
func (d *desk) untimely() []cheat {
	p := d.party
	deposit := func(after, before uint64) x402.Payload {
		return x402.Payload{Deposit: new(x402.DepositRequest{
			Domain: d.params.Domain(), Token: d.params.Asset(), Config: p.Config, Amount: 500,
			Voucher: p.Voucher(10), ValidAfter: after, ValidBefore: before, Salt: channel.Hash{0x77},
		}.Sign(p.Payer))}
	}
	transfer := func(after, before uint64) x402.Payload {
		m := p.Transfer(10)
		m.Authorization.ValidAfter, m.Authorization.ValidBefore = x402.Decimal(after), x402.Decimal(before)
		m.Signature = p.Payer.Sign(d.params.Asset().TransferDigest(m.Authorization.Standard()))
		return x402.Payload{Exact: &m}
	}
	soon := uint64(time.Now().Add(24 * time.Hour).Unix())
	return []cheat{
		{"an expired deposit", deposit(0, 1), nil, x402.ErrValidBefore, false},
		{"a deposit of tomorrow", deposit(soon, never), nil, x402.ErrValidAfter, false},
		{"an expired transfer", transfer(0, 1), nil, x402.ErrExactValidBefore, false},
		{"a transfer of tomorrow", transfer(soon, never), nil, x402.ErrExactValidAfter, false},
	}
}
