package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/scripts/netlab"
)

// A stage is the programs in a lab of networks, each where it would be: relays
// and the facilitator in the world, agent and buyer behind NATs of their own.
// lab_flows_test.go is what goes through; the other lab files are the plays.
type stage struct {
	t   *testing.T
	ctx context.Context
	dir string
	hub *hub
	w   *netlab.World
	lab *netlab.Lab

	bank, agent, buyer *program
	relays             []*program
	names              []string // of the relays: HOST:PORT#PIN
	fac                *facilitator.Client
	site               *site

	mu     sync.Mutex // guards what the buyer's process says
	status buyer.Status
	result *buyerResult
}

// buyerResult is the last line of x402 connect --json.
type buyerResult struct {
	buyer.Result
	End   string `json:"end"`
	Error string `json:"error"`
}

// A casting says how a stage is set up.
type casting struct {
	buyerNAT, agentNAT netlab.NAT
	relays             int
	rate               uint64 // of both links, both ways, in bits a second
	agent              string // more of its config, before the sections
	sims               string // tables [[sim]] or [modem], in place of a modem that is none
	// near is for flows to a site in the agent's own network: those to others end
	// when the agent's public address changes.
	near bool
	time time.Duration // that the play may take; 0: labTime
	// What the networks do to UDP, from the beginning.
	buyerPolicy, agentPolicy netlab.Policy
}

const (
	relayPort = 4433
	bankPort  = 8402
	// labTime bounds one play, and soon what should take a moment on a machine
	// that is not busy.
	labTime = 2 * time.Minute
	soon    = 20 * time.Second
)

// newStage builds the networks and starts everything but the buyer.
func newStage(t *testing.T, c casting) *stage {
	t.Helper()
	if err := netlab.Missing(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Parallel()
	ctx, cancel := context.WithTimeoutCause(t.Context(), max(c.time, labTime), errors.New("the play's time is up"))
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "x402-lab-") // short: a socket's path must fit
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, ctx: ctx, dir: dir, hub: newHub()}
	t.Cleanup(s.leave)
	s.build(c)
	s.bank = &program{name: "facilitator", hub: s.hub}
	s.agent = &program{name: "agent", hub: s.hub}
	s.buyer = &program{name: "buyer", hub: s.hub, out: s.hear}
	s.startBank()
	for i := range c.relays {
		s.relays = append(s.relays, &program{name: fmt.Sprintf("relay%d", i), hub: s.hub})
		s.startRelay(i)
	}
	s.must(os.WriteFile(s.path("agent.toml"), []byte(s.agentConfig(c)), 0o600))
	s.startAgent()
	s.fund()
	return s
}

// build makes the networks, and what flows go to.
func (s *stage) build(c casting) {
	s.t.Helper()
	lab, err := netlab.Open(s.ctx)
	s.must(err)
	s.lab = lab
	s.t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			s.t.Error(err)
		}
	})
	shape := &netlab.Shape{Rate: c.rate, Delay: 10 * time.Millisecond}
	s.w, err = lab.World(s.ctx, netlab.WorldConfig{
		BuyerNAT: c.buyerNAT, BuyerUp: shape, BuyerDown: shape,
		AgentNAT: c.agentNAT, AgentUp: shape, AgentDown: shape,
	})
	s.must(err)
	s.must(errors.Join(s.w.BuyerRouter.Police(s.ctx, c.buyerPolicy), s.w.AgentRouter.Police(s.ctx, c.agentPolicy)))
	host, at := s.w.Internet, s.w.Target
	if c.near {
		host, at = s.w.AgentRouter.Namespace, s.w.AgentAddr.Prev()
	}
	s.site, err = openSite(s.w, s.hub, host, at)
	s.must(err)
	s.t.Cleanup(s.site.close)
}

func (s *stage) path(names ...string) string { return filepath.Join(s.dir, filepath.Join(names...)) }

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.hub.tails())
	}
}

// leave removes the files, or keeps them after a failure.
func (s *stage) leave() {
	err := os.RemoveAll(s.dir)
	if s.t.Failed() {
		s.t.Logf("%s has what the programs printed", s.dir)
		err = errors.Join(os.Mkdir(s.dir, 0o700), os.WriteFile(s.path("log"), []byte(s.hub.all()), 0o600))
	}
	if err != nil {
		s.t.Error(err)
	}
}

// start runs one of the commands in a namespace. It outlives the play's time,
// so that it can be ended in order.
func (s *stage) start(p *program, at *netlab.Namespace, args ...string) {
	s.t.Helper()
	args[0] = filepath.Join(os.Getenv(binVar), args[0])
	cmd := at.Command(context.WithoutCancel(s.ctx), args...)
	cmd.Dir = s.dir
	p.start(s.t, cmd)
}

