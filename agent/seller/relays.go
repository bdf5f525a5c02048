package seller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
)

type sessionID = relay.SessionID

// A relayLink keeps the agent known at one relay, and takes the sessions that
// buyers ask for there.
type relayLink struct {
	r    *reach
	name relay.Name
	// doubt has room for one token: the connection may be dead without knowing.
	doubt chan struct{}
	// renew likewise: our own address is another one, by our own doing.
	renew      chan struct{}
	rotating   atomic.Bool // by a link
	publishing sync.Mutex  // held by who publishes

	mu     sync.Mutex
	agent  *relay.Agent // nil: not connected
	err    error        // why not
	since  time.Time
	linked time.Time // when a rotation link was used last
	// watches says that claims are kept there, wards of which channels.
	watches bool
	wards   map[channel.ID]ward
	places  map[sessionID]context.CancelFunc // held there, each for one buyer; the function gives it up
}

const (
	// maxPlaces bounds the places at one relay: a relay that allots more is
	// not followed.
	maxPlaces = 256
	bindTime  = 15 * time.Second
	dialTime  = 10 * time.Second
	// redialTime is for a relay that has not answered before: QUIC's first flight
	// and four more.
	redialTime = 5 * time.Second
	// unusedTime is how long a place is held that no session goes by.
	unusedTime = 3 * time.Minute
)

// run connects to the relay, again and again, until ctx ends. What buyers have
// there lasts until sctx ends.
func (l *relayLink) run(ctx, sctx context.Context) error {
	log := l.r.s.log.With("relay", l.name.Address())
	wait := relayRetryMin
	for failed := 0; ; {
		if !l.r.tries.wait(ctx, l.doubt) {
			return nil
		}
		began, patience := time.Now(), dialTime
		if failed > 0 {
			patience = redialTime
		}
		err := l.visit(ctx, sctx, patience)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > relaySteady+2*patience {
			wait, failed = relayRetryMin, 0
		}
		var pause time.Duration
		pause, wait = relayPause(err, failed, wait)
		if failed++; failed == 1 { // an outage is told once
			log.Warn("no connection to the relay; trying again", "err", err)
		}
		log.Debug("relay", "err", err, "after", pause, "attempt", failed)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		case <-l.doubt: // the network may be back
			if !sleep(ctx, rand.N(renewSpread)) {
				return nil
			}
		}
	}
}

// relayPause is how long to wait after an attempt that ended with err, when failed
// have failed before it, and the back-off from then on. A relay that stops may be
// there again in a moment; while it drains it refuses everybody, and to ask it
// every other second would use up the tries.
func relayPause(err error, failed int, wait time.Duration) (pause, next time.Duration) {
	if failed == 0 && errors.Is(err, relay.ErrDrain) {
		return rand.N(drainRetry), wait
	}
	return wait/2 + rand.N(wait), min(2*wait, relayRetryMax)
}

// sleep is false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// A tries bounds how often relays are dialled, all of them together: an attempt
// that nobody answers costs the SIM's plan 13 kB, and an outage of ours is one of
// all relays. It is a token bucket, kept as the time of its oldest free token.
type tries struct {
	mu       sync.Mutex
	free     time.Time
	answered time.Time // when the bucket was last filled because somebody answered
}

const (
	relayTries     = 10
	relayTriesPer  = 10 * time.Minute // and one more
	relayRefillPer = time.Hour
)

// wait takes a token when there is one, and looks for one when there is a doubt.
// It is false if ctx ended.
func (t *tries) wait(ctx context.Context, doubt <-chan struct{}) bool {
	for {
		d := t.take(time.Now())
		if d <= 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d + rand.N(renewSpread)): // who is first has it
		case <-doubt:
		}
	}
}

// take takes a token, or says how long it takes until there is one.
func (t *tries) take(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if least := now.Add(-(relayTries - 1) * relayTriesPer); t.free.Before(least) {
		t.free = least
	}
	d := t.free.Sub(now)
	if d <= 0 {
		t.free = t.free.Add(relayTriesPer)
	}
	return d
}

