package modem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Trouble is what keeps a modem from carrying traffic.
type Trouble uint8

// The troubles. Those from NoCard on no restart heals, and tries could lock the
// card: they are reported and left to the owner.
const (
	NoTrouble    Trouble = iota
	Unregistered         // on no network
	NoData               // registered, and nothing gets through, as the caller says
	Refused              // the network does not want this SIM
	NoAnswer             // the port is there, the modem does not speak
	Vanished             // there is no port
	Unauthorized         // the kernel leaves the device alone
	NoCard
	CardLocked // wants a PIN that is missing or wrong, its PUK, or another device
	CardFailed
	NotOurs // another program has the port, it may not be opened, or there is none
	troubles
)

func (t Trouble) String() string {
	return [troubles]string{
		"none", "on no network", "no data gets through", "refused by the network", "no answer", "vanished", "not authorised",
		"no SIM", "SIM locked", "SIM failed", "not ours to use",
	}[t]
}

// TroubleOf says what is wrong with a modem from what Find, Open, Identity and
// Status last returned.
func TroubleOf(s Status, err error) Trouble {
	cme, _ := errors.AsType[CMEError](err)
	_, held := errors.AsType[HeldError](err)
	switch {
	case errors.Is(err, context.Canceled):
		return NoTrouble
	case held, errors.Is(err, ErrNoPort), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EBUSY):
		return NotOurs
	case errors.Is(err, ErrUnauthorized):
		return Unauthorized
	case errors.Is(err, ErrNoSIM), err == nil && s.SIM == SIMAbsent:
		return NoCard
	case errors.Is(err, ErrPINRequired), errors.Is(err, ErrPUKRequired), errors.Is(err, ErrPINRefused),
		err == nil && (s.SIM == SIMPIN || s.SIM == SIMPUK || s.SIM == SIMLocked):
		return CardLocked
	case cme.Code == cmeFailure, err == nil && s.SIM == SIMFailed, cme.Code == cmeWrongSIM:
		return CardFailed
	case errors.Is(err, ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return NoAnswer
	case err != nil && !soft(err) && !errors.Is(err, ErrSIMBusy):
		return Vanished
	case err != nil:
		return Unregistered // it speaks, and all steps may help
	case s.Registration == Denied:
		return Refused
	case !s.Registration.Registered():
		return Unregistered
	}
	return NoTrouble
}

// A Step is one rung of the ladder that a modem is brought back by, from what
// costs least to what costs most.
type Step uint8

// The steps.
const (
	NoStep      Step = iota
	Register         // AT+COPS=0
	Cycle            // AT+CFUN=4 and 1
	Restart          // the maker's command
	Reauthorize      // off and on for the kernel: sysfs's authorized
	PowerCycle       // as the owner configured it
	steps
)

func (s Step) String() string {
	return [steps]string{"none", "register", "radio off and on", "restart", "USB off and on", "power off and on"}[s]
}

// rungs are the steps that may help against a trouble. A modem that does not
// speak takes no commands; to a network that refuses a SIM nothing but a
// question is put.
func (t Trouble) rungs() []Step {
	switch t {
	case Unregistered, NoData:
		return []Step{Register, Cycle, Restart, Reauthorize, PowerCycle}
	case Refused:
		return []Step{Register, Cycle}
	case NoAnswer, Vanished, Unauthorized:
		return []Step{Reauthorize, PowerCycle}
	}
	return nil
}

// patience is how long a trouble may pass by itself: a network has gaps, and a
// modem that restarts is gone for half a minute.
func (t Trouble) patience() time.Duration {
	switch t {
	case Refused:
		return 10 * time.Minute
	case Unregistered:
		return 3 * time.Minute
	case NoData, Vanished:
		return 2 * time.Minute
	}
	return time.Minute
}

// A bound is how often a step may be taken, and how long it is waited for.
type bound struct {
	hour, day int
	effect    time.Duration
}

var bounds = [steps]bound{
	Register:    {4, 24, 2 * time.Minute},
	Cycle:       {2, 12, 2 * time.Minute},
	Restart:     {1, 6, 3 * time.Minute},
	Reauthorize: {1, 4, 3 * time.Minute},
	PowerCycle:  {1, 3, 4 * time.Minute},
}

const (
	// calmTime is how long a modem has to be well before the ladder begins at
	// its foot again: one that falters goes on from where it was.
	calmTime = 10 * time.Minute
	// restTime is how long nothing is done after all steps were in vain. Then
	// there is one more climb: a modem on a roof is nobody's to restart.
	restTime = 24 * time.Hour
)

// A Ladder is where a modem is on the way back, as a value: Next is a function
// of it and decides what to do. The zero Ladder is at the foot.
//
//	well ──trouble──→ waiting ──patience over──→ step ──effect time──→ next step …
//	  ↑                  │                                               │ none left
//	  └──well for 10 min─┴──────────── a day later, or by Again ←── stopped
type Ladder struct {
	trouble Trouble
	since   time.Time // the trouble, or being well
	until   time.Time // nothing is done before
	last    Step      // the highest step of this climb
	stopped time.Time // when all had been in vain; zero: not
	taken   []taken   // of the last day, the oldest first
}

type taken struct {
	step Step
	at   time.Time
}

// A Verdict is what a Ladder says at one moment.
type Verdict struct {
	Trouble Trouble
	Step    Step          // to be taken now
	Wait    time.Duration // until there is more to say, if nothing changes
	// Stopped says that all steps were in vain and nothing more is done for a
	// day; Reported that no step would help, and the owner has to.
	Stopped, Reported bool
	Today             int // steps in the last day, with this one
}

