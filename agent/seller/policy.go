package seller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// A PolicyConfig says which targets buyers may reach. The zero value is a
// sound default: every address that is globally reachable and not the owner's,
// every port but a few that serve abuse.
type PolicyConfig struct {
	// AllowNetworks lifts the refusal of special and own addresses, for tests
	// and for a service that the owner wants to offer. It lifts nothing else:
	// not a port, and not an IPv4 address inside an IPv6 one.
	AllowNetworks []netip.Prefix
	// DenyNetworks are refused on top; they win over AllowNetworks. List
	// networks of yours that no interface of this device is in.
	DenyNetworks []netip.Prefix

	// AllowTCP and AllowUDP are all ports that may be reached. Nil means every
	// port except those of DefaultDeniedTCP and DefaultDeniedUDP. TCP port 25
	// is refused in any case.
	AllowTCP, AllowUDP []PortRange
	// DenyTCP and DenyUDP are refused on top.
	DenyTCP, DenyUDP []PortRange

	// Interface is the name of the network interface that traffic leaves by,
	// such as "wwan0", or InterfaceOfModem. Empty: as the device routes. It needs
	// CAP_NET_RAW on kernels before 5.7.
	Interface string

	DialTimeout    time.Duration // for a target, names included; 0: 15 s
	AddressTimeout time.Duration // for one of its addresses; 0: 4 s

	// Lookup replaces the device's resolver. It has the contract of
	// net.Resolver.LookupNetIP.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	maxAddresses = 6 // that are tried for one target

	// ownAge is how old the list of own addresses may be.
	ownAge = 5 * time.Second
	// nat64Age is how old the NAT64 prefixes may be while the own addresses
	// stay the same, nat64Retry the pause after they could not be learned.
	nat64Age     = 10 * time.Minute
	nat64Retry   = 30 * time.Second
	nat64Timeout = 3 * time.Second
	nat64Name    = "ipv4only.arpa." // RFC 7050 section 2.2
)

// A BlockedError says that the policy refuses a target. It names no address
// that the buyer did not name: what a name resolves to inside the owner's
// network is not the buyer's to know.
type BlockedError struct {
	Target string
	Reason string
}

func (e *BlockedError) Error() string { return fmt.Sprintf("%s: blocked: %s", e.Target, e.Reason) }

// Blocked returns the reason, for callers that do not know this type.
func (e *BlockedError) Blocked() string { return e.Reason }

// A Policy dials targets for buyers. It resolves names itself, checks every
// address that a name resolves to, and dials exactly an address that it has
// checked, so that a name that changes its answer gains nothing. It may be used
// by many goroutines.
type Policy struct {
	cfg      PolicyConfig
	tcp, udp portPolicy
	learning singleflight.Group // of NAT64 prefixes

	// What tests replace.
	connect   func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	addresses func() ([]netip.Prefix, error)

	mu       sync.Mutex
	here     surroundings
	ownAt    time.Time // when here.own was read
	nat64Due time.Time // when here.nat64 is to be learned again
}

// NewPolicy returns a policy, or an error that names the setting at fault.
func NewPolicy(cfg PolicyConfig) (*Policy, error) {
	w, err := newWay(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("policy: interface: %w", err)
	}
	return newPolicy(cfg, w)
}

// newPolicy is NewPolicy by an interface that is known as a way.
func newPolicy(cfg PolicyConfig, w *way) (*Policy, error) {
	if cfg.DialTimeout < 0 || cfg.AddressTimeout < 0 {
		return nil, errors.New("policy: a timeout is negative")
	}
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, 15*time.Second)
	cfg.AddressTimeout = cmp.Or(cfg.AddressTimeout, 4*time.Second)
	for _, list := range [][]netip.Prefix{cfg.AllowNetworks, cfg.DenyNetworks} {
		for _, prefix := range list {
			if !prefix.IsValid() || prefix.Addr().Is4In6() {
				return nil, fmt.Errorf("policy: network %v: want a prefix such as 192.0.2.0/24", prefix)
			}
		}
	}
	p := &Policy{
		cfg:       cfg,
		tcp:       portPolicy{allow: cfg.AllowTCP, deny: cfg.DenyTCP, never: neverTCP()},
		udp:       portPolicy{allow: cfg.AllowUDP, deny: cfg.DenyUDP},
		addresses: interfacePrefixes,
	}
	if cfg.AllowTCP == nil {
		p.tcp.usual = DefaultDeniedTCP()
	}
	if cfg.AllowUDP == nil {
		p.udp.usual = DefaultDeniedUDP()
	}
	out := newOutlet(w)
	p.connect = out.connect
	if cfg.Lookup == nil {
		p.cfg.Lookup = out.resolver().LookupNetIP
	}
	return p, nil
}

