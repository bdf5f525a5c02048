package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/depinsim/x402/channel"
)

// Kind numbers the operations. The numbers are stored.
type Kind uint8

// The operations.
const (
	KindIssue Kind = iota + 1
	KindRedeem
	KindTransfer
	KindDeposit
	KindClaim
	KindSettle
	KindRefund
	KindInitiateWithdraw
	KindFinalizeWithdraw
)

var kindNames = [...]string{
	KindIssue: "issue", KindRedeem: "redeem", KindTransfer: "transfer", KindDeposit: "deposit",
	KindClaim: "claim", KindSettle: "settle", KindRefund: "refund",
	KindInitiateWithdraw: "initiate withdraw", KindFinalizeWithdraw: "finalize withdraw",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// A Tx is one operation at one time, in Unix seconds by the clock of the home
// that runs it.
type Tx struct {
	Time uint64
	Op   Op
}

// An Op is one of the operations below.
type Op interface {
	kind() Kind
	encode(*encoder)
	touch(Params, *Touch)
	// apply changes s and returns what moved and the fee. On an error s is
	// thrown away.
	apply(s *State, now uint64) (amount, fee channel.Amount, err error)
}

// Kind is that of its operation.
func (tx Tx) Kind() Kind { return tx.Op.kind() }

// Touches names the records that Apply needs in its State.
func (tx Tx) Touches(p Params) Touch {
	var t Touch
	tx.Op.touch(p, &t)
	return t
}

// Hash is the transaction's id once it is applied at a height.
func (tx Tx) Hash(height uint64) channel.Hash {
	return channel.Keccak256(tx.Encode(), binary.BigEndian.AppendUint64(nil, height))
}

// Intent is the same for two transactions that mean one and the same event, so
// that a request repeated after a lost answer is found and not run again. All
// operations but Settle can happen only once as they are signed or numbered; a
// settlement is told apart by how much was claimed for its receiver, which s
// must hold.
func (tx Tx) Intent(s State) channel.Hash {
	e := encoder{b: []byte{byte(tx.Op.kind())}}
	tx.Op.encode(&e)
	if op, ok := tx.Op.(Settle); ok {
		e.amount(s.Receivers[op.Receiver].Claimed)
	}
	return channel.Keccak256([]byte("intent"), e.b)
}

const txVersion = 1

// Encode returns the stored and hashed form: version, kind, time, operation,
// all numbers big-endian and of fixed length.
func (tx Tx) Encode() []byte {
	e := encoder{b: []byte{txVersion, byte(tx.Op.kind())}}
	e.uint(tx.Time)
	tx.Op.encode(&e)
	return e.b
}

// DecodeTx reads what Encode wrote, and nothing else: what it accepts encodes
// to the same bytes.
func DecodeTx(b []byte) (Tx, error) {
	if len(b) < 2 {
		return Tx{}, errShort
	}
	if b[0] != txVersion {
		return Tx{}, fmt.Errorf("transaction version %d, want %d", b[0], txVersion)
	}
	d := decoder{b: b[2:]}
	tx := Tx{Time: d.uint()}
	switch k := Kind(b[1]); k {
	case KindIssue:
		tx.Op = Issue{Ref: d.hash(), To: d.address(), Amount: d.amount(), Memo: d.string()}
	case KindRedeem:
		tx.Op = Redeem{Ref: d.hash(), From: d.address(), Amount: d.amount(), Memo: d.string()}
	case KindTransfer:
		tx.Op = Transfer{Authorization: d.authorization(), Signature: d.signature()}
	case KindDeposit:
		tx.Op = Deposit{
			Config: d.config(), Amount: d.amount(), ValidAfter: d.uint(), ValidBefore: d.uint(),
			Salt: d.hash(), Signature: d.signature(),
		}
	case KindClaim:
		tx.Op = d.claim()
	case KindSettle:
		tx.Op = Settle{Receiver: d.address(), Token: d.address()}
	case KindRefund:
		r := Refund{Config: d.config(), Amount: d.amount(), Nonce: d.uint(), Signature: d.signature()}
		switch d.byte() {
		case 0:
		case 1:
			c := d.claim()
			r.Claim = &c
		default:
			d.fail()
		}
		tx.Op = r
	case KindInitiateWithdraw:
		tx.Op = InitiateWithdraw{Config: d.config(), Amount: d.amount(), Nonce: d.uint(), Signature: d.signature()}
	case KindFinalizeWithdraw:
		tx.Op = FinalizeWithdraw{Config: d.config(), Nonce: d.uint(), Signature: d.signature()}
	default:
		return Tx{}, fmt.Errorf("transaction of unknown %s", k)
	}
	return tx, d.end()
}
