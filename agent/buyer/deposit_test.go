package buyer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/meter"
)

// A shelf is a store in memory.
type shelf struct {
	mu     sync.Mutex
	states map[channel.ID]channel.State
}

func (s *shelf) Load() (all []channel.State, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.states {
		all = append(all, x)
	}
	return all, nil
}

func (s *shelf) Save(x channel.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states == nil {
		s.states = make(map[channel.ID]channel.State)
	}
	s.states[x.ID] = x
	return nil
}

func (s *shelf) Close() error { return nil }

// A bank takes deposits; each of its nonces once.
type bank struct {
	id    channel.ID
	calls int
	// answer may lose the answer to the call that has been applied, or refuse it
	// before that.
	before, after func(call int) error
	unread        bool // the channel cannot be read

	funds, balance channel.Amount
	used           map[channel.Hash]bool
}

func (b *bank) Channel(context.Context, string, channel.ID) (i x402.ChannelInfo, err error) {
	if b.unread {
		return i, fmt.Errorf("%w: unread", facilitator.ErrUnavailable)
	}
	i.Channel, i.Balance = b.id, b.balance
	return i, nil
}

func (b *bank) Balance(context.Context, string, channel.Address) (x402.AccountInfo, error) {
	return x402.AccountInfo{Balance: b.funds}, nil
}

func (b *bank) Deposit(_ context.Context, _ string, _ channel.Token, d x402.Deposit) (r x402.SettlementResponse, err error) {
	b.calls++
	if b.before != nil {
		if err := b.before(b.calls); err != nil {
			return r, err
		}
	}
	auth := d.Deposit.Authorization.ERC3009
	nonce := channel.DepositNonce(b.id, auth.Salt)
	switch {
	case uint64(auth.ValidBefore) <= uint64(time.Now().Unix()):
		return r, &facilitator.RefusedError{Code: x402.ErrValidBefore}
	case b.used[nonce]:
		return r, &facilitator.RefusedError{Code: x402.ErrDepositFailed}
	case b.funds < d.Deposit.Amount:
		return r, &facilitator.RefusedError{Code: x402.ErrInsufficientBalance}
	}
	b.used[nonce] = true
	b.funds -= d.Deposit.Amount
	b.balance += d.Deposit.Amount
	if b.after != nil {
		err = b.after(b.calls)
	}
	return r, err
}

func (b *bank) Withdraw(context.Context, x402.Withdraw) (r x402.SettlementResponse, err error) {
	return r, errors.New("no")
}

// newDepositor is a buyer with a channel and no agent.
func newDepositor(t *testing.T, store channel.Store, bk *bank) *Buyer {
	t.Helper()
	o := testOffer()
	o.Endpoints = []string{"127.0.0.1:4402"}
	secret := make([]byte, 32)
	secret[31] = 7
	key, err := channel.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Config{Key: key, Store: store, Offer: o, Budget: 1_000_000, MaxPrice: 5, Facilitator: bk, Deposit: 100_000}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	b := &Buyer{fund: fund{cfg: c, log: c.Logger, fac: c.Facilitator}, ready: make(chan struct{})}
	if err := b.open(); err != nil {
		t.Fatal(err)
	}
	bk.id = b.id
	return b
}

func unavailable(int) error { return fmt.Errorf("%w: lost", facilitator.ErrUnavailable) }

// TestDepositIsNeverPaidTwice: whatever happens to answers, processes and
// clocks, one deposit is missing and one is made.
func TestDepositIsNeverPaidTwice(t *testing.T) {
	for name, tt := range map[string]struct {
		trouble func(*bank)
		mend    func(*bank)
	}{
		"no answer to a deposit that was made": {
			func(b *bank) { b.after = unavailable; b.before = lateOnly(1) }, func(b *bank) { b.before, b.after = nil, nil },
		},
		"no answer to one that was not": {func(b *bank) { b.before = unavailable }, func(b *bank) { b.before = nil }},
		"a gateway says no afterwards": {
			func(b *bank) {
				b.after = unavailable
				b.before = func(call int) error {
					if call == 1 {
						return nil
					}
					return &facilitator.RefusedError{Code: "http_403"}
				}
			}, func(b *bank) { b.before, b.after = nil, nil },
		},
		"a facilitator that did not see the receipt says that the transaction failed": {
			func(b *bank) {
				b.after = func(int) error {
					return &facilitator.RefusedError{Code: "invalid_batch_settlement_evm_deposit_transaction_failed"}
				}
				b.before = lateOnly(1)
			}, func(b *bank) { b.before, b.after = nil, nil },
		},
		"the channel cannot be read": {
			func(b *bank) { b.after = func(int) error { b.unread = true; return nil } }, func(b *bank) { b.after, b.unread = nil, false },
		},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", name, restart), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := new(shelf)
					bk := &bank{funds: 1_000_000, used: make(map[channel.Hash]bool)}
					b := newDepositor(t, store, bk)
					tt.trouble(bk)
					if err := b.ensureDeposit(t.Context()); err == nil {
						t.Error("an unknown outcome is no error")
					}
					if bk.calls == 0 {
						t.Error("nothing was asked")
					}
					if restart {
						b = newDepositor(t, store, bk)
					}
					tt.mend(bk)
					state, _ := b.payer.Get(b.id)
					if state.Balance == 0 { // the ledger is read later than the deposit is sent again
						again, err := b.draw(b.missing(state), b.mem)
						if err == nil {
							err = b.send(t.Context(), b.draft, again)
						}
						if err := errors.Join(err, b.resolve(err, b.mem)); err != nil {
							t.Error(err)
						}
					}
					if err := b.ensureDeposit(t.Context()); err != nil {
						t.Error(err)
					}
					if bk.balance != 100_000 || bk.funds != 900_000 {
						t.Errorf("the channel holds %d, the wallet %d", bk.balance, bk.funds)
					}
					if state, _ = b.payer.Get(b.id); state.Balance != 100_000 {
						t.Errorf("the record says %d", state.Balance)
					}
				})
			})
		}
	}
}

