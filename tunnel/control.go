package tunnel

import (
	"bufio"
	"fmt"
)

// A Capsule is one message on the control stream.
type Capsule struct {
	Type  uint64
	Value []byte
}

// A Control is the control stream of a session: capsules both ways, in order.
// Send may be called by many goroutines, Receive by one. At the agent Receive
// also pauses, resumes and cancels flows as the buyer asks; they wait while
// nobody receives.
type Control struct {
	stream Stream
	steer  func(typ, id uint64) // the agent's: acts on pause, resume, cancel; nil at the buyer
	known  func(typ uint64) bool
	r      *bufio.Reader // Receive's own

	sending chan struct{} // holds a token while a capsule is written
}

func newControl(s Stream, steer func(typ, id uint64), known func(typ uint64) bool) *Control {
	return &Control{
		stream: s,
		steer:  steer,
		known: func(typ uint64) bool {
			return known(typ) || steer != nil && isSteering(typ)
		},
		r:       bufio.NewReaderSize(s, 1024),
		sending: make(chan struct{}, 1),
	}
}

func isSteering(typ uint64) bool {
	return typ == capsulePause || typ == capsuleResume || typ == capsuleCancel
}

// Send sends a capsule of at most [MaxCapsule] bytes. It waits while the peer
// reads none, until the connection ends.
func (c *Control) Send(typ uint64, value []byte) error {
	if len(value) > MaxCapsule {
		return fmt.Errorf("tunnel: capsule %#x of %d bytes, at most %d are allowed", typ, len(value), MaxCapsule)
	}
	b := appendCapsule(make([]byte, Headroom, Headroom+16+len(value)), typ, value)
	c.sending <- struct{}{}
	defer func() { <-c.sending }()
	_, err := write(c.stream, b)
	return err
}

// Receive returns the next capsule of a known type. io.EOF is an end in order.
func (c *Control) Receive() (Capsule, error) {
	for {
		typ, value, err := readCapsule(c.r, nil, MaxCapsule, c.known)
		if err != nil {
			return Capsule{}, err
		}
		if c.steer == nil || !isSteering(typ) {
			return Capsule{Type: typ, Value: value}, nil
		}
		id, rest, err := cutVarint(value)
		if err != nil || len(rest) != 0 {
			return Capsule{}, fmt.Errorf("tunnel: capsule %#x: not one stream ID", typ)
		}
		c.steer(typ, id)
	}
}

// Close ends the sending direction.
func (c *Control) Close() error { return c.stream.Close() }

func (c *Control) sendSteering(typ, id uint64) error {
	return c.Send(typ, appendVarint(make([]byte, 0, 8), id))
}
