package modem

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Each operation below changes something on the modem, has its own limit of
// time, and looks whether it came about. Other calls wait meanwhile.

const (
	radioTime    = 30 * time.Second  // for AT+CFUN
	settingTime  = 15 * time.Second  // until a setting shows
	registerTime = 90 * time.Second  // for a network to be found
	copsTime     = 180 * time.Second // for AT+COPS=0, by the makers' own word
	addressTime  = 20 * time.Second  // for an address after that
	restartTime  = 60 * time.Second  // for a modem to vanish or come back
)

// Radio says whether the radio is on; it is not in airplane mode.
func (m *Modem) Radio(ctx context.Context) (on bool, err error) {
	err = m.do(ctx, func() (err error) {
		on, err = m.readRadio(ctx)
		return err
	})
	return err == nil && on, err
}

func (m *Modem) readRadio(ctx context.Context) (on bool, err error) {
	err = m.ask(ctx, "+CFUN?", func(lines []string) bool {
		level, ok := parseCFUN(lines)
		on = level == fullRadio
		return ok
	})
	return on, err
}

// fullRadio is the level of AT+CFUN at which a modem sends and receives (3GPP
// TS 27.007 clause 8.2).
const fullRadio = 1

// parseCFUN reads "+CFUN: level", which some modems follow by another number.
func parseCFUN(lines []string) (level int, ok bool) {
	for _, line := range lines {
		if rest, is := after(line, "+CFUN"); is {
			if n := number(fields(rest)[0]); n >= 0 && n < 256 {
				level, ok = n, true
			}
		}
	}
	return level, ok
}

// Airplane switches the radio off, or on again. It returns when the modem says
// that it is so.
func (m *Modem) Airplane(ctx context.Context, off bool) error {
	return m.do(ctx, func() error { return m.setRadio(ctx, !off) })
}

// setRadio prefers level 4 to 0 for off: some chips write to their flash at 0,
// and a few take the card's power away.
func (m *Modem) setRadio(ctx context.Context, on bool) error {
	op, levels := "airplane mode on", []string{"+CFUN=4", "+CFUN=0"}
	if on {
		op, levels = "airplane mode off", []string{"+CFUN=1"}
	}
	var err error
	for _, cmd := range levels {
		if _, err = m.commandFor(ctx, cmd, radioTime); err == nil || !soft(err) {
			break
		}
	}
	if err != nil && !errors.Is(err, errRefused) { // a bare ERROR may be a stray one: the state decides
		return err
	}
	refused := err
	words := map[bool]string{true: "radio on", false: "radio off"}
	err = m.verify(ctx, settingTime, UnverifiedError{op, words[on], words[!on]}, func() (bool, error) {
		now, err := m.readRadio(ctx)
		return now == on, err
	})
	if err != nil && refused != nil {
		return refused
	}
	return err
}

// verify looks once a second until seen says yes, and returns otherwise after
// limit. Errors about one question are those of a modem that is busy.
func (m *Modem) verify(ctx context.Context, limit time.Duration, otherwise error, seen func() (bool, error)) error {
	for end := time.Now().Add(limit); ; {
		ok, err := seen()
		switch {
		case err != nil && !soft(err):
			return err
		case err == nil && ok:
			return nil
		case !time.Now().Before(end):
			return otherwise
		}
		if err := m.pause(ctx, pollTime); err != nil {
			return err
		}
	}
}

// Register has the modem look for a network by itself, which also ends a stay
// off all networks, and waits until it is registered.
func (m *Modem) Register(ctx context.Context) error {
	return m.do(ctx, func() error {
		if _, err := m.commandFor(ctx, "+COPS=0", copsTime); err != nil && !errors.Is(err, errRefused) {
			return err
		}
		_, err := m.awaitRegistration(ctx, "register")
		return err
	})
}

// awaitRegistration waits for a network that carries traffic.
func (m *Modem) awaitRegistration(ctx context.Context, op string) (last Registration, err error) {
	for end := time.Now().Add(registerTime); ; {
		if last, _, err = m.readRegistration(ctx); err != nil && !soft(err) || last.Registered() {
			return last, err
		}
		if !time.Now().Before(end) {
			return last, UnverifiedError{op, "registered", last.String()}
		}
		if err := m.pause(ctx, pollTime); err != nil {
			return last, err
		}
	}
}

// A Rotation is what giving the address back came to. The addresses are those
// of the modem's own connections, behind the carrier's translation: whether the
// public one changed has to be looked at from outside.
type Rotation struct {
	Before, After []netip.Addr
	Registration  Registration
	Away          time.Duration // off the network, by request
	Back          time.Duration // from there to being served again
}

// HoldTime is how long Rotate stays away if it is not told: shorter, networks
// tend to give the same address.
const HoldTime = 4 * time.Second

