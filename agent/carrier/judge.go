package carrier

import (
	"net/netip"
	"slices"

	"github.com/depinsim/x402/agent"
)

// A Finding is what came of comparing a SIM's claims with the network that an
// address belongs to. It is as good as whoever saw the address.
type Finding struct {
	// Evidence is agent.EvidenceCarrier or agent.EvidenceClaimed; "" means
	// that nothing was compared.
	Evidence string  `json:"evidence,omitempty"`
	Network  Network `json:"network,omitzero"` // that the address belongs to
	// Reason is why it is no more than claimed.
	Reason Reason `json:"reason,omitempty"`
}

// Heard is a finding of somebody else's, without what could steer a terminal.
func Heard(f Finding) Finding {
	switch f.Evidence {
	case agent.EvidenceCarrier:
		f.Reason = ""
	case agent.EvidenceClaimed:
		f.Reason = Reason(nameOf(string(f.Reason)))
	default:
		return Finding{}
	}
	f.Network.Name = nameOf(f.Network.Name)
	if !agent.IsCountry(f.Network.Country) {
		f.Network.Country = ""
	}
	return f
}

// A Reason is why a SIM's claims are only claims.
type Reason string

// The reasons.
const (
	NoSIM        Reason = "no-sim"          // the offer names no SIM
	Roaming      Reason = "roaming"         // the SIM is abroad: whose exit it has says nothing of where it is
	NoOperator   Reason = "unknown-carrier" // MCC and MNC are nobody's
	NoNetwork    Reason = "unknown-address" // the address is in no network that is known
	OtherCountry Reason = "other-country"   // the network is not of the SIM's country, or its country is not known
	OtherNetwork Reason = "other-network"   // it is not the carrier's: a virtual operator's host, or another line
)

func (r Reason) String() string {
	switch r {
	case NoSIM:
		return "it names no SIM"
	case Roaming:
		return "the SIM is roaming"
	case NoOperator:
		return "the SIM's carrier is not known"
	case NoNetwork:
		return "the address is in no known network"
	case OtherCountry:
		return "the network is of another country"
	case OtherNetwork:
		return "the network is not the SIM's carrier's"
	}
	return string(r)
}

// Judge compares what an agent claims of its SIM with the network that the
// address belongs to. The operator's name that the agent gives counts for
// nothing; MCC and MNC do. In doubt it is no more than claimed: a SIM of a
// virtual operator with a code of its own leaves by its host's network, and a
// roaming one by whichever the two carriers agreed on.
func Judge(s agent.SIM, at netip.Addr, n *Networks) Finding {
	f := Finding{Evidence: agent.EvidenceClaimed}
	network, known := n.Of(at)
	f.Network = network
	carriers := Operators(s.MCC, s.MNC)
	switch {
	case s.MCC == "":
		f.Reason = NoSIM
	case s.Roaming:
		f.Reason = Roaming
	case carriers == nil:
		f.Reason = NoOperator
	case !known:
		f.Reason = NoNetwork
	case !slices.Contains(Countries(s), network.Country):
		f.Reason = OtherCountry
	case !slices.ContainsFunc(carriers, func(o Operator) bool { return runs(o, network) }):
		f.Reason = OtherNetwork
	default:
		f.Evidence = agent.EvidenceCarrier
	}
	return f
}
