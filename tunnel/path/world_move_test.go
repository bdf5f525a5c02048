package path

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A scene is a couple in a world, with a relay at 198.51.100.1.
type scene struct {
	*couple
	w       *world
	relay   *relay
	binding *Binding
}

const (
	plain     = iota // no NAT
	cone             // one mapping for all addresses
	symmetric        // one for each
)

// setScene puts the buyer at 10.0.0.2, the agent at 10.1.0.2 behind NATs of a
// kind, and connects them by the relay.
func setScene(t *testing.T, buyer, agent int) *scene {
	s := &scene{w: newWorld(20 * time.Millisecond)}
	b, a := "192.0.2.2", "203.0.113.2"
	if buyer != plain {
		b = "10.0.0.2"
		s.w.nat(b, "192.0.2.1", buyer == symmetric)
	}
	if agent != plain {
		a = "10.1.0.2"
		s.w.nat(a, "203.0.113.1", agent == symmetric)
	}
	s.couple = newCouple(t, Config{Open: s.w.host(b)}, Config{Open: s.w.host(a)})
	s.relay = newRelay(s.w.host("198.51.100.1"), ID{1}, true)
	s.closers = append(s.closers, s.relay.close)
	s.binding = s.bind(s.relay)
	s.dial(net.UDPAddrFromAddrPort(s.binding.Addr()))
	return s
}

// within fails unless the ends' callbacks say direct within d.
func (s *scene) within(d time.Duration, direct bool) {
	s.t.Helper()
	start := time.Now()
	for _, e := range []*end{s.buyer, s.agent} {
		for is := !direct; is != direct; {
			select {
			case is = <-e.moved:
			case <-time.After(d - time.Since(start)):
				s.t.Fatalf("not moved to direct=%v within %v", direct, d)
			}
		}
	}
	s.t.Logf("direct=%v after %v", direct, time.Since(start))
}

func (s *scene) mustRally(n int) {
	s.t.Helper()
	start := time.Now()
	if err := s.rally(n); err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("%d bytes there and back after %v", n, time.Since(start))
}

func TestPunch(t *testing.T) {
	names := []string{"plain", "cone", "symmetric"}
	for buyer := range 3 {
		for agent := range 3 {
			t.Run(names[buyer]+" to "+names[agent], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := setScene(t, buyer, agent)
					defer s.close()
					if buyer+agent <= 2 { // cones, or a symmetric NAT towards none
						s.within(3*time.Second, true)
					} else {
						select {
						case <-s.buyer.moved:
							t.Fatal("moved through two such NATs")
						case <-time.After(10 * time.Minute):
						}
					}
					s.mustRally(100_000)
				})
			})
		}
	}
}

// TestDirectDies goes back to the relay, and to the direct path when it heals.
func TestDirectDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := setScene(t, cone, cone)
		defer s.close()
		s.within(3*time.Second, true)
		s.mustRally(100_000)
		via := netip.MustParseAddr("198.51.100.1")
		s.w.lose(func(from, to netip.AddrPort, _ []byte) bool { return from.Addr() != via && to.Addr() != via })
		done := make(chan error, 1)
		s.wg.Go(func() { done <- s.rally(1_000_000) })
		s.within(4*time.Second, false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.w.lose(nil)
		s.within(2*time.Minute, true)
		s.mustRally(100_000)
	})
}

// TestUplinkDies breaks the direct path in one direction only.
func TestUplinkDies(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprint(up), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := setScene(t, cone, cone)
				defer s.close()
				s.within(3*time.Second, true)
				buyer, agent := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.1")
				s.w.lose(func(from, to netip.AddrPort, _ []byte) bool {
					return up && from.Addr() == buyer && to.Addr() == agent || !up && from.Addr() == agent && to.Addr() == buyer
				})
				done := make(chan error, 1)
				s.wg.Go(func() { done <- s.rally(1_000_000) })
				s.within(6*time.Second, false)
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// strand has the relay die under two ends that have no other way, and returns when
// the buyer's owner is told. What they were about to exchange ends by done.
func strand(t *testing.T) (s *scene, done chan error) {
	t.Helper()
	s = setScene(t, symmetric, symmetric)
	s.mustRally(100_000)
	s.relay.close()
	died := time.Now()
	done = make(chan error, 1)
	s.wg.Go(func() { done <- s.rally(1_000_000) })
	<-s.buyer.lost
	if d := time.Since(died); d > 6*time.Second {
		t.Errorf("lost after %v", d)
	}
	return s, done
}

// another is one more relay, which closes with the scene.
func (s *scene) another(n byte, direct bool) *relay {
	r := newRelay(s.w.host(fmt.Sprintf("198.51.100.%d", n)), ID{n}, direct)
	s.closers = append(s.closers, r.close)
	return r
}

// TestRelayDies asks the owner for another relay, and goes on there.
func TestRelayDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, done := strand(t)
		defer s.close()
		b := s.bind(s.another(2, true))
		named := time.Now()
		s.buyer.mover.Use(b.Addr())
		s.within(time.Second, false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		t.Logf("1 MB there and back %v after another relay was named", time.Since(named))
	})
}

