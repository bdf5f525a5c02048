package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
)

// nano is how many of an account's smallest parts are a unit of the asset: what
// a byte costs at a price of 1 unit per GB.
const nano = agent.GB

// maxCredit bounds what is paid into an account in all, 9,000 USD, so that it
// fits 63 bits in its smallest parts.
const maxCredit channel.Amount = 9_000_000_000

// An accountID is the hash of an account's token.
type accountID [sha256.Size]byte

func idOf(token string) accountID { return sha256.Sum256([]byte(token)) }

// A record is what is stored of an account.
type record struct {
	Version int          `json:"version"`
	Secret  channel.Hash `json:"secret"` // of the password
	// Payer is who is given back what was not spent; zero: nobody, the operator
	// gave the credit.
	Payer    channel.Address `json:"payer,omitzero"`
	Paid     channel.Amount  `json:"paid"`
	Refunded channel.Amount  `json:"refunded,omitzero"`
	// Price is the most that a GB may cost, the gateway's fee included.
	Price   channel.Amount `json:"price"`
	Spent   uint64         `json:"spent"` // nano of a unit
	Up      uint64         `json:"up"`    // bytes
	Down    uint64         `json:"down"`
	Created int64          `json:"created"` // Unix seconds
	Expires int64          `json:"expires"`
	Allow   []netip.Prefix `json:"allow,omitempty"` // who may use it; empty: whoever knows the password
	Choice  choice         `json:"choice,omitzero"` // where nothing else is chosen
	Memo    string         `json:"memo,omitempty"`  // the operator's
	Refund  *refund        `json:"refund,omitempty"`
	Closed  bool           `json:"closed,omitempty"`
	// Pending is that of a sale whose payment is not booked: it is none yet.
	Pending bool `json:"pending,omitempty"`
}

const recordVersion = 1

func parseRecord(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("account: %w", err)
	}
	switch {
	case r.Version != recordVersion:
		return r, fmt.Errorf("account: version %d, this program knows %d", r.Version, recordVersion)
	case r.Paid > maxCredit || r.Refunded > r.Paid || r.Spent > r.limit():
		return r, errors.New("account: more is spent than was paid")
	}
	return r, nil
}

// limit is how much may be spent, in nano of a unit.
func (r record) limit() uint64 { return uint64(r.Paid-r.Refunded) * nano }

// left is what can be given back: what was not spent, rounded down.
func (r record) left() channel.Amount { return channel.Amount((r.limit() - r.Spent) / nano) }

// bytesLeft is how many bytes are left at the highest price; with a cheaper exit
// there are more.
func (r record) bytesLeft() uint64 { return bytesAt(r.limit()-r.Spent, r.Price) }

// bytesAt is how many bytes are paid for by so many nano of a unit.
func bytesAt(parts uint64, price channel.Amount) uint64 { return parts / max(uint64(price), 1) }

// expired says whether the account's time is over.
func (r record) expired(now time.Time) bool { return now.Unix() >= r.Expires }

// opens says whether the password is the account's.
func (r record) opens(password string) bool {
	got := sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(got[:], r.Secret[:]) == 1
}

// allows says whether the account may be used from an address.
func (r record) allows(from netip.Addr) bool {
	for _, p := range r.Allow {
		if p.Contains(from) {
			return true
		}
	}
	return len(r.Allow) == 0
}

// priceOf is what bytes cost, in units: rounded up, at least 1.
func priceOf(bytes uint64, price channel.Amount) (channel.Amount, error) {
	hi, lo := bits.Mul64(bytes, uint64(price))
	lo, carry := bits.Add64(lo, nano-1, 0)
	if hi += carry; hi >= nano {
		return 0, channel.ErrOverflow
	}
	q, _ := bits.Div64(hi, lo, nano)
	return max(channel.Amount(q), 1), nil
}

// unsavedMost is how many bytes of an account may be counted and not stored:
// flows wait beyond that. It is what a crash of the gateway gives away.
const unsavedMost = 4 << 20

// An account is one that is in use. Its counts are ahead of its record by up to
// unsavedMost bytes.
type account struct {
	id   accountID
	book *book

	limit atomic.Uint64 // of taken, in nano of a unit
	taken atomic.Uint64 // spent, or reserved by flows; and ended, once nothing is taken any more
	spent atomic.Uint64
	up    atomic.Uint64
	down  atomic.Uint64
	// stored is how many bytes, of both directions, the record knows.
	stored atomic.Uint64

	// Guarded by book.mu.
	record record // as stored, but for the counts
	flows  int
	used   time.Time
}

var (
	errSpent = errors.New("the credit is used up")
	errEnded = errors.New("the credit has expired or was given back")
)

// ended is the part of account.taken that says that nothing is taken any more:
// what was taken before is all that can have been spent.
const ended = 1 << 63

// reserve takes what n bytes cost, and waits until the counts may run ahead of
// the disk by that.
func (a *account) reserve(ctx context.Context, cost uint64) error {
	for {
		t := a.taken.Load()
		switch limit := a.limit.Load(); {
		case t&ended != 0:
			return errEnded
		case t > limit || cost > limit-t:
			return errSpent
		}
		if a.taken.CompareAndSwap(t, t+cost) {
			break
		}
	}
	switch u := a.unsaved(); {
	case u >= unsavedMost:
		if err := a.book.awaitSave(ctx, a); err != nil {
			a.taken.Add(-cost)
			return err
		}
	case u >= unsavedMost/2:
		a.book.saveSoon()
	}
	return nil
}

func (a *account) unsaved() uint64 { return a.up.Load() + a.down.Load() - a.stored.Load() }

// A lane counts one direction of the flows that leave by one exit.
type lane struct {
	a     *account
	bytes *atomic.Uint64 // the account's
	all   *atomic.Uint64 // the gateway's
	price uint64         // for 1e9 bytes, and so the nano of a unit for one
}

var _ tunnel.Lane = lane{}

// Reserve and Deliver are tunnel.Lane's. A piece has at most 64 KiB, and no
// price exceeds agent.MaxPrice with its fee, so nothing overflows.
func (l lane) Reserve(ctx context.Context, n int) error {
	return l.a.reserve(ctx, uint64(n)*l.price)
}

func (l lane) Deliver(reserved, delivered int) {
	if delivered > 0 {
		l.a.spent.Add(uint64(delivered) * l.price)
		l.bytes.Add(uint64(delivered))
		l.all.Add(uint64(delivered))
	}
	if less := reserved - delivered; less > 0 {
		l.a.taken.Add(-uint64(less) * l.price)
	}
}

// lanes count what leaves by an exit at a price.
func (a *account) lanes(p agent.Price) tunnel.Lanes {
	c := a.book.counts
	up, down := lane{a, &a.up, &c.up, uint64(p.Up)}, lane{a, &a.down, &c.down, uint64(p.Down)}
	return tunnel.Lanes{UpTCP: up, DownTCP: down, UpUDP: up, DownUDP: down}
}
