package plan

import "time"

// The time that a plan goes by is one of which it is sure that it has come, as
// far as that can be known: a period that ends too early would be sold twice.
//
//	the device's clock  is believed when NTP vouches for it: forward, once in
//	                    each run of the kernel, by any step, since nobody knows
//	                    for how long the device was off; later only as far as
//	                    time has passed since; back always
//	running time        moves Time on, a little slower than it passes
//	anything else       is not looked at: routers wake up in 1970, or in the
//	                    month when their firmware was made
//
// A step over the end of a period puts the new one on probation: for an hour
// what the old one was charged counts too. A step back over the start of one
// gives back what the one before was charged. What is charged while NTP has not
// vouched for the time counts in the next period as well.

const (
	// slow is how much slower running time is taken to be, in parts: more than
	// a bad crystal is off.
	slow = 1000
	// slack is how far NTP may be ahead of what is believed.
	slack = time.Minute
	// settled is for how long a period must have run to be more than a slip of
	// the clock.
	settled = 24 * time.Hour
)

// nanos is a time as a State has it, if it is one that a device may be in.
func nanos(t time.Time) (int64, bool) {
	return t.UnixNano(), t.Year() >= 2020 && t.Year() < 2100
}

// advance brings Time to the present.
func (s *State) advance(in Sample, elapsed time.Duration) {
	if in.Boot != s.Boot {
		s.Anchored = false
	}
	if s.Known {
		s.Time += int64(elapsed - elapsed/slow)
		s.Latest += int64(elapsed + elapsed/slow)
	}
	now, ok := nanos(in.Wall)
	switch {
	case !ok || !in.Synced:
	case !s.Anchored:
		s.Anchored = true
		s.set(now)
	case now <= s.Latest+int64(slack):
		s.Time, s.Latest, s.Doubt = now, max(s.Latest, now), false
	default:
		s.Doubt = true
	}
}

func (s *State) set(now int64) { s.Time, s.Latest, s.Known, s.Doubt = now, now, true, false }

func (s State) unix() int64 { return s.Time / int64(time.Second) }

// period is the one that t is in.
func (c Config) period(t time.Time) (start, end time.Time) {
	t = t.In(c.zone())
	y, m, _ := t.Date()
	start = c.reset(y, m)
	if t.Before(start) {
		return c.reset(y, m-1), start
	}
	return start, c.reset(y, m+1)
}

// reset is when the count begins anew in a month, which may be out of range.
func (c Config) reset(year int, month time.Month) time.Time {
	last := time.Date(year, month+1, 0, 12, 0, 0, 0, time.UTC)
	day := min(c.ResetDay, last.Day())
	return time.Date(last.Year(), last.Month(), day, c.ResetHour, 0, 0, 0, c.zone())
}

// turn begins periods, days and hours anew whose time has come.
func (s *State) turn(c Config, elapsed time.Duration) {
	s.Lived += elapsed
	s.Day.Lived += elapsed
	s.Hour.Lived += elapsed
	if !s.Known {
		s.turnUnknown()
		return
	}
	if !s.looked || !s.same() {
		s.turnWindows(c, elapsed)
	}
	if c.Hours != nil && (s.unix() < s.openFrom || s.unix() >= s.openUntil) {
		s.turnHours(c)
	}
	if s.Anchored {
		s.Loose, s.LooseSold = 0, 0
	}
}

// same says whether Time is in the same period, day and hour as before. It
// spares most samples the arithmetic of calendars.
func (s *State) same() bool {
	now := s.unix()
	within := func(end, most int64) bool { return now < end && end-now <= most }
	return now >= s.Start && now < s.End && within(s.Day.End, 25*60*60) && within(s.Hour.End, 60*60)
}

func (s *State) turnWindows(c Config, elapsed time.Duration) {
	now := time.Unix(0, s.Time).In(c.zone())
	start, end := c.period(now)
	s.looked = true
	s.turnPeriod(start.Unix(), end.Unix(), elapsed)
	if s.EntryOn != 0 && s.EntryOn+24*60*60 <= s.Start { // of a period that is over
		s.Entered = 0
	}
	s.EntryOn = 0
	y, m, d := now.Date()
	s.turnDay(time.Date(y, m, d+1, 0, 0, 0, 0, c.zone()).Unix())
	begun := time.Duration(now.Minute())*time.Minute + time.Duration(now.Second())*time.Second
	s.Hour = s.Hour.next(now.Add(time.Hour-begun).Unix(), s)
}

// turnHours finds out whether these are selling hours, and until when.
func (s *State) turnHours(c Config) {
	now := time.Unix(0, s.Time).In(c.zone())
	s.open, s.openFrom = c.open(now), now.Unix()
	next := c.changes(now)
	if s.changes = !next.IsZero(); !s.changes {
		next = now.AddDate(0, 0, 1)
	}
	s.openUntil = next.Unix()
}

// turnPeriod goes over to the period that Time is in. Where the owner has set
// another reset day the period has other ends, and is the same one.
func (s *State) turnPeriod(start, end int64, elapsed time.Duration) {
	now := s.unix()
	switch {
	case s.End == 0: // the first
		s.Trial = false
	case now < s.Start: // the clock was wrong before, or is now
		if s.Lived >= settled {
			s.High = max(s.High, s.Start)
		}
		s.Entered, s.Before = plus(s.Entered, s.Before), 0
		s.Lived, s.Trial = 0, false
	case now >= s.End && start > s.High:
		charged := plus(s.Entered, s.Since)
		if s.Lived < settled { // it is over before it was believed
			charged = plus(charged, s.Before)
		}
		s.Before, s.Lived = charged, 0
		s.Trial = now-s.End > int64((elapsed+slack)/time.Second)
		s.Entered, s.Since, s.EntryOn = 0, s.Loose, 0
		s.Household, s.Sales, s.Overhead, s.Unseen = 0, 0, 0, 0
	}
	s.Start, s.End = start, end
}

// next is the window that ends at end. What was counted stays if the one
// before has not ended: then the clock went back, or has just become known.
func (w window) next(end int64, s *State) window {
	if w.End == 0 || s.unix() < w.End {
		w.End = end
		return w
	}
	if s.Anchored {
		return window{End: end, Sold: s.LooseSold}
	}
	return window{End: end}
}

// turnDay ends a day; the household's part of it is remembered.
func (s *State) turnDay(end int64) {
	if w := s.Day; w.End != 0 && s.unix() >= w.End && w.Lived >= 6*time.Hour {
		copy(s.Days[:], s.Days[1:])
		s.Days[len(s.Days)-1] = max(perDay(w), 1)
	}
	if s.unix() >= s.Day.End && !s.Anchored {
		s.LooseSold = 0 // some day has passed
	}
	s.Day = s.Day.next(end, s)
}

// perDay is what the household used in a window, as if it were a whole day.
func perDay(w window) uint64 {
	return w.Household / uint64(max(w.Lived/time.Second, 1)) * 24 * 60 * 60
}

// turnUnknown is turn while nobody knows which day it is: a day lasts for as
// long as one, an hour likewise, and no period ends.
func (s *State) turnUnknown() {
	if s.Day.Lived >= 24*time.Hour {
		s.Day = window{}
	}
	if s.Hour.Lived >= time.Hour {
		s.Hour = window{}
	}
}