// TestRelayLeadsNowhere asks the owner again when the agent does not come to the
// relay that he named.
func TestRelayLeadsNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, done := strand(t)
		defer s.close()
		second := s.another(2, false)
		s.buyer.mover.Use(must[*Binding](t)(s.buyer.sock.Bind(s.ctx, second.side(0))).Addr())
		named := time.Now()
		<-s.buyer.lost
		if d := time.Since(named); d < time.Second || d > 7*time.Second {
			t.Errorf("lost again after %v", d)
		}
		s.buyer.mover.Use(s.bind(s.another(3, true)).Addr())
		s.within(time.Second, false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// TestLateAgent has the agent come to the next relay a moment after the buyer.
func TestLateAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, done := strand(t)
		defer s.close()
		second := s.another(2, false)
		b := must[*Binding](t)(s.buyer.sock.Bind(s.ctx, second.side(0)))
		s.buyer.mover.Use(b.Addr())
		time.Sleep(300 * time.Millisecond)
		must[*Binding](t)(s.agent.sock.Bind(s.ctx, second.side(1)))
		s.within(500*time.Millisecond, false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// TestBuyerMoves changes the buyer's address again and again, with a relay and
// without.
func TestBuyerMoves(t *testing.T) {
	for name, how := range map[string][2]int{"direct": {cone, cone}, "relayed": {symmetric, symmetric}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := setScene(t, how[0], how[1])
				defer s.close()
				done := make(chan error, 1)
				s.wg.Go(func() { done <- s.rally(20_000_000) })
				for range 10 {
					if err := s.buyer.sock.Rebind(context.Background()); err != nil {
						t.Fatal(err)
					}
					s.mustRally(10_000)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestWithoutRelay gives mobility to a buyer of a public agent whose NAT
// forgets it again and again, and neither end is told.
func TestWithoutRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(20 * time.Millisecond)
		n := w.nat("10.0.0.2", "192.0.2.1", false)
		c := newCouple(t, Config{Open: w.host("10.0.0.2")}, Config{Open: w.host("203.0.113.2")})
		defer c.close()
		c.dial(c.agent.sock.LocalAddr())
		for i := range 20 {
			w.mu.Lock()
			n.forget()
			w.mu.Unlock()
			start := time.Now()
			if err := c.rally(10_000); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 4*time.Second {
				t.Errorf("move %d took %v", i, d)
			} else {
				t.Log(d)
			}
		}
	})
}

// A dyingConn stops to send when it is told to.
type dyingConn struct {
	net.PacketConn
	dead *atomic.Bool
}

func (c dyingConn) WriteTo(b []byte, a net.Addr) (int, error) {
	if c.dead.Load() {
		return 0, syscall.ENETDOWN
	}
	return c.PacketConn.WriteTo(b, a)
}

// TestSocketDies opens another socket for one that cannot send any more.
func TestSocketDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(20 * time.Millisecond)
		var last *atomic.Bool
		host := w.host("192.0.2.2")
		open := func(ctx context.Context, addr string) (net.PacketConn, error) {
			c, err := host(ctx, addr)
			last = new(atomic.Bool)
			return dyingConn{c, last}, err
		}
		c := newCouple(t, Config{Open: open}, Config{Open: w.host("203.0.113.2")})
		defer c.close()
		c.dial(c.agent.sock.LocalAddr())
		if err := c.rally(1000); err != nil {
			t.Fatal(err)
		}
		dead := last
		dead.Store(true)
		start := time.Now()
		if err := c.rally(100_000); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 5*time.Second || last == dead {
			t.Errorf("after %v, another socket: %v", d, last != dead)
		} else {
			t.Log(d)
		}
	})
}

// TestOutage has no network at all for longer and longer.
func TestOutage(t *testing.T) {
	for _, outage := range []time.Duration{time.Second, 5 * time.Second, 45 * time.Second} {
		t.Run(outage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := setScene(t, cone, cone)
				defer s.close()
				s.within(3*time.Second, true)
				s.w.lose(func(netip.AddrPort, netip.AddrPort, []byte) bool { return true })
				sent := s.w.sent()
				done := make(chan error, 1)
				s.wg.Go(func() { done <- s.rally(100_000) })
				time.Sleep(outage)
				t.Log(s.w.sent()-sent, "packets during the outage")
				s.w.lose(nil)
				healed := time.Now()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if d := time.Since(healed); d > 12*time.Second {
					t.Errorf("on after %v", d)
				} else {
					t.Logf("on after %v", d)
				}
			})
		})
	}
}

// TestIdle counts what a connection costs where nothing happens for an hour.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := setScene(t, symmetric, symmetric)
		defer s.close()
		s.mustRally(1000)
		time.Sleep(time.Minute)
		sent, size := 0, 0
		agent := netip.MustParseAddr("203.0.113.1")
		s.w.lose(func(from, to netip.AddrPort, b []byte) bool {
			if b[0] == 0 && (from.Addr() == agent || to.Addr() == agent) {
				sent, size = sent+1, size+len(b)+28
			}
			return false
		})
		time.Sleep(time.Hour)
		s.w.lose(nil)
		if size > 56<<10 {
			t.Errorf("%d control packets, %d bytes an hour at the agent", sent, size)
		}
		t.Logf("%d control packets, %d bytes an hour at the agent", sent, size)
	})
}
