package demo

import (
	"fmt"
	"strings"
)

// A Report is what both sides, the SIM and the ledger said. Amounts are in
// atomic units, a millionth of a USD; sizes in bytes.
type Report struct {
	SIM      SIM      `json:"sim"`
	Buyer    Buyer    `json:"buyer"`
	Agent    Agent    `json:"agent"`
	Ledger   Ledger   `json:"ledger"`
	Transfer Transfer `json:"transfer"`
	UDP      UDP      `json:"udp"`
	Crash    Crash    `json:"crash"`
	// Faults are what does not add up, one line each; none is the demo's point.
	Faults []string `json:"faults"`
}

// SIM is what the agent says of its SIM and modem. The IMSI stays in the agent.
type SIM struct {
	MCC        string `json:"mcc"`
	MNC        string `json:"mnc"`
	Operator   string `json:"operator"`
	Technology string `json:"technology"`
	Modem      string `json:"modem"`
	IMSI       string `json:"imsi"` // as the agent shows it to its owner
}

// Buyer is the buyer's account of the channel.
type Buyer struct {
	BytesUp   uint64 `json:"bytes_up"`
	BytesDown uint64 `json:"bytes_down"`
	Owed      uint64 `json:"owed"`
	Signed    uint64 `json:"signed"`
	Claimed   uint64 `json:"claimed"`
	Refunded  uint64 `json:"refunded"`
}

// Agent is the agent's.
type Agent struct {
	BytesUp   uint64 `json:"bytes_up"`
	BytesDown uint64 `json:"bytes_down"`
	Owed      uint64 `json:"owed"`
	Paid      uint64 `json:"paid"` // by vouchers
	Claimed   uint64 `json:"claimed"`
	BytesLost uint64 `json:"bytes_lost"` // sent and never counted by the buyer, not billed; a killed session's are not known
	Sessions  uint64 `json:"sessions"`
}

// Ledger is what the facilitator's accounts held before the buyer came and
// after everything was settled.
type Ledger struct {
	Network        string `json:"network"`
	PayerBefore    uint64 `json:"payer_before"`
	PayerAfter     uint64 `json:"payer_after"`
	ReceiverBefore uint64 `json:"receiver_before"`
	ReceiverAfter  uint64 `json:"receiver_after"`
	Fee            uint64 `json:"fee"`
	Escrow         uint64 `json:"escrow"`    // in all channels, in the end
	Unsettled      uint64 `json:"unsettled"` // claimed and not paid out, in the end
}

// Transfer is how the file came.
type Transfer struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"` // with the crash in the middle
	Mbps    float64 `json:"mbps"`    // over those seconds
	Resumed int     `json:"resumed"` // requests that went on after a break
}

// UDP counts the datagrams that went to the echo server and came back.
type UDP struct {
	Echoed    int `json:"echoed"`
	SentAgain int `json:"sent_again"` // lost on the way
}

// Crash is the kill of the agent.
type Crash struct {
	Injected bool    `json:"injected"`
	Seconds  float64 `json:"seconds"` // from the kill until the agent sold again
}

// check returns what does not add up, to the unit.
func (r Report) check() []string {
	faults := []string{}
	equal := func(what string, a, b uint64) {
		if a != b {
			faults = append(faults, fmt.Sprintf("%s: %d is not %d", what, a, b))
		}
	}
	equal("bytes up, buyer and agent", r.Buyer.BytesUp, r.Agent.BytesUp)
	equal("bytes down, buyer and agent", r.Buyer.BytesDown, r.Agent.BytesDown)
	equal("owed, buyer and agent", r.Buyer.Owed, r.Agent.Owed)
	equal("owed and signed", r.Agent.Owed, r.Buyer.Signed)
	equal("signed and taken by the agent", r.Buyer.Signed, r.Agent.Paid)
	equal("signed and claimed", r.Buyer.Signed, r.Agent.Claimed)
	equal("claimed, buyer and agent", r.Buyer.Claimed, r.Agent.Claimed)
	// Sums instead of differences: nothing can wrap unnoticed.
	equal("what the payer has left and was claimed, and what it had", r.Ledger.PayerAfter+r.Agent.Claimed, r.Ledger.PayerBefore)
	equal("what the receiver has and paid as a fee, and what it had and claimed",
		r.Ledger.ReceiverAfter+r.Ledger.Fee, r.Ledger.ReceiverBefore+r.Agent.Claimed)
	equal("left in escrow, and nothing", r.Ledger.Escrow, 0)
	equal("left unsettled, and nothing", r.Ledger.Unsettled, 0)
	if r.Buyer.BytesDown < uint64(r.Transfer.Bytes) {
		faults = append(faults, fmt.Sprintf("bytes down: %d counted, the file has %d", r.Buyer.BytesDown, r.Transfer.Bytes))
	}
	if r.Agent.Claimed == 0 {
		faults = append(faults, "nothing was paid")
	}
	if !r.Crash.Injected {
		faults = append(faults, "the agent was not killed")
	}
	return faults
}

// A FaultError says that the demo went through and does not add up.
type FaultError struct{ Faults []string }

func (e *FaultError) Error() string { return "does not add up: " + strings.Join(e.Faults, "; ") }
