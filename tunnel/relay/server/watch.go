package server

import (
	"net/netip"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
)

// A Watch keeps what agents hand in for the time that they are off. What it says
// and is told is JSON. It is safe for concurrent use.
type Watch interface {
	// Greeting is what an agent is told when it comes; nil: nothing.
	Greeting(agent [20]byte) []byte
	// Take takes what an agent handed in whose packets come from that address, and
	// returns what the agent is told.
	Take(agent [20]byte, from netip.Addr, text []byte) []byte
}

// claimRate bounds the signatures and writes that an agent causes. More is not
// answered.
func claimRate() Rate { return Rate{40, time.Minute} }

// greet tells a member what the relay keeps. It has joined already, so that it
// misses no change of that.
func (s *Server) greet(m *member) {
	if s.config.Watch == nil {
		return
	}
	if text := s.config.Watch.Greeting(m.agent); text != nil {
		m.send(relay.Message{Type: relay.TypeWatch, Watch: text})
	}
}

// Connected says whether an agent has a control connection.
func (s *Server) Connected(agent [20]byte) bool { return s.members.get(agent) != nil }

// Tell tells an agent something about what it handed in. It is false if the agent
// is not there, or hears too slowly.
func (s *Server) Tell(agent [20]byte, text []byte) bool {
	m := s.members.get(agent)
	return m != nil && m.send(relay.Message{Type: relay.TypeWatch, Watch: text})
}

// GreetAll tells all agents what they were told when they came, or would be told now.
func (s *Server) GreetAll() {
	var here []*member
	s.members.all(func(m *member) { here = append(here, m) })
	for _, m := range here { // with no lock held: the Watch has its own
		s.greet(m)
	}
}
