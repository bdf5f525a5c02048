package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
)

// A cable is a UDP socket that can be pulled out, can lose what it sends, and
// can get another address.
type cable struct {
	t      *testing.T
	socket atomic.Pointer[net.UDPConn]
	out    atomic.Bool
	// refused counts what could not be sent while the cable was out.
	refused atomic.Int64

	mu   sync.Mutex
	loss int // datagrams of a thousand
	rand *rand.Rand
}

func newCable(t *testing.T, loss int, seed uint64) *cable {
	t.Helper()
	c := &cable{t: t, loss: loss, rand: rand.New(rand.NewPCG(seed, 1))}
	c.socket.Store(listenUDP(t).(*net.UDPConn))
	return c
}

// move gives the cable another port, as a NAT that forgot does.
func (c *cable) move() { c.socket.Swap(listenUDP(c.t).(*net.UDPConn)).Close() }

func (c *cable) loses() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rand.IntN(1000) < c.loss
}

func (c *cable) WriteTo(b []byte, to net.Addr) (int, error) {
	switch {
	case c.out.Load():
		c.refused.Add(1)
		return 0, &net.OpError{Op: "write", Net: "udp", Err: syscall.ENETUNREACH}
	case c.loses():
		return len(b), nil
	}
	socket := c.socket.Load()
	n, err := socket.WriteTo(b, to)
	if err != nil && socket != c.socket.Load() {
		return len(b), nil // moved
	}
	return n, err
}

func (c *cable) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		socket := c.socket.Load()
		n, from, err := socket.ReadFrom(b)
		if moved := err != nil && socket != c.socket.Load(); moved || err == nil && c.out.Load() {
			continue
		}
		return n, from, err
	}
}

func (c *cable) Close() error                       { return c.socket.Load().Close() }
func (c *cable) LocalAddr() net.Addr                { return c.socket.Load().LocalAddr() }
func (c *cable) SetReadBuffer(n int) error          { return c.socket.Load().SetReadBuffer(n) }
func (c *cable) SetWriteBuffer(n int) error         { return c.socket.Load().SetWriteBuffer(n) }
func (c *cable) SetDeadline(t time.Time) error      { return c.socket.Load().SetDeadline(t) }
func (c *cable) SetReadDeadline(t time.Time) error  { return c.socket.Load().SetReadDeadline(t) }
func (c *cable) SetWriteDeadline(t time.Time) error { return c.socket.Load().SetWriteDeadline(t) }

// TestOutage pulls the buyer's cable out in the middle of a download and an
// upload, which go on when it is back.
func TestOutage(t *testing.T) {
	t.Parallel()
	const size = 20_000_000
	m := newMarket(t)
	site := web(t)
	c := newCable(t, 0, 0)
	p := m.buy(func(b *buyer.Config) { b.Socket = borrowed(c) })
	res, err := p.through().Get(site.URL + "/" + strconv.Itoa(size))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	up := startUpload(p, site.URL+"/", size)
	expect(t, res.Body, 1_000_000)
	<-up.begun
	c.out.Store(true)
	until(t, "for packets to be lost", func() bool { return c.refused.Load() > 3 })
	c.out.Store(false)
	expect(t, res.Body, size-1_000_000)
	if <-up.done; up.err != nil {
		t.Error(up.err)
	}
	p.stop(t)
	m.settled(p)
}

// An uploading is an upload that is under way.
type uploading struct {
	*running
	left  io.Reader
	sent  int
	begun chan struct{} // closed at a million bytes
}

func startUpload(p *purchase, url string, n int) *uploading {
	u := &uploading{left: io.LimitReader(page(), int64(n)), begun: make(chan struct{})}
	u.running = start(func(context.Context) error {
		res, err := p.through().Do(must(http.NewRequest(http.MethodPut, url, u)))
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err
	})
	return u
}

func (u *uploading) Read(b []byte) (int, error) {
	const begun = 1_000_000
	n, err := u.left.Read(b)
	if u.sent < begun && u.sent+n >= begun {
		close(u.begun)
	}
	u.sent += n
	return n, err
}

