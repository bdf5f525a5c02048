package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The target's datagrams. A request is an operation and two numbers of 8 bytes:
// opDown, packets a second, milliseconds; opUp, anything (it is counted); opTell,
// asks how many were counted and how many were sent. All but opTell are
// datagramSize long.
const (
	datagramSize = 1100
	opTell       = 'Q'
)

// serveDatagrams serves until conn is closed. Nobody but a bench asks, one at a
// time.
func serveDatagrams(conn net.PacketConn) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	roomy(conn)
	b := make([]byte, 2048)
	var count uint64
	var sent atomic.Uint64
	for {
		n, from, err := conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil || n < wishSize {
			continue
		}
		switch b[0] {
		case opDown:
			rate, lasts := binary.BigEndian.Uint64(b[1:]), time.Duration(binary.BigEndian.Uint64(b[9:]))*time.Millisecond
			wg.Go(func() {
				n := paced(min(rate, 100_000), min(lasts, time.Minute), func(p []byte) { _, _ = conn.WriteTo(p, from) })
				sent.Add(uint64(n))
			})
		case opUp:
			count++
		case opTell:
			answer := binary.BigEndian.AppendUint64([]byte{opTell}, count)
			_, _ = conn.WriteTo(binary.BigEndian.AppendUint64(answer, sent.Load()), from) // it asks again
		}
	}
}

// roomy gives a socket the buffer of an application that is not what is
// measured.
func roomy(conn net.PacketConn) {
	if udp, ok := conn.(*net.UDPConn); ok {
		_ = udp.SetReadBuffer(4 << 20) // more than the system's limit is not to be had
	}
}

// paced sends packets at a rate for a while, a millisecond's at once, and
// returns how many. A sender that was kept waiting does not catch up by a burst
// of more than two milliseconds': no voice or video does.
func paced(rate uint64, lasts time.Duration, send func([]byte)) (sent int) {
	packet := make([]byte, datagramSize)
	packet[0] = opUp
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began, owed := time.Now(), 0.0
	for last := began; last.Sub(began) < lasts; {
		now := time.Now()
		owed = min(owed+now.Sub(last).Seconds(), 0.002) * float64(rate)
		for ; owed >= 1; owed-- {
			send(packet)
			sent++
		}
		owed /= float64(rate) // seconds again
		last = now
		<-tick.C
	}
	return sent
}

// datagrams moves packets of datagramSize for a while, through UDP ASSOCIATE (RFC
// 1928) if there is a proxy, at Rate packets a second, and counts those that are
// lost.
func (j job) datagrams() (y yield, err error) {
	a, err := associate(j.SOCKS, j.Dial)
	if err != nil {
		return y, err
	}
	defer a.close()
	counted, sent, err := a.tell()
	if err != nil {
		return y, err
	}
	got := 0
	if j.Op == "datagrams-up" {
		y.Sent = paced(j.Rate, j.Lasts, func(p []byte) { _ = a.send(p) }) // what is not sent is lost
		time.Sleep(quiet)
	} else if got, err = a.download(j.Rate, j.Lasts); err != nil {
		return y, err
	}
	countedNow, sentNow, err := a.tell()
	if j.Op == "datagrams-up" {
		got = int(countedNow - counted)
	} else {
		y.Sent = int(sentNow - sent)
	}
	y.Bytes, y.Lost = uint64(got)*datagramSize, y.Sent-got
	return y, err
}

// quiet is how long nothing comes after the last datagram. The first one may take
// longer: the target must have been given a processor.
const (
	quiet   = 500 * time.Millisecond
	toBegin = 10 * time.Second
)

// An association is SOCKS5's UDP, or a plain socket, towards one target.
type association struct {
	control net.Conn // nil: no proxy
	socket  *net.UDPConn
	head    []byte
	buf     []byte
}

func associate(proxy, target string) (*association, error) {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return nil, err
	}
	if proxy == "" {
		socket, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return nil, err
		}
		roomy(socket)
		return &association{socket: socket, buf: make([]byte, 2048)}, nil
	}
	control, err := net.Dial("tcp", proxy)
	if err != nil {
		return nil, err
	}
	relay, err := greet(control)
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	socket, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	roomy(socket)
	ip := to.Addr().As4()
	head := append([]byte{0, 0, 0, 1}, ip[:]...)
	return &association{control, socket, binary.BigEndian.AppendUint16(head, to.Port()), make([]byte, 2048)}, nil
}

// greet asks for an association and returns where datagrams go.
func greet(control net.Conn) (relay netip.AddrPort, err error) {
	if err := control.SetDeadline(time.Now().Add(patience)); err != nil {
		return relay, err
	}
	var answer [2 + 10]byte // a method, then an IPv4 address
	for _, step := range []struct{ say, hear []byte }{
		{[]byte{5, 1, 0}, answer[:2]},
		{[]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0}, answer[2:]},
	} {
		if _, err := control.Write(step.say); err != nil {
			return relay, err
		}
		if _, err := io.ReadFull(control, step.hear); err != nil {
			return relay, err
		}
	}
	if answer[1] != 0 || answer[3] != 0 || answer[5] != 1 {
		return relay, fmt.Errorf("UDP ASSOCIATE: %x", answer)
	}
	ip := netip.AddrFrom4([4]byte(answer[6:10]))
	if ip.IsUnspecified() {
		ip = control.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(answer[10:])), nil
}

func (a *association) close() {
	_ = a.socket.Close()
	if a.control != nil {
		_ = a.control.Close()
	}
}

func (a *association) send(p []byte) error {
	_, err := a.socket.Write(append(append(a.buf[:0], a.head...), p...))
	return err
}

// download asks for packets and counts those that come.
func (a *association) download(rate uint64, lasts time.Duration) (got int, err error) {
	request := make([]byte, datagramSize)
	request[0] = opDown
	binary.BigEndian.PutUint64(request[1:], rate)
	binary.BigEndian.PutUint64(request[9:], uint64(lasts.Milliseconds()))
	if err := a.send(request); err != nil {
		return 0, err
	}
	for within := toBegin; ; within = quiet {
		p, err := a.receive(within)
		if errors.Is(err, os.ErrDeadlineExceeded) && got > 0 {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		if p[0] == opUp {
			got++
		}
	}
}

// receive returns the next datagram, of at least wishSize: valid until the next
// call.
func (a *association) receive(wait time.Duration) ([]byte, error) {
	if err := a.socket.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	for {
		n, err := a.socket.Read(a.buf)
		if err != nil {
			return nil, err
		}
		if n >= len(a.head)+wishSize {
			return a.buf[len(a.head):n], nil
		}
	}
}

// tell asks the target for its counts until it answers.
func (a *association) tell() (counted, sent uint64, err error) {
	request := make([]byte, wishSize)
	request[0] = opTell
	for range 20 {
		if err := a.send(request); err != nil {
			return 0, 0, err
		}
		p, err := a.receive(quiet)
		if err == nil && p[0] == opTell {
			return binary.BigEndian.Uint64(p[1:]), binary.BigEndian.Uint64(p[9:]), nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, 0, err
		}
	}
	return 0, 0, errors.New("the target does not say what it got")
}
