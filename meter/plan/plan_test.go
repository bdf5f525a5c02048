package plan

import (
	"strings"
	"testing"
	"time"
)

// gb is what carriers call one.
const gb = 1_000_000_000

func berlin(t *testing.T) *time.Location {
	t.Helper()
	loc, err := ParseZone("CET-1CEST,M3.5.0,M10.5.0/3")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestParseZone(t *testing.T) {
	winter, summer := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC), time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string][2]int{
		"UTC":                        {0, 0},
		"UTC0":                       {0, 0},
		"+02:00":                     {2, 2},
		"-03:00":                     {-3, -3},
		"CET-1CEST,M3.5.0,M10.5.0/3": {1, 2},
		"EST5EDT,M3.2.0,M11.1.0":     {-5, -4},
		"<+03>-3":                    {3, 3},
		"<-03>3":                     {-3, -3},
	} {
		loc, err := ParseZone(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		for i, at := range []time.Time{winter, summer} {
			if _, offset := at.In(loc).Zone(); offset != want[i]*60*60 {
				t.Errorf("%s: %v is %d s from UTC, want %d h", s, at, offset, want[i])
			}
		}
	}
	for _, s := range []string{"", "Local", "CET", "CET-1CEST,", "CET-1CEST,M13.5.0,M10.5.0", "+2", "Nowhere/Land", strings.Repeat("A", 70), "CET-1\nX"} {
		if loc, err := ParseZone(s); err == nil {
			t.Errorf("%q is taken for %v", s, loc)
		}
	}
}

func TestHours(t *testing.T) {
	for _, s := range []string{"", "x", "mon", "25:00-26:00", "10:00", "mon-xyz 10:00-11:00", "mon tue 10:00-11:00", "10:00-11:60", "24:00-10:00"} {
		if h, err := ParseHours(s); err == nil {
			t.Errorf("%q is taken for %v", s, h)
		}
	}
	c := Config{Zone: berlin(t)}
	for _, s := range []string{"fri-sun 22:00-06:00", "wed 12:00-13:30"} {
		h, err := ParseHours(s)
		if err != nil {
			t.Fatal(err)
		}
		c.Hours = append(c.Hours, h)
	}
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 7, day, hour, minute, 0, 0, c.Zone) } // the 1st is a Wednesday
	for _, tt := range []struct {
		at   time.Time
		open bool
		next time.Time
	}{
		{at(1, 12, 0), true, at(1, 13, 30)},
		{at(1, 11, 59), false, at(1, 12, 0)},
		{at(1, 13, 30), false, at(3, 22, 0)},
		{at(3, 23, 59), true, at(4, 6, 0)},
		{at(4, 5, 59), true, at(4, 6, 0)},
		{at(6, 5, 0), true, at(6, 6, 0)}, // Monday, of Sunday's
		{at(7, 5, 0), false, at(8, 12, 0)},
	} {
		if got := c.open(tt.at); got != tt.open {
			t.Errorf("%v: open %v", tt.at, got)
		}
		if got := c.changes(tt.at); !got.Equal(tt.next) {
			t.Errorf("%v: changes at %v, want %v", tt.at, got, tt.next)
		}
	}
	// In the night when clocks go back the hours are as long as the night.
	c.Hours = c.Hours[:1]
	if got, want := c.changes(time.Date(2026, 10, 24, 23, 0, 0, 0, c.Zone)), time.Date(2026, 10, 25, 6, 0, 0, 0, c.Zone); !got.Equal(want) {
		t.Errorf("changes at %v, want %v", got, want)
	}
}

