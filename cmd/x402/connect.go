package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/proxy"
	"github.com/depinsim/x402/tunnel/relay"
)

// connectFlags are the flags of connect.
type connectFlags struct {
	places
	marketFlags
	reachFlags
	agent, offer, key                      string
	budget, maxPrice, deposit              string
	socks, http, user, passwordFile, ready string
	logLevel                               string
	strict, keep, json, verifyExit         bool
	networks                               []string
	timeout                                time.Duration
	rotateEvery                            time.Duration
	rotateMost                             string
}

func connect(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var f connectFlags
	fs := newFlags("connect")
	f.walletFlags(fs)
	f.stateFlag(fs)
	f.marketFlags.add(fs)
	f.reachFlags.add(fs)
	fs.StringVar(&f.agent, "agent", "", "")
	fs.StringVar(&f.offer, "offer", "", "")
	fs.StringVar(&f.key, "agent-key", "", "")
	fs.StringVar(&f.budget, "budget", "", "")
	fs.StringVar(&f.maxPrice, "max-price", "", "")
	fs.StringVar(&f.deposit, "deposit", "0.25", "")
	fs.StringVar(&f.socks, "socks", "127.0.0.1:1080", "")
	fs.StringVar(&f.http, "http", "127.0.0.1:8080", "")
	fs.StringVar(&f.user, "user", "", "")
	fs.StringVar(&f.passwordFile, "password-file", "", "")
	fs.StringVar(&f.ready, "ready-file", "", "")
	fs.StringVar(&f.logLevel, "log-level", "", "")
	fs.BoolVar(&f.strict, "strict", false, "")
	fs.BoolVar(&f.keep, "keep", false, "")
	fs.BoolVar(&f.json, "json", false, "")
	f.exitFlags(fs)
	fs.DurationVar(&f.rotateEvery, "rotate-every", 0, "")
	fs.StringVar(&f.rotateMost, "rotate-price", "", "")
	fs.DurationVar(&f.timeout, "timeout", 10*time.Second, "")
	if done, err := parse(fs, connectHelp, args, stdout); done {
		return prefix("connect", err)
	}
	p := &purchase{connectFlags: f, stdout: stdout, stderr: stderr}
	err := p.check()
	if err == nil {
		err = p.run(ctx)
	}
	return prefix("connect", err)
}

