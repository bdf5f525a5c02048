package tunneltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// A plan is what both ends of one flow do. Every plan ends by itself.
type plan struct {
	udp        bool
	up, down   int // bytes, or packets
	buyerTakes int // the buyer closes after so many bytes
	agentTakes int // the target closes after so many bytes
	halfClose  bool
	reset      bool // the target resets when it has sent everything
	deaf       bool // the target never reads
	upPause    time.Duration
	downPause  time.Duration // of the buyer's reader
	pace       time.Duration // between packets
	seed       uint64
}

const never = 1 << 30

func newPlan(r *rand.Rand) plan {
	size := func() int {
		switch r.IntN(10) {
		case 0:
			return 0
		case 1:
			return r.IntN(600_000)
		case 2, 3, 4:
			return r.IntN(40_000)
		default:
			return r.IntN(2_000)
		}
	}
	rest := func() time.Duration {
		return time.Duration(max(0, r.IntN(4)-2)) * time.Duration(r.IntN(3000)) * time.Millisecond
	}
	one := func(in int) bool { return r.IntN(in) == 0 }
	p := plan{
		udp: one(5), up: size(), down: size(), buyerTakes: never, agentTakes: never,
		halfClose: one(2), reset: one(8), deaf: one(16), upPause: rest(), downPause: rest(),
		pace: time.Millisecond, seed: r.Uint64(),
	}
	if one(5) {
		p.buyerTakes = r.IntN(p.down + 1)
	}
	if one(8) {
		p.agentTakes = r.IntN(p.up + 1)
	}
	if p.udp {
		p.up, p.down = r.IntN(60), r.IntN(60)
	}
	return p
}

// A target is the far end of a TCP flow.
type target interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// target plays the target of a TCP flow; the caller closes c.
func (p plan) target(c target) {
	r := rand.New(rand.NewPCG(p.seed, 2))
	var wg sync.WaitGroup
	wg.Go(func() {
		if p.deaf {
			return
		}
		took := transfer(io.Discard, c, p.agentTakes, p.upPause)
		if took == p.agentTakes {
			c.Close() // with more to come: a reset
		}
	})
	for left := p.down; left > 0; {
		n, err := c.Write(make([]byte, min(left, 1+r.IntN(20_000))))
		if err != nil {
			break
		}
		left -= n
	}
	switch {
	case p.reset:
		c.SetLinger(0)
		c.Close()
	default:
		c.CloseWrite()
	}
	wg.Wait()
}

// transfer copies up to limit bytes and pauses once on the way. It returns
// what it copied.
func transfer(dst io.Writer, src io.Reader, limit int, wait time.Duration) int {
	total := 0
	buf := make([]byte, 10_000)
	for total < limit {
		n, err := src.Read(buf[:min(len(buf), limit-total)])
		dst.Write(buf[:n])
		total += n
		if err != nil {
			break
		}
		pause(wait)
		wait = 0
	}
	return total
}

// buyer plays the buyer's application and returns what it read.
func (p plan) buyer(f *tunnel.Flow) (read int) {
	r := rand.New(rand.NewPCG(p.seed, 3))
	defer f.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for left := p.up; left > 0; {
			n, err := f.Write(make([]byte, min(left, 1+r.IntN(70_000))))
			if err != nil {
				return
			}
			left -= n
		}
		if p.halfClose {
			f.CloseWrite()
		}
	})
	read = transfer(io.Discard, f, p.buyerTakes, p.downPause)
	f.Close() // which also ends a write that is stuck
	return read
}

// packetTarget answers every packet with one of its own, and starts with some.
func (p plan) packetTarget(c net.Conn) {
	r := rand.New(rand.NewPCG(p.seed, 4))
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	})
	for range p.down {
		if _, err := c.Write(make([]byte, packetSize(r))); err != nil {
			break
		}
		pause(p.pace)
	}
	wg.Wait()
}

// packetSize is mostly one that fits a datagram.
func packetSize(r *rand.Rand) int {
	if r.IntN(8) == 0 {
		return 1 + r.IntN(9000)
	}
	return 1 + r.IntN(1300)
}

func (p plan) packetBuyer(f *tunnel.PacketFlow) {
	r := rand.New(rand.NewPCG(p.seed, 5))
	defer f.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		for range p.up {
			if _, err := f.Write(make([]byte, packetSize(r))); err != nil {
				return
			}
			pause(p.pace)
		}
	})
	b := make([]byte, 1<<16)
	const silence = 200 * time.Millisecond
	wait := silence
	if p.down > 0 { // the first may be late
		wait *= 10
	}
	for {
		f.SetReadDeadline(time.Now().Add(wait))
		if _, err := f.Read(b); err != nil {
			break
		}
		wait = silence
	}
	wg.Wait()
}

