package channel

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// A book holds the states of many channels over one Store, for Payee and
// Payer alike. A change computes the next state, saves it, then shows it to
// readers: disk, then memory, then (by the caller) peer. Changes of one
// channel follow each other; readers never wait for a disk.
type book struct {
	store Store

	mu    sync.Mutex // guards pages, never held across I/O
	pages map[ID]*page
}

// A page is one channel of a book.
type page struct {
	turn  sync.Mutex            // held across a save: one change at a time
	state atomic.Pointer[State] // the newest durable one; nil until the first save
	place int                   // in the order of opening
}

func newBook(store Store) (*book, error) {
	states, err := store.Load()
	if err != nil {
		return nil, err
	}
	b := &book{store: store, pages: make(map[ID]*page)}
	for _, s := range states {
		b.page(s.ID).state.Store(&s)
	}
	return b, nil
}

// page returns the channel's page, adding an empty one if there is none.
func (b *book) page(id ID) *page {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.pages[id]
	if !ok {
		p = &page{place: len(b.pages)}
		b.pages[id] = p
	}
	return p
}

// find returns the channel's page, or nil when it was never saved.
func (b *book) find(id ID) *page {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pages[id]; p != nil && p.state.Load() != nil {
		return p
	}
	return nil
}

// change saves what next makes of the channel's state and returns it. Nothing
// changes when next or the store refuses, and nothing is written when the
// state stays as it is: looking at the ledger must not wear the flash.
func (b *book) change(id ID, next func(State) (State, error)) (State, error) {
	p := b.find(id)
	if p == nil {
		return State{}, &StateError{ReasonUnknown, id, "unknown channel"}
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	was := p.state.Load()
	s, err := next(was.clone())
	if err != nil {
		return State{}, err
	}
	if s.equal(*was) {
		return s, nil
	}
	if err := b.store.Save(s); err != nil {
		return State{}, fmt.Errorf("channel %.10s: %w", id, err)
	}
	s = s.clone()
	p.state.Store(&s)
	return s.clone(), nil
}

// Get returns the newest durable state of a channel. It does not wait for a
// change that is being saved.
func (b *book) Get(id ID) (State, bool) {
	if p := b.find(id); p != nil {
		return p.state.Load().clone(), true
	}
	return State{}, false
}

// All returns the newest durable state of every channel, in the order in
// which they were opened.
func (b *book) All() []State {
	b.mu.Lock()
	pages := make([]*page, 0, len(b.pages))
	for _, p := range b.pages {
		pages = append(pages, p)
	}
	b.mu.Unlock()
	slices.SortFunc(pages, func(a, b *page) int { return cmp.Compare(a.place, b.place) })
	states := make([]State, 0, len(pages))
	for _, p := range pages {
		if s := p.state.Load(); s != nil {
			states = append(states, s.clone())
		}
	}
	return states
}

// Open returns the channel's state; a channel seen for the first time is
// saved, without any balance.
func (b *book) Open(d Domain, c Config) (State, error) {
	fresh, err := NewState(d, c)
	if err != nil {
		return State{}, err
	}
	p := b.page(fresh.ID)
	p.turn.Lock()
	defer p.turn.Unlock()
	if s := p.state.Load(); s != nil {
		return s.clone(), nil
	}
	if err := b.store.Save(fresh); err != nil {
		return State{}, err
	}
	p.state.Store(&fresh)
	return fresh, nil
}

// Observe saves what the ledger says of the channel; see State.Observe.
func (b *book) Observe(id ID, balance, claimed Amount, refundNonce, withdrawAt uint64) (State, error) {
	return b.change(id, func(s State) (State, error) {
		return s.Observe(balance, claimed, refundNonce, withdrawAt)
	})
}

// Note saves the owner's own bytes; see State.Note. A nil note changes
// nothing, an empty one clears it.
func (b *book) Note(id ID, note []byte) (State, error) {
	return b.change(id, func(s State) (State, error) { return s.withNote(note) })
}

// Freeze ends the taking of vouchers, before the channel is closed.
func (b *book) Freeze(id ID) (State, error) { return b.phase(id, Frozen) }

// Thaw lets a frozen channel take vouchers again.
func (b *book) Thaw(id ID) (State, error) { return b.phase(id, Open) }

func (b *book) phase(id ID, phase Phase) (State, error) {
	return b.change(id, func(s State) (State, error) {
		s.Phase = phase
		return s, nil
	})
}

func (s State) equal(o State) bool {
	return s.ID == o.ID && s.Phase == o.Phase &&
		s.Balance == o.Balance && s.Claimed == o.Claimed &&
		s.RefundNonce == o.RefundNonce && s.WithdrawAt == o.WithdrawAt &&
		s.Max == o.Max && s.Signature == o.Signature && bytes.Equal(s.Note, o.Note)
}

func (s State) clone() State {
	s.Note = slices.Clone(s.Note)
	return s
}
