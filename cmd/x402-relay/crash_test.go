package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// kills is how often TestKilled kills the relay.
const kills = 12

// A victim is a relay that charges, as a process that is killed, and who pays it.
type victim struct {
	relayProcess
	port   int
	fac    *facilitator.Client
	tariff toll.Tariff

	key     *channel.Key
	domain  channel.Domain
	config  channel.Config
	account string
	terms   toll.Opened
	// What the relay has answered last, and what it was sent.
	acked toll.Reading
	sent  channel.Amount
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	p := ledger.Params{ChainID: 1<<41 + 11, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
	hs := httptest.NewServer(must(server.New(server.Config{Ledger: ledger.NewMemory(p), Dev: true})))
	t.Cleanup(hs.Close)
	probe := must(net.Listen("tcp", "127.0.0.1:0"))
	v := &victim{relayProcess: relayProcess{t: t, dir: t.TempDir()}, port: probe.Addr().(*net.TCPAddr).Port, fac: must(nethttp.New(nethttp.Config{URL: hs.URL})), key: must(channel.GenerateKey())}
	probe.Close()
	config := fmt.Sprintf(`listen = "127.0.0.1:%d"
[price]
per_gb = "1.00"
[payment]
state_dir = "toll"
facilitator = "%s"
network = "%s"
asset = "%s"
asset_name = "USDC"
asset_version = "2"
pay_to = "%s"
[log]
level = "error"
`, v.port, hs.URL, p.Network(), p.Token, channel.Address{0xbb})
	if err := os.WriteFile(filepath.Join(v.dir, "relay.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return v
}

// A relayProcess is a relay as a process, with relay.toml and all else in dir.
type relayProcess struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd // nil: it does not run
	name relay.Name
}

// start runs it until it is killed, by the end of the test at the latest.
func (p *relayProcess) start() {
	p.t.Helper()
	p.t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
	})
	ready := filepath.Join(p.dir, "ready")
	p.cmd = exec.Command("x402-relay", "run", "--config", filepath.Join(p.dir, "relay.toml"), "--ready-file", ready)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.until("for the relay to run", func() bool {
		var r readiness
		b, err := os.ReadFile(ready)
		if err != nil || json.Unmarshal(b, &r) != nil || r.PID != p.cmd.Process.Pid {
			return false
		}
		p.name = must(relay.ParseName(r.Relay))
		return true
	})
}

// kill kills it with SIGKILL.
func (p *relayProcess) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	_ = p.cmd.Wait() // says that it was killed
	p.cmd = nil
}

func (p *relayProcess) until(what string, ok func() bool) {
	p.t.Helper()
	tick, end := time.NewTicker(5*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			p.t.Fatal("waited in vain " + what)
		}
	}
}

// fund makes the one deposit.
func (v *victim) fund(amount channel.Amount) {
	v.t.Helper()
	ctx := v.t.Context()
	v.domain, v.config = must(v.tariff.Payment.Domain()), v.tariff.Offer(v.name).Channel(v.key.Address())
	must(v.fac.Faucet(ctx, x402.FaucetRequest{Address: v.key.Address(), Amount: amount, Ref: channel.Hash{1}}))
	token := must(v.tariff.Payment.Token())
	must(v.fac.Deposit(ctx, v.tariff.Payment.Network, token, x402.DepositRequest{
		Domain: v.domain, Token: token, Config: v.config, Amount: amount,
		Voucher: v.domain.SignVoucher(v.key, v.id(), 0), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()), Salt: channel.Hash{2},
	}.Sign(v.key)))
}

func (v *victim) id() channel.ID { return v.domain.ID(v.config) }

func (v *victim) hello(c *market.Client) {
	v.t.Helper()
	b := must(toll.Seal(v.key, v.domain, agent.Hello{
		Versions: []int{agent.ProtocolVersion}, Network: v.tariff.Payment.Network, Config: v.config, Price: v.tariff.PriceOf(),
	}))
	answer, err := c.Account(v.t.Context(), market.AccountPath, "", b)
	if err != nil {
		v.t.Fatal(err)
	}
	v.terms = toll.Opened{}
	if err := json.Unmarshal(answer, &v.terms); err != nil {
		v.t.Fatal(err)
	}
	v.account = v.terms.Account
}

