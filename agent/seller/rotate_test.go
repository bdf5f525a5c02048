package seller

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
)

// TestAdmitRotation: a rotation is begun for a buyer who agrees to its price and
// has paid it or is trusted with it, and not too often.
func TestAdmitRotation(t *testing.T) {
	price := channel.Amount(20_000)
	tests := map[string]struct {
		price   *channel.Amount
		paid    channel.Amount
		balance channel.Amount
		most    channel.Amount
		prepaid bool
		busy    bool
		lately  bool
		want    string // "" is yes
	}{
		"paid":          {price: &price, paid: 30_000, balance: 30_000, most: price},
		"more is taken": {price: &price, paid: 90_000, balance: 90_000, most: 50_000},
		"free":          {price: new(channel.Amount), paid: 10_000, balance: 30_000},
		"not offered":   {paid: 30_000, balance: 30_000, most: price, want: "for its owner only"},
		"a token's":     {price: &price, paid: 30_000, balance: 30_000, most: price, prepaid: true, want: "for its owner only"},
		"too little":    {price: &price, paid: 30_000, balance: 30_000, most: price - 1, want: "costs 0.02 USD"},
		"unpaid":        {price: &price, paid: 29_000, balance: 90_000, most: price, want: "by a voucher for 0.03 USD"},
		"no deposit":    {price: &price, paid: 30_000, balance: 29_999, most: price, want: "to be paid first"},
		"under way":     {price: &price, paid: 30_000, balance: 30_000, most: price, busy: true, want: "changing already"},
		"too soon":      {price: &price, paid: 30_000, balance: 30_000, most: price, lately: true, want: "again in 10m0s"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Seller{cfg: Config{Rotate: RotatePolicy{Price: tt.price}}}
				if tt.lately {
					s.rotateFrom = time.Now().Add(rotateBetween)
				}
				x := &session{
					s: s, meter: meter.New(meter.Config{}), prepaid: tt.prepaid, rotating: tt.busy,
					account: account{
						policy: agent.CreditPolicy{}.WithDefaults(), tally: agent.Tally{Price: agent.Price{Up: 1, Down: 1}, Base: 10_000},
						paid: tt.paid, balance: tt.balance, // of all channels nothing may be owed
					},
				}
				got, err := x.admitRotation(tt.most)
				if tt.want == "" && (err != nil || got != *tt.price) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("%d, %v; want %q", got, err, tt.want)
				}
				if tt.want != "" {
					return
				}
				if _, err := x.admitRotation(tt.most); err == nil {
					t.Error("again at once")
				}
				time.Sleep(rotateBetween)
				if _, err := x.admitRotation(tt.most); err != nil {
					t.Errorf("later: %v", err)
				}
			})
		})
	}
}

// sink is a dialer that counts.
type sink struct{ dials int }

func (s *sink) DialTCP(context.Context, string, uint16) (net.Conn, error) {
	s.dials++
	return nil, errors.New("counted")
}

func (s *sink) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return s.DialTCP(ctx, host, port)
}

// TestTurnstile: flows that begin while the address changes wait until it has, or
// for as long as they may.
func TestTurnstile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &sink{}
		s := &Seller{dialer: d}
		s.turnstile.s = s
		dial := func(patience time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := s.turnstile.DialTCP(ctx, "example.com", 80)
			_, err2 := s.turnstile.DialUDP(ctx, "example.com", 80)
			return errors.Join(err, err2)
		}
		if dial(time.Second); d.dials != 2 {
			t.Errorf("open: %d", d.dials)
		}
		s.turnstile.shut()
		if err := dial(time.Second); !errors.Is(err, context.DeadlineExceeded) || d.dials != 2 {
			t.Errorf("shut: %v, %d", err, d.dials)
		}
		var wg sync.WaitGroup
		wg.Go(func() { dial(time.Minute) })
		time.Sleep(5 * time.Second)
		if d.dials != 2 {
			t.Errorf("shut: %d", d.dials)
		}
		s.turnstile.reopen()
		if wg.Wait(); d.dials != 4 {
			t.Errorf("open again: %d", d.dials)
		}
	})
}

// TestRotateBlind: without a relay that has seen the agent, or without a modem, the
// address is not given up.
func TestRotateBlind(t *testing.T) {
	s := &Seller{log: slog.New(slog.DiscardHandler), radio: make(chan func(context.Context))}
	if r := s.rotate(t.Context(), 0, "command"); r.Changed || r.Error != errUnseen.Error() || s.rotated.Failed != 1 || s.turnstile.isShut() {
		t.Errorf("%+v", r)
	}
	if err := s.release(t.Context(), time.Second); !errors.Is(err, errNoModem) {
		t.Error(err)
	}
}