func TestPeriod(t *testing.T) {
	zone := berlin(t)
	at := func(y int, m time.Month, d, h int) time.Time { return time.Date(y, m, d, h, 0, 0, 0, zone) }
	for _, tt := range []struct {
		day, hour      int
		at, start, end time.Time
	}{
		{1, 0, at(2026, 7, 15, 0), at(2026, 7, 1, 0), at(2026, 8, 1, 0)},
		{31, 0, at(2026, 2, 15, 0), at(2026, 1, 31, 0), at(2026, 2, 28, 0)},
		{31, 0, at(2026, 2, 28, 0), at(2026, 2, 28, 0), at(2026, 3, 31, 0)},
		{31, 0, at(2028, 2, 28, 23), at(2028, 1, 31, 0), at(2028, 2, 29, 0)},
		{30, 6, at(2026, 12, 30, 5), at(2026, 11, 30, 6), at(2026, 12, 30, 6)},
		{30, 6, at(2027, 1, 29, 5), at(2026, 12, 30, 6), at(2027, 1, 30, 6)},
		{29, 2, at(2026, 3, 29, 4), at(2026, 3, 29, 2), at(2026, 4, 29, 2)}, // 2:00 is not there
	} {
		c := Config{ResetDay: tt.day, ResetHour: tt.hour, Zone: zone}
		start, end := c.period(tt.at)
		if !start.Equal(tt.start) || !end.Equal(tt.end) {
			t.Errorf("day %d %d:00, at %v: %v to %v, want %v to %v", tt.day, tt.hour, tt.at, start, end, tt.start, tt.end)
		}
	}
}

func TestLinkSince(t *testing.T) {
	const top = 1<<32 - 1000
	type n [4]uint64 // rx bytes, tx bytes, rx packets, tx packets
	link := func(v n, framed bool) Link {
		return Link{Index: 3, Framed: framed, RxBytes: v[0], TxBytes: v[1], RxPackets: v[2], TxPackets: v[3]}
	}
	for _, tt := range []struct {
		name        string
		old, now    n
		framed      bool
		elapsed     time.Duration
		want        uint64
		anew, later bool
	}{
		{"raw", n{1000, 100, 10, 5}, n{3000, 150, 14, 6}, false, time.Second, 2050, false, false},
		{"framed", n{1000, 100, 10, 5}, n{3000, 150, 14, 6}, true, time.Second, 2050 - 5*14, false, false},
		{"nothing", n{1000, 100, 10, 5}, n{1000, 100, 10, 5}, true, time.Second, 0, false, false},
		{"wrapped", n{top, 7, 10, 5}, n{500, 7, 12, 5}, false, time.Second, 1500, false, false},
		{"both wrapped", n{top, top, 10, 5}, n{500, 500, 12, 9}, true, time.Second, 3000 - 6*14, false, false},
		{"wide fell", n{1 << 40, 7, 10, 5}, n{500, 7, 12, 5}, false, time.Second, 507, true, false},
		{"packets fell too", n{top, 7, 10, 5}, n{500, 7, 3, 5}, false, time.Second, 507, true, false},
		{"too fast to have wrapped", n{1 << 31, 7, 10, 5}, n{500, 7, 12, 5}, false, time.Second, 507, true, false},
		{"slow enough to have wrapped", n{1 << 31, 7, 10, 5}, n{500, 7, 12, 5}, false, 2 * time.Second, 1<<31 + 500, false, false},
		{"one direction anew", n{1000, 100, 10, 5}, n{50, 300, 2, 8}, true, time.Second, 350 - 10*14, true, false},
		{"packets before bytes", n{1000, 100, 10, 5}, n{1000, 100, 11, 5}, true, time.Second, 0, false, true},
		{"packets wrapped", n{1000, 100, 1<<32 - 1, 5}, n{2000, 100, 3, 5}, true, time.Second, 1000, false, false},
	} {
		got, anew, later := link(tt.now, tt.framed).since(link(tt.old, tt.framed), tt.elapsed)
		if got != tt.want || anew != tt.anew || later != tt.later {
			t.Errorf("%s: %d, anew %v, later %v", tt.name, got, anew, later)
		}
	}
	other := Link{Index: 4, RxBytes: 5000}
	if got, anew, _ := other.since(Link{Index: 3, RxBytes: 4000}, time.Second); got != 5000 || !anew {
		t.Errorf("another interface: %d, anew %v", got, anew)
	}
}

// A tape plays samples to a state.
type tape struct {
	t  *testing.T
	c  Config
	s  State
	in Sample
	d  Decision
}

func newTape(t *testing.T, c Config) *tape {
	t.Helper()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 10, 12, 0, 0, 0, c.zone())
	p := &tape{t: t, c: c, s: NewState(), in: Sample{Boot: [16]byte{1}, Up: time.Minute, Wall: start, Synced: true, Link: &Link{Index: 1}}}
	p.next(0, 0, 0)
	p.save()
	p.next(0, 0, 0)
	return p
}

// save is what a Book does.
func (p *tape) save() { p.s.saved, p.s.Ahead = p.s.Total, p.c.ahead() }

