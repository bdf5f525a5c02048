package channel

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// opened returns the golden channel with a balance of 1000, of which 100 is
// claimed.
func opened(t testing.TB) State {
	t.Helper()
	s, err := NewState(goldenDomain(), goldenConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err = s.Observe(1000, 100, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantReason(t *testing.T, what string, err error, want Reason) {
	t.Helper()
	if e, ok := errors.AsType[*StateError](err); !ok || e.Reason != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

func TestNewStateRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*Domain, *Config)
		reason Reason
	}{
		"chain":               {func(d *Domain, _ *Config) { d.ChainID = 0 }, ReasonConfig},
		"contract":            {func(d *Domain, _ *Config) { d.Contract = Address{} }, ReasonConfig},
		"payer":               {func(_ *Domain, c *Config) { c.Payer = Address{} }, ReasonConfig},
		"payer authorizer":    {func(_ *Domain, c *Config) { c.PayerAuthorizer = Address{} }, ReasonConfig},
		"receiver":            {func(_ *Domain, c *Config) { c.Receiver = Address{} }, ReasonConfig},
		"receiver authorizer": {func(_ *Domain, c *Config) { c.ReceiverAuthorizer = Address{} }, ReasonConfig},
		"token":               {func(_ *Domain, c *Config) { c.Token = Address{} }, ReasonConfig},
		"short delay":         {func(_ *Domain, c *Config) { c.WithdrawDelay = 899 }, ReasonDelay},
		"long delay":          {func(_ *Domain, c *Config) { c.WithdrawDelay = 30*86400 + 1 }, ReasonDelay},
		"huge delay":          {func(_ *Domain, c *Config) { c.WithdrawDelay = 1<<64 - 1 }, ReasonDelay},
	} {
		d, c := goldenDomain(), goldenConfig(t)
		row.change(&d, &c)
		_, err := NewState(d, c)
		wantReason(t, name, err, row.reason)
	}
	d, c := goldenDomain(), goldenConfig(t)
	c.WithdrawDelay = 30 * 86400
	if s, err := NewState(d, c); err != nil || s.Phase != Open || s.ID != d.ID(c) || s.Balance != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestNext(t *testing.T) {
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	k, s := goldenKey(t), opened(t)
	sign := func(max Amount) Voucher { return s.Domain.SignVoucher(k, s.ID, max) }
	s, err = s.Next(sign(270))
	if err != nil || s.Max != 270 {
		t.Fatal(s.Max, err)
	}
	if v, ok := s.Voucher(); !ok || v != sign(270) {
		t.Errorf("Voucher() = %v, %v", v, ok)
	}
	frozen, claimed := s, s
	frozen.Phase = Frozen
	claimed.Claimed = 300
	otherChain, otherContract := s.Domain, s.Domain
	otherChain.ChainID++
	otherContract.Contract[0]++
	garbage := sign(500)
	garbage.Signature = Signature{64: 27}
	changed := sign(500)
	changed.Max = 501
	for name, row := range map[string]struct {
		s      State
		v      Voucher
		reason Reason
	}{
		"frozen":         {frozen, sign(500), ReasonFrozen},
		"other channel":  {s, s.Domain.SignVoucher(k, ID{1}, 500), ReasonChannel},
		"the same":       {s, sign(270), ReasonAmount},
		"falls":          {s, sign(269), ReasonAmount},
		"zero":           {s, sign(0), ReasonAmount},
		"claimed":        {claimed, sign(300), ReasonClaimed},
		"over":           {s, sign(1001), ReasonBalance},
		"far over":       {s, sign(1<<64 - 1), ReasonBalance},
		"garbage":        {s, garbage, ReasonSignature},
		"changed":        {s, changed, ReasonSignature},
		"other key":      {s, s.Domain.SignVoucher(key, s.ID, 500), ReasonSignature},
		"other chain":    {s, otherChain.SignVoucher(k, s.ID, 500), ReasonSignature},
		"other contract": {s, otherContract.SignVoucher(k, s.ID, 500), ReasonSignature},
	} {
		got, err := row.s.Next(row.v)
		wantReason(t, name, err, row.reason)
		if got.Max != 0 {
			t.Errorf("%s: a state came with the refusal", name)
		}
	}
	if s, err = s.Next(sign(1000)); err != nil || s.Max != 1000 {
		t.Errorf("the whole balance: %d, %v", s.Max, err)
	}
	if s.Claimed != 100 || s.Balance != 1000 {
		t.Errorf("Next changed the ledger's part: %+v", s)
	}
}

// TestCovered: a voucher that need not rise is one that the newest covers.
func TestCovered(t *testing.T) {
	stranger, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	k, s := goldenKey(t), opened(t)
	sign := func(k *Key, max Amount) Voucher { return s.Domain.SignVoucher(k, s.ID, max) }
	if s, err = s.Next(sign(k, 270)); err != nil {
		t.Fatal(err)
	}
	for _, max := range []Amount{1, 100, 270} {
		if err := s.Covered(sign(k, max)); err != nil {
			t.Errorf("%d: %v", max, err)
		}
	}
	frozen, drained := s, s
	frozen.Phase, drained.Balance = Frozen, 200
	other := sign(k, 200)
	other.Channel[0]++
	wantReason(t, "above", s.Covered(sign(k, 271)), ReasonAmount)
	wantReason(t, "forged", s.Covered(sign(stranger, 200)), ReasonSignature)
	wantReason(t, "other channel", s.Covered(other), ReasonChannel)
	wantReason(t, "frozen", frozen.Covered(sign(k, 200)), ReasonFrozen)
	wantReason(t, "drained", drained.Covered(sign(k, 201)), ReasonBalance)
}

func TestObserve(t *testing.T) {
	s := opened(t)
	s.RefundNonce, s.Max = 2, 400
	for name, row := range map[string]struct {
		balance, claimed Amount
		nonce            uint64
	}{
		"claims fall":      {1000, 99, 2},
		"over-claimed":     {100, 101, 2},
		"refund is undone": {1000, 100, 1},
	} {
		_, err := s.Observe(row.balance, row.claimed, row.nonce, 0)
		wantReason(t, name, err, ReasonLedger)
	}
	// A withdrawal took the rest although a voucher of 400 exists.
	s, err := s.Observe(150, 150, 3, 1_800_000_000)
	if err != nil || s.Balance != 150 || s.Claimed != 150 || s.RefundNonce != 3 || s.WithdrawAt != 1_800_000_000 || s.Max != 400 {
		t.Errorf("%+v, %v", s, err)
	}
	_, err = s.Next(s.Domain.SignVoucher(goldenKey(t), s.ID, 401))
	wantReason(t, "after a withdrawal", err, ReasonBalance)
}

func TestStateErrorText(t *testing.T) {
	_, err := opened(t).Next(Voucher{Channel: opened(t).ID, Max: 1001})
	if want := "channel 0x2624f266: voucher of 1001 exceeds the balance 1000"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// Whatever comes, the newest amount never falls, is never above the balance
// that it was accepted under, and what was refused left no trace.
func FuzzStateNext(f *testing.F) {
	f.Add([]byte{0, 1, 44, 0, 1, 45, 1, 7, 208, 2, 0, 9, 0, 7, 200})
	f.Add([]byte{3, 0, 0, 0, 2, 0, 4, 0, 0, 0, 3, 0, 5, 2, 1, 6, 3, 1, 7, 3, 2})
	f.Add(bytes.Repeat([]byte{0, 255, 255}, 4))
	k := goldenKey(f)
	first := opened(f)
	f.Fuzz(func(t *testing.T, ops []byte) {
		s := first
		for ; len(ops) >= 3; ops = ops[3:] {
			arg := Amount(ops[1])<<8 | Amount(ops[2])
			was := s
			var err error
			switch ops[0] % 8 {
			case 0:
				s, err = s.Next(s.Domain.SignVoucher(k, s.ID, arg))
				if err == nil && (s.Max != arg || arg <= was.Max || arg <= was.Claimed || arg > was.Balance || was.Phase != Open) {
					t.Fatalf("voucher of %d accepted after %+v", arg, was)
				}
			case 1:
				s, err = s.Observe(arg, s.Claimed, s.RefundNonce, uint64(arg))
			case 2:
				s, err = s.Observe(s.Balance, arg, s.RefundNonce, 0)
			case 3:
				s.Phase = Phase(arg % 2)
			case 4:
				v := s.Domain.SignVoucher(k, s.ID, arg)
				v.Max++
				if s, err = s.Next(v); err == nil {
					t.Fatalf("signature of %d accepted for %d", arg, v.Max)
				}
			case 5:
				if s, err = s.Next(Voucher{s.ID, arg, Signature{1, 2, 64: 27}}); err == nil {
					t.Fatal("garbage accepted")
				}
			case 6:
				if s, err = s.Next(s.Domain.SignVoucher(k, ID{1}, arg)); err == nil {
					t.Fatal("another channel's voucher accepted")
				}
			case 7:
				s, err = s.withNote(slices.Repeat([]byte{1}, int(arg%(2*MaxNote))))
			}
			if err != nil {
				s = was
			}
			if s.Max < was.Max || s.Claimed < was.Claimed || s.Claimed > s.Balance || s.ID != was.ID || len(s.Note) > MaxNote {
				t.Fatalf("%+v\nafter %+v", s, was)
			}
		}
	})
}
