package seller

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/modem"
)

// A simWatch holds what the modem last said.
type simWatch struct {
	mu       sync.Mutex
	wanted   bool         // there is a modem to ask
	port     string       // where it was asked last
	open     *modem.Modem // nil: none is
	found    modem.Found  // as it was found last, if it was looked for
	verdict  modem.Verdict
	identity modem.Identity
	status   modem.Status
	readAt   time.Time // when status was read; zero: never
	err      error     // of the last try, nil after a success
	card     Card      // in the modem, before it was read the last that was; zero: none

	// former are the numbers of cards that were here before, which are kept to be
	// left out of what is shown.
	former  []modem.IMSI
	wake    chan struct{}  // one token: look now
	history *modem.History // has a lock of its own
}

const (
	simEvery    = time.Minute     // between two looks at the radio: polling can wedge a modem
	simRetryMin = 2 * time.Second // after a failure
	simRetryMax = time.Minute
	simGrace    = 2 * time.Minute // how long a lost modem is sold on
	maxFormer   = 16
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
		news := s.finder.news()
		read, err := s.readSIM(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if read {
			retry = simRetryMin
		}
		if s.sim.failed(err) {
			s.log.Warn("modem", "port", s.sim.lastPort(), "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news: // it may be there now
		case <-s.sim.wake:
		case <-time.After(retry + rand.N(retry/4)):
		}
		retry = min(2*retry, simRetryMax)
	}
}

// readSIM opens the modem and follows it until it fails. It reports whether
// anything was read.
func (s *Seller) readSIM(ctx context.Context) (read bool, err error) {
	cfg, leave, err := s.locate()
	if err != nil {
		s.heal(ctx, nil, modem.Status{}, err)
		return false, err
	}
	defer leave()
	m, err := modem.Open(ctx, cfg)
	if err != nil {
		s.heal(ctx, nil, modem.Status{}, err)
		return false, err
	}
	s.sim.opened(m)
	defer func() {
		s.sim.opened(nil)
		err = errors.Join(err, m.Close())
	}()
	for {
		id, err := m.Identity(ctx) // each time: a card can be changed while the modem stays
		var status modem.Status
		if err == nil {
			status, err = m.Status(ctx)
		}
		if err != nil {
			s.heal(ctx, m, status, err)
			return read, err
		}
		read = true
		s.takeSIM(ctx, id, status)
		s.serves()
		s.heal(ctx, m, status, nil)
		select {
		case <-ctx.Done():
			return read, nil
		case <-m.Done():
			return read, modem.ErrGone
		case <-s.sim.wake:
		case <-time.After(simEvery):
		}
	}
}

// noSIM is the fingerprint where no modem says which SIM is in.
const noSIM = "none"

// roams says whether the SIM was abroad when it was last read.
func (w *simWatch) roams() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status.Roaming
}

// takeSIM acts on what was read: on another SIM first of all.
func (s *Seller) takeSIM(ctx context.Context, id modem.Identity, st modem.Status) {
	card, other, err := s.cards.see(id)
	if err != nil {
		s.log.Error("the SIM cannot be remembered", "err", err)
	}
	changed := s.sim.take(id, st, card)
	if changed {
		s.log.Info("SIM", "state", st.SIM, "mcc", card.MCC, "mnc", card.MNC,
			"operator", st.Operator.Name, "technology", st.Technology, "roaming", st.Roaming)
	}
	if other {
		s.log.Warn("another SIM is in the modem", "mcc", card.MCC, "mnc", card.MNC, "sold", card.Sold)
		s.cutUses()
		s.sendAway(agent.Notice{Code: agent.NoticeSwapped, Text: errSwapped.Error() + "; pay what is owed"})
	}
	s.useSIM(card.Fingerprint)
	if changed || other {
		s.republish(ctx)
	}
}

// cutUses ends all flows by tokens at once.
func (s *Seller) cutUses() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.uses {
		u.cut(errSwapped)
	}
}

