package server

// The packet path, in the order in which a packet meets it:
//
//  1. run waits for readable sockets: one epoll for all sessions of a worker,
//     outside of Go's poller, which would cost three more calls a packet.
//  2. serve reads up to a batch of what a socket has: each message is a
//     datagram, or many that the kernel put together (GRO).
//  3. pass checks the source, and sorts out control packets (control).
//  4. queue joins messages of one size to one send, which the kernel cuts
//     again (GSO); flush sends all of them by one call.
//
// A worker owns its sessions' sockets and places, so nothing here takes a
// lock, and its buffers, so an idle session costs two sockets and a few
// hundred bytes.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/depinsim/x402/tunnel/path"
)

const (
	batch     = 32       // messages of one recvmmsg
	rounds    = 4        // batches of one socket before the next has its turn
	maxPacket = 64 << 10 // a message with GRO is at most as long
	events    = 128      // of one epoll_wait
	bellEvent = -1       // in place of a slot
)

// A forwarder is the packet path of all sessions.
type forwarder struct {
	workers []*worker
	next    atomic.Uint32
	ip      netip.Addr
	ports   Ports
}

// newForwarder makes a packet path with n workers. Run must be called on it.
func newForwarder(c *packetConfig, n int) (*forwarder, error) {
	f := &forwarder{ip: c.ip, ports: c.ports}
	for range n {
		w, err := newWorker(c)
		if err != nil {
			return nil, errors.Join(err, f.discard())
		}
		f.workers = append(f.workers, w)
	}
	return f, nil
}

func (f *forwarder) discard() error {
	var errs []error
	for _, w := range f.workers {
		errs = append(errs, unix.Close(w.fd), unix.Close(w.bell))
	}
	return errors.Join(errs...)
}

// run passes packets until ctx is cancelled; then it closes all sockets.
func (f *forwarder) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, w := range f.workers {
		g.Go(func() error { return w.run(gctx) })
	}
	return g.Wait()
}

// assign chooses a session's worker.
func (f *forwarder) assign(s *session) { s.worker = f.workers[f.next.Add(1)%uint32(len(f.workers))] }

// open opens the ports of a session that was assigned, once.
func (f *forwarder) open(s *session) (ports [2]uint16, err error) {
	var fds [2]int
	for side := range fds {
		if fds[side], ports[side], err = listenPort(f.ip, f.ports); err != nil {
			if side > 0 {
				err = errors.Join(err, unix.Close(fds[0]))
			}
			return ports, err
		}
	}
	if w := s.worker; !w.order(func() { w.add(s, fds) }) {
		return ports, errors.Join(os.ErrClosed, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return ports, nil
}

// close closes a session's ports, soon.
func (f *forwarder) close(s *session) {
	if w := s.worker; w != nil {
		w.order(func() { w.remove(s) })
	}
}

// A slot is a session's place at its worker. Events name it by its number and
// the generation that it was in, so that one which was under way for a session
// that is over does not meet the next.
type slot struct {
	s    *session
	fds  [2]int
	to   [2]sockaddr // where the sides are, as the kernel wants it
	gen  int32
	pace time.Time // when the session's byte bucket is full again
	left uint64    // of what this turn has reserved of the session's account
}

// A worker passes the packets of its sessions. All but the orders is touched
// by run alone.
type worker struct {
	*packetConfig
	fd    int // epoll's
	bell  int // an eventfd, rung for orders
	slots []slot
	free  []int
	by    map[*session]int
	now   time.Time

	events  [events]unix.EpollEvent
	in      [batch]mmsghdr
	iov     [batch]unix.Iovec
	from    [batch]sockaddr
	control [batch][controlSpace]byte
	buffers []byte // batch × maxPacket; the kernel gives pages as they are used
	out     outbox

	mu     sync.Mutex
	orders []func() // of others, for run
	closed bool
}

func newWorker(c *packetConfig) (*worker, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), unix.Close(fd))
	}
	if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: bellEvent}); err != nil {
		return nil, errors.Join(fmt.Errorf("epoll_ctl: %w", err), unix.Close(fd), unix.Close(bell))
	}
	w := &worker{packetConfig: c, fd: fd, bell: bell, by: map[*session]int{}}
	w.buffers = make([]byte, batch*maxPacket)
	for i := range w.in {
		w.iov[i].Base = &w.buffers[i*maxPacket]
		w.iov[i].SetLen(maxPacket)
		h := &w.in[i].hdr
		h.Iov = &w.iov[i]
		h.SetIovlen(1)
		h.Name = &w.from[i].raw[0]
		h.Control = &w.control[i][0]
	}
	return w, nil
}

