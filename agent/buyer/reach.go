package buyer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/kcp"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// Transports by which an agent is reached.
const (
	QUIC = "quic"
	TLS  = "tls" // HTTP/2 over TCP, where UDP is blocked
	KCP  = "kcp" // where QUIC is throttled, and only if it is asked for
)

// A reach finds a way to the agent. Ways are tried side by side, each with a
// head start before the next; the first connection wins.
//
//	0 ms   QUIC to the agent's endpoints, one after the other
//	       QUIC by its relays, if there is no endpoint, else 300 ms later
//	400 ms TLS to the same, or at once where only TLS got through before; by
//	       a relay 400 ms after QUIC has its port there, or at 1 s
//
// Once connected, a QUIC connection moves between relays and the direct path
// without its flows noticing; see tunnel/path.
type reach struct {
	log     *slog.Logger
	offer   agent.Offer
	keyHash *[32]byte // nil: any key will do for now
	socket  *path.Socket
	dialer  *quic.Dialer
	kcp     *kcp.Dialer // nil: not asked for
	relays  []broker
	fares   *fares // of relays that charge; nil for one who can pay nobody
	cfg     ReachConfig

	mu     sync.Mutex
	places map[netip.AddrPort]string // held at relays' ports, and whose those are
}

// A broker is a relay that knows the agent.
type broker struct {
	*market.Client
	address string
}

// ReachConfig says how agents may be reached. Zero fields have the defaults
// named.
type ReachConfig struct {
	// Transport is QUIC, TLS or KCP to use no other. Default: QUIC, and TLS while
	// QUIC does not get through.
	Transport string
	// NoDirect hides the buyer's address from the agent: only relays are used.
	NoDirect bool
	// Networks remembers what got through where; nil forgets.
	Networks Networks
	// Early is how long an agent may take to answer one who comes back by a
	// ticket, before it is looked for in all ways. Default 1.5 s: one packet may
	// be lost.
	Early time.Duration
}

// Networks remembers the transport that got through on a network.
type Networks interface {
	Transport(network string) string
	Remember(network, transport string) error
}

const (
	nextEndpoint = 250 * time.Millisecond // the pace of RFC 8305 §5
	nextRelay    = 300 * time.Millisecond
	headStart    = 400 * time.Millisecond // of QUIC before TLS
	boundTime    = 600 * time.Millisecond // more, for a relay to answer UDP
)

// Bounds of the search for QUIC while TLS is used.
const (
	probeFirst = 5 * time.Second // QUIC may have been late by a hair
	probeMin   = 30 * time.Second
	probeMax   = 10 * time.Minute
)

// A link is a connection to the agent.
type link struct {
	tunnel.ClientConn
	transport string
	by        string           // the relay it was made through, "" for none
	via       func() string    // likewise now; nil: as it was made
	offer     agent.Offer      // what the agent offers, if it was asked
	ends      []func()         // after the connection
	quic      *quic.ClientConn // nil: it is another transport's
	ticket    *quic.Ticket     // that it was opened by, before its handshake; nil: after it
}

func (l *link) end() {
	for _, f := range l.ends {
		f()
	}
}

// relay is the address of the relay that the connection goes by now, "" for
// none.
func (l *link) relay() string {
	if l.via == nil {
		return l.by
	}
	return l.via()
}

// withReach opens the socket for an offer, and closes it after use has returned.
func withReach(ctx context.Context, c Config, use func(*reach) error) error {
	r, err := openReach(ctx, c)
	if err != nil {
		return err
	}
	rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var paths errgroup.Group
	paths.Go(func() error { return r.socket.Run(rctx) })
	err = use(r)
	stop()
	return errors.Join(err, paths.Wait(), r.close())
}

