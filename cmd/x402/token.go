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
	"slices"
	"strings"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/scripts/demo"
	"github.com/depinsim/x402/tunnel"
)

// tokenFlags are those of token that connect does not have.
type tokenFlags struct{ bytes, close, port string }

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
	fs.StringVar(&f.port, "port", "", "")
	fs.StringVar(&c.logLevel, "log-level", "", "")
	fs.BoolVar(&c.json, "json", false, "")
	fs.DurationVar(&c.timeout, "timeout", 10*time.Second, "")
	if done, err := parse(fs, tokenHelp, args, stdout); done {
		return prefix("token", err)
	}
	do := func() error { return p.buyToken(ctx, f.bytes) }
	switch {
	case f.close != "":
		do = func() error { return p.closeToken(ctx, f.close) }
	case f.port != "":
		do = func() error { return p.tokenPort(ctx, f.port) }
	}
	return prefix("token", do())
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
	tolls, err := p.tollConfig()
	if err != nil {
		return err
	}
	t, err := buyer.BuyToken(ctx, buyer.Config{
		Key: key, Store: store, Offer: p.offer, Salt: salt, MaxPrice: p.maxPrice, Reach: p.reach, Tolls: tolls, Receipts: p.receipts(), Logger: slog.New(p.handler(p.stderr)),
	}, bytes)
	if errors.Is(err, buyer.ErrKept) {
		return withHint(err, "x402 wallet show says what is in the channel; x402 token --close %s gets it back", p.id.String()[:10])
	}
	if err != nil {
		return err
	}
	return p.tellToken(ctx, t)
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
	place
}

// A place is where a client reaches the agent, and how it knows it.
type place struct {
	Endpoint string `json:"endpoint"` // host:port, UDP
	// Within is in how many seconds the endpoint has to be used, which is a
	// relay's port and serves one client; 0: at any time, it is the agent's own.
	Within uint64 `json:"within,omitempty"`
	// KeySHA256 is the hash of the agent's key, of whose certificate nothing else
	// counts, in Base64.
	KeySHA256   string `json:"keySHA256"`
	UDPTemplate string `json:"udpTemplate"` // of RFC 9298
}

// placeOf is the first endpoint of an agent's own or, without any, a relay's port.
func placeOf(ctx context.Context, o agent.Offer) (place, error) {
	w := place{KeySHA256: base64.StdEncoding.EncodeToString(o.TunnelKey[:])}
	if len(o.Endpoints) > 0 {
		w.Endpoint = o.Endpoints[0]
	} else {
		port, within, err := buyer.OpenPort(ctx, o)
		if err != nil {
			return w, err
		}
		w.Endpoint, w.Within = port.String(), uint64(within/time.Second)
	}
	w.UDPTemplate = "https://" + w.Endpoint + tunnel.UDPTemplate
	return w, nil
}

// rows say where the agent is to a client of the token on a channel.
func (w place) rows(g given, short string) [][2]string {
	rows := [][2]string{{"proxy", "https://" + w.Endpoint + ", HTTP/3; the SHA-256 of its key is"}, {"", w.KeySHA256}}
	if w.Within > 0 {
		rows = append(rows, [2]string{"", fmt.Sprintf("a relay's port, for one client that comes within %s; another one by", duration(w.Within))},
			[2]string{"", g.echo("x402 token --port " + short)})
	}
	return append(rows, [2]string{"udp", w.UDPTemplate})
}