// next lets time pass, bytes go by, and payload be sold of them.
func (p *tape) next(after time.Duration, bytes, sold uint64) Decision {
	p.in.Up += after
	p.in.Wall = p.in.Wall.Add(after)
	l := *p.in.Link
	l.RxBytes += bytes
	p.in.Link, p.in.Sold = &l, sold
	p.s, p.d = p.s.Next(p.c, p.in)
	return p.d
}

func (p *tape) want(why Reason) {
	p.t.Helper()
	if p.d.Why != why {
		p.t.Errorf("at %v: %q, until %v, want %q; %+v", p.in.Wall, p.d.Why, p.d.Until, why, p.s)
	}
}

func TestSpent(t *testing.T) {
	p := newTape(t, Config{Size: 20 * gb, ResetDay: 15, Reserve: 5 * gb, Used: 3 * gb, Margin: 10, Steps: []Step{{50, 125}, {20, 200}}})
	p.want("")
	if p.d.Left != 12*gb || p.d.Today != 12*gb || p.d.Price != 100 {
		t.Errorf("%+v", p.d)
	}
	if want := time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC); !p.d.Reset.Equal(want) {
		t.Errorf("resets at %v, want %v", p.d.Reset, want)
	}
	p.next(time.Hour, 5*gb, 0) // 5.5 with the margin
	if p.d.Left != 6.5*gb || p.d.Price != 125 || p.s.Household != 5*gb {
		t.Errorf("%+v", p.d)
	}
	p.save()
	p.next(time.Hour, 4*gb, 0)
	if p.d.Left != 2.1*gb || p.d.Price != 200 {
		t.Errorf("%+v", p.d)
	}
	p.next(time.Hour, 4*gb, 0)
	p.want(ReasonSpent)
	if p.d.Bytes != 0 || p.d.Payload != 0 || !p.d.Until.Equal(p.d.Reset) {
		t.Errorf("%+v", p.d)
	}
	p.next(5*24*time.Hour, 0, 0)
	p.save()
	p.next(time.Second, 0, 0)
	p.want("")
	if p.d.Left != 15*gb || p.d.Price != 100 || p.s.Household != 0 {
		t.Errorf("after the reset: %+v", p.d)
	}
}

// TestUsedOn: what was used on a day before the reset does not count after it.
func TestUsedOn(t *testing.T) {
	for day, want := range map[int]uint64{4: 0, 5: 3 * gb, 10: 3 * gb} {
		p := newTape(t, Config{Size: 20 * gb, ResetDay: 5, Used: 3 * gb, UsedOn: time.Date(2026, 3, day, 0, 0, 0, 0, time.UTC)})
		if p.d.Used != want {
			t.Errorf("used on the %dth: %d, want %d", day, p.d.Used, want)
		}
		p.next(time.Hour, gb, 0)
		if p.d.Used != want+gb {
			t.Errorf("used on the %dth, and a GB: %d", day, p.d.Used)
		}
	}
}

func TestLimits(t *testing.T) {
	p := newTape(t, Config{Size: 200 * gb, ResetDay: 1, Daily: 3 * gb, Hourly: gb})
	p.next(time.Second, 1.06*gb, gb/2)
	p.save()
	p.next(time.Second, 0, 0)
	p.want(ReasonHourly)
	if want := time.Date(2026, 3, 10, 13, 0, 0, 0, time.UTC); !p.d.Until.Equal(want) {
		t.Errorf("until %v", p.d.Until)
	}
	for range 2 {
		p.next(time.Hour, 0, 0)
		p.want("")
		p.next(time.Second, 1.06*gb, gb/2)
		p.save()
	}
	p.next(time.Hour, 0, 0)
	p.want(ReasonDaily)
	if want := time.Date(2026, 3, 11, 0, 0, 0, 0, time.UTC); !p.d.Until.Equal(want) || p.d.Today != 0 {
		t.Errorf("until %v", p.d.Until)
	}
	p.next(9*time.Hour, 0, 0)
	p.want("")
	if p.d.Today < 3*gb-10 {
		t.Errorf("%+v", p.d)
	}
}