func openReach(ctx context.Context, c Config) (*reach, error) {
	key := [32]byte(c.Offer.TunnelKey)
	r := &reach{log: c.Logger, offer: c.Offer, keyHash: &key, cfg: c.Reach, places: make(map[netip.AddrPort]string), fares: newFares(c)}
	for _, text := range c.Offer.Relays {
		name, err := relay.ParseName(text)
		if err != nil {
			return nil, err
		}
		r.relays = append(r.relays, broker{market.New(market.Config{Name: name}), name.Address()})
	}
	if r.cfg.NoDirect && len(r.relays) == 0 {
		return nil, errors.New("the offer names no relay, so the agent would see this machine's address")
	}
	var err error
	if r.socket, err = path.Listen(ctx, path.Config{Open: c.Socket}); err != nil {
		return nil, err
	}
	r.dialer = quic.NewDialer(r.socket.PacketConn())
	if r.cfg.Transport == KCP {
		r.kcp = kcp.NewDialer(r.socket.Beside())
	}
	return r, nil
}

func (r *reach) close() error {
	for _, c := range r.relays {
		c.Close()
	}
	var err error
	if r.kcp != nil {
		err = r.kcp.Close()
	}
	return errors.Join(err, r.dialer.Close(), r.socket.Close())
}

// A try is a way that is tried.
type try struct {
	transport string
	to        string // whom, as an error names it
	after     time.Duration
	dial      func(context.Context) (*link, error)
}

// tries lists the ways to the agent.
func (r *reach) tries() []try {
	tlsAt := headStart
	if r.cfg.Transport != "" || r.remembered() == TLS {
		tlsAt = 0
	}
	var all []try
	for i, e := range r.endpoints() {
		at, to := time.Duration(i)*nextEndpoint, "the agent at "+e
		all = append(all,
			try{QUIC, to, at, func(ctx context.Context) (*link, error) { return r.quicDirect(ctx, e) }},
			try{KCP, to, at, func(ctx context.Context) (*link, error) { return r.kcpDirect(ctx, e) }},
			try{TLS, to, tlsAt + at, func(ctx context.Context) (*link, error) { return r.tlsDirect(ctx, e) }})
	}
	wait := time.Duration(0)
	if len(all) > 0 {
		wait = nextRelay
	}
	for i, c := range r.relays {
		at, to := wait+time.Duration(i)*nextRelay, "the agent behind the relay "+c.address
		bound := make(chan error, 1) // what asking for QUIC's port comes to; taken by TLS
		all = append(all,
			try{QUIC, to, at, func(ctx context.Context) (*link, error) { return r.quicRelayed(ctx, c, bound, nil) }},
			try{KCP, to, at, func(ctx context.Context) (*link, error) { return r.kcpRelayed(ctx, c) }},
			try{TLS, to, tlsAt + at, func(ctx context.Context) (*link, error) {
				if tlsAt > 0 {
					yield(ctx, bound)
				}
				return r.tlsRelayed(ctx, c)
			}})
	}
	if r.cfg.Transport == "" {
		return only(all, QUIC, TLS)
	}
	return only(all, r.cfg.Transport)
}

// yield waits for QUIC's head start at a relay, where QUIC has to ask for a port
// and to show its address first: it counts from then on. A relay that has not
// answered UDP by then is not waited for, so that TLS is through within 2 s.
func yield(ctx context.Context, bound <-chan error) {
	late := time.NewTimer(boundTime)
	defer late.Stop()
	select {
	case err := <-bound:
		if err != nil {
			return
		}
		late.Reset(headStart)
		select {
		case <-late.C:
		case <-ctx.Done():
		}
	case <-late.C:
	case <-ctx.Done():
	}
}

func only(all []try, transports ...string) []try {
	return slices.DeleteFunc(all, func(t try) bool { return !slices.Contains(transports, t.transport) })
}

func (r *reach) endpoints() []string {
	if r.cfg.NoDirect {
		return nil
	}
	return r.offer.Endpoints
}

// dial returns the first connection of all ways.
func (r *reach) dial(ctx context.Context, tries []try) (*link, error) {
	l, err := race(ctx, tries)
	if err != nil {
		return nil, err
	}
	r.remember(l.transport)
	return l, nil
}

// An outcome is what a try came to.
type outcome struct {
	l   *link
	err error
	of  int
}