// DialTCP connects to a target, or returns a *BlockedError if the policy is
// against it.
func (p *Policy) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return p.dial(ctx, "tcp", host, port)
}

// DialUDP returns a connected socket for a target, or a *BlockedError if the
// policy is against it.
func (p *Policy) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return p.dial(ctx, "udp", host, port)
}

func (p *Policy) dial(ctx context.Context, network, host string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	ports := p.tcp
	if network == "udp" {
		ports = p.udp
	}
	if reason := ports.refuses(port); reason != "" {
		return nil, blocked(host, port, reason)
	}
	addrs, err := p.resolve(ctx, host, port)
	if err != nil {
		return nil, err
	}
	if addrs, err = p.check(ctx, host, port, addrs); err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		var conn net.Conn
		// The last error is the most telling: unreachable families, which
		// are tried first on a device without them, fail before it.
		if conn, err = p.try(ctx, network, netip.AddrPortFrom(addr, port)); err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func blocked(host string, port uint16, reason string) error {
	return &BlockedError{net.JoinHostPort(host, strconv.Itoa(int(port))), reason}
}

func (p *Policy) try(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.AddressTimeout)
	defer cancel()
	return p.connect(ctx, network, to)
}

// resolve returns the addresses of host in the order of the resolver.
func (p *Policy) resolve(ctx context.Context, host string, port uint16) ([]netip.Addr, error) {
	addr, name, reason := parseHost(host)
	switch {
	case reason != "":
		return nil, blocked(host, port, reason)
	case addr.IsValid():
		return []netip.Addr{addr}, nil
	case name == "localhost" || strings.HasSuffix(name, ".localhost"): // RFC 6761 section 6.3
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	// The dot at the end keeps the owner's search domains out.
	addrs, err := p.cfg.Lookup(ctx, "ip", name+".")
	if err != nil {
		return nil, scrub(err, name)
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return addrs, nil
}

// scrub takes the owner's name servers out of an error of the resolver.
func scrub(err error, name string) error {
	dns, ok := errors.AsType[*net.DNSError](err)
	if !ok {
		return fmt.Errorf("lookup %s: %w", name, err)
	}
	return &net.DNSError{
		Err: strings.TrimSuffix(dns.Err, "."), Name: name,
		IsTimeout: dns.IsTimeout, IsTemporary: dns.IsTemporary, IsNotFound: dns.IsNotFound,
	}
}

// check returns those addresses that the policy has nothing against, families
// taking turns so that a family without a route costs one try.
func (p *Policy) check(ctx context.Context, host string, port uint16, addrs []netip.Addr) ([]netip.Addr, error) {
	var four, six []netip.Addr
	var reason string
	for _, addr := range addrs {
		addr = addr.Unmap().WithZone("")
		switch r := p.refuses(ctx, addr); {
		case r != "":
			reason = cmp.Or(reason, r)
		case addr.Is4():
			four = append(four, addr)
		default:
			six = append(six, addr)
		}
	}
	first, second := four, six
	if addrs[0].Unmap().Is6() {
		first, second = six, four
	}
	var good []netip.Addr
	for i := range max(len(first), len(second)) {
		for _, family := range [][]netip.Addr{first, second} {
			if i < len(family) && len(good) < maxAddresses {
				good = append(good, family[i])
			}
		}
	}
	if len(good) == 0 {
		return nil, blocked(host, port, reason)
	}
	return good, nil
}

// refuses returns why addr must not be dialled, "" if it may.
func (p *Policy) refuses(ctx context.Context, addr netip.Addr) string {
	if contains(p.cfg.DenyNetworks, addr) {
		return reasonOwner
	}
	if contains(p.cfg.AllowNetworks, addr) {
		return ""
	}
	here, err := p.surroundings(ctx, addr.Is6())
	if err != nil {
		return err.Error()
	}
	if reason := here.refuses(addr); reason != "" {
		return reason
	}
	for _, inner := range here.embedded(addr) {
		if contains(p.cfg.DenyNetworks, inner) {
			return reasonOwner
		}
		if reason := here.refuses(inner); reason != "" {
			return reason
		}
	}
	return ""
}

const reasonOwner = "the owner does not allow this network"

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}
