package plan

import (
	"fmt"
	"hash/fnv"
	"time"
)

// A State is all that is known of one SIM's plan: a value, of which a [Book]
// keeps records.
type State struct {
	// Time is the time that the plan goes by, in Unix nanoseconds, and Latest
	// the latest that it may be. See clock.go.
	Time, Latest int64
	Known        bool // Time means something
	Anchored     bool // NTP has vouched for Time in this boot
	Doubt        bool // NTP's time is not believed: it is ahead of Latest

	// Boot, Up and Link are those of the last sample.
	Boot [16]byte
	Up   time.Duration
	Link Link
	Seen bool // there was one

	// Start and End are the period's, in Unix seconds. High is the latest Start
	// of a period that was lived through and that the clock then went back from.
	Start, End, High int64
	Lived            time.Duration // running time since the period began
	Trial            bool          // it began by a step of the clock
	// Entered is what the owner said was used, EntryOn the day for which, in
	// Unix seconds, until it is known to be in the period; EntryKey says which
	// entry in the config it was. Since is what was charged after that.
	Entered  uint64
	EntryOn  int64
	EntryKey uint64
	Since    uint64
	Before   uint64 // charged in the period before
	// Loose and LooseSold are what was charged and sold since NTP vouched for
	// the time last: it may belong to a later period, day or hour.
	Loose, LooseSold uint64
	// The shares of what was counted in the period, which add up to it, and
	// what was charged on top since it may have passed uncounted.
	Household, Sales, Overhead, Unseen uint64

	Day, Hour  window
	Days       [7]uint64 // the household's, of the last days, the newest last; 0: not known
	Ratio      uint64    // plan bytes for 1,000 bytes of payload
	Claim      uint64    // plan bytes for payload that the interface has not shown yet
	Total      uint64    // all that was ever charged
	Ahead      uint64    // may be charged after the newest record, before the next
	Unadmitted bool      // an unknown card: the owner has to say what is used

	// What follows is not in records.
	saved     uint64 // Total in the newest record
	loaded    bool   // from a record, and not yet compared with a sample
	looked    bool   // windows are those of the config
	open      bool   // these are selling hours, in Unix seconds:
	openFrom  int64
	openUntil int64
	changes   bool   // then they end, or begin
	stopped   bool   // nothing could be sold at the last sample
	afloat    uint64 // what of Claim is payload's
	early     uint64 // what the household was given and may yet turn out to be sold
	gone      bool   // the interface is not there
	peak      uint64
	learned   learning
	elsewhere int // windows in a row that the interface did not show
}

// A window is a day or an hour of the owner's clock.
type window struct {
	End       int64 // Unix seconds
	Lived     time.Duration
	Sold      uint64 // sales and their overhead, in plan bytes
	Household uint64
}

const (
	firstRatio = 2120 // both legs and 6%: what 1,200-byte packets come to
	minRatio   = 1000
	maxRatio   = 2600 // above it the household's traffic is in it
	// learnOver is how much payload a ratio is learned over: far more than is
	// under way in buffers.
	learnOver = 32 << 20
	// claimTime is for how long payload may be under way inside the agent.
	claimTime = 10 * time.Second
	// maxClaim bounds what may be under way.
	maxClaim = 64 << 20
	// probation is for how long a period that began by a step of the clock is
	// not believed alone: what the one before was charged counts too.
	probation = time.Hour
	// least is what counts as something, in plan bytes; when nothing was left
	// before, resume is: estimates sway a little.
	least  = 64 << 10
	resume = 1 << 20
)

// A learning finds how many plan bytes a byte of payload costs: the least of
// its last windows, since the household only adds to them.
type learning struct {
	seen, sold uint64
	windows    [8]uint64
	n          int
}

// NewState is the state of a SIM that was never seen.
func NewState() State { return State{Ratio: firstRatio} }

// Margin is what the owner adds to what was charged since he said what is used.
func (s State) Margin(c Config) uint64 { return s.Since/100*c.Margin + s.Since%100*c.Margin/100 }

// Used is what counts against the plan in the period.
func (s State) Used(c Config) uint64 {
	used := plus(plus(s.Entered, s.Since), s.Margin(c))
	if s.Trial && s.Lived < probation {
		used = plus(used, s.Before)
	}
	return used
}

// Next takes a sample. It is pure.
func (s State) Next(c Config, in Sample) (State, Decision) {
	s.enter(c)
	elapsed := time.Duration(0)
	switch {
	case s.Seen && in.Boot == s.Boot:
		elapsed = max(in.Up-s.Up, 0)
	case s.Seen: // at least
		elapsed = max(in.Up, 0)
	}
	s.advance(in, elapsed)
	s.turn(c, elapsed)
	s.count(in, elapsed)
	s.Boot, s.Up, s.Seen = in.Boot, in.Up, true
	d := s.decide(c, in)
	s.stopped = d.Why != ""
	return s, d
}

