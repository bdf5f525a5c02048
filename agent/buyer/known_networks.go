package buyer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/depinsim/x402/agent"
)

// KnownNetworks remembers the transport that got through on a network, in a
// text file with one line "192.0.2.0/24 tls" each, the newest last. It is safe
// for concurrent use. [LoadNetworks] makes one.
type KnownNetworks struct {
	path string

	mu  sync.Mutex
	all []knownNetwork
}

type knownNetwork struct{ prefix, transport string }

var _ Networks = (*KnownNetworks)(nil)

// Bounds of the file.
const (
	maxNetworks     = 64 // the oldest is forgotten
	maxNetworksFile = 8 << 10
)

// LoadNetworks reads the file. What it remembers is a help and no more: with an
// error comes one that has forgotten everything, and replaces the file when it
// has something to remember.
func LoadNetworks(path string) (*KnownNetworks, error) {
	k := &KnownNetworks{path: path}
	text, err := readSmall(path)
	if err != nil {
		return k, err
	}
	if k.all, err = parseNetworks(text); err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

func parseNetworks(text string) ([]knownNetwork, error) {
	if len(text) > maxNetworksFile {
		return nil, fmt.Errorf("longer than %d bytes", maxNetworksFile)
	}
	var all []knownNetwork
	for i, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 2 || f[1] != QUIC && f[1] != TLS {
			return nil, fmt.Errorf("line %d: want a network and %s or %s", i+1, QUIC, TLS)
		}
		p, err := netip.ParsePrefix(f[0])
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("line %d: %q is no network", i+1, f[0])
		}
		all = append(all, knownNetwork{p.String(), f[1]})
	}
	return all[max(0, len(all)-maxNetworks):], nil
}

// Transport is what got through last, "" if that is not known.
func (k *KnownNetworks) Transport(network string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range slices.Backward(k.all) {
		if n.prefix == network {
			return n.transport
		}
	}
	return ""
}

// Remember notes what got through.
func (k *KnownNetworks) Remember(network, transport string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = slices.DeleteFunc(k.all, func(n knownNetwork) bool { return n.prefix == network })
	k.all = append(k.all, knownNetwork{network, transport})
	k.all = k.all[max(0, len(k.all)-maxNetworks):]
	var text strings.Builder
	for _, n := range k.all {
		fmt.Fprintf(&text, "%s %s\n", n.prefix, n.transport)
	}
	return agent.ReplaceFile(k.path, []byte(text.String()), 0o600)
}
