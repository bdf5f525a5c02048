package plan

import "time"

// A Sample is what can be seen at one moment.
type Sample struct {
	// Boot names the run of the kernel, Up is for how long it lasts, time spent
	// asleep included.
	Boot [16]byte
	Up   time.Duration
	// Wall is the device's clock. Synced says that NTP vouches for it.
	Wall   time.Time
	Synced bool
	// Link is the interface's counters; nil: it is not there.
	Link *Link
	// Sold is how many bytes of buyers' were delivered, in either direction,
	// since the last sample.
	Sold uint64
	// Roaming says that the SIM is abroad.
	Roaming bool
}

// A Link is what a network interface has counted since it was made.
type Link struct {
	// Index is the kernel's number of the interface: one that is made anew has
	// another.
	Index uint32
	// Framed says that each packet is counted with an Ethernet header, which
	// the carrier never sees.
	Framed bool

	RxBytes, TxBytes, RxPackets, TxPackets uint64
}

const (
	frameHeader = 14 // IEEE 802.3 §3.1.1: two addresses and a type
	narrow      = 1 << 32
	// fastest bounds what a link carries, in bytes a second: a counter that
	// would have had to wrap faster was reset.
	fastest = 1_250_000_000
)

// all is every byte that the plan was charged for, by l.
func (l Link) all() uint64 {
	bytes, packets := l.RxBytes+l.TxBytes, l.RxPackets+l.TxPackets
	if l.Framed && packets <= bytes/frameHeader {
		bytes -= packets * frameHeader
	}
	return bytes
}

// since returns the plan's bytes between an older reading of the same
// interface and l. It is anew when the interface has begun to count anew since;
// then bytes are those of l alone. It is later when the counters, which are not
// read at one instant, do not fit together: the next reading tells.
func (l Link) since(o Link, elapsed time.Duration) (bytes uint64, anew, later bool) {
	if l.Index != o.Index || l.Framed != o.Framed {
		return l.all(), true, false
	}
	rx, rok := risen(o.RxBytes, l.RxBytes, o.RxPackets <= l.RxPackets, elapsed)
	tx, tok := risen(o.TxBytes, l.TxBytes, o.TxPackets <= l.TxPackets, elapsed)
	if !rok || !tok || rx+tx < rx {
		return l.all(), true, false
	}
	bytes = rx + tx
	if !l.Framed {
		return bytes, false, false
	}
	// A counter of packets that wrapped counts nothing: the plan is charged
	// more rather than less.
	var packets uint64
	if l.RxPackets > o.RxPackets {
		packets = l.RxPackets - o.RxPackets
	}
	if l.TxPackets > o.TxPackets {
		packets += l.TxPackets - o.TxPackets
	}
	if packets > bytes/frameHeader {
		return 0, false, true
	}
	return bytes - packets*frameHeader, false, false
}

// risen is how far a counter has come, and whether it is the same one. One of
// 32 bits that fell has wrapped, if it can have in the time and its packets did
// not fall with it.
func risen(old, now uint64, packets bool, elapsed time.Duration) (uint64, bool) {
	if now >= old {
		return now - old, true
	}
	if old >= narrow || !packets {
		return 0, false
	}
	most := uint64(max(elapsed, 0)/time.Millisecond) * (fastest / 1000)
	wrapped := narrow - old + now
	return wrapped, wrapped <= most
}
