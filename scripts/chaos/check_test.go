package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/embedded"
)

// seen is what was found on the disks so far, by channel: in the agent's journal
// and in the ledger.
type seen struct {
	agent  map[channel.ID]channel.State
	ledger map[channel.ID]channel.Amount // claimed
}

func newSeen() seen {
	return seen{map[channel.ID]channel.State{}, map[channel.ID]channel.Amount{}}
}

// fell names what is less in b than in a, of what a buyer's process shows.
func fell(a, b buyer.Status) []string {
	var faults []string
	for _, v := range []struct {
		name   string
		before uint64
		after  uint64
	}{
		{"session", a.Session, b.Session}, {"up", a.Up, b.Up}, {"down", a.Down, b.Down},
		{"owed", uint64(a.Owed), uint64(b.Owed)}, {"signed", uint64(a.Signed), uint64(b.Signed)},
	} {
		if v.after < v.before {
			faults = append(faults, fmt.Sprintf("the buyer's %s fell from %d to %d", v.name, v.before, v.after))
		}
	}
	return faults
}

// tally books what killing the victims may have cost.
func (m *market) tally(victims []*program) {
	if slices.Contains(victims, m.agent) {
		m.agentKills++
	}
	if slices.Contains(victims, m.buyer) {
		m.wallet().kills++
	}
}

// inspect looks at what the victims left on the disk, before anything is
// started again.
func (m *market) inspect(victims []*program) {
	m.t.Helper()
	for _, v := range victims {
		switch v {
		case m.agent:
			m.inspectAgent()
		case m.buyer:
			m.inspectPayer()
		case m.bank:
			m.inspectLedger()
		}
	}
	m.compareSigned()
}

// inspectAgent reads a copy of the journal: opening it rewrites it.
func (m *market) inspectAgent() {
	m.t.Helper()
	copied := m.t.TempDir()
	m.must(os.CopyFS(copied, os.DirFS(m.path("agent", "channels"))))
	j, err := channel.OpenJournal(copied)
	m.must(err)
	defer j.Close()
	states, err := j.Load()
	m.must(err)
	m.rises("agent", m.seen.agent, states)
	for _, s := range states {
		w := m.walletOf(s.ID)
		w.mu.Lock()
		if accepted := w.accepted; s.Max < accepted {
			m.t.Errorf("the agent said that it took a voucher of %d and has one of %d", accepted, s.Max)
		}
		w.mu.Unlock()
	}
}

// inspectPayer reads a copy of the wallet of the buyer that was killed.
func (m *market) inspectPayer() {
	m.t.Helper()
	w := m.wallet()
	b, err := os.ReadFile(filepath.Join(w.dir, "channels.db"))
	if errors.Is(err, os.ErrNotExist) {
		return // killed before it began
	}
	m.must(err)
	copied := filepath.Join(m.t.TempDir(), "channels.db")
	m.must(os.WriteFile(copied, b, 0o600))
	s, err := bolt.Open(copied)
	m.must(err)
	defer s.Close()
	states, err := s.Load()
	m.must(err)
	m.rises("payer", w.seen, states)
	for _, s := range states {
		if signed := m.signed(w); s.Max < signed {
			m.t.Errorf("a voucher of %d was signed, the wallet knows %d", signed, s.Max)
		}
	}
}

// rises compares states with those seen before: durable totals never fall.
func (m *market) rises(who string, before map[channel.ID]channel.State, states []channel.State) {
	m.t.Helper()
	for id := range before {
		if !slices.ContainsFunc(states, func(s channel.State) bool { return s.ID == id }) {
			m.t.Errorf("the %s has forgotten the channel %s", who, id)
		}
	}
	for _, s := range states {
		old, was := totals(before[s.ID]), totals(s)
		for i, name := range []string{"voucher", "claimed", "refund nonce", "session", "owed", "bytes up", "bytes down"} {
			if was[i] < old[i] {
				m.t.Errorf("the %s's %s fell from %d to %d", who, name, old[i], was[i])
			}
		}
		before[s.ID] = s
	}
}

// totals are the numbers of a state that may not fall.
func totals(s channel.State) [7]uint64 {
	t := tallyOf(s)
	owed, _ := t.Owed() // a test's numbers are far from overflow
	return [...]uint64{uint64(s.Max), uint64(s.Claimed), s.RefundNonce, t.Session, uint64(owed), t.Up, t.Down}
}

// tallyOf is the tally in a state's note; the payer's has 8 bytes behind it.
func tallyOf(s channel.State) (t agent.Tally) {
	if err := t.UnmarshalBinary(s.Note); err != nil && len(s.Note) > 8 {
		_ = t.UnmarshalBinary(s.Note[:len(s.Note)-8])
	}
	return t
}

