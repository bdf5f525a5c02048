package buyer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
)

// fetchRetry is how long FetchOffer waits between two attempts.
const fetchRetry = 300 * time.Millisecond

// FetchOffer asks the agent at endpoint, a host:port, for its offer. The offer
// is accepted only if it names the key that the agent proved to hold; whether
// that agent is the right one is for the caller to know, by Offer.Agent.
func FetchOffer(ctx context.Context, endpoint string, c ReachConfig) (agent.Offer, error) {
	o, err := RefreshOffer(ctx, agent.Offer{Endpoints: []string{endpoint}}, c)
	if err != nil {
		return o, fmt.Errorf("offer of %s: %w", endpoint, err)
	}
	return o, nil
}

// RefreshOffer asks the agent of an offer, at any place that it names, for its
// offer of now, until ctx ends. Whoever answers and is not that agent is not
// heard; an offer of nobody is anybody's.
func RefreshOffer(ctx context.Context, o agent.Offer, c ReachConfig) (fresh agent.Offer, err error) {
	cfg := Config{Offer: o, Reach: c, Logger: slog.New(slog.DiscardHandler)}
	err = withReach(ctx, cfg, func(r *reach) error {
		r.keyHash = nil // it may have another by now: the offer says which
		for {
			fresh, err = r.refresh(ctx)
			if _, other := errors.AsType[*OtherAgentError](err); err == nil || other || Unpaid(err) {
				return err // who is there will not be another in a moment, and here nobody is paid
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(fetchRetry):
			}
		}
	})
	return fresh, err
}

// refresh is one attempt: the first way by which the agent answers wins.
func (r *reach) refresh(ctx context.Context) (agent.Offer, error) {
	tries := r.tries()
	for i, t := range tries {
		tries[i].dial = func(ctx context.Context) (*link, error) {
			l, err := t.dial(ctx)
			if err != nil {
				return nil, err
			}
			if err := l.ask(ctx, r.offer.Agent); err != nil {
				_ = l.Close(tunnel.ReasonDone, "") // it has failed already
				l.end()
				return nil, unanswered(err, t.to)
			}
			return l, nil
		}
	}
	l, err := r.dial(ctx, tries)
	if err != nil {
		return agent.Offer{}, err
	}
	_ = l.Close(tunnel.ReasonDone, "") // all that was wanted is there
	l.end()
	return l.offer, nil
}

// unanswered says who did not answer in time.
func unanswered(err error, who string) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s does not answer", who)
	}
	return err
}

// ask asks the agent for its offer, which has to be want's unless that is
// nobody.
func (l *link) ask(ctx context.Context, want channel.Address) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close(tunnel.ReasonDone, "") })
	defer stop()
	b, err := l.get(ctx, agent.OfferPath)
	if err != nil {
		return err
	}
	if l.offer, err = agent.ParseOffer(b); err != nil {
		return err
	}
	holds, ok := l.ClientConn.(interface{ PeerKeyHash() [32]byte })
	if !ok || l.offer.TunnelKey != channel.Hash(holds.PeerKeyHash()) {
		return quic.ErrWrongKey
	}
	if !want.IsZero() && want != l.offer.Agent {
		return &OtherAgentError{Want: want, Got: l.offer.Agent}
	}
	return nil
}

// An OtherAgentError says that another agent answers than the one asked for.
type OtherAgentError struct{ Want, Got channel.Address }

func (e *OtherAgentError) Error() string {
	return fmt.Sprintf("the agent %s answers in place of %s", e.Got, e.Want)
}

// get fetches a small document of the agent's.
func (l *link) get(ctx context.Context, path string) ([]byte, error) {
	req, err := l.Open(ctx, tunnel.Header{Method: http.MethodGet, Authority: "x402.invalid", Path: path})
	if err != nil {
		return nil, err
	}
	if err := req.Close(); err != nil {
		return nil, err
	}
	status, _, err := req.Answer()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(req, agent.MaxOffer+1))
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("answer %d %s", status, http.StatusText(status))
	}
	return b, nil
}
