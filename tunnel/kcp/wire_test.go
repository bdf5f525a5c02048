package kcp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	kcpgo "github.com/xtaci/kcp-go/v5"
)

// push is a data segment as KCP writes it, with the length that is claimed.
func push(conv, sn, length uint32, data []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, conv)
	b = append(b, cmdPush, 0, 32, 0)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, sn)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, length)
	return append(b, data...)
}

func TestWellFormed(t *testing.T) {
	fragment := push(7, 0, 1, []byte("x"))
	fragment[5] = 1
	command := push(7, 0, 1, []byte("x"))
	command[4] = 99
	ack := push(7, 0, 1, []byte("x"))
	ack[4] = kcpgo.IKCP_CMD_ACK
	two := append(push(7, 0, 1, []byte("x")), push(7, 1, 2, []byte("yz"))...)
	for name, row := range map[string]struct {
		b    []byte
		want bool
	}{
		"one":                  {push(7, 0, 1, []byte("x")), true},
		"two":                  {two, true},
		"nothing":              {nil, false},
		"half a head":          {two[:20], false},
		"half of the second":   {two[:40], false},
		"another conversation": {push(8, 0, 1, []byte("x")), false},
		"a fragment":           {fragment, false},
		"unknown command":      {command, false},
		"data in an ack":       {ack, false},
		"no data":              {push(7, 0, 0, nil), false},
		"too much":             {push(7, 0, segmentMost+1, make([]byte, segmentMost+1)), false},
		"2 GiB":                {push(7, 0, 1<<31, []byte("x")), false}, // negative where int has 32 bits: KCP panics
		"4 GiB":                {push(7, 0, 1<<32-1, []byte("x")), false},
	} {
		if got := wellFormed(row.b, 7); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestMessages(t *testing.T) {
	nonce := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	for _, b := range [][]byte{appendHello(nil, nonce), appendWelcome(nil, nonce, 99), appendGone(nil, 99)} {
		if b[0] != prefix {
			t.Errorf("begins with %#x", b[0])
		}
		m := parseMessage(b[1:])
		if m.typ != b[5] || m.typ != typeHello && m.conv != 99 || m.typ != typeGone && m.nonce != nonce {
			t.Errorf("type %d: %+v", b[5], m)
		}
		if m := parseMessage(b[1 : len(b)-1]); m.typ != 0 {
			t.Errorf("cut short: %+v", m)
		}
	}
	if welcomeSize > helloSize || goneSize > segmentHead {
		t.Error("an answer is larger than what it answers")
	}
}

func TestCookie(t *testing.T) {
	secret := [32]byte{1}
	addr := netip.MustParseAddrPort("192.0.2.1:5000")
	base := cookie(&secret, addr, 0x81, 5)
	for name, other := range map[string]uint32{
		"address": cookie(&secret, netip.MustParseAddrPort("192.0.2.2:5000"), 0x81, 5),
		"port":    cookie(&secret, netip.MustParseAddrPort("192.0.2.1:5001"), 0x81, 5),
		"index":   cookie(&secret, addr, 0x82, 5),
		"epoch":   cookie(&secret, addr, 0x81, 6),
		"secret":  cookie(&[32]byte{2}, addr, 0x81, 5),
	} {
		if other == base {
			t.Errorf("another %s, the same cookie", name)
		}
	}
	if cookie(&secret, addr, 0, 5) == 0 || cookie(&secret, addr, 0x01, 5) != base {
		t.Error("an index is not kept in its range")
	}
}

// FuzzInput gives a session what a network may: nothing of it may panic, or be
// held without bound.
func FuzzInput(f *testing.F) {
	f.Add(push(7, 0, 5, []byte("hello")))
	f.Add(append(push(7, 1, 1, []byte("x")), push(7, 0, 1, []byte("y"))...))
	f.Add(push(7, 1<<31, 1<<31, []byte("x")))
	f.Add(push(7, 0, 1<<32-1, nil))
	ack := push(7, 0, 0, nil)
	ack[4] = kcpgo.IKCP_CMD_ACK
	f.Add(ack)
	f.Add(append([]byte{0, 0, 0, 0}, appendHello(nil, [8]byte{1})[5:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &mux{muxConfig: muxConfig{conn: sink{}, receive: receiveAgent, accepts: 1}, start: time.Now(),
			sessions: map[key]*session{}, hellos: map[[8]byte]chan uint32{}, opened: make(chan *session, 1)}
		m.free.New = func() any { return new(packet) }
		peer := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5000}
		ap, _ := addrPort(peer)
		s := newSession(m, key{ap, 7}, peer)
		m.sessions[s.key] = s
		if _, err := s.Write(make([]byte, 20_000)); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		s.step(now)
		s.send()
		for len(b) > 4 { // packets of at most a hundred bytes
			part := b[:min(len(b), 100)]
			b = b[len(part):]
			m.input(part, peer)
			select {
			case p := <-s.packets:
				s.input(p, now)
			default:
			}
			now = now.Add(tick)
			s.step(now)
			s.send()
		}
		if s.in.len() > bufferMost || s.rate.span() > maxSpan || s.rate.inflight < 0 {
			t.Errorf("%d bytes held, %d segments under way, %d bytes", s.in.len(), s.rate.span(), s.rate.inflight)
		}
	})
}

// A sink is a socket that loses everything.
type sink struct{ net.PacketConn }

func (sink) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }
