package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

const (
	echoTime  = 250 * time.Millisecond // for the first try of a datagram; each next has twice as long
	echoTries = 8                      // UDP may lose some
	udpHeader = 10                     // of SOCKS5 with an IPv4 address
)

// echo sends datagrams of the sizes to target through a SOCKS5 proxy's UDP
// ASSOCIATE (RFC 1928 sections 4, 6 and 7) and waits for the echo of each. It
// returns how many were sent again.
func echo(ctx context.Context, proxy string, target netip.AddrPort, sizes []int) (again int, err error) {
	control, relay, err := associate(ctx, proxy)
	if err != nil {
		return 0, fmt.Errorf("UDP ASSOCIATE: %w", err)
	}
	defer control.Close() // ends the association
	stop := context.AfterFunc(ctx, func() { control.Close() })
	defer stop()
	socket, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		return 0, err
	}
	defer socket.Close()
	for i, size := range sizes {
		packet := make([]byte, udpHeader+size)
		packet[3] = 1 // address type: IPv4
		copy(packet[4:8], target.Addr().AsSlice())
		binary.BigEndian.PutUint16(packet[8:], target.Port())
		if _, err := (content{}).ReadAt(packet[udpHeader:], int64(i)*contentBlock); err != nil {
			return again, err
		}
		n, err := echoOne(ctx, socket, packet)
		again += n
		if err != nil {
			return again, fmt.Errorf("UDP datagram of %d bytes: %w", size, err)
		}
	}
	return again, nil
}

// echoOne sends a packet until its echo comes. Echoes of packets before are
// skipped.
func echoOne(ctx context.Context, socket *net.UDPConn, packet []byte) (again int, err error) {
	b := make([]byte, 64<<10)
	for try := range echoTries {
		if ctx.Err() != nil {
			return try, context.Cause(ctx)
		}
		if _, err := socket.Write(packet); err != nil {
			return try, err
		}
		if err := socket.SetReadDeadline(time.Now().Add(echoTime << try)); err != nil {
			return try, err
		}
		for {
			n, err := socket.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return try, err
			}
			if n > udpHeader && bytes.Equal(b[udpHeader:n], packet[udpHeader:]) {
				return try, nil
			}
		}
	}
	return echoTries, fmt.Errorf("no echo after %d tries", echoTries)
}

// associate asks for an association and returns the connection that it lives
// with, and where its datagrams go.
func associate(ctx context.Context, proxy string) (net.Conn, netip.AddrPort, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", proxy)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	relay, err := negotiate(c)
	if err != nil {
		return nil, netip.AddrPort{}, errors.Join(err, c.Close())
	}
	return c, relay, nil
}

func negotiate(c net.Conn) (netip.AddrPort, error) {
	if err := c.SetDeadline(time.Now().Add(readyTime)); err != nil {
		return netip.AddrPort{}, err
	}
	// Version 5, one method: no authentication.
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return netip.AddrPort{}, err
	}
	var method [2]byte
	if _, err := io.ReadFull(c, method[:]); err != nil {
		return netip.AddrPort{}, err
	}
	// UDP ASSOCIATE from any address.
	if _, err := c.Write([]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return netip.AddrPort{}, err
	}
	var reply [10]byte // with an IPv4 address, since the proxy listens on one
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		return netip.AddrPort{}, err
	}
	if method != [2]byte{5, 0} || reply[0] != 5 || reply[1] != 0 || reply[3] != 1 {
		return netip.AddrPort{}, fmt.Errorf("answers % x, % x", method, reply)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[4:8])), binary.BigEndian.Uint16(reply[8:])), c.SetDeadline(time.Time{})
}
