package seller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
)

const (
	tokensFirst = time.Minute // after a start: for what the last run left
	tokensEvery = time.Hour
)

// wakeTokens has tokenLoop look now.
func (s *Seller) wakeTokens() {
	select {
	case s.unused <- struct{}{}:
	default:
	}
}

// tokenLoop makes tokens void that are used up or were not used for long, claims
// what they came to and gives back the rest. What fails is tried again, later
// and later.
func (s *Seller) tokenLoop(ctx context.Context) error {
	retry := retryMin
	timer := time.NewTimer(tokensFirst)
	defer timer.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.unused:
			if failed {
				continue // the timer says when to try again
			}
		case <-timer.C:
		}
		err := s.closeTokens(ctx)
		if failed = err != nil; failed {
			s.log.Warn("a token's deposit was not given back; trying again", "err", err, "after", retry)
			timer.Reset(retry + rand.N(retry/2))
			retry = min(2*retry, retryMax)
		} else {
			retry = retryMin
			timer.Reset(tokensEvery)
		}
	}
}

// closeTokens closes the channels of all tokens that pay for nothing more.
func (s *Seller) closeTokens(ctx context.Context) error {
	var errs error
	for _, state := range s.payee.All() {
		var t agent.Tally
		if t.UnmarshalBinary(state.Note) != nil || t.Prepaid == 0 || t.Void && state.Balance == state.Claimed {
			continue // the settle loop reports what cannot be read
		}
		if !t.Void && t.Prepaid-min(t.Prepaid, t.Up+t.Down) >= leastLeft && s.unusedFor(state.ID) < agent.TokenIdle {
			continue
		}
		err := s.closeToken(ctx, state.ID)
		errs = errors.Join(errs, err)
		if errors.Is(err, facilitator.ErrUnavailable) || ctx.Err() != nil {
			break
		}
	}
	return errs
}

// unusedFor is for how long a token was not used, as far as this run knows.
func (s *Seller) unusedFor(id channel.ID) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.usedAt[id]; ok {
		return time.Since(at)
	}
	return time.Since(s.started)
}

// closeToken makes one token void and closes its channel, unless that is in use.
func (s *Seller) closeToken(ctx context.Context, id channel.ID) error {
	// It holds the channel like a use, so that no session begins meanwhile.
	u := &tokenUse{over: true, stop: func() {}, done: make(chan struct{})}
	s.mu.Lock()
	if s.uses[id] != nil || s.sessions[id] != nil || s.closing {
		s.mu.Unlock()
		return nil // its end wakes the loop
	}
	s.uses[id] = u
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.uses, id)
		delete(s.usedAt, id)
		s.mu.Unlock()
		close(u.done)
	}()
	note, err := s.voidNote(id)
	if err != nil {
		return err
	}
	if _, err := s.payee.Note(id, note); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	state, err := s.observe(ctx, id) // the payer may have taken it back
	if err != nil {
		return err
	}
	state, refunded, err := s.closeOut(ctx, state, true)
	if err != nil {
		return fmt.Errorf("channel %.10s: %w", id, err)
	}
	s.log.Info("token closed", "channel", id, "claimed", state.Claimed, "refunded", refunded)
	return nil
}

// voidNote is the note of a token's channel that says that it is void.
func (s *Seller) voidNote(id channel.ID) ([]byte, error) {
	state, _ := s.payee.Get(id)
	var t agent.Tally
	if err := t.UnmarshalBinary(state.Note); err != nil {
		return nil, err
	}
	if !t.Void {
		s.keepReceipt(state, t) // it says so if it cannot
	}
	t.Void = true
	return t.MarshalBinary()
}