// order has run call f soon. It is false if run has ended.
func (w *worker) order(f func()) bool {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return false
	}
	defer w.mu.Unlock() // the bell is there until closed is set
	w.orders = append(w.orders, f)
	_, err := unix.Write(w.bell, binary.NativeEndian.AppendUint64(nil, 1)) // wakes run
	return err == nil || errors.Is(err, unix.EAGAIN)                       // full: it is ringing
}

// run serves until ctx is cancelled.
func (w *worker) run(ctx context.Context) error {
	defer w.end()
	defer context.AfterFunc(ctx, func() { w.order(func() {}) })()
	for ctx.Err() == nil {
		n, err := unix.EpollWait(w.fd, w.events[:], -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		w.now = time.Now()
		for _, e := range w.events[:max(n, 0)] {
			if e.Fd == bellEvent {
				w.obey()
			} else {
				w.serve(int(e.Fd), e.Pad)
			}
		}
	}
	return nil
}

// obey carries out what others asked for. The bell is silenced first, so that
// an order that comes meanwhile rings again.
func (w *worker) obey() {
	var b [8]byte
	_, _ = unix.Read(w.bell, b[:])
	w.mu.Lock()
	orders := w.orders
	w.orders = nil
	w.mu.Unlock()
	for _, f := range orders {
		f()
	}
}

// end closes everything.
func (w *worker) end() {
	w.mu.Lock()
	w.closed = true
	orders := w.orders
	w.orders = nil
	w.mu.Unlock()
	for _, f := range orders {
		f()
	}
	for i := range w.slots {
		if s := w.slots[i].s; s != nil {
			w.remove(s)
		}
	}
	_, _ = unix.Close(w.fd), unix.Close(w.bell)
}

func (w *worker) add(s *session, fds [2]int) {
	if s.over { // before it began
		closeAll(fds)
		return
	}
	if len(w.free) == 0 {
		w.free = append(w.free, len(w.slots))
		w.slots = append(w.slots, slot{})
	}
	i := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	w.by[s] = i
	sl := &w.slots[i]
	*sl = slot{s: s, fds: fds, gen: sl.gen + 1}
	for side, fd := range fds {
		e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(2*i + side), Pad: sl.gen}
		if err := unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
			w.log.Error("relay session", "session", s.id, "err", fmt.Errorf("epoll_ctl: %w", err))
		}
	}
}

func (w *worker) remove(s *session) {
	s.over = true
	i, ok := w.by[s]
	if !ok {
		return
	}
	sl := &w.slots[i]
	closeAll(sl.fds)
	sl.s = nil
	delete(w.by, s)
	w.free = append(w.free, i)
}

