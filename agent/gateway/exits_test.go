package gateway

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
)

func someOffers(n int) (all []buyer.Found) {
	for i := range n {
		all = append(all, buyer.Found{Offer: agent.Offer{Agent: channel.Address{byte(i + 1)}}})
	}
	return all
}

// TestSeats: a session stays where it is while that is there, moves when it is
// gone or due, and is forgotten.
func TestSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExits(Config{}, nil, nil)
		offers := someOffers(3)
		sit := func(c choice, offers []buyer.Found) channel.Address {
			return x.choose(offers, &ticket{choice: c}, time.Now()).Offer.Agent
		}
		a := choice{Session: "a"}
		first := sit(a, offers)
		for range 50 {
			time.Sleep(time.Minute)
			if got := sit(a, offers); got != first {
				t.Fatalf("moved from %v to %v", first, got)
			}
		}
		rest := slices.DeleteFunc(slices.Clone(offers), func(f buyer.Found) bool { return f.Offer.Agent == first })
		second := sit(a, rest)
		if got := sit(a, offers); second == first || got != second {
			t.Errorf("gone: %v, then %v and %v", first, second, got)
		}
		due := choice{Session: "a", Rotate: 10 * time.Minute}
		last := sit(due, offers)
		for range 20 {
			time.Sleep(9 * time.Minute)
			if got := sit(due, offers); got != last {
				t.Fatal("moved before it was due")
			}
			time.Sleep(time.Minute)
			got := sit(due, offers)
			if got == last {
				t.Fatal("not moved when it was due")
			}
			last = got
		}
		if got := sit(due, offers[:1]); got != offers[0].Offer.Agent {
			t.Error("not where the only one is")
		}
		// Another customer's session of the same name is another's.
		x.choose(offers, &ticket{who: accountID{1}, choice: a}, time.Now())
		if len(x.seats) != 3 {
			t.Errorf("%d seats", len(x.seats))
		}
	})
}

// TestSeatsBounded: sessions that are not used give way.
func TestSeatsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExits(Config{}, nil, nil)
		offers := someOffers(2)
		for i := range maxSeats + 10 {
			x.choose(offers, &ticket{who: accountID{byte(i), byte(i >> 8), byte(i >> 16)}, choice: choice{Session: "a"}}, time.Now())
		}
		if len(x.seats) > maxSeats {
			t.Errorf("%d seats", len(x.seats))
		}
		time.Sleep(seatTime)
		x.choose(offers, &ticket{choice: choice{Session: "b"}}, time.Now())
		x.makeRoom(time.Now())
		if len(x.seats) != 1 {
			t.Errorf("%d seats are left", len(x.seats))
		}
	})
}

// TestSpread: without a session a connection leaves by any of the cheapest.
func TestSpread(t *testing.T) {
	x := newExits(Config{}, nil, nil)
	offers := someOffers(spread + 5)
	seen := map[channel.Address]bool{}
	for range 1_000 {
		seen[x.choose(offers, &ticket{}, time.Now()).Offer.Agent] = true
	}
	if len(seen) != spread {
		t.Errorf("%d exits are used", len(seen))
	}
}
