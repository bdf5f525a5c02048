package seller

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// A teller is a facilitator with one channel, which does not answer while it is
// down.
type teller struct {
	info     x402.ChannelInfo
	down     bool
	claimed  []channel.Amount
	refunded channel.Amount
}

func (f *teller) Look(context.Context, string, x402.VoucherPayment) (x402.ChannelInfo, error) {
	if f.down {
		return x402.ChannelInfo{}, facilitator.ErrUnavailable
	}
	return f.info, nil
}

func (f *teller) Claim(_ context.Context, _ string, c x402.Claim) (x402.SettlementResponse, error) {
	if f.down {
		return x402.SettlementResponse{}, facilitator.ErrUnavailable
	}
	f.info.TotalClaimed = c.Claims[0].TotalClaimed
	f.claimed = append(f.claimed, f.info.TotalClaimed)
	return x402.SettlementResponse{}, nil
}

func (f *teller) SettleReceiver(context.Context, string, channel.Address, channel.Address) (x402.SettlementResponse, error) {
	return x402.SettlementResponse{}, nil
}

func (f *teller) Refund(_ context.Context, _ string, r x402.Refund) (x402.SettlementResponse, error) {
	if f.down {
		return x402.SettlementResponse{}, facilitator.ErrUnavailable
	}
	f.refunded += *r.Amount
	f.info.Balance -= *r.Amount
	f.info.RefundNonce++
	return x402.SettlementResponse{}, nil
}

// tokenSeller is an agent that sold a token of a million bytes for 4,000 units,
// on a deposit of 100,000, of which used bytes have come through.
func tokenSeller(t *testing.T, used uint64) (*Seller, *teller, channel.ID) {
	t.Helper()
	f := &teller{}
	f.info.Balance = 100_000
	s, err := open(Config{
		StateDir: t.TempDir(), Price: agent.Price{Up: 4_000_000, Down: 4_000_000}, Facilitator: f, Logger: slog.New(slog.DiscardHandler),
		Payment: agent.Payment{Network: "eip155:2199023255559", Asset: channel.Address{1}, AssetName: "USDC", AssetVersion: "2", PayTo: channel.Address{2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.journal.Close() })
	payer, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	c := agent.Offer{Agent: s.key.Address(), Payment: s.cfg.Payment}.Channel(payer.Address())
	c.Salt = channel.Hash{3}
	state, err := s.payee.Open(s.domain, c)
	if err == nil {
		_, err = s.observe(t.Context(), state.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	note, err := agent.Tally{Session: 1, Price: s.cfg.Price, Down: used, Prepaid: 1_000_000}.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.payee.Accept(s.domain.SignVoucher(payer, state.ID, 4_000), note); err != nil {
		t.Fatal(err)
	}
	return s, f, state.ID
}

// TestTokensEnd: what was not used for long, and what has nothing left, is
// claimed and refunded, and the rest is left alone.
func TestTokensEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		used   uint64
		unused time.Duration
		ends   bool
	}{
		"in time":             {500_000, agent.TokenIdle - time.Minute, false},
		"unused":              {500_000, agent.TokenIdle, true},
		"never used":          {0, agent.TokenIdle, true},
		"used up":             {1_000_000, 0, true},
		"less than a packet":  {1_000_000 - leastLeft + 1, 0, true},
		"room for one packet": {1_000_000 - leastLeft, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, f, id := tokenSeller(t, tt.used)
			s.usedAt[id] = time.Now().Add(-tt.unused)
			for range 2 { // the second finds nothing to do
				if err := s.closeTokens(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			owed := channel.Amount((tt.used*4 + 999) / 1000)
			switch {
			case !tt.ends && (f.refunded != 0 || len(f.claimed) != 0):
				t.Errorf("claimed %d, refunded %d", f.claimed, f.refunded)
			case tt.ends && (f.refunded != 100_000-owed || f.info.TotalClaimed != owed || len(f.claimed) > 1):
				t.Errorf("claimed %d, refunded %d, owed are %d", f.claimed, f.refunded, owed)
			}
			if tt.ends {
				if _, _, err := s.use(id); err == nil {
					t.Error("the token is still good")
				}
			}
		})
	}
}

// TestTokensEndLater: what fails is done again, also after a start, and in the
// meantime the token is of no use.
func TestTokensEndLater(t *testing.T) {
	s, f, id := tokenSeller(t, 250_000)
	s.started = time.Now().Add(-agent.TokenIdle)
	f.down = true
	if err := s.closeTokens(t.Context()); !errors.Is(err, facilitator.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, _, err := s.use(id); err == nil {
		t.Error("the token is still good")
	}
	f.down, s.started = false, time.Now() // as after a start
	if err := s.closeTokens(t.Context()); err != nil || f.info.TotalClaimed != 1_000 || f.refunded != 99_000 {
		t.Errorf("%v; claimed %d, refunded %d", err, f.claimed, f.refunded)
	}
	if state, _ := s.payee.Get(id); state.Phase != channel.Open || state.Balance != state.Claimed {
		t.Errorf("%+v", state)
	}
}

// TestTokenMoneyGone: a payer who took the deposit back has nothing.
func TestTokenMoneyGone(t *testing.T) {
	for name, change := range map[string]func(*x402.ChannelInfo){
		"withdrawing": func(i *x402.ChannelInfo) { i.WithdrawRequestedAt, i.FinalizeAfter = 1, 2 },
		"withdrawn":   func(i *x402.ChannelInfo) { i.Balance = 3_999 },
	} {
		s, f, id := tokenSeller(t, 0)
		change(&f.info)
		if _, err := s.observe(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if u, _, err := s.use(id); u != nil || err == nil {
			t.Errorf("%s: the token is still good", name)
		}
	}
}

// TestTokenLimit: however much is wanted, no more is let through than was sold,
// and no more than the credit beyond what is stored.
func TestTokenLimit(t *testing.T) {
	s, f, id := tokenSeller(t, 100_000)
	s.cfg.Credit.Cap = 400 // 100,000 bytes
	u, err := s.openUse(id)
	if err != nil {
		t.Fatal(err)
	}
	u.pending = false
	take := func() (n uint64) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // takes what is there, and does not wait
		for {
			k, err := u.meter.DownTCP.ReserveUpTo(ctx, 7_000)
			if err != nil {
				return n
			}
			u.meter.DownTCP.Deliver(k, k)
			n += uint64(k)
		}
	}
	var all uint64
	for all < 900_000 {
		n := take()
		if n == 0 || n > 100_000 {
			t.Fatalf("%d bytes at once, after %d", n, all)
		}
		all += n
		state, _ := s.payee.Get(id)
		var stored agent.Tally
		if err := stored.UnmarshalBinary(state.Note); err != nil || stored.Down+100_000 < 100_000+all {
			t.Fatalf("%d bytes are stored of %d, %v", stored.Down, 100_000+all, err)
		}
		if _, why := u.update(time.Now()); why != nil {
			t.Fatal(why)
		}
	}
	if all != 900_000 || take() != 0 {
		t.Errorf("%d bytes were let through", all)
	}
	if _, why := u.update(time.Now().Add(useGrace + time.Second)); !errors.Is(why, errUsedUp) {
		t.Errorf("ends with %v", why)
	}
	if r := s.settleAll(t.Context(), true); r.err != nil || f.info.TotalClaimed != 4_000 {
		t.Errorf("claimed %d of 4,000, %v", f.info.TotalClaimed, r.err)
	}
}
