package tunnel

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func from(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 5000} }

// TestStrangers: a source has a quarter of the places; the oldest makes room, but
// not at once; who has left has nothing to lose.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Strangers{Most: 8}
		enter := func(ip string) (context.Context, *Stranger) {
			ctx, end := context.WithCancel(t.Context())
			return ctx, s.Enter(end, from(ip), true)
		}
		first, one := enter("192.0.2.1")
		if _, x := enter("192.0.2.1"); x == nil {
			t.Error("a second of one source")
		}
		if _, x := enter("192.0.2.1"); x != nil {
			t.Error("a third of one source")
		}
		_, friend := enter("192.0.2.2")
		friend.Leave()
		friend.Leave() // again does nothing
		six, _ := enter("2001:db8::1")
		enter("2001:db8::ffff")
		if _, x := enter("2001:db8::2"); x != nil {
			t.Error("a third of one /64")
		}
		for _, ip := range []string{"192.0.2.3", "192.0.2.4", "192.0.2.5", "::ffff:192.0.2.6"} {
			if _, x := enter(ip); x == nil {
				t.Error(ip)
			}
		}
		if _, x := enter("192.0.2.7"); x != nil {
			t.Error("a ninth, at once")
		}
		<-time.After(strangerTime)
		if _, x := enter("192.0.2.7"); x == nil || first.Err() == nil {
			t.Errorf("a ninth, later: %v, the oldest: %v", x, first.Err())
		}
		if source, all := s.Count(from("192.0.2.1")); source != 1 || all != 8 {
			t.Errorf("%d of the source, %d in all", source, all)
		}
		one.Leave() // has gone already
		if six.Err() != nil {
			t.Error("another made room too")
		}
		s.Relay(from("192.0.2.3").(*net.TCPAddr).AddrPort().Addr())
		for range 5 { // each pushes an old one out
			if _, x := enter("192.0.2.3"); x == nil {
				t.Error("a relay's buyer")
			}
		}
	})
}

// TestUnproven: packets with another's address take no part of his.
func TestUnproven(t *testing.T) {
	s := Strangers{Most: 16}
	victim := from("192.0.2.1")
	var all []*Stranger
	for range 8 {
		all = append(all, s.Enter(func() {}, victim, false))
	}
	if source, n := s.Count(victim); source != 0 || n != 8 {
		t.Errorf("%d of the source, %d in all", source, n)
	}
	proven := 0
	for _, x := range all {
		if x.Prove(victim) {
			proven++
		}
	}
	if proven != 4 {
		t.Errorf("%d proven", proven)
	}
	for _, x := range all {
		x.Leave()
	}
	if source, n := s.Count(victim); source != 0 || n != 0 || len(s.by) != 0 {
		t.Errorf("%d of the source, %d in all are left", source, n)
	}
	var none Strangers
	for range 1000 {
		if none.Enter(func() {}, victim, true) == nil {
			t.Fatal("the zero value bounds")
		}
	}
}