// signed is the newest voucher that the wallet's buyers signed.
func (m *market) signed(w *wallet) channel.Amount {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "signed"))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	m.must(err)
	var most uint64
	for line := range strings.Lines(string(b)) {
		n, err := strconv.ParseUint(strings.TrimSuffix(line, "\n"), 10, 64)
		if err == nil { // the last may be cut off
			most = max(most, n)
		}
	}
	return channel.Amount(most)
}

// inspectLedger has the ledger audited and compares it with the vouchers.
func (m *market) inspectLedger() {
	m.t.Helper()
	out, err := m.command("x402-facilitator", "audit", "--dir", "ledger").CombinedOutput()
	if err != nil {
		m.t.Errorf("audit: %v: %s", err, out)
	}
	l, err := embedded.OpenReadOnly(m.path("ledger"))
	m.must(err)
	defer l.Close()
	touch := ledger.Touch{Receivers: []channel.Address{m.payTo}, Accounts: []channel.Address{m.payTo}}
	for _, w := range m.wallets {
		touch.Channels = append(touch.Channels, w.id)
		touch.Accounts = append(touch.Accounts, w.key.Address())
	}
	st, err := l.Read(context.Background(), touch)
	m.must(err)
	var sum channel.Amount
	for _, w := range m.wallets {
		c := st.Channels[w.id]
		sum += c.Claimed
		if c.Claimed < m.seen.ledger[w.id] {
			m.t.Errorf("claimed fell from %d to %d", m.seen.ledger[w.id], c.Claimed)
		}
		m.seen.ledger[w.id] = c.Claimed
		if signed := m.signed(w); c.Claimed > signed {
			m.t.Errorf("%d is claimed of %d signed", c.Claimed, signed)
		}
		if held := st.Accounts[w.key.Address()] + c.Balance; held != w.funded {
			m.t.Errorf("the payer's account and channel hold %d, he had %d", held, w.funded)
		}
	}
	r := st.Receivers[m.payTo]
	if r.Claimed != sum {
		m.t.Errorf("%d is claimed for the receiver, from channels %d", r.Claimed, sum)
	}
	if fee := l.Params().Fee(r.Settled); st.Accounts[m.payTo] != r.Settled-fee {
		m.t.Errorf("the receiver has %d of %d settled, the fee is %d", st.Accounts[m.payTo], r.Settled, fee)
	}
}

// compareSigned holds what was signed against what was sent: a buyer owes
// nothing that it did not get, but for one rounding up a session. Only one that
// has crashed may have to pay in advance.
func (m *market) compareSigned() {
	m.t.Helper()
	var signed, owed, advance channel.Amount
	var sessions uint64
	for _, w := range m.wallets {
		signed += m.signed(w)
		w.mu.Lock()
		owed += w.owed
		sessions += w.sessions
		if w.kills > 0 {
			advance += agent.CreditPolicy{}.WithDefaults().Cap
		}
		w.mu.Unlock()
	}
	sent := m.traffic.upSent.Load() + m.traffic.downSent.Load()
	most := cost(sent) + channel.Amount(sessions)
	if owed > most {
		m.t.Errorf("%d is owed for %d bytes, which cost %d", owed, sent, most)
	}
	if signed > most+advance {
		m.t.Errorf("%d is signed for %d bytes, which cost %d, and %d in advance", signed, sent, most, advance)
	}
}

// cost is what bytes cost, rounded up.
func cost(bytes uint64) channel.Amount {
	c := new(big.Int).Mul(new(big.Int).SetUint64(bytes), big.NewInt(perGB))
	c.Add(c, big.NewInt(agent.GB-1)).Div(c, big.NewInt(agent.GB))
	return channel.Amount(c.Uint64())
}

// exposure is what the agent may have lost so far: what is on trust now, and as
// much for each time that its last counts were lost, or a buyer's last voucher;
// and what it forgives of datagrams, which may be late rather than lost.
func (m *market) exposure() channel.Amount {
	times := 1 + m.agentKills
	for _, w := range m.wallets {
		if w.retired {
			times++
		}
	}
	policy := agent.CreditPolicy{}.WithDefaults()
	return channel.Amount(times)*creditA + cost(policy.Forgiven(^uint64(0), m.traffic.echoed.Load()))
}

