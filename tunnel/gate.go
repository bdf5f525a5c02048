package tunnel

import (
	"context"
	"sync"
)

// A gate holds a goroutine back while it is shut. The zero gate is open.
type gate struct {
	mu   sync.Mutex
	wait chan struct{} // nil while open; closed by open
	off  bool          // open for good
}

func (g *gate) shut() {
	g.mu.Lock()
	if g.wait == nil && !g.off {
		g.wait = make(chan struct{})
	}
	g.mu.Unlock()
}

func (g *gate) open() {
	g.mu.Lock()
	if g.wait != nil {
		close(g.wait)
		g.wait = nil
	}
	g.mu.Unlock()
}

// remove opens the gate for good.
func (g *gate) remove() {
	g.mu.Lock()
	g.off = true
	g.mu.Unlock()
	g.open()
}

// pass waits while the gate is shut.
func (g *gate) pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		wait := g.wait
		g.mu.Unlock()
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
