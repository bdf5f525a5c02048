package evm

import (
	"context"
	"fmt"

	"github.com/ethereum/go-ethereum/common"

	"github.com/depinsim/x402/channel/ledger"
)

// Audit compares the journal with the chain: every transaction that ended is in
// the block that the journal says, with the outcome that it says, and no nonce is
// missing. The books are the contract's own, so there is nothing to recompute. It
// fails too when the node no longer has a receipt.
func (h *Home) Audit(ctx context.Context) (ledger.Report, error) {
	report := ledger.Report{Chain: &ledger.ChainReport{Network: h.params.Network(), Account: h.cfg.Signer.account}}
	waiting, _, err := h.journal.open()
	if err != nil {
		return report, err
	}
	report.Chain.Waiting = len(waiting)
	var last *uint64
	var ended []sent
	err = h.journal.all(func(s sent, jobs []job) error {
		if last != nil && s.Nonce != *last+1 && !h.cfg.TakeOver {
			return fmt.Errorf("audit: after nonce %d comes %d", *last, s.Nonce)
		}
		last = &s.Nonce
		if s.Void {
			return nil
		}
		report.Chain.Transactions++
		report.Chain.Gas += s.GasUsed
		if !s.Done {
			report.Chain.Waiting += len(jobs)
			return nil
		}
		if !s.Mined.OK {
			report.Chain.Reverted++
		}
		for _, j := range jobs {
			if j.State == jobDone && common.Hash(j.Receipt.Hash) != s.Mined.Hash {
				return fmt.Errorf("audit: job %d has transaction %s, nonce %d has %s", j.Number, j.Receipt.Hash, s.Nonce, s.Mined.Hash)
			}
		}
		ended = append(ended, s)
		return nil
	})
	if err != nil {
		return report, err
	}
	hashes := make([]common.Hash, len(ended))
	for i, s := range ended {
		hashes[i] = s.Mined.Hash
	}
	receipts, err := h.node.receipts(ctx, hashes)
	if err != nil {
		return report, err
	}
	for i, s := range ended {
		switch r := receipts[i]; {
		case r == nil:
			return report, fmt.Errorf("audit: transaction %s of nonce %d is not on the chain, or the node no longer has its receipt", s.Mined.Hash, s.Nonce)
		case r.BlockHash != s.Mined.BlockHash || (r.Status == 1) != s.Mined.OK:
			return report, fmt.Errorf("audit: transaction %s is in block %s with status %d, the journal says %s and %t",
				s.Mined.Hash, r.BlockHash, r.Status, s.Mined.BlockHash, s.Mined.OK)
		}
	}
	return report, nil
}
