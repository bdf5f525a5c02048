package buyer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
)

// A purse is what one session's numbers come to for the buyer: a value that
// says how much is owed by the buyer's own counts and how much to sign. All of
// it is pure; the session owns it.
type purse struct {
	tally   agent.Tally   // base and price of the session; Up and Down as of the last update
	counted meter.Reading // the buyer's own counts of this session
	agent   agent.Reading // the agent's last
	credit  channel.Amount
	signed  channel.Amount // the newest voucher's
	balance channel.Amount
	most    channel.Amount // signed never exceeds it: the budget
	known   bool           // the terms have come: tally is the session's
	// pending is the price of a rotation that was asked for: it may be owed
	// already, and is paid for in advance.
	pending channel.Amount
}

// update brings the tally to the present counts: downloads by the buyer's,
// uploads by the agent's, of which its own are the ceiling.
func (p *purse) update(counted meter.Reading) {
	p.counted = counted
	if p.known {
		p.tally.Up = p.tally.BaseUp + min(p.agent.Received(), counted.Up())
		p.tally.Down = p.tally.BaseDown + counted.Down()
	}
}

// overcounted reports whether the agent counts more uploads than were sent and
// are being written: a piece arrives bit by bit, and is counted here as a whole.
func (p *purse) overcounted(underWay uint64) bool {
	return p.agent.Received() > p.counted.Up()+underWay
}

// pay is the amount that the next voucher should be for, or zero when none is
// due: never more than is owed by the own counts and paid in advance, the budget
// or the deposit. Unless now, vouchers wait for half of the credit.
func (p *purse) pay(now, wanting bool) (channel.Amount, error) {
	if !p.known {
		return 0, nil
	}
	owed, err := p.tally.Owed()
	if err != nil {
		return 0, err
	}
	ahead := p.advance(owed, wanting)
	if owed, err = owed.Add(ahead.Plus(p.pending)); err != nil {
		return 0, err
	}
	amount := min(owed, p.most, p.balance)
	if amount <= p.signed || !now && amount-p.signed < max(p.credit, ahead)/2 {
		return 0, nil
	}
	return amount, nil
}

// advance is what to pay before it is owed, for flows that want more: nothing
// while the agent gives credit. One that gives none, because of what this buyer
// lost when it crashed or was cut off, or because it has given too much to
// others, is trusted with as much as it would give otherwise.
func (p *purse) advance(owed channel.Amount, wanting bool) channel.Amount {
	if p.credit > 0 || !wanting {
		return 0
	}
	return agent.MostCredit(p.tally.Price, owed) // not by what is signed, which it raises
}

// spent reports whether the budget is used up, but for a margin that the
// traffic under way may still cost.
func (p *purse) spent() bool {
	if !p.known {
		return false
	}
	owed, err := p.tally.Owed()
	margin := min(p.credit/8, p.most/50)
	return err != nil || owed >= p.most-margin
}

// A memory is what the buyer keeps of a channel besides its vouchers: the
// tally by its own counts, how far uploads may at most have come, and a deposit
// of which it does not know what came of it.
type memory struct {
	tally   agent.Tally
	ceiling uint64 // like tally.Up, but by what was sent
	draft   draft
}

// marshal encodes the memory: tally, ceiling, and a draft if there is one. With
// a draft it is as long as a channel's note may be.
func (m memory) marshal() ([]byte, error) {
	b, err := m.tally.MarshalBinary()
	return m.draft.append(binary.BigEndian.AppendUint64(b, m.ceiling)), err
}

func (m *memory) unmarshal(b []byte) error {
	if len(b) == 0 {
		*m = memory{}
		return nil
	}
	if len(b) < noteSize {
		return errors.New("channel record: truncated")
	}
	got := memory{ceiling: binary.BigEndian.Uint64(b[noteSize-8:])}
	if err := got.draft.parse(b[noteSize:]); err != nil {
		return err
	}
	if err := got.tally.UnmarshalBinary(b[:noteSize-8]); err != nil {
		return err
	}
	*m = got
	return nil
}

// noteSize is that of a memory without a draft.
const noteSize = 1 + 9*8 + 1 + 8

// memory is what to store of the session as it stands.
func (p *purse) memory(ended bool) memory {
	m := memory{tally: p.tally, ceiling: p.tally.BaseUp + p.counted.Up()}
	m.tally.Ended = ended
	m.tally.Base = m.tally.Base.Plus(p.pending)
	return m
}

// begun is what to store before a hello: of a session that has no end yet, though
// its terms may never come to be stored. Its price is then of no use but to say so
// where there was no session before.
func (m memory) begun(offered agent.Price) memory {
	if m.tally.Ended = false; m.tally.Session == 0 && m.tally.Price == (agent.Price{}) {
		m.tally.Price = offered
	}
	return m
}

// cut says whether this is of a session that did not end: the buyer crashed.
func (m memory) cut() bool {
	return !m.tally.Ended && (m.tally.Session > 0 || m.tally.Price != agent.Price{})
}

// remember adds a session that never learnt its terms to what was known. It
// may have been served at up to the price that was offered, unlike what was
// counted before: that is folded into the base at its own price.
func (m memory) remember(counted meter.Reading, offered agent.Price) (memory, error) {
	if counted == (meter.Reading{}) {
		return m, nil
	}
	t := m.tally
	t.Up = max(t.Up, m.ceiling)
	owed, err := t.Owed()
	if err != nil {
		return m, err
	}
	t.Price = agent.Price{Up: max(t.Price.Up, offered.Up), Down: max(t.Price.Down, offered.Down)}
	t.Base, t.BaseUp, t.BaseDown = owed, t.Up, t.Down
	t.Up += counted.Up()
	t.Down += counted.Down()
	return memory{tally: t, ceiling: t.Up, draft: m.draft}, nil
}

// maxTotal bounds a channel's bytes, so that no sum of them can overflow.
const maxTotal = 1 << 62

// check holds the terms of a new session against what the buyer knows. The
// base may be no more than what it counted itself came to; after a crash of its
// own, which loses the last counts, it may exceed that by the credit. A voucher
// of the buyer's own proves the base up to its amount, but only to one who lost
// the record of it: with the record came the counts, and a voucher may pay for
// something in advance.
func (m memory) check(t agent.Terms, offered agent.Price, signed channel.Amount, proven channel.Amount) error {
	if t.Version != agent.ProtocolVersion {
		return &agent.VersionError{Theirs: []int{t.Version}}
	}
	if t.Price.Up > offered.Up || t.Price.Down > offered.Down {
		return fmt.Errorf("the agent asks %s/%s per GB, its offer was %s/%s", t.Price.Up, t.Price.Down, offered.Up, offered.Down)
	}
	if max(t.BaseUp, t.BaseDown) > maxTotal {
		return fmt.Errorf("the agent claims %d bytes up and %d down from before", t.BaseUp, t.BaseDown)
	}
	own := m.tally
	own.Up = max(own.Up, m.ceiling)
	bound, err := own.Owed()
	if err != nil {
		return err
	}
	if m.cut() {
		dearer := agent.Price{Up: max(own.Price.Up, offered.Up), Down: max(own.Price.Down, offered.Down)}
		bound, err = bound.Add(agent.MostCredit(dearer, signed))
		if err != nil {
			return err
		}
	}
	if proven > signed {
		bound = max(bound, proven)
	}
	if t.Base > bound {
		return fmt.Errorf("the agent claims that %s USD are owed from before, by our own count it is at most %s", t.Base.USD(), bound.USD())
	}
	return nil
}
