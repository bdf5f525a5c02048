package ledger

import (
	"context"
	"fmt"
	"iter"

	"github.com/depinsim/x402/channel"
)

// A Report is the outcome of an audit that found nothing wrong.
type Report struct {
	Totals    Totals
	Accounts  int // records of each kind
	Receivers int
	Channels  int

	Chain *ChainReport `json:",omitempty"` // of a home on a chain, which has this instead
}

// A ChainReport is what a home on a chain has sent.
type ChainReport struct {
	Network      string
	Account      channel.Address // that sent it
	Transactions int
	Reverted     int    // of them
	Waiting      int    // operations that have not ended
	Gas          uint64 // used, ever
}

// Replay audits a ledger: live, which holds all its records, must add up, and
// must be what its journal gives when every transaction is applied again from
// nothing, signatures included.
func Replay(ctx context.Context, live State, journal iter.Seq2[Entry, error]) (Report, error) {
	if err := sumUp(live); err != nil {
		return Report{}, err
	}
	again := NewMemory(live.Params)
	var height uint64
	for e, err := range journal {
		height++
		if err != nil {
			return Report{}, fmt.Errorf("audit: journal entry %d: %w", height, err)
		}
		r, err := again.Submit(ctx, e.Tx)
		if err != nil {
			return Report{}, fmt.Errorf("audit: journal entry %d, %s: %w", height, e.Tx.Op.kind(), err)
		}
		if r != e.Receipt(height) {
			return Report{}, fmt.Errorf("audit: journal entry %d, %s: moved %s with fee %s, recorded are %s and %s",
				height, e.Tx.Op.kind(), r.Amount, r.Fee, e.Amount, e.Fee)
		}
	}
	if got := again.state.Totals; got != live.Totals {
		return Report{}, fmt.Errorf("audit: totals are %+v, the journal gives %+v", live.Totals, got)
	}
	if err := sameRecords("account", live.Accounts, again.state.Accounts); err != nil {
		return Report{}, err
	}
	if err := sameRecords("receiver", live.Receivers, again.state.Receivers); err != nil {
		return Report{}, err
	}
	if err := sameRecords("channel", live.Channels, again.state.Channels); err != nil {
		return Report{}, err
	}
	if err := sameRecords("nonce", live.Nonces, again.state.Nonces); err != nil {
		return Report{}, err
	}
	return Report{
		Totals: live.Totals, Accounts: len(live.Accounts),
		Receivers: len(live.Receivers), Channels: len(live.Channels),
	}, nil
}

// sumUp compares the totals with the records.
func sumUp(s State) error {
	var accounts, escrow, unsettled, fees channel.Amount
	for a, v := range s.Accounts {
		if err := add(&accounts, v); err != nil {
			return fmt.Errorf("audit: account %s: %w", a, err)
		}
	}
	for id, c := range s.Channels {
		v, err := c.Balance.Sub(c.Claimed)
		if err == nil {
			err = add(&escrow, v)
		}
		if err != nil {
			return fmt.Errorf("audit: channel %s: %w", id, err)
		}
	}
	for a, r := range s.Receivers {
		v, err := r.Claimed.Sub(r.Settled)
		if err == nil {
			err = add(&unsettled, v)
		}
		if err == nil {
			err = add(&fees, s.Params.Fee(r.Settled))
		}
		if err != nil {
			return fmt.Errorf("audit: receiver %s: %w", a, err)
		}
	}
	want := s.Totals
	want.Accounts, want.Escrow, want.Unsettled, want.Fees = accounts, escrow, unsettled, fees
	if want != s.Totals {
		return fmt.Errorf("audit: totals are %+v, the records give %+v", s.Totals, want)
	}
	return s.Totals.Check()
}

func sameRecords[K, V comparable](what string, live, again map[K]V) error {
	for k, v := range live {
		if w := again[k]; v != w {
			return fmt.Errorf("audit: %s %v is %+v, the journal gives %+v", what, k, v, w)
		}
	}
	for k, v := range again {
		if _, ok := live[k]; !ok {
			return fmt.Errorf("audit: %s %v is missing, the journal gives %+v", what, k, v)
		}
	}
	return nil
}
