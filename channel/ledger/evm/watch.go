package evm

import (
	"context"
	"fmt"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

const (
	// logOverlap is how many blocks are read again, since they may be others now.
	logOverlap = 8
	// maxLogs is the longest range of blocks to read: public nodes allow 10,000,
	// and after more than this every channel is read instead.
	maxLogs = 500
	// maxTopics is how many channels a filter names; with more it names none.
	maxTopics = 500
	// foreignLooks is how often a nonce must seem another's before it is: nodes
	// behind one name do not agree at once.
	foreignLooks = 10
)

// watch forgets what it knows of waiting channels in which something happened
// since the last look, above all a withdrawal that its payer began, so that they
// are read and weighed anew.
func (h *Home) watch(ctx context.Context, head *types.Header, jobs []job) error {
	waiting, err := h.waitingChannels(jobs)
	if err != nil {
		return err
	}
	for id := range h.known {
		if !waiting[id] {
			delete(h.known, id)
		}
	}
	top := head.Number.Uint64()
	from := h.seen + 1 - min(h.seen, logOverlap)
	if len(h.known) == 0 || top < from {
		h.seen = top
		return nil
	}
	if top-from > maxLogs {
		clear(h.known)
		h.seen = top
		return nil
	}
	logs, err := h.happened(ctx, from, top)
	if err != nil {
		return err
	}
	for _, l := range logs {
		if len(l.Topics) < 2 {
			continue
		}
		id := channel.ID(l.Topics[1])
		if _, ok := h.known[id]; ok && l.Topics[0] == settlement.Events["WithdrawInitiated"].ID {
			h.log.Warn("a payer withdraws: claiming what waits", "channel", id.String(), "block", l.BlockNumber)
		}
		delete(h.known, id)
	}
	h.seen = top
	return nil
}

// waitingChannels are those of claims that wait.
func (h *Home) waitingChannels(jobs []job) (map[channel.ID]bool, error) {
	out := map[channel.ID]bool{}
	for _, j := range jobs {
		op, err := j.op()
		if err != nil {
			return nil, err
		}
		if c, ok := op.(ledger.Claim); ok {
			for _, r := range c.Rows {
				out[h.params.Domain().ID(r.Config)] = true
			}
		}
	}
	return out, nil
}

// happened returns the events that change a channel.
func (h *Home) happened(ctx context.Context, from, to uint64) ([]types.Log, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var names, ids []common.Hash
	for _, n := range [...]string{"WithdrawInitiated", "WithdrawFinalized", "Claimed", "Refunded", "Deposited"} {
		names = append(names, settlement.Events[n].ID)
	}
	topics := [][]common.Hash{names}
	if len(h.known) <= maxTopics {
		for id := range h.known {
			ids = append(ids, common.Hash(id))
		}
		topics = append(topics, ids)
	}
	logs, err := h.node.eth.FilterLogs(ctx, ethereum.FilterQuery{
		FromBlock: wide(from), ToBlock: wide(to), Topics: topics,
		Addresses: []common.Address{common.Address(h.params.Domain().Contract)},
	})
	return logs, failed("eth_getLogs", err)
}

// guard looks for transactions of the account that are not in the journal:
// whoever sent them uses the same key, and both would stand in each other's way.
// Then nothing more is sent.
func (h *Home) guard(ctx context.Context, sents []sent) error {
	latest, pending, err := h.node.nonces(ctx, common.Address(h.cfg.Signer.account))
	if err != nil {
		return err
	}
	next, err := h.journal.nextNonce()
	if err != nil {
		return err
	}
	var foreign error
	if h.strange(next, pending > next) {
		foreign = h.foreign(next, pending)
	}
	for _, s := range sents {
		if h.strange(s.Nonce, s.Mined == nil && latest > s.Nonce) {
			foreign = fmt.Errorf("nonce %d of account %s was used by a transaction that is not in the journal: %w", s.Nonce, h.cfg.Signer.account, ErrForeign)
		}
	}
	if foreign != nil {
		foreign = fmt.Errorf("nothing is sent any more: %w", foreign)
	}
	h.mu.Lock()
	was := h.halted
	h.halted = foreign
	h.mu.Unlock()
	if foreign != nil && was == nil {
		h.log.Error("halted", "err", foreign)
	}
	return nil
}

// strange counts the looks at which a nonce seemed another's, and reports when
// they are enough.
func (h *Home) strange(nonce uint64, seems bool) bool {
	if !seems {
		delete(h.adrift, nonce)
		return false
	}
	h.adrift[nonce]++
	return h.adrift[nonce] >= foreignLooks
}