// answer gives tokens back to n others, now and then: the network is there.
func (t *tries) answer(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if most := now.Add(-time.Duration(n) * relayTriesPer); now.Sub(t.answered) > relayRefillPer && t.free.After(most) {
		t.free, t.answered = most, now
	}
}

// answered has the relays that are not connected tried at once.
func (r *reach) answered() {
	var down []*relayLink
	for _, l := range r.s.relays {
		l.mu.Lock()
		if l.agent == nil {
			down = append(down, l)
		}
		l.mu.Unlock()
	}
	r.tries.answer(len(down))
	for _, l := range down {
		l.doubts()
	}
}

// doubts has the connection renewed. It does not block.
func (l *relayLink) doubts() {
	select {
	case l.doubt <- struct{}{}:
	default:
	}
}

// renews has the connection renewed at once. It does not block.
func (l *relayLink) renews() {
	l.mu.Lock()
	connected := l.agent != nil
	l.mu.Unlock()
	if !connected {
		l.doubts() // ends a pause
		return
	}
	select {
	case l.renew <- struct{}{}:
	default:
	}
}

// doubted is told by a place at the relay. Another address is one for all
// relays.
func (l *relayLink) doubted(moved bool) {
	if !moved {
		l.doubts()
		return
	}
	for _, each := range l.r.relays {
		each.doubts()
	}
}

func (l *relayLink) set(a *relay.Agent, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.agent, l.err, l.since, l.watches = a, err, time.Now(), false
	for id, w := range l.wards { // what was not answered is handed over again
		l.wards[id] = ward{handed: w.kept, kept: w.kept}
	}
}

// dial goes by UDP, from the socket that buyers' packets come to, or else by
// TCP.
func (l *relayLink) dial(ctx, sctx context.Context, patience time.Duration) (*relay.Agent, error) {
	s := l.r.s
	c := relay.AgentConfig{
		Name: l.name, Agent: relay.Address(s.key.Address()), Sign: s.signRelay, Logger: s.log,
		Offer:   s.listedOffer,
		Session: func(a relay.Allotment) { l.allot(sctx, a) },
		Ended:   l.end,
		Rotate:  func(id sessionID, link string) { l.rotate(sctx, id, link) },
		Watch:   l.watched,
	}
	dctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ips, err := l.r.lookup(dctx, "ip", l.name.Host)
	if err == nil && len(ips) == 0 {
		err = errors.New("no address")
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", l.name.Host, err)
	}
	at := netip.AddrPortFrom(ips[0].Unmap(), l.name.Port)
	a, uerr := relay.DialQUIC(dctx, l.r.quic.Transport(), net.UDPAddrFromAddrPort(at), c)
	if uerr == nil || ctx.Err() != nil {
		return a, uerr
	}
	if _, ok := errors.AsType[*relay.NoticeError](uerr); ok || errors.Is(uerr, relay.ErrWrongKey) {
		return nil, uerr // it was reached
	}
	tctx, cancelTCP := context.WithTimeout(ctx, patience)
	defer cancelTCP()
	conn, terr := l.r.dial(tctx, "tcp", at.String())
	if terr != nil {
		return nil, fmt.Errorf("by UDP: %w; by TCP: %w", uerr, terr)
	}
	a, terr = relay.DialTCP(tctx, conn, c)
	if terr != nil {
		return nil, fmt.Errorf("by UDP: %w; by TCP: %w", uerr, terr)
	}
	return a, nil
}

