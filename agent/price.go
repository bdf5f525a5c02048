// Package agent holds what the seller and the buyer of traffic must agree on:
// the offer, the price, the running totals of a channel and the capsules of the
// control stream. Its subpackages seller and buyer are the two composition
// roots.
package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/depinsim/x402/channel"
)

// GB is the unit of prices.
const GB = 1_000_000_000

// A Price is what a gigabyte (1e9 bytes) of each direction costs, in atomic
// units of the asset.
type Price struct {
	Up   channel.Amount `json:"up"`
	Down channel.Amount `json:"down"`
}

// MaxPrice bounds both directions: a million USD per GB, far from where the
// meter's sums could overflow.
const MaxPrice = 1_000_000_000_000

// Check refuses a price out of range.
func (p Price) Check() error {
	if max(p.Up, p.Down) > MaxPrice {
		return fmt.Errorf("price %s/%s per GB is over %s", p.Up, p.Down, channel.Amount(MaxPrice))
	}
	return nil
}

// Max is the dearer direction's price.
func (p Price) Max() channel.Amount { return max(p.Up, p.Down) }

// Raised is p at so many percent, rounded up.
func (p Price) Raised(percent uint64) Price {
	raise := func(a channel.Amount) channel.Amount {
		hi, lo := bits.Mul64(uint64(a), percent)
		lo, carry := bits.Add64(lo, 99, 0)
		if hi += carry; hi >= 100 {
			return math.MaxUint64
		}
		q, _ := bits.Div64(hi, lo, 100)
		return channel.Amount(q)
	}
	return Price{Up: raise(p.Up), Down: raise(p.Down)}
}

// errOverflow says that a sum of money does not fit.
var errOverflow = fmt.Errorf("price: %w", channel.ErrOverflow)

// cost is what up and down bytes cost, rounded up to a whole atomic unit. It
// is the only place where bytes become money.
func (p Price) cost(up, down uint64) (channel.Amount, error) {
	uhi, ulo := bits.Mul64(up, uint64(p.Up))
	dhi, dlo := bits.Mul64(down, uint64(p.Down))
	lo, carry := bits.Add64(ulo, dlo, 0)
	hi, over := bits.Add64(uhi, dhi, carry)
	if over != 0 || hi >= GB {
		return 0, errOverflow
	}
	lo, carry = bits.Add64(lo, GB-1, 0) // round up, in the seller's favour, once
	if hi += carry; hi == GB {
		return 0, errOverflow
	}
	q, _ := bits.Div64(hi, lo, GB)
	return channel.Amount(q), nil
}

// Weights are what one byte of each direction takes from a meter's limit: the
// prices without their common factor.
func (p Price) Weights() (up, down uint64) {
	g := p.factor()
	return uint64(p.Up) / g, uint64(p.Down) / g
}

// Limit is how many weighted bytes amount pays for, rounded down.
func (p Price) Limit(amount channel.Amount) uint64 {
	hi, lo := bits.Mul64(uint64(amount), GB)
	g := p.factor()
	if hi >= g {
		return math.MaxUint64
	}
	q, _ := bits.Div64(hi, lo, g)
	return q
}

func (p Price) factor() uint64 {
	a, b := uint64(p.Up), uint64(p.Down)
	for b != 0 {
		a, b = b, a%b
	}
	return max(a, 1)
}

// A Tally is what a channel owes and how it came to that: the running totals
// of its newest session on top of what the sessions before came to. It is
// stored with every voucher, on both sides, so that both can go on from it.
type Tally struct {
	// Session counts the sessions of the channel; 0 before the first.
	Session uint64
	Price   Price
	// Base is what was owed when the session began, BaseUp and BaseDown the
	// channel's billed bytes then.
	Base             channel.Amount
	BaseUp, BaseDown uint64
	// Up and Down are the channel's billed bytes, those of the session included.
	Up, Down uint64
	// Lost is what the agent sent in all sessions that have ended and the
	// buyer never counted.
	Lost uint64
	// Ended says that the session ended and its totals are complete on the
	// side that keeps this tally.
	Ended bool
	// Prepaid is how many bytes a token may carry that was sold for the channel;
	// zero: none was. Then the channel's sessions carry nothing, Up and Down are
	// the token's, and it is the agent alone that keeps such a tally.
	Prepaid uint64
	// Void says that the token carries no more.
	Void bool
}

// Owed is what the channel owes: the base and the session's running totals at
// its price, rounded up once.
func (t Tally) Owed() (channel.Amount, error) {
	cost, err := t.Price.cost(t.Up-t.BaseUp, t.Down-t.BaseDown)
	if err != nil {
		return 0, err
	}
	return t.Base.Add(cost)
}

