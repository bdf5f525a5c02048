package buyer

import (
	"sync"
	"time"

	"github.com/depinsim/x402/channel"
)

// Status is how a purchase stands. Amounts are in atomic units, sizes in bytes.
type Status struct {
	State      string         `json:"state"` // depositing, connecting, connected, reconnecting, finishing
	Error      string         `json:"error,omitempty"`
	Notice     string         `json:"notice,omitempty"`    // the agent's last, or a trouble of our own
	Transport  string         `json:"transport,omitempty"` // of the connection, or of the last: QUIC or TLS
	Relay      string         `json:"relay,omitempty"`     // that it goes by now; "": none
	Direct     bool           `json:"direct"`              // it goes by none
	Resumed    bool           `json:"resumed"`             // what was sent before the handshake was served (0-RTT)
	Exit       *Exit          `json:"exit,omitempty"`      // where traffic leaves, if that was asked
	Session    uint64         `json:"session"`
	Flows      int            `json:"flows"`
	Rate       uint64         `json:"rate"` // bytes a second, both directions
	Up         uint64         `json:"up"`   // of the channel, billed
	Down       uint64         `json:"down"`
	Owed       channel.Amount `json:"owed"`
	Signed     channel.Amount `json:"signed"`
	Accepted   channel.Amount `json:"accepted"` // of what is signed, by the agent
	BudgetLeft channel.Amount `json:"budgetLeft"`
	Balance    channel.Amount `json:"balance"`          // of the channel
	Relays     []RelayStatus  `json:"relays,omitempty"` // that are paid
}

// A statusBoard holds the newest status.
type statusBoard struct {
	mu sync.Mutex
	s  Status
}

func (b *statusBoard) set(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.s)
}

func (b *statusBoard) get() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.s
}

// showRoute says how the agent is reached now.
func (b *Buyer) showRoute(l *link) {
	relay := l.relay()
	b.status.set(func(s *Status) {
		s.Transport, s.Relay, s.Direct, s.Resumed = l.transport, relay, relay == "", l.resumed()
	})
}

func (b *Buyer) report(s Status) {
	if b.cfg.OnStatus != nil {
		b.cfg.OnStatus(s)
	}
}

// measure keeps the rate for the display.
func (x *session) measure(now time.Time) {
	if elapsed := now.Sub(x.sampled); elapsed >= 250*time.Millisecond {
		total := x.purse.counted.Up() + x.purse.counted.Down()
		x.rate = (total - x.sample) * 1000 / uint64(elapsed.Milliseconds())
		x.sampled, x.sample = now, total
		x.b.showRoute(x.conn)
		defer func() { x.b.report(x.b.status.get()) }()
	}
}

func (x *session) show() {
	x.b.status.set(func(s *Status) {
		s.Rate, s.Flows = x.rate, x.client.Flows()
		if x.purse.known {
			x.purse.show(s)
			s.Relays = x.b.reach.fares.status()
		}
	})
}

// show puts the amounts of a session whose terms are known into s.
func (p *purse) show(s *Status) {
	owed, _ := p.tally.Owed() // shown only
	s.Up, s.Down, s.Owed, s.Signed, s.Accepted = p.tally.Up, p.tally.Down, owed, p.signed, p.agent.Paid
	s.BudgetLeft, s.Balance = p.most-min(p.most, max(owed, p.signed)), p.balance
}
