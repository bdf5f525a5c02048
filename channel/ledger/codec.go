package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/depinsim/x402/channel"
)

var (
	errShort   = errors.New("stored record: too short")
	errInvalid = errors.New("stored record: not canonical")
)

// An encoder appends fixed-length fields.
type encoder struct{ b []byte }

func (e *encoder) bytes(b []byte)          { e.b = append(e.b, b...) }
func (e *encoder) uint(v uint64)           { e.b = binary.BigEndian.AppendUint64(e.b, v) }
func (e *encoder) amount(v channel.Amount) { e.uint(uint64(v)) }

// string holds at most 255 bytes; Issue and Redeem see to it.
func (e *encoder) string(s string) {
	e.b = append(e.b, byte(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) config(c channel.Config) {
	for _, a := range [...]channel.Address{c.Payer, c.PayerAuthorizer, c.Receiver, c.ReceiverAuthorizer, c.Token} {
		e.bytes(a[:])
	}
	e.uint(c.WithdrawDelay)
	e.bytes(c.Salt[:])
}

func (e *encoder) authorization(a channel.Authorization) {
	e.bytes(a.From[:])
	e.bytes(a.To[:])
	e.amount(a.Value)
	e.uint(a.ValidAfter)
	e.uint(a.ValidBefore)
	e.bytes(a.Nonce[:])
}

// A decoder reads them back. After the first fault it returns zeros; end
// reports it.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errInvalid
	}
}

func (d *decoder) take(dst []byte) {
	if d.err == nil && len(d.b) < len(dst) {
		d.err = errShort
	}
	if d.err != nil {
		return
	}
	copy(dst, d.b)
	d.b = d.b[len(dst):]
}

func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		return fmt.Errorf("stored record: %d bytes too many", len(d.b))
	}
	return d.err
}

func (d *decoder) byte() byte {
	var b [1]byte
	d.take(b[:])
	return b[0]
}

func (d *decoder) uint() uint64 {
	var b [8]byte
	d.take(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (d *decoder) amount() channel.Amount { return channel.Amount(d.uint()) }

func (d *decoder) hash() (h channel.Hash) {
	d.take(h[:])
	return h
}

func (d *decoder) address() (a channel.Address) {
	d.take(a[:])
	return a
}

func (d *decoder) signature() (s channel.Signature) {
	d.take(s[:])
	return s
}

func (d *decoder) string() string {
	b := make([]byte, d.byte())
	d.take(b)
	return string(b)
}

func (d *decoder) config() channel.Config {
	return channel.Config{
		Payer: d.address(), PayerAuthorizer: d.address(), Receiver: d.address(),
		ReceiverAuthorizer: d.address(), Token: d.address(),
		WithdrawDelay: d.uint(), Salt: d.hash(),
	}
}

func (d *decoder) authorization() channel.Authorization {
	return channel.Authorization{
		From: d.address(), To: d.address(), Value: d.amount(),
		ValidAfter: d.uint(), ValidBefore: d.uint(), Nonce: d.hash(),
	}
}

// Encode returns the stored form of c.
func (c Channel) Encode() []byte {
	var e encoder
	e.config(c.Config)
	e.amount(c.Balance)
	e.amount(c.Claimed)
	e.uint(c.RefundNonce)
	e.uint(c.WithdrawNonce)
	e.amount(c.WithdrawAmount)
	e.uint(c.WithdrawAt)
	e.uint(c.LastClaim)
	return e.b
}

// DecodeChannel reads what Channel.Encode wrote.
func DecodeChannel(b []byte) (Channel, error) {
	d := decoder{b: b}
	c := Channel{
		Config: d.config(), Balance: d.amount(), Claimed: d.amount(),
		RefundNonce: d.uint(), WithdrawNonce: d.uint(),
		WithdrawAmount: d.amount(), WithdrawAt: d.uint(), LastClaim: d.uint(),
	}
	return c, d.end()
}

// Encode returns the stored form of r.
func (r Receiver) Encode() []byte {
	var e encoder
	e.amount(r.Claimed)
	e.amount(r.Settled)
	return e.b
}

// DecodeReceiver reads what Receiver.Encode wrote.
func DecodeReceiver(b []byte) (Receiver, error) {
	d := decoder{b: b}
	r := Receiver{Claimed: d.amount(), Settled: d.amount()}
	return r, d.end()
}

// Encode returns the stored form of t.
func (t Totals) Encode() []byte {
	var e encoder
	e.uint(t.Height)
	for _, a := range [...]channel.Amount{t.Issued, t.Redeemed, t.Accounts, t.Escrow, t.Unsettled, t.Fees} {
		e.amount(a)
	}
	return e.b
}

// DecodeTotals reads what Totals.Encode wrote.
func DecodeTotals(b []byte) (Totals, error) {
	d := decoder{b: b}
	t := Totals{
		Height: d.uint(), Issued: d.amount(), Redeemed: d.amount(),
		Accounts: d.amount(), Escrow: d.amount(), Unsettled: d.amount(), Fees: d.amount(),
	}
	return t, d.end()
}

// An Entry is one line of the journal: a transaction, and what it moved.
type Entry struct {
	Tx          Tx
	Amount, Fee channel.Amount
}

// Encode returns the stored form of e.
func (e Entry) Encode() []byte {
	var enc encoder
	enc.amount(e.Amount)
	enc.amount(e.Fee)
	enc.bytes(e.Tx.Encode())
	return enc.b
}

// DecodeEntry reads what Entry.Encode wrote.
func DecodeEntry(b []byte) (Entry, error) {
	d := decoder{b: b}
	e := Entry{Amount: d.amount(), Fee: d.amount()}
	if d.err != nil {
		return Entry{}, d.err
	}
	tx, err := DecodeTx(d.b)
	e.Tx = tx
	return e, err
}

// Receipt returns the receipt of e at its height.
func (e Entry) Receipt(height uint64) Receipt {
	return Receipt{
		Hash: e.Tx.Hash(height), Height: height, Time: e.Tx.Time,
		Kind: e.Tx.Op.kind(), Amount: e.Amount, Fee: e.Fee,
	}
}
