package gateway

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel"
)

func TestGuard(t *testing.T) {
	var g guard
	now := time.Unix(1_000_000, 0)
	src := tunnel.SourceOf(netip.MustParseAddr("192.0.2.1"))
	for i := range wrongMost {
		if g.shut(src, now) {
			t.Fatalf("shut after %d", i)
		}
		g.miss(src, now)
	}
	if !g.shut(src, now.Add(wrongTime-1)) || g.shut(src, now.Add(wrongTime)) || g.shut(tunnel.SourceOf(netip.MustParseAddr("192.0.2.2")), now) {
		t.Error("not for that source and that time alone")
	}
	for i := range 3 * maxSources {
		g.miss(tunnel.SourceOf(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})), now)
	}
	if len(g.bad) > maxSources {
		t.Errorf("%d sources", len(g.bad))
	}
}

func TestSource(t *testing.T) {
	for a, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%lo": "fe80::/64",
	} {
		if got := tunnel.SourceOf(netip.MustParseAddr(a)); got.String() != want {
			t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
	if got := tunnel.SourceOf(netip.Addr{}); got.IsValid() {
		t.Error(got)
	}
}

// TestFairListener bounds a source's connections, and takes others when one has
// gone.
func TestFairListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := newFairListener(inner, 2)
	defer ln.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var taken []net.Conn
	for range 2 {
		dial()
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, c)
	}
	third := dial()
	accepted := make(chan net.Conn, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	})
	if n, err := third.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes for one too many", n)
	}
	taken[0].Close()
	taken[0].Close() // gives one place back
	dial()
	if <-accepted == nil {
		t.Error("no connection")
	}
	wg.Wait()
	if n := ln.now[tunnel.SourceOf(netip.MustParseAddr("127.0.0.1"))]; n != 2 {
		t.Errorf("%d places are taken", n)
	}
}
