package netlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// open returns a lab that is closed when the test ends.
func open(t *testing.T) *Lab {
	t.Helper()
	if err := Missing(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	l, err := Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := namespacesOf(t, l); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	return l
}

func namespacesOf(t *testing.T, l *Lab) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), l.name) {
			names = append(names, e.Name())
		}
	}
	return names
}

func world(t *testing.T, c WorldConfig) *World {
	t.Helper()
	w, err := open(t).World(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A socket is a UDP socket of a test: what fails ends the test, and what does
// not come within seconds fails.
type socket struct {
	t *testing.T
	net.PacketConn
}

func udp(t *testing.T, n *Namespace, address string) socket {
	t.Helper()
	conn, err := n.ListenPacket("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return socket{t, conn}
}

// roomy gives the socket a buffer beyond what the system allows its users.
func (s socket) roomy() {
	s.t.Helper()
	raw, err := s.PacketConn.(*net.UDPConn).SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	}); errors.Join(e, err) != nil {
		s.t.Fatal(e, err)
	}
}

func (s socket) addr() netip.AddrPort { return s.LocalAddr().(*net.UDPAddr).AddrPort() }

func (s socket) send(to netip.AddrPort, text string) {
	s.t.Helper()
	if _, err := s.WriteTo([]byte(text), net.UDPAddrFromAddrPort(to)); err != nil {
		s.t.Fatal(err)
	}
}

func (s socket) receive(want string) netip.AddrPort {
	s.t.Helper()
	b := make([]byte, 2048)
	n, from, err := s.ReadFrom(b)
	if err != nil {
		s.t.Fatalf("waiting for %q: %v", want, err)
	}
	if got := string(b[:n]); got != want {
		s.t.Fatalf("got %q from %v, want %q", got, from, want)
	}
	return from.(*net.UDPAddr).AddrPort()
}

// hear sends a packet one way and returns where it seems to come from.
func hear(from, at socket, text string) netip.AddrPort {
	from.t.Helper()
	from.send(at.addr(), text)
	return at.receive(text)
}

func TestNAT(t *testing.T) {
	for nat := range Symmetric + 1 {
		t.Run(nat.String(), func(t *testing.T) {
			w := world(t, WorldConfig{BuyerNAT: nat})
			host := udp(t, w.Buyer, "0.0.0.0:0")
			one, other := udp(t, w.WAN, w.Relay(0).String()+":0"), udp(t, w.WAN, w.Relay(1).String()+":0")
			a, b := hear(host, one, "to one"), hear(host, other, "to the other")
			public := w.BuyerRouter.Outside()
			if nat == NoNAT {
				public = w.BuyerAddr
			}
			if a.Addr() != public || b.Addr() != public {
				t.Errorf("seen as %v and %v, want %v", a, b, public)
			}
			if kept := a.Port() == host.addr().Port() && b.Port() == a.Port(); kept == (nat == Symmetric) {
				t.Errorf("port %d is seen as %d and %d", host.addr().Port(), a.Port(), b.Port())
			}
			// What is not let in would have come before the answer that is.
			stranger := udp(t, w.WAN, w.Relay(0).String()+":0")
			stranger.send(a, "unasked")
			one.send(a, "answer")
			if nat == NoNAT || nat == FullCone {
				host.receive("unasked")
			}
			host.receive("answer")
		})
	}
}

// TestPunch: both ends punch, the first packet of one of them unasked; all that
// matters is whether the ports that relays see are those that peers see.
func TestPunch(t *testing.T) {
	for _, test := range []struct {
		buyer, agent NAT
		through      bool
	}{
		{PortRestricted, PortRestricted, true},
		{FullCone, FullCone, true},
		{NoNAT, Symmetric, true},
		{PortRestricted, Symmetric, false},
	} {
		t.Run(fmt.Sprintf("%v to %v", test.buyer, test.agent), func(t *testing.T) {
			w := world(t, WorldConfig{BuyerNAT: test.buyer, AgentNAT: test.agent})
			buyer, agent, relay := udp(t, w.Buyer, "0.0.0.0:0"), udp(t, w.Agent, "0.0.0.0:0"), udp(t, w.WAN, w.Relay(0).String()+":0")
			b, a := hear(buyer, relay, "buyer"), hear(agent, relay, "agent")
			buyer.send(a, "punch 1")
			agent.send(b, "punch 2")
			buyer.send(a, "punch 3")
			relay.send(b, "relay to buyer") // behind what has come through
			relay.send(a, "relay to agent")
			got := map[string]bool{}
			for _, end := range []socket{buyer, agent} {
				p := make([]byte, 100)
				for {
					n, _, err := end.ReadFrom(p)
					if err != nil {
						t.Fatal(err)
					}
					if strings.HasPrefix(string(p[:n]), "relay") {
						break
					}
					got[string(p[:n])] = true
				}
			}
			if through := got["punch 2"] && (got["punch 1"] || got["punch 3"] || test.agent == Symmetric); through != test.through {
				t.Errorf("got through: %v", got)
			}
		})
	}
}

func TestLease(t *testing.T) {
	for _, nat := range []NAT{FullCone, PortRestricted, Symmetric} {
		t.Run(nat.String(), func(t *testing.T) {
			w := world(t, WorldConfig{AgentNAT: nat, AgentUp: &Shape{}})
			host, relay := udp(t, w.Agent, "0.0.0.0:0"), udp(t, w.WAN, w.Relay(0).String()+":0")
			before := hear(host, relay, "before")
			leased, err := w.AgentRouter.Lease(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			after := hear(host, relay, "after")
			for end := time.Now().Add(10 * time.Second); after.Addr() == before.Addr() && time.Now().Before(end); {
				after = hear(host, relay, "after") // the kernel drops the old mapping by and by
			}
			if before.Addr() == after.Addr() || after.Addr() != leased || leased != w.AgentRouter.Outside() {
				t.Errorf("before %v, after %v, leased %v", before, after, leased)
			}
			relay.send(before, "to the old one")
			relay.send(after, "to the new one")
			host.receive("to the new one")
		})
	}
	if _, err := world(t, WorldConfig{}).AgentRouter.Lease(t.Context()); err == nil {
		t.Error("a lease without NAT")
	}
}

func TestMoveBuyer(t *testing.T) {
	w := world(t, WorldConfig{BuyerNAT: FullCone})
	relay := udp(t, w.WAN, w.Relay(3).String()+":0")
	hear(udp(t, w.Buyer, w.BuyerAddr.String()+":0"), relay, "before")
	to, err := w.MoveBuyer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	host := udp(t, w.Buyer, to.String()+":0")
	seen := hear(host, relay, "after")
	udp(t, w.WAN, w.Relay(2).String()+":0").send(seen, "unasked")
	host.receive("unasked")
}

func TestPolice(t *testing.T) {
	w := world(t, WorldConfig{BuyerNAT: PortRestricted})
	host, target := udp(t, w.Buyer, "0.0.0.0:0"), udp(t, w.Internet, w.Target.String()+":4433")
	police := func(p Policy) {
		t.Helper()
		if err := w.BuyerRouter.Police(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	hear(host, target, "free")
	police(Policy{BlockUDP: true})
	host.send(target.addr(), "blocked")
	ln, err := w.Internet.Listen("tcp4", w.Target.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := w.Buyer.DialContext(t.Context(), "tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal("TCP is blocked too:", err)
	}
	conn.Close()
	police(Policy{Throttle: map[uint16]uint64{4433: 1000}})
	for i := range 100 { // 16,000 bytes pass at once, 1,000 each second after
		host.send(target.addr(), strings.Repeat("x", 972)+fmt.Sprintf("%04d", i))
	}
	police(Policy{})
	host.send(target.addr(), "free again")
	passed, b := 0, make([]byte, 2048)
	for {
		n, _, err := target.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if string(b[:n]) == "free again" {
			break
		}
		passed++
	}
	if passed < 10 || passed > 50 {
		t.Errorf("%d of 100 packets passed", passed)
	}
}

// TestLink holds a loaded link against what its shape says, and its counts
// against what was sent.
func TestLink(t *testing.T) {
	up := Shape{Rate: 100_000_000, Queue: time.Second, Delay: 20 * ms, Jitter: 5 * ms, Loss: 0.1}
	w := world(t, WorldConfig{AgentUp: &up, AgentDown: &Shape{Delay: 10 * ms}})
	agent, target := udp(t, w.Agent, "0.0.0.0:0"), udp(t, w.Internet, w.Target.String()+":0")
	target.roomy()
	const n, size = 5000, 1000
	sent := make([]time.Time, n)
	for i := range n {
		sent[i] = time.Now()
		agent.send(target.addr(), fmt.Sprintf("%0*d", size, i))
	}
	arrived, last := 0, -1
	b := make([]byte, 2*size)
	settled := func() bool {
		c := w.AgentLink.AB.Counts()
		return c.In == n && c.Out+c.Lost+c.Dropped == n
	}
	for {
		done := settled() // so that what comes after has to be in the socket
		if err := target.SetReadDeadline(time.Now().Add(50 * ms)); err != nil {
			t.Fatal(err)
		}
		k, _, err := target.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) && t.Context().Err() == nil {
			if done {
				break
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var i int
		if _, err := fmt.Sscanf(strings.TrimLeft(string(b[:k-1]), "0")+string(b[k-1:k]), "%d", &i); err != nil || k != size {
			t.Fatalf("%d bytes: %v", k, err)
		}
		if took := time.Since(sent[i]); took < 20*ms {
			t.Fatalf("packet %d took %v", i, took)
		}
		if i <= last {
			t.Fatalf("packet %d after %d", i, last)
		}
		last = i
		arrived++
	}
	c := w.AgentLink.AB.Counts()
	if c.In != n || c.InBytes != n*(size+28) || c.OutBytes != c.Out*(size+28) || c.In != c.Out+c.Lost || arrived != int(c.Out) {
		t.Errorf("%d arrived of %+v", arrived, c)
	}
	if c.Lost < n/10-150 || c.Lost > n/10+150 { // 7 standard deviations
		t.Errorf("%d of %d lost", c.Lost, n)
	}
	if err := target.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	target.send(netip.AddrPortFrom(w.AgentAddr, agent.addr().Port()), "back")
	agent.receive("back")
	if took := time.Since(began); took < 10*ms {
		t.Errorf("back in %v", took)
	}
	w.AgentLink.Set(Shape{Down: true}, Shape{})
	agent.send(target.addr(), "cut")
	for deadline := time.Now().Add(20 * time.Second); w.AgentLink.AB.Counts().Cut == 0; {
		if time.Now().After(deadline) {
			t.Fatal("a link that is down carries packets")
		}
	}
	w.AgentLink.AB.Set(Shape{})
	hear(agent, target, "up again")
}

// TestCommand: a program inside sees only what is inside, has its own id, and is
// gone with the lab.
func TestCommand(t *testing.T) {
	l := open(t)
	n, err := l.Namespace(t.Context(), "host")
	if err != nil {
		t.Fatal(err)
	}
	text, err := n.Command(t.Context(), "ip", "-o", "link").Output()
	if err != nil || strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), " lo:") {
		t.Errorf("%v: %s", err, text)
	}
	cmd := n.Command(context.Background(), "sh", "-c", "echo inside; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil { // else it may be on its way in
		t.Fatalf("%q: %v", line, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended by itself")
	}
	if _, err := l.Namespace(t.Context(), "late"); err == nil {
		t.Error("a closed lab made a namespace")
	}
}

// TestSweep: what a dead process left is removed, what a living one has is not.
func TestSweep(t *testing.T) {
	l := open(t)
	mine, err := l.Namespace(t.Context(), "mine")
	if err != nil {
		t.Fatal(err)
	}
	gone := mine.Command(t.Context(), "true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	left := fmt.Sprintf("%s%d-%d-x-left", prefix, gone.Process.Pid, 1)
	if err := ip(t.Context(), "netns", "add", left); err != nil {
		t.Fatal(err)
	}
	orphan := (&Namespace{left}).Command(t.Context(), "sleep", "1000")
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	// It is there only when ip has become sleep.
	for text := ""; !strings.HasPrefix(text, "sleep"); {
		b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(orphan.Process.Pid), "cmdline"))
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	open(t)
	if err := orphan.Wait(); err == nil {
		t.Error("the orphan ended by itself")
	}
	if _, err := os.Stat(filepath.Join(folder, left)); !errors.Is(err, os.ErrNotExist) {
		t.Error("not removed:", err)
	}
	if got := namespacesOf(t, l); !slices.Equal(got, []string{mine.Name()}) {
		t.Errorf("mine is %q", got)
	}
}

func FuzzDead(f *testing.F) {
	for _, name := range []string{"x402lab-7-77-abc-host", "x402lab-7-78-abc-a-b", "x402lab-8-1-a-b", "x402lab--1-1-a-b", "x402lab-7", "other", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		started := func(pid string) (uint64, error) {
			if pid == "7" {
				return 77, nil
			}
			return 0, os.ErrNotExist
		}
		if got := dead(name, started); got && (!strings.HasPrefix(name, prefix) || strings.HasPrefix(name, prefix+"7-77-")) {
			t.Errorf("dead(%q)", name)
		}
	})
}

// TestOwnThreadLives: a command that was started on a thread outlives the work
// that had the thread for itself later.
func TestOwnThreadLives(t *testing.T) {
	cmd := exec.Command("cat")
	dieWithParent(cmd)
	in, err := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread()
		err = errors.Join(cmd.Start(), onOwnThread(func() error { runtime.UnlockOSThread(); return nil }))
	})
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	// A thread ends a moment after its goroutine.
	echo := bufio.NewReader(out)
	for range 1000 {
		if _, err := io.WriteString(in, "alive\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := echo.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}
