package modem

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A SIMState is what the card wants.
//
//	Absent ──insert──→ Busy ──→ PIN ──right PIN──→ Ready
//	                    │        └──three wrong──→ PUK
//	                    └──no PIN set──→ Ready
type SIMState uint8

// The states of a SIM.
const (
	SIMUnknown SIMState = iota // the modem does not say
	SIMAbsent
	SIMBusy
	SIMPIN
	SIMPUK
	SIMLocked // to another device or network
	SIMFailed // the card does not work, or not yet
	SIMReady
)

func (s SIMState) String() string {
	switch s {
	case SIMAbsent:
		return "absent"
	case SIMBusy:
		return "busy"
	case SIMPIN:
		return "wants PIN"
	case SIMPUK:
		return "wants PUK"
	case SIMLocked:
		return "locked to another device or network"
	case SIMFailed:
		return "failed"
	case SIMReady:
		return "ready"
	}
	return "unknown"
}

// pollTime is how often a card that is not ready is asked again.
const pollTime = time.Second

// simState asks for the state. What a modem refuses to say is SIMUnknown with
// the refusal as cause; errors are those that end the whole call.
func (m *Modem) simState(ctx context.Context) (state SIMState, cause, err error) {
	err = m.ask(ctx, "+CPIN?", func(lines []string) (ok bool) {
		state, ok = parseCPIN(lines)
		return ok
	})
	if err != nil && !soft(err) {
		return SIMUnknown, nil, err
	}
	cme, isCME := errors.AsType[CMEError](err)
	switch {
	case err == nil:
	case errors.Is(err, ErrNoSIM):
		state = SIMAbsent
	case errors.Is(err, ErrSIMBusy):
		state = SIMBusy
	case errors.Is(err, ErrPINRequired):
		state = SIMPIN
	case errors.Is(err, ErrPUKRequired):
		state = SIMPUK
	case isCME && cme.Code == cmeFailure:
		state = SIMFailed
	default:
		state = SIMUnknown
	}
	if now := state == SIMReady; now != m.ready {
		m.ready = now
		clear(m.skip) // a card that is not ready makes modems refuse what they know
	}
	return state, err, nil
}

// waitReady waits until the card is ready, which includes entering its PIN. A
// card that is still starting is asked again for Config.SIMWait; some modems
// report a failure meanwhile.
func (m *Modem) waitReady(ctx context.Context) error {
	for end := time.Now().Add(m.cfg.SIMWait); ; {
		state, cause, err := m.simState(ctx)
		switch {
		case err != nil:
			return err
		case state == SIMReady:
			return m.confirmPIN()
		case state == SIMAbsent:
			return ErrNoSIM
		case state == SIMPUK:
			return ErrPUKRequired
		case state == SIMLocked:
			return errors.New("SIM " + state.String())
		case state == SIMPIN:
			return m.enterPIN(ctx)
		case time.Now().Before(end):
		case state == SIMBusy || cause == nil:
			return fmt.Errorf("%w for %v", ErrSIMBusy, m.cfg.SIMWait)
		default:
			return cause
		}
		if err := m.pause(ctx, pollTime); err != nil {
			return err
		}
	}
}

// enterPIN sends the PIN if that is safe. A card blocks after three wrong ones,
// so a PIN that it may have refused is not sent a second time, ever: that it is
// about to be sent is on disk before it is. When the card is ready afterwards
// the record says that the PIN was right, and the next boot may send it again.
//
// Nor is it sent with fewer than two tries left. Where the modem cannot tell
// how many there are, a PIN that this card never got is sent once.
func (m *Modem) enterPIN(ctx context.Context) error {
	if m.cfg.PIN.IsZero() {
		return ErrPINRequired
	}
	iccid, err := m.readICCID(ctx)
	if err != nil {
		return err
	}
	if iccid == "" {
		return fmt.Errorf("%w: not sent, since the modem does not say which card this is while it is locked", ErrPINRequired)
	}
	left, known, err := m.triesLeft(ctx)
	if err != nil {
		return err
	}
	if known && left < 2 {
		return fmt.Errorf("%w: not sent, tries left: %d", ErrPINRequired, left)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.link == nil { // so that what is recorded is also sent
		if err := m.reconnect(ctx); err != nil {
			return err
		}
	}
	if err := m.guard().sending(iccid, m.cfg.PIN); err != nil {
		return err
	}
	// From here to the confirmation the caller's patience does not count: half
	// of it would leave a right PIN on record as one that may be wrong.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.SIMWait+3*m.cfg.Timeout)
	defer cancel()
	_, sent := m.command(ctx, `+CPIN="`+*m.cfg.PIN.digits+`"`)
	if sent != nil && !soft(sent) && !errors.Is(sent, ErrTimeout) {
		return sent
	}
	m.unconfirmed = iccid
	return m.awaitUnlock(ctx, sent)
}

func (m *Modem) guard() pinGuard { return pinGuard{path: m.cfg.PINGuard} }

// confirmPIN records that the card was seen open after its PIN was sent, also
// when that took longer than the call that sent it. While that fails so does
// every call: after the next boot the PIN would not be sent.
func (m *Modem) confirmPIN() error {
	if m.unconfirmed == "" {
		return nil
	}
	if err := m.guard().accepted(m.unconfirmed, m.cfg.PIN); err != nil {
		return err
	}
	m.unconfirmed = ""
	return nil
}

// refusePIN forgets that there was something to confirm.
func (m *Modem) refusePIN(err error) error {
	m.unconfirmed = ""
	return err
}

// awaitUnlock waits for the card to open after its PIN was sent. The state
// decides, not the final line of the command, which may be somebody else's. A
// refused PIN shows at once; after an OK the card may take a while.
func (m *Modem) awaitUnlock(ctx context.Context, sent error) error {
	wait := m.cfg.SIMWait
	if soft(sent) {
		wait = 2 * pollTime
	}
	for end := time.Now().Add(wait); ; {
		state, _, err := m.simState(ctx)
		switch {
		case err != nil:
			return err
		case state == SIMReady:
			return m.confirmPIN()
		case state == SIMPUK:
			return m.refusePIN(ErrPUKRequired)
		case state == SIMPIN && errors.Is(sent, ErrPINRefused):
			return m.refusePIN(ErrPINRefused)
		case time.Now().Before(end):
		case state == SIMPIN:
			return m.refusePIN(ErrPINRefused)
		case state == SIMAbsent:
			return ErrNoSIM
		default:
			return fmt.Errorf("%w for %v after the PIN", ErrSIMBusy, wait)
		}
		if err := m.pause(ctx, pollTime); err != nil {
			return err
		}
	}
}

// triesLeft asks how often the PIN may still be tried, in the modem's dialect
// first.
func (m *Modem) triesLeft(ctx context.Context) (left int, known bool, err error) {
	for _, cmd := range []string{m.device.dialect().tries, "+CPINR"} {
		if cmd == "" {
			continue
		}
		known, err = m.try(ctx, cmd, func(lines []string) (ok bool) {
			left, ok = parseTries(lines)
			return ok
		})
		if known || err != nil {
			break
		}
	}
	return left, known, err
}
