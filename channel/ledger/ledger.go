// Package ledger is the settlement state machine: accounts, payment channels
// and what receivers are owed, with the semantics of the x402 settlement
// contract and an asset that speaks EIP-3009, so that a signature made for the
// contract means the same here.
//
// The core is one pure function, [Apply]: it reads no clock, does no I/O and
// changes nothing but the records that [Tx.Touches] names. A home keeps the
// records and the journal of transactions, and runs each with [Execute] inside
// one transaction of its own store: [Memory] in this package, embedded on a
// file. Package ledgertest is the suite that every home passes.
//
// After every transaction, and checked by Apply itself,
//
//	accounts + escrow + claimed but unsettled + fees == issued - redeemed
//
// Where the contract turns a call into nothing, such as a settlement without a
// claim before it, Apply refuses it: a facilitator on a real chain does not send
// those either.
package ledger

import (
	"errors"
	"fmt"
	"maps"

	"github.com/depinsim/x402/channel"
)

// FeeDivisor is the fee of our own networks: a receiver whom a total of c was
// settled has paid c/100000 in all, rounded down (0.001%).
const FeeDivisor = 100_000

// Params is what a ledger is created with; it never changes.
type Params struct {
	ChainID       uint64
	Token         channel.Address // the one asset
	Name, Version string          // its EIP-712 domain
	FeeDivisor    uint64          // 0: no fee

	// Where the contracts are; zero: at their canonical addresses.
	Contract, Collector channel.Address
}

// Domain is the EIP-712 domain of the ledger's channels.
func (p Params) Domain() channel.Domain {
	d := channel.Domain{ChainID: p.ChainID, Contract: p.Contract}
	if d.Contract.IsZero() {
		d.Contract = channel.SettlementContract()
	}
	return d
}

// DepositCollector is the address to which deposits are authorized.
func (p Params) DepositCollector() channel.Address {
	if p.Collector.IsZero() {
		return channel.ERC3009Collector()
	}
	return p.Collector
}

// Asset is the EIP-712 domain of the ledger's asset.
func (p Params) Asset() channel.Token {
	return channel.Token{ChainID: p.ChainID, Address: p.Token, Name: p.Name, Version: p.Version}
}

// Network is the ledger's CAIP-2 name.
func (p Params) Network() string { return channel.NetworkName(p.ChainID) }

// Fee returns what a receiver has paid in all once settled is his total. The
// fee of one settlement is the difference of two of these, so that it is the
// same however often he settles.
func (p Params) Fee(settled channel.Amount) channel.Amount {
	if p.FeeDivisor == 0 {
		return 0
	}
	return settled / channel.Amount(p.FeeDivisor)
}

// A Channel is the record of one channel. Balance is what was deposited less
// what went back to the payer; claims do not reduce it.
type Channel struct {
	Config           channel.Config
	Balance, Claimed channel.Amount
	RefundNonce      uint64
	WithdrawNonce    uint64         // raised by every InitiateWithdraw
	WithdrawAmount   channel.Amount // of the pending withdrawal
	WithdrawAt       uint64         // when it was initiated, Unix seconds; 0: none
	LastClaim        uint64         // height of the newest claim; 0: none
}

// FinalizeAfter returns when the pending withdrawal may be finalized, in Unix
// seconds, or 0 when none is pending.
func (c Channel) FinalizeAfter() uint64 {
	if c.WithdrawAt == 0 {
		return 0
	}
	return c.WithdrawAt + c.Config.WithdrawDelay
}

// A Receiver is what was ever claimed for an address, and how much of it was
// settled to its account (before the fee).
type Receiver struct {
	Claimed, Settled channel.Amount
}

// A NonceKey names an EIP-3009 authorization; each is used once.
type NonceKey struct {
	From  channel.Address
	Nonce channel.Hash
}

// Totals says where all credit is, and how many transactions made it so.
type Totals struct {
	Height           uint64
	Issued, Redeemed channel.Amount
	Accounts         channel.Amount // sum of all balances
	Escrow           channel.Amount // sum of Balance - Claimed over all channels
	Unsettled        channel.Amount // sum of Claimed - Settled over all receivers
	Fees             channel.Amount
}

