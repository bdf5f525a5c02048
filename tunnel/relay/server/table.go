package server

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
)

// A limitError says which limit keeps a session from being made. It is told
// to who asked.
type limitError string

func (e limitError) Error() string { return string(e) }

// quotaDay is how long a quota lasts.
const quotaDay = 24 * time.Hour

// A budget is what an agent or a source passed on since a day began.
type budget struct {
	since time.Time
	bytes uint64
}

// A table holds the sessions.
type table struct {
	limits Limits

	mu        sync.Mutex
	sessions  map[relay.SessionID]*session
	perAgent  map[relay.Address]int
	perSource map[netip.Prefix]int
	perPair   map[pair]int
	agents    map[relay.Address]budget // only with a quota
	sources   map[netip.Prefix]budget
}

// A pair is a source and the agent that it asks for.
type pair struct {
	agent  relay.Address
	source netip.Prefix
}

// pairSessions is how many of an agent's sessions one source may have: a few
// sources must not take all, used or not.
func (t *table) pairSessions() int { return max(t.limits.AgentSessions/4, 4) }

func newTable(l Limits) *table {
	return &table{
		limits: l, sessions: map[relay.SessionID]*session{},
		perAgent: map[relay.Address]int{}, perSource: map[netip.Prefix]int{}, perPair: map[pair]int{},
		agents: map[relay.Address]budget{}, sources: map[netip.Prefix]budget{},
	}
}

// add takes a place for a session, or says which limit is reached.
func (t *table) add(s *session) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.sessions) >= t.limits.Sessions:
		return limitError("the relay has no room for more sessions")
	case t.perAgent[s.agent] >= t.limits.AgentSessions:
		return limitError("the agent has too many sessions")
	case t.perSource[s.source] >= t.limits.SourceSessions, t.perPair[pair{s.agent, s.source}] >= t.pairSessions():
		return limitError("you have too many sessions")
	case over(t.agents[s.agent], t.limits.AgentQuota, s.created):
		return limitError("the agent has used up its quota of the day")
	case over(t.sources[s.source], t.limits.SourceQuota, s.created):
		return limitError("you have used up your quota of the day")
	}
	t.sessions[s.id] = s
	if s.account != nil {
		s.account.sessions.Add(1)
	}
	t.perAgent[s.agent]++
	t.perSource[s.source]++
	t.perPair[pair{s.agent, s.source}]++
	return nil
}

// get returns a session, nil if there is none.
func (t *table) get(id relay.SessionID) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sessions[id]
}

// remove takes a session out. It is false if it was not in.
func (t *table) remove(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.id] != s {
		return false
	}
	delete(t.sessions, s.id)
	if s.account != nil {
		s.account.sessions.Add(-1)
	}
	if t.perAgent[s.agent]--; t.perAgent[s.agent] == 0 {
		delete(t.perAgent, s.agent)
	}
	if t.perSource[s.source]--; t.perSource[s.source] == 0 {
		delete(t.perSource, s.source)
	}
	if p := (pair{s.agent, s.source}); t.perPair[p] > 1 {
		t.perPair[p]--
	} else {
		delete(t.perPair, p)
	}
	t.account(s, time.Now())
	return true
}

func (t *table) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sessions)
}

// all returns the sessions.
func (t *table) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.sessions))
}

// ended returns the sessions that have come to their end: not used, idle, not
// paid for, or beyond a quota. They stay in the table until they are removed.
func (t *table) ended(now time.Time) []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sessions {
		t.account(s, now)
	}
	var done []*session
	for _, s := range t.sessions {
		if now.After(s.deadline()) || s.account != nil && s.account.ended.Load() || over(t.agents[s.agent], t.limits.AgentQuota, now) ||
			over(t.sources[s.source], t.limits.SourceQuota, now) {
			done = append(done, s)
		}
	}
	forget(t.agents, now)
	forget(t.sources, now)
	return done
}

// account books what a session passed on since it was booked last, for the
// quotas. What is charged for is in its Account at once.
func (t *table) account(s *session, now time.Time) {
	n := s.bytes.Load()
	passed := n - s.booked
	s.booked = n
	if passed == 0 {
		return
	}
	if t.limits.AgentQuota > 0 {
		t.agents[s.agent] = t.agents[s.agent].add(passed, now)
	}
	if t.limits.SourceQuota > 0 {
		t.sources[s.source] = t.sources[s.source].add(passed, now)
	}
}

func (b budget) add(n uint64, now time.Time) budget {
	if now.Sub(b.since) >= quotaDay {
		b = budget{since: now}
	}
	b.bytes += n
	return b
}

// over says whether a budget is used up; a quota of 0 is none.
func over(b budget, quota uint64, now time.Time) bool {
	return quota > 0 && now.Sub(b.since) < quotaDay && b.bytes >= quota
}

func forget[K comparable](budgets map[K]budget, now time.Time) {
	for k, b := range budgets {
		if now.Sub(b.since) >= quotaDay {
			delete(budgets, k)
		}
	}
}