// TestBuyerMoves has the buyer's address change under a download, which goes
// on.
func TestBuyerMoves(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	c := newCable(t, 0, 0)
	p := m.buy(func(b *buyer.Config) { b.Socket = borrowed(c) })
	res, err := p.through().Get(site.URL + "/5000000")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for range 2 {
		expect(t, res.Body, 2_000_000)
		c.move()
		fetch(t, p.through(), site.URL+"/1000", 1000)
	}
	if n, err := io.Copy(io.Discard, res.Body); n != 1_000_000 || err != nil {
		t.Errorf("downloaded the last %d bytes: %v", n, err)
	}
	p.stop(t)
	m.settled(p)
	if r := p.result; r.Down < 5_000_000 || r.Down > 5_010_000 {
		t.Errorf("result %+v", r)
	}
}

// TestHalfClose ends one direction long before the other, from either side.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	const n = 500_000
	m := newMarket(t)
	ln := listen(t)
	defer ln.Close()
	target := "example.com:" + port(ln.Addr())
	p := m.buy(nil)
	text := must(io.ReadAll(io.LimitReader(page(), n)))
	// first sends and ends, second reads to the end before it does the same.
	first := func(c *net.TCPConn) ([]byte, error) {
		_, err1 := c.Write(text)
		err2 := c.CloseWrite()
		got, err3 := io.ReadAll(c)
		return got, errors.Join(err1, err2, err3)
	}
	second := func(c *net.TCPConn) ([]byte, error) {
		got, err1 := io.ReadAll(c)
		_, err2 := c.Write(text)
		return got, errors.Join(err1, err2, c.CloseWrite())
	}
	for name, dial := range map[string]func(*testing.T, string) *net.TCPConn{"SOCKS5": p.dial, "CONNECT": p.connect} {
		for who, tt := range map[string]struct {
			here, there func(*net.TCPConn) ([]byte, error)
		}{
			"the program": {first, second}, "the target": {second, first},
		} {
			var there []byte
			serving := start(func(context.Context) error {
				c, err := ln.Accept()
				if err != nil {
					return err
				}
				defer c.Close()
				there, err = tt.there(c.(*net.TCPConn))
				return err
			})
			here, err := tt.here(dial(t, target))
			<-serving.done
			if err != nil || serving.err != nil || !bytes.Equal(here, text) || !bytes.Equal(there, text) {
				t.Errorf("%s, %s ends first: got %d and %d bytes of %d: %v, %v", name, who, len(here), len(there), n, err, serving.err)
			}
		}
	}
	p.stop(t)
	m.settled(p)
}

// A narrow listener's connections hold little, so that what a program does not
// read stays in the tunnel.
type narrow struct{ net.Listener }

func (n narrow) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(16 << 10)
	}
	return c, err
}

// TestPausedDownloads compares a download on a new channel with one beside 50
// that nobody reads. It runs alone, since it takes the time; a machine may
// stall now and then.
func TestPausedDownloads(t *testing.T) {
	var told []string
	for range 4 {
		alone, beside := downloadBeside(t, 0), downloadBeside(t, 50)
		t.Logf("alone %v, beside 50 paused ones %v", alone, beside)
		if beside < 2*alone {
			return
		}
		told = append(told, fmt.Sprintf("%v and %v", alone, beside))
	}
	t.Errorf("paused downloads hold up another, which takes alone and beside them: %q", told)
}

// downloadBeside returns what a download takes beside paused ones.
func downloadBeside(t *testing.T, paused int) time.Duration {
	t.Helper()
	const size = 20_000_000
	m := newMarket(t)
	s := httptest.NewServer(http.HandlerFunc(pages))
	defer s.Close()
	defer s.CloseClientConnections() // Close would wait for the paused ones
	p := m.buy(func(c *buyer.Config) { c.SOCKS = narrow{c.SOCKS} })
	for range paused {
		c := p.dial(t, "example.com:"+port(s.Listener.Addr()))
		if err := c.SetReadBuffer(16 << 10); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /100000000 HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		expect(t, c, 1)
	}
	var last uint64
	still := 0
	until(t, "for the paused downloads to stand still", func() bool {
		x, _ := m.session(p.id)
		if still++; x.Down != last || x.Gap != 0 || x.Blocked {
			last, still = x.Down, 0
		}
		return still > 40 || paused == 0
	})
	began := time.Now()
	fetch(t, p.through(), s.URL+"/"+strconv.Itoa(size), size)
	took := time.Since(began)
	s.CloseClientConnections()
	p.stop(t)
	m.settled(p)
	return took
}

