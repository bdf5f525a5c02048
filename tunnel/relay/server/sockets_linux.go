package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketBuffer holds a burst of a fast path while other sessions are served.
// The kernel takes the memory only while packets wait.
const socketBuffer = 4 << 20

// portTries bounds the search for a free port of the range.
const portTries = 512

// listenPort opens a session's UDP socket on a free port.
func listenPort(ip netip.Addr, ports Ports) (fd int, port uint16, err error) {
	if ports.First == 0 {
		return listenUDP(netip.AddrPortFrom(ip, 0))
	}
	n := int(ports.Last) - int(ports.First) + 1
	start := rand.IntN(n)
	for i := range min(n, portTries) {
		p := ports.First + uint16((start+i)%n)
		fd, port, err = listenUDP(netip.AddrPortFrom(ip, p))
		if !errors.Is(err, unix.EADDRINUSE) {
			return fd, port, err
		}
	}
	return -1, 0, fmt.Errorf("ports %d to %d: %w", ports.First, ports.Last, err)
}

func listenUDP(at netip.AddrPort) (fd int, port uint16, err error) {
	family := unix.AF_INET6
	if at.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, 0, fmt.Errorf("socket: %w", err)
	}
	if err = prepare(fd, family, at.Addr()); err == nil {
		err = bind(fd, at)
	}
	if err == nil {
		port, err = localPort(fd)
	}
	if err != nil {
		return -1, 0, errors.Join(err, unix.Close(fd))
	}
	return fd, port, nil
}

// prepare sets a session socket's options. Those that only make it faster may
// fail.
func prepare(fd, family int, ip netip.Addr) error {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	for _, o := range [...][2]int{{unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}, {unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer)
		}
	}
	// Both ends measure what size passes (RFC 8899): nothing may be fragmented
	// here, and no cached path MTU may stop a probe.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
		return fmt.Errorf("setsockopt IP_MTU_DISCOVER: %w", err)
	}
	if family == unix.AF_INET {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE); err != nil {
		return fmt.Errorf("setsockopt IPV6_MTU_DISCOVER: %w", err)
	}
	only := 1
	if ip.IsUnspecified() {
		only = 0 // IPv4 too
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
		return fmt.Errorf("setsockopt IPV6_V6ONLY: %w", err)
	}
	return nil
}

func bind(fd int, at netip.AddrPort) error {
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
	if at.Addr().Is4() {
		to = &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	if err := unix.Bind(fd, to); err != nil {
		return fmt.Errorf("bind %s: %w", at, err)
	}
	return nil
}

func localPort(fd int) (uint16, error) {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("getsockname: %w", err)
	}
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return uint16(at.Port), nil
	case *unix.SockaddrInet6:
		return uint16(at.Port), nil
	}
	return 0, errors.New("getsockname: not an internet address")
}

// A sockaddr is an address as the kernel has it.
type sockaddr struct {
	raw [unix.SizeofSockaddrInet6]byte
	n   uint32
}

// makeSockaddr writes an address for a socket of the family that four says.
func makeSockaddr(a netip.AddrPort, four bool) (s sockaddr) {
	if four {
		s.n = unix.SizeofSockaddrInet4
		ip := a.Addr().As4()
		binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET)
		copy(s.raw[4:], ip[:])
	} else {
		s.n = unix.SizeofSockaddrInet6
		ip := a.Addr().As16() // IPv4 is mapped
		binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET6)
		copy(s.raw[8:], ip[:])
	}
	binary.BigEndian.PutUint16(s.raw[2:], a.Port())
	return s
}

// addrPort reads the first n bytes of s; mapped IPv4 becomes IPv4.
func (s *sockaddr) addrPort(n uint32) netip.AddrPort {
	port := binary.BigEndian.Uint16(s.raw[2:])
	switch family := binary.NativeEndian.Uint16(s.raw[:]); {
	case family == unix.AF_INET && n >= unix.SizeofSockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s.raw[4:])), port)
	case family == unix.AF_INET6 && n >= unix.SizeofSockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s.raw[8:])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// A mmsghdr is the kernel's struct mmsghdr (recvmmsg(2)).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// recvmmsg fills messages and returns how many came.
func recvmmsg(fd int, ms []mmsghdr) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&ms[0])), uintptr(len(ms)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sendmmsg sends messages and returns how many went.
func sendmmsg(fd int, ms []mmsghdr) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&ms[0])), uintptr(len(ms)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// controlSpace holds one control message of an integer.
const controlSpace = 32

// groSize is the size of the datagrams that the kernel put together, 0 if it
// did not (udp(7), UDP_GRO).
func groSize(control []byte) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(control)))
	at := unix.CmsgLen(0)
	if len(control) < at+4 || h.Level != unix.IPPROTO_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(control[at:])))
}

// gsoControl writes the control message that has the kernel cut a send into
// datagrams (udp(7), UDP_SEGMENT), and returns its length.
func gsoControl(control []byte, size int) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(control)))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(size))
	return unix.CmsgSpace(2)
}
