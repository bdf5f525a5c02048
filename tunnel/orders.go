package tunnel

import "sync"

// orders are what a buyer wants of single flows at the agent: pause, resume,
// cancel. Giving one never waits, so that a control stream that does not move
// holds no flow up: it is sent by a goroutine that runs while there is
// something to send. The newest order for a stream replaces an older one that
// has not been sent, and nothing replaces cancel; so there are never more than
// streams.
type orders struct {
	send  func(typ, id uint64) error
	start func(func()) // runs a function in a goroutine that the owner waits for

	mu      sync.Mutex
	waiting map[uint64]uint64 // stream ID → capsule type
	sending bool              // there is a goroutine
}

func (o *orders) give(typ, id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == nil {
		o.waiting = make(map[uint64]uint64)
	}
	if o.waiting[id] == capsuleCancel {
		return
	}
	o.waiting[id] = typ
	if !o.sending {
		o.sending = true
		o.start(o.run)
	}
}

// run sends until nothing is waiting.
func (o *orders) run() {
	for {
		typ, id, ok := o.next()
		if !ok {
			return
		}
		if o.send(typ, id) != nil { // the connection is ending, and the flows with it
			o.mu.Lock()
			clear(o.waiting)
			o.mu.Unlock()
		}
	}
}

func (o *orders) next() (typ, id uint64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, typ := range o.waiting {
		delete(o.waiting, id)
		return typ, id, true
	}
	o.sending = false
	return 0, 0, false
}
