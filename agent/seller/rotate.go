package seller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/tunnel"
)

// A RotatePolicy says when the address is given back for another one, and how.
type RotatePolicy struct {
	Every time.Duration // by itself; 0: never
	Hold  time.Duration // off the network; 0: modem.HoldTime
	Tries int           // when the address is the same again, each away for longer; 0: 3
	// Echo is a URL that answers with the address that it is asked from. "": the
	// relays say it.
	Echo string
	// Price is what buyers pay for one that they ask for. Nil: they may not.
	Price   *channel.Amount
	Between time.Duration // the least between two that others ask for; 0: 10 min
}

const (
	rotateTries   = 3
	rotateHoldMax = time.Minute // for a try after others
	rotateLimit   = 2 * time.Minute
	// seenTime is how long a relay has to see where the agent is now, seenEvery
	// how often it is asked in vain.
	seenTime  = 45 * time.Second
	seenEvery = 5 * time.Second
	seenTick  = 100 * time.Millisecond
	// echoTime is how long an echo may take, echoPause what is between two tries.
	echoTime  = 10 * time.Second
	echoPause = time.Second
)

// A Rotation is what giving the address back came to.
type Rotation struct {
	At      int64      `json:"at"` // Unix time, by the device's clock
	Old     netip.Addr `json:"old,omitzero"`
	New     netip.Addr `json:"new,omitzero"`
	Changed bool       `json:"changed"`
	Tries   int        `json:"tries"`
	Took    int64      `json:"took"` // milliseconds, all tries together
	By      string     `json:"by"`   // "command", "timer", "buyer" or "link"
	Error   string     `json:"error,omitempty"`

	back time.Time // on the network, after the last try
}

// RotationStatus is what rotations have come to since the start.
type RotationStatus struct {
	Last    *Rotation `json:"last,omitempty"`
	Changed uint64    `json:"changed"`
	Failed  uint64    `json:"failed"`
}

// A turnstile holds up flows that begin while the address changes: they would
// leave by one that is about to go.
type turnstile struct {
	s  *Seller
	mu sync.Mutex
	// open is closed when flows may begin; nil: they may.
	open chan struct{}
}

func (t *turnstile) shut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = make(chan struct{})
}

func (t *turnstile) reopen() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.open)
	t.open = nil
}

func (t *turnstile) isShut() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open != nil
}

// pass waits while the address changes, at most as long as ctx.
func (t *turnstile) pass(ctx context.Context) error {
	t.mu.Lock()
	open := t.open
	t.mu.Unlock()
	if open == nil {
		return nil
	}
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var _ tunnel.Dialer = (*turnstile)(nil)

// DialTCP connects to a target once the address is settled.
func (t *turnstile) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	if err := t.pass(ctx); err != nil {
		return nil, err
	}
	return t.s.dialer.DialTCP(ctx, host, port)
}

// DialUDP likewise.
func (t *turnstile) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	if err := t.pass(ctx); err != nil {
		return nil, err
	}
	return t.s.dialer.DialUDP(ctx, host, port)
}

var (
	errUnseen = errors.New("no relay says which address this agent has: whether it changed could not be told")
	errSame   = errors.New("the carrier gave the same address again")
)

// rotateNow has radioLoop rotate and waits for what comes of it.
func (s *Seller) rotateNow(ctx context.Context, hold time.Duration, by string) Rotation {
	done := make(chan Rotation, 1)
	err := s.onRadio(ctx, func(ctx context.Context) error {
		if s.flight.on() {
			return errAirplane
		}
		done <- s.rotate(ctx, hold, by)
		return nil
	})
	if err != nil {
		return Rotation{By: by, Error: err.Error()}
	}
	return <-done
}

// rotate gives the address back until there is another one, and says what came
// of it. Sessions and their tunnels go on; the flows in them end when the address
// has changed, since what they were connected by is gone.
func (s *Seller) rotate(ctx context.Context, hold time.Duration, by string) Rotation {
	began := time.Now()
	r := Rotation{At: began.Unix(), By: by}
	s.turnstile.shut()
	err := s.tryRotations(ctx, hold, &r)
	if r.Changed {
		s.resetFlows()
	}
	s.turnstile.reopen()
	r.Took = time.Since(began).Milliseconds()
	s.mu.Lock()
	if err == nil {
		s.rotated.Changed++
	} else {
		s.rotated.Failed++
		r.Error = err.Error()
	}
	last := r
	s.rotated.Last = &last
	s.mu.Unlock()
	if err != nil {
		s.log.Warn("the address was not changed", "old", r.Old, "new", r.New, "attempt", r.Tries, "by", by, "err", err)
	} else {
		s.log.Info("the address has changed", "old", r.Old, "new", r.New, "attempt", r.Tries, "took", time.Since(began), "by", by)
	}
	return r
}

