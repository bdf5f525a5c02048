package server

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// A Toll charges for what sessions pass on. It is safe for concurrent use.
type Toll interface {
	// Account is the account that pays for the session that r asks for. It is nil
	// when nobody does, which was answered then.
	Account(w http.ResponseWriter, r *http.Request) *Account
	// ServeHTTP answers at /v1/relay and below /v1/account.
	http.Handler
}

// An Account is what all sessions of one payer have passed on together, and how
// far they may go. The packet path reserves before it passes on, so that an
// account never goes a byte further. A new one may go nowhere.
type Account struct {
	limit    atomic.Uint64    // of taken
	taken    atomic.Uint64    // passed on, or reserved by the packet path
	passed   [2]atomic.Uint64 // by the side that sent it
	refused  atomic.Uint64    // datagrams and pieces that did not fit
	sessions atomic.Int64
	ended    atomic.Bool
}

// Extend sets how many bytes may pass in all, both directions together.
func (a *Account) Extend(limit uint64) {
	if !a.ended.Load() {
		a.limit.Store(limit)
	}
}

// Passed is how many bytes were passed on to the agent (up) and to the buyer.
func (a *Account) Passed() (up, down uint64) {
	return a.passed[buyerSide].Load(), a.passed[agentSide].Load()
}

// Refused rises while something has to wait for more.
func (a *Account) Refused() uint64 { return a.refused.Load() }

// Sessions is how many the account has.
func (a *Account) Sessions() int { return int(a.sessions.Load()) }

// End lets nothing pass any more; the sessions end within a second.
func (a *Account) End() {
	a.ended.Store(true)
	a.limit.Store(0)
}

// restTime is when the sessions of an account that has ended are over for sure.
const restTime = 1500 * time.Millisecond

// Rest waits until what was on its way when the account ended has been counted.
func (a *Account) Rest(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, restTime)
	defer cancel()
	for up, down := a.Passed(); a.taken.Load() > up+down; up, down = a.Passed() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// reserve takes up to n bytes.
func (a *Account) reserve(n uint64) uint64 {
	for {
		taken, limit := a.taken.Load(), a.limit.Load()
		if taken >= limit {
			return 0
		}
		got := min(n, limit-taken)
		if a.taken.CompareAndSwap(taken, taken+got) {
			return got
		}
	}
}

// settle says what became of reserved bytes: passed of them went from a side.
func (a *Account) settle(side int, reserved, passed uint64) {
	a.passed[side].Add(passed)
	a.taken.Add(passed - reserved) // wraps round as it should
}