// prefix names the command in its error.
func prefix(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

// A purchase is one run of connect.
type purchase struct {
	connectFlags
	budget, maxPrice, deposit channel.Amount
	rotatePrice               channel.Amount
	key                       *channel.Address // the agent's, as the user named it
	relays                    []relay.Name     // where the agent is looked for; none: it is named otherwise
	reach                     buyer.ReachConfig
	proxy                     proxy.Config
	exit                      *buyer.ExitCheck // nil: nobody looks
	level                     slog.Level
	stdout, stderr            io.Writer

	wallet *buyer.Wallet
	offer  agent.Offer
	origin string                 // where the offer is from, and why the agent is trusted
	pin    bool                   // the agent is to be noted
	tolls  map[string]toll.Tariff // of relays that charge, as far as they have said so
	// finding is what relays found of the agent's SIM.
	finding carrier.Finding
	id      channel.ID
	socks   net.Listener // nil: none
	http    net.Listener
}

// check checks the flags.
func (p *purchase) check() (err error) {
	f := p.connectFlags
	if err := p.resolve(); err != nil {
		return err
	}
	if err := p.whom(); err != nil {
		return err
	}
	switch {
	case f.budget == "":
		return withHint(usage("--budget: missing"), "it is the most that this run may cost, in USD; 1.00 is a careful start, and what is not used comes back")
	case f.maxPrice == "":
		return withHint(usage("--max-price: missing"), "it is the most that a GB may cost, in USD; the agent's owner says what he asks, and nothing is bought above it")
	case f.socks == "" && f.http == "":
		return usage("--socks and --http are both left out: nothing could use the tunnel")
	case (f.user == "") != (f.passwordFile == ""):
		return usage("--user and --password-file: set both or neither")
	case f.timeout <= 0:
		return usage("--timeout: %v, want more than 0", f.timeout)
	}
	for _, a := range []struct {
		name, text string
		to         *channel.Amount
	}{{"budget", f.budget, &p.budget}, {"max-price", f.maxPrice, &p.maxPrice}, {"deposit", f.deposit, &p.deposit}} {
		if *a.to, err = usd(a.name, a.text); err != nil {
			return err
		}
		if *a.to == 0 {
			return usage("--%s: want more than 0", a.name)
		}
	}
	if err := p.checkRotation(); err != nil {
		return err
	}
	p.proxy = proxy.Config{Strict: f.strict, User: f.user}
	if f.passwordFile != "" {
		if p.proxy.Password, err = readSecret(f.passwordFile); err != nil {
			return usage("--password-file: %w", err)
		}
	}
	return p.setWays()
}

// leastRotation is the shortest time between two addresses.
const leastRotation = 5 * time.Second

func (p *purchase) checkRotation() (err error) {
	switch {
	case p.rotateEvery == 0 && p.rotateMost == "":
		return nil
	case p.rotateEvery == 0:
		return usage("--rotate-price: how often? Set --rotate-every too")
	case p.rotateEvery < leastRotation:
		return usage("--rotate-every: %v, want at least %v", p.rotateEvery, leastRotation)
	case p.rotateMost == "":
		return withHint(usage("--rotate-price: missing"), "it is the most that another address may cost, in USD; 0 takes those that are free")
	}
	p.rotatePrice, err = usd("rotate-price", p.rotateMost)
	return err
}

// setWays checks which agent it must be, how it is reached and what is logged.
func (p *purchase) setWays() (err error) {
	if text := p.connectFlags.key; text != "" {
		a, err := channel.ParseAddress(text)
		if err != nil {
			return usage("--agent-key: %w", err)
		}
		p.key = &a
	}
	if err := p.setLevel(); err != nil {
		return err
	}
	if p.exit, err = p.exitCheck(); err != nil {
		return err
	}
	p.reach, err = p.reachFlags.reach(p.places, p.stderr)
	return err
}

func (p *purchase) setLevel() error {
	p.level = slog.LevelWarn
	if err := p.level.UnmarshalText([]byte(p.logLevel)); p.logLevel != "" && err != nil {
		return usage("--log-level: %q, want debug, info, warn or error", p.logLevel)
	}
	return nil
}

// run buys until ctx ends or the budget is used up.
func (p *purchase) run(ctx context.Context) (err error) {
	if p.wallet, err = buyer.LoadWallet(p.places.wallet); err != nil {
		return err
	}
	if err := p.listen(); err != nil {
		return err
	}
	defer p.closeListeners()
	store, err := p.openStore()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	key, err := p.open(ctx)
	if err != nil {
		return err
	}
	if err := p.note(); err != nil {
		return err
	}
	if err := p.announce(store); err != nil {
		return err
	}
	return p.buy(ctx, key, store)
}

// open finds the offer, holds it against what the user allows and opens the
// wallet, before anything is noted or said. A wallet that opens without a
// question is opened meanwhile: deriving its key takes longer than the offer.
func (p *purchase) open(ctx context.Context) (*channel.Key, error) {
	var opened sync.WaitGroup
	defer opened.Wait()
	var early *channel.Key
	var keyErr error
	silent := buyer.PassphraseSource{File: p.passphraseFile, Prompt: func(string) (string, error) { return "", buyer.ErrNoPassphrase }}
	opened.Go(func() {
		var passphrase string
		if passphrase, keyErr = silent.Get(); keyErr == nil {
			early, keyErr = p.wallet.Open(passphrase)
		}
	})
	if err := p.findOffer(ctx); err != nil {
		return nil, err
	}
	if o := p.offer; o.Price.Max() > p.maxPrice {
		return nil, fmt.Errorf("%w: the agent asks %s USD per GB, --max-price allows %s", buyer.ErrPrice, o.Price.Max().USD(), p.maxPrice.USD())
	}
	if err := p.findTolls(ctx); err != nil {
		return nil, err
	}
	opened.Wait()
	if ctx.Err() != nil { // before it asks: in raw mode the next Ctrl-C is a key
		return nil, errInterrupted
	}
	if !errors.Is(keyErr, buyer.ErrNoPassphrase) {
		return early, keyErr
	}
	key, err := p.openKey(p.wallet)
	if ctx.Err() != nil {
		return nil, errInterrupted
	}
	return key, err
}

// note remembers what a later command needs: the agent, what its channel was
// opened for, and who keeps the money.
func (p *purchase) note() error { return p.noteWith(channel.Hash{}) }

// noteWith is note for a channel with a salt.
func (p *purchase) noteWith(salt channel.Hash) (err error) {
	if p.pin {
		if err := p.known().Pin(p.agent, p.offer.Agent); err != nil {
			return err
		}
	}
	if err := p.facilitators().Add(p.offer.Payment.Facilitator); err != nil {
		return err
	}
	p.id, err = p.offers().Save(p.wallet.Address(), p.offer, salt)
	return err
}

// listen opens the proxies' ports, so that a port in use is said before
// anything is spent.
func (p *purchase) listen() error {
	for _, l := range []struct {
		name, addr string
		to         *net.Listener
	}{{"socks", p.connectFlags.socks, &p.socks}, {"http", p.connectFlags.http, &p.http}} {
		if l.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", l.addr)
		if err == nil {
			*l.to = ln
			err = p.proxy.CheckListener(ln.Addr())
		}
		if _, open := errors.AsType[*proxy.OpenListenerError](err); open {
			err = usageError{err}
		}
		if err != nil {
			p.closeListeners()
			return fmt.Errorf("--%s: %w", l.name, err)
		}
	}
	return nil
}

// closeListeners does no harm to those that buyer.Run has closed.
func (p *purchase) closeListeners() {
	for _, ln := range []net.Listener{p.socks, p.http} {
		if ln != nil {
			_ = ln.Close() // buyer.Run closes them too
		}
	}
}

// announce says in one block what is about to be bought and spent.
func (p *purchase) announce(store channel.Store) error {
	states, err := store.Load()
	if err != nil {
		return err
	}
	var holds channel.Amount
	for _, s := range states {
		if s.ID == p.id {
			holds = s.Balance - min(s.Balance, max(s.Max, s.Claimed))
		}
	}
	o, pay := p.offer, p.offer.Payment
	first := max(min(p.deposit, p.budget), pay.MinDeposit)
	deposit := fmt.Sprintf("%s USD at a time, by the wallet %s", first.USD(), p.wallet.Address())
	if holds > 0 {
		deposit += ", which has " + holds.USD() + " there"
	}
	back := "what is left comes back at the end"
	if p.keep {
		back = "what is left stays there (--keep)"
	}
	rows := [][2]string{
		{"agent", whereText(o)},
		{"", p.origin},
		{"sim", simText(o.SIM, p.finding)},
		{"price", priceText(o.Price, p.maxPrice)},
		{"", p.tollText()},
		{"budget", budgetText(p.budget, agent.Price{Up: o.Price.Max() + p.dearest()})},
		{"network", fmt.Sprintf("%s, %q %s", pay.Network, pay.AssetName, pay.Asset)},
		{"", "kept by " + pay.Facilitator},
		{"channel", p.id.String()},
		{"deposit", deposit},
		{"", fmt.Sprintf("%s; without the agent it takes %s", back, duration(pay.WithdrawDelay))},
		{"proxies", proxiesText(p.socks, p.http)},
	}
	return printRows(p.says(), rows)
}

// says is where text for people goes: with --json the output is a program's.
func (p *purchase) says() io.Writer {
	if p.json {
		return p.stderr
	}
	return p.stdout
}

func proxiesText(socks, http net.Listener) (text string) {
	if socks != nil {
		text = "socks5://" + socks.Addr().String()
	}
	if http != nil {
		text += " http://" + http.Addr().String()
	}
	return text
}

// buy runs the purchase and its view.
func (p *purchase) buy(ctx context.Context, key *channel.Key, store channel.Store) (err error) {
	v := newView(p.stdout)
	v.json, v.budget, v.given = p.json, p.budget, p.given
	v.aside, v.forced = p.stderr, p.transport != ""
	if fd, ok := terminal(p.stdout); ok && !p.json {
		v.width = func() int { return columns(fd) }
	}
	logs := p.stderr
	if _, ok := terminal(p.stderr); ok && v.width != nil {
		logs = v // one terminal, one writer
	}
	if p.ready != "" {
		if err := removeReady(p.ready); err != nil { // of a run that was killed
			return fmt.Errorf("--ready-file: %w", err)
		}
		v.connected = func(buyer.Status) error { return p.writeReady() }
		defer func() { err = errors.Join(err, removeReady(p.ready)) }()
	}
	cfg := buyer.Config{
		Key: key, Store: store, Offer: p.offer, Budget: p.budget, MaxPrice: p.maxPrice, Deposit: p.deposit, Keep: p.keep,
		SOCKS: p.socks, HTTP: p.http, Proxy: p.proxy, Reach: p.reach, OnStatus: showExit(v, v.status), Exit: p.exit, Tickets: p.tickets(), Receipts: p.receipts(),
		RotateEvery: p.rotateEvery, RotatePrice: p.rotatePrice,
		Logger: slog.New(p.handler(logs)),
	}
	if cfg.Tolls, err = p.tollConfig(); err != nil {
		return err
	}
	control, orders := p.listenControl(cfg.Logger, cfg.Store)
	cfg.Rotations = orders
	bctx, stop := context.WithCancel(ctx)
	defer stop()
	context.AfterFunc(ctx, func() { v.Write([]byte(p.farewell())) })
	vctx, hide := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	g.Go(func() error {
		defer stop() // without a view, by a ready file that cannot be written, it ends in order
		return v.run(vctx)
	})
	g.Go(func() error { return control(vctx) })
	result, err := buyer.Run(bctx, cfg)
	hide()
	return p.conclude(result, v.now, errors.Join(err, g.Wait()))
}

// handler writes what happens as sentences or, when the user asked for a log, as
// one.
func (p *purchase) handler(out io.Writer) slog.Handler {
	if p.logLevel != "" {
		return slog.NewTextHandler(out, &slog.HandlerOptions{Level: p.level})
	}
	return newSentences(out, p.level, p.given)
}

func (p *purchase) farewell() string {
	text := "ending: connections are closed, then what is owed is paid, claimed and the rest refunded"
	if p.keep {
		text = "ending: connections are closed, then what is owed is paid"
	}
	return text + " (again to kill)"
}

// terminal returns w's descriptor if it is a terminal.
func terminal(w io.Writer) (fd int, ok bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

// columns is the terminal's width; 80 if it does not say.
func columns(fd int) int {
	if w, _, err := term.GetSize(fd); err == nil && w > 0 {
		return w
	}
	return 80
}
