package path

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var (
	relaySide = netip.MustParseAddrPort("198.51.100.1:1000") // both ends see the relay here
	buyerSide = netip.MustParseAddrPort("192.0.2.1:2000")
	agentSide = netip.MustParseAddrPort("203.0.113.1:3000")
	evil      = netip.MustParseAddrPort("233.252.0.66:6666")
)

// A table tennis of two machines, on which the test sees and plays every ball.
type duel struct {
	now          time.Time
	buyer, agent *mover
	caught       []ball // all that was ever sent
}

type ball struct {
	toAgent bool
	from    netip.AddrPort // as the receiver sees it
	b       []byte
}

func newDuel() *duel {
	d := &duel{now: time.Unix(1000, 0)}
	secret := [32]byte{7}
	d.buyer, d.agent = newMover(secret, true, d.now), newMover(secret, false, d.now)
	d.buyer.start(d.now, relaySide, false)
	d.agent.start(d.now, relaySide, false)
	return d
}

// sent takes what an end wants sent; to the evil address nothing answers.
func (d *duel) sent(m *mover) (balls []ball, toEvil int) {
	for _, p := range m.out {
		x := ball{toAgent: m.buyer, b: p.b, from: relaySide}
		switch p.to {
		case relaySide:
		case agentSide:
			x.from = buyerSide
		case buyerSide:
			x.from = agentSide
		default:
			toEvil++
			continue
		}
		balls = append(balls, x)
	}
	m.out, m.events = nil, nil
	d.caught = append(d.caught, balls...)
	return balls, toEvil
}

func (d *duel) deliver(x ball) {
	m := d.buyer
	if x.toAgent {
		m = d.agent
	}
	m.packet(d.now, heard{from: x.from, b: bytes.Clone(x.b), relay: x.from == relaySide})
}

// play lets both ends talk for a while.
func (d *duel) play(ticks int) {
	for range ticks {
		d.now = d.now.Add(beat)
		d.buyer.tick(d.now, counts{})
		d.agent.tick(d.now, counts{})
		for range 4 {
			for _, m := range []*mover{d.buyer, d.agent} {
				balls, _ := d.sent(m)
				for _, x := range balls {
					d.deliver(x)
				}
			}
		}
	}
}

// TestDuel sees that the fixture punches, or the tests below show nothing.
func TestDuel(t *testing.T) {
	d := newDuel()
	d.buyer.use(d.now, agentSide, true, false)
	d.agent.use(d.now, buyerSide, true, false)
	d.play(16)
	if d.buyer.route.addr != agentSide || d.agent.route.addr != buyerSide {
		t.Fatalf("at %v and %v", d.buyer.route.addr, d.agent.route.addr)
	}
	if len(d.caught) < 8 {
		t.Fatal(len(d.caught))
	}
}

// TestMisused replays, reflects, forges, cuts and redirects everything that
// two ends said when they moved.
func TestMisused(t *testing.T) {
	d := newDuel()
	d.buyer.use(d.now, agentSide, true, false)
	d.agent.use(d.now, buyerSide, true, false)
	d.play(16)
	at := [2]*candidate{d.buyer.route, d.agent.route}
	caught := d.caught
	check := func(how string, allowed int) {
		t.Helper()
		n := len(d.buyer.out) + len(d.agent.out)
		if at != [2]*candidate{d.buyer.route, d.agent.route} || n > allowed {
			t.Errorf("%s: at %v and %v, %d packets", how, d.buyer.route.addr, d.agent.route.addr, n)
		}
		d.sent(d.buyer)
		d.sent(d.agent)
	}
	for _, x := range caught {
		for _, from := range []netip.AddrPort{x.from, relaySide, evil} {
			d.deliver(ball{x.toAgent, from, x.b})
			check("replayed", 0)
			d.deliver(ball{!x.toAgent, from, x.b})
			check("reflected", 0)
			for i := range x.b[:MinProbe] {
				if i < headSize+1+macSize || x.b[1] == byte(TypeAck) {
					forged := bytes.Clone(x.b)
					forged[i] ^= 1 << rand.N(8)
					d.deliver(ball{x.toAgent, from, forged})
				}
			}
			check("forged", 0)
			d.deliver(ball{x.toAgent, from, x.b[:rand.N(MinProbe)]})
			check("cut", 0)
		}
	}
	d.play(100)
	check("afterwards", 0)
}

// TestRedirected is a relay that lets the agent hear fresh moves only from an
// address that it chooses.
func TestRedirected(t *testing.T) {
	d := newDuel()
	toEvil := 0
	for range 400 { // 50 s
		d.now = d.now.Add(beat)
		d.buyer.move(d.now, d.buyer.route)
		d.buyer.confirm0()
		balls, _ := d.sent(d.buyer)
		for _, x := range balls {
			x.from = evil
			d.deliver(x)
		}
		d.agent.tick(d.now, counts{})
		for _, p := range d.agent.out {
			if p.to == evil {
				if toEvil++; len(p.b) != MinProbe {
					t.Fatalf("%d bytes", len(p.b))
				}
			}
		}
		d.agent.out = nil
	}
	if d.agent.route.addr != relaySide {
		t.Error("the agent sends where nobody answered")
	}
	if limit := creditMax + creditSecond*50 + 1; toEvil > limit || toEvil == 0 {
		t.Errorf("%d packets to an address that did not ask, limit %d", toEvil, limit)
	}
}