// race begins each try after its time, or the next one as soon as one has
// failed, and returns the first connection. The others are ended.
func race(ctx context.Context, tries []try) (*link, error) {
	if len(tries) == 0 {
		return nil, errors.New("the offer names no way to the agent that may be used")
	}
	tries = slices.Clone(tries)
	slices.SortStableFunc(tries, func(a, b try) int { return cmp.Compare(a.after, b.after) })
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan outcome) // unbuffered: losers take their connection back
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	began, next := time.Now(), 0
	begin := func() {
		of := next
		next++
		wg.Go(func() { tries[of].run(ctx, of, done) })
	}
	errs := make([]error, len(tries))
	for failed := 0; failed < len(tries); {
		var due <-chan time.Time
		if next < len(tries) {
			due = time.After(time.Until(began.Add(tries[next].after)))
		}
		select {
		case <-due:
			begin()
		case o := <-done:
			if o.err == nil {
				return o.l, nil
			}
			errs[o.of] = o.err
			if failed++; next < len(tries) {
				begin()
			}
		case <-ctx.Done():
			for i, t := range tries[:next] {
				if errs[i] == nil {
					errs[i] = fmt.Errorf("%s does not answer by %s", t.to, strings.ToUpper(t.transport))
				}
			}
			return nil, &noWayError{errs[:next]}
		}
	}
	return nil, &noWayError{errs}
}

// run tries. A connection that nobody takes is ended.
func (t try) run(ctx context.Context, of int, done chan<- outcome) {
	l, err := t.dial(ctx)
	select {
	case done <- outcome{l, err, of}:
	case <-ctx.Done():
		if err == nil {
			_ = l.Close(tunnel.ReasonDone, "") // nobody waits for it
			l.end()
		}
	}
}

// A noWayError says why each way to the agent failed, in one line.
type noWayError struct{ ways []error }

func (e *noWayError) Error() string {
	texts := make([]string, len(e.ways))
	for i, err := range e.ways {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns them all.
func (e *noWayError) Unwrap() []error { return e.ways }

// network names the network that this machine is on: the address's prefix that
// packets to the agent leave from. Nothing is sent.
func (r *reach) network() string {
	to := ""
	if e := r.endpoints(); len(e) > 0 {
		to = e[0]
	} else if len(r.relays) > 0 {
		to = r.relays[0].address
	}
	conn, err := net.Dial("udp", to)
	if err != nil {
		return ""
	}
	defer conn.Close()
	udp, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return ""
	}
	at := udp.AddrPort().Addr().Unmap()
	bits := 24
	if at.Is6() {
		bits = 64
	}
	prefix, err := at.Prefix(bits)
	if err != nil {
		return ""
	}
	return prefix.String()
}

func (r *reach) remembered() string {
	if r.cfg.Networks == nil {
		return ""
	}
	return r.cfg.Networks.Transport(r.network())
}

func (r *reach) remember(transport string) {
	n := r.network()
	if r.cfg.Networks == nil || r.cfg.Transport != "" || n == "" || r.cfg.Networks.Transport(n) == transport {
		return
	}
	if err := r.cfg.Networks.Remember(n, transport); err != nil {
		r.log.Warn("what gets through on this network could not be noted", "err", err)
	}
}

// better looks for QUIC while the agent is reached by TLS, until ctx ends, and
// returns once QUIC gets through.
func (r *reach) better(ctx context.Context) error {
	if r.cfg.Transport != "" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for wait := probeFirst; ; wait = min(max(2*wait, probeMin), probeMax) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(jitter(wait)):
		}
		dctx, cancel := context.WithTimeout(ctx, dialTime)
		l, err := race(dctx, only(r.tries(), QUIC))
		cancel()
		if err != nil {
			r.log.Debug("QUIC does not get through", "err", err)
			continue
		}
		_ = l.Close(tunnel.ReasonDone, "")
		l.end()
		r.remember(QUIC)
		return nil
	}
}

func (l *link) String() string {
	text := l.transport
	if l.resumed() {
		text += " with 0-RTT"
	}
	if l.by != "" {
		text += " by relay " + l.by
	}
	return text
}
