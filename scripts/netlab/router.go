package netlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// A NAT is how a router translates addresses, in the words of RFC 4787.
type NAT int

const (
	// NoNAT routes only: what is inside has public addresses.
	NoNAT NAT = iota
	// FullCone keeps the port (endpoint-independent mapping), and lets anybody
	// in to a port (endpoint-independent filtering). nft knows no such NAT: UDP
	// to any port from 1024 goes to the one host inside, whether it has used
	// that port or not.
	FullCone
	// PortRestricted keeps the port too, but lets in only answers from an
	// address and port that were sent to (address and port-dependent
	// filtering). A second host inside that uses the same port towards the
	// same far end would get another; there is one host here.
	PortRestricted
	// Symmetric draws a port for every far end, and lets in only its answers
	// (address and port-dependent mapping and filtering).
	Symmetric
)

var natNames = []string{"none", "fullcone", "restricted", "symmetric"}

func (n NAT) String() string { return natNames[n] }

// ParseNAT is the inverse of String.
func ParseNAT(name string) (NAT, error) {
	if i := slices.Index(natNames, name); i >= 0 {
		return NAT(i), nil
	}
	return 0, fmt.Errorf("netlab: NAT %q is none of %s", name, strings.Join(natNames, ", "))
}

// A Router stands between a host inside and the world outside.
type Router struct {
	*Namespace
	NAT     NAT
	Host    netip.Addr // inside
	Gateway netip.Addr // outside

	mu      sync.Mutex
	outside netip.Prefix
}

// The interfaces of a Router.
const (
	insideDevice  = "inside"
	outsideDevice = "outside"
)

// translation drops what comes in unasked before it makes an entry in the table
// of connections: an entry for a peer's first punch would take the port from
// the answer of the host inside, and a real NAT has none. What comes for an
// address that it has no more does not go back and forth.
const translation = `table ip x402lab
delete table ip x402lab
table ip x402lab {
	chain out { type nat hook postrouting priority srcnat; oifname outside masquerade %s; }
	chain in { type nat hook prerouting priority dstnat; %s }
	chain self { type filter hook input priority filter; iifname outside ct state new drop; }
	chain through { type filter hook forward priority filter; iifname outside oifname outside drop; iifname outside ct state new ct status & dnat == 0 drop; }
}
`

// start sets up forwarding and translation. A table is made before it is
// deleted, so that there is one to delete.
func (r *Router) start(ctx context.Context) error {
	if err := r.Sysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if err := r.Route(ctx, everything, r.Gateway); err != nil || r.NAT == NoNAT {
		return err
	}
	ports, forward := "", ""
	switch r.NAT {
	case FullCone:
		forward = fmt.Sprintf("iifname outside fib daddr type local udp dport 1024-65535 dnat to %s;", r.Host)
	case Symmetric:
		ports = "random,fully-random"
	}
	return r.nft(ctx, fmt.Sprintf(translation, ports, forward))
}

// Outside is the router's public address.
func (r *Router) Outside() netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outside.Addr()
}

// Lease gives the router another public address, as a carrier does after an
// outage: the mappings are gone, and the old address answers no more. It
// returns the new one.
func (r *Router) Lease(ctx context.Context) (netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.NAT == NoNAT {
		return netip.Addr{}, errors.New("netlab: a router without NAT has nothing to lease")
	}
	next := netip.PrefixFrom(r.outside.Addr().Next(), r.outside.Bits())
	if !next.Contains(r.Gateway) || !next.Contains(next.Addr().Next()) {
		return netip.Addr{}, fmt.Errorf("netlab: no address left after %s", r.outside)
	}
	// Removing an address flushes the mappings that masquerade made with it.
	if err := r.Readdress(ctx, outsideDevice, [2]netip.Prefix{r.outside, next}, r.Gateway); err != nil {
		return netip.Addr{}, err
	}
	r.outside = next
	return next.Addr(), nil
}

// A Policy is what a network does to UDP on its way through a router, both
// ways.
type Policy struct {
	BlockUDP bool
	// Throttle is the rate of UDP ports (of either end) in bytes a second; what
	// is beyond is dropped.
	Throttle map[uint16]uint64
}

// Police replaces the policy. The zero Policy lets everything pass.
func (r *Router) Police(ctx context.Context, p Policy) error {
	var rules strings.Builder
	if p.BlockUDP {
		rules.WriteString("meta l4proto udp drop;")
	}
	for _, port := range slices.Sorted(maps.Keys(p.Throttle)) {
		for _, end := range []string{"sport", "dport"} {
			fmt.Fprintf(&rules, "udp %s %d limit rate over %d bytes/second burst 16000 bytes drop;", end, port, p.Throttle[port])
		}
	}
	return r.nft(ctx, fmt.Sprintf(`table ip x402lab-policy
delete table ip x402lab-policy
table ip x402lab-policy {
	chain through { type filter hook forward priority -10; %s }
}
`, rules.String()))
}
