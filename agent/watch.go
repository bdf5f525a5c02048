package agent

import (
	"encoding/json"
	"fmt"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// A HandedClaim is what an agent hands to a relay for the time that it is off:
// its newest claim of one channel, signed, so that anybody can have it booked and
// nobody can have it paid to another.
type HandedClaim struct {
	Network string     `json:"network"`
	Claim   x402.Claim `json:"claim"`
}

// A Watched is what a relay says of claims that it keeps: on which networks it
// keeps any, and of how many channels of this agent; or how it stands with one.
type Watched struct {
	Networks []string       `json:"networks,omitempty"`
	Kept     int            `json:"kept,omitempty"`
	Channel  channel.ID     `json:"channel,omitzero"`
	Amount   channel.Amount `json:"amount"` // up to which it claims
	// Withdraws says that the payer takes his deposit back.
	Withdraws bool   `json:"withdraws,omitempty"`
	Error     string `json:"error,omitempty"` // why it does not keep what it was handed
}

// ParseWatched decodes what a relay says; its text is safe to show.
func ParseWatched(b []byte) (w Watched, err error) {
	if err := json.Unmarshal(b, &w); err != nil {
		return Watched{}, fmt.Errorf("watch: %w", err)
	}
	w.Error = showable(w.Error)
	return w, nil
}