// Check reports whether nothing was lost and nothing made.
func (t Totals) Check() error {
	var held channel.Amount
	for _, a := range [...]channel.Amount{t.Accounts, t.Escrow, t.Unsettled, t.Fees} {
		var err error
		if held, err = held.Add(a); err != nil {
			return fmt.Errorf("ledger: total: %w", err)
		}
	}
	owed, err := t.Issued.Sub(t.Redeemed)
	if err != nil {
		return fmt.Errorf("ledger: redeemed %s of %s issued", t.Redeemed, t.Issued)
	}
	if held != owed {
		return fmt.Errorf("ledger: holds %s but owes %s: accounts %s, escrow %s, unsettled %s, fees %s",
			held, owed, t.Accounts, t.Escrow, t.Unsettled, t.Fees)
	}
	return nil
}

// State is the slice of a ledger that a transaction works on. A record that is
// not in its map has the zero value.
type State struct {
	Params    Params
	Totals    Totals
	Accounts  map[channel.Address]channel.Amount
	Receivers map[channel.Address]Receiver
	Channels  map[channel.ID]Channel
	Nonces    map[NonceKey]bool

	Receipt Receipt // of the transaction that led here

	// Time is the home's clock as of these records, in Unix seconds; 0: it has
	// none, and its transactions carry whatever their submitter's says.
	Time uint64
}

// NewState returns an empty ledger.
func NewState(p Params) State {
	return State{
		Params:    p,
		Accounts:  map[channel.Address]channel.Amount{},
		Receivers: map[channel.Address]Receiver{},
		Channels:  map[channel.ID]Channel{},
		Nonces:    map[NonceKey]bool{},
	}
}

func (s State) clone() State {
	s.Accounts = maps.Clone(s.Accounts)
	s.Receivers = maps.Clone(s.Receivers)
	s.Channels = maps.Clone(s.Channels)
	s.Nonces = maps.Clone(s.Nonces)
	return s
}

// Touch names the records that a transaction reads or writes.
type Touch struct {
	Accounts  []channel.Address
	Receivers []channel.Address
	Channels  []channel.ID
	Nonces    []NonceKey
}

// A Receipt says what an applied transaction did.
type Receipt struct {
	Hash   channel.Hash // of the encoded transaction and its height
	Height uint64       // 1 for the ledger's first
	Time   uint64
	Kind   Kind
	Amount channel.Amount // what moved: deposited, claimed, paid out after the fee, …
	Fee    channel.Amount
}

// ErrLater is wrapped by an error of a home's Submit that means neither yes nor
// no: the transaction may be on its way, and the same one submitted again tells.
var ErrLater = errors.New("not decided yet")

// A RefusedError says why a transaction was not applied. Nothing changed.
type RefusedError struct {
	Code    string // one of x402's codes
	Message string // for people

	// prior is the height of the transaction that already did what this one
	// asks for; 0 if none did.
	prior uint64
}

func (e *RefusedError) Error() string { return e.Message }

func refuse(code, format string, args ...any) error {
	return &RefusedError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Apply returns the state after tx. It is deterministic: it depends on s, of
// which only what tx.Touches names is read, and on tx alone. s is not changed.
// A refusal is a *RefusedError; any other error means that the records given do
// not fit together.
func Apply(s State, tx Tx) (State, error) {
	next := s.clone()
	if tx.Time == 0 {
		return State{}, fmt.Errorf("ledger: transaction without a time")
	}
	amount, fee, err := tx.Op.apply(&next, tx.Time)
	if err != nil {
		return State{}, err
	}
	next.Totals.Height++
	if err := next.Totals.Check(); err != nil {
		return State{}, err
	}
	next.Receipt = Receipt{
		Hash: tx.Hash(next.Totals.Height), Height: next.Totals.Height,
		Time: tx.Time, Kind: tx.Op.kind(), Amount: amount, Fee: fee,
	}
	return next, nil
}

// credit and debit move amounts between an account and the rest of the ledger.
func (s *State) credit(a channel.Address, v channel.Amount) error {
	sum, err := s.Accounts[a].Add(v)
	if err != nil {
		return fmt.Errorf("account %s: %w", a, err)
	}
	if s.Totals.Accounts, err = s.Totals.Accounts.Add(v); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	s.Accounts[a] = sum
	return nil
}

func (s *State) debit(a channel.Address, v channel.Amount) error {
	rest, err := s.Accounts[a].Sub(v)
	if err != nil {
		return fmt.Errorf("account %s: %w", a, err)
	}
	if s.Totals.Accounts, err = s.Totals.Accounts.Sub(v); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	s.Accounts[a] = rest
	return nil
}

// add and sub change one total.
func add(total *channel.Amount, v channel.Amount) (err error) {
	*total, err = total.Add(v)
	return err
}

func sub(total *channel.Amount, v channel.Amount) (err error) {
	*total, err = total.Sub(v)
	return err
}
