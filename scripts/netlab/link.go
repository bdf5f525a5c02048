package netlab

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

// A Link is an emulated link between two TUN interfaces. Each direction is a
// Line of its own.
//
//	program in A → TUN → read → queue, loss, delay → write → TUN → program in B
//
// Packets come as the kernel would put them on a wire: cut to the MTU of 1500
// and with their checksums, whatever was offloaded.
type Link struct {
	AB, BA *Line
	files  [2]*tun
}

// A Line is one direction of a Link. Its methods may be called by several
// goroutines.
type Line struct {
	shape  atomic.Pointer[Shape]
	counts [8]atomic.Uint64 // one writer: run
	failed error            // set by run before it ends
}

// Counts is what a Line has done since it was made. Bytes are those of IP
// packets. In = Out + Lost + Dropped + Cut + what is under way.
type Counts struct {
	In, InBytes   uint64 // arrived at the line
	Out, OutBytes uint64 // delivered
	Lost          uint64 // at random or in bursts
	Dropped       uint64 // by the full queue
	Cut           uint64 // while the line was down, and by the far end's kernel
	// Late is how many of Out came more than 5 ms later than they should have,
	// because the machine let the line wait: what is measured then is not the
	// link.
	Late uint64
}

const tooLate = 5 * time.Millisecond

// The order of Line.counts.
const (
	countIn = iota
	countInBytes
	countOut
	countOutBytes
	countLost
	countDropped
	countCut
	countLate
)

// mtu of emulated links.
const mtu = 1500

// tunQueue is how many packets wait in the kernel until they are read; at a line's
// rate they are read as they come, so nothing is lost here.
const tunQueue = 10_000

// Link joins two ends by an emulated link that passes packets on at once, until
// Set says otherwise.
func (l *Lab) Link(ctx context.Context, a, b End) (*Link, error) {
	k := &Link{AB: newLine(), BA: newLine()}
	for i, e := range []End{a, b} {
		if err := e.Namespace.Do(func() (err error) {
			k.files[i], err = openTUN(e.Device)
			return err
		}); err != nil {
			return nil, errors.Join(fmt.Errorf("netlab: tun %s: %w", e.Device, err), k.close())
		}
		if err := ip(ctx, "-n", e.Namespace.name, "link", "set", "dev", e.Device, "mtu", strconv.Itoa(mtu), "txqueuelen", strconv.Itoa(tunQueue)); err != nil {
			return nil, errors.Join(err, k.close())
		}
		if err := e.up(ctx); err != nil {
			return nil, errors.Join(err, k.close())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(errors.New("netlab: the lab is closed"), k.close())
	}
	l.links = append(l.links, k)
	l.wg.Go(func() { k.AB.run(k.files[0], k.files[1]) })
	l.wg.Go(func() { k.BA.run(k.files[1], k.files[0]) })
	return k, nil
}

// Set gives both directions a shape.
func (k *Link) Set(ab, ba Shape) {
	k.AB.Set(ab)
	k.BA.Set(ba)
}

// stop makes the lines end.
func (k *Link) stop() error { return errors.Join(k.files[0].stop(), k.files[1].stop()) }

// close removes the interfaces when the lines have ended, and says why they
// ended early.
func (k *Link) close() error {
	errs := []error{k.AB.failed, k.BA.failed}
	for _, t := range k.files {
		if t != nil {
			errs = append(errs, t.close())
		}
	}
	return errors.Join(errs...)
}

func newLine() *Line {
	n := &Line{}
	n.shape.Store(&Shape{})
	return n
}

// Set replaces the shape, from the next packet on: those under way come as they
// would have.
func (n *Line) Set(s Shape) { n.shape.Store(&s) }

// Shape is the present one.
func (n *Line) Shape() Shape { return *n.shape.Load() }

// Counts are those of now.
func (n *Line) Counts() Counts {
	load := func(i int) uint64 { return n.counts[i].Load() }
	return Counts{
		In: load(countIn), InBytes: load(countInBytes), Out: load(countOut), OutBytes: load(countOutBytes),
		Lost: load(countLost), Dropped: load(countDropped), Cut: load(countCut), Late: load(countLate),
	}
}

func (n *Line) add(i int, by int) { n.counts[i].Add(uint64(by)) }

// A flight is a packet under way.
type flight struct {
	due  time.Duration
	turn uint64 // of arrival: two that are due at once keep their order
	data []byte
}

// flights is a heap by due.
type flights []flight

func (h flights) Len() int { return len(h) }
func (h flights) Less(i, j int) bool {
	if h[i].due != h[j].due {
		return h[i].due < h[j].due
	}
	return h[i].turn < h[j].turn
}
func (h flights) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push and Pop are heap.Interface's.
func (h *flights) Push(x any) { *h = append(*h, x.(flight)) }
func (h *flights) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = flight{}
	*h = (*h)[:last]
	return f
}

// A carrier is a line at work. One goroutine uses it.
type carrier struct {
	*Line
	shaper shaper
	shape  *Shape // that shaper has
	under  flights
	turn   uint64
	spare  [][]byte // buffers
}

// burst is how many packets are read before those that are due are written.
const burst = 32

// run carries packets from one interface to the other until it is stopped.
func (n *Line) run(from, to *tun) {
	c := carrier{Line: n, shaper: shaper{random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}}
	n.failed = onOwnThread(func() error {
		for began := time.Now(); ; {
			full, err := c.take(from, began)
			if err != nil {
				return err
			}
			c.give(to, time.Since(began))
			wait := time.Duration(-1) // for ever
			switch {
			case full:
				wait = 0
			case len(c.under) > 0:
				wait = max(c.under[0].due-time.Since(began), 0)
			}
			if stopped, err := from.wait(wait); stopped || err != nil {
				return err
			}
		}
	})
}

// take reads what has arrived, and says whether there may be more.
func (c *carrier) take(from *tun, began time.Time) (full bool, err error) {
	if shape := c.Line.shape.Load(); shape != c.shape {
		c.shape = shape
		c.shaper.change(*shape)
	}
	for range burst {
		b := c.buffer()
		size, err := from.read(b[:mtu])
		if err != nil || size == 0 {
			c.spare = append(c.spare, b)
			return false, err
		}
		c.add(countIn, 1)
		c.add(countInBytes, size)
		due, f := c.shaper.arrive(time.Since(began), size)
		switch f {
		case delivered:
			c.turn++
			heap.Push(&c.under, flight{due, c.turn, b[:size]})
			continue
		case lost:
			c.add(countLost, 1)
		case dropped:
			c.add(countDropped, 1)
		case cut:
			c.add(countCut, 1)
		}
		c.spare = append(c.spare, b)
	}
	return true, nil
}

// give writes what is due.
func (c *carrier) give(to *tun, now time.Duration) {
	for len(c.under) > 0 && c.under[0].due <= now {
		f := heap.Pop(&c.under).(flight)
		if now-f.due > tooLate {
			c.add(countLate, 1)
		}
		if err := to.write(f.data); err != nil {
			c.add(countCut, 1) // the interface is down, or its kernel has no memory
		} else {
			c.add(countOut, 1)
			c.add(countOutBytes, len(f.data))
		}
		c.spare = append(c.spare, f.data[:cap(f.data)])
	}
}

func (c *carrier) buffer() []byte {
	if last := len(c.spare) - 1; last >= 0 {
		b := c.spare[last]
		c.spare = c.spare[:last]
		return b
	}
	return make([]byte, mtu)
}