// allot takes the agent's place in a session that a buyer asked for.
func (l *relayLink) allot(ctx context.Context, a relay.Allotment) {
	ctx, cancel := context.WithCancel(ctx)
	l.mu.Lock()
	full := len(l.places) >= maxPlaces
	if _, known := l.places[a.ID]; known || full {
		l.mu.Unlock()
		cancel()
		return
	}
	l.places[a.ID] = cancel
	l.mu.Unlock()
	l.r.s.strangers.Relay(a.Address.Addr())
	l.r.s.log.Debug("a buyer comes", "relay", l.name.Address(), "tcp", a.TCP)
	l.r.sessions.Go(func() error {
		defer l.end(a.ID)
		var err error
		if a.TCP {
			err = l.splice(ctx, a)
		} else {
			err = l.bind(ctx, a)
		}
		if err != nil && ctx.Err() == nil {
			l.r.s.log.Info("a buyer at the relay was not reached", "relay", l.name.Address(), "err", err)
		}
		return nil
	})
}

// bind holds the place at a UDP port until the session ends.
func (l *relayLink) bind(ctx context.Context, a relay.Allotment) error {
	bctx, cancel := context.WithTimeout(ctx, bindTime)
	defer cancel()
	b, err := l.r.socket.Bind(bctx, path.Relay{
		Addr: a.Address, Session: path.ID(a.ID), Token: path.Key(a.Token), Doubt: l.doubted,
	})
	if err != nil {
		return err
	}
	defer b.Close()
	tick := time.NewTicker(unusedTime)
	defer tick.Stop()
	for used := true; used; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			used = l.r.uses(b.Addr())
		}
	}
	l.giveUp(ctx, a.ID)
	return nil
}

// giveUp tells the relay that a session is over that it has not ended: a place
// costs the SIM's plan a packet every 25 s.
func (l *relayLink) giveUp(ctx context.Context, id sessionID) {
	l.mu.Lock()
	a := l.agent
	l.mu.Unlock()
	if a == nil {
		return
	}
	if err := a.End(ctx, id); err != nil {
		l.r.s.log.Debug("ending a session", "relay", l.name.Address(), "err", err)
	}
}

// splice joins a buyer's TCP connection at the relay.
func (l *relayLink) splice(ctx context.Context, a relay.Allotment) error {
	dctx, cancel := context.WithTimeout(ctx, bindTime)
	defer cancel()
	conn, err := l.r.dial(dctx, "tcp", a.Address.String())
	if err != nil {
		return err
	}
	if _, err := conn.Write(relay.Preamble(a.ID, a.Token)); err != nil {
		return errors.Join(err, conn.Close())
	}
	cert, err := h2.Certificate(l.r.s.tls)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	c, err := h2.Server(dctx, conn, h2.ServerConfig{Certificate: cert, MaxStreams: l.r.s.cfg.MaxFlows + 8, Cap: &l.r.s.rate})
	if err != nil {
		return err
	}
	l.r.s.serve(ctx, c, conn.RemoteAddr())
	return nil
}

// end gives a place up.
func (l *relayLink) end(id sessionID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cancel := l.places[id]; cancel != nil {
		cancel()
		delete(l.places, id)
	}
}

// publish hands the present offer to the relay, or withdraws it. What is handed
// over last is the present one, whoever else publishes.
func (l *relayLink) publish(ctx context.Context) {
	l.publishing.Lock()
	defer l.publishing.Unlock()
	l.mu.Lock()
	a := l.agent
	l.mu.Unlock()
	if a != nil {
		_ = a.Publish(ctx, l.r.s.listedOffer()) // else it is published by the next connection
	}
}

// RelayStatus is how the agent stands with a relay.
type RelayStatus struct {
	Relay     string         `json:"relay"`
	Connected bool           `json:"connected"`
	Error     string         `json:"error,omitempty"` // why not
	Since     int64          `json:"since"`           // seconds
	SeenAs    netip.AddrPort `json:"seenAs,omitzero"` // the agent's address from outside
	Buyers    int            `json:"buyers"`          // places held there
}

func (l *relayLink) status() RelayStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := RelayStatus{Relay: l.name.Address(), Connected: l.agent != nil, Buyers: len(l.places)}
	if l.agent != nil {
		st.SeenAs = l.agent.Observed()
	}
	if l.err != nil {
		st.Error = l.err.Error()
	}
	if !l.since.IsZero() {
		st.Since = int64(time.Since(l.since) / time.Second)
	}
	return st
}
