package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/scripts/netlab"
)

// A linkCount is what an interface has counted, by ip(8).
type linkCount struct{ bytes, packets uint64 }

// plan is what the plan is charged for: IP packets, without Ethernet's headers.
func (c linkCount) plan() uint64 { return c.bytes - 14*c.packets }

// counted is the agent's interface's count.
func (s *stage) counted() linkCount {
	s.t.Helper()
	out, err := s.w.Agent.Command(s.ctx, "ip", "-s", "-j", "link", "show", "eth0").Output()
	s.must(err)
	type side struct{ Bytes, Packets uint64 }
	var links []struct {
		Stats struct{ RX, TX side } `json:"stats64"`
	}
	s.must(json.Unmarshal(out, &links))
	if len(links) != 1 {
		s.t.Fatalf("ip says %s", out)
	}
	st := links[0].Stats
	return linkCount{st.RX.Bytes + st.TX.Bytes, st.RX.Packets + st.TX.Packets}
}

// still waits for a moment when the interface counts nothing while the agent is
// asked, and returns both counts.
func (s *stage) still() (linkCount, seller.PlanStatus) {
	s.t.Helper()
	for {
		before := s.counted()
		var st seller.Status
		s.must(seller.DialControl(s.path("agent", "control.sock")).Get(s.ctx, "status", &st))
		if after := s.counted(); after == before && st.Plan != nil {
			return after, *st.Plan
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatal("the interface never rests")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// unload has no packet leave for the wire between the agent and its router that
// is larger than the wire takes: some counters see those as one.
func (s *stage) unload() {
	s.t.Helper()
	for at, device := range map[*netlab.Namespace]string{s.w.Agent: "eth0", s.w.AgentRouter.Namespace: "inside"} {
		cmd := at.Command(s.ctx, "ip", "link", "set", "dev", device, "gso_max_segs", "1")
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Fatalf("ip link: %v: %s", err, out)
		}
	}
}

// TestLabPlan: what the agent charges the plan for is what its interface counts,
// to the byte: the shares of the household, of sales and of what carrying them
// costs add up to it. The link behind the router, which counts IP packets, agrees.
func TestLabPlan(t *testing.T) {
	const plan = `[plan]
size = "1 GB"
reset_day = 1
timezone = "UTC"
margin_percent = 0
interface = "eth0"`
	s := newStage(t, casting{buyerNAT: netlab.Symmetric, agentNAT: netlab.Symmetric, relays: 1, rate: 50e6, agent: plan})
	s.unload()
	s.startBuyer()
	begin, was := s.still()
	up, down := s.w.AgentLink.AB.Counts(), s.w.AgentLink.BA.Counts()
	shares := func(p seller.PlanStatus) uint64 { return p.Household + p.Sales + p.Overhead }

	s.curl(10_000_000) // down, and up again
	sold := s.site.in.Load() + s.site.out.Load()
	afterSale, sale := s.still()
	if passed, said := afterSale.plan()-begin.plan(), shares(sale)-shares(was); passed != said {
		t.Errorf("%d bytes passed, %d are charged: %+v", passed, said, sale)
	}
	sales, overhead := sale.Sales-was.Sales, sale.Overhead-was.Overhead
	if sales < sold*195/100 || sales > sold*2 || overhead == 0 || overhead > sold/3 {
		t.Errorf("of %d bytes sold, %d are the sales' share and %d overhead", sold, sales, overhead)
	}
	// What the household does is the household's.
	url := fmt.Sprintf("http://%s:%d/20000000", s.w.Target, pagesPort)
	if out, err := s.w.Agent.Command(s.ctx, "curl", "-sSf", "-o", os.DevNull, url).CombinedOutput(); err != nil {
		t.Fatalf("curl: %v: %s", err, out)
	}
	end, home := s.still()
	if passed, said := end.plan()-afterSale.plan(), shares(home)-shares(sale); passed != said {
		t.Errorf("%d bytes passed, %d are charged: %+v", passed, said, home)
	}
	if got := home.Household - sale.Household; got < 19_000_000 || got > 22_000_000 {
		t.Errorf("of 20,000,000 bytes and their headers %d are the household's", got)
	}
	// Behind the router there is no ARP, and no multicast of the agent's.
	wire := s.w.AgentLink.AB.Counts().InBytes - up.InBytes + s.w.AgentLink.BA.Counts().OutBytes - down.OutBytes
	if mine := end.plan() - begin.plan(); mine < wire-wire/1000 || mine > wire+wire/1000+5000 {
		t.Errorf("the link carried %d bytes, the interface %d", wire, mine)
	}
	t.Logf("%d bytes charged for %d sold and 20,000,000 fetched: %d household, %d sales, %d overhead",
		shares(home)-shares(was), sold, home.Household-was.Household, sales, overhead)
	s.finish()
}

// TestLabPlanSpent: sales end where the plan does, by what the interface itself
// has counted.
func TestLabPlanSpent(t *testing.T) {
	const rate = 20_000_000 // bits a second, each way
	const size, reserve = 40_000_000, 5_000_000
	plan := fmt.Sprintf(`[plan]
size = "%d B"
reserve = "%d B"
reset_day = 1
timezone = "UTC"
margin_percent = 0
interface = "eth0"`, size, reserve)
	s := newStage(t, casting{buyerNAT: netlab.Symmetric, agentNAT: netlab.Symmetric, relays: 1, rate: rate, agent: plan})
	s.unload()
	s.startBuyer()
	begin, was := s.still()
	heard := s.hub.line(s.buyer.name, "code=plan_spent")
	url := fmt.Sprintf("http://%s:%d/100000000", s.w.Target, pagesPort)
	out, err := s.w.Buyer.Command(s.ctx, "curl", "-sSf", "-o", os.DevNull, "--proxy", "socks5h://"+socksAddr, url).CombinedOutput()
	if err == nil {
		t.Fatalf("all was served: %s", out)
	}
	s.within(soon, "the buyer is told that the plan is spent", heard)
	end, st := s.still()
	used := was.Used + end.plan() - begin.plan()
	if most := uint64(size - reserve + 2*rate/8); used > most || used < (size-reserve)*9/10 {
		t.Errorf("%d of the plan are used, at most %d were to be: %+v", used, most, st)
	}
	if st.Why != "spent" || st.Used != used {
		t.Errorf("%d are used, the agent says %+v", used, st)
	}
	t.Logf("%d of %d used when sales ended", used, size-reserve)
}
