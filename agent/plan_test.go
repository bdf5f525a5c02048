package agent_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	dataplan "github.com/depinsim/x402/meter/plan"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/relay"
	relaymarket "github.com/depinsim/x402/tunnel/relay/market"
)

// A gauge dials for an agent and counts what a SIM would have carried: targets'
// bytes, and those to and from the buyer, which are as many and a little more.
type gauge struct {
	tunnel.Dialer
	targets atomic.Uint64
	start   time.Time
}

func (g *gauge) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	c, err := g.Dialer.DialTCP(ctx, host, port)
	if err != nil {
		return nil, err
	}
	return gaugedConn{c, g}, nil
}

type gaugedConn struct {
	net.Conn
	g *gauge
}

func (c gaugedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.g.targets.Add(uint64(n))
	return n, err
}

func (c gaugedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.g.targets.Add(uint64(n))
	return n, err
}

func (c gaugedConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

func (g *gauge) sample() (dataplan.Sample, error) {
	return dataplan.Sample{
		Boot: [16]byte{1}, Up: time.Since(g.start), Wall: time.Now(), Synced: true,
		Link: &dataplan.Link{Index: 1, RxBytes: g.targets.Load() * 21 / 10},
	}, nil
}

// planned has the market's agent keep a plan.
func planned(t *testing.T, c dataplan.Config, g *gauge) func(*seller.Config) {
	return func(cfg *seller.Config) {
		policy, err := seller.NewPolicy(cfg.Policy)
		if err != nil {
			t.Fatal(err)
		}
		g.Dialer, g.start = policy, time.Now()
		cfg.Dialer, cfg.Plan = g, &seller.PlanConfig{Config: c, Sample: g.sample}
	}
}

// TestPlanRunsOut: a download that the plan is too small for stops where it is
// spent; the buyer hears why, the relay does not list the agent any more, and
// when the owner says that there is more both go on.
func TestPlanRunsOut(t *testing.T) {
	t.Parallel()
	const size, reserve = 60_000_000, 10_000_000
	r := startRelay(t)
	g := &gauge{}
	m := newMarketOf(t, func(c *seller.Config) {
		planned(t, dataplan.Config{Size: size, Reserve: reserve, ResetDay: 1, Steps: []dataplan.Step{{Left: 50, Price: 150}}}, g)(c)
		c.Relays, c.Endpoints = []relay.Name{r.name}, []string{c.Listen}
	})
	site := web(t)
	usual := r.listed(m)
	var on screen
	p := m.buy(func(c *buyer.Config) { c.OnStatus, c.MaxPrice = on.show, 10_000_000 })
	res, err := p.through().Get(site.URL + "/100000000")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if err == nil || got >= 100_000_000 {
		t.Fatalf("%d bytes came, %v", got, err)
	}
	until(t, "for the buyer to hear of it", func() bool { return strings.Contains(on.now().Notice, "data plan is used up") })
	control := seller.DialControl(m.cfg.ControlPath())
	var st seller.Status
	until(t, "for the agent to say so", func() bool {
		return control.Get(t.Context(), "status", &st) == nil && st.Plan.Why == string(dataplan.ReasonSpent) && len(st.Sessions) == 0
	})
	// Half a second of traffic is granted at a time, and some is under way.
	if st.Plan.Used > size-reserve+4<<20 || st.Plan.Used < (size-reserve)*9/10 {
		t.Errorf("%d are used of the plan, %d were to be", st.Plan.Used, size-reserve)
	}
	if all := st.Plan.Household + st.Plan.Sales + st.Plan.Overhead; all != g.targets.Load()*21/10 {
		t.Errorf("the shares come to %d, the interface counted %d", all, g.targets.Load()*21/10)
	}
	c := relaymarket.New(relaymarket.Config{Name: r.name})
	defer c.Close()
	until(t, "for the relay to list it no more", func() bool {
		page, err := c.Offers(t.Context(), relaymarket.Query{})
		return err == nil && len(page.Offers) == 0
	})

	if _, err := control.SetUsed(t.Context(), size-reserve-20_000_000); err != nil {
		t.Fatal(err)
	}
	dearer := r.listed(m)
	if want := usual.Price.Raised(150); dearer.Price != want {
		t.Errorf("the price is %+v with little left, want %+v", dearer.Price, want)
	}
	until(t, "for the buyer to be served again", func() bool {
		x, ok := m.session(p.id)
		return ok && x.Price == dearer.Price
	})
	fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
	p.stop(t)
	m.settled(p)
}

// TestPlanSpentCloses: a buyer who leaves an agent whose plan is used up has his
// deposit back at once.
func TestPlanSpentCloses(t *testing.T) {
	t.Parallel()
	g := &gauge{}
	m := newMarketOf(t, planned(t, dataplan.Config{Size: 40_000_000, ResetDay: 1}, g))
	site := web(t)
	var on screen
	p := m.buy(func(c *buyer.Config) { c.OnStatus = on.show })
	if res, err := p.through().Get(site.URL + "/100000000"); err == nil {
		_, _ = io.Copy(io.Discard, res.Body) // as far as the plan lasts
		res.Body.Close()
	}
	until(t, "for the buyer to be refused", func() bool {
		s := on.now()
		return s.State == "reconnecting" && strings.Contains(s.Error, "data plan is used up")
	})
	p.stop(t)
	m.settled(p)
	if r := p.result; r.Refunded == 0 || r.WithdrawAt != 0 {
		t.Errorf("%+v", r)
	}
}

// TestPlanRefuses: a token's flow and a new buyer are told that nothing is sold.
func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	g := &gauge{}
	m := newMarketOf(t, planned(t, dataplan.Config{Size: 60_000_000, Used: 60_000_000, ResetDay: 1}, g))
	c := newCheat(m, 100_000)
	c.connect(nil)
	if n := c.notice(); n.Code != agent.NoticePlan || !strings.HasPrefix(n.Text, "the agent's data plan is used up; it goes on at ") {
		t.Errorf("notice %+v", n)
	}
	m.agent.stop(t)
}
