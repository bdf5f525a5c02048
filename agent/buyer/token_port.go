package buyer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// OpenPort asks the agent's relays for a port by which a QUIC client that knows
// nothing of relays reaches the agent. It belongs to the first such client that
// comes within the time returned, for as long as it is used.
func OpenPort(ctx context.Context, o agent.Offer) (port netip.AddrPort, within time.Duration, err error) {
	if len(o.Relays) == 0 {
		return port, 0, errors.New("the offer names no relay")
	}
	var errs []error
	for _, text := range o.Relays {
		name, err := relay.ParseName(text)
		if err != nil {
			return port, 0, err
		}
		c := market.New(market.Config{Name: name})
		a, err := c.Session(ctx, market.Request{Agent: relay.Address(o.Agent), Open: true})
		c.Close()
		if Unpaid(err) {
			err = fmt.Errorf("relay %s: it charges, and a client that does not know that cannot pay it: buy from an agent with an endpoint of its own, or behind a relay that is free", name.Address())
		}
		if err == nil {
			return a.Address, time.Duration(a.Expires) * time.Second, nil
		}
		errs = append(errs, err)
	}
	return port, 0, errors.Join(errs...)
}
