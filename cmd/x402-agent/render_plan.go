package main

import (
	"fmt"
	"time"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/meter/plan"
)

// renderPlan is the plan in a few lines; none without a plan.
func renderPlan(line func(label, text string), p *seller.PlanStatus) {
	if p == nil {
		return
	}
	used := fmt.Sprintf("%s of %s used on %s", size(p.Used), size(p.Size), p.Interface)
	if p.Reset > 0 {
		used += ", until " + when(p.Reset, p.Zone)
	}
	line("plan", used)
	parts := fmt.Sprintf("%s by the household, %s by sales, %s overhead", size(p.Household), size(p.Sales), size(p.Overhead))
	if p.Uncounted > 0 {
		parts += fmt.Sprintf(", at most %s uncounted", size(p.Uncounted))
	}
	if p.Margin > 0 {
		parts += fmt.Sprintf(", %s margin", size(p.Margin))
	}
	line("", parts)
	switch c := p.Correction; {
	case c > 0 && p.Entered == 0:
		line("", size(uint64(c))+" of the period before, until it is sure that it is over")
	case c > 0:
		line("", "entered: "+size(uint64(c))+" more than was counted")
	case c < 0:
		line("", "entered: "+size(uint64(-c))+" less than was counted")
	}
	left := fmt.Sprintf("%s may be sold, %s of it today (%s so far)", size(p.Left), size(p.Today), size(p.SoldToday))
	if p.Reserve > 0 {
		left += fmt.Sprintf("; %s are reserved", size(p.Reserve))
	}
	if p.Price != 100 {
		left += fmt.Sprintf("; the price is at %d%%", p.Price)
	}
	line("", left)
	if p.Forecast >= 0 {
		line("", fmt.Sprintf("the household will use about %s more until the reset", size(uint64(p.Forecast))))
	}
	if p.Why != "" {
		text := "nothing is sold: " + why(plan.Reason(p.Why))
		if p.Until > 0 {
			text += ", until " + when(p.Until, p.Zone)
		}
		line("", text)
	}
}

// when is a moment in the plan's time zone, if this device knows that by its
// name.
func when(unix int64, zone string) string {
	loc, err := plan.ParseZone(zone)
	if err != nil {
		loc = time.Local
	}
	return time.Unix(unix, 0).In(loc).Format("2 Jan 15:04 MST")
}

// why puts a reason into words.
func why(r plan.Reason) string {
	switch r {
	case plan.ReasonSIM:
		return "the SIM is not known yet"
	case plan.ReasonInterface:
		return "the interface is not there"
	case plan.ReasonElsewhere:
		return "buyers' traffic does not pass the interface"
	case plan.ReasonRoaming:
		return "the SIM is abroad"
	case plan.ReasonSpent:
		return "all but the reserve is used"
	case plan.ReasonClock:
		return "the clock is not set, and there are selling hours"
	case plan.ReasonHours:
		return "these are not selling hours"
	case plan.ReasonDaily:
		return "the day's limit is reached"
	case plan.ReasonHourly:
		return "the hour's limit is reached"
	case plan.ReasonStore:
		return "what is used cannot be stored"
	}
	return string(r)
}
