package seller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"github.com/depinsim/x402/modem"
)

// A Problem is something that the owner should look at.
type Problem struct {
	What string `json:"what"`
	Do   string `json:"do,omitempty"` // what to do about it first
}

// weakRSRP is the power, in dBm, below which LTE and 5G lose much of their
// rate; weakRSSI is about the same for what does not measure RSRP.
const (
	weakRSRP = -115
	weakRSSI = -105
)

// command is how the owner tells the running agent something of this line.
func (s *Seller) command(words string) string {
	words = "x402-agent " + words
	if s.cfg.Name != "" {
		words += " --sim " + s.cfg.Name
	}
	return words
}

// problems looks through a status for what the owner should know, the worst
// first.
func (s *Seller) problems(st Status) []Problem {
	found := []Problem{}
	add := func(what, do string) { found = append(found, Problem{what, do}) }
	s.sim.mu.Lock()
	simErr, sim, read := s.sim.err, s.sim.status, !s.sim.readAt.IsZero()
	s.sim.mu.Unlock()
	s.mu.Lock()
	unsettled, addr := s.unsettled, s.addr
	s.mu.Unlock()
	switch {
	case s.flight.on():
		add("you have switched the radio off, and nothing is sold", s.command("modem airplane off"))
	case simErr != nil:
		add(simErr.Error(), modemAdvice(simErr))
	case s.sim.withheld():
		add(fmt.Sprintf("another SIM is in the modem, of %s-%s, and it is not sold", st.Modem.MCC, st.Modem.MNC),
			"if its plan allows it: "+s.command("sim accept")+"; else put the former one back, which is then sold by itself")
	case st.Refusing != "":
		if found = s.planProblems(); len(found) == 0 {
			add(st.Refusing, "")
		}
	default:
		found = append(found, s.planProblems()...)
	}
	if st.Recovery != nil && st.Recovery.Stopped {
		add(fmt.Sprintf("the modem (%s) did not come back by %d steps; it is tried again in a day", st.Recovery.Trouble, st.Recovery.Today), "take its power away and give it back; set [recovery] so that the agent can")
	}
	if read && simErr == nil && !s.flight.on() {
		found = append(found, radioProblems(sim)...)
	}
	if s.way != nil && st.Interface == "" && simErr == nil && !s.cfg.Retired {
		add(fmt.Sprintf("the network interface %s is not there", s.way.name()), "connect the modem's network, or set policy.interface in the config file")
	}
	if udp, ok := addr.(*net.UDPAddr); ok && len(s.cfg.Endpoints) == 0 && len(s.cfg.Relays) == 0 && udp.IP.IsUnspecified() {
		add(fmt.Sprintf("the offer names %s, which buyers cannot reach", addr), "set endpoints or relays in the config file")
	}
	for _, r := range st.Relays {
		if !r.Connected && r.Error != "" {
			add(fmt.Sprintf("no connection to the relay %s: %s", r.Relay, r.Error), "nothing to do if it passes; else check the relay's name in the config file, and ask its operator")
		}
	}
	if unsettled != nil {
		add("the last settlement failed: "+unsettled.Error(), "nothing is lost: it is tried again; if it stays so, ask who runs the facilitator")
	}
	waiting := 0
	for _, v := range st.Sessions {
		if v.Blocked {
			waiting++
		}
	}
	if waiting > 0 {
		add(fmt.Sprintf("%d of %d buyers wait until they have paid or their deposit is topped up", waiting, len(st.Sessions)), "")
	}
	return found
}

// radioProblems is what is wrong with a modem that answers.
func radioProblems(st modem.Status) []Problem {
	switch r := st.Registration; {
	case st.SIM != modem.SIMReady:
		return []Problem{{"SIM: " + st.SIM.String(), simAdvice(st.SIM)}}
	case r == modem.Denied:
		return []Problem{{"the network refuses this SIM", "ask the carrier whether the SIM is active and paid for"}}
	case r == modem.Searching:
		return []Problem{{"the modem is looking for a network", "check the antennas; move the modem to a window"}}
	case !r.Registered():
		return []Problem{{"the modem is on no network: " + r.String(), "check the antennas, and whether the SIM is active"}}
	}
	var found []Problem
	if s := st.Signal; s.RSRP != 0 && s.RSRP < weakRSRP || s.RSRP == 0 && s.RSSI != 0 && s.RSSI < weakRSSI {
		found = append(found, Problem{"the signal is weak", "move the modem to a window, or connect an outside antenna"})
	}
	if st.Roaming {
		found = append(found, Problem{"the SIM is roaming", "ask the carrier what roaming costs before you sell it"})
	}
	return found
}

func simAdvice(s modem.SIMState) string {
	switch s {
	case modem.SIMAbsent:
		return "insert the SIM, contacts first, and start the modem again"
	case modem.SIMPIN:
		return "set modem.pin in the config file"
	case modem.SIMPUK:
		return "unlock the SIM in a phone, with the PUK on its letter"
	case modem.SIMLocked:
		return "use a SIM that is not tied to another device or network"
	case modem.SIMFailed:
		return "try the SIM in a phone"
	}
	return ""
}

// modemAdvice is what to do about an error of the modem, "" if we do not know.
func modemAdvice(err error) string {
	if _, held := errors.AsType[modem.HeldError](err); held {
		err = syscall.EBUSY
	}
	switch {
	case errors.Is(err, modem.ErrNoSIM):
		return simAdvice(modem.SIMAbsent)
	case errors.Is(err, modem.ErrPINRequired):
		return simAdvice(modem.SIMPIN)
	case errors.Is(err, modem.ErrPUKRequired):
		return simAdvice(modem.SIMPUK)
	case errors.Is(err, modem.ErrPINRefused):
		return "the PIN is wrong and is not sent again: set the right one as modem.pin"
	case errors.Is(err, fs.ErrPermission):
		return "add the agent's user to the group of the port: usermod -aG dialout USER"
	case errors.Is(err, syscall.EBUSY):
		return "stop what else uses the port, such as ModemManager"
	case errors.Is(err, modem.ErrNoModem):
		return "plug the modem in; it is used as soon as it is there"
	case errors.Is(err, modem.ErrNoPort):
		return "set modem.port to 'none' and policy.interface to the modem's: such a modem sells without naming its SIM"
	case errors.Is(err, fs.ErrNotExist):
		return "plug the modem in, or set modem.port: `x402-agent modems` lists ports"
	case errors.Is(err, modem.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return "try the modem's other ports (it has several), and stop ModemManager"
	}
	return ""
}