// command runs one of the commands in a namespace to its end.
func (s *stage) command(at *netlab.Namespace, args ...string) {
	s.t.Helper()
	args[0] = filepath.Join(os.Getenv(binVar), args[0])
	cmd := at.Command(s.ctx, args...)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%q: %v: %s", args, err, out)
	}
}

// nft runs a script of nft(8) in a namespace.
func (s *stage) nft(at *netlab.Namespace, script string) {
	s.t.Helper()
	cmd := at.Command(s.ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("nft: %v: %s", err, out)
	}
}

// begun waits for a line of a program that has just been started.
func (s *stage) begun(p *program, line func(*hub) bool) {
	s.t.Helper()
	ready := false
	s.within(soon, p.name+" starts", func(h *hub) bool { ready = ready || line(h); return ready || h.gone(p) })
	if !ready {
		s.t.Fatalf("%s does not start\n%s", p.name, s.hub.tails())
	}
}

// within waits for something to happen, and returns how long it took.
func (s *stage) within(limit time.Duration, what string, cond func(*hub) bool) time.Duration {
	s.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	if !s.hub.reach(ctx, 0, cond) {
		s.t.Fatalf("not within %v: %s\n%s\n%s", limit, what, s.site, s.hub.tails())
	}
	return time.Since(began).Round(time.Millisecond)
}

func (s *stage) startBank() {
	s.t.Helper()
	at := netip.AddrPortFrom(s.w.Relay(3), bankPort).String()
	listening := s.hub.line(s.bank.name, "listening on ")
	s.start(s.bank, s.w.WAN, "x402-facilitator", "run", "--dir", "ledger", "--listen", at, "--dev")
	s.begun(s.bank, listening)
	var err error
	s.fac, err = nethttp.New(nethttp.Config{URL: "http://" + at, HTTP: &http.Client{
		Transport: &http.Transport{DialContext: s.w.WAN.DialContext, DisableKeepAlives: true},
	}})
	s.must(err)
}

func (s *stage) relayAddr(i int) string {
	return netip.AddrPortFrom(s.w.Relay(i), relayPort).String()
}

// startRelay starts one, for the first time or again.
func (s *stage) startRelay(i int) {
	s.t.Helper()
	p, name := s.relays[i], ""
	config := fmt.Sprintf("listen = %q\nkey_file = %q\n[log]\nlevel = \"debug\"\n", s.relayAddr(i), p.name+".key")
	s.must(os.WriteFile(s.path(p.name+".toml"), []byte(config), 0o600))
	p.out = func(line string) { // called before the hub is told
		if n, ok := strings.CutPrefix(line, "relay "); ok {
			name = n
		}
	}
	serving := s.hub.line(p.name, "relay "+s.relayAddr(i))
	s.start(p, s.w.WAN, "x402-relay", "run", "--config", p.name+".toml")
	s.begun(p, serving)
	if len(s.names) == i {
		s.names = append(s.names, name)
	}
}

func (s *stage) agentConfig(c casting) string {
	s.t.Helper()
	supported, err := s.fac.Supported(s.ctx)
	s.must(err)
	network := supported.Networks()[0]
	token, err := supported.Token(network)
	s.must(err)
	names, err := json.Marshal(s.names)
	s.must(err)
	modem := "[modem]\nport = \"none\""
	if c.sims != "" {
		modem = ""
	}
	return fmt.Sprintf(`state_dir = "agent"
relays = %s
%s
[log]
level = "debug"
%s
[price]
per_gb = %q
[payment]
facilitator = "http://%s:%d"
network = %q
asset = %q
asset_name = %q
asset_version = %q
pay_to = %q
[credit]
cap = %q
[policy]
allow_networks = ["198.18.3.0/24", "192.168.2.1/32"]
%s
`, names, c.agent, modem, channel.Amount(perGB).USD(), s.w.Relay(3), bankPort, network, token.Address, token.Name, token.Version,
		channel.Address{0xfe}, channel.Amount(creditA).USD(), c.sims)
}

// startAgent starts it, waits until all relays know it, and returns how long
// that took.
func (s *stage) startAgent() time.Duration {
	s.t.Helper()
	selling := s.hub.line(s.agent.name, "msg=selling")
	known := s.known()
	s.start(s.agent, s.w.Agent, "x402-agent", "run", "--config", "agent.toml")
	s.begun(s.agent, selling)
	return s.within(soon, "the relays know the agent", known)
}