// Empty reports whether nothing has passed in the session.
func (t Tally) Empty() bool { return t.Up == t.BaseUp && t.Down == t.BaseDown }

// Next is the tally of a new session at price p that goes on from t.
func (t Tally) Next(p Price) (Tally, error) {
	owed, err := t.Owed()
	if err != nil {
		return Tally{}, err
	}
	return Tally{
		Session: t.Session + 1, Price: p,
		Base: owed, BaseUp: t.Up, BaseDown: t.Down, Up: t.Up, Down: t.Down, Lost: t.Lost,
	}, nil
}

// Merge takes over totals of the same session that a peer has proven: each
// total is the larger of the two. A tally of an older session changes nothing,
// one of a newer session replaces t.
func (t Tally) Merge(o Tally) Tally {
	switch {
	case o.Session < t.Session:
		return t
	case o.Session > t.Session:
		return o
	}
	t.Up, t.Down = max(t.Up, o.Up), max(t.Down, o.Down)
	return t
}

// TakeOver bills what was lost to a buyer whose counts a crash has cut off, and
// who cannot say what came: as far as he pays for it, which is up to the largest
// credit above his own counts (docs/PROTOCOL.md, section 6). paid is what he has
// signed for, deposit what there is to pay from.
func (t Tally) TakeOver(own Counts, paid, deposit channel.Amount) Tally {
	if !own.Cut || own.Session != t.Session || t.Session == 0 || t.Price.Down == 0 {
		return t
	}
	his := t
	his.Up, his.Down = max(own.Up, t.BaseUp), max(own.Down, t.BaseDown)
	known, err := his.Owed()
	owed, oerr := t.Owed()
	most, merr := known.Add(MostCredit(t.Price, paid))
	most = min(most, deposit)
	if err != nil || oerr != nil || merr != nil || owed >= most {
		return t
	}
	n := min(t.Lost, Price{Down: t.Price.Down}.Limit(most-owed))
	t.Down, t.Lost = t.Down+n, t.Lost-n
	return t
}

const (
	tallyVersion = 1
	tallySize    = 1 + 9*8 + 1

	prepaidVersion = 2 // that of a token's: Prepaid follows
	prepaidSize    = tallySize + 8
	flagEnded      = 1
	flagVoid       = 2
)

// MarshalBinary encodes t in fixed size, to stand in a voucher's record.
func (t Tally) MarshalBinary() ([]byte, error) {
	b := t.append(make([]byte, 0, prepaidSize))
	if t.Prepaid == 0 {
		return b, nil
	}
	b[0] = prepaidVersion
	if t.Void {
		b[tallySize-1] |= flagVoid
	}
	return binary.BigEndian.AppendUint64(b, t.Prepaid), nil
}

// append encodes all of t but what is a token's.
func (t Tally) append(b []byte) []byte {
	b = append(b, tallyVersion)
	for _, v := range [...]uint64{
		t.Session, uint64(t.Price.Up), uint64(t.Price.Down), uint64(t.Base),
		t.BaseUp, t.BaseDown, t.Up, t.Down, t.Lost,
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	if t.Ended {
		return append(b, flagEnded)
	}
	return append(b, 0)
}

// UnmarshalBinary decodes what MarshalBinary wrote. Empty input is the zero
// tally: a channel that has had no session.
func (t *Tally) UnmarshalBinary(b []byte) error {
	if len(b) == 0 {
		*t = Tally{}
		return nil
	}
	size, flags := tallySize, byte(flagEnded)
	switch b[0] {
	case tallyVersion:
	case prepaidVersion:
		size, flags = prepaidSize, flagEnded|flagVoid
	default:
		return fmt.Errorf("tally: version %d, this program knows %d", b[0], prepaidVersion)
	}
	if len(b) != size || b[tallySize-1] > flags {
		return errors.New("tally: malformed")
	}
	var v [9]uint64
	for i := range v {
		v[i] = binary.BigEndian.Uint64(b[1+8*i:])
	}
	got := Tally{
		Session: v[0], Price: Price{Up: channel.Amount(v[1]), Down: channel.Amount(v[2])},
		Base: channel.Amount(v[3]), BaseUp: v[4], BaseDown: v[5], Up: v[6], Down: v[7], Lost: v[8],
		Ended: b[tallySize-1]&flagEnded != 0, Void: b[tallySize-1]&flagVoid != 0,
	}
	if size == prepaidSize {
		got.Prepaid = binary.BigEndian.Uint64(b[tallySize:])
		if got.Prepaid == 0 || got.Prepaid > MaxTokenBytes {
			return errors.New("tally: a token's without its bytes")
		}
	}
	if got.Up < got.BaseUp || got.Down < got.BaseDown || got.Price.Check() != nil {
		return errors.New("tally: totals below their base, or a price out of range")
	}
	*t = got
	return nil
}
