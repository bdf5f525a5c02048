package bbr

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/apernet/quic-go/congestion"
	"github.com/apernet/quic-go/monotime"
)

func TestUnits(t *testing.T) {
	if r := bytesPerSecond(6250000); r.volume(second) < 6249990 || r.volume(second) > 6250000 {
		t.Errorf("6.25 MB/s make %d bytes in a second", r.volume(second))
	}
	if r := rateOf(1<<31, 1); r != infiniteRate {
		t.Errorf("2 GB in 1 ns are %d", r)
	}
	if v := infiniteRate.volume(math.MaxInt64); v != infinite {
		t.Errorf("a rate without bound in 300 years: %d", v)
	}
	if got := bytesPerSecond(math.MaxUint64); got == 0 {
		t.Error("the highest rate is none")
	}
	for _, n := range []uint32{0, 1, 2, 15, 16, 17, 1 << 30, math.MaxUint32} {
		if r := uint64(root(n)); r*r > uint64(n) || (r+1)*(r+1) <= uint64(n) {
			t.Errorf("root of %d is %d", n, r)
		}
	}
	if add(math.MaxUint32, 2) != infinite || sub(1, 2) != 0 || shareOf(1, 0) != 0 || shareOf(5, 4) != whole {
		t.Error("bounds of volumes")
	}
	if !after(5, math.MaxUint32-5) || after(math.MaxUint32-5, 5) {
		t.Error("totals that wrap")
	}
}

func TestPackets(t *testing.T) {
	var q packets
	for n := congestion.PacketNumber(3); n < 400; n++ {
		if n%7 == 0 || n > 100 && n < 200 { // skipped, or without data
			continue
		}
		p := q.push(n)
		p.size = uint16(n)
	}
	if q.push(398) != nil || q.push(5) != nil {
		t.Error("a number that does not rise was taken")
	}
	for n := congestion.PacketNumber(-1); n < 500; n++ {
		p := q.find(n)
		want := n >= 3 && n < 400 && n%7 != 0 && (n <= 100 || n >= 200)
		if (p != nil) != want || p != nil && p.size != uint16(n) {
			t.Fatalf("packet %d: %v", n, p)
		}
	}
	q.drop(250)
	if q.find(242) != nil || q.find(243) == nil {
		t.Error("drop keeps more or less than what may still be reordered")
	}
	for n := congestion.PacketNumber(1000); n < 1000+3*maxPackets; n++ {
		q.push(n)
	}
	if len(q.ring) != maxPackets || q.find(1000+3*maxPackets-1) == nil || q.find(1000) != nil {
		t.Errorf("%d records kept, the newest or oldest wrong", len(q.ring))
	}
}

// A script drives a controller by hand.
type script struct {
	*Controller
	at       int64
	number   congestion.PacketNumber
	inflight congestion.ByteCount
}

func newScript() *script {
	s := &script{Controller: seeded(1), at: second}
	var rtt simRTT
	rtt.update(40 * millisecond)
	s.SetRTTStatsProvider(&rtt)
	return s
}

func (s *script) send(n int) {
	for range n {
		s.inflight += 1280
		s.OnPacketSent(monotime.Time(s.at), s.inflight, s.number, 1280, true)
		s.number++
	}
}

// end acknowledges and loses packets.
func (s *script) end(acked, lost []congestion.PacketNumber) {
	var a []congestion.AckedPacketInfo
	var l []congestion.LostPacketInfo
	prior := s.inflight
	for _, n := range acked {
		a = append(a, congestion.AckedPacketInfo{PacketNumber: n, BytesAcked: 1280})
		s.inflight -= 1280
	}
	for _, n := range lost {
		l = append(l, congestion.LostPacketInfo{PacketNumber: n, BytesLost: 1280})
		s.inflight -= 1280
	}
	s.OnCongestionEventEx(prior, monotime.Time(s.at), a, l)
}

