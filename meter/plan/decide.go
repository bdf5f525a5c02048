package plan

import "time"

// decide says what may be done.
func (s State) decide(c Config, in Sample) Decision {
	d := Decision{Used: s.Used(c), Price: 100, Doubt: s.Doubt}
	sellable := c.Size - c.Reserve
	d.Left = less(sellable, plus(d.Used, s.Claim))
	for _, step := range c.Steps { // less and less left
		if d.Left <= sellable/100*step.Left {
			d.Price = step.Price
		}
	}
	d.Today = d.Left
	if c.Daily > 0 {
		d.Today = min(d.Today, less(c.Daily, s.Day.Sold+s.Claim))
	}
	if s.Known {
		d.Reset = time.Unix(s.End, 0)
	}
	d.Forecast, d.Forecasts = s.forecast()
	s.permit(c, in, &d)
	if d.Why != "" {
		d.Bytes = 0
	}
	// Divided first: what is left of a plan times a thousand may not fit.
	d.Payload = d.Bytes / (100 + c.Margin) * 100 / s.Ratio * 1000
	return d
}

// permit sets Bytes, or why there are none, and until when.
func (s State) permit(c Config, in Sample, d *Decision) {
	least := uint64(least)
	if s.stopped {
		least = resume
	}
	stop := func(why Reason, until int64) {
		d.Why = why
		if s.Known && until > 0 {
			d.Until = time.Unix(until, 0)
		}
	}
	hours := int64(0) // when they change
	if s.changes {
		hours = s.openUntil
	}
	hourly := d.Today
	if c.Hourly > 0 {
		hourly = min(hourly, less(c.Hourly, s.Hour.Sold+s.Claim))
	}
	d.Bytes = min(hourly, less(s.Ahead, s.unsaved()+s.Claim))
	switch {
	case s.Unadmitted:
		stop(ReasonSIM, 0)
	case in.Link == nil:
		stop(ReasonInterface, 0)
	case s.elsewhere >= 2:
		stop(ReasonElsewhere, 0)
	case in.Roaming && !c.Roaming:
		stop(ReasonRoaming, 0)
	case d.Left < least && s.Trial && s.Lived < probation:
		stop(ReasonSpent, s.unix()+int64((probation-s.Lived)/time.Second))
	case d.Left < least:
		stop(ReasonSpent, s.End)
	case c.Hours != nil && !s.Anchored:
		stop(ReasonClock, 0)
	case c.Hours != nil && !s.surelyOpen(c, in):
		stop(ReasonHours, hours)
	case d.Today < least:
		stop(ReasonDaily, s.Day.End)
	case hourly < least:
		stop(ReasonHourly, s.Hour.End)
	case d.Bytes < least:
		stop(ReasonStore, 0)
	default:
		stop("", hours)
	}
}

// surelyOpen says whether these are selling hours. Where NTP does not vouch for
// the time now, it may be a little later than Time.
func (s State) surelyOpen(c Config, in Sample) bool {
	if in.Synced || s.Latest/int64(time.Second) < s.openUntil {
		return s.open
	}
	return s.open && c.open(time.Unix(0, s.Latest).In(c.zone()))
}

// forecast is what the household will use until the reset, by its mean over the
// last days, or over this one when it is the first.
func (s State) forecast() (uint64, bool) {
	if !s.Known {
		return 0, false
	}
	var sum, n uint64
	for _, day := range s.Days {
		if day > 0 {
			sum += day
			n++
		}
	}
	if n == 0 {
		if s.Day.Lived < time.Hour {
			return 0, false
		}
		sum, n = perDay(s.Day), 1
	}
	hours := uint64(max(s.End-s.unix(), 0)) / (60 * 60)
	return sum / n / 24 * hours, true
}

// plus is a + b, or the most there is.
func plus(a, b uint64) uint64 {
	if a+b < a {
		return ^uint64(0)
	}
	return a + b
}

// less is a − b, at least 0.
func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}
