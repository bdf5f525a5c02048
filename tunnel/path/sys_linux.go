package path

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// prepare sets what the package needs and quic-go sets too, so that it does not
// matter who comes first, and says whether the kernel coalesces packets.
func prepare(c *net.UDPConn) (gro bool) {
	control(c, func(fd int) {
		// Packets are never fragmented: probes measure what the path takes.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		gro = offloads() && unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	})
	return gro
}

// offloads are off by the variable that turns quic-go's off: qemu-user swaps
// neither's control message on big-endian machines.
func offloads() bool {
	off, err := strconv.ParseBool(os.Getenv("QUIC_GO_DISABLE_GSO"))
	return err != nil || !off
}

func control(c *net.UDPConn, f func(fd int)) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// options are what a socket's user has set on it.
type options struct{ values []option }

type option struct{ level, name, value int }

// optionsOf reads the options of a socket that may be broken.
func optionsOf(c *net.UDPConn) (o options) {
	if c == nil {
		return o
	}
	control(c, func(fd int) {
		for _, w := range []option{
			{level: unix.SOL_SOCKET, name: unix.SO_RCVBUF}, {level: unix.SOL_SOCKET, name: unix.SO_SNDBUF},
			{level: unix.IPPROTO_IP, name: unix.IP_RECVTOS}, {level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVTCLASS},
			{level: unix.IPPROTO_IP, name: unix.IP_PKTINFO}, {level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVPKTINFO},
		} {
			var err error
			if w.value, err = unix.GetsockoptInt(fd, w.level, w.name); err == nil {
				o.values = append(o.values, w)
			}
		}
	})
	return o
}

// apply sets them on another one.
func (o options) apply(c *net.UDPConn) {
	if c == nil {
		return
	}
	control(c, func(fd int) {
		for _, v := range o.values {
			if v.level == unix.SOL_SOCKET { // socket(7): the kernel answers with twice what was asked for
				force := map[int]int{unix.SO_RCVBUF: unix.SO_RCVBUFFORCE, unix.SO_SNDBUF: unix.SO_SNDBUFFORCE}[v.name]
				if unix.SetsockoptInt(fd, v.level, force, v.value/2) == nil {
					continue
				}
				v.value /= 2
			}
			_ = unix.SetsockoptInt(fd, v.level, v.name, v.value)
		}
	})
}

// eachMessage calls f with every control message and its bytes until f says
// that it is enough.
func eachMessage(oob []byte, f func(h unix.Cmsghdr, body, whole []byte) bool) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil || !f(h, body, oob[:len(oob)-len(rest)]) {
			return
		}
		oob = rest
	}
}

func isGRO(h unix.Cmsghdr) bool { return h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO }

// cutGRO returns the size of a batch's packets, 0 if there is one, and the
// length of the other control messages, which it moves together.
func cutGRO(oob []byte) (size, n int) {
	eachMessage(oob, func(h unix.Cmsghdr, body, whole []byte) bool {
		if isGRO(h) {
			if len(body) >= 4 {
				size = int(binary.NativeEndian.Uint32(body))
			}
			return true
		}
		n += copy(oob[n:], whole)
		return true
	})
	return size, n
}

// localAddr returns the address of ours that a packet came to.
func localAddr(oob []byte) (a netip.Addr) {
	eachMessage(oob, func(h unix.Cmsghdr, body, _ []byte) bool {
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(body) >= unix.SizeofInet4Pktinfo:
			a = netip.AddrFrom4([4]byte(body[8:]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(body) >= unix.SizeofInet6Pktinfo:
			a = netip.AddrFrom16([16]byte(body)).Unmap()
		}
		return !a.IsValid()
	})
	if a.IsLinkLocalUnicast() || a.IsMulticast() {
		return netip.Addr{} // needs its interface, which the route of the answer has
	}
	return a
}

func isLocal(h unix.Cmsghdr) bool {
	return h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO || h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO
}

func hasLocal(oob []byte) (yes bool) {
	eachMessage(oob, func(h unix.Cmsghdr, _, _ []byte) bool {
		yes = yes || isLocal(h)
		return !yes
	})
	return yes
}

// segmentSize is the size of the packets that the kernel will cut a batch
// into, 0 if it will not.
func segmentSize(oob []byte) (size uint32) {
	eachMessage(oob, func(h unix.Cmsghdr, body, _ []byte) bool {
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(body) >= 2 {
			size = uint32(binary.NativeEndian.Uint16(body))
		}
		return size == 0
	})
	return size
}

// rewrite appends QUIC's control messages to b as r needs them: segmentation
// as it is, ECN in the family of the address, and the source that r has.
func rewrite(b, oob []byte, r *route) []byte {
	v4 := r.to.Addr().Is4()
	eachMessage(oob, func(h unix.Cmsghdr, body, whole []byte) bool {
		switch {
		case isLocal(h):
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && !v4 && len(body) > 0:
			b = appendMessage(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, binary.NativeEndian.AppendUint32(nil, uint32(body[0])))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && v4 && len(body) >= 4:
			b = appendMessage(b, unix.IPPROTO_IP, unix.IP_TOS, []byte{byte(binary.NativeEndian.Uint32(body))})
		default:
			b = append(b, whole...)
		}
		return true
	})
	return appendLocal(b, r.local)
}

// appendLocal appends the control message that sets a packet's source.
func appendLocal(b []byte, local netip.Addr) []byte {
	switch {
	case local.Is4():
		a := local.As4()
		var info [unix.SizeofInet4Pktinfo]byte
		copy(info[4:], a[:]) // ipi_spec_dst, ip(7)
		return appendMessage(b, unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
	case local.Is6():
		a := local.As16()
		var info [unix.SizeofInet6Pktinfo]byte
		copy(info[:], a[:]) // ipi6_addr, ipv6(7)
		return appendMessage(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
	}
	return b
}

func appendMessage(b []byte, level, name int32, body []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(len(body)))...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[start]))
	h.Level, h.Type = level, name
	h.SetLen(unix.CmsgLen(len(body)))
	copy(b[start+unix.CmsgLen(0):], body)
	return b
}

// badSource says that a packet's source is no address of ours any more.
func badSource(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENODEV)
}

// passes says whether a read may be tried again at once: the error was an
// earlier packet's, told once.
func passes(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.EINTR)
}
