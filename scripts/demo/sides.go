package demo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/depinsim/x402/channel"
)

// What the demo's market is like.
const (
	perGB       = 4_000_000 // price of a gigabyte, in atomic units
	gb          = 1_000_000_000
	carrier     = "Demo Mobile"
	imsi        = "001010123456789" // of the test network
	maxPriceUSD = "5.00"
)

// A seller is the agent's side.
type seller struct {
	prog   *program
	argv   []string // of the agent's binary
	config string
	listen string          // host:port; the port is 0 until the agent has taken one
	payTo  channel.Address // where it is paid
}

// A buyer is the buyer's side.
type buyer struct {
	prog        *program
	wallet      string
	passphrase  string // the file that it is in
	address     channel.Address
	socks, http string // addresses of the proxies
	channel     channel.ID
}

func (d *demo) startFacilitator(ctx context.Context) error {
	ready := d.path("facilitator.ready")
	flags := []string{"--ledger", "embedded", "--dev"}
	if d.cfg.Chain != nil {
		flags = append([]string{"--ledger", "evm"}, d.cfg.Chain.Flags...)
	}
	p, err := d.progs.start("facilitator", append([]string{d.command("x402-facilitator"), "run",
		"--dir", d.path("ledger"), "--listen", "127.0.0.1:0", "--ready-file", ready}, flags...)...)
	if err != nil {
		return err
	}
	url, err := p.ready(ctx, ready)
	if err != nil {
		return err
	}
	if d.bank, err = openBank(ctx, p, url); err != nil {
		return err
	}
	verb := "keeps the ledger"
	if d.cfg.Chain != nil {
		verb = "settles on the chain"
	}
	d.say.step("facilitator", "%s %s, at %s", verb, d.bank.network, url)
	return nil
}

func (d *demo) startModem(ctx context.Context) error {
	p, err := d.progs.start("modem", d.command("x402"), "modemsim", "--profile", "quectel",
		"--imsi", imsi, "--operator", carrier, "--link", d.path("tty"))
	if err != nil {
		return err
	}
	d.modem = p
	if err := p.poll(ctx, func() (bool, error) {
		_, err := os.Stat(d.path("tty"))
		return err == nil, nil
	}); err != nil {
		return err
	}
	d.say.step("modem", "plays a Quectel with a SIM of %s, on a pseudo-terminal", carrier)
	return nil
}

// agentConfig is the file of the agent's settings. The policy is the demo's
// own: buyers usually reach public addresses only.
const agentConfig = `state_dir = "agent"
listen = %q

[modem]
port = %q

[price]
per_gb = %q

[payment]
facilitator = %q
network = %q
asset = %q
asset_name = %q
asset_version = %q
pay_to = %q

[policy]
allow_networks = ["127.0.0.0/8"]
`

func (d *demo) startAgent(ctx context.Context) error {
	d.seller = seller{
		argv: append(d.cfg.Runner, d.cfg.Agent), config: d.path("agent.toml"), listen: "127.0.0.1:0",
	}
	if _, err := rand.Read(d.seller.payTo[:]); err != nil {
		return err
	}
	if err := d.runAgent(ctx); err != nil {
		return err
	}
	var offer struct {
		Offer struct {
			SIM       SIM      `json:"sim"`
			Endpoints []string `json:"endpoints"`
		} `json:"offer"`
	}
	// The offer is there at once, and names the SIM when that has been read.
	if err := d.seller.prog.poll(ctx, func() (bool, error) {
		b, err := os.ReadFile(d.path("agent", "offer.json"))
		if err == nil {
			err = json.Unmarshal(b, &offer)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return offer.Offer.SIM.MCC != "", err
	}); err != nil {
		return err
	}
	d.report.SIM = offer.Offer.SIM
	if len(offer.Offer.Endpoints) != 1 {
		return fmt.Errorf("the offer names the endpoints %q", offer.Offer.Endpoints)
	}
	d.seller.listen = offer.Offer.Endpoints[0] // also after the crash
	d.say.step("agent", "sells at %s USD per GB, over the SIM of %s (MCC %s, MNC %s)",
		channel.Amount(perGB).USD(), d.report.SIM.Operator, d.report.SIM.MCC, d.report.SIM.MNC)
	return nil
}

// runAgent writes the agent's settings and starts it on them.
func (d *demo) runAgent(ctx context.Context) error {
	s, t := &d.seller, d.bank.token
	text := fmt.Sprintf(agentConfig, s.listen, d.path("tty"), channel.Amount(perGB).USD(),
		d.bank.url, d.bank.network, t.Address, t.Name, t.Version, s.payTo)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		return err
	}
	ready := d.path("agent.ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, fs.ErrNotExist) { // a killed agent leaves it
		return err
	}
	argv := append(s.argv[:len(s.argv):len(s.argv)], "run", "--config", s.config, "--ready-file", ready)
	var err error
	if s.prog, err = d.progs.start("agent", argv...); err != nil {
		return err
	}
	_, err = s.prog.ready(ctx, ready)
	return err
}

