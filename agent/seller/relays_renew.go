package seller

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
)

// visit is known at the relay, by one connection after the other, until one
// ends.
func (l *relayLink) visit(ctx, sctx context.Context, patience time.Duration) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	a, err := l.dial(ctx, sctx, patience)
	for renewals := (renewals{}); err == nil; {
		l.set(a, nil)
		l.r.answered()
		l.r.s.log.Info("known at the relay", "relay", l.name.Address(), "seen_as", a.Observed())
		a, err = l.serve(ctx, sctx, &running, a, &renewals)
	}
	l.set(nil, err)
	return err
}

// serve runs a connection to its end, or until there is another in its place,
// which it returns. QUIC finds out late that its peer knows another address of
// ours, and survives that only twice (quic-go's path manager has room for three
// addresses); a relay that was started anew is noticed at the next ping. The one that
// is replaced is read to its end: a buyer may have been told of by it.
func (l *relayLink) serve(ctx, sctx context.Context, running *sync.WaitGroup, a *relay.Agent, r *renewals) (next *relay.Agent, err error) {
	actx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	defer func() {
		if next == nil {
			stop()
			return
		}
		running.Go(func() {
			defer stop()
			select {
			case <-ended:
			case <-ctx.Done():
			case <-time.After(farewell): // a relay that was started anew does not end it
			}
		})
	}()
	running.Go(func() { ended <- a.Run(actx) })
	for {
		var due <-chan time.Time
		if r.wanted {
			due = time.After(r.after())
		}
		select {
		case err := <-ended:
			if err == nil {
				err = errors.New("the relay ended the connection")
			}
			return nil, err
		case <-ctx.Done():
			l.handAll(ctx)
			return nil, ctx.Err()
		case <-l.doubt:
			r.want()
			continue
		case <-due:
			r.begin()
		case <-l.renew:
		}
		next, err = l.dial(ctx, sctx, dialTime)
		if _, ok := errors.AsType[*relay.NoticeError](err); !ok {
			return next, err
		} // it does not want another now: this one goes on
	}
}

// farewell is how long a relay has to end a connection that was replaced.
const farewell = 2 * time.Second

// renewals are bounded and jittered: a NAT that gives another address every
// minute has no say in what the SIM's plan pays for.
type renewals struct {
	wanted bool
	last   time.Time
	wait   time.Duration // from last to the next
}

const (
	renewSpread = time.Second // many agents may see a relay come back
	renewMin    = 2 * time.Second
)

func (r *renewals) want() {
	if r.wanted {
		return
	}
	r.wanted = true
	if r.last.IsZero() || time.Since(r.last) > 2*r.wait+relaySteady {
		r.wait = 0
	}
}

// after is how long to wait for the one that is wanted.
func (r *renewals) after() time.Duration {
	return max(time.Until(r.last.Add(r.wait)), 0) + rand.N(renewSpread)
}

func (r *renewals) begin() {
	r.wanted, r.last = false, time.Now()
	r.wait = min(max(2*r.wait, renewMin), relayRetryMax)
}
