package seller

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/modem"
)

// A simWatch holds what the modem last said.
type simWatch struct {
	mu       sync.Mutex
	wanted   bool // there is a modem to ask
	identity modem.Identity
	status   modem.Status
	readAt   time.Time // when status was read; zero: never
	err      error     // of the last try, nil after a success
}

const (
	simEvery    = time.Minute     // between two looks at the radio: polling can wedge a modem
	simRetryMin = 2 * time.Second // after a failure
	simRetryMax = time.Minute
	simGrace    = 2 * time.Minute // how long a lost modem is sold on
)

// watchSIM keeps the SIM's state up to date until ctx ends. A modem that is
// lost is looked for again, for ever.
func (s *Seller) watchSIM(ctx context.Context) error {
	if s.cfg.Modem == nil {
		s.serves()
		return nil
	}
	retry := simRetryMin
	for {
		read, err := s.readSIM(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if read {
			retry = simRetryMin
		}
		if s.sim.failed(err) {
			s.log.Warn("modem", "port", s.cfg.Modem.Port, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry + rand.N(retry/4)):
		}
		retry = min(2*retry, simRetryMax)
	}
}

// readSIM opens the modem and follows it until it fails. It reports whether
// anything was read.
func (s *Seller) readSIM(ctx context.Context) (read bool, err error) {
	m, err := modem.Open(ctx, *s.cfg.Modem)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	for {
		id, err := m.Identity(ctx) // each time: a card can be changed while the modem stays
		if err != nil {
			return read, err
		}
		status, err := m.Status(ctx)
		if err != nil {
			return read, err
		}
		read = true
		s.useSIM(s.fingerprint(id))
		if s.sim.take(id, status) {
			s.log.Info("SIM", "state", status.SIM, "mcc", id.IMSI.MCC(), "mnc", id.IMSI.MNC(),
				"operator", status.Operator.Name, "technology", status.Technology, "roaming", status.Roaming)
			if err := s.publish(ctx); err != nil {
				s.log.Error("publish the offer", "err", err)
			}
		}
		s.serves()
		select {
		case <-ctx.Done():
			return read, nil
		case <-m.Done():
			return read, modem.ErrGone
		case <-time.After(simEvery):
		}
	}
}

// noSIM is the fingerprint where no modem says which SIM is in.
const noSIM = "none"

// fingerprint is a text that is a SIM's own, to keep its plan by: a keyed hash
// of its numbers, which outsiders cannot try out.
func (s *Seller) fingerprint(id modem.Identity) string {
	key := s.key.Derive("x402 plan v1")
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(id.ICCID + "\n" + id.IMSI.Digits()))
	return hex.EncodeToString(mac.Sum(nil))
}

// roams says whether the SIM was abroad when it was last read.
func (w *simWatch) roams() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status.Roaming
}

// take stores what was read and reports whether the offer changes by it.
func (w *simWatch) take(id modem.Identity, st modem.Status) bool {
	before := w.offered()
	w.mu.Lock()
	first := w.readAt.IsZero()
	w.identity, w.status, w.readAt, w.err = id, st, time.Now(), nil
	w.mu.Unlock()
	return first || before != w.offered()
}

// failed notes an error and reports whether it is news.
func (w *simWatch) failed(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	news := err != nil && (w.err == nil || w.err.Error() != err.Error())
	w.err = err
	return news
}

// offered is what the offer says of the SIM.
func (w *simWatch) offered() agent.SIM {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.readAt.IsZero() {
		return agent.SIM{}
	}
	o := agent.SIM{
		MCC: w.identity.IMSI.MCC(), MNC: w.identity.IMSI.MNC(), Operator: w.status.Operator.Name,
		Roaming: w.status.Roaming, Evidence: agent.EvidenceClaimed,
	}
	if w.status.Technology != 0 {
		o.Technology = w.status.Technology.String()
	}
	return o
}

// refuses is why no session may begin, or nil.
func (w *simWatch) refuses() *agent.Notice {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.wanted:
		return nil
	case w.readAt.IsZero() && w.err != nil:
		return &agent.Notice{Code: agent.NoticeSIM, Text: "the agent has no SIM to sell: " + w.err.Error()}
	case w.readAt.IsZero():
		return &agent.Notice{Code: agent.NoticeSIM, Text: "the agent is still reading its SIM; try again in a moment"}
	case w.err != nil && time.Since(w.readAt) > simEvery+simGrace:
		return &agent.Notice{Code: agent.NoticeSIM, Text: "the agent has lost its modem"}
	}
	return nil
}
