package tunneltest

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// A Path is what lies between buyer and agent. Zero fields are the plain case.
type Path struct {
	Delay   time.Duration // one way
	Loss    int           // packets of a thousand that are lost, where there are packets
	Seed    uint64        // of what is lost
	Streams int           // the agent's; zero: the default
}

// Ends are the two ends of one connection.
type Ends struct {
	Client tunnel.ClientConn
	Server tunnel.ServerConn
	// Close ends what is below the connection, which has been closed.
	Close func()
}

// A Dial connects a buyer to an agent.
type Dial func(t testing.TB, p Path) Ends

// Options say what a [Pair] is like. Zero fields are the plain case.
type Options struct {
	Path
	Limit  uint64        // the agent's credit in bytes; zero: plenty
	Config tunnel.Config // of the session; its Dialer is the pair's Net unless set
	Frozen bool          // the agent never reads the control stream
}

// Plenty is more than any test moves.
const Plenty = 1 << 40

// A Pair is a buyer and an agent on one connection, each with a counter.
type Pair struct {
	Net              Net
	Session          *tunnel.Session
	Client           *tunnel.Client
	Conn             tunnel.ClientConn
	Agent, Buyer     *Counter
	AtAgent, AtBuyer *tunnel.Control

	wg    sync.WaitGroup
	close func()
}

// Lanes are those of a counter.
func (c *Counter) Lanes() tunnel.Lanes {
	return tunnel.Lanes{UpTCP: c.UpTCP, DownTCP: c.DownTCP, UpUDP: c.UpUDP, DownUDP: c.DownUDP}
}

// All wants every capsule.
func All(uint64) bool { return true }

// NewPair makes a pair of the two ends of a connection.
func NewPair(t testing.TB, ends Ends, o Options) *Pair {
	t.Helper()
	if o.Limit == 0 {
		o.Limit = Plenty
	}
	p := &Pair{Conn: ends.Client, Agent: NewCounter(o.Limit), Buyer: NewCounter(Plenty)}
	if o.Config.Dialer == nil {
		o.Config.Dialer = &p.Net
	}
	ready := make(chan struct{})
	p.wg.Go(func() {
		defer close(ready)
		p.serve(t, ends.Server, o)
	})
	var err error
	p.AtBuyer, err = tunnel.OpenControl(context.Background(), p.Conn, "agent", All)
	if err != nil {
		t.Fatal(err)
	}
	p.Client = tunnel.NewClient(p.Conn, p.AtBuyer, p.Buyer.Lanes())
	<-ready
	p.close = ends.Close
	return p
}

// serve is the agent of one connection.
func (p *Pair) serve(t testing.TB, conn tunnel.ServerConn, o Options) {
	p.Session = tunnel.NewSession(conn, o.Config)
	p.wg.Go(func() { _ = p.Session.Run() })
	var err error
	if p.AtAgent, err = p.Session.Control(context.Background()); err != nil {
		t.Error(err)
		return
	}
	p.Session.Admit(p.Agent.Lanes())
	if o.Frozen {
		return
	}
	p.wg.Go(func() {
		for {
			if _, err := p.AtAgent.Receive(); err != nil {
				return
			}
		}
	})
}

// Go runs f until Close waits for it.
func (p *Pair) Go(f func()) { p.wg.Go(f) }

// Close ends the pair and waits for all of it.
func (p *Pair) Close() {
	_ = p.Conn.Close(tunnel.ReasonDone, "")
	p.close()
	p.Agent.Close(net.ErrClosed)
	p.wg.Wait()
	p.Net.Wait()
}

// Settled drains the session and holds both counts together.
func (p *Pair) Settled(t testing.TB) Totals {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	p.Session.Drain(ctx)
	if ctx.Err() != nil {
		t.Error("flows of the agent are left")
	}
	if err := p.Client.Wait(ctx); err != nil {
		t.Fatalf("flows left: %v", err)
	}
	a, b := p.Agent.Totals(), p.Buyer.Totals()
	if a.DownTCP != b.DownTCP {
		t.Errorf("agent sent %d TCP bytes down, buyer received %d", a.DownTCP, b.DownTCP)
	}
	if a.UpTCP > b.UpTCP || a.UpUDP > b.UpUDP || b.DownUDP > a.DownUDP {
		t.Errorf("a receiver counts more than its sender:\nagent %+v\nbuyer %+v", a, b)
	}
	if a, b := p.Agent.Outstanding(), p.Buyer.Outstanding(); a != 0 || b != 0 {
		t.Errorf("still reserved: %d bytes at the agent, %d at the buyer", a, b)
	}
	return b
}

// dial opens a TCP flow to port 80 of host.
func (p *Pair) dial(t testing.TB, host string) *tunnel.Flow {
	t.Helper()
	f, err := p.Client.DialTCP(context.Background(), host, 80)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Simulated runs f with a pair in a bubble of simulated time. When f is done,
// nothing may be left running: synctest sees to it.
func Simulated(t *testing.T, dial Dial, o Options, f func(t *testing.T, p *Pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := NewPair(t, dial(t, o.Path), o)
		f(t, p)
		p.Close()
	})
}

// Real runs f with a pair on what dial connects, in real time.
func Real(t testing.TB, dial Dial, o Options, f func(p *Pair)) {
	t.Helper()
	p := NewPair(t, dial(t, o.Path), o)
	defer p.Close()
	f(p)
}

// Pass lets simulated time pass.
func Pass(d time.Duration) { <-time.After(d) }

// Short says whether long simulations may be cut short: under the race detector
// they take ten times as long. `make check` runs them in full without it, and
// `make soak`, which sets X402_SOAK, with it.
func Short() bool { return raced && os.Getenv("X402_SOAK") == "" }

// Random returns n bytes that depend on seed only.
func Random(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b) // it has no errors
	return b
}

// Seed is a new one for each run, or X402_SEED.
func Seed(t testing.TB) uint64 {
	n := rand.Uint64()
	if s := os.Getenv("X402_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("X402_SEED=%d", n)
		}
	})
	return n
}
