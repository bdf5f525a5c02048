// Package path keeps a QUIC connection alive while its ends change addresses.
//
// [Listen] opens a [Socket], whose PacketConn quic-go gets. To QUIC every peer
// stays at the address that its connection was opened with; below, the socket
// sends to where the peer is now. [Socket.Bind] claims a place at a relay's
// port, which copies packets unchanged to whoever claimed the other place.
// After the handshake both ends call [Socket.Attach] with a secret of the TLS
// connection: from then on the buyer's end looks for the best path (direct
// before relayed), notices when one has died, and moves both ends to another.
// [Socket.Run] does all of that and has to run.
//
// Packets that begin with a zero byte are the package's own and never reach
// QUIC; docs/PROTOCOL.md has their format. Nothing but a fresh packet with a
// MAC of the other end moves a connection, and only to an address that has
// answered. A relay can lose packets, and lie about addresses, which costs a
// bounded number of small packets to them.
//
// What QUIC had in flight when a path died is lost and retransmitted by QUIC.
package path

import (
	"crypto/hmac"
	"crypto/sha256"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// ExporterLabel is the label of the TLS exporter (RFC 8446 §7.5, no context)
// that gives [Path.Secret].
const ExporterLabel = "EXPORTER-x402-path"

// derive returns what both ends know by a connection's secret: its name and
// the keys of its directions.
func derive(secret [32]byte) (id ID, buyer, agent Key) {
	sum := func(label string) Key {
		h := hmac.New(sha256.New, secret[:])
		h.Write([]byte(label))
		return Key(h.Sum(nil))
	}
	name := sum("x402 path id")
	return ID(name[:]), sum("x402 path buyer"), sum("x402 path agent")
}

// A peer is a connection's other end as the packet path sees it.
type peer struct {
	virtual *net.UDPAddr // what QUIC knows; never changes
	name    netip.AddrPort
	route   atomic.Pointer[route]

	received, sent, failed atomic.Uint32 // batches of packets; only differences mean something
	segment, single        atomic.Uint32 // largest packet sent in a segmented batch, and alone

	cids [2]uint32 // connection IDs that it last wrote to; the reader's only

	keeping atomic.Bool // sent packets are kept, since none were answered lately
	keep    keeper
}

// A route is where a peer is. It is replaced, never changed.
type route struct {
	to      netip.AddrPort
	local   netip.Addr // our address that the peer knows; invalid: the kernel chooses
	rewrite bool       // QUIC's control messages are for another address family or interface
}

// A table says who is where. It is replaced, never changed, so that the packet
// path takes no lock.
type table struct {
	in  map[netip.AddrPort]*peer // by present address
	out map[netip.AddrPort]*peer // by the address that QUIC knows
	own map[ID]bool              // control packets that are for us
	// counts are of relays' ports that are counted; nil: none is.
	counts map[netip.AddrPort]*Count
}

// drop forgets a peer.
func (t *table) drop(p *peer) {
	for a, q := range t.in {
		if q == p {
			delete(t.in, a)
		}
	}
	if t.out[p.name] == p {
		delete(t.out, p.name)
	}
}

// place says that a peer is at a route from now on.
func (t *table) place(p *peer, r *route) {
	for a, q := range t.in {
		if q == p {
			delete(t.in, a)
		}
	}
	t.in[r.to] = p
	t.out[p.name] = p
	p.route.Store(r)
}

// A keeper holds the last packets of a peer that seems to be silent. They are
// sent again where it is found: their acknowledgement takes QUIC out of its
// back-off (RFC 9002 §6.2.1), which may have grown as long as the outage.
type keeper struct {
	mu      sync.Mutex
	packets [4][]byte
	n       int
}

func (k *keeper) add(b []byte) {
	if len(b) > MaxProbe {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	i := k.n % len(k.packets)
	k.packets[i] = append(k.packets[i][:0], b...)
	k.n++
}

// take returns what is kept, and forgets it.
func (k *keeper) take() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	var kept [][]byte
	for _, b := range k.packets {
		if b != nil {
			kept = append(kept, b)
		}
	}
	k.packets, k.n = [4][]byte{}, 0
	return kept
}

func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		return unmap(u.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
