package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/modem/modemtest"
)

// A guest book is a service that tells everybody where he comes from, again and
// again.
type guestBook struct {
	net.Listener
	work sync.WaitGroup
}

const guestPort = 79

func (s *stage) openGuestBook() *guestBook {
	s.t.Helper()
	ln, err := s.w.Internet.Listen("tcp", netip.AddrPortFrom(s.w.Target, guestPort).String())
	s.must(err)
	g := &guestBook{Listener: ln}
	g.work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.work.Go(func() {
				defer c.Close()
				defer context.AfterFunc(s.ctx, func() { c.Close() })()
				for err == nil { // one answer for each line
					if _, err = bufio.NewReaderSize(c, 16).ReadString('\n'); err == nil {
						_, err = fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).IP)
					}
				}
			})
		}
	})
	s.t.Cleanup(func() {
		ln.Close()
		g.work.Wait()
	})
	return g
}

// A guest is a flow to the guest book through a buyer's proxy.
type guest struct {
	net.Conn
	lines *bufio.Reader
}

func (s *stage) guest(g *guestBook, socks string) (*guest, error) {
	conn, err := s.w.Buyer.DialContext(s.ctx, "tcp", socks)
	if err != nil {
		return nil, err
	}
	if _, err := negotiate(conn, 1, g.Addr()); err != nil {
		conn.Close()
		return nil, err
	}
	s.t.Cleanup(func() { conn.Close() })
	return &guest{conn, bufio.NewReader(conn)}, nil
}

// from asks where the flow comes from.
func (g *guest) from() (string, error) {
	if err := g.SetDeadline(time.Now().Add(soon)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(g); err != nil {
		return "", err
	}
	line, err := g.lines.ReadString('\n')
	return strings.TrimSpace(line), err
}

// onTerminal runs a modem on a terminal until the test ends.
func onTerminal(t *testing.T, c modemtest.Config) (*modemtest.Modem, string) {
	t.Helper()
	m, err := modemtest.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	ready := make(chan struct{})
	tty := filepath.Join(t.TempDir(), "tty")
	running.Go(func() {
		if err := m.RunPTY(ctx, tty, func(string) { close(ready) }); err != nil {
			t.Error(err)
		}
	})
	<-ready
	return m, tty
}

// TestLabTwoSIMs: an agent with two modems sells each by its own interface, both
// legs. When one is unplugged, the other goes on.
func TestLabTwoSIMs(t *testing.T) {
	sims, modems := "", [2]*modemtest.Modem{}
	for i, name := range []string{"one", "two"} {
		var tty string
		modems[i], tty = onTerminal(t, modemtest.Config{})
		sims += fmt.Sprintf("[[sim]]\nname = %q\nmodem.port = %q\npolicy.interface = \"eth%d\"\n", name, tty, i)
	}
	s := newStage(t, casting{relays: 1, rate: 12e6, sims: sims, buyerNAT: 1, agentNAT: 1})
	second, err := s.lab.SecondSIM(s.ctx, s.w, 1)
	s.must(err)
	outside := []string{s.w.AgentRouter.Outside().String(), second.Outside().String()}
	s.within(soon, "both lines are known at the relay by their own ways", func(h *hub) bool {
		found := 0
		for _, l := range h.lines {
			for i, name := range []string{"one", "two"} {
				if l.by == "agent" && strings.Contains(l.text, `msg="known at the relay"`) && strings.Contains(l.text, "sim="+name+" ") && strings.Contains(l.text, "seen_as="+outside[i]+":") {
					found |= 1 << i
				}
			}
		}
		return found == 3
	})
	book := s.openGuestBook()
	var guests [2]*guest
	for i, name := range []string{"one", "two"} {
		socks := fmt.Sprintf("127.0.0.1:108%d", i)
		p := &program{name: "buyer-" + name, hub: s.hub}
		connected := s.hub.line(p.name, "msg=connected session=")
		offer := filepath.Join("agent", "sims", name, "offer.json")
		s.start(p, s.w.Buyer, "x402", "connect", "--offer", offer, "--budget", "10", "--max-price", "10", "--deposit", "1", "--wallet", "wallet",
			"--passphrase-file", "passphrase", "--state", "state-"+name, "--http", "", "--socks", socks, "--json", "--log-level", "debug")
		s.within(soon, p.name+" connects", connected)
		guests[i], err = s.guest(book, socks)
		s.must(err)
		from, err := guests[i].from()
		s.must(err)
		if from != outside[i] {
			t.Errorf("line %s leaves by %s, want %s", name, from, outside[i])
		}
		if i == 1 { // the first cannot end in order: its agent's line is cut
			defer p.stop(s.ctx, t)
		}
	}
	// The first is unplugged: modem and interface are gone.
	modems[0].Unplug()
	if out, err := s.w.Agent.Command(s.ctx, "ip", "link", "delete", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 3 {
		from, err := guests[1].from()
		if err != nil || from != outside[1] {
			t.Fatalf("the second line, when the first is unplugged: %s, %v\n%s", from, err, s.hub.tails())
		}
	}
	other, err := s.guest(book, "127.0.0.1:1081")
	if err != nil {
		t.Fatalf("a new flow of the second line: %v\n%s", err, s.hub.tails())
	}
	if from, err := other.from(); err != nil || from != outside[1] {
		t.Errorf("a new flow of the second line: %s, %v", from, err)
	}
}
