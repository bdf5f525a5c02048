package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
)

// listenControl opens the socket for x402 rotate and x402 wallet show, and returns
// what serves it and the orders that come. The state folder's lock is held: nobody else has it.
// Without the socket one buys all the same.
func (p *purchase) listenControl(log *slog.Logger, store channel.Store) (serve func(context.Context) error, orders chan buyer.RotationOrder) {
	ln, err := agent.ListenPrivate(p.control())
	if err != nil {
		log.Warn("x402 rotate and wallet show cannot reach this run", "err", err)
		return func(context.Context) error { return nil }, nil
	}
	orders = make(chan buyer.RotationOrder)
	return func(ctx context.Context) error {
		return errors.Join(buyer.ServeControl(ctx, ln, orders, store), os.Remove(p.control()))
	}, orders
}

// errNotRotated says that the agent was asked and has the address that it had.
var errNotRotated = errors.New("the address was not changed")

func rotate(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var p places
	var yes, asJSON bool
	var price string
	fs := newFlags("rotate")
	p.stateFlag(fs)
	fs.BoolVar(&yes, "yes", false, "")
	fs.StringVar(&price, "price", "", "")
	fs.BoolVar(&asJSON, "json", false, "")
	if done, err := parse(fs, rotateHelp, args, stdout); done {
		return prefix("rotate", err)
	}
	err := p.resolve()
	if err == nil {
		err = p.rotate(ctx, consent{yes, price, stderr}, rotateView{stdout, asJSON})
	}
	return prefix("rotate", err)
}

// A consent says what another address may cost.
type consent struct {
	yes   bool
	price string // USD; "": ask
	out   io.Writer
}

// rotate has the running buyer ask its agent, after its user has agreed to the
// price.
func (p places) rotate(ctx context.Context, c consent, v rotateView) error {
	var most *channel.Amount
	if c.price != "" {
		amount, err := usd("price", c.price)
		if err != nil {
			return err
		}
		most = &amount
	}
	r, err := buyer.OrderRotation(ctx, p.control(), nil)
	switch {
	case err != nil:
		return err
	case r.Error != "":
		return fmt.Errorf("%w: %s", errNotRotated, r.Error)
	case r.Asks == nil:
		return fmt.Errorf("%w: the agent does not change its address for buyers", errNotRotated)
	case most != nil && *r.Asks > *most:
		return fmt.Errorf("%w: the agent asks %s USD, --price allows %s", errNotRotated, r.Asks.USD(), most.USD())
	case most == nil && *r.Asks > 0 && !c.yes:
		if err := c.ask(*r.Asks); err != nil {
			return err
		}
	}
	if r, err = buyer.OrderRotation(ctx, p.control(), r.Asks); err != nil {
		return err
	}
	return v.show(r)
}

// ask asks on the terminal whether the price is right.
func (c consent) ask(price channel.Amount) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return withHint(usage("the agent asks %s USD for another address", price.USD()), "agree to it with --yes, or to what you say with --price")
	}
	fmt.Fprintf(c.out, "The agent asks %s USD for another address. Pay that? [y/N] ", price.USD())
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return fmt.Errorf("%w: you did not agree to %s USD", errNotRotated, price.USD())
	}
	return nil
}

// A rotateView shows what came of it.
type rotateView struct {
	out    io.Writer
	asJSON bool
}

func (v rotateView) show(r buyer.RotationReport) (err error) {
	if v.asJSON {
		e := json.NewEncoder(v.out)
		e.SetIndent("", "  ")
		err = e.Encode(r.Rotated)
	} else if r.Changed {
		_, err = fmt.Fprintf(v.out, "%s is %s now; charged %s USD\n", r.Old, r.New, r.Price.USD())
	}
	if err == nil && !r.Changed {
		err = fmt.Errorf("%w, and nothing was charged: %s", errNotRotated, r.Error)
	}
	return err
}
