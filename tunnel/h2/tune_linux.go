package h2

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// unanswered is how long TCP tries to deliver before it gives up: a path
	// that is half dead is noticed while the buyer still waits (RFC 5482).
	unanswered = 10 * time.Second
	// notSent bounds what the kernel holds of a connection beyond what is under
	// way, so that a pause or a cancel does not wait behind megabytes.
	notSent = 128 << 10
)

// tune sets a TCP connection up for radio links. What the kernel does not
// have, or does not allow, stays as it is.
func tune(conn net.Conn) {
	tcp, ok := conn.(syscall.Conn) // also one of which what passes is counted
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unanswered.Milliseconds()))
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	})
}