// known is the condition that the agent is known at all relays, from now on.
func (s *stage) known() func(*hub) bool {
	var conds []func(*hub) bool
	for i := range s.relays {
		conds = append(conds, s.hub.line(s.agent.name, "relay="+s.relayAddr(i)+" seen_as="))
	}
	return func(h *hub) bool {
		for len(conds) > 0 && conds[0](h) {
			conds = conds[1:]
		}
		return len(conds) == 0
	}
}

// fund makes a wallet with money.
func (s *stage) fund() {
	s.t.Helper()
	key, err := channel.GenerateKey()
	s.must(err)
	s.must(errors.Join(os.WriteFile(s.path("hex"), fmt.Appendf(nil, "%x\n", key.Bytes()), 0o600),
		os.WriteFile(s.path("passphrase"), []byte("correct horse\n"), 0o600)))
	s.command(s.w.Buyer, "x402", "wallet", "import", "--hex-file", "hex", "--wallet", "wallet", "--passphrase-file", "passphrase")
	_, err = s.fac.Faucet(s.ctx, x402.FaucetRequest{Address: key.Address(), Amount: funds})
	s.must(err)
}

// startBuyer starts x402 connect with more flags, and waits until it is connected.
// It returns how long that took from its first try to connect.
func (s *stage) startBuyer(more ...string) time.Duration {
	s.t.Helper()
	args := append([]string{"x402", "connect", "--offer", "agent/offer.json", "--budget", "100", "--max-price", "10",
		"--deposit", "10", "--wallet", "wallet", "--passphrase-file", "passphrase", "--state", "state", "--http", "",
		"--socks", socksAddr, "--json", "--log-level", "debug"}, more...)
	connected := s.hub.line(s.buyer.name, `msg=connected session=`)
	deposited := s.hub.line(s.buyer.name, `msg=deposited`)
	there := s.hub.line(s.buyer.name, `msg=connected by=`) // with the deposit of an earlier run
	s.start(s.buyer, s.w.Buyer, args...)
	s.begun(s.buyer, func(h *hub) bool { return deposited(h) || there(h) })
	return s.within(soon, "the buyer connects", connected)
}

// hear takes in a line of the buyer's output.
func (s *stage) hear(line string) {
	var l struct {
		buyer.Status
		Result *buyerResult `json:"result"`
	}
	if err := json.Unmarshal([]byte(line), &l); err != nil {
		return // cut off by a kill
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.Result != nil {
		s.result = l.Result
	} else {
		s.status = l.Status
	}
}

// earnings is what the agent says.
func (s *stage) earnings() (e seller.Earnings) {
	s.t.Helper()
	s.must(seller.DialControl(s.path("agent", "control.sock")).Get(s.ctx, "earnings", &e))
	return e
}

// settle ends everything in order. Both sides count what the site did, to the byte, and all is paid and claimed.
func (s *stage) settle() {
	s.t.Helper()
	e := s.finish()
	r, c := s.result, e.Channels[0]
	if r.Up != s.site.in.Load() || r.Down != s.site.out.Load() {
		s.t.Errorf("the buyer counts %d up and %d down, the site: %s", r.Up, r.Down, s.site)
	}
	if c.Lost != 0 {
		s.t.Errorf("%d bytes are lost to the agent", c.Lost)
	}
}

// finish ends everything in order. Both sides agree to the byte, and all is
// paid and claimed.
func (s *stage) finish() seller.Earnings {
	s.t.Helper()
	s.buyer.stop(s.ctx, s.t)
	r, e := s.result, s.earnings()
	if r == nil || r.Error != "" || len(e.Channels) != 1 {
		s.t.Fatalf("the buyer came to %+v, the agent to %+v\n%s", r, e, s.hub.tails())
	}
	c := e.Channels[0]
	least := cost(r.Up + r.Down) // each session rounds up once
	if r.Owed == 0 || r.Owed < least || r.Owed >= least+channel.Amount(c.Sessions) || r.Signed != r.Owed || r.Claimed != r.Owed {
		s.t.Errorf("up %d, down %d: owed %d, signed %d, claimed %d", r.Up, r.Down, r.Owed, r.Signed, r.Claimed)
	}
	if c.Up != r.Up || c.Down != r.Down || c.Owed != r.Owed || c.Paid != r.Signed || c.Claimed != r.Claimed {
		s.t.Errorf("the agent counts %+v, the buyer %+v", c, r)
	}
	s.agent.stop(s.ctx, s.t)
	s.bank.stop(s.ctx, s.t)
	s.command(s.w.WAN, "x402-facilitator", "audit", "--dir", "ledger")
	s.t.Logf("%s; owed, paid and claimed %d", s.site, r.Claimed)
	return e
}