// pause lets simulated time pass, and does nothing for zero, as plans on a real
// network have it.
func pause(d time.Duration) {
	if d > 0 {
		Pass(d)
	}
}

// testRandomFlows holds both ends' counts together, and both with what really
// passed at the targets, over flows of every kind on a network that loses
// packets.
func testRandomFlows(t *testing.T, tr Transport) {
	flows, atOnce := 1000, 50
	if Short() {
		flows = 300
	}
	n := Seed(t)
	meters := &counting{}
	o := Options{Path: Path{Delay: 10 * time.Millisecond, Loss: 5, Seed: n}, Config: tunnel.Config{Dialer: meters}}
	Simulated(t, tr.Simulated, o, func(t *testing.T, p *Pair) {
		meters.Dialer = &p.Net
		r := rand.New(rand.NewPCG(n, 0))
		plans := make([]plan, flows)
		for i := range plans {
			plan := newPlan(r)
			plans[i] = plan
			host := fmt.Sprintf("%d.test:80", i)
			p.Net.HandleTCP(host, func(c *Conn) { plan.target(c) })
			p.Net.HandleUDP(host, plan.packetTarget)
		}
		p.run(t, plans, atOnce)
		meters.check(t, p)
	})
}

// testRandomFlowsOnLoopback does the same over real sockets.
func testRandomFlowsOnLoopback(t *testing.T, tr Transport) {
	const flows, atOnce = 150, 20
	n := Seed(t)
	r := rand.New(rand.NewPCG(n, 0))
	plans := make([]plan, flows)
	for i := range plans {
		plans[i] = newPlan(r)
		plans[i].upPause, plans[i].downPause, plans[i].pace = 0, 0, 0
	}
	sockets := &loopback{plans: plans}
	defer sockets.wg.Wait()
	meters := &counting{Dialer: sockets}
	Real(t, tr.Loopback, Options{Config: tunnel.Config{Dialer: meters}}, func(p *Pair) {
		p.run(t, plans, atOnce)
		meters.check(t, p)
	})
}

// A loopback dialer plays the target of plan n at every address n.test.
type loopback struct {
	plans []plan
	wg    sync.WaitGroup
}

func (d *loopback) plan(host string) (plan, error) {
	n, err := strconv.Atoi(strings.TrimSuffix(host, ".test"))
	if err != nil {
		return plan{}, err
	}
	return d.plans[n], nil
}

func (d *loopback) DialTCP(ctx context.Context, host string, _ uint16) (net.Conn, error) {
	p, err := d.plan(host)
	if err != nil {
		return nil, err
	}
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	var dialer net.Dialer
	near, err := dialer.DialContext(ctx, "tcp4", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := ln.AcceptTCP()
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	d.wg.Go(func() {
		defer far.Close()
		p.target(far)
	})
	return near, nil
}

func (d *loopback) DialUDP(ctx context.Context, host string, _ uint16) (net.Conn, error) {
	p, err := d.plan(host)
	if err != nil {
		return nil, err
	}
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	near, err := dialer.DialContext(ctx, "udp4", far.LocalAddr().String())
	if err != nil {
		return nil, errors.Join(err, far.Close())
	}
	d.wg.Go(func() {
		defer far.Close()
		p.packetTarget(&packetPeer{far, near.LocalAddr()})
	})
	return near, nil
}

// A packetPeer writes to one address and ends when nothing comes from it.
type packetPeer struct {
	*net.UDPConn
	to net.Addr
}

func (c *packetPeer) Write(b []byte) (int, error) { return c.WriteTo(b, c.to) }

func (c *packetPeer) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return 0, err
	}
	return c.UDPConn.Read(b)
}

// run plays the buyer's side of all plans, then drains.
func (p *Pair) run(t testing.TB, plans []plan, atOnce int) {
	var next, read atomic.Int64
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(plans) {
					return
				}
				host := fmt.Sprintf("%d.test", i)
				if plans[i].udp {
					f, err := p.Client.DialUDP(context.Background(), host, 80)
					if err != nil {
						t.Error(err)
						return
					}
					plans[i].packetBuyer(f)
					continue
				}
				f, err := p.Client.DialTCP(context.Background(), host, 80)
				if err != nil {
					t.Error(err)
					return
				}
				read.Add(int64(plans[i].buyer(f)))
			}
		})
	}
	wg.Wait()
	got := p.Settled(t)
	if uint64(read.Load()) > got.DownTCP {
		t.Errorf("applications read %d bytes, %d are counted", read.Load(), got.DownTCP)
	}
	if got.DownTCP == 0 || got.DownUDP == 0 || got.UpUDP == 0 || got.UpTCP == 0 {
		t.Errorf("nothing was counted: %+v", got)
	}
}