// entryKey names what the config says was used; 0: nothing.
func (c Config) entryKey() uint64 {
	if c.Used == 0 && c.UsedOn.IsZero() {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprint(h, c.Used, c.UsedOn.Unix())
	return h.Sum64()
}

// enter takes over what the config says was used, once.
func (s *State) enter(c Config) {
	key := c.entryKey()
	if key == s.EntryKey {
		return
	}
	if s.EntryKey = key; key == 0 {
		return
	}
	s.Entered, s.Before, s.EntryOn = c.Used, 0, 0
	if c.UsedOn.IsZero() {
		s.Since = 0
	} else { // what was counted before that day and after it is not known apart
		s.EntryOn = c.UsedOn.Unix()
	}
}

// Enter is the state after the owner has said what is used now, and with that
// that the device's clock is right.
func (s State) Enter(c Config, used uint64, in Sample) State {
	s, _ = s.Next(c, in)
	if now, ok := nanos(in.Wall); ok && (!s.Known || now > s.Time && (!s.Anchored || s.Doubt)) {
		s.set(now)
		s.Anchored = true
		s.turn(c, 0)
	}
	s.Entered, s.Since, s.Before, s.EntryOn = used, 0, 0, 0
	s.High, s.Loose, s.Trial, s.Unadmitted = 0, 0, false, false
	return s
}

// count charges what has passed the interface since the last sample.
func (s *State) count(in Sample, elapsed time.Duration) {
	if in.Sold > 0 {
		s.Claim += in.Sold/1000*s.Ratio + in.Sold%1000*s.Ratio/1000 + 1
	} else { // it is not under way for long
		s.Claim = fade(s.Claim, elapsed)
	}
	s.early = min(fade(s.early, elapsed), maxClaim)
	if in.Link == nil {
		if !s.gone && !s.loaded && s.Seen {
			s.unseen(s.lost(elapsed)) // until it went
		}
		s.gone, s.Claim = true, min(s.Claim, maxClaim)
		return
	}
	first, same := !s.Seen && !s.loaded, in.Boot == s.Boot
	var bytes uint64
	var anew, later bool
	switch {
	case first: // nothing was counted for the owner's SIM before
		s.Link = *in.Link
	case !same || s.Link == Link{}:
		bytes, anew = in.Link.all(), true
	default:
		bytes, anew, later = in.Link.since(s.Link, elapsed)
	}
	switch {
	case later:
		s.Claim = min(s.Claim, maxClaim)
		return
	case anew && s.loaded:
		s.unseen(s.Ahead)
	case anew && !s.gone:
		s.unseen(s.lost(elapsed))
	}
	s.Link, s.loaded, s.gone = *in.Link, false, false
	if ms := uint64(elapsed / time.Millisecond); ms >= 100 && !anew {
		s.peak = max(bytes/ms*1000, s.peak-s.peak/64)
	}
	s.share(bytes, in.Sold)
}

// lost is what may have passed an interface that is gone since it was last read.
func (s *State) lost(elapsed time.Duration) uint64 {
	return s.peak/1000*uint64(elapsed/time.Millisecond) + s.peak%1000
}

func (s *State) unseen(bytes uint64) {
	s.Unseen = plus(s.Unseen, bytes)
	s.charge(bytes)
}

func (s *State) charge(bytes uint64) {
	s.Since = plus(s.Since, bytes)
	s.Total = plus(s.Total, bytes)
	if !s.Anchored {
		s.Loose = plus(s.Loose, bytes)
	}
}

// unsaved is what was charged after the newest record.
func (s State) unsaved() uint64 { return s.Total - s.saved }

// share divides counted bytes up: payload, once or twice, is the sales', what it
// is known to cost on top is overhead, the rest the household's. The counters
// may be ahead of what is known to be sold, or behind it: a claim that is not
// covered takes from what the household was given a moment before, and what is
// then left of it waits for the next bytes.
func (s *State) share(bytes, sold uint64) {
	s.charge(bytes)
	s.Household += bytes
	s.Day.Household += bytes
	taken := min(s.Claim, plus(bytes, s.early), s.Household, s.Day.Household)
	s.early = plus(bytes, s.early) - taken
	s.Claim = min(s.Claim-taken, maxClaim)
	payload := min(plus(s.afloat, sold*legs(s.Ratio)), taken)
	s.afloat = min(plus(s.afloat, sold*legs(s.Ratio))-payload, s.Claim)
	s.Sales += payload
	s.Overhead += taken - payload
	s.Household -= taken
	s.Day.Household -= taken
	s.Day.Sold += taken
	s.Hour.Sold += taken
	if !s.Anchored {
		s.LooseSold += taken
	}
	s.learn(bytes, sold)
}

// fade is what is left, after elapsed, of something that lasts for claimTime.
func fade(n uint64, elapsed time.Duration) uint64 {
	return n - n/uint64(claimTime/time.Millisecond)*uint64(min(elapsed, claimTime)/time.Millisecond)
}

// legs is how often payload passes the interface: twice, unless buyers reach
// the agent by another line.
func legs(ratio uint64) uint64 {
	if ratio < 1500 {
		return 1
	}
	return 2
}

// learn measures the ratio.
func (s *State) learn(bytes, sold uint64) {
	l := &s.learned
	if sold == 0 && (l.sold == 0 || s.Claim == 0) {
		return // nothing is under way
	}
	l.seen += bytes
	if l.sold += sold; l.sold < learnOver {
		return
	}
	ratio := l.seen / (l.sold / 1000)
	l.seen, l.sold = 0, 0
	if ratio < minRatio*9/10 {
		s.elsewhere++
	} else {
		s.elsewhere = 0
	}
	if ratio > maxRatio {
		return
	}
	l.windows[l.n%len(l.windows)] = max(ratio, minRatio)
	if l.n++; l.n < len(l.windows) {
		return
	}
	before := s.Ratio
	s.Ratio = maxRatio
	for _, w := range l.windows {
		s.Ratio = min(s.Ratio, w)
	}
	if s.Ratio < before {
		s.Claim = s.Claim / before * s.Ratio
	}
}