// crashAgent kills the agent and starts it again.
func (d *demo) crashAgent(ctx context.Context) error {
	began := time.Now()
	d.seller.prog.kill()
	if err := d.runAgent(ctx); err != nil {
		return err
	}
	d.report.Crash = Crash{Injected: true, Seconds: seconds(time.Since(began))}
	return nil
}

// askAgent runs a command of the agent's owner and decodes its answer into v.
func (d *demo) askAgent(ctx context.Context, name string, v any) error {
	s := &d.seller
	argv := append(s.argv[:len(s.argv):len(s.argv)], name, "--json", "--config", s.config)
	b, err := d.progs.call(ctx, argv...)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("x402-agent %s: %w", name, err)
	}
	return nil
}

// budget is what the buyer may spend: enough for the file twice, and a dollar.
func (d *demo) budget() channel.Amount {
	return channel.Amount(2*(d.cfg.Bytes/gb+1)*perGB + 1_000_000)
}

func (d *demo) makeWallet(ctx context.Context) error {
	b := &d.buyer
	b.wallet, b.passphrase = d.path("wallet.json"), d.path("passphrase")
	if err := os.WriteFile(b.passphrase, []byte(rand.Text()+"\n"), 0o600); err != nil {
		return err
	}
	place := []string{"--wallet", b.wallet, "--passphrase-file", b.passphrase}
	if _, err := d.progs.call(ctx, append([]string{d.command("x402"), "wallet", "new"}, place...)...); err != nil {
		return err
	}
	var file struct {
		Address string `json:"address"` // 40 digits (Web3 Secret Storage)
	}
	text, err := os.ReadFile(b.wallet)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return err
	}
	if b.address, err = channel.ParseAddress("0x" + strings.TrimPrefix(file.Address, "0x")); err != nil {
		return err
	}
	amount := d.budget() + 1_000_000
	if d.cfg.Chain != nil {
		if err := d.cfg.Chain.Fund(ctx, b.address, amount); err != nil {
			return err
		}
		d.say.step("wallet", "%s got %s USD of the chain's token", b.address, amount.USD())
		return nil
	}
	if _, err := d.progs.call(ctx, d.command("x402"), "wallet", "fund", "--wallet", b.wallet,
		"--facilitator", d.bank.url, "--dev", amount.USD()); err != nil {
		return err
	}
	d.say.step("wallet", "%s got %s USD from the facilitator's faucet", b.address, amount.USD())
	return nil
}

func (d *demo) startBuyer(ctx context.Context) (err error) {
	b := &d.buyer
	ready := d.path("buyer.ready")
	b.prog, err = d.progs.start("buyer", d.command("x402"), "connect", "--offer", d.path("agent", "offer.json"),
		"--budget", d.budget().USD(), "--max-price", maxPriceUSD, "--socks", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--wallet", b.wallet, "--passphrase-file", b.passphrase, "--state", d.path("buyer"),
		"--log-level", "info", "--json", "--ready-file", ready)
	if err != nil {
		return err
	}
	text, err := b.prog.ready(ctx, ready)
	if err != nil {
		return err
	}
	var proxies struct {
		SOCKS string `json:"socks"`
		HTTP  string `json:"http"`
	}
	if err := json.Unmarshal([]byte(text), &proxies); err != nil {
		return err
	}
	b.socks, b.http = proxies.SOCKS, proxies.HTTP
	d.say.step("buyer", "is connected; proxies: socks5://%s http://%s", b.socks, b.http)
	return nil
}

