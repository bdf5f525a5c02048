package server

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
)

// Ports is the range of a relay's UDP ports for sessions, First and Last
// included. Zero: the kernel chooses.
type Ports struct{ First, Last uint16 }

// A packetConfig is what all workers of the packet path share.
type packetConfig struct {
	ip         netip.Addr
	four       bool // the sockets are IPv4's
	ports      Ports
	cookies    *cookies
	limitBytes uint64 // a second, of each session; 0: no limit
	log        *slog.Logger

	passed  atomic.Uint64 // bytes
	dropped atomic.Uint64 // packets
}
