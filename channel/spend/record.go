package spend

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// A record is what we know of a channel beside its state: the note.
type record struct {
	charged channel.Amount // by our own count
	signed  channel.Amount // the highest voucher that has left
	open    bool           // a request was sent, and what was charged for it is not known
	draft   draft          // a deposit that may have been made
}

// A draft is a deposit of which is not known what came of it. Everything that is
// signed follows from it, so that it is made once however often it is sent.
type draft struct {
	amount      channel.Amount
	validBefore uint64 // Unix seconds; no two drafts of a channel have the same
}

const (
	recordVersion = 1
	recordSize    = 1 + 8 + 8 + 1 + 8 + 8
)

func (r record) marshal() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(r.charged))
	b = binary.BigEndian.AppendUint64(b, uint64(r.signed))
	if r.open {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.draft.amount))
	return binary.BigEndian.AppendUint64(b, r.draft.validBefore)
}

func parseRecord(b []byte) (record, error) {
	if len(b) != recordSize || b[0] != recordVersion || b[17] > 1 {
		return record{}, errors.New("channel record: malformed")
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[i:]) }
	r := record{
		charged: channel.Amount(n(1)), signed: channel.Amount(n(9)), open: b[17] == 1,
		draft: draft{channel.Amount(n(18)), n(26)},
	}
	if r.charged > r.signed {
		return record{}, errors.New("channel record: more is charged than was signed")
	}
	return r, nil
}

// newDraft draws a deposit that can be made for an hour or two.
func newDraft(amount channel.Amount) draft {
	// By chance, since another of the same amount may have been drawn just now.
	return draft{amount, uint64(time.Now().Unix()) + 3600 + rand.Uint64N(3600)}
}

// salt makes the authorization's nonce another one for each draft. It need not
// be secret: only the payer can sign for it.
func (d draft) salt(id channel.ID) channel.Hash {
	b := binary.BigEndian.AppendUint64([]byte("x402 http deposit"), uint64(d.amount))
	return channel.Keccak256(binary.BigEndian.AppendUint64(b, d.validBefore), id[:])
}

// read returns what is known of a lane's channel. The first time the ledger is
// asked, which counts for what it holds; a channel without a record was charged
// what was claimed.
func (t *Transport) read(ctx context.Context, l *lane) (channel.State, record, error) {
	if l.broken != nil {
		return channel.State{}, record{}, l.broken
	}
	state, err := t.payer.Open(channel.Domain{ChainID: l.asset.Token.ChainID, Contract: channel.SettlementContract()}, l.config)
	if err != nil {
		return state, record{}, err
	}
	if !l.looked {
		return t.look(ctx, l, state)
	}
	r, err := parseRecord(state.Note)
	return state, r, err
}

// look asks the ledger about a lane's channel.
func (t *Transport) look(ctx context.Context, l *lane, state channel.State) (channel.State, record, error) {
	r, known := record{}, len(state.Note) > 0
	var err error
	if known {
		if r, err = parseRecord(state.Note); err != nil {
			return state, r, err
		}
	}
	info, err := l.asset.Ledger.Channel(ctx, channel.NetworkName(l.asset.Token.ChainID), l.id)
	if known && errors.Is(err, facilitator.ErrUnavailable) && r.draft == (draft{}) {
		t.begin(l, state, r)
		return state, r, nil // what is stored will do
	}
	if err != nil {
		return state, r, fmt.Errorf("look at channel %.10s: %w", l.id, err)
	}
	if info.FinalizeAfter != 0 {
		return state, r, fmt.Errorf("a withdrawal from channel %.10s is under way, until %s", l.id,
			time.Unix(int64(info.FinalizeAfter), 0).UTC().Format(time.RFC3339))
	}
	if !known {
		r.charged, r.signed = info.TotalClaimed, info.TotalClaimed
	}
	if r.draft != (draft{}) && (info.Balance > state.Balance || info.Time >= r.draft.validBefore) {
		r.draft = draft{} // it was made, or cannot be made any more
	}
	if _, err = t.payer.Observe(l.id, info.Balance, info.TotalClaimed, uint64(info.RefundNonce), 0); err != nil {
		return state, r, err
	}
	if state, err = t.payer.Note(l.id, r.marshal()); err != nil {
		return state, r, err
	}
	if r.signed > max(state.Max, state.Claimed) && r.signed <= state.Balance { // it left with a deposit
		if _, err := t.payer.Sign(t.cfg.Key, l.id, r.signed, nil); err != nil {
			return state, r, err
		}
		state, _ = t.payer.Get(l.id)
	}
	t.begin(l, state, r)
	return state, r, nil
}

// begin counts what a lane costs from now on, and what it holds.
func (t *Transport) begin(l *lane, state channel.State, r record) {
	l.looked = true
	t.mu.Lock()
	defer t.mu.Unlock()
	l.holds = state.Balance + min(r.draft.amount, ^state.Balance)
	if l.base == 0 && l.cost == 0 {
		l.base = r.charged
	}
}

// sign signs a voucher for top in all. It is stored first, with r.
func (t *Transport) sign(l *lane, state channel.State, r *record, top channel.Amount) (channel.Voucher, error) {
	r.signed, r.open = max(r.signed, top), true
	if top > state.Max && top > state.Claimed && top <= state.Balance {
		return t.payer.Sign(t.cfg.Key, l.id, top, r.marshal())
	}
	// A lower one is worth no more than what was signed before; one that comes
	// with a deposit exceeds what the channel holds as yet.
	if _, err := t.payer.Note(l.id, r.marshal()); err != nil {
		return channel.Voucher{}, err
	}
	return state.Domain.SignVoucher(t.cfg.Key, l.id, top), nil
}

// deposit signs a lane's draft, and a voucher with it.
func (t *Transport) deposit(l *lane, state channel.State, d draft, v channel.Voucher) x402.Deposit {
	return x402.DepositRequest{
		Domain: state.Domain, Token: l.asset.Token, Config: l.config, Amount: d.amount,
		Voucher: v, ValidBefore: d.validBefore, Salt: d.salt(l.id),
	}.Sign(t.cfg.Key)
}

// size is how much to deposit so that a voucher of top is covered.
func (t *Transport) size(c choice, state channel.State, top channel.Amount) (channel.Amount, error) {
	needed := top - state.Balance
	amount := t.cfg.Deposit
	if amount == 0 {
		amount = c.Amount * 10 // no overflow: MaxDeposit is checked below
		if amount/10 != c.Amount {
			amount = c.Amount
		}
	}
	amount = max(min(amount, t.cfg.MaxDeposit), needed)
	if least := c.Extra.MinDeposit; least != nil {
		amount = max(amount, *least)
	}
	if amount > t.cfg.MaxDeposit {
		return 0, fmt.Errorf("the server wants a deposit of %s USD, at most %s are allowed", amount.USD(), t.cfg.MaxDeposit.USD())
	}
	return amount, nil
}
