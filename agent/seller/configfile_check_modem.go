package seller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/depinsim/x402/modem"
)

// named puts the line's name before what was found of it.
func (c Config) named(found ...Finding) []Finding {
	if c.Name != "" {
		for i := range found {
			found[i].Text = c.Name + ": " + found[i].Text
		}
	}
	return found
}

// checkModems looks for modems, if there are some to look for, and checks each
// line's.
func checkModems(ctx context.Context, c Config, running *Status) []Finding {
	var found []Finding
	finder := newFinder(c.FindModems)
	if running == nil && needsFinder(c) {
		finder.cfg.Known = nil
		list, err := modem.Find(ctx, finder.cfg)
		if err != nil {
			return []Finding{failed("modem", inWords(err), "")}
		}
		finder.found, finder.looked = list, true
		for _, m := range list {
			text := strings.TrimSpace(m.Maker+" modem at "+m.Path) + ", IMEI " + m.IMEI + ", " + strings.Join(m.Nets, " ")
			if m.Err != nil {
				found = append(found, warning("found", strings.TrimSpace(m.Maker+" modem at "+m.Path)+": "+m.Err.Error(), modemAdvice(m.Err)))
			} else {
				found = append(found, ok("found", text))
			}
		}
		finder.named = namedIMEIs(c)
	}
	for _, l := range c.lines() {
		found = append(found, l.named(checkModem(ctx, l, finder, running)...)...)
	}
	return found
}

// checkModem reads the SIM, or takes what the running agent says of it: a port
// has one user. The PIN is not sent.
func checkModem(ctx context.Context, c Config, finder *finder, running *Status) []Finding {
	if running != nil {
		for _, st := range append(running.SIMs, *running) {
			if st.Modem != nil && st.Name == c.Name {
				return checkRunningModem(*st.Modem, st.Problems)
			}
		}
	}
	if c.Modem == nil {
		return []Finding{ok("modem", "none; the offer names no SIM")}
	}
	cfg := *c.Modem
	cfg.PIN, cfg.PINGuard, cfg.Logger = modem.PIN{}, "", nil
	cfg.SIMWait = checkShortTime
	if c.findsModem() {
		found, _, err := finder.take(c.IMEI)
		if err != nil {
			return []Finding{failed("modem", err.Error(), modemAdvice(err))}
		}
		cfg.Port = found.Port
	}
	m, err := modem.Open(ctx, cfg)
	if err != nil {
		return []Finding{failed("modem", inWords(err), modemAdvice(err))}
	}
	defer m.Close() // it was only read
	id, err := m.Identity(ctx)
	if errors.Is(err, modem.ErrPINRequired) && !c.Modem.PIN.IsZero() {
		return []Finding{ok("modem", cfg.Port+" answers"), ok("sim", "locked; the agent enters its PIN when it starts")}
	}
	if err != nil {
		return []Finding{ok("modem", cfg.Port+" answers"), failed("sim", inWords(err), modemAdvice(err))}
	}
	found := []Finding{
		ok("modem", strings.TrimSpace(id.Maker+" "+id.Model)+" on "+cfg.Port),
		ok("sim", fmt.Sprintf("%v, home network %s-%s", id.IMSI, id.IMSI.MCC(), id.IMSI.MNC())),
	}
	st, err := m.Status(ctx)
	if err != nil {
		return append(found, failed("network", inWords(err), modemAdvice(err)))
	}
	for _, p := range radioProblems(st) {
		found = append(found, warning("network", p.What, p.Do))
	}
	if st.Registration.Registered() {
		found = append(found, ok("network", fmt.Sprintf("%s, %v, %v", st.Operator.Name, st.Technology, st.Registration)))
	}
	return found
}

func checkRunningModem(m ModemStatus, problems []Problem) []Finding {
	if m.Error != "" {
		do := ""
		for _, p := range problems {
			if strings.Contains(p.What, m.Error) {
				do = p.Do
			}
		}
		return []Finding{failed("modem", m.Error, do)}
	}
	return []Finding{
		ok("modem", strings.TrimSpace(m.Maker+" "+m.Model)+" on "+m.Port+", used by the running agent"),
		ok("sim", fmt.Sprintf("%s, home network %s-%s, %s", m.IMSI, m.MCC, m.MNC, m.SIM)),
	}
}