// tryRotations is bounded by the policy.
func (s *Seller) tryRotations(ctx context.Context, hold time.Duration, r *Rotation) error {
	tries := s.cfg.Rotate.Tries
	if tries == 0 {
		tries = rotateTries
	}
	if hold == 0 {
		hold = s.cfg.Rotate.Hold
	}
	if hold == 0 {
		hold = modem.HoldTime
	}
	old, err := s.seenBefore(ctx)
	if err != nil {
		return err
	}
	for _, a := range old {
		r.Old = a
		break
	}
	for r.Tries = 1; ; r.Tries++ {
		if err := s.release(ctx, hold); err != nil {
			return err
		}
		r.back = time.Now()
		link, now, err := s.awaitSeen(ctx, old)
		if err != nil {
			return err
		}
		r.Old, r.New = old[link], now
		if r.Changed = r.New != r.Old; r.Changed {
			return nil
		}
		if r.Tries >= tries {
			return errSame
		}
		s.log.Warn("the carrier gave the same address again; trying longer", "old", r.Old, "attempt", r.Tries)
		hold = max(min(2*hold, rotateHoldMax), hold)
	}
}

// release has the modem give its address back. A modem whose port goes with its
// radio has done so, too.
func (s *Seller) release(ctx context.Context, hold time.Duration) error {
	m, err := s.modemNow()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rotateLimit+hold)
	defer cancel()
	if _, err := m.Rotate(ctx, hold); err != nil && !errors.Is(err, modem.ErrGone) {
		return err
	}
	s.reach.socket.Moved()
	return nil
}

// seen is where relays see the agent, as of connections that are newer than a
// time.
func (s *Seller) seen(after time.Time) map[*relayLink]netip.Addr {
	at := make(map[*relayLink]netip.Addr)
	for _, l := range s.relays {
		l.mu.Lock()
		if l.agent != nil && l.since.After(after) {
			at[l] = l.agent.Observed().Addr()
		}
		l.mu.Unlock()
	}
	return at
}

// seenBefore is where the agent is seen now: by the relays, or by nil, the echo.
func (s *Seller) seenBefore(ctx context.Context) (map[*relayLink]netip.Addr, error) {
	if s.cfg.Rotate.Echo == "" {
		old := s.seen(time.Time{})
		if len(old) == 0 {
			return nil, errUnseen
		}
		return old, nil
	}
	at, err := s.echo(ctx, "4")
	if err != nil {
		var err6 error
		if at, err6 = s.echo(ctx, "6"); err6 != nil {
			return nil, err
		}
	}
	return map[*relayLink]netip.Addr{nil: at}, nil
}

// echo asks the echo, by the way that buyers' flows go.
func (s *Seller) echo(ctx context.Context, family string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, echoTime)
	defer cancel()
	out := newOutlet(s.way)
	out.dialer.Resolver = out.resolver()
	b, err := facilitator.Fetch(ctx, out.dialer, family, s.cfg.Rotate.Echo)
	if err == nil {
		if at := addressIn(string(b)); at.IsValid() {
			return at, nil
		}
		err = errors.New("there is no address in its answer")
	}
	return netip.Addr{}, fmt.Errorf("rotate.echo: %w", err)
}

// addressIn is the first address in an echo's answer: plain, or in JSON.
func addressIn(text string) netip.Addr {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF:.", r) }) {
		if at, err := netip.ParseAddr(strings.Trim(word, ".")); err == nil {
			return at.Unmap()
		}
	}
	return netip.Addr{}
}

// awaitEcho waits for the echo to answer. Its family stays: a line has an
// address of each.
func (s *Seller) awaitEcho(ctx context.Context, old netip.Addr) (netip.Addr, error) {
	for _, l := range s.relays {
		l.renews()
	}
	family := "6"
	if old.Is4() {
		family = "4"
	}
	for {
		at, err := s.echo(ctx, family)
		if err == nil {
			return at, nil
		}
		select {
		case <-time.After(echoPause):
		case <-ctx.Done():
			return at, fmt.Errorf("after it: %w", err)
		}
	}
}

// awaitSeen waits until the echo answers, or until one of the relays that have
// seen the agent before sees it on a new connection, and says where.
func (s *Seller) awaitSeen(ctx context.Context, old map[*relayLink]netip.Addr) (*relayLink, netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, seenTime)
	defer cancel()
	if before, is := old[nil]; is {
		at, err := s.awaitEcho(ctx, before)
		return nil, at, err
	}
	back := time.Now()
	tick := time.NewTicker(seenTick)
	defer tick.Stop()
	for asked := (time.Time{}); ; {
		for l, at := range s.seen(back) {
			if _, known := old[l]; known {
				return l, at, nil
			}
		}
		if time.Since(asked) > seenEvery {
			asked = time.Now()
			for l := range old {
				l.renews()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, netip.Addr{}, fmt.Errorf("after it: %w", errUnseen)
		}
	}
}

// attend notes a connection, or that it has ended.
func (s *Seller) attend(t *tunnel.Session, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if there {
		s.tunnels[t] = true
	} else {
		delete(s.tunnels, t)
	}
}

// resetFlows ends the flows of all buyers.
func (s *Seller) resetFlows() {
	s.mu.Lock()
	all := make([]*tunnel.Session, 0, len(s.tunnels))
	for t := range s.tunnels {
		all = append(all, t)
	}
	s.mu.Unlock()
	for _, t := range all {
		t.Reset()
	}
}
