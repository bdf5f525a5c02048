package seller

import (
	"os"
	"slices"
	"time"
)

// status is that of the line with a name, or of all: with one line it is the
// line's.
func (h *hub) status(name string) (Status, error) {
	lines, err := h.named(name)
	if err != nil {
		return Status{}, err
	}
	if name != "" || h.single() {
		return lines[0].report(), nil
	}
	all := Status{
		Refusing: "no SIM sells", PID: os.Getpid(), Uptime: int64(time.Since(h.started) / time.Second),
		Network: h.cfg.Payment.Network, PayTo: h.cfg.Payment.PayTo,
		Problems: []Problem{}, SIMs: []Status{}, Sessions: sessionsOf(lines), Earnings: earningsOf(lines),
	}
	for _, l := range lines {
		st := l.report()
		if st.Refusing == "" {
			all.Refusing = ""
		}
		for _, p := range st.Problems {
			all.Problems = append(all.Problems, Problem{st.Name + ": " + p.What, p.Do})
		}
		all.FlashWrites.Syncs += st.FlashWrites.Syncs
		all.FlashWrites.Bytes += st.FlashWrites.Bytes
		all.Rotation.Changed += st.Rotation.Changed
		all.Rotation.Failed += st.Rotation.Failed
		all.SIMs = append(all.SIMs, st)
	}
	if h.cfg.EveryModem {
		all.Problems = append(all.Problems, h.finder.problems()...)
	}
	return all, nil
}

// problems are modems that no line can have.
func (f *finder) problems() []Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []Problem
	for _, m := range f.found {
		if m.IMEI == "" && m.Err != nil {
			found = append(found, Problem{"a modem is not sold: " + m.Path + ": " + m.Err.Error(), modemAdvice(m.Err)})
		}
	}
	return found
}

// report is the line's status, and why it does not run.
func (l *line) report() Status {
	st := l.status()
	if err := l.failure(); err != nil {
		st.Refusing = err.Error()
		st.Problems = slices.Insert(st.Problems, 0, Problem{err.Error(), "it is tried again by itself"})
	}
	return st
}

func sessionsOf(lines []*line) []SessionStatus {
	all := []SessionStatus{}
	for _, l := range lines {
		all = append(all, l.sessionViews()...)
	}
	return all
}

func earningsOf(lines []*line) Earnings {
	all := Earnings{Channels: []ChannelEarnings{}}
	for _, l := range lines {
		e := l.earnings()
		all.Channels = append(all.Channels, e.Channels...)
		all.Up += e.Up
		all.Down += e.Down
		all.Owed += e.Owed
		all.Paid += e.Paid
		all.Claimed += e.Claimed
		all.Watched += e.Watched
		all.Lost += e.Lost
	}
	return all
}
