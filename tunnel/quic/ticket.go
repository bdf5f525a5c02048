package quic

import (
	"crypto/rand"
	"crypto/tls"
	"sync"
	"time"
)

// Tickets (RFC 8446 §4.6.1) let a buyer come back within one round trip: what
// it sends with its first packets is served. Such packets can be recorded and
// sent again by anyone who sees them, so a ticket opens one connection and no
// more, whatever becomes of that. Its name is all that the buyer shows; what it
// stands for is in the agent's memory alone and ends with the process.
//
//	handshake ─→ given ─→ good, by Resumable ─┬─→ taken by one connection
//	                └→ dropped with its own   └─→ replaced, too old, crowded out

const (
	ticketName = 16
	// ticketLife is how long a ticket is good, by the monotonic clock.
	ticketLife = 24 * time.Hour
	// maxTickets bounds those that are good, at about 500 bytes each.
	maxTickets = 256
)

// resumeLabel is the label of the TLS exporter (RFC 8446 §7.5) of a ticket's
// secret, on the connection that the ticket came by.
const resumeLabel = "EXPORTER-x402-resume"

// A Resumption is what an agent knows of a buyer who has come back.
type Resumption struct {
	// Owner and Session are as they were given to [ServerConn.Resumable].
	Owner   [32]byte
	Session uint64
	// Secret is known only to the two ends of the connection that the ticket
	// came by; the buyer's is [Ticket.Secret].
	Secret [32]byte
}

// A ticket is the agent's side of one.
type ticket struct {
	Resumption
	name  [ticketName]byte
	state *tls.SessionState
	made  time.Time
}

// tickets holds those that are good, of each owner the newest.
type tickets struct {
	mu      sync.Mutex
	byName  map[[ticketName]byte]*ticket
	byOwner map[[32]byte]*ticket
}

func newTickets() *tickets {
	return &tickets{byName: make(map[[ticketName]byte]*ticket), byOwner: make(map[[32]byte]*ticket)}
}

// add makes t good.
func (x *tickets) add(t *ticket) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.byOwner[t.Owner]; old != nil {
		x.drop(old)
	}
	if len(x.byName) >= maxTickets {
		x.drop(x.oldest())
	}
	x.byName[t.name], x.byOwner[t.Owner] = t, t
}

// take returns a good ticket, which is good no more; nil if there is none.
func (x *tickets) take(name []byte) *ticket {
	if len(name) != ticketName {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.byName[[ticketName]byte(name)]
	if t == nil {
		return nil
	}
	x.drop(t)
	if time.Since(t.made) > ticketLife {
		return nil
	}
	return t
}

// drop and oldest are called with mu held.
func (x *tickets) drop(t *ticket) {
	delete(x.byName, t.name)
	if x.byOwner[t.Owner] == t {
		delete(x.byOwner, t.Owner)
	}
}

func (x *tickets) oldest() (t *ticket) {
	for _, o := range x.byName {
		if t == nil || o.made.Before(t.made) {
			t = o
		}
	}
	return t
}

// A comeback is what one connection of an agent's has to do with tickets.
type comeback struct {
	all *tickets

	mu    sync.Mutex
	came  *ticket     // that it was resumed by
	given *ticket     // its own; nil until the handshake is done
	owner *Resumption // whose it is, without the secret; nil until it is known
}

// unwrap is a tls.Config's UnwrapSession. The ticket is used up before anything
// that came with it is decrypted.
func (v *comeback) unwrap(name []byte, _ tls.ConnectionState) (*tls.SessionState, error) {
	t := v.all.take(name)
	if t == nil {
		return nil, nil // no such ticket: a handshake as any other
	}
	v.mu.Lock()
	v.came = t
	v.mu.Unlock()
	return t.state, nil
}

// wrap is a tls.Config's WrapSession: it gives the connection its ticket.
func (v *comeback) wrap(cs tls.ConnectionState, state *tls.SessionState) ([]byte, error) {
	secret, err := cs.ExportKeyingMaterial(resumeLabel, nil, 32)
	if err != nil {
		return nil, err
	}
	t := &ticket{state: state, made: time.Now()}
	_, _ = rand.Read(t.name[:]) // never fails
	copy(t.Secret[:], secret)
	v.mu.Lock()
	v.given = t
	v.mu.Unlock()
	v.good()
	return t.name[:], nil
}

// good makes the connection's ticket good, once, when all of it is known.
func (v *comeback) good() {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.given
	if t == nil || v.owner == nil {
		return
	}
	v.given = nil
	t.Owner, t.Session = v.owner.Owner, v.owner.Session
	v.all.add(t)
}

// Resumed says by which ticket the buyer came back, if what it sent with its
// first packets was accepted.
func (c *ServerConn) Resumed() (Resumption, bool) {
	v := visitOf(c.conn.Context()).back
	if v == nil || !c.conn.ConnectionState().Used0RTT {
		return Resumption{}, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.came == nil {
		return Resumption{}, false
	}
	return v.came.Resumption, true
}

// Resumable lets the buyer come back once by the ticket that this connection
// gives it. Older ones of the owner's are good no more.
func (c *ServerConn) Resumable(owner [32]byte, session uint64) {
	v := visitOf(c.conn.Context()).back
	if v == nil {
		return
	}
	v.mu.Lock()
	v.owner = &Resumption{Owner: owner, Session: session}
	v.mu.Unlock()
	v.good()
}

// serverTLS is an agent's TLS. Each connection has tickets of its own, so that
// the ticket which it gives can be told from others'.
func serverTLS(cert tls.Certificate) *tls.Config {
	began := time.Now()
	base := &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{nextProto},
		// A router's wall clock jumps; tickets' age does not.
		Time: func() time.Time { return began.Add(time.Since(began)) },
	}
	outer := base.Clone()
	outer.SessionTicketsDisabled = true
	outer.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		v := visitOf(h.Context()).back
		if v == nil {
			return nil, nil
		}
		c := base.Clone()
		c.WrapSession, c.UnwrapSession = v.wrap, v.unwrap
		return c, nil
	}
	return outer
}