func (p *purchase) tellToken(ctx context.Context, t buyer.Token) error {
	token, short := t.TokenGrant.Token, t.Channel.String()[:10]
	s := shownToken{
		Token: token, Authorization: agent.Credentials(token), Bytes: t.Bytes, Price: t.Price, Paid: t.Amount, Deposit: t.Deposit,
		Idle: t.Idle, Channel: t.Channel, Agent: p.offer.Agent,
	}
	pctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var portErr error
	if s.place, portErr = placeOf(pctx, p.offer); portErr != nil { // the token is bought all the same
		portErr = withHint(fmt.Errorf("no relay gives a port for a client: %w", portErr), "try again: x402 token --port %s", short)
	}
	if p.json {
		return errors.Join(portErr, printLine(p.stdout, s))
	}
	rows := [][2]string{
		{"token", token},
		{"bytes", bytesText(t.Bytes) + ", both directions together, as the agent counts them"},
		{"paid", t.Amount.USD() + " USD in advance, of " + t.Deposit.USD() + " deposited; what is not used comes back"},
		{"until", "used up, closed, or not used for " + duration(t.Idle)},
		{"header", "Proxy-Authorization: " + s.Authorization},
	}
	if portErr == nil {
		rows = append(append(rows, s.place.rows(p.given, short)...), [][2]string{
			{"curl", "curl --proxy-http3 --proxy https://" + s.Endpoint + " \\"},
			{"", "    --proxy-user " + agent.TokenUser + ":" + token + " \\"},
			{"", "    --proxy-insecure --proxy-pinnedpubkey sha256//" + s.KeySHA256 + " \\"},
			{"", "    https://example.com/"},
		}...)
	}
	return errors.Join(portErr, printRows(p.stdout, append(rows, [2]string{"close", p.given.echo("x402 token --close " + short)})))
}

// printLine prints v as a line of JSON.
func printLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(w, "%s\n", b)
	}
	return err
}

// named is the channel of a token that is named by itself, or by its channel.
func named(flag, name string) (match string, err error) {
	if id, ok := agent.TokenChannel(name); ok {
		return id.String(), nil
	}
	if err := channelFlag(name); err != nil || name == "all" {
		return "", usage("--%s: %.70q, want a token, or the id of its channel, or the id's beginning such as 0x12ab34cd", flag, name)
	}
	return strings.ToLower(name), nil
}

// tokenPort asks for another port at the relays of a token's agent.
func (p *purchase) tokenPort(ctx context.Context, name string) error {
	match, err := named("port", name)
	if err != nil {
		return err
	}
	if err := p.resolve(); err != nil {
		return err
	}
	if p.timeout <= 0 {
		return usage("--timeout: %v, want more than 0", p.timeout)
	}
	w, err := buyer.LoadWallet(p.places.wallet)
	if err != nil {
		return err
	}
	states, err := p.offers().Channels(w.Address())
	if err != nil {
		return err
	}
	states = slices.DeleteFunc(states, func(s channel.State) bool {
		return s.Config.Salt == (channel.Hash{}) || !strings.HasPrefix(s.ID.String(), match)
	})
	if len(states) != 1 {
		return usage("--port: %d tokens of this wallet have a channel %.70q; x402 wallet show lists channels", len(states), name)
	}
	offer, err := p.offers().Load(states[0])
	if err != nil {
		return err
	}
	pctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	at, err := placeOf(pctx, offer)
	switch {
	case err != nil:
		return err
	case p.json:
		return printLine(p.stdout, at)
	}
	return printRows(p.stdout, at.rows(p.given, states[0].ID.String()[:10]))
}

// closeToken has the agent end a token, named by itself or its channel, and give
// back what is left.
func (p *purchase) closeToken(ctx context.Context, name string) (err error) {
	match, err := named("close", name)
	if err != nil {
		return err
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
	case d.State.Config.Salt == (channel.Hash{}), d.resource.URL != "":
		return withHint(fmt.Errorf("the channel %s is no token's", d.short()), "x402 wallet refund --channel %s gets its deposit back", d.short())
	case d.err != nil:
		return d.err
	case d.State.Balance == d.State.Claimed:
		_, err := fmt.Fprintf(p.stdout, "channel %s: nothing is left in it\n", d.short())
		return err
	}
	return refunder{c, map[channel.ID]bool{}, ways, p.stdout, p.timeout, slog.New(p.handler(p.stderr))}.refund(ctx, d)
}