// endBuyer lets the buyer end in order: it pays the rest, and has the channel
// claimed and refunded.
func (d *demo) endBuyer(ctx context.Context) error {
	b := &d.buyer
	if err := b.prog.stop(ctx, os.Interrupt); err != nil {
		return err
	}
	text, err := os.ReadFile(b.prog.out.Name())
	if err != nil {
		return err
	}
	var last struct {
		Result struct {
			Channel  channel.ID     `json:"channel"`
			Up       uint64         `json:"bytesUp"`
			Down     uint64         `json:"bytesDown"`
			Owed     channel.Amount `json:"owed"`
			Signed   channel.Amount `json:"signed"`
			Claimed  channel.Amount `json:"claimed"`
			Refunded channel.Amount `json:"refunded"`
		} `json:"result"`
	}
	if err := json.Unmarshal([]byte(lastLines(text, 1)), &last); err != nil {
		return fmt.Errorf("what x402 connect said last: %w", err)
	}
	r := last.Result
	b.channel = r.Channel
	d.report.Buyer = Buyer{
		BytesUp: r.Up, BytesDown: r.Down,
		Owed: uint64(r.Owed), Signed: uint64(r.Signed), Claimed: uint64(r.Claimed), Refunded: uint64(r.Refunded),
	}
	d.say.step("buyer", "has paid %s USD, and %s of its deposit came back", r.Signed.USD(), r.Refunded.USD())
	return nil
}

// settle lets the agent turn what was claimed into money, and asks it for its
// account.
func (d *demo) settle(ctx context.Context) error {
	var settled struct{}
	if err := d.askAgent(ctx, "settle", &settled); err != nil {
		return err
	}
	var s struct {
		Modem struct {
			Maker, Model, IMSI, Technology string
		} `json:"modem"`
		Earnings struct {
			Channels []struct {
				Sessions uint64 `json:"sessions"`
			} `json:"channels"`
			Up      uint64         `json:"up"`
			Down    uint64         `json:"down"`
			Owed    channel.Amount `json:"owed"`
			Paid    channel.Amount `json:"paid"`
			Claimed channel.Amount `json:"claimed"`
			Lost    uint64         `json:"lost"`
		} `json:"earnings"`
	}
	if err := d.askAgent(ctx, "status", &s); err != nil {
		return err
	}
	e := s.Earnings
	d.report.Agent = Agent{
		BytesUp: e.Up, BytesDown: e.Down, Owed: uint64(e.Owed), Paid: uint64(e.Paid), Claimed: uint64(e.Claimed), BytesLost: e.Lost,
	}
	for _, c := range e.Channels {
		d.report.Agent.Sessions += c.Sessions
	}
	d.report.SIM.Modem, d.report.SIM.IMSI = s.Modem.Maker+" "+s.Modem.Model, s.Modem.IMSI
	if err := d.seller.prog.stop(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	d.say.step("agent", "has claimed %s USD, settled and stopped", e.Claimed.USD())
	return nil
}

func (d *demo) readBefore(ctx context.Context) error {
	return d.bank.before(ctx, &d.report.Ledger, d.buyer.address, d.seller.payTo)
}

func (d *demo) readAfter(ctx context.Context) error {
	if err := d.bank.after(ctx, &d.report.Ledger, d.buyer.address, d.seller.payTo); err != nil {
		return err
	}
	if d.cfg.Chain != nil {
		return d.bank.chainAfter(ctx, &d.report.Ledger, d.buyer.channel)
	}
	return d.bank.totalsAfter(ctx, &d.report.Ledger)
}

func (d *demo) stopRest(ctx context.Context) error {
	return errors.Join(d.modem.stop(ctx, os.Interrupt), d.bank.prog.stop(ctx, syscall.SIGTERM))
}