// compare asks the agent, while all three run, how it sees the channels.
func (m *market) compare() {
	m.t.Helper()
	got := m.traffic.upGot.Load() + m.traffic.downGot.Load()
	e := m.earnings()
	if e.Paid+m.exposure() < cost(got) {
		m.t.Errorf("%d bytes arrived, which cost %d, and %d is paid: more is missing than %d", got, cost(got), e.Paid, m.exposure())
	}
	for _, c := range e.Channels {
		w := m.walletOf(c.Channel)
		if signed := m.signed(w); c.Paid > signed {
			m.t.Errorf("the agent holds a voucher of %d, signed are %d", c.Paid, signed)
		}
		if c.Claimed > c.Paid {
			m.t.Errorf("%d is claimed of %d paid", c.Claimed, c.Paid)
		}
		old := totals(m.seen.agent[c.Channel])
		now := [...]uint64{uint64(c.Paid), uint64(c.Claimed), ^uint64(0), c.Sessions, uint64(c.Owed), c.Up, c.Down}
		for i := range now {
			if now[i] < old[i] {
				m.t.Errorf("the agent's earnings fell below its journal's: %v after %v", now, old)
			}
		}
		w.mu.Lock()
		w.sessions = max(w.sessions, c.Sessions)
		w.mu.Unlock()
	}
	m.compareSigned()
	m.faults()
}

// faults reports what the buyers' output showed.
func (m *market) faults() {
	m.t.Helper()
	for _, w := range m.wallets {
		w.mu.Lock()
		for _, f := range w.faults {
			m.t.Error(f)
		}
		w.faults = nil
		w.mu.Unlock()
	}
}

func (m *market) earnings() (e seller.Earnings) {
	m.t.Helper()
	m.must(seller.DialControl(m.path("agent", "control.sock")).Get(m.ctx, "earnings", &e))
	return e
}

func (m *market) walletOf(id channel.ID) *wallet {
	m.t.Helper()
	for _, w := range m.wallets {
		if w.id == id {
			return w
		}
	}
	m.t.Fatalf("the agent knows a channel %s of nobody", id)
	return nil
}

// reviveBuyer starts the buyer if it is not running, and says so. One that had begun to
// withdraw its deposit, since it could not reach the agent, is done: another
// takes its place.
func (m *market) reviveBuyer() bool {
	m.t.Helper()
	if !m.hub.gone(m.buyer) {
		return false
	}
	w := m.wallet()
	w.mu.Lock()
	last := w.result
	w.mu.Unlock()
	switch {
	case last == nil || last.Error == "": // killed, or done
	case last.Result.WithdrawAt != 0, strings.Contains(last.Error, "a withdrawal from the channel is under way"):
		w.retired = true
		m.newWallet()
	case strings.Contains(last.Error, "facilitator unavailable"):
	default:
		m.t.Fatalf("the buyer gave up: %s\n%s", last.Error, m.hub.tails())
	}
	m.startBuyer()
	return true
}

// close ends everything in order. Then all is paid, claimed and settled, and
// both sides agree to the byte.
func (m *market) close() {
	m.t.Helper()
	m.stopUse()
	m.using.Wait()
	m.buyer.stop(m.ctx, m.t)
	m.faults()
	w := m.wallet()
	if w.result == nil {
		m.t.Fatalf("the buyer said nothing at its end\n%s", m.hub.tails())
	}
	r, e := *w.result.Result, m.earnings()
	m.t.Logf("in the end: %s; the last buyer %+v; earnings %d owed, %d paid, %d claimed, %d bytes lost", m.traffic, r, e.Owed, e.Paid, e.Claimed, e.Lost)
	for _, c := range e.Channels {
		if c.Channel != w.id {
			continue
		}
		// Who lost much in crashes has paid in advance.
		if ahead := c.Lost > c.Down/20; r.Owed != r.Claimed || r.Signed != r.Owed && !ahead || r.Signed < r.Owed {
			m.t.Errorf("owed %d, signed %d, claimed %d", r.Owed, r.Signed, r.Claimed)
		}
		if c.Up != r.Up || c.Down != r.Down || c.Owed != r.Owed || c.Paid != r.Signed || c.Claimed != r.Claimed {
			m.t.Errorf("the agent counts %+v, the buyer %+v", c, r)
		}
	}
	m.agent.stop(m.ctx, m.t) // which claims and settles the rest
	m.inspectAgent()
	m.inspectPayer()
	for id, s := range m.seen.agent {
		t := tallyOf(s)
		if owed, _ := t.Owed(); s.Claimed != min(owed, s.Max) {
			m.t.Errorf("channel %s: owed %d, paid %d, claimed %d", id, owed, s.Max, s.Claimed)
		}
	}
	m.bank.stop(m.ctx, m.t)
	m.inspectLedger()
	for id, s := range m.seen.agent {
		if claimed := m.seen.ledger[id]; claimed != s.Claimed {
			m.t.Errorf("channel %s: the agent claimed %d, the ledger says %d", id, s.Claimed, claimed)
		}
	}
}
