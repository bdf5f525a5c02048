package seller

import (
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/modem/modemtest"
)

// TestRecovery: a modem without a network is helped, within bounds, until all was
// in vain, which the owner is told; a network that comes back ends it.
func TestRecovery(t *testing.T) {
	watching(t, modemtest.Config{}, "", func(s *Seller, m *modemtest.Modem) {
		time.Sleep(time.Hour)
		if st := s.recoveryStatus(); st.Trouble != "none" || st.Today != 0 || m.Restarts() != 0 {
			t.Fatalf("all is well, and %+v, %d restarts", st, m.Restarts())
		}
		m.Register(0)
		time.Sleep(12 * time.Hour)
		st := s.status()
		if r := st.Recovery; r.Trouble != "on no network" || r.Today < 2 || !r.Stopped {
			t.Errorf("after half a day without a network: %+v", r)
		}
		if n := m.Restarts(); n < 1 || n > 3 {
			t.Errorf("the modem was restarted %d times", n)
		}
		told := false
		for _, p := range st.Problems {
			told = told || strings.Contains(p.What, "did not come back") && p.Do != ""
		}
		if !told {
			t.Errorf("the owner is not told: %+v", st.Problems)
		}
		m.Register(1)
		time.Sleep(time.Hour)
		if st := s.recoveryStatus(); st.Trouble != "none" || st.Stopped {
			t.Errorf("the network is back: %+v", st)
		}
	})
}

// TestRecoveryReports: what only the owner can mend is left alone and reported.
func TestRecoveryReports(t *testing.T) {
	for name, c := range map[string]modemtest.Config{
		"no SIM": {NoSIM: true}, "PUK": {Card: modemtest.Card{PIN: "1234", Tries: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			watching(t, c, "", func(s *Seller, m *modemtest.Modem) {
				time.Sleep(24 * time.Hour)
				if st := s.recoveryStatus(); !st.Reported || st.Today != 0 || m.Restarts() != 0 || m.PINAttempts() != 0 {
					t.Errorf("%+v, %d restarts, %d PINs", st, m.Restarts(), m.PINAttempts())
				}
			})
		})
	}
}
