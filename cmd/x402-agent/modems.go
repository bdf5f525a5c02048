package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/depinsim/x402/modem"
)

// A modemLine is one modem of this machine.
type modemLine struct {
	Name     string   `json:"name"` // the IMEI, else the path
	Path     string   `json:"path"` // where it is plugged in
	ID       string   `json:"id"`   // vendor:product
	Maker    string   `json:"maker,omitempty"`
	Port     string   `json:"port,omitempty"` // for modem.port in the config file
	Networks []string `json:"networks"`
	Through  string   `json:"through"` // "at", "agent" (a running one), "modemmanager" or "nothing"
	State    string   `json:"state,omitempty"`
	Problem  string   `json:"problem,omitempty"`
	Do       string   `json:"do,omitempty"`
}

// A managedModem is what ModemManager says of one.
type managedModem struct{ imei, state string }

// Ways to a modem.
const (
	throughAT      = "at"
	throughAgent   = "agent"
	throughManager = "modemmanager"
	throughNothing = "nothing"
)

// agentName is the name of the agent's process.
const agentName = "x402-agent"

func (p program) modems(ctx context.Context, f *flags, args []string) error {
	asJSON := f.Bool("json", false, "")
	if err := f.parse(args); err != nil {
		return err
	}
	found, err := modem.Find(ctx, modem.FindConfig{})
	if err != nil {
		return err
	}
	lines := make([]modemLine, 0, len(found))
	for _, m := range found {
		lines = append(lines, lineOf(m))
	}
	if err := askManager(ctx, lines); err != nil {
		return err
	}
	if *asJSON {
		return p.printJSON(lines)
	}
	_, err = io.WriteString(p.out, renderModems(lines))
	return err
}

func lineOf(m modem.Found) modemLine {
	l := modemLine{Name: m.Name(), Path: m.Path, ID: m.ID, Maker: m.Maker, Port: m.Port, Networks: m.Nets, Through: throughAT}
	if l.Networks == nil {
		l.Networks = []string{}
	}
	if m.Err == nil {
		return l
	}
	l.Through, l.Problem = throughNothing, m.Err.Error()
	held, isHeld := errors.AsType[modem.HeldError](m.Err)
	switch {
	case isHeld && held.Holder.Name == agentName:
		l.Through, l.Port, l.Problem = throughAgent, held.Port, ""
	case isHeld:
		l.Do = held.Hint(asksModemManager)
		if held.ModemManager() && asksModemManager {
			l.Through = throughManager
		}
	case errors.Is(m.Err, modem.ErrUnauthorized):
		l.Do = "echo 1 > /sys/bus/usb/devices/" + m.Path + "/authorized"
	case errors.Is(m.Err, modem.ErrTimeout):
		l.Do = "wait half a minute if it was just plugged in, else unplug it and plug it in again"
	}
	return l
}

// askManager fills in what ModemManager knows of the modems that it has.
func askManager(ctx context.Context, lines []modemLine) error {
	var managed map[string]managedModem
	for i := range lines {
		l := &lines[i]
		if l.Through != throughManager {
			continue
		}
		if managed == nil {
			var err error
			if managed, err = modemManager(ctx); err != nil {
				return err
			}
		}
		m, known := managed[l.Path]
		if !known {
			l.Through, l.Problem, l.Do = throughNothing, "ModemManager has its port and does not list it", "wait until ModemManager has looked at it: mmcli -L"
			continue
		}
		l.State, l.Problem, l.Do = m.state, "", ""
		if m.imei != "" {
			l.Name = m.imei
		}
	}
	return nil
}

func renderModems(lines []modemLine) string {
	if len(lines) == 0 {
		return "no modem: what is plugged in is not one of the makers' that are known, or has no driver\n"
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MODEM\tWHERE\tMAKER\tPORT\tNETWORK")
	for _, l := range lines {
		port := l.Port
		switch {
		case l.Through == throughManager:
			port = "by ModemManager, " + l.State
		case l.Through == throughAgent:
			port += " (the agent's)"
		case port == "":
			port = "-"
		}
		networks := strings.Join(l.Networks, " ")
		if networks == "" {
			networks = "-"
		}
		maker := l.Maker
		if maker == "" {
			maker = l.ID
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", printable(l.Name), l.Path, maker, printable(port), networks)
	}
	t.Flush() // to memory
	for _, l := range lines {
		if l.Problem != "" {
			fmt.Fprintf(&b, "\n%s: %s\n", printable(l.Name), printable(l.Problem))
		}
		if l.Do != "" {
			fmt.Fprintf(&b, "    do: %s\n", l.Do)
		}
	}
	return b.String()
}
