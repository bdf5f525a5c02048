package seller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Networks wider than these bits say more about an odd configuration than
// about neighbours: of their interfaces only the address is own.
const (
	minOwnBits4 = 12
	minOwnBits6 = 32
)

var errNAT64Unknown = errors.New("IPv6 is closed until the resolver answers for ipv4only.arpa (RFC 7050)")

// surroundings returns own networks and, if wanted, NAT64 prefixes that are
// fresh enough to judge by. It fails when they are not known, as then a private
// address would pass.
func (p *Policy) surroundings(ctx context.Context, nat64 bool) (surroundings, error) {
	p.mu.Lock()
	stale := p.ownAt.IsZero() || time.Since(p.ownAt) >= ownAge
	p.mu.Unlock()
	if stale {
		own, err := p.addresses()
		if err != nil {
			return surroundings{}, errors.New("the agent cannot read its own addresses")
		}
		p.mu.Lock()
		if !slices.Equal(own, p.here.own) {
			p.nat64Due = time.Time{} // another network may have another prefix
		}
		p.here.own, p.ownAt = own, time.Now()
		p.mu.Unlock()
	}
	if nat64 {
		p.learnNAT64(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if nat64 && !p.here.known {
		return surroundings{}, errNAT64Unknown
	}
	return p.here, nil
}

// learnNAT64 asks for the prefixes when it is time, once for all who wait. A
// failure leaves what is known.
func (p *Policy) learnNAT64(ctx context.Context) {
	p.mu.Lock()
	due := !time.Now().Before(p.nat64Due)
	p.mu.Unlock()
	if !due {
		return
	}
	p.learning.Do("", func() (any, error) { // never fails
		// Others wait for the answer too, so it does not end with ctx.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), nat64Timeout)
		defer cancel()
		addrs, err := p.cfg.Lookup(ctx, "ip6", nat64Name)
		if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
			addrs, err = nil, nil // the usual answer: there is no NAT64
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.nat64Due = time.Now().Add(nat64Retry)
			return nil, nil
		}
		p.here.nat64, p.here.known = nat64Prefixes(addrs), true
		p.nat64Due = time.Now().Add(nat64Age)
		return nil, nil
	})
}

// interfacePrefixes returns the networks that this device's interfaces are in,
// sorted. With IPv6 the neighbours in a home have public addresses too, so the
// whole network of an interface is own, not only its address.
func interfacePrefixes() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("own addresses: %w", err)
	}
	var own []netip.Prefix
	for _, a := range addrs {
		ipnet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(ipnet.IP)
		if !ok {
			continue
		}
		ones, _ := ipnet.Mask.Size()
		p := ownPrefix(addr.Unmap(), ones)
		if i, found := slices.BinarySearchFunc(own, p, netip.Prefix.Compare); !found {
			own = slices.Insert(own, i, p)
		}
	}
	return own, nil
}

func ownPrefix(addr netip.Addr, bits int) netip.Prefix {
	least := minOwnBits6
	if addr.Is4() {
		least = minOwnBits4
	}
	if bits < least || bits > addr.BitLen() {
		bits = addr.BitLen()
	}
	return netip.PrefixFrom(addr, bits).Masked()
}
