package directory

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
)

// checkState looks whether the key and the vouchers can be kept.
func (c Config) checkState() Finding {
	dir := c.Toll.StateDir
	if err := writable(dir); err != nil {
		return failed("state", fmt.Sprintf("payment.state_dir: %v", err), "let the relay's user write there, or set another")
	}
	return passed("state", dir+" keeps vouchers, and the key that claims them: back it up")
}

// checkFacilitator holds what the file says of money against what the
// facilitator says.
func (c Config) checkFacilitator(ctx context.Context) []Finding {
	p := c.Toll.Payment
	client, s, f := askFacilitator(ctx, p.Facilitator)
	if f != nil {
		return []Finding{*f}
	}
	found := []Finding{passed("facilitator", p.Facilitator+" answers")}
	token, err := s.Token(p.Network)
	want, _ := p.Token() // the network was checked with the file
	switch {
	case !slices.Contains(s.Networks(), p.Network):
		found = append(found, failed("asset", "the facilitator does not settle channels on "+p.Network, "list another network only if you trust it"))
		return append(found, offered(p.Facilitator, s)...)
	case err != nil:
		found = append(found, warning("asset", "the facilitator does not say in which asset it settles", "make sure that asset, asset_name and asset_version are right"))
	case token != want:
		found = append(found, failed("asset", fmt.Sprintf("%s (%q version %q) on %s, but the facilitator settles %s (%q version %q)",
			want.Address, want.Name, want.Version, p.Network, token.Address, token.Name, token.Version), "list another asset only if you trust it"))
		return append(found, offered(p.Facilitator, s)...)
	default:
		found = append(found, passed("asset", fmt.Sprintf("%q %s on %s%s", p.AssetName, p.Asset, p.Network, whose(p.Network))))
	}
	info, err := client.Balance(ctx, p.Network, p.PayTo)
	if err != nil {
		return append(found, warning("account", fmt.Sprintf("%s: %v", p.PayTo, err), "ask again later; the relay charges all the same"))
	}
	return append(found, passed("account", fmt.Sprintf("%s has %s USD", p.PayTo, info.Balance.USD())))
}

func askFacilitator(ctx context.Context, url string) (*facilitator.Client, x402.Supported, *Finding) {
	client, err := nethttp.New(nethttp.Config{URL: url})
	if err != nil {
		f := failed("facilitator", err.Error(), "")
		return nil, x402.Supported{}, &f
	}
	s, err := client.Supported(ctx)
	if err != nil {
		f := failed("facilitator", err.Error(), "check payment.facilitator, and that this machine reaches it")
		return nil, s, &f
	}
	return client, s, nil
}

// checkOffered says what there is to choose from, when a file names a
// facilitator and is wrong otherwise.
func checkOffered(ctx context.Context, url string) []Finding {
	if url == "" {
		return nil
	}
	_, s, f := askFacilitator(ctx, url)
	if f != nil {
		return []Finding{*f}
	}
	return offered(url, s)
}

// maxOffered bounds what a facilitator's answer makes us print.
const maxOffered = 8

// offered lists what a facilitator settles channels in, for the config file.
func offered(url string, s x402.Supported) (found []Finding) {
	for _, network := range s.Networks() {
		if _, err := channel.ParseNetwork(network); err != nil || len(found) == maxOffered {
			continue
		}
		f := warning("offer", url+" settles on "+network+whose(network), "put this under [payment] if you trust it")
		f.Paste = []string{"network = " + strconv.Quote(network)}
		if t, err := s.Token(network); err == nil {
			f.Paste = append(f.Paste, "asset = "+strconv.Quote(t.Address.String()),
				"asset_name = "+strconv.QuoteToASCII(t.Name), "asset_version = "+strconv.QuoteToASCII(t.Version))
		}
		found = append(found, f)
	}
	if found == nil {
		found = append(found, failed("offer", url+" settles no channels", "use another facilitator"))
	}
	return found
}

// whose says of a facilitator's own network what the asset there is.
func whose(network string) string {
	if id, err := channel.ParseNetwork(network); err != nil || id < channel.FirstPrivate {
		return ""
	}
	return ", the facilitator's own network: credit of its operator"
}
