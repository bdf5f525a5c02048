package netlab

import (
	"context"
	"net/netip"
)

// A World is the internet in small:
//
//	Buyer ── BuyerRouter ══ WAN ══ AgentRouter ── Agent
//	                         │
//	                      Internet
//
// Relays and facilitators run in WAN, on addresses of Relay; what flows go to
// runs in Internet, on Target. A link is a veth pair unless the config gives it
// a shape.
type World struct {
	Buyer, WAN, Agent, Internet *Namespace
	BuyerRouter, AgentRouter    *Router
	// BuyerLink and AgentLink lead from the router (A) to WAN (B), so AB is up;
	// nil: a veth pair.
	BuyerLink, AgentLink *Link

	BuyerAddr, AgentAddr netip.Addr // inside
	Target               netip.Addr
}

// A WorldConfig says how buyer and agent are connected.
type WorldConfig struct {
	BuyerNAT, AgentNAT NAT
	// Up is from the router to the world. With one of a pair given, the link is
	// emulated.
	BuyerUp, BuyerDown *Shape
	AgentUp, AgentDown *Shape
}

// relays is how many addresses WAN has for relays.
const relays = 4

// Relay is one of WAN's addresses, 0 to 3. RFC 2544 gave 198.18.0.0/15 to
// benchmarks; it stands for public addresses here.
func (*World) Relay(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(1 + i)}) }

// World builds one in the lab; a lab has room for one.
func (l *Lab) World(ctx context.Context, c WorldConfig) (*World, error) {
	w := &World{Target: netip.MustParseAddr("198.18.3.2")}
	for name, n := range map[string]**Namespace{"buyer": &w.Buyer, "wan": &w.WAN, "agent": &w.Agent, "internet": &w.Internet} {
		var err error
		if *n, err = l.Namespace(ctx, name); err != nil {
			return nil, err
		}
	}
	if err := w.WAN.Sysctl("ipv4/ip_forward", "1"); err != nil {
		return nil, err
	}
	for i := range relays {
		if err := w.WAN.Address(ctx, "lo", netip.PrefixFrom(w.Relay(i), 32)); err != nil {
			return nil, err
		}
	}
	gateway := netip.MustParseAddr("198.18.3.1")
	if err := l.Veth(ctx, End{w.WAN, "internet", netip.PrefixFrom(gateway, 24)}, End{w.Internet, "wan", netip.PrefixFrom(w.Target, 24)}); err != nil {
		return nil, err
	}
	if err := w.Internet.Route(ctx, everything, gateway); err != nil {
		return nil, err
	}
	var err error
	buyer := site{w.Buyer, "eth0", "buyer", 1, c.BuyerNAT, c.BuyerUp, c.BuyerDown}
	if w.BuyerRouter, w.BuyerLink, err = l.connect(ctx, w.WAN, buyer); err != nil {
		return nil, err
	}
	agent := site{w.Agent, "eth0", "agent", 2, c.AgentNAT, c.AgentUp, c.AgentDown}
	if w.AgentRouter, w.AgentLink, err = l.connect(ctx, w.WAN, agent); err != nil {
		return nil, err
	}
	w.BuyerAddr, w.AgentAddr = w.BuyerRouter.Host, w.AgentRouter.Host
	return w, nil
}

// SecondSIM gives the agent's host another way out, as a second modem does: the
// interface eth1, behind a router of its own. What is not bound to it leaves by
// eth0.
func (l *Lab) SecondSIM(ctx context.Context, w *World, nat NAT) (*Router, error) {
	r, _, err := l.connect(ctx, w.WAN, site{w.Agent, "eth1", "second", 4, nat, nil, nil})
	return r, err
}

// A site is a host with its router.
type site struct {
	host     *Namespace
	device   string // of the host
	name     string
	net      byte // tells its networks from the other's
	nat      NAT
	up, down *Shape
}

// connect joins a host to wan by a router.
func (l *Lab) connect(ctx context.Context, wan *Namespace, s site) (*Router, *Link, error) {
	ns, err := l.Namespace(ctx, s.name+"-router")
	if err != nil {
		return nil, nil, err
	}
	// A host without NAT has public addresses; one behind it has those of a
	// household (RFC 1918).
	lan := func(host byte) netip.Prefix {
		if s.nat == NoNAT {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, s.net, host}), 24)
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, s.net, host}), 24)
	}
	public := func(host byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, s.net, host}), 24)
	}
	r := &Router{Namespace: ns, NAT: s.nat, Host: lan(2).Addr(), Gateway: public(1).Addr(), outside: public(2)}
	if err := l.Veth(ctx, End{ns, insideDevice, lan(1)}, End{s.host, s.device, lan(2)}); err != nil {
		return nil, nil, err
	}
	if err := s.host.defaultRoute(ctx, s.device, lan(1).Addr()); err != nil {
		return nil, nil, err
	}
	near, far := End{ns, outsideDevice, public(2)}, End{wan, s.name, public(1)}
	var k *Link
	if s.up == nil && s.down == nil {
		err = l.Veth(ctx, near, far)
	} else if k, err = l.Link(ctx, near, far); err == nil {
		k.Set(value(s.up), value(s.down))
	}
	if err != nil {
		return nil, nil, err
	}
	if s.nat == NoNAT {
		if err := wan.Route(ctx, lan(0).Masked(), public(2).Addr()); err != nil {
			return nil, nil, err
		}
	}
	return r, k, r.start(ctx)
}

func value(s *Shape) Shape {
	if s == nil {
		return Shape{}
	}
	return *s
}

// MoveBuyer gives the buyer another address inside, as a change of network does.
func (w *World) MoveBuyer(ctx context.Context) (netip.Addr, error) {
	r := w.BuyerRouter
	to := w.BuyerAddr.Next()
	change := [2]netip.Prefix{netip.PrefixFrom(w.BuyerAddr, 24), netip.PrefixFrom(to, 24)}
	gateway := netip.PrefixFrom(r.Host, 24).Masked().Addr().Next()
	if err := w.Buyer.Readdress(ctx, "eth0", change, gateway); err != nil {
		return netip.Addr{}, err
	}
	w.BuyerAddr, r.Host = to, to
	return to, r.start(ctx) // a FullCone knows its host
}
