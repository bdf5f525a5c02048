package path

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/apernet/quic-go/testutils/simnet"
)

// A world is an internet in memory: hosts, NATs and what is broken.
type world struct {
	delay time.Duration // one way

	mu    sync.Mutex
	nodes map[netip.AddrPort]simnet.PacketReceiver
	nats  map[netip.Addr]*nat // by their outside and inside addresses
	lost  func(from, to netip.AddrPort, b []byte) bool
	queue []delivery // the oldest first
	count int        // of packets sent

	order sync.Mutex // held while a packet is delivered
}

// A nat lets in what was written to: port-restricted, in RFC 4787's words
// address and port-dependent filtering. A symmetric one has another mapping for
// each address.
type nat struct {
	outside   netip.Addr
	symmetric bool
	next      uint16
	ports     map[[2]netip.AddrPort]uint16
	inside    map[uint16]netip.AddrPort
	open      map[uint16]map[netip.AddrPort]bool
}

func newWorld(delay time.Duration) *world {
	return &world{delay: delay, nodes: map[netip.AddrPort]simnet.PacketReceiver{}, nats: map[netip.Addr]*nat{}}
}

// nat puts the host inside behind a NAT.
func (w *world) nat(inside, outside string, symmetric bool) *nat {
	n := &nat{outside: netip.MustParseAddr(outside), symmetric: symmetric, next: 20000}
	n.forget()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nats[netip.MustParseAddr(inside)], w.nats[n.outside] = n, n
	return n
}

func (n *nat) forget() {
	n.ports, n.inside, n.open = map[[2]netip.AddrPort]uint16{}, map[uint16]netip.AddrPort{}, map[uint16]map[netip.AddrPort]bool{}
}

func (n *nat) out(from, to netip.AddrPort) netip.AddrPort {
	key := [2]netip.AddrPort{from}
	if n.symmetric {
		key[1] = to
	}
	port, ok := n.ports[key]
	if !ok {
		n.next++
		port = n.next
		n.ports[key], n.inside[port], n.open[port] = port, from, map[netip.AddrPort]bool{}
	}
	n.open[port][to] = true
	return netip.AddrPortFrom(n.outside, port)
}

func (n *nat) in(from, to netip.AddrPort) (netip.AddrPort, bool) {
	return n.inside[to.Port()], n.open[to.Port()][from]
}

func (w *world) AddNode(a net.Addr, r simnet.PacketReceiver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[addrPort(a)] = r
}

func (w *world) SendPacket(p simnet.Packet) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	from, to := addrPort(p.From), addrPort(p.To)
	if n := w.nats[from.Addr()]; n != nil && n.outside != from.Addr() {
		from = n.out(from, to)
	}
	if w.lost != nil && w.lost(from, to, p.Data) {
		return nil
	}
	node := to
	if n := w.nats[to.Addr()]; n != nil && n.outside == to.Addr() {
		var ok bool
		if node, ok = n.in(from, to); !ok {
			return nil
		}
	}
	r := w.nodes[node]
	if r == nil {
		return nil
	}
	p.From, p.To = net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(node)
	w.queue = append(w.queue, delivery{r, p})
	time.AfterFunc(w.delay, w.deliver)
	return nil
}

// deliver keeps the order of packets that are sent at the same instant.
func (w *world) deliver() {
	w.order.Lock()
	defer w.order.Unlock()
	w.mu.Lock()
	d := w.queue[0]
	w.queue = w.queue[1:]
	w.mu.Unlock()
	d.to.RecvPacket(d.p)
}

// A delivery is a packet under way.
type delivery struct {
	to simnet.PacketReceiver
	p  simnet.Packet
}

// lose says what is lost from now on.
func (w *world) lose(f func(from, to netip.AddrPort, b []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = f
}

// host opens sockets of one address after another, each at a new port.
func (w *world) host(ip string) func(context.Context, string) (net.PacketConn, error) {
	port := 4000
	return func(context.Context, string) (net.PacketConn, error) {
		port++
		return simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.ParseIP(ip).To4(), Port: port}, w), nil
	}
}

// A relay copies between two ports, as tunnel/relay/server does in earnest.
type relay struct {
	session ID
	ports   [2]net.PacketConn
	tokens  [2]Key
	secret  Key
	direct  bool // tells addresses
	lie     netip.AddrPort

	mu    sync.Mutex
	bound [2]netip.AddrPort
	asked [2]uint64
	wg    sync.WaitGroup
}

func newRelay(open func(context.Context, string) (net.PacketConn, error), session ID, direct bool) *relay {
	r := &relay{session: session, direct: direct, secret: Key{42}, tokens: [2]Key{{1}, {2}}}
	for i := range r.ports {
		c, err := open(context.Background(), "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		r.ports[i] = c
		r.wg.Go(func() { r.serve(i) })
	}
	return r
}

func (r *relay) side(i int) Relay {
	return Relay{Addr: addrPort(r.ports[i].LocalAddr()), Session: r.session, Token: r.tokens[i]}
}

// close ends the relay: what is sent to it vanishes.
func (r *relay) close() {
	r.ports[0].Close()
	r.ports[1].Close()
	r.wg.Wait()
}

func (r *relay) serve(i int) {
	b := make([]byte, 2048)
	for {
		n, a, err := r.ports[i].ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && n > 0 {
			r.packet(i, addrPort(a), b[:n])
		}
	}
}

func (r *relay) packet(i int, from netip.AddrPort, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, _, _, ok := Control(b); ok && t == TypeBind {
		p, err := ParseBind(b, &r.tokens[i])
		if err != nil || p.Session != r.session || p.Counter <= r.asked[i] {
			return
		}
		r.asked[i] = p.Counter
		h := hmac.New(sha256.New, r.secret[:])
		h.Write([]byte(from.String()))
		if cookie := [CookieSize]byte(h.Sum(nil)); cookie != p.Cookie {
			r.write(i, from, Challenge{p.Session, p.Counter, cookie}.Append(nil, &r.tokens[i]))
			return
		}
		old := r.bound[i]
		r.bound[i] = from
		r.tell(i)
		if old != from {
			r.tell(1 - i)
		}
		return
	}
	if from == r.bound[i] && r.bound[1-i].IsValid() {
		r.write(1-i, r.bound[1-i], b)
	}
}

func (r *relay) tell(i int) {
	if !r.bound[i].IsValid() {
		return
	}
	p := Bound{Session: r.session, Counter: r.asked[i], Self: r.bound[i]}
	if r.direct {
		p.Peer = r.bound[1-i]
	}
	if r.lie.IsValid() {
		p.Peer = r.lie
	}
	r.write(i, r.bound[i], p.Append(nil, &r.tokens[i]))
}

func (r *relay) write(i int, to netip.AddrPort, b []byte) {
	_, _ = r.ports[i].WriteTo(b, net.UDPAddrFromAddrPort(to))
}

// must fails the test on an error.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) sent() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}