func TestRefusals(t *testing.T) {
	night, err := ParseHours("00:00-06:00")
	if err != nil {
		t.Fatal(err)
	}
	p := newTape(t, Config{Size: 20 * gb, ResetDay: 1, Hours: []Hours{night}})
	p.want(ReasonHours)
	if want := time.Date(2026, 3, 11, 0, 0, 0, 0, time.UTC); !p.d.Until.Equal(want) {
		t.Errorf("until %v", p.d.Until)
	}
	p.next(13*time.Hour, 0, 0)
	p.want("")
	if want := time.Date(2026, 3, 11, 6, 0, 0, 0, time.UTC); !p.d.Until.Equal(want) {
		t.Errorf("until %v", p.d.Until)
	}
	p.in.Roaming = true
	p.next(time.Second, 0, 0)
	p.want(ReasonRoaming)
	p.c.Roaming = true
	p.next(time.Second, 0, 0)
	p.want("")
	p.s.Ahead = 0
	p.next(time.Second, 0, 0)
	p.want(ReasonStore)
	p.save()
	// Another boot, before NTP: nobody knows whether it is night.
	p.in.Boot, p.in.Up, p.in.Synced = [16]byte{2}, time.Minute, false
	p.next(time.Second, 0, 0)
	p.save()
	p.next(time.Second, 0, 0)
	p.want(ReasonClock)
	link := p.in.Link
	p.in.Link = nil
	p.s, p.d = p.s.Next(p.c, p.in)
	p.want(ReasonInterface)
	p.in.Link, p.s.Unadmitted = link, true
	p.next(time.Second, 0, 0)
	p.want(ReasonSIM)
}

// TestElsewhere: what is sold does not pass the interface.
func TestElsewhere(t *testing.T) {
	p := newTape(t, Config{Size: 200 * gb, ResetDay: 1})
	for range 70 {
		p.next(time.Second, 1000, 1<<20)
	}
	p.want(ReasonElsewhere)
}

func TestForecast(t *testing.T) {
	p := newTape(t, Config{Size: 200 * gb, ResetDay: 1})
	if p.d.Forecasts {
		t.Errorf("%+v", p.d)
	}
	for range 2 * 60 {
		p.next(time.Minute, 1e6, 0)
	}
	if want := uint64(60e6 * (24*21 + 10)); !p.d.Forecasts || p.d.Forecast < want*95/100 || p.d.Forecast > want {
		t.Errorf("after two hours: %d, want about %d", p.d.Forecast, want)
	}
	for range 8 * 24 * 60 {
		p.next(time.Minute, 2e6, 0)
	}
	if want := uint64(120e6 * 24 * 13); p.d.Forecast < want*90/100 || p.d.Forecast > want*11/10 {
		t.Errorf("after eight days: %d, want about %d", p.d.Forecast, want)
	}
}

