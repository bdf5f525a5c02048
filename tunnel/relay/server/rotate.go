package server

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
)

// Why a rotation link was not passed on, or not answered.
var (
	ErrAbsent   = errors.New("the agent is not connected here")
	ErrBusy     = errors.New("the agent's address is changing already, or was asked for too often")
	ErrUnheard  = errors.New("the agent has not said what came of it")
	errDraining = errors.New("the relay is about to stop")
)

// rotateTime is how long an agent may take: several tries, each of which takes
// its modem off the network.
const rotateTime = 8 * time.Minute

// linkRate bounds what an agent's links cost the agent.
func linkRate() Rate { return Rate{6, time.Minute} }

// rotations are the links that are being used, one of an agent at a time.
type rotations struct {
	mu sync.Mutex
	by map[relay.Address]*rotation
}

// A rotation is a link that was passed on to its agent.
type rotation struct {
	id     relay.SessionID // zero: none is under way
	full   time.Time       // when the agent's bucket is full again
	result chan []byte     // holds one
}

// begin takes an agent's place.
func (rs *rotations) begin(a relay.Address, id relay.SessionID) (*rotation, bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	now := time.Now()
	for other, r := range rs.by { // those that say nothing any more
		if r.id == (relay.SessionID{}) && r.full.Before(now) {
			delete(rs.by, other)
		}
	}
	r := rs.by[a]
	if r == nil {
		r = &rotation{}
		rs.by[a] = r
	}
	if r.id != (relay.SessionID{}) {
		return nil, false
	}
	var ok bool
	if r.full, ok = linkRate().take(r.full, now); !ok {
		return nil, false
	}
	r.id, r.result = id, make(chan []byte, 1)
	return r, true
}

func (rs *rotations) end(r *rotation) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r.id = relay.SessionID{}
}

// take takes an agent's answer, by whichever of its connections.
func (rs *rotations) take(a relay.Address, m relay.Message) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.by[a]
	if r == nil || m.Allotment == nil || m.Allotment.ID != r.id || r.id == (relay.SessionID{}) {
		return
	}
	select {
	case r.result <- m.Rotated:
	default: // it has answered
	}
}

// Rotate passes a rotation link on to its agent and returns what the agent says
// came of it, as JSON. That takes minutes, and the agent's connection is another
// one afterwards.
func (s *Server) Rotate(ctx context.Context, agent relay.Address, link string) ([]byte, error) {
	m := s.members.get(agent)
	switch {
	case s.draining.Load():
		return nil, errDraining
	case m == nil:
		return nil, ErrAbsent
	}
	var id relay.SessionID
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	r, ok := s.rotations.begin(agent, id)
	if !ok {
		return nil, ErrBusy
	}
	defer s.rotations.end(r)
	if !m.send(relay.Message{Type: relay.TypeRotate, Allotment: &relay.Allotment{ID: id}, Link: link}) {
		return nil, ErrBusy
	}
	timer := time.NewTimer(rotateTime)
	defer timer.Stop()
	select {
	case b := <-r.result:
		return b, nil
	case <-timer.C:
		return nil, ErrUnheard
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
