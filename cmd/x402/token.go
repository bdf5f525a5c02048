package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/scripts/demo"
	"github.com/depinsim/x402/tunnel"
)

// tokenFlags are those of token that connect does not have.
type tokenFlags struct{ bytes, close string }

func token(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := &purchase{stdout: stdout, stderr: stderr}
	f, c := tokenFlags{}, &p.connectFlags
	fs := newFlags("token")
	c.walletFlags(fs)
	c.stateFlag(fs)
	c.marketFlags.add(fs)
	c.reachFlags.add(fs)
	fs.StringVar(&c.agent, "agent", "", "")
	fs.StringVar(&c.offer, "offer", "", "")
	fs.StringVar(&c.key, "agent-key", "", "")
	fs.StringVar(&f.bytes, "bytes", "", "")
	fs.StringVar(&c.maxPrice, "max-price", "", "")
	fs.StringVar(&f.close, "close", "", "")
	fs.StringVar(&c.logLevel, "log-level", "", "")
	fs.BoolVar(&c.json, "json", false, "")
	fs.DurationVar(&c.timeout, "timeout", 10*time.Second, "")
	if done, err := parse(fs, tokenHelp, args, stdout); done {
		return prefix("token", err)
	}
	if f.close != "" {
		return prefix("token", p.closeToken(ctx, f.close))
	}
	return prefix("token", p.buyToken(ctx, f.bytes))
}

// buyToken checks the flags, buys a token and prints it.
func (p *purchase) buyToken(ctx context.Context, size string) error {
	if err := p.resolve(); err != nil {
		return err
	}
	if err := p.whom(); err != nil {
		return err
	}
	switch {
	case size == "":
		return withHint(usage("--bytes: missing"), "it is how much the token is for, both directions together, such as 500MB")
	case p.connectFlags.maxPrice == "":
		return withHint(usage("--max-price: missing"), "it is the most that a GB may cost, in USD")
	case p.timeout <= 0:
		return usage("--timeout: %v, want more than 0", p.timeout)
	}
	bytes, err := demo.ParseSize(size)
	if err != nil {
		return usage("--bytes: %w", err)
	}
	if bytes < agent.MinTokenBytes {
		return usage("--bytes: %q, want at least %s", size, bytesText(agent.MinTokenBytes))
	}
	if p.maxPrice, err = usd("max-price", p.connectFlags.maxPrice); err != nil {
		return err
	}
	if err := p.setWays(); err != nil {
		return err
	}
	return p.runToken(ctx, uint64(bytes))
}

func (p *purchase) runToken(ctx context.Context, bytes uint64) (err error) {
	if p.wallet, err = buyer.LoadWallet(p.places.wallet); err != nil {
		return err
	}
	store, err := p.openStore()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	key, err := p.open(ctx)
	if err != nil {
		return err
	}
	if len(p.offer.Endpoints) == 0 {
		return withHint(errors.New("the agent has no address of its own: it is reached through relays only, by x402 connect and not by other programs"),
			"x402 offers --json shows which agents have endpoints")
	}
	var salt channel.Hash
	rand.Read(salt[:]) // never fails (Go 1.24)
	if err := p.noteWith(salt); err != nil {
		return err
	}
	rows := [][2]string{
		{"agent", whereText(p.offer)}, {"", p.origin}, {"price", priceText(p.offer.Price, p.maxPrice)}, {"channel", p.id.String()},
	}
	if err := printRows(p.says(), rows); err != nil {
		return err
	}
	t, err := buyer.BuyToken(ctx, buyer.Config{
		Key: key, Store: store, Offer: p.offer, Salt: salt, MaxPrice: p.maxPrice, Reach: p.reach, Logger: slog.New(p.handler(p.stderr)),
	}, bytes)
	if errors.Is(err, buyer.ErrKept) {
		return withHint(err, "x402 wallet show says what is in the channel; x402 token --close %s gets it back", p.id.String()[:10])
	}
	if err != nil {
		return err
	}
	return p.tellToken(t)
}