func (m *mover) confirm0() { m.route.confirm = 0 }

// TestLies is a relay that names one address after another.
func TestLies(t *testing.T) {
	for _, end := range []string{"buyer", "agent"} {
		d := newDuel()
		m := map[string]*mover{"buyer": d.buyer, "agent": d.agent}[end]
		packets := 0
		for i := range 8 * 60 { // a minute
			d.now = d.now.Add(beat)
			lie := netip.AddrPortFrom(evil.Addr(), uint16(1+i))
			m.use(d.now, lie, true, false)
			m.punch(d.now, lie)
			m.tick(d.now, counts{})
			for _, p := range m.out {
				if p.to.Addr() == evil.Addr() {
					if packets++; len(p.b) != MinProbe {
						t.Fatalf("%d bytes", len(p.b))
					}
				}
			}
			m.out, m.events = nil, nil
		}
		if limit := creditMax + creditSecond*60 + 1; packets > limit || packets == 0 {
			t.Errorf("%s: %d packets, limit %d", end, packets, limit)
		}
		if len(m.candidates) > candidacy || m.route.addr != relaySide {
			t.Errorf("%s: %d candidates, at %v", end, len(m.candidates), m.route.addr)
		}
	}
}

// TestReordered keeps an old move from undoing a new one.
func TestReordered(t *testing.T) {
	d := newDuel()
	d.buyer.use(d.now, agentSide, true, false)
	d.agent.use(d.now, buyerSide, true, false)
	d.buyer.move(d.now, d.buyer.route) // to the relay, and delayed
	late, _ := d.sent(d.buyer)
	d.play(16)
	if d.agent.route.addr != buyerSide {
		t.Fatal(d.agent.route.addr)
	}
	for _, x := range late {
		d.deliver(x)
	}
	d.play(1)
	if d.agent.route.addr != buyerSide {
		t.Error("an old move undid a new one")
	}
}

// TestSmallPath does not take a direct path that loses what the relay carries.
func TestSmallPath(t *testing.T) {
	for _, narrow := range []bool{false, true} { // whether the relay is as small
		d := newDuel()
		d.buyer.use(d.now, agentSide, true, false)
		d.agent.use(d.now, buyerSide, true, false)
		for range 80 {
			d.now = d.now.Add(beat)
			d.buyer.tick(d.now, counts{packet: 1350})
			d.agent.tick(d.now, counts{})
			for range 4 {
				for _, m := range []*mover{d.buyer, d.agent} {
					balls, _ := d.sent(m)
					for _, x := range balls {
						if len(x.b) <= 1400 || x.from == relaySide && !narrow {
							d.deliver(x)
						}
					}
				}
			}
		}
		if d.buyer.route.direct != narrow || d.agent.route.direct != narrow {
			t.Errorf("relay narrow %v: at %v", narrow, d.buyer.route.addr)
		}
	}
}

func TestWindow(t *testing.T) {
	var w window
	seen := map[uint64]bool{}
	top := uint64(0)
	for range 10_000 {
		n := uint64(rand.N(200)) + top - min(top, 100)
		want := n > 0 && !seen[n] && (n > top || top-n < 64)
		if got := w.fresh(n); got != want {
			t.Fatalf("fresh(%d) at %d: %v", n, top, got)
		}
		seen[n] = seen[n] || want
		if want {
			top = max(top, n)
		}
	}
	if !w.fresh(1<<64-1) || w.fresh(1<<64-1) {
		t.Error("the last counter")
	}
}

// FuzzMover plays what was caught in an order and from addresses that nobody
// chose, and lets time pass.
func FuzzMover(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	f.Add(bytes.Repeat([]byte{200, 3, 9, 1, 0}, 20))
	f.Fuzz(func(t *testing.T, script []byte) {
		d := newDuel()
		d.buyer.use(d.now, agentSide, true, false)
		d.agent.use(d.now, buyerSide, true, false)
		froms := []netip.AddrPort{relaySide, buyerSide, agentSide, evil}
		for i, op := range script[:min(len(script), 200)] {
			switch {
			case op < 64 || len(d.caught) == 0:
				d.play(1 + int(op)/8)
			case op < 128:
				m := []*mover{d.buyer, d.agent}[op&1]
				m.tick(d.now, counts{sent: uint32(i), failed: uint32(op & 2)})
			case op < 140:
				m := []*mover{d.buyer, d.agent}[op&1]
				m.readdressed(d.now)
			default:
				x := d.caught[int(op)*i%len(d.caught)]
				x.from = froms[i&3]
				if op&1 == 1 {
					x.b = bytes.Clone(x.b)
					x.b[(i*7)%(headSize+1+macSize)] ^= 1 << (op % 8)
				}
				x.toAgent = x.toAgent != (op&2 == 2)
				d.deliver(x)
			}
			if a, b := d.agent.route.addr, d.buyer.route.addr; a == evil || b == evil {
				t.Fatalf("at %v and %v", b, a)
			}
			if len(d.agent.candidates) > candidacy || len(d.buyer.candidates) > candidacy {
				t.Fatal("too many candidates")
			}
		}
	})
}
