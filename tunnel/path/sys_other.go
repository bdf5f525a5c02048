//go:build !linux

package path

import (
	"net"
	"net/netip"
)

// Elsewhere there is no UDP_GRO, and a moved peer's packets go without QUIC's
// control messages: the kernel chooses their source, and ECN is off.

func prepare(*net.UDPConn) (gro bool) { return false }

type options struct{}

func optionsOf(*net.UDPConn) (o options)        { return o }
func (options) apply(*net.UDPConn)              {}
func cutGRO(oob []byte) (size, n int)           { return 0, len(oob) }
func localAddr([]byte) (a netip.Addr)           { return a }
func hasLocal(oob []byte) bool                  { return len(oob) > 0 }
func segmentSize([]byte) uint32                 { return 0 }
func rewrite(b, _ []byte, _ *route) []byte      { return b }
func appendLocal(b []byte, _ netip.Addr) []byte { return b }
func badSource(err error) bool                  { return err != nil }

// passes: Windows tells of a packet that nobody took by a later read
// (WSAECONNRESET), and of one that did not fit (WSAEMSGSIZE).
func passes(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Temporary() //lint:ignore SA1019 the same test as quic-go's
}
