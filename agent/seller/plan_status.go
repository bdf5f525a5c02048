package seller

import (
	"fmt"
	"strings"
	"time"

	"github.com/depinsim/x402/meter/plan"
)

// PlanStatus is how the SIM's data plan stands. Sizes are in bytes, as the
// carrier counts them, times in Unix seconds.
type PlanStatus struct {
	Interface string `json:"interface"`
	// Why is why nothing is sold, "" if something is: see plan.Reason. Until is
	// when that may change by itself, or when selling hours end; 0: not known.
	Why   string `json:"why,omitempty"`
	Until int64  `json:"until,omitempty"`
	Price uint64 `json:"pricePercent"`

	Size    uint64 `json:"size"`
	Reserve uint64 `json:"reserve"`
	Used    uint64 `json:"used"` // the sum of what follows, without Entered
	// Household, Sales and Overhead are the shares of what passed the interface in
	// this period.
	Household uint64 `json:"household"`
	Sales     uint64 `json:"sales"`
	Overhead  uint64 `json:"overhead"`
	// Uncounted may have passed when nothing counted: at a power cut, or when
	// the modem was pulled.
	Uncounted uint64 `json:"uncounted"`
	Margin    uint64 `json:"margin"` // that the owner has added
	// Entered is what the owner said was used, 0 if he did not, and Correction what
	// that added to what had been counted, or took away.
	Entered    uint64 `json:"entered"`
	Correction int64  `json:"correction"`

	Left      uint64 `json:"left"`      // may be sold until the reset
	Today     uint64 `json:"today"`     // may be sold today
	SoldToday uint64 `json:"soldToday"` // sales and their overhead
	Reset     int64  `json:"reset"`     // 0: the clock is not known
	// Forecast is what the household will use until the reset, -1 if that is
	// not known yet.
	Forecast int64 `json:"forecast"`
	// Clock is "ntp" when the plan goes by it, "running" when by the time that
	// has passed, "unknown" when no day is known.
	Clock string `json:"clock"`
	Zone  string `json:"zone"`
}

func (s *Seller) planStatus() *PlanStatus {
	r := s.ration
	if r == nil {
		return nil
	}
	r.refresh()
	st, d, known := r.book.Report()
	r.mu.Lock()
	if !known || r.said.Why == plan.ReasonInterface {
		d.Why, d.Price = r.said.Why, r.said.Price
	}
	r.mu.Unlock()
	name := r.cfg.Interface
	if name == InterfaceOfModem {
		name = s.way.name()
	}
	p := &PlanStatus{
		Interface: name, Why: string(d.Why), Price: d.Price, Size: r.cfg.Size, Reserve: r.cfg.Reserve,
		Used: d.Used, Entered: st.Entered, Household: st.Household, Sales: st.Sales, Overhead: st.Overhead, Uncounted: st.Unseen,
		Left: d.Left, Today: d.Today, SoldToday: st.Day.Sold, Forecast: -1, Clock: "unknown", Zone: "UTC",
	}
	p.Margin = st.Margin(r.cfg.Config)
	p.Correction = int64(p.Used - p.Household - p.Sales - p.Overhead - p.Uncounted - p.Margin)
	if r.cfg.Zone != nil {
		p.Zone = r.cfg.Zone.String()
	}
	if d.Forecasts {
		p.Forecast = int64(d.Forecast)
	}
	if !d.Until.IsZero() {
		p.Until = d.Until.Unix()
	}
	if !d.Reset.IsZero() {
		p.Reset = d.Reset.Unix()
	}
	switch {
	case st.Known && st.Anchored && !d.Doubt:
		p.Clock = "ntp"
	case st.Known:
		p.Clock = "running"
	}
	return p
}

// planProblems is what the owner should know of the plan.
func (s *Seller) planProblems() (found []Problem) {
	r := s.ration
	if r == nil {
		return nil
	}
	r.mu.Lock()
	d, err := r.said, r.problem
	r.mu.Unlock()
	st, _, known := r.book.Report()
	add := func(what, do string) { found = append(found, Problem{what, do}) }
	setUsed := "say what the carrier shows as used: " + s.command("plan set-used") + " '12.3 GB'"
	switch d.Why {
	case plan.ReasonSIM:
		if known {
			add("this SIM is new here, and nothing is known of what is used of its plan", setUsed+"; sizes and days are those of [plan]")
		}
	case plan.ReasonInterface:
		if err == nil {
			break
		}
		add("what is used cannot be counted: "+err.Error(), "set plan.interface to the modem's: `ls /sys/class/net` lists them; nothing to do if the modem comes back")
	case plan.ReasonElsewhere:
		add("what is sold does not pass "+r.cfg.Interface, "set plan.interface to the one that it passes, and policy.interface to the modem's")
	case plan.ReasonClock:
		add("the clock is not set by NTP, so nobody knows whether these are selling hours", "see that NTP runs on this device and reaches its servers")
	case plan.ReasonStore:
		text := "what is used cannot be stored"
		if err != nil {
			text = err.Error()
		}
		add(text, "make room in state_dir; nothing is sold until it can be")
	case plan.ReasonRoaming:
		add("the SIM is abroad: nothing is sold", "set plan.roaming = true if you can afford it")
	default:
		if err != nil && !strings.Contains(err.Error(), "no network interface") {
			add(err.Error(), "")
		}
	}
	switch {
	case d.Doubt:
		add("the clock is ahead of the time that has passed: the plan goes by the latter", "see whether the clock is right; if it is, "+setUsed)
	case !st.Known && known && time.Since(s.started) > planClockTime:
		add("the clock is not set by NTP: the plan's reset is not known and does not come", "see that NTP runs on this device; or set the clock, and "+setUsed)
	}
	return found
}

// planClockTime is for how long NTP is waited for before the owner is told.
const planClockTime = 10 * time.Minute

// checkPlan says how the plan was understood, or how it stands.
func checkPlan(c Config, running *Status) Finding {
	p := c.Plan
	if running != nil && running.Plan != nil {
		return ok("plan", fmt.Sprintf("%s of %s used, as the running agent says", gigabytes(running.Plan.Used), gigabytes(running.Plan.Size)))
	}
	zone := time.UTC
	if p.Zone != nil {
		zone = p.Zone
	}
	text := fmt.Sprintf("%s from day %d, %d:00 %s; counted on %s", gigabytes(p.Size), p.ResetDay, p.ResetHour, zone, p.Interface)
	d, err := plan.NewDevice(p.Interface)
	if err != nil {
		return failed("plan", err.Error(), "set plan.interface")
	}
	in, err := d.Sample()
	switch {
	case err != nil:
		return failed("plan", err.Error(), "")
	case in.Link == nil:
		return warning("plan", d.Err().Error(), "set plan.interface to the modem's: `ls /sys/class/net` lists them; nothing is sold while it is not there")
	case !in.Synced && p.Hours != nil:
		return warning("plan", "the clock is not set by NTP, and nothing is sold until it is, since there are selling hours", "see that NTP runs on this device")
	}
	return ok("plan", text)
}

// gigabytes is a size as carriers write it; a small one is in megabytes.
func gigabytes(n uint64) string {
	if n < 1e9 {
		return fmt.Sprintf("%d.%d MB", n/1e6, n%1e6/1e5)
	}
	return fmt.Sprintf("%d.%d GB", n/1e9, n%1e9/1e8)
}
