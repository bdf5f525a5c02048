package ledger

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/depinsim/x402/channel"
)

// Memory is a home that keeps everything in memory, for tests and for
// replaying a journal. It is safe for concurrent use.
type Memory struct {
	mu      sync.Mutex
	state   State // all records
	journal []Entry
	intents map[channel.Hash]uint64
}

// NewMemory returns an empty ledger.
func NewMemory(p Params) *Memory {
	return &Memory{state: NewState(p), intents: map[channel.Hash]uint64{}}
}

// Params returns what the ledger was created with.
func (m *Memory) Params() Params { return m.state.Params } // never written after NewMemory

// Submit runs tx; see [Execute].
func (m *Memory) Submit(ctx context.Context, tx Tx) (Receipt, error) {
	if err := ctx.Err(); err != nil {
		return Receipt{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return Execute(m.state.Params, (*memoryView)(m), tx)
}

// Read returns a snapshot of the records named.
func (m *Memory) Read(_ context.Context, t Touch) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return (*memoryView)(m).Load(t)
}

// Audit recomputes the ledger from its journal; see [Replay].
func (m *Memory) Audit(ctx context.Context) (Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Replay(ctx, m.state, func(yield func(Entry, error) bool) {
		for _, e := range m.journal {
			if !yield(e, nil) {
				return
			}
		}
	})
}

// memoryView is Memory with its lock held.
type memoryView Memory

func (m *memoryView) Load(t Touch) (State, error) {
	s := NewState(m.state.Params)
	s.Totals = m.state.Totals
	for _, k := range t.Accounts {
		copyRecord(s.Accounts, m.state.Accounts, k)
	}
	for _, k := range t.Receivers {
		copyRecord(s.Receivers, m.state.Receivers, k)
	}
	for _, k := range t.Channels {
		copyRecord(s.Channels, m.state.Channels, k)
	}
	for _, k := range t.Nonces {
		copyRecord(s.Nonces, m.state.Nonces, k)
	}
	return s, nil
}

func copyRecord[K comparable, V any](dst, src map[K]V, k K) {
	if v, ok := src[k]; ok {
		dst[k] = v
	}
}

func (m *memoryView) Height(intent channel.Hash) (uint64, error) { return m.intents[intent], nil }

func (m *memoryView) Entry(height uint64) (Entry, error) {
	if height == 0 || height > uint64(len(m.journal)) {
		return Entry{}, fmt.Errorf("no such height")
	}
	return m.journal[height-1], nil
}

func (m *memoryView) Store(s State, e Entry, intent channel.Hash) error {
	m.state.Totals = s.Totals
	maps.Copy(m.state.Accounts, s.Accounts)
	maps.Copy(m.state.Receivers, s.Receivers)
	maps.Copy(m.state.Channels, s.Channels)
	maps.Copy(m.state.Nonces, s.Nonces)
	m.journal = append(m.journal, e)
	m.intents[intent] = s.Totals.Height
	return nil
}