// LogValue has the attributes of a verdict: trouble, step, wait, today, stopped
// and reported.
func (v Verdict) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("trouble", v.Trouble.String()), slog.String("step", v.Step.String()), slog.Duration("wait", v.Wait.Round(time.Second)),
		slog.Int("today", v.Today), slog.Bool("stopped", v.Stopped), slog.Bool("reported", v.Reported),
	)
}

// A Look is what Next decides by. Can holds the steps that can be taken now;
// Jitter of 0 to 1 stretches what is waited for by up to a quarter, so that the
// modems of a hub do not all restart at once.
type Look struct {
	Now     time.Time
	Trouble Trouble
	Can     []Step
	Jitter  float64
}

// Next says what to do, and is the Ladder after it was done.
func (l Ladder) Next(look Look) (Ladder, Verdict) {
	l = l.forget(look.Now)
	if look.Trouble != l.trouble || l.since.IsZero() {
		if look.Trouble == NoTrouble || l.trouble == NoTrouble || l.since.IsZero() {
			l.until = later(l.until, look.Now.Add(stretch(look.Trouble.patience(), look.Jitter)))
		}
		l.trouble, l.since = look.Trouble, look.Now
	}
	v := Verdict{Trouble: look.Trouble, Today: len(l.taken)}
	rungs := look.Trouble.rungs()
	switch {
	case look.Trouble == NoTrouble:
		v.Wait = calmTime
		if since(look.Now, l.since) >= calmTime {
			l.last, l.stopped, l.until = NoStep, time.Time{}, time.Time{}
		}
		return l, v
	case rungs == nil:
		v.Reported, v.Wait = true, restTime
		return l, v
	case !l.stopped.IsZero() && since(look.Now, l.stopped) < restTime:
		v.Stopped, v.Wait = true, restTime-since(look.Now, l.stopped)
		return l, v
	case !l.stopped.IsZero():
		l.last, l.stopped = NoStep, time.Time{}
	}
	if wait := l.until.Sub(look.Now); wait > 0 {
		v.Wait = min(wait, restTime) // a clock that was set back must not hold it for longer
		return l, v
	}
	for _, step := range rungs {
		if step > l.last && slices.Contains(look.Can, step) && l.allowed(step, look.Now) {
			l.last = step
			l.taken = append(slices.Clone(l.taken), taken{step, look.Now})
			l.until = look.Now.Add(stretch(bounds[step].effect, look.Jitter))
			v.Step, v.Wait, v.Today = step, l.until.Sub(look.Now), len(l.taken)
			return l, v
		}
	}
	l.stopped = look.Now
	v.Stopped, v.Wait = true, restTime
	return l, v
}

// Again has the ladder begin at its foot, since the owner looked after the
// modem. What may be done in an hour and a day stays bounded.
func (l Ladder) Again() Ladder {
	l.last, l.stopped, l.until = NoStep, time.Time{}, time.Time{}
	return l
}

// forget drops the steps of more than a day ago.
func (l Ladder) forget(now time.Time) Ladder {
	l.taken = slices.DeleteFunc(slices.Clone(l.taken), func(t taken) bool { return since(now, t.at) >= 24*time.Hour })
	return l
}

func (l Ladder) allowed(step Step, now time.Time) bool {
	hour, day := 0, 0
	for _, t := range l.taken {
		if t.step != step {
			continue
		}
		day++
		if since(now, t.at) < time.Hour {
			hour++
		}
	}
	return hour < bounds[step].hour && day < bounds[step].day
}

// since is how long ago t was. A time to come was written by a clock that was
// ahead, and counts as now: that allows less, not more.
func since(now, t time.Time) time.Duration { return max(0, now.Sub(t)) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func stretch(d time.Duration, jitter float64) time.Duration {
	return d + time.Duration(float64(d/4)*min(max(jitter, 0), 1))
}

// maxTaken is more than all the bounds of a day together.
const maxTaken = 64

// MarshalText writes what has to survive a restart of the machine: a step may
// have caused it.
//
//	v1 <last step> <stopped, in Unix seconds, or 0> [<step>@<Unix seconds>]…
func (l Ladder) MarshalText() ([]byte, error) {
	var out strings.Builder
	fmt.Fprintf(&out, "v1 %d %d", l.last, unixOr0(l.stopped))
	for _, t := range l.taken {
		fmt.Fprintf(&out, " %d@%d", t.step, t.at.Unix())
	}
	return []byte(out.String() + "\n"), nil
}

func unixOr0(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// UnmarshalText reads what MarshalText wrote.
func (l *Ladder) UnmarshalText(text []byte) error {
	f := strings.Fields(string(text))
	bad := errors.New("modem: what was done to the modem is not written as v1")
	if len(f) < 3 || len(f) > 3+maxTaken || f[0] != "v1" {
		return bad
	}
	var n Ladder
	last, err := strconv.ParseUint(f[1], 10, 8)
	stopped, err2 := strconv.ParseInt(f[2], 10, 40)
	if err != nil || err2 != nil || Step(last) >= steps || stopped < 0 {
		return bad
	}
	if n.last = Step(last); stopped > 0 {
		n.stopped = time.Unix(stopped, 0)
	}
	for _, word := range f[3:] {
		step, at, _ := strings.Cut(word, "@")
		s, err := strconv.ParseUint(step, 10, 8)
		unix, err2 := strconv.ParseInt(at, 10, 40)
		if err != nil || err2 != nil || s == 0 || Step(s) >= steps || unix < 0 {
			return bad
		}
		n.taken = append(n.taken, taken{Step(s), time.Unix(unix, 0)})
	}
	*l = n
	return nil
}
