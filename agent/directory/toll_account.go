package directory

import (
	"fmt"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// An account is what one payer's numbers come to: a value that says how much is
// owed and how far his packets may go. All of it is pure; the stay owns it.
//
// Up is what was passed on to the agent. Down is what the buyer says has
// arrived, of what was passed on to it: datagrams that were lost behind the
// relay are not billed, up to a rate not held against anybody, and beyond it
// held against the credit.
type account struct {
	policy agent.CreditPolicy
	tally  agent.Tally // base and price; Up and Down as of the last update

	up, down uint64 // passed on since the account was opened
	received uint64 // of down, by the buyer's count
	rate     uint64 // bytes a second, measured

	paid    channel.Amount // the newest voucher's
	balance channel.Amount
	others  channel.Amount // what the relay may lose by all other accounts
	total   channel.Amount // what it may lose by all
}

// hear takes over the buyer's count, which may only rise.
func (a *account) hear(received uint64) error {
	if received < a.received {
		return fmt.Errorf("received %d, was %d: it went back", received, a.received)
	}
	a.received = received
	return nil
}

// update brings the tally to the present counts.
func (a *account) update(up, down uint64) {
	a.up, a.down = up, down
	a.tally.Up = a.tally.BaseUp + up
	a.tally.Down = a.tally.BaseDown + min(a.received, down)
}

// gap is how much of what was sent down the buyer has not counted: under way,
// lost, or denied.
func (a *account) gap() uint64 { return a.down - min(a.received, a.down) }

// forgiven is how much of the gap is held against nobody.
func (a *account) forgiven() uint64 { return a.policy.Forgiven(a.gap(), min(a.received, a.down)) }

// held is how much of what former accounts of the channel lost counts against
// this one.
func (a *account) held() uint64 { return a.tally.Lost - a.policy.Forgiven(a.tally.Lost, a.tally.Down) }

// credit is how much may be owed now.
func (a *account) credit() channel.Amount {
	if a.others >= a.total {
		return 0
	}
	return min(a.policy.Credit(a.tally.Price, a.paid, a.rate), a.total-a.others)
}

// limit is how many bytes may have passed, both directions together.
func (a *account) limit() uint64 {
	money, err := a.paid.Add(a.credit())
	if err != nil {
		money = ^channel.Amount(0)
	}
	if money = min(money, a.balance); money <= a.tally.Base {
		return 0
	}
	n := satAdd(bytesFor(a.tally.Price.Up, money-a.tally.Base), a.forgiven())
	return n - min(n, a.held())
}

// bytesFor is how many bytes an amount pays for, rounded down.
func bytesFor(price, amount channel.Amount) uint64 { return agent.Price{Up: price}.Limit(amount) }

// trust is what the buyer is told of the credit: what is left of it beside what is
// held against him.
func (a *account) trust() channel.Amount { return a.tally.Price.Trust(a.credit(), a.held()) }

// overdrawn says whether more is held against the account than can be paid in
// advance.
func (a *account) overdrawn() bool {
	over, err := a.tally.Overdrawn(a.credit(), a.paid, a.held())
	return err != nil || over
}

// exposed is what the relay loses if the buyer leaves now and denies what it can.
func (a *account) exposed() channel.Amount {
	t := a.tally
	t.Down = satAdd(t.Down, satAdd(a.gap()-a.forgiven(), a.held()))
	owed, err := t.Owed()
	if err != nil {
		return ^channel.Amount(0)
	}
	return owed - min(owed, a.paid)
}

// close ends the tally: what the buyer has not counted by now is remembered.
func (a *account) close() {
	a.tally.Lost = satAdd(a.tally.Lost, a.gap())
	a.down, a.received = min(a.down, a.received), min(a.down, a.received) // the gap is in Lost
	a.tally.Ended = true
}

// resume is the tally that an account goes on from: the relay's own, and what
// the buyer admits beyond it, of the same account, after a crash of the relay.
func resume(own agent.Tally, h agent.Hello, claimed channel.Amount) agent.Tally {
	if own.Session == 0 && claimed > own.Base { // all was lost: the ledger's claim is the least that is owed
		own.Base = claimed
	}
	if own.Session > 0 && h.Own.Session == own.Session {
		if h.Own.Down > own.Down {
			own.Lost -= min(own.Lost, h.Own.Down-own.Down)
			own.Down = h.Own.Down
		}
		own.Up = max(own.Up, h.Own.Up)
	}
	return own
}

// charged is how much of a channel may be claimed: what is owed, as far as
// vouchers cover it.
func charged(s channel.State) (channel.Amount, error) {
	var t agent.Tally
	err := t.UnmarshalBinary(s.Note)
	var owed channel.Amount
	if err == nil {
		owed, err = t.Owed()
	}
	if err != nil {
		return 0, fmt.Errorf("channel %.10s: %w", s.ID, err)
	}
	return max(min(owed, s.Max, s.Balance), s.Claimed), nil
}

func satAdd(a, b uint64) uint64 {
	if a+b < a {
		return ^uint64(0)
	}
	return a + b
}