// Rotate gives the address back: it leaves the network, stays away for hold
// (HoldTime when zero), comes back and waits until it is served again. Once it
// has left it comes back whatever happens, also when ctx ends: that takes up to
// two minutes more, which the caller does not see.
func (m *Modem) Rotate(ctx context.Context, hold time.Duration) (Rotation, error) {
	if hold <= 0 {
		hold = HoldTime
	}
	var r Rotation
	err := m.do(ctx, func() (err error) {
		r, err = m.rotate(ctx, hold)
		return err
	})
	if err != nil && ctx.Err() != nil {
		return Rotation{}, err // r may still be the owner's
	}
	return r, err
}

func (m *Modem) rotate(ctx context.Context, hold time.Duration) (r Rotation, err error) {
	if r.Before, err = m.readAddresses(ctx); err != nil {
		return r, err
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), radioTime+settingTime+registerTime+addressTime)
	defer cancel()
	off := m.setRadio(ctx, false)
	left := time.Now()
	if off == nil {
		off = m.pause(ctx, hold)
	}
	r.Away = time.Since(left)
	returned := time.Now()
	if err := m.setRadio(back, true); off != nil || err != nil {
		m.lastWord("+CFUN=1")
		return r, errors.Join(off, err)
	}
	if r.Registration, err = m.awaitRegistration(back, "rotate"); err != nil {
		return r, err
	}
	r.Back = time.Since(returned)
	if len(r.Before) == 0 {
		return r, nil // another port has the connection, or nobody yet
	}
	err = m.verify(back, addressTime, UnverifiedError{"rotate", "an address", "none"}, func() (bool, error) {
		r.After, err = m.readAddresses(back)
		return len(r.After) > 0, err
	})
	r.Back = time.Since(returned)
	return r, err
}

// lastWord sends a command that the modem must not be left without, when the
// Modem is being closed.
func (m *Modem) lastWord(cmd string) {
	select {
	case <-m.stop:
		if m.link != nil {
			_, _ = m.link.exec(nil, cmd, closeTime) // there is nobody left to tell
		}
	default:
	}
}

// readAddresses are those of all connections, none where the modem does not say.
func (m *Modem) readAddresses(ctx context.Context) (addresses []netip.Addr, err error) {
	_, err = m.try(ctx, "+CGPADDR", func(lines []string) bool {
		addresses = parseCGPADDR(lines)
		return true
	})
	return addresses, err
}

// parseCGPADDR reads "+CGPADDR: cid[,address[,address]]" (3GPP TS 27.007 clause
// 10.1.14). An IPv6 address may be written as sixteen decimal numbers.
func parseCGPADDR(lines []string) (addresses []netip.Addr) {
	for _, line := range lines {
		rest, is := after(line, "+CGPADDR")
		if !is {
			continue
		}
		for _, f := range fields(rest)[1:] {
			a, ok := parseAddress(f)
			if ok && !a.IsUnspecified() && !slices.Contains(addresses, a) && len(addresses) < 32 {
				addresses = append(addresses, a)
			}
		}
	}
	return addresses
}

func parseAddress(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.WithZone(""), true
	}
	parts := strings.Split(s, ".")
	if len(parts) != 16 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, part := range parts {
		n := number(part)
		if n < 0 || n > 255 {
			return netip.Addr{}, false
		}
		b[i] = byte(n)
	}
	return netip.AddrFrom16(b), true
}

// Reset restarts the modem by its maker's command. It returns nil when the
// modem was seen to restart: mostly its port vanishes, Done is closed then, and
// half a minute later another port is there.
func (m *Modem) Reset(ctx context.Context) error {
	return m.do(ctx, func() error { return m.reset(ctx) })
}

func (m *Modem) reset(ctx context.Context) error {
	if err := m.readDevice(ctx); err != nil {
		return err
	}
	var err error
	for _, cmd := range append(slices.Clone(m.device.dialect().reset), "+CFUN=1,1") {
		if _, err = m.commandFor(ctx, cmd, radioTime); err == nil || !soft(err) {
			break
		}
	}
	switch {
	case m.gone, errors.Is(err, ErrGone):
		m.gone = true
		return nil
	case err != nil && !errors.Is(err, ErrTimeout):
		return err
	}
	return m.awaitRestart(ctx)
}

// awaitRestart waits until the port vanishes, or the modem has been silent, or
// has lost the setting that every link begins with.
func (m *Modem) awaitRestart(ctx context.Context) error {
	for end := time.Now().Add(restartTime); time.Now().Before(end); {
		if m.link == nil { // it was silent: is it back?
			err := m.connect(ctx)
			switch {
			case err == nil:
				return nil
			case ctx.Err() != nil:
				return ctx.Err()
			case !errors.Is(err, ErrTimeout):
				m.gone = true
				return nil
			}
			continue
		}
		lines, err := m.link.exec(m.stop, "+CMEE?", probeTime)
		level, ok := parseDigits(lines, "+CMEE", 1, 1)
		switch {
		case errors.Is(err, ErrGone):
			m.gone = true
			return nil
		case errors.Is(err, ErrTimeout):
			m.drop()
			continue
		case err == nil && ok && level != "1":
			return m.check(ctx)
		}
		if err := m.pause(ctx, pollTime); err != nil {
			return err
		}
	}
	return UnverifiedError{"reset", "a restart", "nothing of it"}
}
