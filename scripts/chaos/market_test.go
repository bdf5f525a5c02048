package chaos

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
)

// What the market is like.
const (
	perGB   = 4_000_000 // atomic units, both directions
	creditA = 5_000     // the agent's cap: what one who has paid may owe
	funds   = 1_000_000_000
)

// A market is the three programs, the traffic through them and what was seen of
// them so far.
type market struct {
	ctx context.Context
	t   *testing.T
	rng *rand.Rand
	dir string
	bin string
	// agentBin is the agent's program if it is not the one in bin.
	agentBin string
	hub      *hub
	work     sync.WaitGroup

	traffic  *traffic
	stopWeb  context.CancelFunc
	stopUse  context.CancelFunc
	using    sync.WaitGroup
	settling sync.WaitGroup

	bank, agent, buyer *program
	bankAddr           string
	url                string
	fac                *facilitator.Client
	token              channel.Token
	network            string
	payTo              channel.Address
	domain             channel.Domain
	offer              agent.Offer

	wallets    []*wallet // the last is in use
	seen       seen
	agentKills int
	closing    bool // the buyer was asked to end
}

// A wallet is one buyer's: its key, its files and what was seen of it.
type wallet struct {
	key     *channel.Key
	id      channel.ID
	dir     string
	funded  channel.Amount
	retired bool                         // its deposit is being withdrawn
	kills   int                          // of its buyers
	seen    map[channel.ID]channel.State // found in its file so far

	mu       sync.Mutex // guards what its process says
	status   buyer.Status
	result   *said
	faults   []string
	accepted channel.Amount // of its vouchers, as the agent said to it
	sessions uint64
	owed     channel.Amount // the most that a buyer said
}

func newMarket(ctx context.Context, t *testing.T, rng *rand.Rand) *market {
	t.Helper()
	dir, err := os.MkdirTemp("", "x402-chaos-") // short: a socket's path must fit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("all files are in %s, and log is what the programs printed", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	m := &market{ctx: ctx, t: t, rng: rng, dir: dir, bin: os.Getenv(binVar), hub: newHub(), seen: newSeen()}
	m.bank = &program{name: "facilitator", hub: m.hub}
	m.agent = &program{name: "agent", hub: m.hub}
	m.buyer = &program{name: "buyer", hub: m.hub, out: m.hear}
	if m.traffic, err = newTraffic(m.hub); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *market) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.hub.tails())
	}
}

// open starts everything.
func (m *market) open() {
	m.t.Helper()
	m.bankAddr = m.freePort("tcp")
	m.startBank()
	s, err := m.fac.Supported(m.ctx)
	m.must(err)
	m.network = s.Networks()[0]
	m.token, err = s.Token(m.network)
	m.must(err)
	m.payTo = channel.Address{0xfe, byte(m.rng.Uint32())}
	m.must(os.WriteFile(m.path("agent.toml"), []byte(m.agentConfig()), 0o600))
	m.startAgent()
	b, err := os.ReadFile(m.path("agent", "offer.json"))
	m.must(err)
	m.offer, err = agent.ParseOffer(b)
	m.must(err)
	m.domain, err = m.offer.Payment.Domain()
	m.must(err)
	m.newWallet()
	m.startBuyer()

	var web, use context.Context
	web, m.stopWeb = context.WithCancel(m.ctx)
	use, m.stopUse = context.WithCancel(web)
	m.work.Go(func() {
		if err := m.traffic.serve(web); err != nil {
			m.t.Error(err)
		}
	})
	seed := m.rng.Uint64()
	m.using.Go(func() {
		if err := m.traffic.use(use, seed); err != nil {
			m.t.Error(err)
		}
	})
}

// end stops what runs in this process; the others end by the cleanup.
func (m *market) end() {
	m.stopUse()
	m.stopWeb()
	for _, p := range []*program{m.buyer, m.agent, m.bank} {
		if p.cmd != nil {
			p.kill()
		}
	}
	m.settling.Wait()
	m.using.Wait()
	m.work.Wait()
	m.must(os.WriteFile(m.path("log"), []byte(m.hub.all()), 0o600))
}

func (m *market) path(names ...string) string { return filepath.Join(m.dir, filepath.Join(names...)) }

// freePort finds a port for a program that is started many times: below those
// that the system gives to others meanwhile.
func (m *market) freePort(network string) string {
	m.t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12_000+m.rng.IntN(20_000))
		if network == "udp" {
			if c, err := net.ListenPacket("udp", addr); err == nil {
				c.Close()
				return addr
			}
		} else if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	m.t.Fatal("no free port")
	return ""
}

func (m *market) agentConfig() string {
	return fmt.Sprintf(`state_dir = "agent"
listen = %q
[log]
level = "info"
[modem]
port = "none"
[price]
per_gb = %q
[payment]
facilitator = %q
network = %q
asset = %q
asset_name = %q
asset_version = %q
pay_to = %q
[credit]
cap = %q
[settle]
every = "1m"
at = "0.02"
[policy]
allow_networks = ["127.0.0.0/8"]
`, m.freePort("udp"), channel.Amount(perGB).USD(), m.url, m.network, m.token.Address, m.token.Name, m.token.Version,
		m.payTo, channel.Amount(creditA).USD())
}

func (m *market) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(m.bin, name), args...)
	cmd.Dir = m.dir
	return cmd
}

func (m *market) startBank() {
	m.t.Helper()
	listening := m.hub.line(m.bank.name, "listening on ")
	m.bank.start(m.t, m.command("x402-facilitator", "run", "--dir", "ledger", "--listen", m.bankAddr, "--dev"))
	m.await(m.bank, listening)
	if m.fac == nil {
		m.url = "http://" + m.bankAddr
		var err error
		m.fac, err = nethttp.New(nethttp.Config{URL: m.url})
		m.must(err)
	}
}