// lateOnly lets the first n calls through.
func lateOnly(n int) func(int) error {
	return func(call int) error {
		if call > n {
			return unavailable(call)
		}
		return nil
	}
}

// TestDraftRunsOut: an authorization that nobody used in time is void, and
// another deposit is made.
func TestDraftRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(shelf)
		bk := &bank{funds: 1_000_000, used: make(map[channel.Hash]bool), before: unavailable}
		b := newDepositor(t, store, bk)
		if err := b.ensureDeposit(t.Context()); !errors.Is(err, facilitator.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		time.Sleep(2 * authorizationLife)
		bk.before = nil
		b = newDepositor(t, store, bk)
		if err := b.ensureDeposit(t.Context()); err != nil || bk.balance != 100_000 {
			t.Errorf("the channel holds %d: %v", bk.balance, err)
		}
		if b.draft != (draft{}) {
			t.Errorf("draft %+v is left", b.draft)
		}
	})
}

// TestPoorWallet says what is missing, and forgets the deposit.
func TestPoorWallet(t *testing.T) {
	bk := &bank{funds: 99_999, used: make(map[channel.Hash]bool)}
	b := newDepositor(t, new(shelf), bk)
	err := b.ensureDeposit(t.Context())
	if err == nil || !strings.Contains(err.Error(), "holds 0.099999 USD") || bk.calls != 0 || b.draft != (draft{}) {
		t.Errorf("%v, %d calls, draft %+v", err, bk.calls, b.draft)
	}
}

func TestMemory(t *testing.T) {
	for _, m := range []memory{
		{},
		{tally: agent.Tally{Session: 3, Up: 5, Down: 6}, ceiling: 9},
		{tally: agent.Tally{Session: 3, Ended: true}, ceiling: 9, draft: draft{amount: 1<<63 + 5, validBefore: 1<<48 - 1}},
	} {
		b, err := m.marshal()
		if err != nil || len(b) > channel.MaxNote {
			t.Errorf("%+v: %d bytes, %v", m, len(b), err)
		}
		var got memory
		if err := got.unmarshal(b); err != nil || got != m {
			t.Errorf("%+v reads back as %+v, %v", m, got, err)
		}
		for cut := 1; cut < len(b); cut++ {
			if err := got.unmarshal(b[:cut]); err == nil && cut != noteSize {
				t.Errorf("%d of %d bytes are accepted", cut, len(b))
			}
		}
	}
}

func FuzzMemory(f *testing.F) {
	for _, m := range []memory{{}, {ceiling: 1, draft: draft{2, 3}}} {
		b, err := m.marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again memory
		if m.unmarshal(b) != nil {
			return
		}
		c, err := m.marshal()
		if err == nil {
			err = again.unmarshal(c)
		}
		if err != nil || again != m {
			t.Errorf("%x: %+v reads back as %+v, %v", b, m, again, err)
		}
	})
}

// TestTermsTellWhatIsAccepted: the voucher that an agent shows in its terms it
// has accepted.
func TestTermsTellWhatIsAccepted(t *testing.T) {
	b := newDepositor(t, new(shelf), &bank{})
	if _, err := b.payer.Observe(b.id, 100_000, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	v, err := b.payer.Sign(b.cfg.Key, b.id, 700, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.mem.tally = agent.Tally{Session: 1, Base: 700, Ended: true}
	x := &session{b: b, meter: meter.New(meter.Config{})}
	err = x.accept(agent.Terms{Version: agent.ProtocolVersion, Session: 2, Base: 700, Balance: 100_000, Credit: 500, Voucher: v})
	if err != nil || x.purse.agent.Paid != 700 {
		t.Errorf("accepted are %d: %v", x.purse.agent.Paid, err)
	}
}