// join takes one side's place in a session.
func join(a relay.Allotment) (net.Conn, error) {
	conn, err := net.Dial("tcp", a.Address.String())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(relay.Preamble(a.ID, a.Token)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// use sends bytes down through the relay and pays for them, until it is killed:
// a moment after at least so much is owed.
func (v *victim) use(c *market.Client, least channel.Amount) {
	v.t.Helper()
	timer := time.AfterFunc(time.Hour, func() { _ = v.cmd.Process.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	doom := sync.OnceFunc(func() { timer.Reset(20*time.Millisecond + rand.N(150*time.Millisecond)) })
	if least == 0 {
		doom()
	}
	key := must(channel.GenerateKey())
	sessions := make(chan relay.Allotment, 1)
	conn, err := net.Dial("tcp", v.name.Address())
	if err != nil {
		return
	}
	a, err := relay.DialTCP(v.t.Context(), conn, relay.AgentConfig{
		Name: v.name, Agent: relay.Address(key.Address()), Offer: func() []byte { return []byte(`"none"`) },
		Sign: func(e [32]byte) (relay.Signature, error) {
			return relay.Signature(key.Sign(agent.RelayDigest(e))), nil
		},
		Session: func(a relay.Allotment) { sessions <- a },
	})
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(v.t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	over := make(chan struct{})
	wg.Go(func() {
		defer close(over)
		_ = a.Run(ctx) // it ends with the relay
	})
	mine, err := c.Session(v.t.Context(), market.Request{Agent: relay.Address(key.Address()), Transport: "tcp", Account: v.account})
	if err != nil {
		return
	}
	var theirs relay.Allotment
	select {
	case theirs = <-sessions:
	case <-over: // killed between the two
		return
	}
	buyer, err := join(mine)
	if err != nil {
		return
	}
	defer buyer.Close()
	seller, err := join(theirs)
	if err != nil {
		return
	}
	defer seller.Close()
	base := v.terms.Base
	for received := uint64(0); ; {
		const piece = 20_000
		if _, err := seller.Write(make([]byte, piece)); err != nil {
			return
		}
		if _, err := io.ReadFull(buyer, make([]byte, piece)); err != nil {
			return
		}
		received += piece
		owed := base + channel.Amount(received/1_000)
		v.sent = max(v.sent, owed)
		voucher := v.domain.SignVoucher(v.key, v.id(), v.sent)
		answer, err := c.Account(v.t.Context(), toll.PayPath, v.account, must(json.Marshal(toll.Payment{Received: received, Voucher: &voucher})))
		if err != nil {
			return
		}
		if err := json.Unmarshal(answer, &v.acked); err != nil || v.acked.Paid != v.sent || v.acked.Owed > owed || v.acked.Owed+piece/1_000 < owed || v.acked.Notice != "" {
			// What has arrived may not be counted yet.
			v.t.Errorf("reading %+v, owed %d, paid %d, %v", v.acked, owed, v.sent, err)
		}
		if v.acked.Owed >= least {
			doom()
		}
	}
}

// TestKilled kills the relay again and again while it is paid: no voucher and no
// total that it has answered is forgotten, what is lost beside is within the
// credit, and at the end the ledger balances.
func TestKilled(t *testing.T) {
	const deposit, least = 1_000_000, 100
	v := newVictim(t)
	for n := range kills {
		v.start()
		c := market.New(market.Config{Name: v.name})
		if n == 0 {
			v.tariff = must(toll.Parse(must(c.Toll(t.Context()))))
			v.fund(deposit)
		}
		v.hello(c)
		x := v.terms
		if x.Session != uint64(n+1) || x.Voucher.Max < v.acked.Paid || x.Voucher.Max > v.sent {
			t.Errorf("session %d: the newest voucher is %d, answered was %d, sent %d", x.Session, x.Voucher.Max, v.acked.Paid, v.sent)
		}
		if x.Base < v.acked.Owed || x.Base > v.sent {
			t.Errorf("session %d: the base is %d, answered was %d, sent %d", x.Session, x.Base, v.acked.Owed, v.sent)
		}
		if n == 0 {
			v.use(c, least)
		} else {
			v.use(c, 0) // it may die before anything is owed
		}
		c.Close()
		v.kill()
	}
	v.start()
	c := market.New(market.Config{Name: v.name})
	defer c.Close()
	v.hello(c)
	if v.acked.Owed < least {
		t.Errorf("only %d were owed", v.acked.Owed)
	}
	var closed toll.Closed
	for closed.Pending = true; closed.Pending; {
		closed = toll.Closed{}
		answer := must(c.Account(t.Context(), toll.ClosePath, v.account, must(json.Marshal(toll.Closing{Refund: true}))))
		if err := json.Unmarshal(answer, &closed); err != nil {
			t.Fatal(err)
		}
	}
	if closed.Error != "" || closed.Claimed != v.terms.Base || closed.Claimed+closed.Refunded != deposit {
		t.Errorf("closed %+v, owed %d", closed, v.terms.Base)
	}
	if got := must(v.fac.Balance(t.Context(), v.tariff.Payment.Network, v.key.Address())); got.Balance != closed.Refunded {
		t.Errorf("the payer has %d, refunded are %d", got.Balance, closed.Refunded)
	}
}