// TestClock: no clock of the device's makes a period end early.
func TestClock(t *testing.T) {
	month := 31 * 24 * time.Hour
	spent := func() *tape {
		p := newTape(t, Config{Size: 20 * gb, ResetDay: 1})
		p.next(time.Hour, 21*gb, 0)
		p.save()
		p.want(ReasonSpent)
		return p
	}
	boot := func(p *tape, up time.Duration) {
		p.in.Boot[0]++
		p.in.Up, p.in.Link = up, &Link{Index: 1}
	}
	t.Run("set by hand", func(t *testing.T) {
		p := spent()
		p.in.Synced, p.in.Wall = false, p.in.Wall.Add(month)
		p.next(time.Minute, 0, 0)
		p.want(ReasonSpent)
	})
	t.Run("NTP goes wrong", func(t *testing.T) {
		p := spent()
		right := p.in.Wall
		p.in.Wall = right.Add(month)
		for range 100 {
			p.next(time.Hour, 0, 0)
			p.want(ReasonSpent)
		}
		if !p.d.Doubt {
			t.Error("nobody is told")
		}
		p.in.Wall = right.Add(100 * time.Hour)
		p.next(time.Minute, 0, 0)
		p.want(ReasonSpent)
		if p.d.Doubt {
			t.Error("still in doubt")
		}
	})
	t.Run("wakes up in 1970, then NTP", func(t *testing.T) {
		p := spent()
		right := p.in.Wall
		boot(p, time.Minute)
		p.in.Wall, p.in.Synced = time.Unix(0, 0), false
		p.next(time.Minute, 0, 0)
		p.want(ReasonSpent)
		p.in.Wall, p.in.Synced = right.Add(month), true
		p.next(time.Minute, 0, 0)
		p.want(ReasonSpent) // on probation
		p.next(time.Hour, 0, 0)
		p.save()
		p.next(time.Second, 0, 0)
		p.want("")
	})
	t.Run("NTP is wrong at the start, for long", func(t *testing.T) {
		p := spent()
		right := p.in.Wall
		boot(p, time.Minute)
		p.in.Wall = right.Add(month)
		p.next(time.Minute, 0, 0)
		p.want(ReasonSpent)
		p.next(2*time.Hour, 3*gb, 0)
		p.save()
		p.in.Wall = right.Add(2 * time.Hour)
		p.next(time.Minute, 0, 0)
		p.want(ReasonSpent)
		if p.d.Used < 24*gb {
			t.Errorf("used %d: what was used before is forgotten", p.d.Used)
		}
		p.next(23*24*time.Hour, 0, 0) // the next period comes
		p.want("")
	})
	t.Run("NTP is a month behind at the start", func(t *testing.T) {
		p := newTape(t, Config{Size: 20 * gb, ResetDay: 1})
		p.next(10*24*time.Hour, 21*gb, 0)
		right := p.in.Wall
		boot(p, time.Minute)
		p.in.Wall = right.Add(-month)
		p.next(time.Minute, 0, 0)
		p.want(ReasonSpent)
		boot(p, time.Minute)
		p.in.Wall = right.Add(time.Hour)
		p.next(time.Minute, 0, 0)
		p.next(2*time.Hour, 0, 0)
		p.want(ReasonSpent) // it was in this period before
	})
	t.Run("no clock ever", func(t *testing.T) {
		p := newTape(t, Config{Size: 20 * gb, ResetDay: 1, Daily: gb})
		p.s = NewState()
		p.in.Synced = false
		for range 50 {
			p.next(24*time.Hour, gb/2, 0)
			p.save()
		}
		p.want(ReasonSpent)
		if !p.d.Reset.IsZero() {
			t.Errorf("resets at %v", p.d.Reset)
		}
	})
	t.Run("off for months without NTP", func(t *testing.T) {
		p := spent()
		boot(p, time.Minute)
		p.in.Wall, p.in.Synced = p.in.Wall.Add(3*month), false
		p.next(time.Minute, 0, 0)
		p.want(ReasonSpent)
		p.next(22*24*time.Hour, 0, 0) // running time brings the reset
		p.save()
		p.next(time.Second, 0, 0)
		p.want("")
	})
}

// TestConfigChanges: another reset day does not forget what is used.
func TestConfigChanges(t *testing.T) {
	p := newTape(t, Config{Size: 20 * gb, ResetDay: 1, Used: gb})
	p.next(time.Hour, 3*gb, 0)
	p.c.ResetDay, p.s.looked = 9, false // as after a start
	p.next(time.Hour, gb, 0)
	if want := time.Date(2026, 4, 9, 0, 0, 0, 0, time.UTC); p.d.Used != 5*gb || !p.d.Reset.Equal(want) {
		t.Errorf("used %d, resets at %v", p.d.Used, p.d.Reset)
	}
	p.c.Used = 7 * gb
	p.next(time.Hour, gb, 0)
	if p.d.Used != 8*gb {
		t.Errorf("used %d", p.d.Used)
	}
	p.s = p.s.Enter(p.c, 2*gb, p.in)
	p.next(time.Hour, gb, 0)
	if p.d.Used != 3*gb {
		t.Errorf("used %d", p.d.Used)
	}
}

func TestConfigCheck(t *testing.T) {
	good := Config{Size: gb, ResetDay: 1}
	for want, change := range map[string]func(*Config){
		"size":           func(c *Config) { c.Size = 0 },
		"reset_day":      func(c *Config) { c.ResetDay = 32 },
		"reset_hour":     func(c *Config) { c.ResetHour = 24 },
		"used":           func(c *Config) { c.Used = 1 << 61 },
		"reserve":        func(c *Config) { c.Reserve = gb },
		"daily":          func(c *Config) { c.Daily = 1 },
		"hourly":         func(c *Config) { c.Hourly = 9e6 },
		"margin_percent": func(c *Config) { c.Margin = 101 },
		"schedule":       func(c *Config) { c.Hours = []Hours{{Days: 1, From: -1}} },
		"price_steps":    func(c *Config) { c.Steps = []Step{{20, 150}, {50, 200}} },
	} {
		c := good
		change(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
}
