package path

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// readdress gives the NAT another outside address: who was let in is not.
func (w *world) readdress(n *nat, outside string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.nats, n.outside)
	n.outside = netip.MustParseAddr(outside)
	w.nats[n.outside] = n
	n.forget()
}

// TestDoubt has a place at a relay tell its owner of what may concern all that
// goes to relays, and of nothing else.
func TestDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(20 * time.Millisecond)
		n := w.nat("10.1.0.2", "203.0.113.1", true)
		c := newCouple(t, Config{Open: w.host("192.0.2.2")}, Config{Open: w.host("10.1.0.2")})
		defer c.close()
		r := newRelay(w.host("198.51.100.1"), ID{1}, true)
		closed := false
		c.closers = append(c.closers, func() {
			if !closed {
				r.close()
			}
		})
		doubts := make(chan bool, 16)
		side := r.side(1)
		side.Doubt = func(moved bool) { doubts <- moved }
		must[*Binding](t)(c.agent.sock.Bind(c.ctx, side))
		wants := func(when string, within time.Duration, want ...bool) {
			t.Helper()
			time.Sleep(within)
			synctest.Wait()
			var got []bool
			for len(doubts) > 0 {
				got = append(got, <-doubts)
			}
			if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
				t.Errorf("%s: told %v, want %v", when, got, want)
			}
		}
		wants("at rest", 5*time.Minute)
		w.mu.Lock()
		n.forget()
		w.mu.Unlock()
		wants("after the NAT has forgotten the port", time.Minute)
		w.readdress(n, "203.0.113.9")
		wants("with another address", refresh+time.Second, true)
		wants("some time after", 5*time.Minute)
		if err := c.agent.sock.Rebind(context.Background()); err != nil {
			t.Fatal(err)
		}
		wants("with another socket", time.Second, true)
		r.close()
		closed = true
		wants("with a dead relay", refresh+6*time.Second, false)
		wants("some time after", 5*time.Minute)
	})
}