// An Acceptance is a SIM that is sold now.
type Acceptance struct {
	Card
	Plan *PlanStatus `json:"plan,omitempty"` // nil: none is kept
}

// acceptSIM has the SIM sold that is in the modem now, of whose plan so many
// bytes are used if the owner says so.
func (s *Seller) acceptSIM(ctx context.Context, used string) (a Acceptance, err error) {
	if used != "" && s.ration == nil { // before anything is sold
		_, err = s.setUsed(used)
		return a, err
	}
	if a.Card, err = s.cards.accept(s.sim.fingerprint()); err != nil {
		return a, err
	}
	if s.sim.accept(a.Card) {
		s.log.Info("the owner sells the SIM", "mcc", a.MCC, "mnc", a.MNC)
		err = s.publish(ctx)
	}
	if used != "" && err == nil {
		a.Plan, err = s.setUsed(used)
	} else {
		a.Plan = s.planStatus()
	}
	return a, err
}

// locate says where the line's modem is. It is the line's until leave is called.
// A name that the modem's interface had may be another's when the modem has
// gone.
func (s *Seller) locate() (cfg modem.Config, leave func(), err error) {
	cfg = *s.cfg.Modem
	leave = func() {}
	if s.cfg.findsModem() {
		var found modem.Found
		var giveBack func()
		found, giveBack, err = s.finder.take(s.cfg.IMEI)
		if err != nil {
			s.way.use("")
			return cfg, nil, err
		}
		cfg.Port = found.Port
		s.sim.mu.Lock()
		s.sim.found = found
		s.sim.mu.Unlock()
		if open := s.finder.cfg.Open; open != nil {
			cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) { return open(ctx, found.Port) }
		}
		if len(found.Nets) > 0 {
			s.way.use(found.Nets[0])
		}
		leave = func() {
			if !found.There(s.finder.cfg.Root) {
				s.way.use("")
			}
			giveBack()
		}
	}
	s.sim.mu.Lock()
	defer s.sim.mu.Unlock()
	s.sim.port = cfg.Port
	return cfg, leave, nil
}

// opened notes which modem there is to talk to, nil for none.
func (w *simWatch) opened(m *modem.Modem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = m
}

// look has the modem looked at now. It does not block.
func (w *simWatch) look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *simWatch) formerIMSIs() []modem.IMSI {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.former)
}

func (w *simWatch) lastPort() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.port
}

// take stores what was read and reports whether the offer changes by it.
func (w *simWatch) take(id modem.Identity, st modem.Status, c Card) bool {
	before := w.offered()
	w.mu.Lock()
	first := w.readAt.IsZero() || w.card.Sold != c.Sold
	if old := w.identity.IMSI; !old.IsZero() && !old.Equal(id.IMSI) {
		w.former = append(w.former, old)
		w.former = w.former[max(len(w.former)-maxFormer, 0):]
	}
	w.identity, w.status, w.readAt, w.err, w.card = id, st, time.Now(), nil, c
	w.mu.Unlock()
	w.history.Add(w.readAt, st) // watchSIM's alone to write
	return first || before != w.offered()
}

// accept notes that a card is sold. It reports whether that is news, and the
// card is still there.
func (w *simWatch) accept(c Card) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.card.Fingerprint != c.Fingerprint || w.card.Sold {
		return false
	}
	w.card = c
	return true
}

// fingerprint is that of the card in the modem, "" if none was read.
func (w *simWatch) fingerprint() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.readAt.IsZero() {
		return ""
	}
	return w.card.Fingerprint
}

// withheld says whether the card's owner has yet to say that he sells it.
func (w *simWatch) withheld() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.card.Fingerprint != "" && !w.card.Sold
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
	case !w.card.Sold:
		return &agent.Notice{Code: agent.NoticeSIM, Text: "there is another SIM in the agent, and its owner does not sell it yet"}
	case w.err != nil && time.Since(w.readAt) > simEvery+simGrace:
		return &agent.Notice{Code: agent.NoticeSIM, Text: "the agent has lost its modem"}
	}
	return nil
}
