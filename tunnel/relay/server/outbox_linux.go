package server

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxGSO    = 65_000    // of one send: below 65,535 with IPv6 and UDP headers
	maxPieces = 64        // datagrams of one send (Linux UDP_MAX_SEGMENTS)
	maxQueue  = 4 * batch // messages that wait for flush
)

// An outbox joins messages to sends for one socket and address.
type outbox struct {
	fd      int
	to      *sockaddr
	msgs    [maxQueue]mmsghdr
	sizes   [maxQueue]int // of the datagrams of each message
	totals  [maxQueue]int
	pieces  [maxQueue]int     // datagrams of each message
	first   [maxQueue + 1]int // vector of each message
	iov     [maxQueue]unix.Iovec
	control [maxQueue][controlSpace]byte
	n, iovs int
	plain   bool // the kernel or device refused to cut

	bytes, lost uint64 // of this turn
}

// begin starts a turn for a socket. The address may still be empty.
func (o *outbox) begin(fd int, to *sockaddr) {
	o.fd, o.to, o.n, o.iovs, o.bytes, o.lost = fd, to, 0, 0, 0, 0
}

// queue adds datagrams of one size, of which the last may be shorter.
func (o *outbox) queue(data []byte, size int) {
	count := (len(data) + size - 1) / size
	if o.plain && count > 1 {
		for ; len(data) > size; data = data[size:] {
			o.queue(data[:size], size)
		}
		size, count = len(data), 1
	}
	if o.iovs == maxQueue {
		o.send()
	}
	iov := &o.iov[o.iovs]
	iov.Base = &data[0]
	iov.SetLen(len(data))
	o.iovs++
	// The kernel cuts evenly: only the last piece may be shorter.
	if i := o.n - 1; i >= 0 && !o.plain && o.totals[i] == o.sizes[i]*o.pieces[i] && size <= o.sizes[i] && (size == o.sizes[i] || count == 1) &&
		o.totals[i]+len(data) <= maxGSO && o.pieces[i]+count <= maxPieces {
		o.totals[i] += len(data)
		o.pieces[i] += count
		return
	}
	i := o.n
	o.first[i] = o.iovs - 1
	o.sizes[i], o.totals[i], o.pieces[i] = size, len(data), count
	o.n++
}

// flush sends what was queued and returns what went and what did not.
func (o *outbox) flush() (bytes, lost uint64) {
	o.send()
	return o.bytes, o.lost
}

func (o *outbox) send() {
	o.first[o.n] = o.iovs
	for i := range o.n {
		h := &o.msgs[i].hdr
		h.Name, h.Namelen = &o.to.raw[0], o.to.n
		h.Iov = &o.iov[o.first[i]]
		h.SetIovlen(o.first[i+1] - o.first[i])
		h.Control = nil
		h.SetControllen(0)
		if o.pieces[i] > 1 {
			h.Control = &o.control[i][0]
			h.SetControllen(gsoControl(o.control[i][:], o.sizes[i]))
		}
	}
	for at := 0; at < o.n; {
		sent, err := sendmmsg(o.fd, o.msgs[at:o.n])
		for _, total := range o.totals[at : at+sent] {
			o.bytes += uint64(total)
		}
		at += sent
		if err != nil {
			o.failed(at, err)
			at++
		}
	}
	o.n, o.iovs = 0, 0
}

// failed deals with a send that the kernel refused. One that it would not cut
// (EIO: the device cannot; EINVAL: a piece is larger than the device's MTU) is
// cut here. A full buffer drops, as any router does.
func (o *outbox) failed(i int, err error) {
	if o.pieces[i] == 1 || !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EINVAL) {
		o.lost += uint64(o.pieces[i])
		return
	}
	o.plain = o.plain || errors.Is(err, unix.EIO)
	for _, v := range o.iov[o.first[i]:o.first[i+1]] {
		data := unsafe.Slice(v.Base, int(v.Len))
		for len(data) > 0 {
			one := data[:min(o.sizes[i], len(data))]
			data = data[len(one):]
			if o.one(o.fd, o.to, one) {
				o.bytes += uint64(len(one))
			} else {
				o.lost++
			}
		}
	}
}

// one sends one datagram by itself.
func (o *outbox) one(fd int, to *sockaddr, b []byte) bool {
	iov := unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	m := [1]mmsghdr{{hdr: unix.Msghdr{Name: &to.raw[0], Namelen: to.n, Iov: &iov}}}
	m[0].hdr.SetIovlen(1)
	_, err := sendmmsg(fd, m[:])
	return err == nil
}
