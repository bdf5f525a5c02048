package directory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// checkGateway looks at all that a gateway needs.
func (c Config) checkGateway(ctx context.Context) []Finding {
	g := c.Gateway.Gateway
	found := []Finding{passed("credit", g.StateDir+" keeps what customers have: back it up")}
	if err := writable(g.StateDir); err != nil {
		found[0] = failed("credit", fmt.Sprintf("gateway.state_dir: %v", err), "let the relay's user write there, or set another")
	}
	for name, at := range map[string]string{"listen": g.Secure, "http_listen": g.HTTP, "socks_listen": g.SOCKS} {
		if at == "" {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
		if err == nil {
			err = l.Close()
		}
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			found = append(found, warning("proxy", at+" is in use", "if not by this relay, stop the other program or set gateway."+name))
		case err != nil:
			found = append(found, failed("proxy", "gateway."+name+": "+err.Error(), ""))
		default:
			found = append(found, passed("proxy", "gateway."+name+": "+at))
		}
	}
	key, err := c.Gateway.key()
	if err != nil {
		return append(found, failed("wallet", err.Error(), ""))
	}
	found = append(found, passed("wallet", c.Gateway.Wallet+" pays agents and customers"))
	if c.Toll.Price == 0 { // else it was looked at
		c.Toll.Payment.PayTo = key.Address()
		return append(found, c.checkFacilitator(ctx)...)
	}
	return found
}
