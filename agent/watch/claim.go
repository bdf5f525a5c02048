package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// A claim is what an agent handed in: its newest of one channel. The agent is the
// channel's receiverAuthorizer.
type claim struct {
	// state has the voucher. Its balance is the voucher's amount: what the ledger
	// says is not kept.
	state     channel.State
	total     channel.Amount    // that is claimed, cumulative
	signature channel.Signature // of the receiverAuthorizer
}

// parseClaim decodes what an agent handed in. The signatures are not checked yet.
func parseClaim(text []byte) (network string, c claim, err error) {
	var h agent.HandedClaim
	if err := x402.Unmarshal(text, &h); err != nil {
		return "", c, err
	}
	d, err := agent.Payment{Network: h.Network}.Domain()
	if err != nil {
		return "", c, err
	}
	if len(h.Claim.Claims) != 1 || h.Claim.Signature == nil {
		return "", c, fmt.Errorf("want a signed claim of one channel, not of %d", len(h.Claim.Claims))
	}
	row := h.Claim.Claims[0]
	if c.state, err = channel.NewState(d, row.Voucher.Channel); err != nil {
		return "", c, err
	}
	c.state.Max, c.state.Signature, c.state.Balance = row.Voucher.Max, row.Signature, row.Voucher.Max
	c.total, c.signature = row.TotalClaimed, *h.Claim.Signature
	if c.total == 0 || c.total > c.state.Max {
		return "", c, fmt.Errorf("claim of %d by a voucher of %d", c.total, c.state.Max)
	}
	return channel.NetworkName(d.ChainID), c, nil
}

// agent is who can have signed the claim.
func (c claim) agent() channel.Address { return c.state.Config.ReceiverAuthorizer }

// message is the claim as a facilitator takes it.
func (c claim) message() x402.Claim {
	return x402.Claim{Claims: []x402.VoucherClaim{x402.ClaimOf(c.state, c.total)}, Signature: &c.signature}
}

// payment is the voucher, which facilitators of others want to see when they are
// asked about its channel.
func (c claim) payment() x402.VoucherPayment {
	return x402.VoucherPayment{Config: c.state.Config, Voucher: channel.Voucher{Channel: c.state.ID, Max: c.state.Max, Signature: c.state.Signature}}
}

var errSignature = errors.New("a signature is not of whom the channel says")

// verify checks both signatures: whether the ledger would take the claim as far as
// that can be told without it.
func (c claim) verify() error {
	d, id := c.state.Domain, c.state.ID
	payer, err := channel.Recover(d.VoucherDigest(id, c.state.Max), c.state.Signature)
	if err != nil || payer != c.state.Config.PayerAuthorizer {
		return fmt.Errorf("voucher: %w", errSignature)
	}
	by, err := channel.Recover(d.ClaimDigest(x402.Entries(d, c.message().Claims)), c.signature)
	if err != nil || by != c.agent() {
		return fmt.Errorf("claim: %w", errSignature)
	}
	return nil
}

// A claim is stored as its state, with the rest in the note: version, total, when
// the agent was last there in Unix seconds, signature.
const (
	noteVersion = 1
	noteSize    = 1 + 8 + 8 + len(channel.Signature{})
)

func (c claim) record(seen time.Time) channel.State {
	b := binary.BigEndian.AppendUint64([]byte{noteVersion}, uint64(c.total))
	b = binary.BigEndian.AppendUint64(b, uint64(seen.Unix()))
	s := c.state
	s.Note = append(b, c.signature[:]...)
	return s
}

// readRecord reads what record wrote.
func readRecord(s channel.State) (c claim, seen time.Time, err error) {
	b := s.Note
	if len(b) != noteSize || b[0] != noteVersion {
		return c, seen, fmt.Errorf("channel %.10s: not the record of a claim", s.ID)
	}
	c.total = channel.Amount(binary.BigEndian.Uint64(b[1:]))
	seen = time.Unix(int64(binary.BigEndian.Uint64(b[9:])), 0)
	c.signature = channel.Signature(b[17:])
	s.Note = nil
	c.state = s
	return c, seen, nil
}
