package buyer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// An ExitCheck looks where traffic leaves: it asks a relay, through the tunnel,
// for the address that it is seen at. That is one flow like others, of about
// 4 kB; what the relay answers the agent can neither read nor alter. It shows
// where this flow leaves, and an agent with several lines may send others
// elsewhere.
type ExitCheck struct {
	// Relays are asked one after the other. They are the buyer's own choice: one
	// that the agent chose would say what the agent likes.
	Relays []relay.Name
	// Networks are what is known of addresses; nil shows the address alone.
	Networks *carrier.Networks
}

// An Exit is where traffic leaves, as an ExitCheck saw it.
type Exit struct {
	Address netip.Addr `json:"address,omitzero"`
	carrier.Finding
	Error string `json:"error,omitempty"` // why it is not known
}

const (
	exitTime  = 30 * time.Second // for one try, which waits for the tunnel
	exitTries = 3
)

// lookAtExit looks once there is a tunnel, and notes what it saw.
func (b *Buyer) lookAtExit(ctx context.Context) error {
	if b.cfg.Exit == nil {
		return nil
	}
	exit := &Exit{}
	var err error
	for range exitTries {
		if exit.Address, err = b.exitAddress(ctx); err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	switch {
	case err != nil:
		exit.Error = err.Error()
	case b.cfg.Exit.Networks != nil:
		exit.Finding = carrier.Judge(b.cfg.Offer.SIM, exit.Address, b.cfg.Exit.Networks)
	}
	b.log.Info("exit", "address", exit.Address, "network", exit.Network, "evidence", exit.Evidence, "err", err)
	b.status.set(func(s *Status) { s.Exit = exit })
	return nil
}

// exitAddress asks the relays.
func (b *Buyer) exitAddress(ctx context.Context) (netip.Addr, error) {
	var errs []error
	for _, name := range b.cfg.Exit.Relays {
		c := market.New(market.Config{Name: name, Dial: b.dialThrough})
		ectx, cancel := context.WithTimeout(ctx, exitTime)
		a, err := c.Address(ectx)
		cancel()
		c.Close()
		if err == nil {
			return a, nil
		}
		errs = append(errs, err)
	}
	return netip.Addr{}, errors.Join(errs...)
}

// dialThrough opens a flow by its address, as a net.Dialer does a connection.
func (b *Buyer) dialThrough(ctx context.Context, _, address string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	return b.DialTCP(ctx, host, uint16(port))
}

// Confirmed says whether the exit is in a network of the SIM's carrier.
func (e *Exit) Confirmed() bool { return e != nil && e.Evidence == agent.EvidenceCarrier }
