package seller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/modem"
)

// What takes the modem off its network is done by one goroutine, one after the
// other: rotations, by request and by the clock, changes of its settings, and
// the owner's airplane mode. Flows that begin meanwhile wait at the turnstile.

const (
	changeTime = 6 * time.Minute  // for a setting: AT+COPS=0 alone may take three
	returnTime = 3 * time.Minute  // for a modem that was restarted
	landTime   = 90 * time.Second // for a modem that is to switch its radio on
	lastTime   = 20 * time.Second // likewise, when the agent stops
	lookTick   = 200 * time.Millisecond
)

var (
	errNoModem  = errors.New("there is no modem that could be told")
	errAirplane = errors.New("the radio is off: x402-agent modem airplane off switches it on")
)

// A flight is the time for which the owner has switched the radio off.
type flight struct {
	mu    sync.Mutex
	since time.Time // zero: the radio is on
	until time.Time // zero: until the owner says so
}

func (f *flight) begin(hold time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.since.IsZero() {
		f.since = now
	}
	if f.until = (time.Time{}); hold > 0 {
		f.until = now.Add(hold)
	}
}

func (f *flight) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.since, f.until = time.Time{}, time.Time{}
}

func (f *flight) on() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.since.IsZero()
}

// over is when it ends by itself; nil: it does not.
func (f *flight) over() <-chan time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until.IsZero() {
		return nil
	}
	return time.After(time.Until(f.until))
}

// AirplaneStatus says for how long the radio has been off. All are in seconds.
type AirplaneStatus struct {
	On   bool  `json:"on"`
	For  int64 `json:"for"`
	Left int64 `json:"left,omitempty"` // 0: until the owner says otherwise
}

func (f *flight) status() AirplaneStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := AirplaneStatus{On: !f.since.IsZero()}
	if st.On {
		st.For = int64(time.Since(f.since) / time.Second)
	}
	if !f.until.IsZero() {
		st.Left = max(int64(time.Until(f.until)/time.Second), 1)
	}
	return st
}

// radioLoop does what is asked for, and rotates by the clock.
func (s *Seller) radioLoop(ctx context.Context) error {
	var due <-chan time.Time // never, without a time
	for {
		if every := s.cfg.Rotate.Every; every > 0 {
			due = time.After(every)
		}
		select {
		case <-ctx.Done():
			return nil
		case work := <-s.radio:
			work(ctx)
		case <-s.flight.over():
			if err := s.land(ctx); err != nil {
				s.log.Error("the radio cannot be switched on", "err", err)
			}
		case <-due:
			if !s.flight.on() {
				s.rotate(ctx, 0, "timer")
			}
		}
	}
}

// onRadio has radioLoop do work and waits for what comes of it. When ctx ends
// the work goes on.
func (s *Seller) onRadio(ctx context.Context, work func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case s.radio <- func(ctx context.Context) { done <- work(ctx) }:
	case <-ctx.Done():
		return errStops
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errStops
	}
}

// modemNow is the modem to tell something, or why there is none.
func (s *Seller) modemNow() (*modem.Modem, error) {
	s.sim.mu.Lock()
	defer s.sim.mu.Unlock()
	switch {
	case s.sim.open != nil:
		return s.sim.open, nil
	case s.sim.err != nil:
		return nil, fmt.Errorf("%w: %w", errNoModem, s.sim.err)
	}
	return nil, errNoModem
}

// change has the modem changed in a way that takes it off its network for a
// while. Flows end then, since what they were connected by is gone.
func (s *Seller) change(ctx context.Context, work func(context.Context, *modem.Modem) error) error {
	return s.onRadio(ctx, func(ctx context.Context) error {
		if s.flight.on() {
			return errAirplane
		}
		m, err := s.modemNow()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, changeTime)
		defer cancel()
		s.turnstile.shut()
		defer s.turnstile.reopen()
		if err = work(ctx, m); !errors.Is(err, modem.ErrUnsupported) { // else nothing was done
			s.moved()
		}
		return err
	})
}

