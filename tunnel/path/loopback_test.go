package path

import (
	"context"
	"testing"
)

// TestLoopback moves megabytes through sockets of the kernel, and both ends
// to other ports meanwhile.
func TestLoopback(t *testing.T) {
	c := newCouple(t, Config{Addr: "127.0.0.1:0"}, Config{Addr: "127.0.0.1:0"})
	defer c.close()
	c.dial(c.agent.sock.LocalAddr())
	done := make(chan error, 1)
	c.wg.Go(func() { done <- c.rally(30 << 20) })
	for range 5 {
		if err := c.rally(1 << 20); err != nil {
			t.Fatal(err)
		}
		if err := c.buyer.sock.Rebind(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := c.rally(1 << 20); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, _ := c.agent.mover.Route(); got.Port() != addrPort(c.buyer.sock.LocalAddr()).Port() {
		t.Errorf("the agent sends to %v, the buyer is at %v", got, c.buyer.sock.LocalAddr())
	}
}
