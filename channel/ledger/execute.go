package ledger

import (
	"errors"
	"fmt"

	"github.com/depinsim/x402/channel"
)

// A View is a home's store within one transaction of its own: what Store wrote
// becomes durable, and visible to others, all at once or not at all.
type View interface {
	// Load returns the parameters, the totals and the records named. Records
	// that were never stored are left out.
	Load(Touch) (State, error)
	// Height finds the applied transaction of an intent; 0 means there is none.
	Height(intent channel.Hash) (uint64, error)
	// Entry returns a line of the journal.
	Entry(height uint64) (Entry, error)
	// Store replaces the records of s, and appends e to the journal under
	// s.Totals.Height and intent.
	Store(s State, e Entry, intent channel.Hash) error
}

// Execute runs tx on v, the store of a ledger with parameters p, and only
// once: if it, or one that means the same, was applied before, it returns the
// receipt of then and changes nothing.
func Execute(p Params, v View, tx Tx) (Receipt, error) {
	s, err := v.Load(tx.Touches(p))
	if err != nil {
		return Receipt{}, err
	}
	intent := tx.Intent(s)
	if h, err := v.Height(intent); err != nil {
		return Receipt{}, err
	} else if h != 0 {
		return receiptAt(v, h)
	}
	next, err := Apply(s, tx)
	if r, ok := errors.AsType[*RefusedError](err); ok && r.prior != 0 {
		return receiptAt(v, r.prior)
	}
	if err != nil {
		return Receipt{}, err
	}
	e := Entry{Tx: tx, Amount: next.Receipt.Amount, Fee: next.Receipt.Fee}
	if err := v.Store(next, e, intent); err != nil {
		return Receipt{}, err
	}
	return next.Receipt, nil
}

func receiptAt(v View, height uint64) (Receipt, error) {
	e, err := v.Entry(height)
	if err != nil {
		return Receipt{}, fmt.Errorf("ledger: journal entry %d: %w", height, err)
	}
	return e.Receipt(height), nil
}
