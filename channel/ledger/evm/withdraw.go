package evm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// maxRelayed is the longest transaction of a payer's that is passed on.
const maxRelayed = 4 << 10

// Withdraw passes on the transaction with which a payer begins or ends his
// withdrawal, and returns once it is confirmed. It is his: his nonce, and his
// gas. Sent again it is the same.
func (h *Home) Withdraw(ctx context.Context, c channel.Config, w x402.Withdraw) (ledger.Receipt, error) {
	initiate := w.Step == x402.WithdrawInitiate
	if !initiate && w.Step != x402.WithdrawFinalize {
		return ledger.Receipt{}, &ledger.RefusedError{Code: x402.ErrPayloadType, Message: fmt.Sprintf("unknown withdraw type %.32q", w.Step)}
	}
	if len(w.Transaction) == 0 {
		return ledger.Receipt{}, h.yourself(c, initiate, w.Amount)
	}
	tx, err := h.payersTx(w)
	if err != nil {
		return ledger.Receipt{}, &ledger.RefusedError{Code: x402.ErrWithdrawTransaction, Message: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Answer)
	defer cancel()
	if r, err := h.relayed(ctx, tx.Hash(), w); err != nil || r != (ledger.Receipt{}) {
		return r, err
	}
	if err := h.mayWithdraw(ctx, tx, w); err != nil {
		return ledger.Receipt{}, err
	}
	if err := h.node.send(ctx, w.Transaction); err != nil {
		return ledger.Receipt{}, later(err)
	}
	for {
		select {
		case <-time.After(h.cfg.Poll):
		case <-ctx.Done():
			return ledger.Receipt{}, later(errors.New("the withdrawal is not confirmed yet"))
		}
		if r, err := h.relayed(ctx, tx.Hash(), w); err != nil || r != (ledger.Receipt{}) {
			return r, err
		}
	}
}

// mayWithdraw refuses what the contract would revert.
func (h *Home) mayWithdraw(ctx context.Context, tx *types.Transaction, w x402.Withdraw) error {
	s, err := h.Read(ctx, ledger.Touch{Channels: []channel.ID{w.Channel}})
	if err != nil {
		return later(err)
	}
	config, amount := calldata(tx.Data())
	ch := s.Channels[w.Channel]
	if w.Step == x402.WithdrawInitiate {
		return ch.MayInitiate(amount)
	}
	ch.Config = config
	return ch.MayFinalize(s.Time)
}

// payersTx reads a transaction that must do what w says and nothing else: nobody
// has this facilitator's node pass on anything besides.
func (h *Home) payersTx(w x402.Withdraw) (*types.Transaction, error) {
	if len(w.Transaction) > maxRelayed {
		return nil, fmt.Errorf("transaction: %d bytes, at most %d", len(w.Transaction), maxRelayed)
	}
	tx := new(types.Transaction)
	if err := tx.UnmarshalBinary(w.Transaction); err != nil {
		return nil, errors.New("transaction: not a signed transaction as eth_sendRawTransaction takes it")
	}
	from, err := types.Sender(types.LatestSignerForChainID(wide(h.params.ChainID)), tx)
	if err != nil {
		return nil, fmt.Errorf("transaction: not signed for %s", h.params.Network())
	}
	if tx.To() == nil || *tx.To() != common.Address(h.params.Domain().Contract) || tx.Value().Sign() != 0 {
		return nil, fmt.Errorf("transaction: does not call %s", h.params.Domain().Contract)
	}
	config, amount := calldata(tx.Data())
	data, err := packWithdraw(config, w.Step == x402.WithdrawInitiate, amount)
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(data, tx.Data()):
		return nil, fmt.Errorf("transaction: is no %s of a withdrawal", w.Step)
	case h.params.Domain().ID(config) != w.Channel:
		return nil, fmt.Errorf("transaction: is not about channel %s", w.Channel)
	case from != common.Address(config.Payer) && from != common.Address(config.PayerAuthorizer):
		return nil, fmt.Errorf("transaction: is not sent by the channel's payer")
	}
	return tx, nil
}

// calldata reads a configuration and an amount as the ABI writes them after a
// method's four bytes: seven words and one. What is missing or too large is read
// as something else, which does not encode to the same.
func calldata(b []byte) (c channel.Config, amount channel.Amount) {
	words := make([]byte, 8*32)
	copy(words, b[min(len(b), 4):])
	for i, a := range [...]*channel.Address{&c.Payer, &c.PayerAuthorizer, &c.Receiver, &c.ReceiverAuthorizer, &c.Token} {
		copy(a[:], words[32*i+12:])
	}
	c.WithdrawDelay = binary.BigEndian.Uint64(words[6*32-8:])
	copy(c.Salt[:], words[6*32:])
	return c, channel.Amount(binary.BigEndian.Uint64(words[8*32-8:]))
}

// relayed returns the receipt of a payer's transaction once it is confirmed.
func (h *Home) relayed(ctx context.Context, hash common.Hash, w x402.Withdraw) (ledger.Receipt, error) {
	rs, err := h.node.receipts(ctx, []common.Hash{hash})
	if err != nil || rs[0] == nil {
		return ledger.Receipt{}, laterUnlessNil(err)
	}
	r := rs[0]
	head, err := h.node.head(ctx)
	if err != nil {
		return ledger.Receipt{}, later(err)
	}
	if head.Number.Uint64()+1 < r.BlockNumber.Uint64()+h.cfg.Confirmations {
		return ledger.Receipt{}, nil
	}
	header, err := h.headerOf(ctx, r)
	if err != nil {
		return ledger.Receipt{}, later(err)
	}
	out := ledger.Receipt{Hash: channel.Hash(hash), Height: r.BlockNumber.Uint64(), Time: header.Time, Kind: ledger.KindInitiateWithdraw}
	name := "WithdrawInitiated"
	if w.Step == x402.WithdrawFinalize {
		out.Kind, name = ledger.KindFinalizeWithdraw, "WithdrawFinalized"
	}
	if r.Status != types.ReceiptStatusSuccessful {
		return ledger.Receipt{}, &ledger.RefusedError{Code: x402.ErrWithdrawTransaction, Message: "transaction " + hash.String() + " was reverted"}
	}
	v, err := h.event(r.Logs, name, common.Hash(w.Channel))
	if err != nil {
		return ledger.Receipt{}, later(err)
	}
	out.Amount = first(v)
	return out, nil
}

func laterUnlessNil(err error) error {
	if err == nil {
		return nil
	}
	return later(err)
}
