package plan

import (
	"fmt"
	"strings"
	"time"
)

// Hours are selling hours: from minute From to minute To of the days in Days,
// or to To of the next day if that is not later.
type Hours struct {
	Days     uint8 // bit 0 is Sunday, as time.Weekday
	From, To int   // minutes of the day; 1440 is its end
}

const (
	everyDay  = 1<<7 - 1
	dayLength = 24 * 60 // minutes
)

func (h Hours) valid() bool {
	return h.Days&^everyDay == 0 && h.Days != 0 && h.From >= 0 && h.From < dayLength && h.To >= 0 && h.To <= dayLength
}

// within says whether minute m of a weekday is in h.
func (h Hours) within(day time.Weekday, m int) bool {
	has := func(d time.Weekday) bool { return h.Days>>d&1 == 1 }
	if h.From < h.To {
		return has(day) && m >= h.From && m < h.To
	}
	return has(day) && m >= h.From || has((day+6)%7) && m < h.To
}

// open says whether is sold at t, a time in the owner's zone.
func (c Config) open(t time.Time) bool {
	if c.Hours == nil {
		return true
	}
	for _, h := range c.Hours {
		if h.within(t.Weekday(), t.Hour()*60+t.Minute()) {
			return true
		}
	}
	return false
}

// changes is when open changes next after t, zero if it does not in the next
// eight days.
func (c Config) changes(t time.Time) (next time.Time) {
	now := c.open(t)
	y, m, d := t.Date()
	for _, h := range c.Hours {
		for _, minute := range []int{h.From, h.To} {
			for day := range 9 {
				at := time.Date(y, m, d+day, 0, minute, 0, 0, t.Location())
				if at.After(t) && (next.IsZero() || at.Before(next)) && c.open(at) != now {
					next = at
				}
			}
		}
	}
	return next
}

// days are the names of the weekdays, from Sunday.
func days() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// ParseHours reads selling hours: "22:00-06:00", "mon-fri 22:00-06:00" or
// "sat 00:00-24:00". Without a day they are every day's.
func ParseHours(s string) (h Hours, err error) {
	fields := strings.Fields(strings.ToLower(s))
	wrong := fmt.Errorf("hours %.40q: want such as 'mon-fri 22:00-06:00'", s)
	if len(fields) == 0 || len(fields) > 2 {
		return h, wrong
	}
	h.Days = everyDay
	if len(fields) == 2 {
		if h.Days = parseDays(fields[0]); h.Days == 0 {
			return h, wrong
		}
	}
	from, to, ok := strings.Cut(fields[len(fields)-1], "-")
	h.From, h.To = parseMinute(from), parseMinute(to)
	if !ok || !h.valid() {
		return h, wrong
	}
	return h, nil
}

func parseDays(s string) (set uint8) {
	first, last, span := strings.Cut(s, "-")
	if !span {
		last = first
	}
	from, to := -1, -1
	for i, name := range days() {
		if name == first {
			from = i
		}
		if name == last {
			to = i
		}
	}
	if from < 0 || to < 0 {
		return 0
	}
	for d := from; ; d = (d + 1) % 7 {
		set |= 1 << d
		if d == to {
			return set
		}
	}
}

// parseMinute reads HH:MM. It is -1 if s is none.
func parseMinute(s string) int {
	if s == "24:00" {
		return dayLength
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return -1
	}
	return t.Hour()*60 + t.Minute()
}
