package seller

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/depinsim/x402/modem"
)

// A RecoveryPolicy says by what means a modem that carries no traffic is brought
// back.
type RecoveryPolicy struct {
	Off   bool // it is left as it is
	Power modem.Power
}

// recoveryFile of the line's folder keeps what was done to the modem.
const recoveryFile = "recovery"

// RecoveryStatus is how far the modem's recovery is.
type RecoveryStatus struct {
	Trouble string `json:"trouble"` // "none" while all is well
	Today   int    `json:"today"`   // steps in the last 24 hours
	Stopped bool   `json:"stopped"` // all steps were in vain; nothing is done for a day
	// Reported says that no step would help: it is the owner's to look after.
	Reported bool `json:"reported"`
}

func openRecovery(c Config) (*modem.Recovery, error) {
	if c.Modem == nil || c.Recovery.Off || c.Retired {
		return nil, nil
	}
	return modem.NewRecovery(modem.RecoveryConfig{
		Root: c.FindModems.Root, Power: c.Recovery.Power, File: filepath.Join(c.StateDir, recoveryFile),
	})
}

// heal tells the recovery how the modem is, which may take a step: up to five
// minutes. m is nil while the modem could not be opened. It is watchSIM's.
func (s *Seller) heal(ctx context.Context, m *modem.Modem, st modem.Status, err error) {
	if s.recovery == nil || s.turnstile.isShut() || errors.Is(err, errLooking) {
		return // a rotation looks like a trouble
	}
	s.sim.mu.Lock()
	found, before := s.sim.found, s.sim.verdict
	s.sim.mu.Unlock()
	v, serr := s.recovery.Attend(ctx, m, found, modem.TroubleOf(st, err))
	if ctx.Err() != nil {
		return
	}
	s.sim.mu.Lock()
	s.sim.verdict = v
	s.sim.mu.Unlock()
	switch {
	case v.Step != modem.NoStep:
		s.log.Warn("a step to bring the modem back", "modem", v, "err", serr)
	case serr != nil:
		s.log.Error("modem recovery", "modem", v, "err", serr)
	case v.Stopped && !before.Stopped:
		s.log.Error("the modem did not come back by any step", "modem", v)
	case v.Reported && !before.Reported:
		s.log.Error("the modem is its owner's to look after", "modem", v)
	case v.Trouble == modem.NoTrouble && before.Trouble != modem.NoTrouble && before.Today > 0:
		s.log.Info("the modem is back", "modem", v)
	}
}

// recoveryStatus is nil where nothing is done.
func (s *Seller) recoveryStatus() *RecoveryStatus {
	if s.recovery == nil {
		return nil
	}
	s.sim.mu.Lock()
	defer s.sim.mu.Unlock()
	v := s.sim.verdict
	return &RecoveryStatus{v.Trouble.String(), v.Today, v.Stopped, v.Reported}
}