// closeAll closes a session's sockets, which takes them out of the epoll.
func closeAll(fds [2]int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// serve reads what has come to one socket.
func (w *worker) serve(which int, gen int32) {
	sl, side := &w.slots[which/2], which%2
	if sl.s == nil || sl.gen != gen {
		return
	}
	for range rounds {
		for i := range w.in {
			h := &w.in[i].hdr
			h.Namelen = unix.SizeofSockaddrInet6
			h.SetControllen(controlSpace)
		}
		n, err := recvmmsg(sl.fds[side], w.in[:])
		if err != nil { // nothing there any more, or what a former packet met
			return
		}
		w.pass(sl, side, n)
		if n < batch {
			return
		}
	}
}

// pass passes n messages on from one side to the other.
func (w *worker) pass(sl *slot, side, n int) {
	s := sl.s
	w.out.begin(sl.fds[1-side], &sl.to[1-side])
	var dropped, reserved uint64
	if s.account != nil {
		reserved = w.reserve(s.account, n)
	}
	sl.left = reserved
	for i := range n {
		m := &w.in[i]
		data := w.buffers[i*maxPacket:][:m.n]
		size := groSize(w.control[i][:m.hdr.Controllen])
		if size <= 0 || size > len(data) {
			size = len(data)
		}
		if m.hdr.Flags&unix.MSG_TRUNC != 0 || size == 0 {
			dropped++
			continue
		}
		from := w.from[i].addrPort(m.hdr.Namelen)
		if hasControl(data, size) {
			w.sort(sl, arrival{side, from, data, w.now}, size)
			continue
		}
		if !w.may(sl, side, from, data, size) {
			dropped++
			continue
		}
		w.out.queue(data, size)
	}
	bytes, lost := w.out.flush()
	if s.account != nil {
		s.account.settle(side, reserved, bytes)
	}
	if bytes > 0 {
		s.alive(side, w.now)
		s.bytes.Add(bytes)
		w.passed.Add(bytes)
	}
	if dropped+lost > 0 {
		w.dropped.Add(dropped + lost)
	}
}

// may says whether data that came from an address may be passed on.
func (w *worker) may(sl *slot, side int, from netip.AddrPort, data []byte, size int) bool {
	s := sl.s
	if from != s.places[side].addr {
		if side != buyerSide || !s.opens(from, data[0], size) {
			return false
		}
		sl.to[side] = makeSockaddr(from, w.four)
		w.log.Debug("relay session opened", "session", s.id)
	}
	if s.open && !s.opened.complete && !s.opened.allow(side, len(data), (len(data)+size-1)/size) {
		return false
	}
	if sl.to[1-side].n == 0 {
		return false // nobody there yet
	}
	if w.limitBytes != 0 && !w.withinRate(sl, len(data)) {
		return false
	}
	return s.account == nil || sl.pays(len(data))
}

// reserve takes what n messages that came may need of an account.
func (w *worker) reserve(a *Account, n int) uint64 {
	var want uint64
	for i := range n {
		want += uint64(w.in[i].n)
	}
	return a.reserve(want)
}

// pays takes n bytes of what is reserved.
func (sl *slot) pays(n int) bool {
	if uint64(n) > sl.left {
		sl.s.account.refused.Add(1)
		return false
	}
	sl.left -= uint64(n)
	return true
}

// withinRate takes n bytes from a session's bucket, which holds a quarter of a
// second.
func (w *worker) withinRate(sl *slot, n int) bool {
	full := sl.pace
	if full.Before(w.now) {
		full = w.now
	}
	next := full.Add(time.Duration(uint64(n) * uint64(time.Second) / w.limitBytes))
	if next.Sub(w.now) > time.Second/4 {
		return false
	}
	sl.pace = next
	return true
}

// hasControl says whether one of the datagrams in data begins like a packet of
// a relay's own: types 1 to 3.
func hasControl(data []byte, size int) bool {
	for at := 0; at < len(data); at += size {
		if data[at] == 0 && at+1 < len(data) && data[at+1]-1 < 3 {
			return true
		}
	}
	return false
}

// sort takes control packets out of datagrams that came together.
func (w *worker) sort(sl *slot, a arrival, size int) {
	for data := a.packet; len(data) > 0; {
		one := data[:min(size, len(data))]
		data = data[len(one):]
		a.packet = one
		switch {
		case hasControl(one, len(one)):
			w.bind(sl, a)
		case w.may(sl, a.side, a.from, one, len(one)):
			w.out.queue(one, len(one))
		default:
			w.dropped.Add(1)
		}
	}
}

// bind gives a control packet to the session and sends what it answers. A side
// whose peer has come or moved is told, if it may know.
func (w *worker) bind(sl *slot, a arrival) {
	s := sl.s
	if path.Type(a.packet[1]) != path.TypeBind {
		w.dropped.Add(1)
		return
	}
	answer, moved := s.bind(w.cookies, a)
	if answer == nil {
		w.dropped.Add(1)
		return
	}
	to := makeSockaddr(a.from, w.four)
	w.out.one(sl.fds[a.side], &to, answer)
	if !moved {
		return
	}
	sl.to[a.side] = to
	if other := 1 - a.side; s.direct && s.places[other].counter > 0 {
		w.out.one(sl.fds[other], &sl.to[other], s.bound(other))
	}
}
