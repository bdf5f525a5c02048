package tunnel

import (
	"context"
	"errors"
)

// A Pass lets one flow in that no session pays for.
type Pass struct {
	Lanes Lanes
	// Context ends the flow when it ends.
	Context context.Context
	// Leave is called once, when all that the flow carried has been counted.
	Leave func()
}

// A PassError is why a flow is not let in, and how its request is answered.
type PassError struct {
	Status int
	Fields Fields
	// Kind, if it is set, makes a Proxy-Status field of Text: an error type of
	// RFC 9209 §2.3.
	Kind string
	Text string
}

func (e *PassError) Error() string { return e.Text }

// Refusals that concern no credentials.
var (
	errNoFlows   = &PassError{Status: StatusServiceUnavailable, Kind: kindInternal, Text: "the agent takes no new flows"}
	errManyFlows = &PassError{Status: StatusTooManyRequests, Kind: kindInternal, Text: "too many flows in this session"}
)

// kindInternal is the error type of an answer that is this proxy's own.
const kindInternal = "proxy_internal_response"

// ErrPassed says that a connection has no control stream and will have none: its
// flows bring what they are paid by.
var ErrPassed = errors.New("tunnel: flows are let in by a pass")

// enterByPass lets a flow in by its credentials.
func (s *Session) enterByPass(credentials []string) (entry, error) {
	p, err := s.cfg.Pass(s.ctx, credentials)
	if err != nil {
		return entry{}, err
	}
	s.mu.Lock()
	late, first := s.opened, !s.pay
	if !late && first {
		s.pay = true
		close(s.passed)
	}
	s.mu.Unlock()
	if !late && first {
		s.Trust()
	}
	if late { // the control stream came meanwhile
		p.Leave()
		return entry{}, errNoFlows
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	outer, leave := p.Context, p.Leave // p becomes the flow's below
	stop := context.AfterFunc(outer, func() { cancel(context.Cause(outer)) })
	p.Context, p.Leave = ctx, func() {
		stop()
		cancel(nil)
		leave()
	}
	e, err := s.place(p)
	if err != nil {
		p.Leave()
	}
	return e, err
}

// A Rationed lane has an end that no payment moves. A stream takes what is left
// of it, in as many pieces as it comes: ReserveSome sets up to n bytes aside, at
// least one, and waits while there is none.
type Rationed interface {
	ReserveSome(ctx context.Context, n int) (int, error)
}

// reserve sets up to n bytes of a stream's lane aside.
func reserve(ctx context.Context, lane Lane, n int) (int, error) {
	if r, ok := lane.(Rationed); ok {
		return r.ReserveSome(ctx, n)
	}
	return n, lane.Reserve(ctx, n)
}
