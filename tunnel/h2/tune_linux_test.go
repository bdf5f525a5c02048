package h2_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// TestTune looks what a connection was set up with.
func TestTune(t *testing.T) {
	near, far := sockets(t)
	ends := connect(t, near, far, tunneltest.Path{})
	defer ends.Server.Close(tunnel.ReasonDone, "")
	defer ends.Client.Close(tunnel.ReasonDone, "")
	raw, err := near.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	available, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if ms, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); ms != 10_000 || err != nil {
			t.Errorf("time-out %d ms, %v", ms, err)
		}
		if n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); n != 128<<10 || err != nil {
			t.Errorf("%d bytes not sent, %v", n, err)
		}
		name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if err != nil || name != "bbr" && strings.Contains(string(available), "bbr") {
			t.Errorf("congestion control %q of %s, %v", name, available, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}
