package bbr

import "github.com/apernet/quic-go/congestion"

const (
	firstPackets = 64      // records that a new connection has room for
	maxPackets   = 1 << 15 // a power of two above congestion.MaxCongestionWindowPackets

	// reordering is how far below the newest acknowledged number a packet may
	// still be reported on: quic-go declares lost what is three numbers behind
	// (RFC 9002 §6.1.1), not counting numbers that it skips.
	reordering = 8
)

// A packet is what was known when a packet left (draft-ietf-ccwg-bbr,
// "Per-packet state"). Volumes are the low 32 bits of the connection's totals:
// only differences within one flight are taken of them.
type packet struct {
	number     congestion.PacketNumber
	sent       int64 // when it left, in ns
	firstSent  int64 // the controller's firstSent then
	delivered  int64 // the controller's deliveredAt then
	total      uint32
	lost       uint32
	inflight   uint32 // with this packet
	size       uint16
	appLimited bool
	steady     bool // sent in a phase that fills no queue; see losses
	pushing    bool // sent faster than the path is known to deliver
}

// packets is a queue of records in the order of their numbers. It grows to the
// largest flight and never shrinks; nothing is allocated per packet.
type packets struct {
	ring  []packet // its length is a power of two
	first uint32   // index of the oldest, to be masked
	count uint32
}

func (q *packets) at(i uint32) *packet { return &q.ring[(q.first+i)&uint32(len(q.ring)-1)] }

// push returns the record to fill in for a packet, or nil: numbers that do not
// rise belong to a handshake that is still going on beside the data, and are
// not followed.
func (q *packets) push(number congestion.PacketNumber) *packet {
	if q.count > 0 && number <= q.at(q.count-1).number {
		return nil
	}
	if int(q.count) == len(q.ring) {
		if len(q.ring) < maxPackets {
			q.grow()
		} else {
			q.first++
			q.count--
		}
	}
	q.count++
	p := q.at(q.count - 1)
	*p = packet{number: number}
	return p
}

func (q *packets) grow() {
	ring := make([]packet, max(firstPackets, 2*len(q.ring)))
	for i := range q.count {
		ring[i] = *q.at(i)
	}
	q.ring, q.first = ring, 0
}

// find returns the record of a packet, or nil if there is none.
func (q *packets) find(number congestion.PacketNumber) *packet {
	if q.count == 0 || number < q.at(0).number {
		return nil
	}
	// Nearly all numbers are consecutive, so that the place is known; what was
	// skipped or held only an acknowledgment makes it lie further to the front.
	low, high := uint32(0), q.count
	if guess := number - q.at(0).number; guess < congestion.PacketNumber(high) {
		high = uint32(guess) + 1
		if p := q.at(high - 1); p.number == number {
			return p
		}
	}
	for low < high {
		middle := (low + high) / 2
		switch p := q.at(middle); {
		case p.number == number:
			return p
		case p.number < number:
			low = middle + 1
		default:
			high = middle
		}
	}
	return nil
}

// drop forgets what quic-go will not report on after acknowledging number.
func (q *packets) drop(number congestion.PacketNumber) {
	for q.count > 0 && q.at(0).number <= number-reordering {
		q.first++
		q.count--
	}
}

func (q *packets) clear() { q.first, q.count = 0, 0 }
