package bbr

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/apernet/quic-go/congestion"
	"github.com/apernet/quic-go/monotime"
)

// A world is a discrete simulation: events in the order of their times, drawn
// from one seed, so that a run is the same each time.
type world struct {
	now    int64
	events events
	order  int
	random *rand.Rand
}

func newWorld(seed uint64) *world {
	return &world{now: second, random: rand.New(rand.NewPCG(seed, 1))} // 0 stands for no time
}

type event struct {
	at    int64
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func (w *world) at(t int64, do func()) {
	w.order++
	heap.Push(&w.events, event{max(t, w.now), w.order, do})
}

func (w *world) run(d time.Duration) {
	end := w.now + int64(d)
	for len(w.events) > 0 && w.events[0].at <= end {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

// A link is a bottleneck with a queue that drops at its tail, or a policer.
type link struct {
	w         *world
	rate      int64 // bytes/s
	queue     int64 // bytes that wait at most
	delay     time.Duration
	jitter    time.Duration // up to so much more, drawn anew as often: packets come in clumps
	reorder   float64       // share of packets that come reorderBy later and are overtaken
	reorderBy time.Duration
	loss      float64
	lossFirst bool  // lost before the queue, else behind it
	police    bool  // drop what exceeds rate after a burst of queue, without delay
	mark      int64 // bytes in the queue above which packets are marked; 0 never
	dead      bool

	free    int64 // when the queue is empty
	drawn   int64 // when level, of jitter, was
	level   int64
	last    int64 // when the newest arrives
	sent    int64 // bytes offered
	carried int64
	drops   int64 // packets dropped for want of room
	waits   []int32
}

// send carries n bytes and calls arrive, unless they are lost.
func (l *link) send(n int64, arrive func(marked bool)) {
	l.sent += n
	lost := l.loss > 0 && l.w.random.Float64() < l.loss
	if l.dead || lost && l.lossFirst {
		return
	}
	start := max(l.free, l.w.now)
	if l.police {
		start = max(l.free, l.w.now-l.queue*second/l.rate)
		if start > l.w.now {
			l.drops++
			return
		}
	}
	waiting := (start - l.w.now) * l.rate / second
	if !l.police && waiting+n > l.queue {
		l.drops++
		return
	}
	l.free = start + n*second/l.rate
	if lost {
		return
	}
	at := l.free
	if l.police {
		at = l.w.now
	} else {
		l.waits = append(l.waits, int32((start-l.w.now)/1000))
	}
	l.carried += n
	at += int64(l.delay)
	if l.jitter > 0 {
		if l.w.now >= l.drawn+int64(l.jitter) {
			l.drawn, l.level = l.w.now, l.w.random.Int64N(int64(l.jitter))
		}
		at += l.level
	}
	if l.reorder > 0 && l.w.random.Float64() < l.reorder {
		at += int64(l.reorderBy)
	} else {
		at = max(at, l.last)
		l.last = at
	}
	marked := l.mark > 0 && waiting > l.mark
	l.w.at(at, func() { arrive(marked) })
}

// wait is a percentile of the queue's delay since the last call.
func (l *link) wait(percentile int) time.Duration {
	if len(l.waits) == 0 {
		return 0
	}
	slices.Sort(l.waits)
	d := time.Duration(l.waits[(len(l.waits)-1)*percentile/100]) * time.Microsecond
	return d
}

const (
	simPacket  = 1452 // of QUIC; 28 more on the wire
	simPayload = 1420
	simAck     = 70 // on the wire
)

// A flow is a sender with quic-go's rules of acknowledgment and loss (RFC 9002)
// and its receiver.
type flow struct {
	w       *world
	cc      congestion.CongestionControlEx
	forward *link
	back    *link
	rtt     simRTT

	// The application: bytes it has to send from now on; below 0 is endless.
	backlog int64
	tick    int64 // timers fire at multiples of this

	number    congestion.PacketNumber
	out       []simSent // in the order of their numbers
	inflight  int64
	again     []int32 // chunks to send again
	chunk     int32
	largest   congestion.PacketNumber
	lossAt    int64
	ptoCount  int
	lastSent  int64
	timerID   int
	processed int

	log      []simArrival // what the receiver got, in order
	unacked  int
	ackTimer bool
	highest  congestion.PacketNumber
	have     []bool
	marks    int
	marked   int

	goodput  int64 // payload that arrived, each byte once
	wire     int64 // bytes sent both ways
	lost     int
	spurious int
}

type simSent struct {
	number congestion.PacketNumber
	sent   int64
	chunk  int32
	gone   bool // acknowledged or declared lost
}

type simArrival struct {
	number congestion.PacketNumber
	chunk  int32
}

func newFlow(w *world, cc congestion.CongestionControlEx, forward, back *link) *flow {
	f := &flow{w: w, cc: cc, forward: forward, back: back, largest: -1, highest: -1, backlog: -1}
	f.rtt.update(int64(forward.delay + back.delay)) // the handshake's
	cc.SetRTTStatsProvider(&f.rtt)
	cc.SetMaxDatagramSize(simPacket)
	return f
}

func (f *flow) start() { f.w.at(f.w.now, f.send) }

// write gives the application n bytes more to send.
func (f *flow) write(n int64) {
	f.backlog += n
	f.send()
}

// send is quic-go's loop: as many packets as window, pacer and data allow.
func (f *flow) send() {
	for f.cc.CanSend(congestion.ByteCount(f.inflight)) {
		if !f.cc.HasPacingBudget(monotime.Time(f.w.now)) {
			f.arm()
			return
		}
		if !f.sendOne() {
			break
		}
	}
	f.arm()
}

func (f *flow) sendOne() bool {
	var chunk int32
	switch {
	case len(f.again) > 0:
		chunk, f.again = f.again[0], f.again[1:]
	case f.backlog == 0:
		return false
	default:
		chunk = f.chunk
		f.chunk++
		if f.backlog > 0 {
			f.backlog = max(0, f.backlog-simPayload)
		}
	}
	n := f.number
	f.number++
	f.inflight += simPacket
	f.lastSent = f.w.now
	f.out = append(f.out, simSent{number: n, sent: f.w.now, chunk: chunk})
	f.cc.OnPacketSent(monotime.Time(f.w.now), congestion.ByteCount(f.inflight), n, simPacket, true)
	f.wire += simPacket + 28
	f.forward.send(simPacket+28, func(marked bool) { f.receive(n, chunk, marked) })
	return true
}

func (f *flow) receive(n congestion.PacketNumber, chunk int32, marked bool) {
	for int(chunk) >= len(f.have) {
		f.have = append(f.have, false)
	}
	if !f.have[chunk] {
		f.have[chunk] = true
		f.goodput += simPayload
	}
	if marked {
		f.marks++
	}
	f.log = append(f.log, simArrival{n, chunk})
	f.unacked++
	late := n < f.highest || n > f.highest+1
	f.highest = max(f.highest, n)
	if f.unacked >= 2 || late {
		f.acknowledge()
	} else if !f.ackTimer {
		f.ackTimer = true
		f.w.at(f.w.now+25*millisecond, func() {
			f.ackTimer = false
			if f.unacked > 0 {
				f.acknowledge()
			}
		})
	}
}

func (f *flow) acknowledge() {
	f.unacked = 0
	upto, marks := len(f.log), f.marks
	f.wire += simAck
	f.back.send(simAck, func(bool) { f.onAck(upto, marks) })
}

func (f *flow) find(n congestion.PacketNumber) *simSent {
	i, ok := slices.BinarySearchFunc(f.out, n, func(p simSent, n congestion.PacketNumber) int { return int(p.number - n) })
	if !ok {
		return nil
	}
	return &f.out[i]
}

func (f *flow) onAck(upto, marks int) {
	if upto <= f.processed {
		return
	}
	fresh := slices.Clone(f.log[f.processed:upto])
	f.processed = upto
	slices.SortFunc(fresh, func(a, b simArrival) int { return int(a.number - b.number) })
	var acked []congestion.AckedPacketInfo
	prior := f.inflight
	for _, a := range fresh {
		p := f.find(a.number)
		if p == nil || p.gone {
			f.spurious++
			continue
		}
		p.gone = true
		if a.number > f.largest {
			f.rtt.update(f.w.now - p.sent)
		}
		acked = append(acked, congestion.AckedPacketInfo{PacketNumber: a.number, BytesAcked: simPacket, ReceivedTime: monotime.Time(f.w.now)})
		f.inflight -= simPacket
	}
	if len(acked) == 0 {
		return
	}
	f.largest = max(f.largest, acked[len(acked)-1].PacketNumber)
	if marks > f.marked {
		f.marked = marks
		f.cc.OnCongestionEvent(f.largest, 0, congestion.ByteCount(prior))
	}
	f.ptoCount = 0
	lost := f.detect()
	f.cc.OnCongestionEventEx(congestion.ByteCount(prior), monotime.Time(f.w.now), acked, lost)
	f.trim()
	f.send()
}

// detect declares packets lost (RFC 9002 §6.1).
func (f *flow) detect() []congestion.LostPacketInfo {
	var lost []congestion.LostPacketInfo
	delay := max(f.rtt.latest, f.rtt.smoothed) * 9 / 8
	f.lossAt = 0
	for i := range f.out {
		p := &f.out[i]
		if p.number > f.largest {
			break
		}
		if p.gone {
			continue
		}
		if p.number+3 > f.largest && p.sent+delay > f.w.now {
			if f.lossAt == 0 {
				f.lossAt = p.sent + delay
			}
			continue
		}
		p.gone = true
		f.lost++
		f.inflight -= simPacket
		f.again = append(f.again, p.chunk)
		f.cc.OnCongestionEvent(p.number, simPacket, congestion.ByteCount(f.inflight))
		lost = append(lost, congestion.LostPacketInfo{PacketNumber: p.number, BytesLost: simPacket})
	}
	return lost
}

func (f *flow) trim() {
	i := 0
	for i < len(f.out) && f.out[i].gone {
		i++
	}
	f.out = f.out[i:]
}

// arm sets the one timer to pacing, loss or probe timeout.
func (f *flow) arm() {
	var at int64
	pick := func(t int64) {
		if t > 0 && (at == 0 || t < at) {
			at = t
		}
	}
	if f.cc.CanSend(congestion.ByteCount(f.inflight)) && (f.backlog != 0 || len(f.again) > 0) {
		pick(max(int64(f.cc.TimeUntilSend(congestion.ByteCount(f.inflight))), f.w.now+1))
	}
	pick(f.lossAt)
	if f.lossAt == 0 && f.inflight > 0 {
		pick(f.lastSent + int64(f.rtt.PTO(true))<<f.ptoCount)
	}
	if at == 0 {
		f.timerID++
		return
	}
	if f.tick > 0 {
		at = (at + f.tick - 1) / f.tick * f.tick
	}
	f.timerID++
	id := f.timerID
	f.w.at(at, func() {
		if id == f.timerID {
			f.onTimer()
		}
	})
}

func (f *flow) onTimer() {
	switch {
	case f.lossAt > 0 && f.w.now >= f.lossAt:
		prior := f.inflight
		if lost := f.detect(); len(lost) > 0 {
			f.cc.OnCongestionEventEx(congestion.ByteCount(prior), monotime.Time(f.w.now), nil, lost)
		}
		f.trim()
	case f.lossAt == 0 && f.inflight > 0 && f.w.now >= f.lastSent+int64(f.rtt.PTO(true))<<f.ptoCount:
		f.ptoCount++
		// quic-go takes the oldest packets out of what is in flight, without a
		// word to the controller, and sends them again.
		for range 2 {
			i := slices.IndexFunc(f.out, func(p simSent) bool { return !p.gone })
			if i < 0 {
				break
			}
			f.out[i].gone = true
			f.inflight -= simPacket
			f.again = slices.Insert(f.again, 0, f.out[i].chunk)
			f.sendOne()
		}
		f.trim()
	}
	f.send()
}

// simRTT implements congestion.RTTStatsProvider (RFC 9002 §5).
type simRTT struct{ least, latest, smoothed, variation int64 }

func (r *simRTT) update(rtt int64) {
	r.latest = rtt
	if r.smoothed == 0 {
		r.least, r.smoothed, r.variation = rtt, rtt, rtt/2
		return
	}
	r.least = min(r.least, rtt)
	r.variation += (max(r.smoothed-rtt, rtt-r.smoothed) - r.variation) / 4
	r.smoothed += (rtt - r.smoothed) / 8
}

func (r *simRTT) MinRTT() time.Duration        { return time.Duration(r.least) }
func (r *simRTT) LatestRTT() time.Duration     { return time.Duration(r.latest) }
func (r *simRTT) SmoothedRTT() time.Duration   { return time.Duration(r.smoothed) }
func (r *simRTT) MeanDeviation() time.Duration { return time.Duration(r.variation) }
func (r *simRTT) MaxAckDelay() time.Duration   { return 25 * time.Millisecond }
func (r *simRTT) PTO(bool) time.Duration {
	return time.Duration(r.smoothed + max(4*r.variation, millisecond) + 25*millisecond)
}
func (r *simRTT) UpdateRTT(time.Duration, time.Duration) {}
func (r *simRTT) SetMaxAckDelay(time.Duration)           {}
func (r *simRTT) SetInitialRTT(time.Duration)            {}