func (m *market) startAgent() {
	m.t.Helper()
	selling := m.hub.line(m.agent.name, "msg=selling")
	cmd := m.command("x402-agent", "run", "--config", "agent.toml")
	if m.agentBin != "" {
		cmd.Path = m.agentBin
	}
	m.agent.start(m.t, cmd)
	m.await(m.agent, selling)
}

// await waits for a line of a program that has just been started.
func (m *market) await(p *program, line func(*hub) bool) {
	m.t.Helper()
	ready := false
	m.hub.reach(m.ctx, 0, func(h *hub) bool { ready = line(h); return ready || h.gone(p) })
	if !ready {
		m.t.Fatalf("%s does not start: %v\n%s", p.name, context.Cause(m.ctx), m.hub.tails())
	}
}

func (m *market) wallet() *wallet { return m.wallets[len(m.wallets)-1] }

// newWallet makes a buyer who was never here, with money.
func (m *market) newWallet() {
	m.t.Helper()
	key, err := channel.GenerateKey()
	m.must(err)
	w := &wallet{key: key, dir: m.path(fmt.Sprintf("wallet%d", len(m.wallets))), funded: funds, seen: map[channel.ID]channel.State{}}
	m.must(os.Mkdir(w.dir, 0o700))
	w.id = m.domain.ID(m.offer.Channel(key.Address()))
	_, err = m.fac.Faucet(m.ctx, x402.FaucetRequest{Address: key.Address(), Amount: funds, Ref: channel.Hash(w.id)})
	m.must(err)
	m.wallets = append(m.wallets, w)
}

// startBuyer starts the buyer of the newest wallet. It returns at once: traffic
// waits for it.
func (m *market) startBuyer() {
	m.t.Helper()
	w := m.wallet()
	c, err := json.Marshal(buyerConfig{
		Key: hex.EncodeToString(w.key.Bytes()), Store: filepath.Join(w.dir, "channels.db"), Signed: filepath.Join(w.dir, "signed"),
		Offer: m.path("agent", "offer.json"), Budget: funds / 2, Deposit: []channel.Amount{100_000, 400_000, 3_000_000}[m.rng.IntN(3)],
	})
	m.must(err)
	self, err := os.Executable()
	m.must(err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), buyerVar+"="+string(c))
	for _, ln := range []*net.TCPListener{m.traffic.socks, m.traffic.http} {
		f, err := ln.File()
		m.must(err)
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	w.mu.Lock()
	w.status, w.result = buyer.Status{}, nil
	w.mu.Unlock()
	m.buyer.start(m.t, cmd)
}

// hear takes in a line of the buyer's output. What it once said was carried and
// paid may not become less while its process lives.
func (m *market) hear(line string) {
	var l said
	if err := json.Unmarshal([]byte(line), &l); err != nil {
		return // cut off by the kill
	}
	w := m.wallet()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case l.Result != nil:
		w.result = &l
	case l.Status != nil:
		w.faults = append(w.faults, fell(w.status, *l.Status)...)
		w.status = *l.Status
		w.accepted = max(w.accepted, w.status.Accepted)
		w.sessions = max(w.sessions, w.status.Session)
		w.owed = max(w.owed, w.status.Owed)
	}
}

// settle is the owner's command. It may be cut off.
func (m *market) settle() {
	_, err := seller.DialControl(m.path("agent", "control.sock")).Settle(m.ctx)
	if err != nil && !strings.Contains(err.Error(), "facilitator unavailable") && !m.cut(err) {
		m.t.Errorf("settle: %v", err)
	}
}

// cut is whether an error of the control socket is one of a killed agent.
func (m *market) cut(err error) bool {
	text := err.Error()
	return errors.Is(err, seller.ErrNotRunning) || strings.Contains(text, "EOF") || strings.Contains(text, "reset") || m.ctx.Err() != nil
}

// recover starts what was killed, in any order, and waits until traffic flows
// again.
func (m *market) recover(victims []*program) {
	m.t.Helper()
	before := m.sessions()
	m.rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	for _, v := range victims {
		switch v {
		case m.bank:
			m.startBank()
		case m.agent:
			m.startAgent()
		}
	}
	m.settling.Wait()
	if m.closing && !m.hub.reach(m.ctx, 0, func(h *hub) bool { return h.gone(m.buyer) }) {
		m.t.Fatalf("the buyer does not end\n%s", m.hub.tails())
	}
	m.closing = false
	for deadline := time.Now().Add(patience); ; {
		if m.reviveBuyer() {
			before = 0
		}
		lives := func(h *hub) bool { return m.connected(before, victims) || h.gone(m.buyer) }
		if !m.hub.reach(m.ctx, 0, lives) || time.Now().After(deadline) {
			m.t.Fatalf("the buyer does not come back: %+v\n%s", m.wallet().status, m.hub.tails())
		}
		if !m.hub.gone(m.buyer) {
			break
		}
	}
	m.moved(256 << 10)
	m.compare()
}

func (m *market) sessions() uint64 {
	w := m.wallet()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status.Session
}

// connected is whether the buyer has the session that it should have.
func (m *market) connected(before uint64, victims []*program) bool {
	w := m.wallet()
	w.mu.Lock()
	defer w.mu.Unlock()
	again := w.status.Session > before || len(victims) == 1 && victims[0] == m.bank
	return w.status.State == "connected" && again
}
