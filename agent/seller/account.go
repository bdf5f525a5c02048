package seller

import (
	"fmt"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
)

// An account is what one session's numbers come to: a value that says how much
// is owed and how far the meter may go. All of it is pure; the session owns it.
type account struct {
	policy agent.CreditPolicy
	tally  agent.Tally // base and price of the session; Up and Down as of the last update

	counted meter.Reading // the agent's own counts of this session
	buyer   agent.Reading // the buyer's last
	rate    uint64        // bytes a second, measured

	paid    channel.Amount // the newest voucher's
	balance channel.Amount
	others  channel.Amount // what the agent may lose by all other channels
	total   channel.Amount // what it may lose by all
}

// begin makes the tally that of the session behind own, which it returns as it came
// to be: if it leaves no use of the session, a buyer whom a crash has cut off is
// billed what was lost by that.
func (a *account) begin(own agent.Tally, h agent.Hello) (_ agent.Tally, err error) {
	a.tally, err = own.Next(h.Price)
	if err != nil || own.Prepaid > 0 || a.overdrawn() == "" {
		return own, err
	}
	deposit := ^channel.Amount(0) // he is asked for more
	if h.Closing {
		deposit = a.balance - min(a.balance, 1)
	}
	own = own.TakeOver(h.Own, a.paid, deposit)
	a.tally, err = own.Next(h.Price)
	return own, err
}

// hear takes over the buyer's reading, whose totals may only rise.
func (a *account) hear(r agent.Reading) error {
	if r.ReceivedTCP < a.buyer.ReceivedTCP || r.ReceivedUDP < a.buyer.ReceivedUDP {
		return fmt.Errorf("reading: received %d, was %d: it went back", r.Received(), a.buyer.Received())
	}
	a.buyer = r
	return nil
}

// update brings the tally to the present counts: uploads by the agent's,
// downloads by the buyer's.
func (a *account) update(counted meter.Reading) {
	a.counted = counted
	a.tally.Up = a.tally.BaseUp + counted.Up()
	a.tally.Down = a.tally.BaseDown + a.received()
}

// received is how much of what was sent down the buyer has: what it says, as
// far as it was sent. A reading may overtake the counting of a write.
func (a *account) received() uint64 {
	return min(a.buyer.ReceivedTCP, a.counted.DownTCP) + min(a.buyer.ReceivedUDP, a.counted.DownUDP)
}

// credit is how much may be owed now.
func (a *account) credit() channel.Amount {
	c := a.policy.Credit(a.tally.Price, a.paid, a.rate)
	if a.others >= a.total {
		return 0
	}
	return min(c, a.total-a.others)
}

// held is how much of what earlier sessions lost counts against this one.
func (a *account) held() uint64 { return held(a.policy, a.tally) }

// held is what a channel's sessions lost over the rate that is forgiven.
func held(p agent.CreditPolicy, t agent.Tally) uint64 { return t.Lost - p.Forgiven(t.Lost, t.Down) }

// overdrawn says what is wrong when more is held against the session than can be
// paid in advance; "" when it is not.
func (a *account) overdrawn() string {
	over, err := a.tally.Overdrawn(a.credit(), a.paid, a.held())
	if err != nil || !over {
		return ""
	}
	price, _ := agent.Tally{Price: a.tally.Price, Down: a.held()}.Owed() // fits: it was compared
	return fmt.Sprintf("earlier sessions of this channel lost %d bytes that were sent and never acknowledged, worth %s USD: "+
		"more than can be paid in advance; end the channel, and begin another", a.held(), price.USD())
}

// forgiven is how much of what was sent in this session and not counted by the
// buyer is forgiven: lost datagrams, up to a rate.
func (a *account) forgiven() uint64 {
	lost := satSub(a.counted.DownUDP, a.buyer.ReceivedUDP)
	return a.policy.Forgiven(lost, min(a.buyer.ReceivedUDP, a.counted.DownUDP))
}

// exposed is what the agent loses if the buyer leaves now and denies what it
// can: what is owed, what was sent and not counted, in this session and before,
// less what is paid.
func (a *account) exposed() channel.Amount {
	t := a.tally
	t.Down = satAdd(t.Down, satAdd(satSub(a.gap(), a.forgiven()), a.held()))
	owed, err := t.Owed()
	if err != nil {
		return ^channel.Amount(0)
	}
	return owed - min(owed, a.paid)
}

// trust is what the buyer is told of the credit: what is left of it beside what is
// held against him.
func (a *account) trust() channel.Amount { return a.tally.Price.Trust(a.credit(), a.held()) }

// debt is what is owed and not paid.
func (a *account) debt() (channel.Amount, error) {
	owed, err := a.tally.Owed()
	if err != nil || owed <= a.paid {
		return 0, err
	}
	return owed - a.paid, nil
}

// gap is how much of what was sent down in this session the buyer has not
// counted: in flight, lost, or denied.
func (a *account) gap() uint64 { return a.counted.Down() - a.received() }

// limit is how many weighted bytes the session's meter may reach.
//
// The meter counts what was sent down, the tally what the buyer received. The
// difference stays within the credit, so that a buyer who denies what it got
// gains no more than that; of it lost datagrams are forgiven up to a rate, and
// what earlier sessions lost is held against this one beyond the same rate.
func (a *account) limit() uint64 {
	price := a.tally.Price
	_, down := price.Weights()
	money, err := a.paid.Add(a.credit())
	if err != nil {
		money = ^channel.Amount(0)
	}
	money = min(money, a.balance)
	if money <= a.tally.Base {
		return 0
	}
	limit := price.Limit(money - a.tally.Base)
	limit = satAdd(limit, satMul(down, a.forgiven()))
	return satSub(limit, satMul(down, a.held()))
}

// close ends the session's tally: what the buyer has not counted by now is
// remembered as lost.
func (a *account) close() agent.Tally {
	t := a.tally
	t.Lost = satAdd(t.Lost, a.gap())
	t.Ended = true
	return t
}

func satAdd(a, b uint64) uint64 {
	if a+b < a {
		return ^uint64(0)
	}
	return a + b
}

func satSub(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

func satMul(a, b uint64) uint64 {
	if a != 0 && b > ^uint64(0)/a {
		return ^uint64(0)
	}
	return a * b
}

// resume is the tally from which a returning buyer's next session goes on: the
// agent's own, or what the buyer proves to be the agent's own and newer, and
// the buyer's admission that it received more than the agent had heard of.
func resume(own agent.Tally, secret [32]byte, id channel.ID, h agent.Hello) agent.Tally {
	t := own
	if proven, err := h.Proof.Open(secret, id); err == nil {
		if proven.Session > t.Session {
			proven.Lost = max(proven.Lost, t.Lost) // this agent's state is an old copy
		}
		t = t.Merge(proven)
	}
	// An admission counts where it is owed for: not before the first session,
	// which has no price. For nothing it would make all that is lost forgiven.
	priced := t.Session > 0 && t.Price.Down > 0
	if priced && h.Own.Session == t.Session && h.Own.Down > t.Down {
		t.Lost = satSub(t.Lost, h.Own.Down-t.Down)
		t.Down = h.Own.Down
	}
	return t
}
