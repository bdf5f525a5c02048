package directory

import (
	"strings"
	"testing"
	"time"
)

// gatewayFile is a file of a relay with a gateway.
const gatewayFile = `public = 'relay.example:4433'
cert_file = "cert.pem"
[payment]
facilitator = "https://facilitator.example"
network = "eip155:84532"
asset = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
asset_name = "USDC"
asset_version = "2"
[gateway]
wallet = "wallet.json"
state_dir = "gateway"
`

func TestConfigGateway(t *testing.T) {
	f, err := parseConfig("/etc/relay.toml", []byte(gatewayFile))
	if err != nil || f.Warnings != nil {
		t.Fatal(err, f.Warnings)
	}
	c := f.Config.Gateway
	g := c.Gateway
	if c.Wallet != "/etc/wallet.json" || g.StateDir != "/etc/gateway" || g.FeePercent != 10 || g.Secure != "[::]:8443" || g.HTTP+g.SOCKS != "" ||
		g.Payment.Network != "eip155:84532" || g.Payment.Facilitator != "https://facilitator.example" {
		t.Errorf("%+v", c)
	}
	full := gatewayFile + `passphrase_file = "secret"
fee_percent = 0
listen = "none"
socks_listen = "127.0.0.1:1080"
life = "24h"
idle = "1m"
exits = 3
relays = ["other.example:4433"]
`
	f, err = parseConfig("/etc/relay.toml", []byte(full))
	g = f.Config.Gateway.Gateway
	if err != nil || f.Warnings != nil || g.FeePercent != 0 || g.Secure != "" || g.SOCKS != "127.0.0.1:1080" || g.Life != 24*time.Hour || g.Idle != time.Minute ||
		g.MaxExits != 3 || len(g.Relays) != 1 || f.Config.Gateway.PassphraseFile != "/etc/secret" {
		t.Errorf("%+v %v %v", g, err, f.Warnings)
	}
	for name, tt := range map[string]struct{ old, new, want string }{
		"no wallet":     {`wallet = "wallet.json"`, ``, "gateway.wallet: missing"},
		"no directory":  {`state_dir = "gateway"`, ``, "gateway.state_dir: missing"},
		"no network":    {`network = "eip155:84532"`, ``, "payment.network: missing"},
		"fee":           {`[gateway]`, "[gateway]\nfee_percent = 1001", "gateway.fee_percent: want"},
		"negative fee":  {`[gateway]`, "[gateway]\nfee_percent = -1", "gateway.fee_percent: want"},
		"no proxy":      {`[gateway]`, "[gateway]\nlisten = 'none'", "gateway.listen: none, and no other proxy"},
		"listen":        {`[gateway]`, "[gateway]\nlisten = 'x'", "gateway.listen:"},
		"life":          {`[gateway]`, "[gateway]\nlife = '1m'", "gateway.life:"},
		"relays":        {`[gateway]`, "[gateway]\nrelays = ['x']", "gateway.relays:"},
		"one directory": {`[payment]`, "[payment]\nstate_dir = 'gateway'", "gateway.state_dir: is payment.state_dir too"},
		"unknown":       {`[gateway]`, "[gateway]\nfee = 1", "[gateway] has wallet"},
	} {
		if _, err := parseConfig("relay.toml", []byte(strings.Replace(gatewayFile, tt.old, tt.new, 1))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tt := range map[string]struct{ old, new, want string }{
		"own key":  {`cert_file = "cert.pem"`, ``, "gateway.listen: without cert_file"},
		"in clear": {`[gateway]`, "[gateway]\nsocks_listen = ':1080'", "gateway.socks_listen: customers' passwords pass in clear"},
		"toll":     {`[payment]`, "[price]\nper_gb = '1'\n[payment]\nstate_dir = 'x'\npay_to = '0x70997970C51812dc3A010C7d01b50e0d17dc79C8'", "price.per_gb: the gateway pays no relays"},
	} {
		f, err := parseConfig("relay.toml", []byte(strings.Replace(gatewayFile, tt.old, tt.new, 1)))
		if err != nil || len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0], tt.want) {
			t.Errorf("%s: %v %q", name, err, f.Warnings)
		}
	}
}
