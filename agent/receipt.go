package agent

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/depinsim/x402/channel"
)

// A Receipt is what an agent states about one session of a channel, signed by its
// device key: who bought from whom, how many bytes, at what price, and by which
// voucher that is paid. With what is in it anybody can check it, without asking
// anybody (docs/PROTOCOL.md, section 16).
//
// Its totals only rise: of two receipts of one session the one that has more
// stands for both.
type Receipt struct {
	Domain channel.Domain
	Config channel.Config // its receiverAuthorizer is the agent that signs
	// Total is the channel's running total at the session's end, or where the
	// session has got to. Of it the receipt has Session, Price, Base, BaseUp,
	// BaseDown, Up and Down; the rest is zero.
	Total Tally
	// Max is what the newest voucher allows, and Voucher its signature; zero when
	// the agent holds none.
	Max     channel.Amount
	Voucher channel.Signature
	// Time is when it was made by the agent's clock, which may be wrong: Unix
	// seconds, 0 for not known.
	Time      uint64
	Signature channel.Signature
}

const (
	receiptVersion = 1
	receiptBody    = 1 + channel.ConfigSize + 9*8 + 65 + 8

	// ReceiptSize is how many bytes AppendReceipt appends.
	ReceiptSize = receiptBody + 65

	// maxTime is the last second of the year 9999, beyond which there is no text
	// of a time.
	maxTime = 253_402_300_799
)

// NewReceipt returns the receipt, not signed yet, of a session that has brought a
// channel to t.
func NewReceipt(s channel.State, t Tally, time uint64) Receipt {
	t.Lost, t.Ended, t.Prepaid, t.Void = 0, false, 0, false
	r := Receipt{Domain: s.Domain, Config: s.Config, Total: t, Time: time}
	if v, ok := s.Voucher(); ok {
		r.Max, r.Voucher = v.Max, v.Signature
	}
	return r
}

// Sign returns r signed by the agent's key.
func (r Receipt) Sign(k *channel.Key) Receipt {
	r.Signature = k.Sign(receiptDigest(r.appendBody(make([]byte, 0, receiptBody))))
	return r
}

func receiptDigest(body []byte) channel.Hash {
	return channel.Keccak256([]byte("x402 receipt v1\n"), body)
}

// Channel is the channel that r is of.
func (r Receipt) Channel() channel.ID { return r.Domain.ID(r.Config) }

// Amounts are what the session's bytes cost, and what the channel owes by then
// beyond the voucher.
func (r Receipt) Amounts() (session, unpaid channel.Amount) {
	owed, _ := r.Total.Owed() // fits: see check
	return owed - min(owed, r.Total.Base), owed - min(owed, r.Max)
}

// Same reports whether r and o state the same, whenever they were made.
func (r Receipt) Same(o Receipt) bool {
	r.Time, r.Signature = o.Time, o.Signature
	return r == o
}

// Supersedes reports whether r, of the same session as o, stands for both.
func (r Receipt) Supersedes(o Receipt) bool {
	a, b := r.Total, o.Total
	return a.Up > b.Up || a.Down > b.Down || a.Base > b.Base || r.Max > o.Max
}

// AppendReceipt encodes a receipt.
func AppendReceipt(b []byte, r Receipt) []byte { return append(r.appendBody(b), r.Signature[:]...) }

// appendBody encodes what is signed.
func (r Receipt) appendBody(b []byte) []byte {
	b = channel.AppendConfig(append(b, receiptVersion), r.Domain, r.Config)
	t := r.Total
	for _, v := range [...]uint64{
		t.Session, uint64(t.Price.Up), uint64(t.Price.Down), uint64(t.Base), t.BaseUp, t.BaseDown, t.Up, t.Down, uint64(r.Max),
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint64(append(b, r.Voucher[:]...), r.Time)
}

// ParseReceipt decodes a receipt whose totals add up. Who has signed it, Verify
// says.
func ParseReceipt(b []byte) (Receipt, error) {
	if len(b) < 1 || b[0] != receiptVersion {
		return Receipt{}, errors.New("receipt: unknown version")
	}
	if len(b) != ReceiptSize {
		return Receipt{}, fmt.Errorf("receipt: %d bytes, want %d", len(b), ReceiptSize)
	}
	var r Receipt
	rest := b[1+channel.ConfigSize:]
	r.Domain, r.Config = channel.DecodeConfig(b[1 : 1+channel.ConfigSize])
	var v [9]uint64
	for i := range v {
		v[i] = binary.BigEndian.Uint64(rest[8*i:])
	}
	r.Total = Tally{
		Session: v[0], Price: Price{Up: channel.Amount(v[1]), Down: channel.Amount(v[2])},
		Base: channel.Amount(v[3]), BaseUp: v[4], BaseDown: v[5], Up: v[6], Down: v[7],
	}
	r.Max = channel.Amount(v[8])
	rest = rest[8*len(v):]
	rest = rest[copy(r.Voucher[:], rest):]
	r.Time = binary.BigEndian.Uint64(rest)
	copy(r.Signature[:], rest[8:])
	return r, r.check()
}

// check refuses totals that nobody could have counted.
func (r Receipt) check() error {
	t := r.Total
	switch _, err := t.Owed(); {
	case t.Session == 0 || r.Domain.ChainID == 0 || r.Time > maxTime:
		return errors.New("receipt: session, network or time out of range")
	case t.Up < t.BaseUp || t.Down < t.BaseDown:
		return errors.New("receipt: totals below their base")
	case t.Price.Check() != nil || err != nil:
		return errors.New("receipt: price or totals out of range")
	}
	return nil
}

// Verify checks that the channel's agent has signed r, and its payer the voucher
// in it.
func (r Receipt) Verify() error {
	if err := r.check(); err != nil {
		return err
	}
	signer, err := channel.Recover(receiptDigest(r.appendBody(make([]byte, 0, receiptBody))), r.Signature)
	if err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	if signer != r.Config.ReceiverAuthorizer || signer.IsZero() {
		return fmt.Errorf("receipt: signed by %s, not by the agent %s", signer, r.Config.ReceiverAuthorizer)
	}
	if r.Max == 0 && r.Voucher == (channel.Signature{}) {
		return nil
	}
	if signer, err = channel.Recover(r.Domain.VoucherDigest(r.Channel(), r.Max), r.Voucher); err != nil {
		return fmt.Errorf("receipt: its voucher: %w", err)
	}
	if signer != r.Config.PayerAuthorizer || signer.IsZero() {
		return fmt.Errorf("receipt: its voucher is signed by %s, not by the payerAuthorizer %s", signer, r.Config.PayerAuthorizer)
	}
	return nil
}