// moved acts on the line's having been off its network.
func (s *Seller) moved() {
	s.reach.socket.Moved()
	s.resetFlows()
	s.sim.look()
}

// restart restarts the modem and waits until it has read its SIM again.
func (s *Seller) restart(ctx context.Context) error {
	return s.change(ctx, func(ctx context.Context, m *modem.Modem) error {
		if err := m.Reset(ctx); err != nil {
			return err
		}
		s.log.Warn("the owner restarts the modem")
		back := time.Now()
		s.sim.look()
		return s.awaitSIM(ctx, returnTime, func() bool { return s.sim.readAt.After(back) })
	})
}

// awaitSIM waits until is, which holds the lock of what the modem last said.
func (s *Seller) awaitSIM(ctx context.Context, limit time.Duration, is func() bool) error {
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(lookTick)
	defer tick.Stop()
	for {
		s.sim.mu.Lock()
		there, err := is(), s.sim.err
		s.sim.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end.C:
			if err == nil {
				err = errNoModem
			}
			return fmt.Errorf("the modem has not come back for %v: %w", limit, err)
		}
	}
}

// takeOff switches the radio off for a time; 0 is until it is told otherwise.
// Nothing is sold meanwhile. Buyers are told first, and have a moment to finish
// and pay; if it is not for long they wait, as while the address changes.
func (s *Seller) takeOff(ctx context.Context, hold time.Duration) error {
	if s.flight.on() {
		s.flight.begin(hold)
		return nil
	}
	m, err := s.modemNow()
	if err != nil {
		return err
	}
	s.flight.begin(hold)
	s.republish(ctx)
	if hold == 0 || hold > rotateHoldMax {
		s.sendAway(*s.aloft())
		s.awaitEmpty(ctx)
	}
	s.turnstile.shut()
	if err := m.Airplane(ctx, true); err != nil {
		return errors.Join(err, s.land(ctx))
	}
	s.log.Info("the owner has switched the radio off", "hold", hold)
	return nil
}

// awaitEmpty waits for buyers to leave, within drainTime.
func (s *Seller) awaitEmpty(ctx context.Context) {
	end := time.NewTimer(drainTime)
	defer end.Stop()
	tick := time.NewTicker(lookTick)
	defer tick.Stop()
	for s.anybody() {
		select {
		case <-tick.C:
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// land switches the radio on, and sells again whatever comes of that: a modem
// that does not obey is one to be brought back.
func (s *Seller) land(ctx context.Context) error {
	var m *modem.Modem
	err := s.awaitSIM(ctx, landTime, func() bool {
		m = s.sim.open
		return m != nil
	})
	if err == nil {
		err = m.Airplane(ctx, false)
	}
	if !s.flight.on() {
		return err
	}
	s.flight.end()
	s.moved()
	if s.turnstile.isShut() {
		s.turnstile.reopen()
	}
	s.republish(ctx)
	if err == nil {
		s.log.Info("the radio is on")
	}
	return err
}

// landAtLast leaves no modem behind that is off: there is nobody then who
// switches it on.
func (s *Seller) landAtLast(ctx context.Context) {
	if !s.flight.on() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastTime)
	defer cancel()
	cfg, leave, err := s.locate()
	if err == nil {
		defer leave()
		var m *modem.Modem
		if m, err = modem.Open(ctx, cfg); err == nil {
			err = errors.Join(m.Airplane(ctx, false), m.Close())
		}
	}
	if err != nil {
		s.log.Error("the radio cannot be switched on", "err", err)
	}
	s.flight.end()
	s.turnstile.reopen()
}

// republish publishes the offer, or withdraws it, as is due now.
func (s *Seller) republish(ctx context.Context) {
	if err := s.publish(ctx); err != nil {
		s.log.Error("publish the offer", "err", err)
	}
}

// aloft is why nothing is sold while the radio is off.
func (s *Seller) aloft() *agent.Notice {
	if !s.flight.on() {
		return nil
	}
	return &agent.Notice{Code: agent.NoticePaused, Text: "the agent's owner has switched its radio off"}
}