// A plan is what a program and its target do in one flow. Every plan ends by
// itself.
type plan struct {
	way      way
	up, down int // bytes; datagrams

	// Ways to end before everything was sent and read; an orderly plan has
	// none of them.
	programTakes, targetTakes int  // after so many bytes: gone, by a reset
	programResets             bool // when it has sent everything
	targetResets              bool // likewise
	deaf                      bool // the target never reads

	halfClose          bool // the program ends its direction before it has read everything
	stallUp, stallDown time.Duration
	bufferSize         int
}

type way int

const (
	socks way = iota
	connect
	udp
)

const never = 1 << 40

func newPlan(r *rand.Rand) plan {
	one := func(in int) bool { return r.IntN(in) == 0 }
	size := func() int {
		switch r.IntN(10) {
		case 0:
			return 0
		case 1:
			return r.IntN(300_001)
		case 2, 3, 4:
			return r.IntN(50_000)
		default:
			return r.IntN(3_000)
		}
	}
	stall := func() time.Duration {
		if one(8) {
			return time.Duration(r.IntN(200)) * time.Millisecond
		}
		return 0
	}
	p := plan{
		way: way(r.IntN(2)), up: size(), down: size(), programTakes: never, targetTakes: never,
		halfClose: one(2), stallUp: stall(), stallDown: stall(), bufferSize: 1000 + r.IntN(40_000),
	}
	switch r.IntN(16) {
	case 0, 1:
		p.programTakes = r.IntN(p.down + 1)
	case 2:
		p.targetTakes = r.IntN(p.up + 1)
	case 3:
		p.programResets = true
	case 4:
		p.targetResets = true
	case 5:
		p.deaf = true
	case 6, 7:
		p.way, p.up = udp, 1+r.IntN(30)
	}
	return p
}

// orderly says whether everything is to arrive.
func (p plan) orderly() bool {
	return p.programTakes == never && p.targetTakes == never && !p.programResets && !p.targetResets && !p.deaf
}

// totals are what programs and targets sent and got: bounds of what may be
// billed.
type totals struct {
	programSent, programGot, targetSent, targetGot atomic.Uint64

	ports sync.Map // of targets; see listen
}

// listen listens at a port that no target had before: the agent may dial one
// when its program and its listener are already gone.
func (t *totals) listen() (net.Listener, error) {
	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		if _, had := t.ports.LoadOrStore(port(ln.Addr()), true); !had {
			return ln, nil
		}
		ln.Close()
	}
}

// target plays the target and returns what it read.
func (p plan) target(c *net.TCPConn, sum *totals) (read int) {
	defer c.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		sum.targetSent.Add(uint64(p.write(c, p.down, p.stallDown)))
		if p.targetResets {
			reset(c)
		}
		c.CloseWrite()
	})
	if !p.deaf {
		if read = p.read(c, p.targetTakes, 0); read == p.targetTakes {
			reset(c)
		}
	}
	sum.targetGot.Add(uint64(read))
	wg.Wait()
	return read
}

// program plays the program and returns what it read.
func (p plan) program(c *net.TCPConn, sum *totals) (read int) {
	defer c.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		sum.programSent.Add(uint64(p.write(c, p.up, p.stallUp)))
		switch {
		case p.programResets:
			reset(c)
		case p.halfClose:
			c.CloseWrite()
		}
	})
	read = p.read(c, p.programTakes, p.stallDown)
	sum.programGot.Add(uint64(read))
	if !p.orderly() {
		reset(c) // which also ends a write that is stuck
	}
	wg.Wait()
	return read
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// write writes up to n bytes and stalls once on the way.
func (p plan) write(c *net.TCPConn, n int, stall time.Duration) (wrote int) {
	text := make([]byte, p.bufferSize)
	for wrote < n {
		k, err := c.Write(text[:min(len(text), n-wrote)])
		wrote += k
		if err != nil {
			break
		}
		if stall > 0 {
			<-time.After(stall)
			stall = 0
		}
	}
	return wrote
}