// A shownToken is what --json prints of a token. Amounts are in atomic units.
type shownToken struct {
	Token string `json:"token"`
	// Authorization is the value of a Proxy-Authorization field.
	Authorization string          `json:"proxyAuthorization"`
	Bytes         uint64          `json:"bytes"` // both directions together
	Price         agent.Price     `json:"price"` // a GB
	Paid          channel.Amount  `json:"paid"`
	Deposit       channel.Amount  `json:"deposit"`
	Idle          uint64          `json:"idle"` // seconds
	Channel       channel.ID      `json:"channel"`
	Agent         channel.Address `json:"agent"`
	Endpoints     []string        `json:"endpoints"` // host:port, UDP
	// KeySHA256 is the hash of the agent's key, of whose certificate nothing else
	// counts, in Base64.
	KeySHA256   string `json:"keySHA256"`
	UDPTemplate string `json:"udpTemplate"` // of RFC 9298
}

func (p *purchase) tellToken(t buyer.Token) error {
	at := p.offer.Endpoints[0]
	s := shownToken{
		Token: t.TokenGrant.Token, Authorization: agent.Credentials(t.TokenGrant.Token), Bytes: t.Bytes, Price: t.Price, Paid: t.Amount, Deposit: t.Deposit,
		Idle: t.Idle, Channel: t.Channel, Agent: p.offer.Agent, Endpoints: p.offer.Endpoints,
		KeySHA256: base64.StdEncoding.EncodeToString(p.offer.TunnelKey[:]), UDPTemplate: "https://" + at + tunnel.UDPTemplate,
	}
	if p.json {
		b, err := json.Marshal(s)
		if err == nil {
			_, err = fmt.Fprintf(p.stdout, "%s\n", b)
		}
		return err
	}
	short := t.Channel.String()[:10]
	return printRows(p.stdout, [][2]string{
		{"token", s.Token},
		{"bytes", bytesText(t.Bytes) + ", both directions together, as the agent counts them"},
		{"paid", t.Amount.USD() + " USD in advance, of " + t.Deposit.USD() + " deposited; what is not used comes back"},
		{"until", "used up, closed, or not used for " + duration(t.Idle)},
		{"proxy", "https://" + at + ", HTTP/3; the SHA-256 of its key is"},
		{"", s.KeySHA256},
		{"udp", s.UDPTemplate},
		{"header", "Proxy-Authorization: " + s.Authorization},
		{"curl", "curl --proxy-http3 --proxy https://" + at + " \\"},
		{"", "    --proxy-user " + agent.TokenUser + ":" + s.Token + " \\"},
		{"", "    --proxy-insecure --proxy-pinnedpubkey sha256//" + s.KeySHA256 + " \\"},
		{"", "    https://example.com/"},
		{"close", p.given.echo("x402 token --close " + short)},
	})
}

// closeToken has the agent end a token, named by itself or its channel, and give
// back what is left.
func (p *purchase) closeToken(ctx context.Context, name string) (err error) {
	match := name
	if id, ok := agent.TokenChannel(name); ok {
		match = id.String()
	} else if err := channelFlag(match); err != nil || match == "all" {
		return usage("--close: %.70q, want a token, or the id of its channel, or the id's beginning such as 0x12ab34cd", name)
	}
	if p.timeout <= 0 {
		return usage("--timeout: %v, want more than 0", p.timeout)
	}
	if err := p.setLevel(); err != nil {
		return err
	}
	c, err := p.places.openCupboard("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	ways, err := p.reachFlags.reach(c.places, p.stderr)
	if err != nil {
		return err
	}
	drawers, err := c.drawers(ctx, match)
	if err != nil {
		return err
	}
	d := drawers[0]
	switch {
	case d.State.Config.Salt == (channel.Hash{}):
		return withHint(fmt.Errorf("the channel %s is no token's", d.short()), "x402 wallet refund --channel %s gets its deposit back", d.short())
	case d.err != nil:
		return d.err
	case d.State.Balance == d.State.Claimed:
		_, err := fmt.Fprintf(p.stdout, "channel %s: nothing is left in it\n", d.short())
		return err
	}
	return refunder{c, ways, p.stdout, p.timeout, slog.New(p.handler(p.stderr))}.refund(ctx, d)
}
