package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/channel"
)

// tokenFlags are those of all of token's verbs.
type tokenFlags struct {
	config, id, amount, price, allow string
	json                             bool
	gift                             gateway.Gift
}

func (t *tokenFlags) define(f *flags) {
	f.StringVar(&t.config, "config", defaultConfig, "")
	f.BoolVar(&t.json, "json", false, "")
	f.StringVar(&t.id, "id", "", "")
	f.StringVar(&t.amount, "usd", "", "")
	f.StringVar(&t.price, "max-price", "", "")
	f.DurationVar(&t.gift.Life, "life", 30*24*time.Hour, "")
	f.StringVar(&t.allow, "allow", "", "")
	f.StringVar(&t.gift.Country, "country", "", "")
	f.StringVar(&t.gift.Carrier, "carrier", "", "")
	f.StringVar(&t.gift.Tech, "tech", "", "")
	f.StringVar(&t.gift.Memo, "memo", "", "")
}

// A tokenVerb is one of token's, with the flags that it takes besides --config
// and --json.
type tokenVerb struct {
	name  string
	flags []string
	run   func(context.Context, *tokenFlags) error
}

// errNoGateway says that a relay's file has no gateway.
var errNoGateway = errors.New("has no gateway: set gateway.wallet")

// token is what the operator of a gateway does with credit while it runs.
func (std stdio) token(ctx context.Context, f *flags, args []string) error {
	verbs := []tokenVerb{
		{"create", []string{"usd", "max-price", "life", "allow", "country", "carrier", "tech", "memo"}, std.tokenCreate},
		{"list", nil, std.tokenList},
		{"close", []string{"id"}, std.tokenClose},
	}
	var t tokenFlags
	t.define(f)
	verb := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	if err := f.parse(args); err != nil {
		return err
	}
	i := slices.IndexFunc(verbs, func(v tokenVerb) bool { return v.name == verb })
	if i < 0 {
		return usage("token: %q? There are create, list and close", verb)
	}
	var wrong []string
	f.Visit(func(g *flag.Flag) {
		if !slices.Contains(append(verbs[i].flags, "config", "json"), g.Name) {
			wrong = append(wrong, "--"+g.Name)
		}
	})
	if wrong != nil {
		return usage("token %s: %s means nothing here", verb, strings.Join(wrong, ", "))
	}
	return verbs[i].run(ctx, &t)
}

// operator talks to the gateway of the relay that runs by the file.
func (t *tokenFlags) operator() (*gateway.Operator, error) {
	file, err := directory.ReadConfigFile(t.config)
	if err != nil {
		return nil, configError{err}
	}
	g := file.Config.Gateway
	if g.Wallet == "" {
		return nil, configError{fmt.Errorf("%s: %w", t.config, errNoGateway)}
	}
	return gateway.NewOperator(g.Gateway.StateDir), nil
}

func (std stdio) tokenCreate(ctx context.Context, t *tokenFlags) (err error) {
	g := t.gift
	if t.amount == "" || t.price == "" {
		return usage("token create: --usd and --max-price are required: how much credit, and the most that a GB may cost")
	}
	if g.Amount, err = channel.ParseUSD(t.amount); err != nil {
		return usage("token create: --usd: %w", err)
	}
	if g.Price, err = channel.ParseUSD(t.price); err != nil {
		return usage("token create: --max-price: %w", err)
	}
	if t.allow != "" {
		g.Allow = strings.Split(t.allow, ",")
	}
	o, err := t.operator()
	if err != nil {
		return err
	}
	c, err := o.Give(ctx, g)
	if err != nil {
		return fmt.Errorf("token create: %w", err)
	}
	if t.json {
		return std.printJSON(c)
	}
	fmt.Fprintf(std.out, "id       %s\n", c.ID)
	for _, p := range c.Proxies {
		fmt.Fprintf(std.out, "proxy    %s\n", p)
	}
	_, err = fmt.Fprintf(std.out, "credit   %s USD, %d bytes or more\nexpires  %s\n", c.Paid.USD(), c.BytesLeft, c.Expires.Format(time.RFC3339))
	return err
}

func (std stdio) tokenList(ctx context.Context, t *tokenFlags) error {
	o, err := t.operator()
	if err != nil {
		return err
	}
	all, err := o.List(ctx)
	if err != nil {
		return fmt.Errorf("token list: %w", err)
	}
	if t.json {
		return std.printJSON(all)
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tPAID\tLEFT\tUP\tDOWN\tEXPIRES\tSTATE\tPAYER")
	for _, c := range all {
		payer := c.Payer
		if payer == "" {
			payer = strings.TrimSpace("given " + printable(c.Memo))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", c.ID, c.Paid.USD(), c.Left.USD(), c.Up, c.Down, c.Expires.Format(time.DateOnly), state(c), payer)
	}
	return w.Flush()
}

// state is how a credit stands, in a word.
func state(c gateway.Credit) string {
	switch {
	case c.Pending:
		return "unpaid"
	case c.Refunding > 0:
		return "refunding"
	case c.Closed:
		return "closed"
	}
	return "open"
}

// printable leaves out what could steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

func (std stdio) tokenClose(ctx context.Context, t *tokenFlags) error {
	if t.id == "" {
		return usage("token close: --id is required: `x402-relay token list` shows it")
	}
	o, err := t.operator()
	if err != nil {
		return err
	}
	c, err := o.Close(ctx, t.id)
	if err != nil {
		return fmt.Errorf("token close: %w", err)
	}
	if t.json {
		return std.printJSON(c)
	}
	text := fmt.Sprintf("closed; %s USD were given back", c.Refunded.USD())
	if c.Refunding > 0 {
		text = fmt.Sprintf("closed; %s USD are being given back, as soon as the facilitator answers", c.Refunding.USD())
	}
	_, err = fmt.Fprintln(std.out, text)
	return err
}

func (std stdio) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, "%s\n", b)
	return err
}