func span(from, to congestion.PacketNumber) (numbers []congestion.PacketNumber) {
	for n := from; n < to; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

func TestSample(t *testing.T) {
	s := newScript()
	s.send(10)
	s.at += 40 * millisecond
	s.end(span(0, 2), nil)
	if want := rateOf(2560, 40*millisecond); s.rs.rate != want || s.minRTT != 40*millisecond {
		t.Errorf("rate %d, want %d; least round trip %v", s.rs.rate, want, time.Duration(s.minRTT))
	}
	s.at += 10 * millisecond
	s.end(span(2, 10), nil)
	if want := rateOf(12800, 50*millisecond); s.rs.rate != want {
		t.Errorf("rate %d, want %d", s.rs.rate, want)
	}
	if s.inflight != 0 || s.Controller.inflight != 0 {
		t.Errorf("in flight %d, counted %d", s.inflight, s.Controller.inflight)
	}
}

func TestApplicationLimited(t *testing.T) {
	s := newScript()
	ask := func() bool { return s.CanSend(s.inflight) && s.HasPacingBudget(monotime.Time(s.at)) }
	ask()
	s.send(1)
	ask() // nothing to send, or packets came in first
	s.at += millisecond / 10
	ask()
	s.send(1)
	if s.limitedUntil != 0 {
		t.Error("limited, though a packet followed at once")
	}
	s.at += 10 * millisecond
	ask()
	s.at += millisecond / 10
	ask()
	s.at += millisecond
	s.end(span(0, 1), nil)
	if s.limitedUntil == 0 {
		t.Error("not limited, though two questions brought no packet")
	}
	s.limitedUntil = 0
	s.offers = 0
	ask()
	s.at += 20 * millisecond
	ask()
	if s.limitedUntil == 0 {
		t.Error("not limited, though a while passed unused")
	}
}

func TestReset(t *testing.T) {
	s := newScript()
	for range 20 {
		from := s.number
		s.send(30)
		s.at += 40 * millisecond
		s.end(span(from, s.number), nil)
	}
	lost := s.number
	s.send(60)
	for s.CanSend(s.inflight) {
		s.send(1)
	}
	s.Reset()
	if !s.CanSend(s.inflight) {
		t.Fatal("what is in flight on the old path holds back the new one")
	}
	if s.state != startup || s.maxBandwidth() != 0 || s.minRTT != 0 {
		t.Errorf("state %d, %d bytes a second", s.state, s.maxBandwidth())
	}
	first := s.number
	s.send(32)
	if s.CanSend(s.inflight) {
		t.Error("more than the initial window on the new path")
	}
	s.at += 100 * millisecond
	s.end(span(first, first+32), span(lost, first))
	if s.minRTT != 100*millisecond {
		t.Errorf("least round trip %v", time.Duration(s.minRTT))
	}
	if s.lossInRound || s.lost != 0 {
		t.Error("losses of the old path count on the new")
	}
	if s.inflight != 0 || s.Controller.inflight != 0 || !s.CanSend(0) {
		t.Errorf("in flight %d, counted %d", s.inflight, s.Controller.inflight)
	}
}

// TestMTUProbeLost: RFC 9000 §14.4.
func TestMTUProbeLost(t *testing.T) {
	s := newScript()
	s.send(10)
	s.inflight += 1400
	s.OnPacketSent(monotime.Time(s.at), s.inflight, s.number, 1400, true)
	s.number++
	s.send(4)
	s.at += 40 * millisecond
	s.end(append(span(0, 10), span(11, 15)...), nil)
	prior := s.inflight
	s.inflight -= 1400
	s.OnCongestionEventEx(prior, monotime.Time(s.at), nil, []congestion.LostPacketInfo{{PacketNumber: 10, BytesLost: 1400}})
	if s.InRecovery() {
		t.Error("a lost probe of the MTU counts as congestion")
	}
}

func TestPacer(t *testing.T) {
	var p pacer
	p.setRate(bytesPerSecond(1e6), 1000) // a packet of 1000 bytes each ms
	now := second
	sent := 0
	for range 1000 {
		for p.ready(now) {
			p.sent(now, 1000)
			sent++
		}
		now = p.when()
	}
	if want := int((now - second) / millisecond); sent < want-1 || sent > want+10 {
		t.Errorf("%d packets in %d ms", sent, want)
	}
	// A pause is not made up for by more than the bank.
	now += second
	burst := 0
	for p.ready(now) {
		p.sent(now, 1000)
		burst++
	}
	if burst < 2 || burst > 16 {
		t.Errorf("%d packets at once after a pause", burst)
	}
}

// TestStates walks through the states on a steady path.
func TestStates(t *testing.T) {
	l := newLane(1, link{rate: mbit50, queue: mbit50 / 10, delay: 20 * time.Millisecond})
	c := seeded(1)
	f := newFlow(l.w, c, l.forward, l.back)
	f.start()
	seen := map[state]bool{}
	var order []state
	last := state(99)
	for range 2500 {
		l.w.run(2 * time.Millisecond)
		seen[c.state] = true
		if c.state != last {
			order = append(order, c.state)
			last = c.state
		}
	}
	for _, s := range []state{startup, drain, down, cruise, refill, up} {
		if !seen[s] {
			t.Errorf("state %d was never reached: %v", s, order)
		}
	}
	// The draft's test case: the estimate is within 2% of the path's, here of
	// the QUIC packets without their headers.
	want := bytesPerSecond(mbit50 * simPacket / (simPacket + 28))
	if got := c.maxBandwidth(); got < want*98/100 || got > want*102/100 {
		t.Errorf("bandwidth %d, want %d", got, want)
	}
	if rtt := time.Duration(c.minRTT); rtt < 40*time.Millisecond || rtt > 42*time.Millisecond {
		t.Errorf("least round trip %v", rtt)
	}
}

// FuzzEvents plays what no honest peer does: acknowledgments of anything in any
// order, and times that jump.
func FuzzEvents(f *testing.F) {
	f.Add([]byte{0, 10, 1, 3, 2, 1, 3, 0, 4, 200, 0, 50, 1, 200})
	f.Add([]byte{0, 255, 0, 255, 4, 255, 1, 255, 2, 255, 5, 0, 0, 1, 1, 1, 6, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(Config{Cap: new(Cap)})
		var rtt simRTT
		rtt.update(40 * millisecond)
		c.SetRTTStatsProvider(&rtt)
		at, number, inflight := -1000*second, congestion.PacketNumber(0), congestion.ByteCount(0)
		for len(b) >= 2 {
			op, n := b[0], int64(b[1])
			b = b[2:]
			switch op % 8 {
			case 0:
				for range n {
					if c.CanSend(inflight) && c.HasPacingBudget(monotime.Time(at)) {
						inflight += 1280
						c.OnPacketSent(monotime.Time(at), inflight, number, 1280, n%5 != 0)
						number += 1 + congestion.PacketNumber(n%2)
					}
				}
			case 1, 2:
				acked := []congestion.AckedPacketInfo{{PacketNumber: congestion.PacketNumber(n), BytesAcked: 1280}, {PacketNumber: number - 1, BytesAcked: congestion.ByteCount(n * 6)}}
				lost := []congestion.LostPacketInfo{{PacketNumber: congestion.PacketNumber(n / 2), BytesLost: congestion.ByteCount(n * 10)}}
				c.OnCongestionEventEx(inflight, monotime.Time(at), acked[:n%3], lost[:n%2])
				inflight = max(0, inflight-congestion.ByteCount(n)*1280)
			case 3:
				c.OnCongestionEvent(congestion.PacketNumber(n), 0, inflight)
			case 4:
				at += n * n * millisecond
			case 5:
				c.Reset()
			case 6:
				c.SetMaxDatagramSize(congestion.ByteCount(n * 100))
			case 7:
				var word [8]byte
				copy(word[:], b)
				c.cap.cap.Set(binary.LittleEndian.Uint64(word[:]) >> (n % 64))
			}
			if w := c.GetCongestionWindow(); w < minPackets*512 {
				t.Fatalf("window of %d bytes", w)
			}
			if next := c.TimeUntilSend(inflight); next < monotime.Time(c.epoch) {
				t.Fatalf("next packet at %d", next)
			}
		}
	})
}

// BenchmarkPacket is the cost of a packet: asked for, sent, and half an
// acknowledgment.
func BenchmarkPacket(b *testing.B) {
	c := seeded(1)
	var rtt simRTT
	rtt.update(40 * millisecond)
	c.SetRTTStatsProvider(&rtt)
	c.SetMaxDatagramSize(simPacket)
	const flight = 200
	acked := make([]congestion.AckedPacketInfo, 2)
	at, number := second, congestion.PacketNumber(0)
	send := func() {
		at += 232 * 1000
		c.CanSend(flight * simPacket)
		c.HasPacingBudget(monotime.Time(at))
		c.OnPacketSent(monotime.Time(at), flight*simPacket, number, simPacket, true)
		number++
	}
	for range 2 * flight {
		send()
	}
	b.ReportAllocs()
	for b.Loop() {
		send()
		if number%2 == 0 {
			for i := range acked {
				acked[i] = congestion.AckedPacketInfo{PacketNumber: number - 2*flight + congestion.PacketNumber(i), BytesAcked: simPacket}
			}
			c.OnCongestionEventEx(flight*simPacket, monotime.Time(at), acked, nil)
		}
	}
}
