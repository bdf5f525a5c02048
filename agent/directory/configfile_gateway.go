package directory

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/tunnel/relay"
)

// Defaults of the file.
const (
	defaultFee    = 10
	defaultSecure = "[::]:8443"
)

// maxRelays is how many other relays a gateway may look at.
const maxRelays = 8

// gatewayKeys are the keys of who sells on.
func (r *rawFile) gatewayKeys() []key {
	c := &r.file.Config.Gateway
	g := &c.Gateway
	const listen = "an address such as ':8443', or 'none'"
	return []key{
		{"gateway.wallet", "the path of a wallet's file", r.path(&c.Wallet)},
		{"gateway.passphrase_file", "the path of a file", r.path(&c.PassphraseFile)},
		{"gateway.state_dir", "the path of a directory", r.path(&g.StateDir)},
		{"gateway.fee_percent", fmt.Sprintf("a number from 0 to %d", gateway.MaxFee), func(v any) error {
			n, ok := v.(int64)
			if !ok || n < 0 || n > gateway.MaxFee {
				return errWant
			}
			g.FeePercent = uint64(n)
			return nil
		}},
		{"gateway.listen", listen, listenAt(&g.Secure)},
		{"gateway.http_listen", listen, listenAt(&g.HTTP)},
		{"gateway.socks_listen", listen, listenAt(&g.SOCKS)},
		{"gateway.deposit", wantUSD, usd(&g.Deposit, 1)},
		{"gateway.life", "a time from '1h' to '8760h'", func(v any) error { return takeTime(&g.Life, v, time.Hour, 8760*time.Hour) }},
		{"gateway.idle", "a time from '10s' to '24h'", func(v any) error { return takeTime(&g.Idle, v, 10*time.Second, 24*time.Hour) }},
		{"gateway.exits", "a number from 1 to 1000", number(&g.MaxExits, 1_000)},
		{"gateway.flows", "a number from 1 to 10000", number(&g.Flows, 10_000)},
		{"gateway.connections", "a number from 1 to 100000", number(&g.Conns, 100_000)},
		{"gateway.source_connections", "a number from 1 to 100000", number(&g.SourceConns, 100_000)},
		{"gateway.relays", fmt.Sprintf("a list of at most %d relays' names", maxRelays), func(v any) error { return takeRelays(&g.Relays, v) }},
	}
}

func listenAt(into *string) func(any) error {
	return func(v any) error {
		s, _ := v.(string)
		if s == "none" {
			*into = ""
			return nil
		}
		at, err := parseListen(s)
		*into = at.String()
		return err
	}
}

func takeRelays(into *[]relay.Name, v any) error {
	list, ok := v.([]any)
	if !ok || len(list) > maxRelays {
		return errWant
	}
	for _, v := range list {
		s, _ := v.(string)
		n, err := relay.ParseName(s)
		if err != nil {
			return err
		}
		*into = append(*into, n)
	}
	return nil
}

// gatewayNeeds are what must be set by who runs a gateway.
var gatewayNeeds = []string{"gateway.state_dir", "payment.facilitator", "payment.network", "payment.asset", "payment.asset_name", "payment.asset_version"}

// readGateway finds what is missing for a gateway, and what does not go together.
func (r *rawFile) readGateway(given map[string]bool) {
	c := &r.file.Config
	if c.Gateway.Wallet == "" {
		for name := range given {
			if strings.HasPrefix(name, "gateway.") && !r.faulty["gateway.wallet"] {
				r.problems = append(r.problems, "gateway.wallet: missing: without it there is no gateway, whatever [gateway] says")
				return
			}
		}
		return
	}
	var absent []string
	for _, name := range gatewayNeeds {
		if !given[name] {
			absent = append(absent, name)
		}
	}
	if absent != nil {
		r.problems = append(r.problems, strings.Join(absent, ", ")+": missing: a gateway is paid, and pays, as [payment] says; `x402-relay check` shows what the facilitator offers")
	}
	g := &c.Gateway.Gateway
	if !given["gateway.fee_percent"] {
		g.FeePercent = defaultFee
	}
	if !given["gateway.listen"] {
		g.Secure = defaultSecure
	}
	if g.Secure+g.HTTP+g.SOCKS == "" {
		r.fault(key{"gateway.listen", "an address such as ':8443'", nil}, errors.New("none, and no other proxy either"))
	}
	if c.Toll.StateDir != "" && c.Toll.StateDir == g.StateDir {
		r.fault(key{"gateway.state_dir", "a directory of its own", nil}, errors.New("is payment.state_dir too"))
	}
	g.Payment = c.Toll.Payment
}

// adviseGateway are warnings about what is right as such.
func (c Config) adviseGateway() (warnings []string) {
	warn := func(text string) { warnings = append(warnings, text) }
	g := c.Gateway.Gateway
	if c.Gateway.Wallet == "" {
		return nil
	}
	if c.CertFile == "" && g.Secure != "" {
		warn("gateway.listen: without cert_file programs have to be told not to check the proxy's certificate (curl --proxy-insecure)")
	}
	for name, at := range map[string]string{"http_listen": g.HTTP, "socks_listen": g.SOCKS} {
		if a, err := netip.ParseAddrPort(at); err == nil && !a.Addr().IsLoopback() {
			warn("gateway." + name + ": customers' passwords pass in clear there, and whoever reads one spends their credit")
		}
	}
	if c.Toll.Price > 0 {
		warn("price.per_gb: the gateway pays no relays, this one neither: it sells agents that it reaches directly, or by free relays in gateway.relays")
	}
	return warnings
}