// read reads up to n bytes and stalls once on the way.
func (p plan) read(c *net.TCPConn, n int, stall time.Duration) (read int) {
	buf := make([]byte, p.bufferSize)
	for read < n {
		k, err := c.Read(buf[:min(len(buf), n-read)])
		read += k
		if err != nil {
			break
		}
		if stall > 0 {
			<-time.After(stall)
			stall = 0
		}
	}
	return read
}

// run plays one TCP flow, with a listener of its own.
func (p plan) run(x *purchase, sum *totals) error {
	ln, err := sum.listen()
	if err != nil {
		return err
	}
	got := 0 // by the targets; there may be none when the program is gone first
	serving := start(func(context.Context) error {
		for {
			c, err := ln.Accept()
			if err != nil {
				return nil // closed
			}
			got += p.target(c.(*net.TCPConn), sum)
		}
	})
	dial, proxy := dialSOCKS, x.socks
	if p.way == connect {
		dial, proxy = dialCONNECT, x.http
	}
	c, err := dial(proxy, "example.com:"+port(ln.Addr()))
	read := 0
	if err == nil {
		read = p.program(c, sum)
	}
	ln.Close()
	<-serving.done
	if err == nil && p.orderly() && (got != p.up || read != p.down) {
		err = fmt.Errorf("%d of %d bytes came up, %d of %d down", got, p.up, read, p.down)
	}
	return err
}

// exchange plays one UDP flow with an echo.
func (p plan) exchange(x *purchase, e *echo, r *rand.Rand, sum *totals) error {
	a, err := associate(x.socks)
	if err != nil {
		return err
	}
	defer a.end()
	to := target("example.com:" + port(e.socket.LocalAddr()))
	for range p.up {
		n := r.IntN(1300)
		if r.IntN(8) == 0 {
			n = r.IntN(9000)
		}
		if _, err := a.WriteTo(make([]byte, n), to); err != nil {
			return err
		}
		sum.programSent.Add(uint64(n + 28))
	}
	buf := make([]byte, 1<<16)
	for range p.up {
		a.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
		n, _, err := a.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil // lost, or late
		}
		if err != nil {
			return err
		}
		sum.programGot.Add(uint64(n + 28))
	}
	return nil
}

// seedOf is a new one for each run, or X402_SEED.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("X402_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("X402_SEED=%d", seed)
	return seed
}

// TestRandomFlows holds both sides' accounts together over flows of every kind
// on a path that loses datagrams in both directions.
func TestRandomFlows(t *testing.T) {
	t.Parallel()
	const flows, atOnce, loss = 1000, 30, 10
	seed := seedOf(t)
	m := newMarketOf(t, func(c *seller.Config) {
		wire := newCable(t, loss, seed)
		c.Socket, c.Listen = borrowed(wire), wire.LocalAddr().String()
		c.Price = agent.Price{Up: 3_000_000, Down: 7_000_000}
	})
	p := m.buy(func(c *buyer.Config) { c.MaxPrice, c.Socket = 7_000_000, borrowed(newCable(t, loss, seed+1)) })
	e := newEcho(t)
	r := rand.New(rand.NewPCG(seed, 0))
	plans := make([]plan, flows)
	for i := range plans {
		plans[i] = newPlan(r)
	}
	var sum totals
	var next atomic.Int64
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < flows; i = int(next.Add(1)) - 1 {
				var err error
				if plans[i].way == udp {
					err = plans[i].exchange(p, e, rand.New(rand.NewPCG(seed, uint64(i))), &sum)
				} else {
					err = plans[i].run(p, &sum)
				}
				if err != nil {
					t.Errorf("flow %d, %+v: %v", i, plans[i], err)
				}
			}
		})
	}
	wg.Wait()
	p.stop(t)
	m.settled(p)
	echoed := e.got.Load()
	if up, got, sent := p.result.Up, sum.targetGot.Load()+echoed, sum.programSent.Load(); up < got || up > sent {
		t.Errorf("%d bytes up are billed, targets got %d of %d", up, got, sent)
	}
	if down, got, sent := p.result.Down, sum.programGot.Load(), sum.targetSent.Load()+echoed; down < got || down > sent {
		t.Errorf("%d bytes down are billed, programs got %d of %d", down, got, sent)
	}
	t.Logf("billed %d up and %d down", p.result.Up, p.result.Down)
}
